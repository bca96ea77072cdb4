"""A full disk, and a folder that cannot be written to, in one line: which one it is, and how to go on.

Whoever writes reports a full disk in a way of its own: Python by a number, safetensors in words, torch by what it saw.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from training.recipe import UserError, first_line

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ESTALE}
NO_PLACE = {errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}  # of what lies above: a file, say
SAYS_FULL = re.compile(
    r"no space left|not enough space|disk quota|file too large|PytorchStreamWriter failed|unexpected pos", re.I
)
SAYS_REFUSED = re.compile(r"read-only file system|permission denied|input/output error", re.I)
LITTLE = 1_000_000  # bytes; with less than that whatever fails on the way is likely to fail of it


@contextmanager
def writing(folder: Path, goes_on: str, elsewhere: str) -> Iterator[None]:
    """Where the block writes into `folder`, or what lies on the same disk, say in words what keeps it from that.

    `goes_on` is what to do once there is space, or leave to write, `elsewhere` how to write to another place.

    Raises:
        UserError: the disk is full, or something cannot be written; any other error comes through.
    """
    try:
        yield
    except Exception as error:
        said = None if isinstance(error, UserError) else _explained(error, folder, goes_on, elsewhere)
        if said is None:
            raise
        raise UserError(said) from error


def _explained(error: Exception, folder: Path, goes_on: str, elsewhere: str) -> str | None:
    number, text = getattr(error, "errno", None), str(error)
    if number in FULL or SAYS_FULL.search(text) or (number is None and _free(folder) < LITTLE):
        return f"no space left in '{_full_place(error, folder)}'; free some, then {goes_on}"
    name, why = _named(error, folder), getattr(error, "strerror", None) or first_line(error)
    place, own = Path(os.path.abspath(name or "")), Path(os.path.abspath(folder))
    mine = name is not None and (place.is_relative_to(own) or (number in NO_PLACE and place in own.parents))
    if number in REFUSED or mine or SAYS_REFUSED.search(text):
        what = f"written ({why}); {elsewhere}, or put" if mine or name is None else f"opened ({why}); put"
        return f"'{name or folder}' cannot be {what} that right, then {goes_on}"
    return None


def _full_place(error: Exception, folder: Path) -> Path:
    """What the error names, if anything; else what is full, of the folder and the one for temporary files."""
    name = _named(error, folder)
    if name is not None:
        return Path(name).parent
    temporary = Path(tempfile.gettempdir())
    return temporary if _free(temporary) < LITTLE <= _free(folder) else folder


def _named(error: Exception, folder: Path) -> str | None:
    """The path in an error; one of `shutil.rmtree` is relative to nobody knows what, but for `folder` as typed."""
    name = getattr(error, "filename", None)
    name = os.fspath(name) if isinstance(name, str | os.PathLike) else None
    if not name:
        return None
    known = os.path.isabs(name) or os.path.lexists(name) or Path(name) in (folder, *folder.parents)
    return name if known else None


def _free(folder: Path) -> float:
    """Bytes, on the disk where `folder` is or would be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    with suppress(OSError):
        return shutil.disk_usage(there).free
    return float("inf")
