"""Signals: what they do while libraries are imported, while something is under way, and between two steps."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from conftest import ROOT

from training import preemption
from training.data.source import Folder
from training.fitting import fit as fitting
from training.fitting.fit import Options, fit
from training.preemption import Stopped
from training.recipe import Augmentation, BatchNorm, Dropout, Linear, Recipe, Stage
from training.run_folder import RunFolder

posix = pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking it")
PREAMBLE = """
import os, signal, sys, time
from training import preemption
from training.command import run_command

def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), getattr(signal, number))

def main(tokens):
    try:
        {}
    finally:
        print("cleaned up")
    return 0

preemption.watch()
sys.exit(run_command(main, preemption.GOES_ON))
"""
GOES_ON = "the same command with --resume goes on"


def command(body: str, **changes) -> subprocess.CompletedProcess:
    code = PREAMBLE.format(body.replace("\n", "\n        "))
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
        timeout=30,
        process_group=0,
    )


@posix
@pytest.mark.parametrize(
    ("sent", "status", "who"),
    [
        ("'SIGINT'", 130, "interrupted"),
        ("'SIGTERM'", 143, "stopped by SIGTERM"),
        ("'SIGUSR1'", 143, "stopped by SIGUSR1"),
        ("'SIGHUP'", 143, "stopped by SIGHUP"),
        ("'SIGINT', 'SIGINT'", 130, "interrupted"),
    ],
)
def test_a_signal_is_one_line_and_a_status(sent, status, who):
    for how, cleaned in (("pass", ""), ("preemption.unwind()", "cleaned up\n")):
        found = command(f"{how}\nsend({sent})")
        assert (found.returncode, found.stdout, found.stderr) == (status, cleaned, f"error: {who}; {GOES_ON}\n")


@posix
def test_a_terminal_that_is_closed_is_not_written_to_any_more(tmp_path):
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        waits = "with preemption.patiently():\n    print('here', flush=True)\n    end = time.time() + 20\n"
        waits += "    while not preemption.asked() and time.time() < end: time.sleep(0.05)\n"
        waits += f"    print('gone', flush=True)\n    open({str(tmp_path / 'told')!r}, 'w').write('saved')\n"
        waits += "    raise preemption.Stopped(preemption.asked())"
        os.execv(sys.executable, [sys.executable, "-c", PREAMBLE.format(waits.replace("\n", "\n        "))])
    while b"here" not in os.read(terminal, 100):
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143 and (tmp_path / "told").read_text() == "saved"


@posix
def test_two_signals_at_the_same_moment_are_one():
    body = "preemption.unwind()\nsignal.pthread_sigmask(signal.SIG_BLOCK, preemption.SIGNALS)\n"
    body += "send('SIGTERM', 'SIGINT')\nsignal.pthread_sigmask(signal.SIG_UNBLOCK, preemption.SIGNALS)\ntime.sleep(5)"
    found = command(body)
    assert found.returncode in (130, 143) and found.stderr.count("\n") == 1
    assert found.stderr.endswith(f"; {GOES_ON}\n") and found.stdout == "cleaned up\n"


@posix
def test_a_second_signal_ends_what_is_patient():
    body = "preemption.SAME = 0.1\nwith preemption.patiently():\n    send('SIGINT')\n    time.sleep(0.2)\n    {}"
    found = command(body.format("send('SIGINT')\n    print('never')"))
    assert (found.returncode, found.stdout, found.stderr) == (130, "", f"error: interrupted; {GOES_ON}\n")
    found = command(body.format("print(preemption.asked())"))
    assert (found.returncode, found.stdout, found.stderr) == (0, "2\ncleaned up\n", "")


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_what_is_ignored_stays_so_as_by_nohup(name):
    ignoring = f"import os, signal, sys; signal.signal(signal.{name}, signal.SIG_IGN); os.execv({sys.executable!r}, "
    code = PREAMBLE.format(f"send('{name}')")
    found = subprocess.run(
        [sys.executable, "-c", f"{ignoring}[{sys.executable!r}, '-c', {code!r}])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "cleaned up\n", "")


@posix
@pytest.mark.parametrize("launched", [True, False])
def test_what_a_launcher_left_behind_is_asked_to_leave(launched, tmp_path):
    """As under `accelerate launch`, which hands nothing on when it is ended; without a launcher it goes on."""
    asks = "for _ in range(50):\n    time.sleep(0.1)\n    if os.getppid() != parent: break\n"
    asks = f"parent = os.getppid()\n{asks}open({str(tmp_path / 'told')!r}, 'w').write(str(preemption.asked()))"
    code = PREAMBLE.format(asks.replace("\n", "\n        "))
    starts = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {code!r}]); time.sleep(1)"
    environment = {**os.environ, **({"ACCELERATE_MIXED_PRECISION": "no"} if launched else {})}
    subprocess.run([sys.executable, "-c", starts], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, timeout=30)
    end = time.monotonic() + 20
    while not (tmp_path / "told").is_file() or not (tmp_path / "told").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (tmp_path / "told").read_text() == (str(int(signal.SIGTERM)) if launched else "None")


FAST = {"learning_rate": 1e-2, "num_train_epochs": 2}
PLATEAU = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0}}
RECIPE = Recipe(
    name="colours",
    title="Colours",
    base_model="set by the test",
    head=(BatchNorm(), Dropout(0.2), Linear()),
    augmentation=Augmentation(rotation=20, horizontal_flip=True),
    stages=(
        Stage(name="head", trainable="head", batch_size=8, arguments=FAST, restore_best=True),
        Stage(name="all", batch_size=8, arguments=FAST | PLATEAU, early_stopping_patience=1),
    ),
)
STEPS = ["--eval_strategy", "steps", "--eval_steps", "3", "--save_strategy", "steps", "--save_steps", "3"]
STRATEGIES = {
    "epochs": [],
    "steps": [*STEPS, "--logging_strategy", "steps", "--logging_steps", "2"],
    "steps, logged by epoch": STEPS,
    "steps that end with the epoch": [each.replace("3", "6") for each in STEPS],
    "accumulated": ["--gradient_accumulation_steps", "2"],
}


@pytest.fixture
def train(photos, tiny_resnet, tmp_path, monkeypatch):
    """Train until the signal comes at the n-th time that is asked for one; or to the end, which yields the weights."""
    deployed = []
    monkeypatch.setattr(fitting, "deploy", lambda network, *_: deployed.append(network.state_dict()) or {})
    calls = []

    def run(name: str, flags: list[str], moment: int | None = None, resume: bool = False) -> dict | Stopped:
        calls.clear()

        def asked() -> int | None:
            calls.append(None)
            return signal.SIGTERM if len(calls) == moment else None

        monkeypatch.setattr(preemption, "asked", asked)
        folder, flags = RunFolder(tmp_path / name), ["--use_cpu", "--bf16", "false", *flags]
        recipe, options = replace(RECIPE, base_model=str(tiny_resnet)), Options(resume=resume, threads=1)
        try:
            fit(recipe, Folder(photos), folder, options, flags)
        except Stopped as stopped:
            return stopped
        history = [{**row, "seconds": None} for row in fitting_history(folder)]
        return {"history": history, "weights": {key: value.tolist() for key, value in deployed[-1].items()}}

    run.calls = calls
    return run


def fitting_history(run: RunFolder) -> list[dict]:
    with run.history.open() as file:
        return list(csv.DictReader(file))


def check_leaving(train, flags: list[str], moments: slice) -> int:
    """Leave at some of the moments at which a signal is asked for, and go on; how many moments those were."""
    whole = train("whole", flags)
    chosen = range(1, len(train.calls) + 1)[moments]
    for moment in chosen:
        stopped = train(f"left-{moment}", flags, moment)
        assert isinstance(stopped, Stopped) and stopped.status == 143
        assert str(stopped).endswith("the same command with --resume goes on")
        assert train(f"left-{moment}", flags, resume=True) == whole, (moment, str(stopped))
    return len(chosen)


@pytest.mark.slow
def test_training_leaves_between_two_steps_or_in_an_evaluation_and_forgets_nothing(train):
    assert check_leaving(train, [], slice(2, None, 17)) == 2  # in the first epoch, and in an evaluation of stage two


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_training_leaves_wherever_it_can_and_forgets_nothing(train, strategy):
    print(f"\n{strategy}: left at", check_leaving(train, STRATEGIES[strategy], slice(None)), "moments")
