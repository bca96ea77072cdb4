"""Files and zips that strangers send: every picture in them once, a sentence for each that is none, and no harm."""

import os
import stat
import struct
import sys
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
from test_images import encoded, picture

from hub_utils.portable import many_uploads
from hub_utils.portable.command import UserError
from hub_utils.portable.many_uploads import Sent, Uploads

PNG = encoded(picture())


def zipped(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w", method) as file:
        for name, content in files.items() if isinstance(files, dict) else files:
            file.writestr(name, content)
    return path


def sent(*paths: Path) -> list[Sent]:
    with Uploads((path.name, path) for path in paths) as uploads:
        found = list(uploads)
        assert len(found) == uploads.count
    return found


def told(*paths: Path) -> dict[str, str]:
    """Names, and what is said of them; "" of those that came through as they are."""
    found = sent(*paths)
    assert all(bool(each.content) != bool(each.problem) for each in found)
    return {each.name: each.problem for each in found}


def whole(path: Path) -> str:
    """What is said of a zip of which nothing is taken."""
    ((name, problem),) = told(path).items()
    assert name == path.name and problem.startswith(("This zip", "What is in this zip", "There is no picture"))
    return problem


def test_files_and_zips_come_one_after_another_in_their_order(tmp_path):
    (tmp_path / "b.png").write_bytes(PNG)
    first = zipped(tmp_path / "first.zip", {"cat/1.png": PNG, "dog/2.png": b"no picture, which is not said here"})
    second = zipped(tmp_path / "called something.else", {"cat/1.png": PNG})
    names = ["first.zip/cat/1.png", "first.zip/dog/2.png", "b.png", "called something.else/cat/1.png"]
    found = sent(first, tmp_path / "b.png", second)
    assert [each.name for each in found] == names
    assert [each.content == PNG for each in found] == [True, False, True, True]


def test_two_of_one_name_stay_two(tmp_path):
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(PNG)
    twice = zipped(tmp_path / "z.zip", [("1.png", PNG), ("1.png", b"other"), ("1.png (2)", b"x")])
    names = [each.name for each in sent(*(tmp_path / folder / "1.png" for folder in "abc"), twice)]
    assert names == ["1.png", "1.png (2)", "1.png (3)", "z.zip/1.png", "z.zip/1.png (2)"]
    assert [each.content for each in sent(twice)] == [PNG, b"other"]


def test_what_systems_leave_is_passed_by_and_what_is_no_picture_is_counted(tmp_path):
    left = {"__MACOSX/cat/._1.png": b"x", "cat/._1.png": b"x", ".DS_Store": b"x", "cat/Thumbs.db": b"x", "cat/": b""}
    other = {"labels.csv": b"x", "README": b"x"}
    archive = zipped(tmp_path / "mac.zip", {"cat/1.png": PNG} | left | other)
    with Uploads([("mac.zip", archive)]) as uploads:
        assert [each.name for each in uploads] == ["mac.zip/cat/1.png"]
        assert uploads.passed_by == 2
    assert whole(zipped(tmp_path / "b.zip", left | other)) == "There is no picture in this zip."
    assert whole(zipped(tmp_path / "c.zip", {})) == "There is no picture in this zip."


def test_names_are_only_shown_and_nothing_is_written(tmp_path):
    names = [
        "../../evil.png",
        "/etc/evil.png",
        "C:\\evil.png",
        "a/../../evil.png",
        "<img src=x>.png",
        "x" * 3000 + ".png",
    ]
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = zipped(inside / "a.zip", dict.fromkeys(names, PNG))
    before = sorted(tmp_path.rglob("*"))
    assert [each.content for each in sent(archive)] == [PNG] * len(names)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_mac_writes_utf8_and_does_not_say_so(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"Bl__te.png": PNG})
    archive.write_bytes(archive.read_bytes().replace(b"Bl__te", "Blüte".encode()))
    assert list(told(archive)) == ["a.zip/Blüte.png"]


def test_members_that_cannot_be_read_are_said_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(many_uploads, "MOST_BYTES", 50_000)
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(link, "/etc/passwd")
        file.writestr("good.png", PNG)
        file.writestr("lzma.png", PNG, zipfile.ZIP_LZMA)
        file.writestr("large.png", bytes(60_000))
        file.writestr("nested.zip", b"PK\x03\x04")
        file.writestr("last.png", PNG)
    said = {name.partition("/")[2]: problem for name, problem in told(path).items()}
    assert said["good.png"] == said["last.png"] == said["nested.zip"] == ""
    assert said["link.png"].startswith("This is a link")
    assert said["lzma.png"].startswith("This file is packed in a way")
    assert said["large.png"].startswith("This file has 0 MB, and")


