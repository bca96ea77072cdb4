"""Checkpoints that outlive the machine: a run whose disk is gone goes on from the Hub to the same end."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, write_photo
from loopback_hub import LoopbackHub
from safetensors.torch import load_file

TOKENS = {"hf_alicetoken": "alice", "hf_bobtoken": "bob"}
REPO = "alice/flowers-checkpoints"
RECIPE = """
from training.recipe import Augmentation, BatchNorm, Data, Dropout, Linear, Recipe, Stage
FAST = {{"learning_rate": 1e-2, "lr_scheduler_type": "constant"}}
recipe = Recipe(
    title="Colours", base_model={base!r}, head=(BatchNorm(), Dropout(0.2), Linear()),
    data=Data(pattern=r"(?P<label>\\w+)/(?P<group>patient\\d+)-"),
    augmentation=Augmentation(rotation=20, horizontal_flip=True),
    stages=(
        Stage(name="head", trainable="head", batch_size=8, arguments={{**FAST, "num_train_epochs": 3}}),
        Stage(name="all", batch_size=8, arguments={{**FAST, "num_train_epochs": 4}}, early_stopping_patience=3),
    ),
)
"""

# The command itself, which dies once a checkpoint as far as a given one is on the Hub, or before the export.
DRIVER = """
import os, signal, sys, time
sys.path[:0] = [sys.argv[1]]
from training.command import run_command
from training.fitting import checkpoint_repo, fit
from training.fitting.progress import Progress
from training.train import main

moment, words = sys.argv[2], sys.argv[3:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "export":
    fit.deploy = die
elif moment != "never":
    commit, go_on = checkpoint_repo.Saver._commit, Progress.on_step_end
    def dying(self, aside):
        commit(self, aside)
        if max(self.saved, key=lambda name: (name.split("/")[1], int(name.rpartition("-")[2]))) >= moment:
            die()
    def slowly(self, *args, **kwargs):
        time.sleep(0.1)
        return go_on(self, *args, **kwargs)
    checkpoint_repo.Saver._commit, Progress.on_step_end = dying, slowly
sys.argv[1:] = words
sys.exit(run_command(main, ""))
"""


@pytest.fixture
def hub():
    with LoopbackHub(tokens=TOKENS, roles={"hf_reader": "read"}) as hub:
        yield hub


@pytest.fixture
def recipe(tmp_path, tiny_resnet) -> Path:
    path = tmp_path / "colours.py"
    path.write_text(RECIPE.format(base=str(tiny_resnet)))
    return path


@pytest.fixture
def patients(tmp_path) -> Path:
    """Three colours, 20 pictures each of 10 patients; two files are the same."""
    folder = tmp_path / "patients"
    for index, name in enumerate(("red", "green", "blue")):
        for number in range(20):
            path = folder / name / f"patient{index}{number // 2}-{number:03}.png"
            write_photo(path, index / 3, index * 100 + number)
    shutil.copyfile(folder / "red" / "patient00-000.png", folder / "red" / "patient00-copy.png")
    return folder


def train(hub: LoopbackHub, home: Path, moment: str, *words: object, token: str = "hf_alicetoken", launcher=()):
    script = home.parent / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, *launcher, str(script), str(ROOT), moment, *map(str, words), "--use_cpu", "--threads", "1"]
    environment = hub.environment(home, token)
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=home.parent, timeout=200)


def history(run: Path) -> list[dict]:
    with (run / "log_history.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def assert_same(run: Path, other: Path) -> None:
    ours, theirs = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in theirs)
    assert history(run) == history(other)
    results = [json.loads((each / "all_results.json").read_text()) for each in (run, other)]
    assert {**results[0], "seconds": 0} == {**results[1], "seconds": 0}
    names = {path.name for path in (other / "local").iterdir()} - {"data.json"}
    assert {name: (run / "local" / name).read_bytes() for name in names} == {
        name: (other / "local" / name).read_bytes() for name in names
    }


def test_a_run_whose_disk_is_lost_again_and_again_ends_as_an_unbroken_one(hub, recipe, patients, tmp_path):
    home, unbroken, run = tmp_path / "home", tmp_path / "unbroken", tmp_path / "flowers"
    done = train(hub, home, "never", recipe, "--data_dir", patients, "--output_dir", unbroken)
    assert done.returncode == 0, done.stderr
    words, how = [recipe, "--data_dir", patients, "--output_dir", run], ["--checkpoint_repo"]
    # In the first stage, in the second, and when all is trained and nothing is exported.
    for moment in ("checkpoints/1-head/checkpoint-12", "checkpoints/2-all/checkpoint-12", "export"):
        killed = train(hub, home, moment, *words, *how)
        assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
        shutil.rmtree(run)
        shutil.rmtree(home)
        patients = patients.rename(tmp_path / moment.replace("/", "-"))
        words[2], how = patients, ["--resume", "flowers" if moment == "export" else REPO]
    resumed = train(hub, home, "never", *words, *how)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_same(run, unbroken)
    assert f"on any machine --resume {REPO} goes on" in resumed.stdout
    assert not list(run.rglob(".saving-*")) and not (run / "down").exists()
