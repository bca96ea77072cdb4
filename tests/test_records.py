"""Arrays that are kept by key: read as they were written, never wrong, never in the way."""

import hashlib
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT

from training.data import records
from training.data.records import Records, records_folder

SHAPE = (3, 4)
COST = 32 + 4 + 12  # bytes a place


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "records_folder", lambda: tmp_path / "records")
    monkeypatch.setitem(globals(), "records_folder", lambda: tmp_path / "records")
    monkeypatch.setattr(records, "_OPENED", set())


def keys(*numbers: int) -> list[bytes]:
    return [hashlib.sha256(str(number).encode()).digest() for number in numbers]


def value(number: int) -> np.ndarray:
    return np.arange(12, dtype=np.uint8).reshape(SHAPE) + np.uint8(number)


def opened(*numbers: int, name: str = "a", limit: int | None = None) -> Records:
    return Records.open(name, SHAPE, "uint8", keys(*numbers), limit)


def test_what_was_put_is_read_by_whoever_opens_it_next():
    first = opened(0, 1, 2)
    assert first.missing() == [0, 1, 2] and first.get(1) is None
    assert first.put(1, value(1)) and first.put(2, value(2))
    second = opened(5, 2, 1)
    assert second.missing() == [0]
    np.testing.assert_array_equal(second.get(1), value(2))
    np.testing.assert_array_equal(second.get(2), value(1))
    assert second.put(0, value(5))
    np.testing.assert_array_equal(opened(5).get(0), value(5))
    np.testing.assert_array_equal(first.get(1), value(1))


def test_shapes_kinds_and_names_are_kept_apart():
    opened(0).put(0, value(0))
    assert opened(0, name="b").get(0) is None
    assert Records.open("a", (4, 3), "uint8", keys(0)).get(0) is None
    floats = Records.open("a", SHAPE, "float32", keys(0))
    assert floats.put(0, value(0) / 3)
    np.testing.assert_array_equal(Records.open("a", SHAPE, "float32", keys(0)).get(0), (value(0) / 3).astype("float32"))


def test_values_cannot_be_changed_by_who_reads_them():
    store = opened(0)
    store.put(0, value(0))
    with pytest.raises(ValueError):
        store.get(0)[0] = 1


def test_equal_keys_share_a_place():
    store = opened(7, 7)
    store.put(0, value(7))
    np.testing.assert_array_equal(store.get(1), value(7))
    assert (records_folder() / "a-uint8-3-4" / "keys").stat().st_size == 64


@pytest.mark.parametrize("name", ["keys", "sums", "values"])
def test_damage_is_seen_and_mended(name):
    store = opened(0, 1)
    store.put(0, value(0)), store.put(1, value(1))
    path = records_folder() / "a-uint8-3-4" / name
    content = bytearray(path.read_bytes())
    content[33 if name == "keys" else 1] ^= 255
    path.write_bytes(content)
    again = opened(0, 1)
    assert again.get(0) is None
    np.testing.assert_array_equal(again.get(1), value(1))
    assert again.put(0, value(0))
    np.testing.assert_array_equal(opened(0).get(0), value(0))


@pytest.mark.parametrize("name", ["keys", "sums", "values"])
@pytest.mark.parametrize("length", [0, 5])
def test_files_that_are_cut_off(name, length):
    store = opened(0, 1)
    store.put(0, value(0)), store.put(1, value(1))
    del store
    os.truncate(records_folder() / "a-uint8-3-4" / name, length)
    again = opened(0, 1)
    for row in range(2):
        found = again.get(row)
        assert found is None or (found == value(row)).all()
        assert again.put(row, value(row))
        np.testing.assert_array_equal(again.get(row), value(row))


def test_beyond_the_limit_there_is_no_place():
    store = opened(0, 1, 2, limit=2 * COST)
    assert [store.put(row, value(row)) for row in range(3)] == [True, True, False]
    assert store.missing() == [2]
    np.testing.assert_array_equal(opened(1, limit=0).get(0), value(1))
    records._OPENED.clear()
    assert opened(1, 9, limit=0).missing() == [1]
    assert not opened(3, limit=2 * COST).put(0, value(3))
    assert opened(3, limit=3 * COST).put(0, value(3))


def test_the_limit_is_for_all_and_the_oldest_gives_way():
    for age, name in enumerate("xyz"):
        opened(0, name=name, limit=3 * COST).put(0, value(0))
        for each in (records_folder() / f"{name}-uint8-3-4").iterdir():
            os.utime(each, (1000 + age, 1000 + age))
        records._OPENED.clear()
    opened(0, name="new", limit=3 * COST).put(0, value(0))
    there = {each.name[:-10] for each in records_folder().iterdir() if each.is_dir()}
    assert there == {"y", "z", "new"}


def test_what_this_process_has_opened_counts_and_stays():
    opened(0, 1, 2, name="x", limit=9 * COST).put(0, value(0))
    assert opened(0, 1, 2, name="y", limit=5 * COST).room == 2
    assert opened(0, name="z", limit=5 * COST).room == 0
    np.testing.assert_array_equal(opened(0, name="x").get(0), value(0))


def test_a_share_of_the_limit_is_left_for_others():
    keys_ = keys(*range(8))
    assert Records.open("a", SHAPE, "uint8", keys_, 8 * COST, share=0.75).room == 6
    assert opened(*range(8), name="b", limit=8 * COST).room == 2


