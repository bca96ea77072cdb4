"""An archive of images, whatever its layout, becomes a folder: safely, and whole or not at all.

`zipfile` and `tarfile` read the archive; names, links and sizes are judged here, by one set of rules for both, and
nothing but plain files and folders is ever created. `tarfile`'s own filter "data" has no say over bombs, silently
renames absolute names, and knows nothing of zip files.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import glob
import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from hub_utils.portable.whole import move
from training.recipe import UserError, first_line

try:
    from compression import zstd  # Python 3.14 and later
except ImportError:
    zstd = None

ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".tzst", ".tar.zst")
FOREIGN_ENDINGS = (".rar", ".7z")  # archives all the same, of which `unpack` says what to do

# What a bomb is. Only bytes that really come out count: the sizes in an archive are whatever its maker wrote there.
MOST_BYTES = 2 * 2**40  # beyond any image data set that is published as one archive (the largest ImageNet: 1.3 TB)
MOST_GROWTH = 100  # photographs keep their size, scans shrink to a tenth, flat drawings to this; deflate ends at 1032
GROWTH_FROM = 2**30  # what may come out of any archive, however small: blank masks do shrink a thousandfold
MOST_FILES = 5_000_000  # iNaturalist, the largest set of loose files in use, has 2.7 million; inodes run out
MOST_LINKS = 40  # one to another, as Linux has it
MOST_FOLDERS = 50  # one in another; people nest ten, and Windows ends at 260 characters

ABSOLUTE = re.compile("/|[A-Za-z]:")
BLOCK = 2**20  # bytes copied at a time
ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the first bytes; the second is a zip without a member
COMPRESSED = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": zstd and zstd.open,
}
FOREIGN = {b"Rar!": "a RAR archive", b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive", b"\x7fELF": "a program"}
# What the libraries raise on bytes that are not what they should be; an OSError of theirs has no errno.
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError)
BROKEN += (LookupError, ArithmeticError, RuntimeError)

HARMFUL = "it may be meant to do harm, get it from its publisher again"
AGAIN = "copy or download it again"
BY_HAND = "unpack it yourself and give the folder"


class NoPlace(UserError):
    """The archive may be good: it is the disk that has no room for it, or nobody may write there."""


class NeedsProgram(UserError):
    """The archive may be good: another program than Python can unpack it."""


@dataclass(frozen=True)
class Member:
    """One entry of an archive; `target` is where a link leads, counted from the archive's root."""

    name: str
    kind: str  # "file", "folder", "link", or in words what else it is
    open: Callable[[], IO[bytes]] | None = None
    target: str = ""


def is_archive(path: Path) -> bool:
    """Whether a path is called as archives are; what it really is shows when it is opened."""
    return path.name.lower().endswith((*ENDINGS, *FOREIGN_ENDINGS))


def stem(archive: Path) -> str:
    """`photos` for photos.zip and photos.tar.gz."""
    ending = max((each for each in ENDINGS if archive.name.lower().endswith(each)), key=len, default=archive.suffix)
    return archive.name[: len(archive.name) - len(ending)]


def unpacked(archive: Path, into: Path) -> Path:
    """The folder below `into` that holds what the archive does; unpacked on first use, and anew once it changes.

    It is called as the archive is: where the images lie flat in it, this name is their class.

    Raises:
        UserError: as `unpack` does.
    """
    try:
        about = archive.stat()
    except OSError as error:
        raise UserError(f"archive '{archive}' cannot be opened ({error.strerror})") from error
    identity = hashlib.sha256(f"{archive.name}|{about.st_size}|{about.st_mtime_ns}".encode(errors="replace"))
    folder = into / identity.hexdigest()[:8] / stem(archive)
    if not folder.is_dir():
        with _alone(archive, folder):
            if not folder.is_dir():  # or another process was quicker
                _remove_remains(into, folder)
                _unpack(archive, folder, (), True)
    return folder


