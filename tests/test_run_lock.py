"""One command at a time writes into a run, and a killed one does not keep the next from it."""

import errno
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace

import pytest
from conftest import ROOT
from test_train import ONE_STAGE

from training import eval as evaluation
from training.data.source import Folder
from training.fitting.fit import fit
from training.fitting.folds import fit_folds
from training.recipe import UserError
from training.run_folder import FoldsFolder, RunFolder
from training.run_lock import locked

HOLDER = """
import os, sys, time
from pathlib import Path
from training.run_lock import locked
with locked(Path(sys.argv[1]), "trains into"):
    if hasattr(os, "fork") and os.fork() == 0:  # as the workers of a loader
        time.sleep(20)
        os._exit(0)
    print("holding", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Starts a process that holds the lock of a folder, and has a child; both end with the test."""
    started = []

    def hold(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout.readline().strip() == b"holding"
        return process

    yield hold
    for process in started:
        process.kill()
        process.stdin.close()
        process.wait()


def test_a_second_one_is_refused_by_name_through_a_link_too_and_a_kill_lets_go(tmp_path, holder):
    run = tmp_path / "big" / "run"
    run.mkdir(parents=True)
    (tmp_path / "link").symlink_to(run, target_is_directory=True)
    first = holder(run)
    for way in (run, tmp_path / "link", tmp_path / "big" / ".." / "link"):
        with pytest.raises(UserError) as refused, locked(way, "measures"):
            pass
        said = str(refused.value)
        assert said.startswith(f"process {first.pid} trains into '{way}' already; wait until it has ended")
        assert "\n" not in said
    first.kill()
    first.wait()
    with locked(tmp_path / "link", "measures"):  # though a child of it lives
        assert (tmp_path / "big" / ".run.lock").read_text() == f"{os.getpid()} measures"


def test_nothing_is_left_of_it(tmp_path):
    run = tmp_path / "runs" / "deep" / "run"
    with pytest.raises(ZeroDivisionError), locked(run, "trains into"):
        assert os.listdir(run.parent) == [".run.lock"]
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
    with locked(run, "trains into"):
        run.mkdir()
    assert os.listdir(run.parent) == ["run"]


def test_never_two_at_once_though_the_file_comes_and_goes(tmp_path):
    inside, most, done = [], [], []

    def contend():
        while len(done) < 300:
            with suppress(UserError), locked(tmp_path / "run", "trains into"):
                inside.append(1)
                most.append(len(inside))
                done.append(1)
                inside.pop()

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) >= 300 and max(most) == 1


@pytest.mark.skipif(os.name != "posix", reason="the error is one of flock")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_file_system_without_locks_is_a_warning(number, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    said = []
    with locked(tmp_path / "run", "trains into", said.append):
        pass
    assert len(said) == 1 and said[0].startswith(f"warning    no lock beside '{tmp_path / 'run'}' (")
    with locked(tmp_path / "run", "trains into", said.append):  # and no soft lock is left that would last for ever
        pass


def test_every_command_that_writes_into_a_run_takes_it(photos, tiny_resnet, tmp_path, holder):
    recipe = replace(ONE_STAGE, base_model=str(tiny_resnet))
    holder(tmp_path / "run")
    for start in (
        lambda: fit(recipe, Folder(photos), RunFolder(tmp_path / "run")),
        lambda: fit_folds(recipe, Folder(photos), FoldsFolder(tmp_path / "run"), 2),
        lambda: evaluation.main([str(tmp_path / "run")]),
    ):
        with pytest.raises(UserError, match=r"process \d+ trains into '.*run' already"):
            start()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_of_two_processes_both_end_when_the_lock_is_held(photos, tiny_resnet, tmp_path, holder):
    first = holder(tmp_path / "run")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["training/train.py", "folder", "--data_dir", photos, "--base_model", tiny_resnet, "--use_cpu"]
    command += ["--output_dir", tmp_path / "run"]
    finished = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert finished.returncode == 1
    said = f"error: process {first.pid} trains into '{tmp_path / 'run'}' already"
    assert finished.stderr.count(said) == 1, finished.stderr  # besides what torchrun itself says of its children
    assert not (tmp_path / "run").exists()
