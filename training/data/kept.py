"""A data report whose images have not changed stays as it is: nothing is searched and nothing drawn a second time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import cv2

import training
from hub_utils.portable.image_files import SYSTEM_FILES
from training.data.cache import Cache, identity
from training.data.intake import Example, Skipped

DRAWING = ("matplotlib", "numpy", "pillow", "scipy")


class Kept:
    """The report on these images at `output`, as far as it was written before by this code.

    `made_of` is what it says beside the images, as words. What is in an image, its SHA-256 stands for. Whoever edits a
    file of the report, or takes one away, gets all of it anew.
    """

    def __init__(self, output: Path, examples: Iterable[Example], skipped: Iterable[Skipped], made_of: Iterable[str]):
        self._output = output
        digest = hashlib.sha256()
        for each in (*made_of, *_code()):
            digest.update(f"{each}\n".encode())
        for each in examples:
            digest.update(repr((each.path, each.label, each.split, each.group, each.sha256)).encode())
        for each in skipped:
            digest.update(repr((each.path, each.reason)).encode())
        self._inputs = digest.hexdigest()
        self._written = ""

    def said(self) -> str | None:
        """What was said of the report when it was written, if it lies there whole; else None."""
        with Cache.open() as cache:
            known = cache.report(self._inputs)
        return known[1] if known and known[0] == _content(self._output) else None

    def written(self, folder: Path) -> None:
        """Look at the report before it takes its place: there another process may have put its own by the time."""
        self._written = _content(folder)

    def keep(self, said: str) -> None:
        """Remember the report that `written` has seen, and what was said of it."""
        with Cache.open() as cache:
            cache.put_report(self._inputs, self._written, said)


def _code() -> list[str]:
    """What changes with this project and with the libraries that look and draw."""
    here = Path(training.__file__).parent
    modules = [f"{path} {identity(path.stat())}" for path in sorted(here.rglob("*.py"))]
    return [*modules, cv2.__version__, *map(version, DRAWING)]


def _content(folder: Path) -> str:
    """The SHA-256 of names and bytes of all that is in it."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and SYSTEM_FILES.isdisjoint(name.lower().split("/")):
            content = path.read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