def _remove_remains(into: Path, folder: Path) -> None:
    """What killed attempts at an archive of this name left before it changed; what others work on stays."""
    for left in into.glob(f"*/{glob.escape(_temporary(folder).name)}"):
        if left.parent != folder.parent:
            with contextlib.suppress(Timeout), FileLock(_lock(left.with_name(folder.name)), timeout=0):
                shutil.rmtree(left, ignore_errors=True)


def _temporary(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.unpacking")


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def unpack(archive: Path, folder: Path, progress: bool = True, only: Collection[str] = ()) -> None:
    """Unpack an archive into `folder`, which must not exist; with `only`, no more than what lies in folders so called.

    Either all of it is there afterwards or nothing is. What a killed attempt left is removed by the next. Files have
    the permissions of any new file, whatever the archive says.

    Raises:
        UserError: the archive is cut off, corrupt, empty, a bomb or none; a member has a name that leads
            out, that cannot be read for certain or that another one has (capitals aside, where the disk does not tell
            them apart), or is a device or a link to anything but a file in the archive.
        NoPlace: there is no space, or no right to write.
        NeedsProgram: it is encrypted, or packed in a way that Python cannot read.
    """
    with _alone(archive, folder):
        if os.path.lexists(folder):
            raise UserError(f"'{folder}' exists already; nothing is unpacked over it: remove it or name another folder")
        _unpack(archive, folder, only, progress)


@contextlib.contextmanager
def _alone(archive: Path, folder: Path) -> Iterator[None]:
    """One process at a time unpacks into a folder, and what the system refuses it becomes one line."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_writable(_lock(folder))
        with FileLock(_lock(folder)):
            yield
    except OSError as error:
        raise _refused(archive, folder, error) from error


def check_writable(lock: Path) -> None:
    """Raise `OSError` where a lock can never be had: `filelock` may wait for it as if another process had it."""
    lock.open("ab").close()


def _refused(archive: Path, folder: Path, error: OSError) -> UserError:
    """What the system said, in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoPlace(f"no space left in '{folder.parent}' to unpack archive '{archive}'; free some and try again")
    where = f"'{error.filename}'" if error.filename else f"'{folder}'"
    return NoPlace(f"archive '{archive}': {where} cannot be opened or written ({error.strerror}); choose another place")


def _unpack(archive: Path, folder: Path, only: Collection[str], progress: bool) -> None:
    """`unpack` for the process that holds the lock: nothing is called `folder` before everything is in it."""
    temporary = _temporary(folder)
    shutil.rmtree(temporary, ignore_errors=True)  # of an attempt that was killed
    try:
        with open(archive, "rb") as file:
            temporary.mkdir()
            _write_members(archive, file, temporary, only, progress)
        move(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_members(archive: Path, file: IO[bytes], root: Path, only: Collection[str], progress: bool) -> None:
    """Every member that is wanted, below `root`; the bar counts bytes of the archive."""
    size = os.fstat(file.fileno()).st_size
    writer = _Writer(archive, root, size, only)
    bar = tqdm(
        desc=f"Unpacking {archive.name}",
        total=size,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=not progress or None,
    )
    member = None
    with bar:
        try:
            for member in _members(file, writer):
                writer.add(member)
                bar.update(file.tell() - bar.n)
            writer.finish()
        except (*BROKEN, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise _broken(archive, member, error) from error


def _broken(archive: Path, member: Member | None, error: Exception) -> UserError:
    """A library's complaint as a sentence: which member (or the one after it) and what to do."""
    where = f" at or after {member.name!r}" if member else ""
    if isinstance(error, NotImplementedError):
        return NeedsProgram(f"archive '{archive}': packed in a way that Python cannot read{where} ({error}); {BY_HAND}")
    return UserError(f"archive '{archive}' is cut off or corrupt{where} ({first_line(error)}); {AGAIN}")


def _members(file: IO[bytes], writer: _Writer) -> Iterator[Member]:
    """The members of an archive of any kind, told by its content."""
    start = file.read(512)
    # A zip may follow a program that unpacks it, and a tar may hold a zip at its end.
    is_zip = start.startswith(ZIP) or (start[257:262] != b"ustar" and zipfile.is_zipfile(file))
    file.seek(0)
    if is_zip:
        return _zip_members(file, writer)
    for mark, decompress in COMPRESSED.items():
        if start.startswith(mark):
            if decompress is None:
                what = "this Python cannot read Zstandard, 3.14 and later can"
                raise NeedsProgram(f"archive '{writer.archive}': {what}; {BY_HAND}")
            return _tar_members(decompress(file), writer)
    return _tar_members(file, writer, start)


def _zip_members(file: IO[bytes], writer: _Writer) -> Iterator[Member]:
    with zipfile.ZipFile(file) as opened:
        writer.check_space(sum(info.file_size for info in opened.infolist() if writer.wants(info.filename.split("/"))))
        for info in opened.infolist():
            name, form = _zip_name(info, writer.archive), stat.S_IFMT(info.external_attr >> 16)
            if info.flag_bits & 0x1:
                raise NeedsProgram(f"archive '{writer.archive}': {name!r} is encrypted; {BY_HAND}")
            if name.endswith("/") or form == stat.S_IFDIR:
                yield Member(name, "folder")
            elif form == stat.S_IFLNK:
                with opened.open(info) as content:
                    target = content.read(4096).decode(errors="surrogateescape").replace("\\", "/")
                yield Member(name, "link", target=_beside(name, target))
            elif form in (0, stat.S_IFREG):
                yield Member(name, "file", lambda info=info: opened.open(info))
            else:
                yield Member(name, "a device, a pipe or a socket")


def _zip_name(info: zipfile.ZipInfo, archive: Path) -> str:
    """A name, with `\\` as some Windows programs write it made `/`.

    Without the mark for UTF-8 a name is in the code page of whoever packed it, by the letter of the standard IBM's 437.
    """
    name = info.orig_filename  # newer versions of Python change `filename` by what stands in the extra fields
    if not info.flag_bits & 0x800:
        stored = name.encode("cp437")
        certain = _certain_name(stored, info.extra)
        if certain is None:
            raise _untold(archive, name)
        name = certain
    return name.partition("\0")[0].replace("\\", "/")


def _certain_name(stored: bytes, extra: bytes) -> str | None:
    """A name in no stated code page; None where it would be a guess, and class names come of it.

    WinZip and WinRAR add the name in UTF-8 (Info-ZIP's Unicode Path, APPNOTE 4.6.9), with the checksum of the name
    that it is of. Macs write UTF-8 and do not say so. Windows Explorer writes the code page of the system's consoles,
    437 or 850 in the West, which have most letters in common.
    """
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == 0x7075 and field[:5] == struct.pack("<BL", 1, zlib.crc32(stored)) and field[5:]:
            return field[5:].decode()
    with contextlib.suppress(UnicodeError):
        return stored.decode()
    one, other = stored.decode("cp437"), stored.decode("cp850")
    return one if one == other else None


def _untold(archive: Path, name: str) -> UserError:
    return UserError(
        f"archive '{archive}': the code page of its names cannot be told, {name!r} may be meant to be another; pack it "
        f"again with another program, or {BY_HAND}"
    )


class _Frugal:
    """A tar file, never many bytes at once: a member's *name* may claim gigabytes, which `tarfile` would read."""

    def __init__(self, file: IO[bytes]):
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > 16 * BLOCK:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self.file.read(size)


def _tar_members(file: IO[bytes], writer: _Writer, start: bytes | None = None) -> Iterator[Member]:
    """`start`: the first bytes of what is not compressed, and may be no archive at all."""
    try:
        opened = tarfile.TarFile(fileobj=_Frugal(file))
    except tarfile.ReadError as error:
        if start is None or start[257:262] == b"ustar":
            raise
        raise _no_archive(writer.archive, start) from error
    writer.check_space(0 if writer.only else writer.size)
    while (info := opened.next()) is not None:
        opened.members.clear()  # or a million of them stay in memory
        name, target = info.name.replace("\\", "/"), info.linkname.replace("\\", "/")
        if info.isreg():
            yield Member(name, "file", lambda info=info: opened.extractfile(info))
        elif info.isdir():
            yield Member(name, "folder")
        elif info.issym() or info.islnk():
            yield Member(name, "link", target=_beside(name, target) if info.issym() else target)
        else:
            yield Member(name, "a device, a pipe or a socket")
    # `tarfile` takes a header that is cut or broken for the end. The end is a block of zeros; what follows is read for
    # the checksum of the compressed.
    file.seek(opened.offset)
    if file.read(512) != bytes(512):
        raise EOFError("the end is missing")
    while block := file.read(BLOCK):
        writer.count(len(block))


def _beside(name: str, target: str) -> str:
    """Where a symbolic link leads, from the root; one that leads out keeps its `/`, `C:` or `..` at the start."""
    if ABSOLUTE.match(target):
        return target
    parts = name.split("/")[:-1]
    for part in target.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _no_archive(archive: Path, start: bytes) -> UserError:
    """What it is instead, for those who were handed something else under this name."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    foreign = next((what for mark, what in FOREIGN.items() if start.startswith(mark)), None)
    if not start:
        return UserError(f"archive '{archive}' is an empty file; {AGAIN}")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return UserError(
            f"archive '{archive}' is a web page, whatever its name says, perhaps one that asks for a login; download "
            "it again with a browser"
        )
    if foreign:
        return NeedsProgram(f"archive '{archive}' is {foreign}, which Python cannot read; {BY_HAND}")
    return UserError(f"archive '{archive}' is neither a zip nor a tar file, whatever its name says; {AGAIN}")


def safe_parts(name: str) -> tuple[str, ...]:
    """The folders and the file that a name of somebody else's stands for, below a folder of ours.

    Raises:
        ValueError: it leads out of the folder; the message says how.
    """
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ABSOLUTE.match(name) or (parts and ABSOLUTE.match(parts[0])):
        raise ValueError("is an absolute name")
    if ".." in parts:
        raise ValueError("leads out of the folder")
    if len(parts) > MOST_FOLDERS:
        raise ValueError(f"lies more than {MOST_FOLDERS} folders deep")
    return parts


def _ignores_capitals(folder: Path) -> bool:
    """Whether names that differ only in capitals are one file there, which nothing but trying tells."""
    probe = folder / "probe"
    probe.touch()
    try:
        return probe.with_name("PROBE").exists()
    finally:
        probe.unlink()


class _Writer:
    """Writes the members of one archive below `root` and stops what should not come out of it."""

    def __init__(self, archive: Path, root: Path, size: int, only: Collection[str]):
        self.archive, self.root, self.size, self.only = archive, root, size, set(only)
        self.most_bytes = min(MOST_BYTES, max(GROWTH_FROM, MOST_GROWTH * size))
        self.bytes = self.files = 0
        self.ignores_capitals = _ignores_capitals(root)
        self.seen: dict[str, str] = {}  # a name without what does not tell it from others: as it is
        self.folders = {""}
        self.links: list[tuple[Member, str, str]] = []
        self.found: set[str] = set()

    def add(self, member: Member) -> None:
        """Write a file or make a folder; links wait until everything is there that they may lead to."""
        parts = self._parts(member)
        if member.kind not in ("file", "folder", "link"):
            raise self._stop(member, f"is {member.kind}", HARMFUL)
        if member.kind == "link":
            target = "/".join(self._parts(member, member.target))
        if not parts or not self.wants(parts):
            return
        self.found.update(parts[:-1])
        path = "/".join(parts)
        if member.kind == "folder":
            self._folder(member, path)
            return
        self._folder(member, "/".join(parts[:-1]))
        self._claim(member, path)
        if member.kind == "link":
            self.links.append((member, path, target))
        else:
            with member.open() as content:
                self._copy(content, path)

    def finish(self) -> None:
        """Links become copies of what they lead to; then there must be something."""
        targets = {path: target for _, path, target in self.links}
        for member, path, target in self.links:
            for _ in range(MOST_LINKS - 1):
                target = targets.get(target, target)
            if target in targets or not (self.root / target).is_file():
                what = f"and no file comes after {MOST_LINKS} links" if target in targets else "no file of the archive"
                raise self._stop(member, f"is a link to {member.target!r}, {what}", "pack it without links (tar -h)")
            with open(self.root / target, "rb") as content:
                self._copy(content, path)
        missing = sorted(self.only - self.found)
        if missing:
            raise UserError(f"archive '{self.archive}' has no folder '{missing[0]}', which the recipe wants; {BY_HAND}")
        if not self.files:
            raise UserError(f"archive '{self.archive}' is empty; pack the images again")

    def wants(self, parts: Collection[str]) -> bool:
        return not self.only or not self.only.isdisjoint(parts[:-1])

    def check_space(self, size: int) -> None:
        """There must be room for what the archive says it holds, before anything is written."""
        free = shutil.disk_usage(self.root).free
        if size > free:
            raise NoPlace(
                f"archive '{self.archive}' needs {size / 1e9:,.1f} GB or more in '{self.root.parent}', where "
                f"{free / 1e9:,.1f} GB are free; free some, or choose another disk"
            )

    def count(self, size: int) -> None:
        """So many bytes more come out."""
        self.bytes += size
        if self.bytes > self.most_bytes:
            raise UserError(
                f"archive '{self.archive}' is a bomb: more than {self.most_bytes / 1e9:,.1f} GB come out of it; if you "
                f"trust it, {BY_HAND}"
            )

    def _parts(self, member: Member, target: str | None = None) -> tuple[str, ...]:
        """Where a member, or what it links to, belongs."""
        name = member.name if target is None else target
        try:
            name.encode()
        except UnicodeEncodeError:
            raise _untold(self.archive, name) from None
        try:
            return safe_parts(name)
        except ValueError as error:
            what = str(error) if target is None else f"is a link to {target!r}, which {error}"
            raise self._stop(member, what, HARMFUL) from None

    def _folder(self, member: Member, path: str) -> None:
        if path in self.folders:
            return
        self._folder(member, path.rpartition("/")[0])
        self._claim(member, path)
        (self.root / path).mkdir()
        self.folders.add(path)

    def _claim(self, member: Member, path: str) -> None:
        """Each name once: what differs only in capitals is one file on most disks of Windows and Macs."""
        alike = unicodedata.normalize("NFC", path)
        known = self.seen.setdefault(alike.lower() if self.ignores_capitals else alike, path)
        if known is not path:
            same = "look the same" if alike == unicodedata.normalize("NFC", known) else "are one name on this disk"
            what = "is in it twice" if known == path else f"and {known!r} {same}"
            raise self._stop(member, what, f"rename one and pack it again, or {BY_HAND}")
        self.files += 1
        if self.files > MOST_FILES:
            raise UserError(f"archive '{self.archive}' holds more than {MOST_FILES:,} files; if you mean it, {BY_HAND}")

    def _copy(self, content: IO[bytes], path: str) -> None:
        with open(f"{self.root}/{path}", "xb") as file:
            while block := content.read(BLOCK):
                self.count(len(block))
                file.write(block)

    def _stop(self, member: Member, what: str, hint: str) -> UserError:
        return UserError(f"archive '{self.archive}': {member.name!r} {what}; {hint}")
