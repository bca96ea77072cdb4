"""Archives as people pack them become folders; what is broken or harmful becomes one line and leaves nothing behind."""

import io
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT
from filelock import FileLock

from training.data import archives
from training.data.archives import is_archive, unpack, unpacked
from training.recipe import UserError

FILES = {"cat/1.jpg": b"one" * 9000, "cat/Blüte 花 [1].jpg": b"two", "dog/deep/er/3.jpg": b"", "notes.txt": b"hello"}
TARS = {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w", method) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes | tarfile.TarInfo], mode: str = "w") -> Path:
    """A tar file of these contents, or members such as `link` makes."""
    with tarfile.open(path, mode) as file:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                file.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


def packed(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of the kind that its name says."""
    kind = next((kind for kind in TARS if path.name.endswith(f".{kind}")), None)
    return tarred(path, files, TARS[kind]) if kind else zipped(path, files)


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def zip_link(path: Path, name: str, target: str, mode: int = stat.S_IFLNK | 0o777) -> Path:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(info, target)
        file.writestr("cat/1.jpg", b"one")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(archive: Path, **options) -> str:
    """The one line that an archive is refused with; nothing of it is left, inside or outside of the folder."""
    folder = archive.parent / "out" / "photos"
    before = sorted(archive.parent.glob("*"))
    with pytest.raises(UserError) as refused:
        unpack(archive, folder, progress=False, **options)
    assert [path.name for path in folder.parent.iterdir()] == [".photos.lock"]
    assert sorted(set(archive.parent.glob("*")) - {folder.parent}) == [path for path in before if path != folder.parent]
    text = str(refused.value)
    assert "\n" not in text and str(archive) in text and "; " in text
    return text


KINDS = ["zip", *TARS]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_unpacked_to_what_was_packed(kind, tmp_path):
    archive = packed(tmp_path / f"photos.{kind}", FILES)
    assert is_archive(archive)
    unpack(archive, tmp_path / "new" / "out", progress=False)
    assert contents(tmp_path / "new" / "out") == FILES


def test_an_archive_is_told_by_its_name_and_opened_by_its_content(tmp_path):
    names = ["a.ZIP", "a.tar", "b.c.TGZ", "a.tar.zst", "a.tbz2", "a.txz", "a.rar", "a.7Z"]
    assert all(is_archive(tmp_path / name) for name in names)
    assert not any(is_archive(tmp_path / name) for name in ["a.jpg", "zip", "a.gz", "a"])
    unpack(tarred(tmp_path / "called.zip", FILES, "w:gz"), tmp_path / "one", progress=False)
    unpack(zipped(tmp_path / "called.tar", FILES), tmp_path / "two", progress=False)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == FILES


def test_a_tar_that_holds_a_zip_and_a_zip_behind_a_program(tmp_path):
    inner = zipped(tmp_path / "inner.zip", {"x": b"y"}).read_bytes()
    unpack(tarred(tmp_path / "a.tar", {"inner.zip": inner}), tmp_path / "one", progress=False)
    assert contents(tmp_path / "one") == {"inner.zip": inner}
    (tmp_path / "a.exe.zip").write_bytes(b"MZ" + b"\x90" * 3000 + inner)
    unpack(tmp_path / "a.exe.zip", tmp_path / "two", progress=False)
    assert contents(tmp_path / "two") == {"x": b"y"}


@pytest.mark.skipif(archives.zstd is not None, reason="this Python reads Zstandard")
def test_zstandard_is_refused_where_python_cannot_read_it(tmp_path):
    (tmp_path / "a.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(600))
    assert "Zstandard, 3.14 and later can; unpack it yourself" in refusal(tmp_path / "a.tar.zst")


@pytest.mark.skipif(archives.zstd is None, reason="this Python cannot read Zstandard")
def test_zstandard_is_unpacked_where_python_can_read_it(tmp_path):
    plain = tarred(tmp_path / "a.tar", FILES).read_bytes()
    (tmp_path / "a.tar.zst").write_bytes(archives.zstd.compress(plain))
    unpack(tmp_path / "a.tar.zst", tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == FILES


@pytest.mark.skipif(os.name == "nt", reason="has no such permissions")
def test_permissions_are_those_of_any_new_file(tmp_path):
    secret, program, closed = tarfile.TarInfo(), tarfile.TarInfo(), link("", tarfile.DIRTYPE)
    secret.mode, program.mode, closed.mode = 0o000, 0o6777, 0o000
    archive = tarred(tmp_path / "a.tar", {"cat": closed, "cat/1.jpg": secret, "cat/2.jpg": program})
    before = os.umask(0o022)
    try:
        unpack(archive, tmp_path / "out", progress=False)
    finally:
        os.umask(before)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    }
    assert modes == {"out": 0o755, "cat": 0o755, "1.jpg": 0o644, "2.jpg": 0o644}


def test_names_as_windows_and_macs_write_them(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"cat\\1.jpg": b"1", "dog\\": b"", "dog\\2.jpg": b"2", "./x/./3.jpg": b"3"})
    unpack(archive, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == {"cat/1.jpg": b"1", "dog/2.jpg": b"2", "x/3.jpg": b"3"}
    # A Mac writes UTF-8 and does not say so.
    archive = zipped(tmp_path / "mac.zip", {"Bl__te/1.jpg": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"Bl__te", "Blüte".encode()))
    unpack(archive, tmp_path / "mac", progress=False)
    assert contents(tmp_path / "mac") == {"Blüte/1.jpg": b"1"}


def test_only_some_folders_are_unpacked_wherever_they_lie(tmp_path):
    files = {"x/Original/cat/1.jpg": b"1", "x/Segmented/cat/1.jpg": b"2", "Original.jpg": b"3", "More/4.jpg": b"4"}
    for kind in ("zip", "tar.gz"):
        archive = packed(tmp_path / f"a.{kind}", files)
        unpack(archive, tmp_path / kind, progress=False, only=["Original", "More"])
        assert set(contents(tmp_path / kind)) == {"x/Original/cat/1.jpg", "More/4.jpg"}
        assert "has no folder 'Orginal'" in refusal(archive, only=["Orginal", "More"])


# Links and devices


def test_links_to_files_of_the_archive_become_copies_of_them(tmp_path):
    members = {
        "best/1.jpg": link("../cat/1.jpg"),
        "best/2.jpg": link("1.jpg"),
        "cat/1.jpg": b"one",
        "again.jpg": link("cat/1.jpg", tarfile.LNKTYPE),
    }
    unpack(tarred(tmp_path / "a.tar", members), tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == dict.fromkeys(members, b"one")
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    unpack(zip_link(tmp_path / "a.zip", "best/1.jpg", "../cat/1.jpg"), tmp_path / "zip", progress=False)
    assert contents(tmp_path / "zip") == {"best/1.jpg": b"one", "cat/1.jpg": b"one"}


def test_many_links_take_no_time_and_long_chains_of_them_are_refused(tmp_path):
    began = time.monotonic()
    chain = {f"{number}": link(f"{number + 1}") for number in range(4000)} | {"4000": b"one"}
    assert "'0' is a link to '1', and no file comes after 40 links; pack it" in refusal(
        tarred(tmp_path / "a.tar", chain)
    )
    allowed = {f"{number}": link(f"{number + 1}") for number in range(40)} | {"40": b"one"}
    unpack(tarred(tmp_path / "b.tar", allowed), tmp_path / "chain", progress=False)
    assert contents(tmp_path / "chain") == dict.fromkeys(allowed, b"one")
    star = {"one": b"one"} | {f"{number}": link("one") for number in range(4000)}
    unpack(tarred(tmp_path / "c.tar", star), tmp_path / "star", progress=False)
    assert len(contents(tmp_path / "star")) == 4001
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../secret", "../../out/../secret", "C:\\secret", "..\\..\\secret"]
)
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, "zip"])
def test_links_that_lead_out_are_refused(target, kind, tmp_path):
    (tmp_path / "secret").write_text("secret")
    if kind == "zip":
        archive = zip_link(tmp_path / "a.zip", "cat/link.jpg", target)
    else:
        archive = tarred(tmp_path / "a.tar", {"cat/link.jpg": link(target, kind), "cat/1.jpg": b"one"})
    told = refusal(archive)
    assert "'cat/link.jpg' is a link to " in told and "publisher" in told


@pytest.mark.parametrize(
    "members",
    [
        {"a": link("b"), "b": link("a"), "1.jpg": b"one"},
        {"a": link("nothing"), "1.jpg": b"one"},
        {"a": link("cat"), "cat/1.jpg": b"one"},
        {"a": link("a"), "1.jpg": b"one"},
    ],
)
def test_links_to_no_file_are_refused(members, tmp_path):
    assert "'a' is a link to " in (told := refusal(tarred(tmp_path / "a.tar", members))) and "tar -h" in told


def test_nothing_is_written_through_a_link(tmp_path):
    """The classic: a link to a folder outside, then a file "in" it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for number, target in enumerate([str(outside), "../../outside"]):
        refusal(tarred(tmp_path / f"{number}.tar", {"a": link(target), "a/evil.txt": b"evil"}))
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices_and_pipes_are_refused(kind, tmp_path):
    assert "'cat/x' is a device" in refusal(tarred(tmp_path / "a.tar", {"cat/x": link("", kind), "1.jpg": b""}))
    assert "'cat/x' is a device" in refusal(zip_link(tmp_path / "a.zip", "cat/x", "", stat.S_IFIFO | 0o644))


# Names


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "cat/../../evil.txt", "/evil.txt", "C:\\evil.txt", "C:/evil.txt", "C:evil.txt", "..\\evil.txt"]
    + ["\\\\server\\share\\evil.txt", "\\evil.txt", "cat/..", "../"],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_are_refused(name, kind, tmp_path):
    told = refusal(packed(tmp_path / f"a.{kind}", {"cat/1.jpg": b"one", name: b"evil"}))
    assert "is an absolute name" in told or "leads out of the folder" in told
    assert "get it from its publisher again" in told


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["cat/1.jpg", "cat/1.JPG"], "'cat/1.JPG' and 'cat/1.jpg' are one name on this disk"),
        (["Cat/1.jpg", "cat/2.jpg"], "'cat/2.jpg' and 'Cat' are one name on this disk"),
        (["Blu\u0308te/1.jpg", "Blüte/2.jpg"], "look the same"),
        (["cat", "cat/1.jpg"], "is in it twice"),
        (["cat/1.jpg", "cat/./1.jpg"], "is in it twice"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(kind, names, told, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_ignores_capitals", lambda folder: True)
    assert told in refusal(packed(tmp_path / f"a.{kind}", {name: name.encode() for name in names}))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_differ_in_capitals_are_told_apart_where_the_disk_does(kind, tmp_path):
    (tmp_path / "x").touch()
    archive = packed(tmp_path / f"a.{kind}", {"Cat/1.jpg": b"1", "cat/1.jpg": b"2", "cat/1.JPG": b"3"})
    if (tmp_path / "X").exists():
        assert "are one name on this disk" in refusal(archive)
    else:
        unpack(archive, tmp_path / "out", progress=False)
        assert contents(tmp_path / "out") == {"Cat/1.jpg": b"1", "cat/1.jpg": b"2", "cat/1.JPG": b"3"}


def as_bytes(archive: Path, old: bytes, new: bytes) -> Path:
    """The archive with other names in it, of the same length."""
    archive.write_bytes(archive.read_bytes().replace(old, new))
    return archive


def test_names_whose_code_page_does_not_matter_are_taken(tmp_path):
    """Windows writes the code page of its consoles: 437 in America, 850 in Western Europe."""
    archive = as_bytes(zipped(tmp_path / "a.zip", {"Bl_te/1.jpg": b"1"}), b"Bl_te", b"Bl\x81te")
    unpack(archive, tmp_path / "blossom", progress=False)
    assert contents(tmp_path / "blossom") == {"Blüte/1.jpg": b"1"}
    archive = as_bytes(zipped(tmp_path / "b.zip", {"_le/1.jpg": b"1"}), b"_le", "Øle".encode("cp850"))
    told = refusal(archive)
    assert "the code page of its names cannot be told" in told and "UTF-8" not in told and "unpack it yourself" in told


def test_names_in_the_extra_field_for_them_are_taken_if_they_are_of_this_name(tmp_path):
    def with_field(path: Path, name: bytes, real: str, version: int = 1, of: bytes | None = None) -> Path:
        content = struct.pack("<BL", version, zlib.crc32(of or name)) + real.encode()
        info = zipfile.ZipInfo(name.decode("cp437").replace("Ø", "_"))
        info.extra = b"\x99\x99\x01\x00x" + struct.pack("<HH", 0x7075, len(content)) + content
        info.filename = "_" * len(name)
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(info, b"1")
        return as_bytes(path, b"_" * len(name), name)

    danish, field = "Øle/1.jpg".encode("cp850"), {"Øle/1.jpg": b"1"}
    unpack(with_field(tmp_path / "a.zip", danish, "Øle/1.jpg"), tmp_path / "a", progress=False)
    assert contents(tmp_path / "a") == field
    unpack(with_field(tmp_path / "b.zip", b"??/1.jpg", "花/1.jpg"), tmp_path / "b", progress=False)
    assert contents(tmp_path / "b") == {"花/1.jpg": b"1"}
    unpack(with_field(tmp_path / "c.zip", b"cat/1.jpg", "dog/1.jpg", of=b"pig/1.jpg"), tmp_path / "c", progress=False)
    assert contents(tmp_path / "c") == {"cat/1.jpg": b"1"}
    for number, wrong in enumerate(({"version": 2}, {"of": b"another"})):
        assert "cannot be told" in refusal(with_field(tmp_path / f"d{number}.zip", danish, "Øle/1.jpg", **wrong))
    assert "leads out of the folder" in refusal(with_field(tmp_path / "e.zip", b"cat/1.jpg", "../1.jpg"))


def test_names_that_are_not_utf8_are_refused(tmp_path):
    archive = tarred(tmp_path / "a.tar", {"Bl\udc81te/1.jpg": b"1"})
    assert "the code page of its names cannot be told" in refusal(archive)


def test_a_name_with_a_line_break_is_told_in_one_line(tmp_path):
    assert r"'../a\nb'" in refusal(tarred(tmp_path / "a.tar", {"../a\nb": b"1"}))


def test_too_many_folders_in_one_another_are_refused(tmp_path):
    assert "more than 50 folders deep" in refusal(tarred(tmp_path / "a.tar", {"a/" * 60 + "1.jpg": b""}))


# Broken, encrypted, empty, something else


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_what_is_cut_off_is_refused(kind, share, tmp_path):
    files = {f"cat/{number}.jpg": random.Random(number).randbytes(20_000) for number in range(20)}
    archive = packed(tmp_path / f"a.{kind}", files)
    os.truncate(archive, int(archive.stat().st_size * share))
    assert "is cut off or corrupt" in (told := refusal(archive)) and "copy or download it again" in told


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_tar_that_is_cut_between_two_members_is_refused(kind, tmp_path):
    """There `tarfile` says nothing: it takes whatever is no header for the end."""
    plain = tarred(tmp_path / "x", {f"{number}.jpg": bytes(512) for number in range(9)}).read_bytes()
    for number, cut in enumerate((plain[: 3 * 1024], plain[: 3 * 1024 + 200], plain[: 3 * 1024] + b"x" * 512)):
        archive = tmp_path / f"{number}.{kind}"
        archive.write_bytes(cut)
        if kind == "tar.gz":
            import gzip

            archive.write_bytes(gzip.compress(cut))
        assert "'2.jpg'" in (told := refusal(archive)) and "the end is missing" in told


def test_a_wrong_checksum_is_refused_in_every_kind_that_has_one(tmp_path):
    blob = random.Random(1).randbytes(50_000)
    for kind in ("zip", "tar.gz", "tar.bz2", "tar.xz"):
        archive = packed(tmp_path / f"a.{kind}", {"cat/1.jpg": blob, "cat/2.jpg": b"two"})
        content = bytearray(archive.read_bytes())
        content[20_000] ^= 1
        archive.write_bytes(content)
        assert "is cut off or corrupt" in refusal(archive), kind
    gz = packed(tmp_path / "b.tar.gz", {"cat/1.jpg": blob})
    gz.write_bytes(gz.read_bytes()[:-8] + bytes(8))  # only the checksum behind the end of the tar file is wrong
    assert "CRC" in refusal(gz)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_wrong_with_it_is_one_line(kind, tmp_path):
    """Flipped, cut and overwritten at random: refused or unpacked, never a library's own exception."""
    good = packed(tmp_path / f"a.{kind}", FILES).read_bytes()
    refused = 0
    for seed in range(150):
        draw, content = random.Random(seed), bytearray(good)
        for _ in range(draw.choice((1, 3, 30))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        if seed % 5 == 0:
            del content[draw.randrange(len(content)) :]
        bad = tmp_path / "bad" / f"{seed}.{kind}"
        bad.parent.mkdir(exist_ok=True)
        bad.write_bytes(content)
        try:
            unpack(bad, tmp_path / "out" / str(seed), progress=False)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
            assert not (tmp_path / "out" / str(seed)).exists()
    assert refused > 50
    assert not list((tmp_path / "out").glob(".*.unpacking"))


def test_an_encrypted_archive_is_refused(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"cat/1.jpg": b"one"})
    content = bytearray(archive.read_bytes())
    content[6] |= 1  # in the member's own header, and in the directory at the end
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    assert "'cat/1.jpg' is encrypted; unpack it yourself" in refusal(archive)


def test_a_method_that_python_does_not_know_is_named(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"cat/1.jpg": b"one"})
    content = bytearray(archive.read_bytes())
    content[8] = content[content.index(b"PK\x01\x02") + 10] = 9  # Deflate64, of Windows Explorer beyond 2 GB
    archive.write_bytes(content)
    assert "packed in a way that Python cannot read" in (told := refusal(archive)) and "give the folder" in told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is an empty file"),
        (b"\n<!DOCTYPE html><html><head><title>Sign in</title>", "is a web page"),
        (b"<HTML>", "is a web page"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(600), "is a RAR archive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "is a 7-Zip archive"),
        (b"\xff\xd8\xff\xe0" + bytes(4000), "is neither a zip nor a tar file"),
        (b"hello", "is neither a zip nor a tar file"),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_what_is_no_archive_is_called_what_it_is(content, told, kind, tmp_path):
    (tmp_path / f"a.{kind}").write_bytes(content)
    assert told in refusal(tmp_path / f"a.{kind}")


def test_a_rar_archive_by_its_own_name_is_refused_with_a_next_step(tmp_path):
    (tmp_path / "my.rar").write_bytes(b"Rar!\x1a\x07\x01\x00" + bytes(600))
    with pytest.raises(UserError, match="is a RAR archive, which Python cannot read; unpack it yourself"):
        unpacked(tmp_path / "my.rar", tmp_path / "into")


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_archive_is_refused(kind, tmp_path):
    assert "is empty" in refusal(packed(tmp_path / f"a.{kind}", {}))


def test_a_missing_archive_and_a_folder_that_exists_are_refused(tmp_path):
    (tmp_path / "out").mkdir()
    archive = zipped(tmp_path / "a.zip", FILES)
    with pytest.raises(UserError, match="exists already; nothing is unpacked over it"):
        unpack(archive, tmp_path / "out", progress=False)
    for missing in (tmp_path / "none.zip", tmp_path / "out"):
        with pytest.raises(UserError, match=r"cannot be opened or written \((No such file|Is a directory)"):
            unpack(missing, tmp_path / "other", progress=False)
        assert not (tmp_path / "other").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    archive = zipped(tmp_path / "a.zip", FILES)
    with pytest.raises(UserError, match=r"a\.zip.*cannot be opened or written \(.*\); choose another place"):
        unpack(archive, archive / "below" / "out", progress=False)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="has no such folder")
def test_a_place_where_nothing_can_be_made_is_named_at_once(tmp_path):
    with pytest.raises(UserError, match=r"'/proc/.*' cannot be opened or written \(.*\); choose another place"):
        unpack(zipped(tmp_path / "a.zip", FILES), Path("/proc/out"), progress=False)


# Bombs


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_stopped_by_what_comes_out(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "GROWTH_FROM", 500_000)
    monkeypatch.setattr(archives, "MOST_GROWTH", 3)
    archive = packed(tmp_path / f"a.{kind}", {f"cat/{number}": bytes(100_000) for number in range(4)})
    unpack(archive, tmp_path / "allowed", progress=False)  # little comes out, however much it grows
    bomb = packed(tmp_path / f"bomb.{kind}", {f"cat/{number}": bytes(100_000) for number in range(9)})
    if kind == "tar":
        monkeypatch.setattr(archives, "MOST_BYTES", 500_000)
    assert "is a bomb: more than 0.0 GB" in refusal(bomb)


def test_sizes_that_an_archive_merely_claims_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "GROWTH_FROM", 500_000)
    archive = zipped(tmp_path / "a.zip", {"cat/1": bytes(1_000_000)})
    content = archive.read_bytes().replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    archive.write_bytes(content)
    assert "is cut off or corrupt" in refusal(archive)


