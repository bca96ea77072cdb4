"""A visit to a model: `visitor.py` in a process, a folder and a cache of its own, as on a machine that never saw us."""

from __future__ import annotations

import json
import os
import re
import site
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from hub_utils.checks import ONNX, Failed, Model
from hub_utils.portable.command import UserError

LIMIT = 300.0  # seconds in which a visitor must have got something of the Hub, or have answered

# All that a visitor gets of the environment, beside the token: what Python, the network and the Hub's client need.
PASSED_ON = re.compile(
    r"PATH|HOME|USERPROFILE|LOCALAPPDATA|APPDATA|SYSTEMROOT|SYSTEMDRIVE|WINDIR|COMSPEC|PATHEXT|LANG|LC_.*"
    r"|LD_LIBRARY_PATH|DYLD_.*|OMP_NUM_THREADS|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE"
    r"|HF_ENDPOINT|HF_HUB_(OFFLINE|DISABLE_XET|DISABLE_TELEMETRY|ETAG_TIMEOUT|DOWNLOAD_TIMEOUT)",
    re.IGNORECASE,
)


def ask(model: Model, folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    """What `visitor.ask` returns about the model and the golden images, or {"error": ...}; `folder` is empty.

    The repo's own code runs if it is this project's, or with `trust_remote_code`.

    Raises:
        UserError: for `LIMIT` seconds there was neither an answer nor a byte of the Hub.
    """
    from hub_utils.portable.golden import golden_images

    (folder / "images").mkdir()
    images = []
    for name, image in golden_images().items():
        images.append(folder / "images" / f"{name}.png")
        image.save(images[-1])
    why_not = why_not_run(model, trust_remote_code)
    options = {"revision": model.commit} if model.commit else {}
    question = {
        "model": model.name,
        "options": options | ({"trust_remote_code": True} if _code(model) and not why_not else {}),
        "images": [str(path) for path in images],
        **{name: path in model.files for name, path in ONNX.items()},
    }
    answer = _visit(question, folder, model)
    if "error" in answer and why_not:
        answer["error"] = why_not
    return answer


def _visit(question: dict[str, Any], folder: Path, model: Model) -> dict[str, Any]:
    """The answer of a process of its own: in an empty folder, with an empty cache, and of secrets the token alone."""
    from tqdm.auto import tqdm

    asked, answered, log = folder / "questions.json", folder / "answers.json", folder / "log.txt"
    asked.write_text(json.dumps([question]), encoding="utf-8")
    for name in ("here", "temporary"):
        (folder / name).mkdir()
    script = str(Path(__file__).with_name("visitor.py"))
    visitor = [sys.executable, "-P", "-X", "utf8", script, str(asked), str(answered)]
    with log.open("wb") as said:
        environment = clean_environment(folder, offline=model.commit is None)
        process = subprocess.Popen(
            visitor, cwd=folder / "here", env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    try:
        total = sum(size for name, size in model.files.items() if model.commit and _is_downloaded(name))
        with tqdm(desc="Asking as a visitor", total=total, unit="B", unit_scale=True, leave=False, disable=None) as bar:
            size, since = 0, time.monotonic()
            while not _ended(process):
                bar.update(_size(folder / "cache" / "hub") - bar.n)
                before, size = size, _size(folder / "cache")
                if size != before:
                    since = time.monotonic()
                elif time.monotonic() - since > LIMIT:
                    came = "nothing more came of the Hub, and no" if model.commit else "there was no"
                    raise UserError(f"'{model.name}': {came} answer, for {LIMIT:g} s; the same command again, or later")
    finally:
        process.kill()
        process.wait()
    if answered.exists():
        return json.loads(answered.read_text(encoding="utf-8"))[0]
    last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    return {"error": f"the process that asked ended with status {process.returncode}: {last}"}


def clean_environment(folder: Path, offline: bool) -> dict[str, str]:
    """What a stranger's process gets: caches below `folder`; of secrets the token alone, and none if `offline`."""
    from huggingface_hub import get_token

    kept = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    kept |= {"HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    # torch and others leave something in it.
    kept |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder / "temporary"))
    kept |= {"HF_HUB_OFFLINE": "1"} if offline else {"HF_TOKEN": get_token() or ""}
    kept["PYTHONUSERBASE"] = site.getuserbase()  # libraries that pip installed for this user
    kept["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # of pickles: transformers would ask a Space for it
    return kept


def _is_downloaded(name: str) -> bool:
    return name in ONNX.values() or ("/" not in name and PurePosixPath(name).suffix == ".safetensors")


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


def why_not_run(model: Model, trust_remote_code: bool) -> str | None:
    """Why the model's own code may not run; None if it may, or there is none."""
    code = _code(model)
    elsewhere = [name for name in code if "--" in name]
    if "adapter_config.json" in model.files:  # it names a base model, which is loaded too
        elsewhere.append("adapter_config.json")
    if code and elsewhere:
        return f"it asks for code of another repo ({elsewhere[0]}), which no revision of this one pins: not run"
    named = {f"{name.partition('.')[0]}.py" for name in code if "." in name}
    absent = sorted(named - model.files.keys())
    if absent:
        return f"{absent[0]} is missing, and its config names it; upload it, or export the model anew"
    if code and not trust_remote_code and not _is_ours(model):
        pinned = f" --revision {model.commit}" if model.commit else ""
        return f"it brings code of others, which is not run; once you have read it: --trust_remote_code{pinned}"
    return None


def _code(model: Model) -> list[str]:
    """What the model's files name as classes of their own: "file.Class", or "owner/repo--file.Class"."""
    found = []
    for name in model.files:
        if name.endswith("config.json") and "/" not in name:
            with suppress(Failed):  # told elsewhere, if it matters
                found += _classes(model.json(name))
    return found


def _classes(values: Any, named: bool = False) -> Iterator[str]:
    """The text below `auto_map` and `custom_pipelines`, at any depth."""
    match values:
        case str() if named:
            yield values
        case dict():
            for key, each in values.items():
                yield from _classes(each, named or key in ("auto_map", "custom_pipelines"))
        case list():
            for each in values:
                yield from _classes(each, named)


def _is_ours(model: Model) -> bool:
    """Whether all code in the repo is this project's own modeling file, but for line ends."""

    def lines(path: Path) -> bytes:
        return path.read_bytes().replace(b"\r\n", b"\n")

    ours = {path.name: lines(path) for path in (Path(__file__).parent / "portable").glob("modeling_*.py")}
    brought = [name for name in model.files if name.endswith(".py")]
    return bool(brought) and all(name in ours and lines(model.fetch(name)) == ours[name] for name in brought)
