"""A folder that is written whole or not at all."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from training.recipe import UserError


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, which takes its place once the block has ended well; else it goes.

    What `target` was before is replaced; whether it may be is for the caller to ask. If it is a link, the folder that
    it leads to is replaced.

    Raises:
        UserError: there is no space left, or no leave to write there.
    """
    target = Path(os.path.realpath(target))
    missing = [path for path in target.parents if not path.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
        partial.mkdir()
        try:
            yield partial
            _take_place(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"no space left for '{target}'; free some and say the same again, nothing is there yet"
            ) from error
        raise UserError(
            f"'{error.filename or target}': {error.strerror or error}; nothing was written to '{target}', choose "
            "another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # what has something in it stays
            for path in missing:
                path.rmdir()


def _take_place(partial: Path, target: Path) -> None:
    """Rename, with what stood there out of the way first: no system replaces a folder that is not empty."""
    old = partial.with_name(f"{partial.name}-old")
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(partial, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