def test_links_cannot_make_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 500_000)
    members = {"cat/0": bytes(100_000)} | {f"cat/{number}": link("0") for number in range(1, 9)}
    assert "is a bomb" in refusal(tarred(tmp_path / "a.tar", members))


def test_a_name_that_claims_gigabytes_is_not_read(tmp_path):
    """The header of a long name says how long it is, and `tarfile` would read it in one go."""
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as file:
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 10 * 2**30
        file.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
        file.fileobj.write(bytes(100_000))
    assert "a header of 10,737,418," in refusal(tmp_path / "a.tar.gz")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_too_many_files_are_refused(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_FILES", 5)
    archive = packed(tmp_path / f"a.{kind}", {f"{number}/1.jpg": b"" for number in range(3)})
    assert "holds more than 5 files" in refusal(archive)


# Space


def test_what_cannot_fit_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 9000, 9000))
    for kind in ("zip", "tar"):
        assert "needs 0.0 GB or more in" in refusal(packed(tmp_path / f"a.{kind}", FILES))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a megabyte, where the system lets us make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_disk_that_fills_up_half_way_is_left_as_it_was(kind, small_disk, tmp_path, monkeypatch):
    archive = packed(tmp_path / f"a.{kind}", {f"cat/{number}.bmp": bytes(300_000) for number in range(9)})
    full = shutil._ntuple_diskusage(10**9, 0, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)  # another process takes the space after we looked
    with pytest.raises(UserError, match=r"no space left in .*disk' to unpack archive .*; free some and try again"):
        unpack(archive, small_disk / "out", progress=False)
    assert [path.name for path in small_disk.iterdir()] == [".out.lock"]
    with pytest.raises(UserError, match="no space left"):  # and now the same with 900 kB for one of nine files
        unpack(packed(tmp_path / "b.zip", {"1.bmp": bytes(2_000_000)}), small_disk / "out", progress=False)