def test_an_encrypted_zip(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"1.png": PNG})
    content = bytearray(archive.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    assert told(archive) == {"a.zip/1.png": "This file is encrypted. Pack it without a password."}


def test_a_zip_of_ten_thousand_files_is_refused_before_any_is_read(tmp_path, monkeypatch):
    archive = zipped(tmp_path / "a.zip", {f"{number}.png": b"x" for number in range(10_000)}, zipfile.ZIP_STORED)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was read"))
    assert whole(archive) == "This zip holds 10,000 pictures, and 1,000 at once are the limit. Give it in parts."


def test_the_limit_counts_files_and_zips_together(tmp_path, monkeypatch):
    monkeypatch.setattr(many_uploads, "MOST_PICTURES", 3)
    (tmp_path / "1.png").write_bytes(PNG)
    fits = zipped(tmp_path / "a.zip", {"2.png": PNG, "3.png": PNG})
    over = zipped(tmp_path / "b.zip", {"4.png": PNG, "5.png": PNG})
    assert told(tmp_path / "1.png", fits, over) == {
        "1.png": "", "a.zip/2.png": "", "a.zip/3.png": "",
        "b.zip": "This zip holds 2 more pictures, and 3 at once are the limit. Give it in parts.",
    }  # fmt: skip
    with pytest.raises(UserError, match="These are 4 files, and 3 are the limit"):
        Uploads([("1.png", tmp_path / "1.png")] * 4)
    with pytest.raises(UserError, match="Nothing was given"):
        Uploads([])


def test_a_bomb_is_refused_by_what_it_says_of_itself(tmp_path, monkeypatch):
    """Overlapping members, each the same bytes: what comes out of such a zip adds up to petabytes."""
    monkeypatch.setattr(many_uploads, "MOST_UNPACKED", 5_000_000)
    archive = zipped(tmp_path / "a.zip", {f"{number}.png": bytes(1_000_000) for number in range(6)})
    assert archive.stat().st_size < 10_000
    assert whole(archive).startswith("What is in this zip is 0.0 GB, and 0 GB unpacked are the limit")


def lying(path: Path, size: int) -> Path:
    """A member of 40 MB of zeros that says it is `size` bytes, in its own header and in the table of contents."""
    zeros = bytes(40_000_000)
    archive = zipped(path, {"1.png": zeros, "2.png": PNG})
    content = archive.read_bytes().replace(struct.pack("<L", len(zeros)), struct.pack("<L", size))
    archive.write_bytes(content)
    return archive


def test_a_member_that_lies_about_its_size_gives_no_more_than_it_says(tmp_path):
    archive = lying(tmp_path / "a.zip", 1000)
    tracemalloc.start()
    try:
        found = told(archive)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found["a.zip/1.png"].startswith("This file is damaged in its zip") and found["a.zip/2.png"] == ""
    assert peak < 20_000_000
    assert told(lying(tmp_path / "b.zip", 2**32 - 2))["b.zip"].startswith("What is in this zip is 4.3 GB")


def test_a_member_that_says_less_and_has_the_checksum_for_it_is_cut_there(tmp_path):
    archive = lying(tmp_path / "a.zip", 1000)
    crcs = struct.pack("<L", zlib.crc32(bytes(40_000_000))), struct.pack("<L", zlib.crc32(bytes(1000)))
    archive.write_bytes(archive.read_bytes().replace(*crcs))
    assert sent(archive)[0].content == bytes(1000)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sparse files by default")
def test_a_table_of_contents_of_gigabytes_is_not_read(tmp_path):
    archive = tmp_path / "a.zip"
    with archive.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(400_000_000)
        file.seek(400_000_000)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 399_999_000, 1000, 0))
    assert "cut off or damaged" in whole(archive)
    os.truncate(archive, 501_000_000)
    assert "more than 500 MB" in whole(archive)


def test_what_is_cut_or_wrong_anywhere_is_a_sentence(tmp_path):
    good = zipped(tmp_path / "good.zip", {f"{number}.png": PNG for number in range(5)}).read_bytes()
    for number in range(len(good) // 7):
        content = bytearray(good)
        if number % 2:
            del content[number * 7 :]
        else:
            content[number * 7] ^= 0xFF
        bad = tmp_path / "bad.zip"
        bad.write_bytes(content)
        assert all(problem == "" or problem.endswith(".") for problem in told(bad).values()) if content else True


def test_what_is_no_file_is_said_in_its_row(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    said = told(tmp_path / "empty.png", tmp_path / "folder.png", tmp_path / "gone.png")
    assert "is empty" in said["empty.png"] and "a folder" in said["folder.png"] and "not there" in said["gone.png"]
