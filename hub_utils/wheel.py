"""This project's code as one wheel, for a machine that has no checkout of it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from hub_utils.portable.command import UserError
from hub_utils.portable.whole import passing

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("training", "hub_utils", "pyproject.toml", "README.md", "LICENSE")
REQUIREMENTS = "requirements.txt"
# Zip knows no year before it. With one time for all files, equal sources make an equal wheel.
FIRST_OF_1980 = "315532800"


def build_wheel(folder: Path) -> Path:
    """Build the wheel of the checkout that this module belongs to, in `folder`, and return its path.

    Raises:
        UserError: there is no checkout, or pip cannot build from it.
    """
    check_checkout()
    with passing("wheel") as copy:
        _copy_sources(Path(copy))  # setuptools would leave its work in the checkout, and take the last one's along
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), copy]
        if importlib.util.find_spec("setuptools"):
            command.insert(-1, "--no-build-isolation")  # which would download setuptools once more
        environment = os.environ | {"SOURCE_DATE_EPOCH": FIRST_OF_1980, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        built = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    if built.returncode != 0:
        said = (built.stderr.strip() or "it says nothing").splitlines()[-1]
        raise UserError(f"pip cannot build a wheel of {ROOT}: {said}")
    return next(folder.glob("*.whl"))


def check_checkout() -> None:
    """Look for what a wheel is built from, and with.

    Raises:
        UserError: it is missing.
    """
    missing = [name for name in (*SOURCES, REQUIREMENTS) if not (ROOT / name).exists()]
    if missing:
        raise UserError(
            f"the code goes along as a wheel of its sources, and {ROOT} has no {missing[0]}: it is no checkout; "
            "git clone this project, and start the same command in the clone"
        )
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{sys.executable} has no pip, which builds the wheel; python -m ensurepip (or uv pip install pip)"
        )


def requirements() -> list[str]:
    """What the wheel's code imports, a line each; pip leaves alone what is commented out, and so do we."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / REQUIREMENTS).read_text("utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("-e")]


def requirement(name: str) -> str:
    """The line of requirements.txt for this package."""
    return next(line for line in requirements() if re.fullmatch(rf"{name}\b.*", line))


def _copy_sources(copy: Path) -> None:
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, copy)