def test_what_has_its_room_takes_none_from_others():
    def open_both() -> tuple[Records, Records]:
        records._OPENED.clear()  # as another process
        pixels = Records.open("pixels", SHAPE, "uint8", keys(*range(5)), 8 * COST, share=0.75)
        return pixels, opened(0, 1, name="features", limit=8 * COST)

    for store in open_both():
        assert store.put(0, value(0)) and store.room == len(store)
    assert all(store.missing() == [*range(1, len(store))] for store in open_both())


def test_all_together_take_a_quarter_of_the_free_disk_and_no_more_than_the_bound(monkeypatch):
    monkeypatch.setattr(records.shutil, "disk_usage", lambda _: SimpleNamespace(free=16 * COST))
    assert opened(*range(10)).room == 4
    records._OPENED.clear()
    monkeypatch.setattr(records, "MOST", 6 * COST)
    monkeypatch.setattr(records.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    assert opened(*range(10)).room == 6
    assert (records.MOST, records.SHARE) == (6 * COST, 0.25)


def test_an_array_under_another_key_is_refused():
    store = opened(0, 1)
    store.put(0, value(0)), store.put(1, value(1))
    path = records_folder() / "a-uint8-3-4" / "keys"
    content = path.read_bytes()
    path.write_bytes(content[:32] + content[64:96] + content[32:64])
    again = opened(0, 1)
    assert again.get(0) is None and again.get(1) is None


def test_the_files_are_closed_when_nothing_else_is_there_any_more(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom training.data import records\n"
        "records.records_folder = lambda: Path(sys.argv[1])\n"
        "store = records.Records.open('a', (3,), 'uint8', [bytes(32)])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_whoever_has_it_open_writes_into_no_other_file():
    old = opened(0, 1)
    old.put(0, value(0))
    copy = pickle.dumps(old)
    shutil.rmtree(records_folder() / "a-uint8-3-4")
    new = opened(1, 0)
    old.put(1, value(9))
    assert new.missing() == [0, 1]
    again = pickle.loads(copy)
    assert again.get(0) is None and not again.put(1, value(9))
    assert new.missing() == [0, 1]


def test_pickled_and_opened_again():
    store = opened(0, 1)
    store.put(0, value(0))
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy.get(0), value(0))
    assert copy.put(1, value(1))
    np.testing.assert_array_equal(store.get(1), value(1))


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "records_folder", lambda: tmp_path / "file" / "records")
    (tmp_path / "file").write_text("no folder")
    store = opened(0, 1)
    assert len(store) == 2 and store.get(0) is None and not store.put(0, value(0)) and store.missing() == [0, 1]
    assert pickle.loads(pickle.dumps(store)).get(1) is None


def test_a_full_disk(monkeypatch):
    store = opened(0, 1)
    assert store.put(0, value(0))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "_write", full)
    assert not store.put(1, value(1))
    np.testing.assert_array_equal(store.get(0), value(0))


def test_no_rows():
    store = Records.open("a", SHAPE, "uint8", [])
    assert len(store) == 0 and store.missing() == []


def fill(folder: Path, first: int) -> None:
    records.records_folder = lambda: folder
    store = opened(*range(first, first + 200))
    for row in range(200):
        store.put(row, value((first + row) % 50))


def test_processes_and_threads_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fill, args=(tmp_path / "records", first)) for first in (0, 100)]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(4) as pool:
        store = opened(*range(300))
        list(pool.map(lambda row: store.put(row, value(row % 50)), range(0, 300, 2)))
    for process in processes:
        process.join()
        assert process.exitcode == 0
    whole = opened(*range(300))
    assert whole.missing() == []
    for row in range(300):
        np.testing.assert_array_equal(whole.get(row), value(row % 50))


def test_a_full_store_begins_anew_for_other_keys():
    opened(*range(10), limit=10 * COST).put(3, value(3))
    records._OPENED.clear()
    other = opened(*range(20, 30), limit=10 * COST)
    assert other.room == 10 and other.put(9, value(29))
    records._OPENED.clear()
    np.testing.assert_array_equal(opened(29, limit=10 * COST).get(0), value(29))


def test_what_would_make_no_room_removes_nothing():
    opened(0, name="x", limit=9 * COST).put(0, value(0))
    records._OPENED.clear()
    assert opened(0, name="y", limit=1).room == 0
    np.testing.assert_array_equal(opened(0, name="x").get(0), value(0))


def test_a_folder_that_was_made_again_is_another_even_in_the_same_place_of_the_disk():
    old = opened(*range(1000))
    copy = pickle.dumps(old)
    shutil.rmtree(records_folder() / "a-uint8-3-4")
    opened(*range(10))
    again = pickle.loads(copy)
    assert again.get(900) is None and not again.put(900, value(1)) and again.room == 0


def test_what_may_only_be_read_is_read(monkeypatch):
    opened(0, 1).put(0, value(0))

    class Refusing:
        def __init__(self, *_, **__):
            raise OSError(30, "Read-only file system")

    monkeypatch.setattr(records, "FileLock", Refusing)
    store = opened(1, 0)
    np.testing.assert_array_equal(store.get(1), value(0))
    assert store.get(0) is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_nobody_else_may_look():
    opened(0).put(0, value(0))
    assert [each.stat().st_mode & 0o77 for each in (records_folder(), records_folder() / "a-uint8-3-4")] == [0, 0]
