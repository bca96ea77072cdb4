"""Arrays by key in one file that is mapped into memory: what was computed once is read from then on.

Every folder of `records` holds arrays of one shape that one computation made: `keys`, 32 bytes that tell this folder
from one that was there before, and then as many a place; `sums`, a checksum a place, 0 where nothing is stored; and
`values`. Nothing in it is needed: it may be deleted at any time, and what is not there, or is damaged, is
computed anew. It is for the eyes of its owner alone.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

KEY = 32  # bytes, a SHA-256
MOST = 16 * 10**9  # bytes of disk, of all records together
SHARE = 0.25  # at most, of the disk that is free
PATIENCE = 30  # seconds to wait for another process that gives out places
_OPENED: set[Path] = set()  # by this process: they keep the room that they were given


def records_folder() -> Path:
    """Beside the facts about images (`training.data.cache`), below the Hub's own cache, whose place HF_HOME chooses."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "image-folder-to-demo" / "records"


class Records:
    """Arrays of one shape and dtype, for the rows that `open` was given the keys of.

    Several processes and threads may read and write at once: the same key always gets the same bytes, which are written
    before their checksum. It can be pickled; whoever unpickles it opens the files again.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: str, keys: Sequence[bytes], places: np.ndarray):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._folder, self._keys, self._places = folder, b"".join(keys), places
        self._identity = _identity(folder)
        self._begin()

    @classmethod
    def open(
        cls,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        keys: Sequence[bytes],
        limit: int | None = None,
        share: float = 1.0,
    ) -> Records:
        """The records that the computation `name` makes, with a place for each key.

        `name` may be part of a file's name. `limit` is in bytes of disk, for all records together, of which these may
        fill up a `share`. To keep to it, those that were not used for longest are removed, but for what this process
        has opened; then what the same computation made of other keys; keys for which there still is no room get no
        place. Where nothing can be written, what is there is read.
        """
        shape = tuple(shape)
        folder = records_folder() / "-".join([name, np.dtype(dtype).name, *map(str, shape)])
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.parent.chmod(0o700)
            with FileLock(folder.parent / ".lock", timeout=PATIENCE):
                places = _places(folder, _bytes(shape, dtype), keys, limit, share)
                return cls(folder, shape, dtype, keys, places)
        except (OSError, Timeout):
            known = _known(folder)
            return cls(folder, shape, dtype, keys, np.array([known.get(key, -1) for key in keys], dtype=np.int64))

    @property
    def room(self) -> int:
        """For how many rows there is a place."""
        return int((self._places >= 0).sum()) if self._values is not None else 0

    def __len__(self) -> int:
        return len(self._places)

    def get(self, row: int) -> np.ndarray | None:
        """The array of a row, for reading only; None if there is none, or it is damaged."""
        place = self._places[row]
        if place < 0 or self._values is None or not self._sums[place]:
            return None
        value = self._values[place]
        return value if self._sums[place] == self._sum(row, value) else None

    def put(self, row: int, value: np.ndarray) -> bool:
        """Keep the array of a row; False if there is no place for it, or the disk is full."""
        place = int(self._places[row])
        if place < 0 or self._values is None or self._full:
            return False
        value = np.ascontiguousarray(value, self.dtype).reshape(self.shape)
        try:
            _write(self._files[1], value.tobytes(), place * value.nbytes)
            _write(self._files[0], self._sum(row, value).tobytes(), place * 4)
        except OSError:
            self._full = True  # or taken away: the next ones will fare no better
            return False
        return True

    def missing(self, rows: Sequence[int] | None = None) -> list[int]:
        """Those of `rows`, or of all, for which nothing is stored."""
        rows = range(len(self)) if rows is None else rows
        return [
            row for row in rows if self._values is None or self._places[row] < 0 or not self._sums[self._places[row]]
        ]

    def _sum(self, row: int, value: np.ndarray) -> np.uint32:
        """Never 0, and another one under another key."""
        return np.uint32(zlib.crc32(value, zlib.crc32(self._keys[KEY * row : KEY * row + KEY])) or 1)

    def _begin(self) -> None:
        """Open and map the files, if they are still those in which the places were given out."""
        self._values = self._sums = None
        self._files: list[int] = []
        self._full = False
        if len(self._places) == 0 or self._places.max() < 0 or self._identity != _identity(self._folder):
            return
        try:
            self._sums = np.memmap(self._folder / "sums", np.uint32, "r")
            values = np.memmap(self._folder / "values", self.dtype, "r").reshape(-1, *self.shape)
        except (OSError, ValueError):  # removed meanwhile, or cut off
            return
        self._places = np.where(self._places < min(len(self._sums), len(values)), self._places, -1)
        self._values = values
        try:
            for name in ("sums", "values"):
                self._files.append(os.open(self._folder / name, os.O_RDWR | getattr(os, "O_BINARY", 0)))
        except OSError:
            self._full = True  # or for reading only

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name not in ("_values", "_sums", "_files")}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._begin()

    def __del__(self, close=os.close):  # at the interpreter's end there are no modules any more
        for file in getattr(self, "_files", ()):
            try:  # noqa: SIM105
                close(file)
            except OSError:
                pass


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def _identity(folder: Path) -> bytes:
    """Another one once the folder was removed and made again; an inode would not tell, for it is used again at once."""
    try:
        with (folder / "keys").open("rb") as file:
            return file.read(KEY)
    except OSError:
        return b""


def _known(folder: Path) -> dict[bytes, int]:
    """The place of each key that has one."""
    try:
        stored = (folder / "keys").read_bytes()
    except OSError:
        return {}
    return {stored[place * KEY : place * KEY + KEY]: place - 1 for place in range(1, len(stored) // KEY)}


def _places(folder: Path, size: int, keys: Sequence[bytes], limit: int | None, share: float) -> np.ndarray:
    """The place of each key, new ones at the end, or -1; `size` is a value's, in bytes."""
    cost = KEY + 4 + size
    known = _known(folder)
    news = [key for key in dict.fromkeys(keys) if key not in known]
    room = max(0, _room(folder, len(news) * cost, cost, limit, share) // cost)
    if limit != 0 and room < len(news) and len(known) > len(keys) - len(news) and folder not in _OPENED:
        shutil.rmtree(folder, ignore_errors=True)  # it has what nobody asks for now
        known, news = {}, list(dict.fromkeys(keys))
        room = max(0, _room(folder, len(news) * cost, cost, limit, share) // cost)
    _OPENED.add(folder)
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / "keys"
    path.touch()  # the time of its last use
    count = max(0, path.stat().st_size // KEY - 1)
    news = news[:room]
    known |= {key: place for place, key in enumerate(news, count)}
    with path.open("r+b") as file:
        if len(file.read(KEY)) < KEY:
            file.seek(0)
            file.write(os.urandom(KEY))
        file.seek(KEY + count * KEY)
        file.write(b"".join(news))
        file.truncate()
    with (folder / "sums").open("ab") as file:
        missing = 4 * (count + len(news)) - file.tell()
        file.write(bytes(max(0, missing)))  # no hole, in which a full memory disk would have no place to read from
        file.truncate(4 * (count + len(news)))
    with (folder / "values").open("ab") as file:
        file.truncate((count + len(news)) * size)  # a hole, which takes no disk until it is written into
    return np.array([known.get(key, -1) for key in keys], dtype=np.int64)


def _room(folder: Path, need: int, least: int, limit: int | None, share: float) -> int:
    """Bytes that may be added to `folder`; others give way for `need`, the one that was not used for longest first, if
    that makes room for at least `least`.
    """
    used = {each: _size(each) for each in (folder, *folder.parent.iterdir()) if each.is_dir() or each == folder}
    others = sorted(used.keys() - _OPENED - {folder}, key=_last_used)
    total = sum(used.values())
    stays = total - sum(used[each] for each in others)
    if limit is None:
        limit = min(MOST, int(SHARE * (shutil.disk_usage(folder.parent).free + total)))
    most = int(share * limit) - used[folder]
    need = min(need, most)
    for each in others if need > 0 else ():
        if total + need <= limit or stays + least > limit:
            break
        shutil.rmtree(
            each, ignore_errors=True
        )  # whoever has it mapped keeps what he has; not on Windows, where it stays
        total -= used[each] - _size(each)
    return max(0, min(limit - total, most))


def _last_used(folder: Path) -> float:
    return max((each.stat().st_mtime for each in _files(folder)), default=0.0)


def _size(folder: Path) -> int:
    return max(0, sum(each.stat().st_size for each in _files(folder)) - KEY)


def _files(folder: Path) -> Iterator[Path]:
    return (folder / name for name in ("keys", "sums", "values") if (folder / name).exists())


def _write(file: int, content: bytes, place: int) -> None:
    """All of it at this place of the file, whoever else writes."""
    if not hasattr(os, "pwrite"):  # Windows, where each loader worker has opened the file itself
        os.lseek(file, place, os.SEEK_SET)
        os.write(file, content)
        return
    while content:
        written = os.pwrite(file, content, place)
        content, place = content[written:], place + written
