"""One command at a time writes into a run: a lock of the operating system, which ends with the process however it ends.

The lock file lies beside the run folder, which is cleared and moved: `.flowers.lock` for runs/flowers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from training.recipe import UserError

PATIENCE = 1.0  # seconds, for which a child of a process that was killed while it began may still hold its lock


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def locked(folder: Path, work: str, say: Callable[[str], None] = _warn) -> Iterator[None]:
    """Hold the lock of a run folder, which need not be there yet, as long as the block lasts.

    `work` is what this process does to it, told to whoever comes second: "trains into it", say. Where the file system
    has no locks, or nothing can be written beside the folder, a warning is said, and the block runs without one.

    Raises:
        UserError: another process holds it.
    """
    real = Path(os.path.realpath(folder))  # one lock, whichever links lead there
    path = real.with_name(f".{real.name}.lock")
    with ExitStack() as stack:
        try:
            _make_folder(path.parent, stack)
            lock = FileLock(path)
            lock.acquire(timeout=PATIENCE)
            if isinstance(lock, SoftFileLock):  # filelock's way out, which a killed process would leave behind
                lock.release()
                raise OSError(None, "the file system has no locks")
            stack.callback(_release, lock, path)
        except Timeout:
            raise UserError(
                f"{_owner(path)} '{folder}' already; wait until it has ended, or stop it, then the same command again"
            ) from None
        except (OSError, NotImplementedError) as error:
            why = getattr(error, "strerror", None) or error
            say(f"warning    no lock beside '{folder}' ({why}): see to it that no other command writes there")
        else:
            with suppress(OSError):  # Windows; or a full disk
                path.write_text(f"{os.getpid()} {work}", encoding="utf-8")
        yield


def _make_folder(folder: Path, stack: ExitStack) -> None:
    """Make it; what of it was not there before goes again at the end, unless there is something in it."""
    for above in reversed((folder, *folder.parents)):
        if not above.exists():
            stack.callback(_remove_empty, above)  # the innermost first
    folder.mkdir(parents=True, exist_ok=True)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _release(lock: FileLock, path: Path) -> None:
    """Let go, and leave nothing behind.

    The file is removed while it is locked: whoever has opened it meanwhile sees, once the lock is had, that it has no
    name any more, and opens it anew (filelock does). Windows removes no open file, so there it goes afterwards, if
    nobody else has opened it.
    """
    if os.name == "posix":
        _remove(path)
    lock.release()
    if os.name != "posix":
        _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):  # an empty file that stays does no harm
        path.unlink()


def _owner(path: Path) -> str:
    """Who holds the lock and does what, as far as the file tells: `process 123 trains into`."""
    with suppress(OSError, ValueError):
        process, work = path.read_text(encoding="utf-8").split(" ", 1)
        return f"process {int(process)} {work}"
    return "another process is at work in"
