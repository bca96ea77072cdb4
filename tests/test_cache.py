"""The cache: it knows a file or a content again, never takes one for another, and no fault of its file ends a run."""

import multiprocessing
import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from conftest import write_photo, write_photos

from training.data import cache as module
from training.data.cache import VERSION, Cache, cache_file, identity
from training.data.images import Facts, look
from training.data.intake import read_folder
from training.recipe import Data


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch) -> Path:
    """A cache of the test's own."""
    file = tmp_path / "cache" / "images.sqlite3"
    monkeypatch.setattr(module, "cache_file", lambda: file)
    return file


def facts_of(path: Path) -> Facts:
    return look(path.read_bytes())


def remember(path: Path) -> None:
    with Cache.open() as cache:
        cache.put_facts([(str(path), identity(path.stat()), facts_of(path))])


def known(path: Path) -> Facts | None:
    with Cache.open() as cache:
        return cache.facts([(str(path), identity(path.stat()))])[0]


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    write_photo(path, 0.3, 1)
    return path


def test_it_lies_below_the_hubs_cache_and_is_named_after_its_version():
    from huggingface_hub.constants import HF_HOME

    assert cache_file().is_relative_to(HF_HOME) and cache_file().stem.endswith(f"-{VERSION}")


def test_a_file_is_known_again_with_all_that_was_found(photo):
    assert known(photo) is None
    remember(photo)
    assert known(photo) == facts_of(photo)


def test_what_was_refused_is_known_again_with_the_reason(tmp_path):
    path = tmp_path / "no.png"
    path.write_bytes(b"no image")
    remember(path)
    assert known(path).reason == "not an image, whatever its name says"


def test_another_path_is_not_known(photo, tmp_path):
    remember(photo)
    with Cache.open() as cache:
        assert cache.facts([(str(tmp_path / "other.png"), identity(photo.stat()))]) == [None]


@pytest.mark.parametrize("change", ["touched", "appended", "rewritten", "replaced", "set back"])
def test_a_file_that_changed_is_not_known(photo, change):
    remember(photo)
    before = photo.stat()
    content = photo.read_bytes()
    if change == "touched":
        os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    elif change == "appended":
        with photo.open("ab") as file:
            file.write(b"\0")
        os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "rewritten":
        write_photo(photo, 0.6, 2)
    elif change == "replaced":
        other = photo.with_name("other.png")
        write_photo(other, 0.6, 3)
        os.replace(other, photo)
    elif change == "set back":  # the same size, and the old time: only the time of the change of the entry tells
        if os.name == "nt":
            pytest.skip("Windows' st_ctime is the time of creation")
        photo.write_bytes(bytes(len(content)))
        os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known(photo) is None


def test_what_is_found_anew_takes_the_place_of_the_old(photo):
    remember(photo)
    write_photo(photo, 0.6, 2)
    remember(photo)
    assert known(photo).sha256 == facts_of(photo).sha256


def test_keypoints_and_comparisons_go_by_content():
    with Cache.open() as cache:
        assert cache.keypoints("a") is None and cache.comparison("a b whole 0") is None
        cache.put_keypoints([("a", b"places", b"descriptors"), ("none", b"", b"")])
        cache.put_comparisons([("a b whole 0", ["near", 0.98]), ("a c whole 0", [])])
    with Cache.open() as cache:
        assert cache.keypoints("a") == (b"places", b"descriptors")
        assert cache.keypoints("none") == (b"", b"")
        assert cache.comparison("a b whole 0") == ["near", 0.98]
        assert cache.comparison("a c whole 0") == []  # compared, and not alike: no need to compare again
        assert cache.comparison("b a whole 0") is None


def spoil(file: Path, how: str) -> None:
    if how == "no database":
        file.write_bytes(b"somebody else's file, long enough to be one " * 100)
    elif how == "cut off":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "overwritten":  # the first page is whole, the others are not
        content = file.read_bytes()
        file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


@pytest.mark.parametrize("how", ["no database", "cut off", "empty", "overwritten"])
def test_a_broken_file_is_replaced(photo, file, how):
    remember(photo)
    spoil(file, how)
    assert known(photo) is None
    remember(photo)  # whoever finds it broken only while reading removes it, and the next one begins anew
    remember(photo)
    assert known(photo) == facts_of(photo)


def test_where_no_file_can_be_all_is_found_out_anew(photo, file):
    file.parent.write_text("a file where the folder should be")
    with Cache.open() as cache:
        cache.put_facts([(str(photo), identity(photo.stat()), facts_of(photo))])
        assert cache.facts([(str(photo), identity(photo.stat()))]) == [facts_of(photo)]  # for this run, in memory
    assert known(photo) is None


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_file_is_read_and_not_written(photo, file):
    remember(photo)
    file.chmod(stat.S_IRUSR)
    file.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert known(photo) == facts_of(photo)
        remember(photo)
    finally:
        file.parent.chmod(stat.S_IRWXU)


def test_a_database_that_may_only_be_read_is_read(photo, file, monkeypatch):
    """As root, too: SQLite itself refuses to write."""
    remember(photo)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **how: connect(f"file:{path}?mode=ro", uri=True, **how))
    assert known(photo) == facts_of(photo)
    write_photo(photo, 0.6, 2)
    remember(photo)
    assert known(photo) is None


def test_a_file_that_another_holds_locked_costs_time_and_nothing_else(photo, file, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    remember(photo)
    other = sqlite3.connect(file)
    other.execute("BEGIN EXCLUSIVE")
    assert known(photo) is None
    remember(photo)
    other.rollback()
    other.close()
    assert known(photo) == facts_of(photo)


def _fill(file: Path, name: str) -> None:
    module.cache_file = lambda: file
    with Cache.open() as cache:
        for batch in range(20):
            cache.put_comparisons([(f"{name} {batch} {i}", ["near", 1.0]) for i in range(50)])


def test_two_processes_write_at_once_and_nothing_is_lost(file):
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_fill, args=(file, name)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    with Cache.open() as cache:
        missing = [
            f"{name} {batch} {i}"
            for name in ("one", "two")
            for batch in range(20)
            for i in range(50)
            if cache.comparison(f"{name} {batch} {i}") is None
        ]
    assert missing == []


def test_threads_each_open_their_own(file):
    def fill(name):
        with Cache.open() as cache:
            cache.put_keypoints([(f"{name} {i}", b"places", b"") for i in range(50)])

    threads = [threading.Thread(target=fill, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Cache.open() as cache:
        assert all(cache.keypoints(f"{name} {i}") for name in range(6) for i in range(50))


def test_a_second_look_at_a_folder_reads_no_file(tmp_path):
    folder = write_photos(tmp_path / "photos", {"red": 3, "blue": 3})
    first, _ = read_folder(folder, Data(), progress=False)
    before = {path: path.stat() for path in folder.rglob("*.png")}
    for path, status in before.items():  # no image any more, behind the cache's back: same size, and its identity kept
        path.write_bytes(bytes(status.st_size))
    with Cache.open() as cache:
        cache._connection.executemany(
            "UPDATE files SET identity = ? WHERE path = ?",
            [(identity(path.stat()), str(path.resolve())) for path in before],
        )
        assert cache._connection.total_changes == len(before)
        cache._connection.commit()
    second, skipped = read_folder(folder, Data(), progress=False)
    assert second == first and [each.facts for each in second] == [each.facts for each in first] and not skipped
