"""What was found out about images before, so that a second look costs nothing: one SQLite file, which may be deleted.

What needs the file alone is kept by its identity (path, size and times), which no reading is needed to see; what needs
its content is kept by the content's SHA-256, so that a moved or copied file is known again.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from operator import attrgetter
from pathlib import Path

from training.data.images import Facts

VERSION = 4  # of what is stored: a change in what `look`, `keypoints` or `agreement` find needs a new number
PATIENCE = 30  # seconds to wait for another process that writes
values = attrgetter(*(field.name for field in fields(Facts)))  # `astuple` copies each of them, deeply
COLUMNS = ", ".join(field.name for field in fields(Facts))
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, identity TEXT, {COLUMNS});
CREATE TABLE IF NOT EXISTS keypoints (sha256 TEXT PRIMARY KEY, points BLOB, descriptors BLOB);
CREATE TABLE IF NOT EXISTS comparisons (pair TEXT PRIMARY KEY, result TEXT);
CREATE TABLE IF NOT EXISTS reports (inputs TEXT PRIMARY KEY, content TEXT, said TEXT);
"""


def cache_file() -> Path:
    """Below the Hub's own cache, whose place HF_HOME chooses."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "image-folder-to-demo" / f"images-{VERSION}.sqlite3"


def identity(status: os.stat_result) -> str:
    """Changes whenever a file does; on Linux and macOS even if somebody set its time back."""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


class Cache:
    """The open file; where none can be written, one in memory, and all is found out anew. A broken one is removed.

    One process at a time writes, the others wait. A thread other than the one that opened it may not use it.
    """

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection
        self._broken = False

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[Cache]:
        """The cache of this user."""
        cache = cls(_connect())
        try:
            yield cache
        finally:
            cache._connection.close()
            if cache._broken:
                _remove(cache_file())

    def facts(self, files: Sequence[tuple[str, str]]) -> list[Facts | None]:
        """What is known of each file, some hundreds at most, by absolute path and identity, if it is still the same."""
        places = ", ".join("?" * len(files))
        query = f"SELECT path, identity, {COLUMNS} FROM files WHERE path IN ({places})"
        known = {row[:2]: row[2:] for row in self._read(query, [path for path, _ in files])}
        return [Facts(*known[file]) if file in known else None for file in files]

    def put_facts(self, found: Iterable[tuple[str, str, Facts]]) -> None:
        """Remember path, identity and facts of files."""
        places = ", ".join("?" * (2 + len(fields(Facts))))
        rows = [(path, identity, *values(facts)) for path, identity, facts in found]
        self._write(f"INSERT OR REPLACE INTO files VALUES ({places})", rows)

    def keypoints(self, sha256: str) -> tuple[bytes, bytes] | None:
        """Points and descriptors of a content, as `put_keypoints` was given them."""
        rows = self._read("SELECT points, descriptors FROM keypoints WHERE sha256 = ?", (sha256,))
        return rows[0] if rows else None

    def put_keypoints(self, found: Iterable[tuple[str, bytes, bytes]]) -> None:
        """Remember digest, points and descriptors of contents."""
        self._write("INSERT OR REPLACE INTO keypoints VALUES (?, ?, ?)", list(found))

    def comparison(self, pair: str) -> list | None:
        """The result of comparing two contents, as `put_comparisons` was given it."""
        rows = self._read("SELECT result FROM comparisons WHERE pair = ?", (pair,))
        return json.loads(rows[0][0]) if rows else None

    def put_comparisons(self, found: Iterable[tuple[str, list]]) -> None:
        """Remember results, of what JSON can hold."""
        self._write("INSERT OR REPLACE INTO comparisons VALUES (?, ?)", [(pair, json.dumps(r)) for pair, r in found])

    def report(self, inputs: str) -> tuple[str, str] | None:
        """Content and words of the report that was made of these inputs, as `put_report` was given them."""
        rows = self._read("SELECT content, said FROM reports WHERE inputs = ?", (inputs,))
        return rows[0] if rows else None

    def put_report(self, inputs: str, content: str, said: str) -> None:
        """Remember digests of what a report was made of and of what it is, and what was said of it."""
        self._write("INSERT OR REPLACE INTO reports VALUES (?, ?, ?)", [(inputs, content, said)])

    def _read(self, query: str, values: Sequence) -> list[tuple]:
        with self._whatever_happens():
            return self._connection.execute(query, values).fetchall()
        return []

    def _write(self, statement: str, rows: list[tuple]) -> None:
        with self._whatever_happens(), self._connection:
            self._connection.executemany(statement, rows)

    @contextlib.contextmanager
    def _whatever_happens(self) -> Iterator[None]:
        """A full disk, another process that does not let go, a damaged file: nothing is lost but time."""
        try:
            yield
        except sqlite3.Error as error:
            self._broken |= type(error) is sqlite3.DatabaseError  # SQLite's "malformed"; the others are kinds of it


def _connect() -> sqlite3.Connection:
    path = cache_file()
    for _ in range(2):
        connection = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=PATIENCE)
            connection.executescript(SCHEMA)
            return connection
        except (OSError, sqlite3.Error) as error:
            if connection is not None:
                connection.close()  # before it is removed, says Windows
            if type(error) is not sqlite3.DatabaseError:  # locked, read-only, full, or no place for a file
                break
            _remove(path)  # no database: cut off, or somebody else's
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    return connection


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # another process on Windows has it open
        path.unlink(missing_ok=True)
