"""Where uploads lie: in a folder of this process alone, which empties itself.

gradio has one for all its programs on a machine, and deletes what it remembers: neither an upload that broke off nor an
empty folder, and nothing any more once something cannot be deleted. A process that is killed deletes nothing: the next
one does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from hub_utils.portable.whole import passing

if TYPE_CHECKING:
    import gradio as gr

AGE = 1800.0  # seconds that an upload may lie there: a thousand pictures take that long to come, and to be looked at
EVERY = 60.0  # seconds between two looks
YOUNG = 60.0  # seconds that an upload stays, however many others come
MOST_TOGETHER = 2_000_000_000  # bytes of all uploads: four of the largest
MOST_FREE = 1_000_000_000  # bytes of the disk, or a tenth of it, that others are left
PAUSE = 1.0  # seconds between two looks for room
TICK = 2.0  # seconds by which the times of files may lag behind the clock

_folders: dict[str, tempfile.TemporaryDirectory] = {}  # which are deleted when the process ends
_pages: WeakSet[gr.Blocks] = WeakSet()
_under_way: list[float] = []  # when each upload that is being received began
_looking = threading.Lock()
_looked = 0.0  # when was counted what lies there
_bytes = 0  # that were there then, and all that came since


def settle(page: gr.Blocks) -> None:
    """Have gradio take a page's uploads to a folder of our own; to be called before the page has any component.

    It lies in GRADIO_TEMP_DIR, which says from now on where it is, or where the system has temporary folders.
    """
    _pages.add(page)
    named = os.environ.get("GRADIO_TEMP_DIR")
    if named in _folders:
        return
    if named:
        Path(named).mkdir(parents=True, exist_ok=True)
    made = passing("uploads", named or None)
    _folders[made.name], os.environ["GRADIO_TEMP_DIR"] = made, made.name
    threading.Thread(target=_sweep_for_ever, args=(Path(made.name),), name="sweeper of uploads", daemon=True).start()


@contextmanager
def uploading(is_one: bool = True) -> Iterator[None]:
    """While an upload is received, if it `is_one`. What it leaves unfinished, because it broke off, is deleted.

    gradio receives files at the top of its folder, and moves those that are whole below it: what is older there than
    every upload under way is nobody's.
    """
    if not is_one:
        yield
        return
    _under_way.append(start := time.time())
    try:
        yield
    finally:
        _under_way.remove(start)
        if (folder := os.environ.get("GRADIO_TEMP_DIR")) in _folders:
            _sweep_top(folder, min(_under_way, default=inf) - TICK)


def received(size: int) -> None:
    """So many bytes more of uploads are here."""
    global _bytes
    _bytes += size


def has_room(size: int) -> bool:
    """Whether `size` bytes more may be uploaded; for that the oldest go that came more than a minute ago.

    It may take a moment: a folder is looked through, once a second at most.
    """
    global _bytes, _looked
    if (folder := os.environ.get("GRADIO_TEMP_DIR")) not in _folders:
        return True
    with _looking:
        short = _short_of(folder, size)
        if short > 0 and time.monotonic() - _looked > PAUSE:
            _bytes = _delete_oldest(folder, lambda there: _short_of(folder, size, there))
            _looked = time.monotonic()
            short = _short_of(folder, size)
        return short <= 0


def _short_of(folder: str, size: int, there: int | None = None) -> int:
    """How many bytes of room are missing for `size` more, with so many `there`."""
    disk = shutil.disk_usage(folder)
    there = _bytes if there is None else there
    return max(there + size - MOST_TOGETHER, min(MOST_FREE, disk.total // 10) + size - disk.free)


def _delete_oldest(folder: str, short_of: Callable[[int], int]) -> int:
    """Delete files until there is room; the bytes that are left."""
    found = []
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                about = os.lstat(path := os.path.join(where, name))
                found.append((about.st_mtime, about.st_size, path))
    there, until = sum(size for _, size, _ in found), time.time() - YOUNG
    for written, size, path in sorted(found):
        if written > until or short_of(there) <= 0:
            break
        with suppress(OSError):  # somebody has it open, on Windows
            os.remove(path)
            there -= size
    return there


def _sweep_top(folder: str, until: float) -> None:
    with suppress(OSError), os.scandir(folder) as found:
        for each in found:
            with suppress(OSError):
                if each.is_file(follow_symlinks=False) and each.stat(follow_symlinks=False).st_mtime < until:
                    os.remove(each)


def answered(path: Path) -> None:
    """An upload may go: its sweeper takes it in a minute or two.

    Not at once, as what gradio's clients send is called by its content: somebody may have sent the same, and be about
    to ask.
    """
    with suppress(OSError):
        os.utime(path, (time.time() - AGE + YOUNG,) * 2)


def empty() -> None:
    """Delete all that was uploaded; to be called when nothing more will be."""
    for made in _folders.values():
        made.cleanup()


def _sweep_for_ever(folder: Path) -> None:
    while True:
        time.sleep(EVERY)
        sweep(folder)


def sweep(folder: Path, age: float = AGE) -> None:
    """Delete what was written more than `age` seconds ago, and empty folders that nobody has used since."""
    until = time.time() - age
    for where, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            path = os.path.join(where, name)
            with suppress(OSError):  # it is not empty, or somebody has it open, on Windows
                if os.lstat(path).st_mtime < until:
                    (os.remove if name in files else os.rmdir)(path)
    for page in list(_pages):
        for names in page.temp_file_sets:
            names.difference_update([each for each in list(names) if not os.path.lexists(each)])
