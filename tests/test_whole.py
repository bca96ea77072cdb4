"""What is written is there whole or not at all, leaves no litter, and is written in one place."""

import ast
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT
from killing import kill_at, left_by_the_dead, writes

from hub_utils.portable import whole
from hub_utils.portable.whole import passing, replaced, temporary, whole_folder, whole_path, write_bytes, write_json

# Calls by which something comes on the disk, and whose methods they are where others have such names too. `open` counts
# if it is for writing.
CALLS = {"write_text": "", "write_bytes": "", "savefig": "", "save": "", "savez": "", "dump": "json", "save_file": ""}
CALLS |= {"save_pretrained": "", "save_model": "", "export": "onnx", "quantize_static": "", "to_csv": "", "to_json": ""}
CALLS |= {"to_parquet": "", "copy": "shutil", "copy2": "shutil", "copyfile": "shutil", "copytree": "shutil"}
CALLS |= {"move": "shutil", "rename": "", "replace": "os", "touch": "", "link": "os", "symlink": "os", "extractall": ""}
MEMORY, PASSING = "into memory", "into a folder of passing things"
PART = "into what is not whole yet, and has its name only when it is"
PICTURE = "a picture into an open file, which is whole or not at all"
DAMAGE = "what is damaged is computed anew: sums and keys tell"
# Who else may write, what it calls, and why that is whole all the same.
MAY = {
    "hub_utils/clean_start.py": (PASSING, "open save write_bytes write_bytes write_text"),
    "hub_utils/examples.py": (MEMORY, "save save"),
    "hub_utils/export.py": (PART, "export quantize_static save_file" + 4 * " save_pretrained"),
    "hub_utils/portable/drawing.py": (MEMORY, "save"),
    "hub_utils/portable/feedback.py": (PASSING + ", under the lock of whoever sends it", "open save"),
    "hub_utils/portable/many_pictures.py": (
        MEMORY + ", and a table whose new name is told only then",
        "save write_bytes",
    ),
    "hub_utils/portable/network.py": (PASSING, "open save_model"),
    "hub_utils/portable/one_picture.py": (MEMORY, "save"),
    "hub_utils/sagemaker.py": (PART, "open open"),
    "hub_utils/vertex.py": (PART, "copyfile"),
    "hub_utils/visit.py": (PASSING, "open save write_text"),
    "hub_utils/visitor.py": (PASSING + ", read when the process has ended", "write_text"),
    "hub_utils/wheel.py": (PASSING, "copy copytree"),
    "training/data/archives.py": (PART + "; and locks, which are empty", "open open touch"),
    "training/data/convert.py": (PART, "save write_bytes"),
    "training/data/embedded.py": (PART, "save"),
    "training/data/neighbours.py": (PASSING, "open"),
    "training/data/records.py": (DAMAGE, "open open open touch"),
    "training/data/shards.py": (PASSING, "replace"),
    "training/data/streaming.py": (
        "a line at a time, to a list that grows while training runs; a picture into memory",
        "open save",
    ),
    "training/data/strip.py": (MEMORY, "save save"),
    "training/data/transfer.py": (PART, "open"),
    "training/fitting/checkpoint_repo.py": (PART, "copyfile copyfile link"),
    "training/fitting/checkpoint_restore.py": (PART, "rename rename rename"),
    "training/fitting/search.py": ("checkpoints, whose seals tell what is whole", "copytree"),
    "training/fitting/leaving.py": ("a checkpoint, which is sealed when it is whole", "save"),
    "training/results/batch.py": (PART, "open"),
    "training/results/contact_sheet.py": (PICTURE, "save"),
    "training/results/evidence.py": (PICTURE, "savez"),
    "training/results/mistakes_page.py": (MEMORY, "save"),
    "training/results/style.py": (MEMORY, "savefig"),
    "training/run_lock.py": ("into the lock that is held: who is at work, for a sentence", "write_text"),
}


