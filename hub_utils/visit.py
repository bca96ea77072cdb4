"""A visit to a model: `visitor.py` in a process, a folder and a cache of its own, as on a machine that never saw us."""

from __future__ import annotations

import json
import os
import re
import site
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from hub_utils.checks import Failed, Model

# All that a visitor gets of the environment, beside the token: what Python, the network and the Hub's client need.
PASSED_ON = re.compile(
    r"PATH|HOME|USERPROFILE|LOCALAPPDATA|APPDATA|SYSTEMROOT|SYSTEMDRIVE|WINDIR|COMSPEC|PATHEXT|TE?MP|TMPDIR|LANG|LC_.*"
    r"|LD_LIBRARY_PATH|DYLD_.*|OMP_NUM_THREADS|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE"
    r"|HF_ENDPOINT|HF_HUB_(OFFLINE|DISABLE_XET|DISABLE_TELEMETRY|ETAG_TIMEOUT|DOWNLOAD_TIMEOUT)",
    re.IGNORECASE,
)


def ask(model: Model, folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    """What `visitor.ask` returns about the model and the golden images, or {"error": ...}; `folder` is empty.

    The repo's own code runs if it is this project's, or with `trust_remote_code`.
    """
    from hub_utils.portable.golden import golden_images

    (folder / "images").mkdir()
    images = [folder / "images" / f"{name}.png" for name in golden_images()]
    for path, image in zip(images, golden_images().values(), strict=True):
        image.save(path)
    code = _code(model)
    trusted = bool(code) and (trust_remote_code or _is_ours(model, code))
    question = {
        "model": model.name,
        "options": ({"revision": model.commit} if model.commit else {})
        | ({"trust_remote_code": True} if trusted else {}),
        "images": [str(path) for path in images],
        "onnx": "onnx/model.onnx" in model.files,
    }
    answer = _visit(question, folder, model)
    if "error" in answer and code and not trusted:
        pinned = f" --revision {model.commit}" if model.commit else ""
        answer["error"] = f"it brings code of others, which is not run; once read: --trust_remote_code{pinned}"
    return answer


def _visit(question: dict[str, Any], folder: Path, model: Model) -> dict[str, Any]:
    """The answer of a process of its own: in an empty folder, with an empty cache, and of secrets the token alone."""
    from tqdm.auto import tqdm

    asked, answered, log = folder / "questions.json", folder / "answers.json", folder / "log.txt"
    asked.write_text(json.dumps([question]), encoding="utf-8")
    (folder / "here").mkdir()
    visitor = [
        sys.executable,
        "-P",
        "-X",
        "utf8",
        str(Path(__file__).with_name("visitor.py")),
        str(asked),
        str(answered),
    ]
    with log.open("wb") as said:
        environment = _environment(folder / "cache", offline=model.commit is None)
        process = subprocess.Popen(
            visitor, cwd=folder / "here", env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    try:
        total = sum(size for name, size in model.files.items() if model.commit and _is_downloaded(name))
        with tqdm(desc="Asking as a visitor", total=total, unit="B", unit_scale=True, leave=False, disable=None) as bar:
            while not _ended(process):
                bar.update(_size(folder / "cache" / "hub") - bar.n)
    finally:
        process.kill()
        process.wait()
    if answered.exists():
        return json.loads(answered.read_text(encoding="utf-8"))[0]
    last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    return {"error": f"the process that asked ended with status {process.returncode}: {last}"}


def _environment(cache: Path, offline: bool) -> dict[str, str]:
    from huggingface_hub import get_token

    kept = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    kept |= {"HF_HOME": str(cache), "HF_TOKEN": get_token() or "", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    kept["PYTHONUSERBASE"] = site.getuserbase()  # libraries that pip installed for this user
    kept["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # of pickles: transformers would ask a Space for it
    return kept | ({"HF_HUB_OFFLINE": "1"} if offline else {})


def _is_downloaded(name: str) -> bool:
    return name == "onnx/model.onnx" or ("/" not in name and PurePosixPath(name).suffix == ".safetensors")


def _ended(process: subprocess.Popen) -> bool:
    """Whether it has, after a fifth of a second at most."""
    try:
        process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return False
    return True


def _size(folder: Path) -> int:
    """Bytes below it, while somebody writes there."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += 0 if path.is_symlink() or path.is_dir() else path.stat().st_size
        except FileNotFoundError:  # renamed just now
            continue
    return total


def _code(model: Model) -> list[str]:
    """What the model's files name as classes of their own: "file.Class", or "owner/repo--file.Class"."""

    def named(values: Any) -> list[str]:
        if isinstance(values, str):
            return [values]
        inside = values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
        return [name for each in inside for name in named(each)]

    def walk(values: Any) -> list[str]:
        if isinstance(values, list):
            return [name for each in values for name in walk(each)]
        if not isinstance(values, dict):
            return []
        return [
            name
            for key, each in values.items()
            for name in (named(each) if key in ("auto_map", "custom_pipelines") else walk(each))
        ]

    found = []
    for name in model.files:
        if name.endswith("config.json") and "/" not in name:
            try:
                found += walk(model.json(name))
            except Failed:  # told elsewhere, if it matters
                continue
    return found


def _is_ours(model: Model, code: list[str]) -> bool:
    """Whether all code that loading the model may run is this project's own modeling file, but for line ends."""

    def lines(path: Path) -> bytes:
        return path.read_bytes().replace(b"\r\n", b"\n")

    ours = {path.name: lines(path) for path in (Path(__file__).parent / "portable").glob("modeling_*.py")}
    brought = [name for name in model.files if name.endswith(".py")]
    elsewhere = [name for name in code if "--" in name]
    return (
        bool(brought)
        and not elsewhere
        and all(name in ours and lines(model.fetch(name)) == ours[name] for name in brought)
    )
