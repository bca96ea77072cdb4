"""Files and folders that are there whole or not at all: the one place in which anything is written.

What is not whole yet has another name in the same folder, one that begins with a dot and ends with `.part`, and is
moved at the end. Whoever is killed leaves it behind; the next who writes into that folder removes it. So it is with
folders of passing things, where the system keeps these.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

PART = re.compile(r".+\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-\w+\.part", re.DOTALL)
MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]  # processes are numbered on each anew
WEEK = 7 * 24 * 3600  # seconds after which nobody is at work on it any more, on whatever machine
WAITS = (0.01, 0.03, 0.1, 0.3, 1.0) if os.name == "nt" else ()  # seconds that a reader on Windows may take to let go
_numbers = count()


@contextmanager
def temporary(target: Path) -> Iterator[Path]:
    """Where a file or folder that is to become `target` may be made; nothing is there yet, and nothing stays.

    Raises:
        OSError: the folder of `target`, which is made if it is not there, cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent)
    # So much of the name fits into the longest that a system takes, whatever letters it has.
    part = target.with_name(f".{target.name[:50]}.{MACHINE}-{os.getpid()}-{next(_numbers)}.part")
    try:
        yield part
    finally:
        _remove(part)


@contextmanager
def whole_path(target: Path) -> Iterator[Path]:
    """The name of a file to write that becomes `target` once the block has ended well; else nothing is left of it.

    It is on the disk before it gets its name. If `target` is a link, the file that it leads to is replaced.
    """
    target = Path(os.path.realpath(target))
    with temporary(target) as part:
        yield part
        to_disk(part)
        move(part, target)


@contextmanager
def replaced(target: Path, binary: bool = False) -> Iterator[IO]:
    """As `whole_path`, an open file: UTF-8 text whose lines end as they are written, or bytes."""
    how = {"mode": "wb"} if binary else {"mode": "w", "newline": "", "encoding": "utf-8"}
    with whole_path(target) as part, part.open(**how) as file:
        yield file


def write_bytes(content: bytes, target: Path) -> None:
    """Write a file of this content."""
    with replaced(target, binary=True) as file:
        file.write(content)


def write_text(text: str, target: Path) -> None:
    """Write a file of UTF-8 text whose lines end as they are."""
    with replaced(target) as file:
        file.write(text)


def write_json(content: Any, target: Path, indent: int = 2) -> None:
    """Write indented JSON.

    Raises:
        ValueError: a number in it is not finite.
    """
    write_text(json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n", target)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `target` once the block has ended well; else it goes.

    What `target` was before is replaced; whether it may be is for the caller to ask. If it is a link, the folder that
    it leads to is replaced. Between the two moves of a replacement there is none; whoever is killed there finds the old
    one back with the next call.
    """
    target = Path(os.path.realpath(target))
    old = target.with_name(f".{target.name}.old")
    if old.exists():
        _remove(old) if target.exists() else os.rename(old, target)
    with temporary(target) as part:
        part.mkdir()
        yield part
        if target.exists():  # no system replaces a folder that is not empty
            move(target, old)
        try:
            move(part, target)
        except OSError:
            if old.exists():
                os.rename(old, target)
            raise
        _remove(old)


def passing(name: str, place: str | None = None) -> TemporaryDirectory:
    """A folder for passing things in `place`, or where the system keeps these; whoever is killed leaves it behind, and
    the next one goes with all that were.
    """
    sweep(Path(place or tempfile.gettempdir()))
    how = {"prefix": f"{name}.{MACHINE}-{os.getpid()}-", "suffix": ".part"}
    return TemporaryDirectory(dir=place, ignore_cleanup_errors=True, **how)  # Windows keeps files that are open


def move(source: Path, target: Path) -> None:
    """Rename a file or folder in place of what may be there; on Windows, wait for those who read that."""
    for wait in WAITS:
        try:
            return os.replace(source, target)
        except PermissionError:
            time.sleep(wait)
    return os.replace(source, target)


def to_disk(path: Path) -> None:
    """Wait until a file, or the files in a folder, would outlast a power cut."""
    for each in path.iterdir() if path.is_dir() else [path]:
        with each.open("rb+") as file:
            os.fsync(file.fileno())


def sweep(folder: Path) -> None:
    """Remove what those who were killed have left in a folder; what others work on stays."""
    with suppress(OSError):  # one that may not be listed
        for name in os.listdir(folder):
            if (part := PART.fullmatch(name)) and _is_left(folder / name, part["machine"], int(part["process"])):
                _remove(folder / name)


def is_part(path: Path) -> bool:
    """Whether it is something that is not whole, by its name."""
    return PART.fullmatch(path.name) is not None


def _is_left(part: Path, machine: str, process: int) -> bool:
    """Whether nobody is at work on it; where that cannot be asked, it is enough that it is old."""
    if machine == MACHINE and os.name != "nt":  # where the question would interrupt that process
        try:
            os.kill(process, 0)
            return False
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # somebody else's
            return False
    with suppress(OSError):
        return time.time() - part.stat().st_mtime > WEEK
    return False


def _remove(path: Path) -> None:
    """A file or folder, as far as the system lets us."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