def calls(path: Path) -> Iterator[str]:
    """Names of the calls in a file that write to the disk."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        method = isinstance(node.func, ast.Attribute)
        name = node.func.attr if method else getattr(node.func, "id", "")
        owner = ast.unparse(node.func.value).rpartition(".")[2] if method else ""
        if name == "open":
            words = [*node.args, *(each.value for each in node.keywords)]
            modes = [each.value for each in words if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            if any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes):
                yield name
        elif name in ("save_file", "quantize_static") or (
            method and owner != "style" and CALLS.get(name) in ("", owner)
        ):
            yield name


def test_nobody_else_writes_but_for_a_reason():
    found = {}
    for part in ("hub_utils", "training", "spaces"):
        for path in (ROOT / part).rglob("*.py"):
            names = " ".join(sorted(calls(path)))
            if names and path.name != "whole.py":
                found[path.relative_to(ROOT).as_posix()] = names
    assert found == {name: names for name, (_, names) in MAY.items()}


def test_the_walk_sees_what_writes(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        "open(a, 'w'); path.open(mode='ab'); path.open(); open(a); path.write_text('x'); text.replace('a', 'b')\n"
        "os.replace(a, b); json.dump(x, file); json.dumps(x); figure.savefig(x); write_text('x', path)\n"
        "zip.open('w.png')"
    )
    assert sorted(calls(path)) == ["dump", "open", "open", "replace", "savefig", "write_text"]


# Files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_it_is_whole_and_stays_when_it_is_not(tmp_path):
    path = tmp_path / "new" / "facts.json"
    write_json({"name": "Gänseblümchen"}, path)
    assert path.read_bytes() == '{\n  "name": "Gänseblümchen"\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json({"loss": float("nan")}, path)
    with pytest.raises(KeyboardInterrupt), replaced(path) as file:
        file.write("half")
        file.flush()
        assert json.loads(path.read_text(encoding="utf-8")) == {"name": "Gänseblümchen"}
        assert len(names(path.parent)) == 2 and not [*path.parent.glob("*.json")][1:]
        raise KeyboardInterrupt
    assert names(path.parent) == ["facts.json"]


def test_lines_end_as_they_are_written_and_bytes_stay_bytes(tmp_path):
    with replaced(tmp_path / "x") as file:
        file.write("a\r\nb\n")
    assert (tmp_path / "x").read_bytes() == b"a\r\nb\n"
    write_bytes(b"\x00\r\n", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"\x00\r\n"


def test_the_longest_name_that_a_system_takes_can_be_written(tmp_path):
    for name in ("x" * 255, "ü" * 127, "🌼" * 63):
        write_bytes(b"x", tmp_path / name)
        with whole_path(tmp_path / name) as part:
            assert whole.PART.fullmatch(part.name)
            part.write_bytes(b"y")
        assert (tmp_path / name).read_bytes() == b"y"


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own on Windows")
def test_of_a_link_what_it_leads_to_is_replaced(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    (tmp_path / "there" / "table.csv").write_text("old")
    (tmp_path / "here" / "table.csv").symlink_to(tmp_path / "there" / "table.csv")
    write_bytes(b"new", tmp_path / "here" / "table.csv")
    assert (tmp_path / "here" / "table.csv").is_symlink()
    assert (tmp_path / "there" / "table.csv").read_bytes() == b"new"


def test_many_at_once_write_one_file_and_it_is_one_of_theirs(tmp_path):
    """Each under a name of its own; a reader never sees half of it, nor none."""
    path, wrong = tmp_path / "x", []
    write_bytes(b"0" * 50_000, path)

    def work(number: int) -> None:
        for _ in range(10):
            write_bytes(str(number).encode() * 50_000, path)
            content = path.read_bytes()
            wrong.extend([content] * (len(content) != 50_000 or len({*content}) != 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not wrong and names(tmp_path) == ["x"]


@pytest.mark.skipif(os.name == "nt", reason="it is asked only where it can be without harm")
def test_what_the_dead_left_goes_and_what_others_work_on_stays(tmp_path):
    dead = left_by_the_dead(tmp_path / "table.csv")
    dead.write_bytes(b"half")
    folder = left_by_the_dead(tmp_path / "report")
    (folder / "plots").mkdir(parents=True)
    ours = tmp_path / f".a.{whole.MACHINE}-{os.getppid()}-7.part"
    elsewhere = [tmp_path / f".{name}.{'0' * 8}-{dead.name.split('-')[1]}-1.part" for name in ("young", "old")]
    strangers = [tmp_path / name for name in (".hidden", "movie.part", f".x.{whole.MACHINE}-1.part")]
    for path in (ours, *elsewhere, *strangers):
        path.write_bytes(b"")
    os.utime(elsewhere[1], (1, time.time() - whole.WEEK - 60))
    write_json({}, tmp_path / "other.json")
    assert names(tmp_path) == sorted([ours.name, elsewhere[0].name, *(each.name for each in strangers), "other.json"])


def test_a_reader_on_windows_is_waited_for(tmp_path, monkeypatch):
    refused = iter([PermissionError, PermissionError, None])
    replace = os.replace

    def move(source, target):
        if error := next(refused):
            raise error
        replace(source, target)

    monkeypatch.setattr(whole, "WAITS", (0, 0, 0))
    monkeypatch.setattr(os, "replace", move)
    write_bytes(b"x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"x" and next(refused, "all asked") == "all asked"


# Folders


def test_a_folder_is_replaced_when_it_is_whole_and_stays_when_it_is_not(tmp_path):
    target = tmp_path / "report"
    with whole_folder(target) as folder:
        (folder / "old").write_text("x")
    with pytest.raises(OSError), whole_folder(target) as folder:
        (folder / "new").write_text("x")
        raise OSError
    assert names(target) == ["old"] and names(tmp_path) == ["report"]
    with whole_folder(target) as folder:
        (folder / "new").write_text("x")
    assert names(target) == ["new"] and names(tmp_path) == ["report"]


def replace_folder(target: Path) -> None:
    with whole_folder(target) as folder:
        for name in ("a", "b"):
            (folder / name).write_text("new")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_whoever_is_killed_anywhere_leaves_an_old_folder_or_a_new_one_and_no_litter(tmp_path):
    """Between two moves there is none; then the old one comes back with the next try, even if that fails."""
    target = tmp_path / "here" / "report"

    def begin() -> None:
        shutil.rmtree(tmp_path / "here", ignore_errors=True)
        target.mkdir(parents=True)
        for name in ("a", "b"):
            (target / name).write_text("old")

    def state() -> set[str]:
        return {path.read_text() for path in target.iterdir()} if target.exists() else {"none"}

    begin()
    seen = set()
    for number in range(1, writes(lambda: replace_folder(target), tmp_path) + 1):
        begin()
        assert kill_at(number, lambda: replace_folder(target), tmp_path)
        assert len(state()) == 1
        seen |= state()
        with pytest.raises(RuntimeError), whole_folder(target):
            raise RuntimeError
        assert state() in ({"old"}, {"new"})
        replace_folder(target)
        assert state() == {"new"} and names(target.parent) == ["report"]
    assert seen == {"old", "new", "none"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.parametrize("write", [write_json, lambda content, path: write_bytes(json.dumps(content).encode(), path)])
def test_whoever_is_killed_anywhere_leaves_an_old_file_or_a_new_one_and_no_litter(write: Callable, tmp_path):
    path = tmp_path / "x.json"
    write(["old"], path)
    seen = []
    for number in range(1, writes(lambda: write(["new"], path), tmp_path) + 1):
        write(["old"], path)
        assert kill_at(number, lambda: write(["new"], path), tmp_path)
        seen.append(json.loads(path.read_text()))
        write(["new"], path)
        assert names(tmp_path) == ["x.json"]
    assert ["old"] in seen


# Passing things


@pytest.mark.skipif(os.name == "nt", reason="it is asked only where it can be without harm")
def test_folders_of_passing_things_go_and_those_of_the_dead_go_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = left_by_the_dead(tmp_path / "uploads")
    (dead / "a").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    with passing("uploads") as folder:
        assert Path(folder).parent == tmp_path and not Path(folder).name.startswith(".")
        assert whole.PART.fullmatch(Path(folder).name)
        assert names(tmp_path) == sorted(["mine", Path(folder).name])
        if sys.platform != "win32":
            assert os.stat(folder).st_mode & 0o777 == 0o700
    assert names(tmp_path) == ["mine"]
    with temporary(tmp_path / "x") as part:
        part.mkdir()
    assert names(tmp_path) == ["mine"]
