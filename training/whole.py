"""A folder that is written whole or not at all, and in words what forbids it."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from hub_utils.portable import whole
from training.recipe import UserError


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """As `hub_utils.portable.whole.whole_folder`; of folders that were made for it none stays where it fails.

    Raises:
        UserError: there is no space left, or no leave to write there.
    """
    missing = [path for path in Path(os.path.realpath(target)).parents if not path.exists()]
    try:
        with whole.whole_folder(target) as folder:
            yield folder
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
