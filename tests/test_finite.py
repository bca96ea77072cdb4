"""A loss that is no number ends training at once, in words, and leaves the last good checkpoint."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from test_train import ONE_STAGE

from training.data.source import Folder
from training.fitting import checkpoints
from training.fitting.checkpoints import newest_checkpoint
from training.fitting.finite import Finite
from training.fitting.fit import fit
from training.recipe import ExponentialDecay, UserError
from training.run_folder import RunFolder

# A rate that grows until the weights overflow, in the second epoch or later.
GROWING = replace(
    ONE_STAGE.stages[0], decay=ExponentialDecay(1e20, 6), restore_best=False, arguments={"num_train_epochs": 9}
)
TRAINING = SimpleNamespace(output_dir="nowhere", learning_rate=0.5, bf16=True, fp16=False, device=torch.device("cpu"))
STATE = SimpleNamespace(global_step=7, max_steps=12, num_train_epochs=2)


@pytest.mark.parametrize("flags", [(), ("--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "99")])
def test_a_loss_that_is_no_number_stops_training_and_the_last_good_checkpoint_stays(
    flags, photos, tiny_resnet, tmp_path, capsys
):
    recipe, run = replace(ONE_STAGE, base_model=str(tiny_resnet), stages=(GROWING,)), RunFolder(tmp_path / "run")
    with pytest.raises(UserError) as stopped:
        fit(recipe, Folder(photos), run, flags=["--bf16", "false", *flags])
    said = str(stopped.value)
    found = re.match(r"stage head, epoch (\d), step (\d+): the loss is no finite number any more; the last good", said)
    assert found and "\n" not in said and "--overwrite and a --learning_rate smaller than" in said
    epoch, step = int(found[1]), int(found[2])
    assert epoch == math.ceil(step / 6) > 1
    folder = run.stage(1, "head")
    kept, broken = newest_checkpoint(folder)
    assert kept is not None and str(kept) in said and not broken
    for checkpoint in folder.iterdir():
        assert all(each.isfinite().all() for each in load_file(checkpoint / "model.safetensors").values())
    assert "nan" not in capsys.readouterr().out
    assert "nan" not in run.history.read_text() and "inf" not in run.history.read_text()
    assert not run.weights.exists() and not run.results.exists()


def test_checkpoints_of_the_stages_before_are_named(tmp_path):
    def said() -> str:
        with pytest.raises(UserError) as stopped:
            Finite("all").on_evaluate(training, STATE, None, {"eval_loss": float("nan")})
        return str(stopped.value)

    training = SimpleNamespace(**{**vars(TRAINING), "output_dir": tmp_path / "2-all"})
    before = tmp_path / "1-head"
    checkpoints.begin(before / "checkpoint-6")
    assert "; no checkpoint was written yet; begin" in said()
    state = {"stateful_callbacks": {"TrainerControl": {"args": {"should_training_stop": True}}}}
    (before / "checkpoint-6" / checkpoints.STATE).write_text(json.dumps(state))
    checkpoints.seal(before / "checkpoint-6", checkpoints.Underway([], [], 0, None, True, True))
    assert f"of this stage no checkpoint was written yet; those before it are kept in {before}; begin" in said()


def test_the_step_is_that_of_the_first_wrong_loss_however_late_one_looks():
    finite = Finite("all")
    for step, loss in enumerate((1.0, 2.0, float("inf"), 1.0, float("nan")), 1):
        finite.saw(torch.tensor(loss), step)
    with pytest.raises(UserError, match=r"stage all, epoch 1, step 3: .* smaller than 0.5 or --bf16 false"):
        finite.on_log(TRAINING, STATE, None, {"loss": 1.0})


def test_good_numbers_stop_nothing():
    finite = Finite("all")
    finite.saw(torch.tensor(3e38), 1)
    finite.on_step_end(TRAINING, STATE, None)
    finite.on_evaluate(TRAINING, STATE, None, {"eval_loss": 3e38})
    finite.check_weights(torch.nn.BatchNorm1d(2), TRAINING, STATE)


def test_a_validation_loss_and_weights_that_are_no_numbers_stop_it_too():
    finite = Finite("all")
    with pytest.raises(UserError, match="epoch 2, step 7: the validation loss is nan; no checkpoint was written yet"):
        finite.on_evaluate(TRAINING, STATE, None, {"eval_loss": float("nan")})
    network = torch.nn.BatchNorm1d(2)
    network.running_var[1] = float("inf")
    with pytest.raises(UserError, match="epoch 2, step 7: some weights are no finite numbers"):
        finite.check_weights(network, TRAINING, STATE)


ONE_OF_TWO = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_train
from accelerate import PartialState
from training.command import run_command
from training.data.source import Folder
from training.fitting import fit as module, trainer
from training.run_folder import RunFolder

compute = trainer.StageTrainer.compute_loss
def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
    found = compute(self, model, inputs, return_outputs, num_items_in_batch)
    if model.training and self.state.global_step == 3 and PartialState().process_index == 1:
        self.finite.saw(found * float("nan"), 4)
    return found
trainer.StageTrainer.compute_loss = compute_loss

def main(tokens):
    photos, base, run = tokens[1:]
    recipe = replace(test_train.ONE_STAGE, base_model=base)
    module.fit(recipe, Folder(Path(photos)), RunFolder(Path(run)), flags=["--use_cpu"])
sys.exit(run_command(main, ""))
"""


@pytest.mark.slow
def test_all_processes_stop_together_when_one_goes_wrong(photos, tiny_resnet, tmp_path):
    (tmp_path / "driver.py").write_text(ONE_OF_TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [tmp_path / "driver.py", ROOT / "tests", photos, tiny_resnet, tmp_path / "run"]
    finished = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 1
    told = [line for line in finished.stderr.splitlines() if "error:" in line.lower() and "stage" in line]
    assert len(told) == 1 and "stage head, epoch 1, step 4: the loss is no finite number" in told[0], finished.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()
