"""Strangers for tests: `visitor.py` in a process that cannot import this repository, about many models at once."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from conftest import ROOT

from hub_utils.portable.golden import golden_images


def bare_python(folder: Path, *first: str) -> Path:
    """The interpreter of a virtual environment in `folder` that sees the libraries of this one, and no project in it.

    The site-packages of this one are named in a .pth file, whose own .pth files, those of editable projects, are then
    not read. `first` are requirements that come before them.
    """
    subprocess.run([sys.executable, "-m", "venv", *([] if first else ["--without-pip"]), folder], check=True)
    python = next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists())
    if first:
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *first], check=True)
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "libraries.pth").write_text("\n".join(sorted(here)) + "\n", encoding="utf-8")
    unknown = "import importlib.util as u; assert not u.find_spec('hub_utils') and not u.find_spec('training')"
    subprocess.run([python, "-c", unknown], cwd=folder, env=bare(os.environ), check=True)
    return python


def bare(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what would tell Python of other folders."""
    return {name: value for name, value in environment.items() if not name.startswith("PYTHON")}


def golden_files(folder: Path) -> list[str]:
    """Paths of the golden images, saved there."""
    folder.mkdir(parents=True, exist_ok=True)
    images = golden_images()
    for name, image in images.items():
        image.save(folder / f"{name}.png")
    return [str(folder / f"{name}.png") for name in images]


def question(model: str | Path, images: Sequence[str], onnx: bool = True, **options) -> dict:
    return {"model": str(model), "options": options, "images": list(images), "onnx": onnx}


def ask(python: Path | str, questions: Sequence[dict], folder: Path, environment: dict[str, str]) -> list[dict]:
    """Answers of a process in an empty folder below `folder`; the repository is not on its path."""
    here = folder / "visitor" / "here"
    here.mkdir(parents=True)
    script = shutil.copy(ROOT / "hub_utils" / "visitor.py", here.parent)
    asked, answers = here.parent / "questions.json", here.parent / "answers.json"
    asked.write_text(json.dumps(list(questions)), encoding="utf-8")
    command = [python, "-P", "-X", "utf8", script, asked, answers]
    done = subprocess.run(
        command, cwd=here, env=bare(environment), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(here.iterdir()) == []
    return json.loads(answers.read_text(encoding="utf-8"))


def largest_difference(folder: Path, probabilities: Sequence[Sequence[float]]) -> float:
    """Between the golden answers that `folder`/serving.json stores and those given."""
    stored = json.loads((folder / "serving.json").read_text(encoding="utf-8"))["golden"]["images"]
    pairs = zip(stored, probabilities, strict=True)
    return max(
        abs(one - other) for image, found in pairs for one, other in zip(image["probabilities"], found, strict=True)
    )
