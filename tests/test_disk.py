"""A disk that fills up, or can no longer be written to, at any moment: one line, nothing that looks finished, and
--resume goes on.
"""

import errno
import json
import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_roots import OWN_RECIPE

from training import disk, train
from training import eval as evaluation
from training.disk import writing
from training.fitting import fit as module
from training.fitting.progress import Progress
from training.recipe import UserError

WAYS = ("the same command goes on", "choose another folder")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 megabytes, where the system lets us make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def leave(folder, free):
    """Fill the disk but for so many bytes; what fills it."""
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("wb") as file, suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(4096))
    os.truncate(filler, max(0, filler.stat().st_size - free))
    return filler


@pytest.mark.parametrize("place", ["a file/run", "a file/x/run", "long" * 80, "new/" + "long" * 80 + "/run"])
@pytest.mark.parametrize("typed_whole", [True, False])
def test_a_folder_that_can_never_be_made_is_named_in_one_line(place, typed_whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a file").touch()
    folder = tmp_path / place if typed_whole else Path(place)
    for work in (lambda: folder.mkdir(parents=True), lambda: folder.parent.mkdir(parents=True), folder.stat):
        with (
            pytest.raises(UserError, match=r"cannot be written .*choose another folder") as refused,
            writing(folder, *WAYS),
        ):
            work()
            folder.mkdir()
        assert "\n" not in str(refused.value)


@pytest.fixture
def words(photos, tiny_resnet, tmp_path, small_disk, monkeypatch):
    """A command that trains into the small disk; that it looked for space before is another test's."""
    recipe = tmp_path / "colours.py"
    recipe.write_text(OWN_RECIPE.format(base=str(tiny_resnet)))
    monkeypatch.setattr(module, "check_space", lambda *_, **__: None)
    flags = ["--data_dir", str(photos), "--use_cpu", "--pixel_cache", "0", "--feature_views", "0"]
    return [str(recipe), *flags, "--output_dir", str(small_disk / "run")]


def check_refusal(said, folder):
    assert re.match(rf"no space left in '{folder}[^']*'; free some, then the same command", said)
    assert "\n" not in said and "Error" not in said


def check_unfinished(run):
    """What stands there under its own name is whole, and nothing says that the run has ended."""
    assert not (run / "all_results.json").exists()
    for path in run.rglob("*.json") if run.exists() else ():
        if not path.name.startswith(".") and "checkpoint-" not in str(path):
            json.loads(path.read_text())
    if (run / "model.safetensors").exists():
        load_file(run / "model.safetensors")


@pytest.mark.parametrize(
    "moments", [(120_000,), pytest.param((0, 40_000, 120_000, 240_000, 400_000), marks=pytest.mark.slow)]
)
def test_a_disk_that_is_full_at_any_moment_loses_nothing(moments, words, small_disk):
    run, refused = small_disk / "run", 0
    for free in moments:
        filler = leave(small_disk, free)
        try:
            assert train.main([*words, "--resume"]) == 0
            break
        except UserError as error:
            refused += 1
            check_refusal(str(error), small_disk)
            check_unfinished(run)
    filler.unlink()
    assert refused >= min(3, len(moments))
    assert train.main([*words, "--resume"]) == 0
    assert (run / "all_results.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 20_000, 60_000])
def test_a_measurement_that_finds_no_space_says_so_and_succeeds_when_there_is_some(free, colours, small_disk, capsys):
    run = shutil.copytree(colours.path, small_disk / "run", ignore=shutil.ignore_patterns("checkpoints"))
    filler = leave(small_disk, free)
    with pytest.raises(UserError) as stopped:
        evaluation.main([str(run)])
    check_refusal(str(stopped.value), small_disk)
    filler.unlink()
    assert evaluation.main([str(run)]) == 0


@pytest.mark.slow
def test_a_disk_that_is_closed_in_the_middle_is_told_and_the_run_goes_on(words, small_disk, monkeypatch):
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    words = [*words[:-1], str(small_disk)]  # the lock lies beside it, and no file that is open stands in the way
    history = Progress.on_evaluate

    def close(self, args, state, control, **kwargs):
        subprocess.run(remount, check=True)
        return history(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(UserError) as stopped:
        patch.setattr(Progress, "on_evaluate", close)
        train.main(words)
    assert re.match(
        rf"'{small_disk}/[^']+' cannot be written \(Read-only file system\); choose another --output_dir, or put "
        "that right, then the same command with --resume goes on",
        str(stopped.value),
    )
    for command in (lambda: train.main([*words, "--resume"]), lambda: train.main([*words, "--overwrite"])):
        with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\)"):
            command()
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    check_unfinished(small_disk)
    assert train.main([*words, "--resume"]) == 0


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0"),
    ],
)
def test_a_full_disk_is_known_however_it_is_told(error, tmp_path):
    with pytest.raises(UserError) as said, writing(tmp_path / "not" / "there", *WAYS):
        raise error
    check_refusal(str(said.value), tmp_path)


def test_what_is_closed_is_named_and_what_is_none_of_this_comes_through(tmp_path, monkeypatch):
    mine, other = tmp_path / "run" / "recipe.json", tmp_path / "photos" / "1.jpg"
    for error, said in (
        (
            PermissionError(errno.EACCES, "Permission denied", str(mine)),
            f"'{mine}' cannot be written (Permission denied)",
        ),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", str(mine)), f"'{mine}' cannot be written"),
        (OSError(errno.EIO, "Input/output error"), f"'{tmp_path / 'run'}' cannot be written (Input/output error)"),
        (PermissionError(errno.EACCES, "Permission denied", str(other)), f"'{other}' cannot be opened (Permission"),
    ):
        with pytest.raises(UserError, match=re.escape(said)), writing(tmp_path / "run", *WAYS):
            raise error
    for error in (ValueError("wrong"), ConnectionResetError(errno.ECONNRESET, "reset"), UserError("as it is")):
        with pytest.raises(type(error), match=str(error.args[-1])), writing(tmp_path / "run", *WAYS):
            raise error
    monkeypatch.setattr(disk, "_free", lambda folder: 10.0 if folder == Path("/tmp") else 1e9)
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    with pytest.raises(UserError, match="no space left in '/tmp'"), writing(tmp_path / "run", *WAYS):
        raise OSError(errno.ENOSPC, "No space left on device")
