"""Commands that are killed in the middle of writing: at the k-th thing that they do to the file system, for any k.

    def work(): predict(classifier, images, output)
    count = writes(work)                  # how many such things it does when nobody kills it
    killed = kill_at(7, work)             # in a fork of this process, which has imported the libraries already

A fork inherits what is loaded, so that a kill takes the command's own time and not that of its imports. The child must
not use what does not outlive a fork: threads and sessions of the parent's are not there.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from hub_utils.portable.whole import MACHINE

# Audit events of what changes the disk; `open` counts when it is for writing.
EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
LIMIT = 120  # seconds that a child may take


def writes(work: Callable[[], object], below: Path) -> int:
    """How many times `work`, in a fork, changes something in the folder `below`.

    What it imported is imported here as well, so that the next ones need not.
    """
    with tempfile.TemporaryFile("r+") as said:
        status, log = _forked(work, below, 0, said.fileno())
        assert status == 0, f"it fails without a kill, too ({status})\n{log}"
        said.seek(0)
        count, modules = json.load(said)
    for name in modules:
        if name not in sys.modules:
            with suppress(Exception):  # made by another, or at home nowhere else
                import_module(name)
    return count


def kill_at(number: int, work: Callable[[], object], below: Path) -> bool:
    """Run `work` in a fork that is killed when it changes something in `below` for the `number`-th time: right before,
    or, where it opens a file, right after, when that is empty.

    Whether it was killed; it may have ended before.
    """
    status, log = _forked(work, below, number, None)
    assert status in (0, -signal.SIGKILL), f"it failed before it was killed ({status})\n{log}"
    return status == -signal.SIGKILL


def spread(count: int, most: int) -> Iterator[int]:
    """At most `most` of the numbers from 1 to `count`, evenly, and always the last ones: there things take places."""
    last = range(max(1, count + 1 - most // 2), count + 1)
    step = max(1, -(-(count - len(last)) // max(1, most - len(last))))
    yield from sorted({*range(1, count + 1, step), *last})


def left_by_the_dead(target: Path) -> Path:
    """The name of what a process that does not live any more would have left of `target`; nothing is there yet."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return target.with_name(f".{target.name}.{MACHINE}-{process.pid}-0.part")


def _forked(work: Callable[[], object], below: Path, number: int, tell: int | None) -> tuple[int, str]:
    """Exit status, and what it said."""
    with tempfile.TemporaryFile() as log:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  in place of pytest's
                signal.alarm(LIMIT)
                counter = _Counter(below, number)
                sys.addaudithook(counter)
                work()
                if tell is not None:
                    with open(tell, "w", closefd=False) as told:
                        json.dump([counter.count, [*sys.modules]], told)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(70)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        log.seek(0)
        return status, log.read().decode(errors="replace")[-3000:]


class _Counter:
    """An audit hook, which can never be taken off: only for a process that ends with it."""

    def __init__(self, below: Path, number: int):
        self.below, self.number, self.count = os.path.realpath(below), number, 0
        self.busy = False

    def __call__(self, event: str, details: tuple) -> None:
        if self.busy or (event != "open" and event not in EVENTS):
            return
        if event == "open" and not (isinstance(details[2], int) and details[2] & WRITING):
            return
        path, within = details[0], event in ("os.remove", "os.rmdir") and details[1] != -1  # as rmtree removes
        if isinstance(path, int) or not (within or os.path.abspath(os.fsdecode(path)).startswith(self.below)):
            return
        self.count += 1
        if self.count == self.number:
            self.busy = True
            if event == "open":
                with suppress(OSError):
                    os.open(path, details[2], 0o666)
            os.kill(os.getpid(), signal.SIGKILL)
