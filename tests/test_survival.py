"""Training that is killed at any moment goes on to the very end that it would have come to.

A short run of two stages, with all that has a state: augmentation, Dropout, BatchNorm, Adam, plateau, early stopping,
best weights. `pytest -m slow -s tests/test_survival.py` kills it at random over its whole length and counts.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, write_photos
from forked_commands import Warm

from training.fitting.checkpoints import newest_checkpoint
from training.preemption import GOES_ON

if not hasattr(os, "fork"):
    pytest.skip("this system cannot fork", allow_module_level=True)

RECIPE = """
from training.recipe import Augmentation, BatchNorm, Dropout, Linear, Recipe, ReLU, Stage
FAST = {{"learning_rate": 1e-2, "num_train_epochs": 2}}
PLATEAU = {{"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {{"patience": 0}}}}
recipe = Recipe(
    title="Colours", base_model={base!r}, head=(BatchNorm(), Linear(16), ReLU(), Dropout(0.2), Linear()),
    augmentation=Augmentation(rotation=20, zoom=0.2, horizontal_flip=True),
    stages=(
        Stage(name="head", trainable="head", batch_size=8, arguments=FAST, restore_best=True),
        Stage(name="all", batch_size=8, arguments={{**FAST, **PLATEAU}}, early_stopping_patience=1),
    ),
)
"""
STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with Warm() as process:
        yield process


@pytest.fixture(scope="module")
def words(tmp_path_factory, tiny_resnet) -> list[str]:
    """A recipe, and what it learns from."""
    folder = tmp_path_factory.mktemp("survival")
    photos = write_photos(folder / "photos", {"red": 20, "green": 20, "blue": 20})
    (folder / "colours.py").write_text(RECIPE.format(base=str(tiny_resnet)))
    flags = ["--use_cpu", "--bf16", "false", "--threads", "1"]
    return [str(folder / "colours.py"), "--data_dir", str(photos), *flags]


class Command:
    """`train.py`, as one process or as several that know of each other, as torchrun starts them and ends them."""

    def __init__(self, warm: Warm, words: list[str], run: Path, resume: bool = False, processes: int = 1):
        self.warm, self.began = warm, time.monotonic()
        words = [*words, "--output_dir", str(run), *["--resume"] * resume]
        self.logs = [run.with_name(f"{run.name}-{rank}.log") for rank in range(processes)]
        of_all: dict[str, str] = {}
        if processes > 1:
            of_all = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
            of_all["MASTER_PORT"] = str(free_port())
        self.pids = [
            warm.start(words, log, **of_all, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if of_all else {}))
            for rank, log in enumerate(self.logs)
        ]

    def send(self, number: int, draw: random.Random) -> None:
        """To all of them, or to one."""
        for pid in draw.choice([self.pids, self.pids, [draw.choice(self.pids)]]):
            os.kill(pid, number)

    def wait(self) -> int:
        return self.warm.wait(*self.pids)

    def said(self) -> str:
        """What the first of them said."""
        return self.logs[0].read_text(errors="replace") if self.logs[0].exists() else ""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def outcome(run: Path) -> dict[str, Any]:
    """All of a run that does not depend on the clock."""
    results = json.loads((run / "all_results.json").read_text())
    results.pop("seconds")
    with (run / "log_history.csv").open() as file:
        history = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    files = ("model.safetensors", "config.json", "serving.json", "local/splits.csv")
    return {"results": results, "history": history, **{name: (run / name).read_bytes() for name in files}}


def check_words(number: int, status: int, said: str) -> None:
    """One line says that it was asked to leave, and how to go on."""
    assert status == STATUS[number], said
    if number != signal.SIGKILL:
        (error,) = [line for line in said.splitlines() if "error:" in line or "Traceback" in line]
        assert error.endswith(GOES_ON), said


def phase(said: str) -> str:
    """Where a run was, by what it had said last."""
    for words, name in (
        ("saved ", "export"),
        ("stage      all", "second stage"),
        ("best weights", "between"),
        ("stage      head", "first stage"),
    ):
        if words in said:
            return name
    return "start"


def sweep(warm: Warm, words: list[str], folder: Path, rounds: int, processes: int, seed: int) -> Counter:
    """Kill a run at `rounds` moments spread over its length, and every third of those that go on as well."""
    draw, counts = random.Random(seed), Counter()
    command = Command(warm, words, folder / "unbroken", processes=processes)
    assert command.wait() == 0, command.said()
    whole, seconds = outcome(folder / "unbroken"), time.monotonic() - command.began
    for number in range(rounds):
        run, resume = folder / f"run{number}", False
        moment = seconds * (number + draw.random()) / rounds
        while True:
            command = Command(warm, words, run, resume, processes)
            how = draw.choice(list(STATUS))
            time.sleep(moment)
            command.send(how, draw)
            status = command.wait()
            if status == 0:
                counts["had ended before"] += 1
                if resume:
                    break
                shutil.rmtree(run)  # it was faster than the first
                moment *= draw.random()
                continue
            counts[f"{how.name} at {phase(command.said())}"] += 1
            counts["kills"] += 1
            if processes == 1:
                check_words(how, status, command.said())
            resume = True
            if draw.random() > 1 / 3:
                break
            moment = seconds * draw.random()
        command = Command(warm, words, run, True, processes)
        assert command.wait() == 0, command.said()
        assert outcome(run) == whole, (number, how.name, moment, command.said())
        counts["the same in the end"] += 1
        print(number, dict(counts), flush=True)
        shutil.rmtree(run)
    return counts


def test_killed_twice_a_run_ends_as_an_unbroken_one(warm, words, tmp_path):
    assert sweep(warm, words, tmp_path, 2, 1, seed=0)["the same in the end"] == 2


@pytest.mark.slow
def test_a_signal_to_the_whole_group_spares_the_workers_that_load_images(warm, words, tmp_path):
    """As `timeout` and many schedulers send it; a worker that dies would take the step with it."""
    words = [*words, "--dataloader_num_workers", "1"]
    command = Command(warm, words, tmp_path / "unbroken")
    assert command.wait() == 0, command.said()
    command = Command(warm, words, tmp_path / "run")
    while "  all 1/" not in command.said():
        time.sleep(0.01)
    os.killpg(command.pids[0], signal.SIGTERM)
    check_words(signal.SIGTERM, command.wait(), command.said())
    assert "a checkpoint of step " in command.said()
    assert Command(warm, words, tmp_path / "run", resume=True).wait() == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "unbroken")


LAUNCHERS = {
    "accelerate": ["-m", "accelerate.commands.launch", "-q"],
    "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node", "2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_what_a_launcher_started_leaves_when_the_launcher_is_ended(launcher, words, tmp_path):
    """torchrun hands the signal on and waits; accelerate is gone at once, which is noticed after the step."""
    log = tmp_path / "log"
    command = [*LAUNCHERS[launcher], str(ROOT / "training" / "train.py"), *words, "--output_dir", str(tmp_path / "run")]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *command, "--num_train_epochs", "5000"], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
        )
    wait_for(lambda: "  head 3/" in log.read_text(), 200, log)
    process.terminate()
    assert process.wait(timeout=60) != 0
    wait_for(lambda: GOES_ON in log.read_text(), 60, log)
    (error,) = [line for line in log.read_text().splitlines() if line.startswith("error:")]
    assert re.fullmatch(rf"error: stopped by SIGTERM; a checkpoint of step \d+ is in \S+/1-head/\S+; {GOES_ON}", error)
    newest, broken = newest_checkpoint(tmp_path / "run" / "checkpoints" / "1-head")
    assert broken == {} and newest.name in error


def wait_for(condition: Callable[[], bool], seconds: float, log: Path) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 1), (2, 0)])
def test_killed_at_any_moment_a_run_ends_as_an_unbroken_one(warm, words, tmp_path, processes, workers):
    words = [*words, "--dataloader_num_workers", str(workers)]
    counts = sweep(warm, words, tmp_path, 20, processes, seed=processes)
    print(f"\n{processes} process(es), {workers} workers: {json.dumps(counts, indent=2, sort_keys=True)}")
    assert counts["the same in the end"] == 20