# Interrupted, repeated, at once

UNPACK = """
import sys, time
from pathlib import Path
from training.data import archives
whole = archives._Writer.add
def slow(self, member):
    time.sleep(0.02)
    whole(self, member)
archives._Writer.add = slow
archives.unpack(Path(sys.argv[1]), Path(sys.argv[2]), progress=False)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_attempt_leaves_no_data_and_the_next_one_none_of_its_remains(how, tmp_path):
    archive = zipped(tmp_path / "a.zip", {f"cat/{number}.jpg": b"x" for number in range(500)})
    out, partial = tmp_path / "data" / "out", tmp_path / "data" / ".out.unpacking"
    process = subprocess.Popen([sys.executable, "-c", UNPACK, archive, out], cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not list(partial.glob("cat/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    process.communicate(timeout=30)
    assert not out.exists()
    assert partial.exists() == (how == signal.SIGKILL)
    if partial.exists():
        (partial / "left over.jpg").touch()
    unpack(archive, out, progress=False)
    assert len(contents(out)) == 500
    assert not partial.exists()


def test_an_archive_is_unpacked_once_and_again_when_it_changes(tmp_path):
    archive = zipped(tmp_path / "my photos.tar.zip", FILES)
    folder = unpacked(archive, tmp_path / "into")
    assert folder.name == "my photos.tar"  # where the images lie flat, this is their class
    assert folder.parent.parent == tmp_path / "into" and len(folder.parent.name) == 8
    assert sorted(path.name for path in folder.parent.iterdir()) == [".my photos.tar.lock", "my photos.tar"]
    assert contents(folder) == FILES
    marked = folder / "marked"
    marked.touch()
    assert unpacked(archive, tmp_path / "into") == folder and marked.exists()
    zipped(archive, {"cat/1.jpg": b"changed"})
    changed = unpacked(archive, tmp_path / "into")
    assert changed != folder and contents(changed) == {"cat/1.jpg": b"changed"}
    with pytest.raises(UserError, match=r"none\.zip' cannot be opened"):
        unpacked(tmp_path / "none.zip", tmp_path / "into")
    assert unpacked(tarred(tmp_path / "b.tar.gz", FILES, "w:gz"), tmp_path / "into").name == "b"


def test_what_killed_attempts_at_an_archive_left_goes_though_it_has_changed_and_what_is_at_work_stays(tmp_path):
    into = tmp_path / "into"
    left, at_work, other = (
        into / "0" / ".[1].unpacking",
        into / "1" / ".[1].unpacking",
        into / "0" / ".b.unpacking",
    )
    for folder in (left, at_work, other):
        folder.mkdir(parents=True)
        (folder / "1.jpg").touch()
    with FileLock(into / "1" / ".[1].lock"):
        assert contents(unpacked(zipped(tmp_path / "[1].zip", FILES), into)) == FILES
    assert [path.exists() for path in (left, at_work, other)] == [False, True, True]


def test_several_at_once_unpack_it_once(tmp_path, monkeypatch):
    archive = zipped(tmp_path / "a.zip", {f"cat/{number}.jpg": b"x" for number in range(200)})
    times, once = [], archives._unpack
    monkeypatch.setattr(archives, "_unpack", lambda *args: (times.append(1), time.sleep(0.1), once(*args)))
    with ThreadPoolExecutor(6) as pool:
        folders = set(pool.map(lambda _: unpacked(archive, tmp_path / "into"), range(6)))
    assert len(folders) == len(times) == 1
    assert len(contents(folders.pop())) == 200
