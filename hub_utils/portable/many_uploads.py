"""Many uploads, files and zips together, one picture after another, within limits; nothing is unpacked to the disk.

A zip is a stranger's program for our memory: sizes in it are whatever its maker wrote, names lead anywhere. Members are
read as bytes, a limited number of them, and names are only shown. What is wrong with one file or one zip is said of it,
and the others go on.
"""

from __future__ import annotations

import contextlib
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from hub_utils.portable.command import UserError
from hub_utils.portable.image_files import EXTENSIONS, FOREIGN, is_of_system
from hub_utils.portable.pictures import MB, MOST_BYTES, read_upload
from hub_utils.portable.uploads import MOST_PICTURES, MOST_UNPACKED, MOST_UPLOAD

BLOCK = 1_000_000  # bytes read at once
MOST_DIRECTORY = 4 * BLOCK  # bytes of a zip's table of contents: ten times that of 1,000 pictures with long names
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # LZMA may claim gigabytes of memory for a file of a few bytes
# What `zipfile` raises on bytes that are not what they should be.
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, LookupError, RuntimeError)
BROKEN += (NotImplementedError, OSError)


@dataclass(frozen=True)
class Sent:
    """One file that a visitor gave: its bytes, or in a sentence why there are none."""

    name: str
    content: bytes = b""
    problem: str = ""


class Uploads:
    """Files and zips as (name, path), in the order they were given; iterate for a `Sent` each.

    In the place of a path may stand, as text, why there is none.

    `count` is how many there are; `passed_by` how many files in zips are no pictures by their names.

    Raises:
        UserError: nothing was given, or more files than `MOST_PICTURES`.
    """

    def __init__(self, files: Iterable[tuple[str, Path | str]]) -> None:
        self.count = self.passed_by = self._bytes = 0
        self._opened = contextlib.ExitStack()
        self._names: Counter[str] = Counter()
        self._all: list[tuple[str, Path | zipfile.ZipFile | str, zipfile.ZipInfo | None]] = []
        files = list(files)
        if not files:
            raise UserError("Nothing was given. Choose pictures, or a zip of them.")
        if len(files) > MOST_PICTURES:
            raise UserError(too_many(len(files)))
        try:
            for name, path in files:
                self._take(name, path)
        except BaseException:
            self.close()
            raise
        self.count = len(self._all)

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Uploads:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self._all]

    def __iter__(self) -> Iterator[Sent]:
        for name, source, info in self._all:
            try:
                if isinstance(source, str):
                    raise UserError(source)
                yield Sent(name, read_upload(source) if info is None else _of_zip(source, info))
            except UserError as error:
                yield Sent(name, problem=str(error))

    def _take(self, name: str, path: Path | str) -> None:
        try:
            if isinstance(path, Path) and _is_zip(path):
                self._take_zip(name, path)
            else:
                self._all.append((self._unlike_others(name), path, None))
        except UserError as error:
            self._all.append((self._unlike_others(name), str(error), None))

    def _take_zip(self, name: str, path: Path) -> None:
        """All of a zip's pictures, or none: what makes it one too many is said before any is looked at."""
        if path.stat().st_size > MOST_UPLOAD:
            raise UserError(f"This zip has more than {MOST_UPLOAD // MB} MB. Give it in parts.")
        try:
            opened = zipfile.ZipFile(_Frugal(self._opened.enter_context(path.open("rb"))))
            members = [(_name(info), info) for info in opened.infolist() if not info.is_dir()]
        except BROKEN as error:
            raise UserError("This zip is cut off or damaged. Pack it again, or copy or download it again.") from error
        wanted = [(inside, info) for inside, info in members if not _is_of_system(inside)]
        pictures = [(inside, info) for inside, info in wanted if _may_be_picture(inside)]
        if len(pictures) + len(self._all) > MOST_PICTURES:
            more = f"{len(pictures):,} pictures" if not self._all else f"{len(pictures):,} more pictures"
            raise UserError(f"This zip holds {more}, and {MOST_PICTURES:,} at once are the limit. Give it in parts.")
        unpacked = sum(info.file_size for _, info in pictures)
        if self._bytes + unpacked > MOST_UNPACKED:
            limit = f"{MOST_UNPACKED // MB // 1000} GB unpacked are the limit"
            raise UserError(f"What is in this zip is {unpacked / MB / 1000:,.1f} GB, and {limit}. Give it in parts.")
        if not pictures:
            raise UserError("There is no picture in this zip.")
        self._bytes += unpacked
        self.passed_by += len(wanted) - len(pictures)
        self._all += [(self._unlike_others(f"{name}/{inside}"), opened, info) for inside, info in pictures]

    def _unlike_others(self, name: str) -> str:
        """Two files of one name stay two: the second is called "cat.jpg (2)"."""
        self._names[name] += 1
        return name if self._names[name] == 1 else self._unlike_others(f"{name} ({self._names[name]})")


def too_many(files: int) -> str:
    return f"These are {files:,} files, and {MOST_PICTURES:,} are the limit. Give fewer at once, or a zip in parts."


class _Frugal:
    """A file, never many bytes at once: a zip may claim gigabytes for its table of contents, which are then read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.seek, self.tell, self.seekable = file, file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > MOST_DIRECTORY:
            raise zipfile.BadZipFile(f"{size:,} bytes at once")
        return self.file.read(size if size >= 0 else MOST_DIRECTORY)  # all there is, from the last 65,557 bytes on


def _is_zip(path: Path) -> bool:
    """By the first bytes, whatever it is called; a document of an office program is one, without pictures as files."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except (OSError, ValueError):
        return False


def _of_zip(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's bytes.

    Raises:
        UserError: it cannot be read, or should not be.
    """
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise UserError("This is a link, not a file. Pack the picture itself.")
    if info.flag_bits & 0x1:
        raise UserError("This file is encrypted. Pack it without a password.")
    if info.compress_type not in PLAIN:
        raise UserError("This file is packed in a way that is not read here. Pack a plain zip.")
    if info.file_size > MOST_BYTES:
        raise UserError(f"This file has {info.file_size / MB:,.0f} MB, and {MOST_BYTES // MB} MB are the limit.")
    content = bytearray()
    try:
        with opened.open(info) as file:
            while block := file.read(BLOCK):  # never more than `file_size` in all, by zipfile's own count
                content += block
    except BROKEN as error:
        raise UserError("This file is damaged in its zip. Pack it again, or copy or download the zip again.") from error
    return bytes(content)


def _name(info: zipfile.ZipInfo) -> str:
    """A member's name as people wrote it; Macs write UTF-8 and do not say so."""
    name = info.orig_filename
    if not info.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.partition("\0")[0].replace("\\", "/")


def _is_of_system(name: str) -> bool:
    return any(is_of_system(part) for part in PurePosixPath(name).parts if part != "..")


def _may_be_picture(name: str) -> bool:
    """By its name; and a zip in a zip, of which to say that it is not opened."""
    ending = PurePosixPath(name).suffix.lower()
    return ending in EXTENSIONS or ending in FOREIGN or ending == ".zip"
