"""Flags are `TrainingArguments`, for every stage or for one; what is wrong with them is one line with the next step."""

import math
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from training.fitting.flags import OWN, check_arguments, make_arguments, parse_flags
from training.fitting.hardware import Hardware, _granted, choose
from training.fitting.plan import argument_values
from training.recipe import Linear, Recipe, Stage, UserError
from training.run_folder import RunFolder
from training.train import parser

ARGUMENTS = {"num_train_epochs": 3, "learning_rate": 1e-3, "lr_scheduler_type": "cosine"}
ONE = Recipe(title="t", base_model="b", head=(Linear(),), stages=(Stage(name="all", arguments=ARGUMENTS),))
TWO = Recipe(title="t", base_model="b", head=(Linear(),), stages=(Stage(name="head"), Stage(name="all")))


def error(line: str, recipe: Recipe = TWO) -> str:
    with pytest.raises(UserError) as caught:
        parse_flags(line.split(), recipe)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_flags_state_nothing():
    assert parse_flags([], TWO) == [{}, {}]


def test_a_flag_is_for_every_stage_and_one_with_a_stage_for_that_one():
    line = "--learning_rate 1e-4 --stage2.learning_rate 1e-5 --stage1.num_train_epochs 2 --bf16 false"
    assert parse_flags(line.split(), TWO) == [
        {"learning_rate": 1e-4, "bf16": False, "num_train_epochs": 2.0},
        {"learning_rate": 1e-5, "bf16": False},
    ]


@pytest.mark.parametrize(
    "line", ["--stage2.learning_rate 1e-5 --learning_rate 1e-4", "--learning_rate 1e-4 --stage2.learning_rate 1e-5"]
)
def test_a_stages_own_flag_wins_whatever_the_order(line):
    assert parse_flags(line.split(), TWO) == [{"learning_rate": 1e-4}, {"learning_rate": 1e-5}]


@pytest.mark.parametrize(
    ("line", "stated"),
    [
        ("--learning_rate=1e-4", {"learning_rate": 1e-4}),
        ("--stage1.learning_rate=1e-4", {"learning_rate": 1e-4}),
        ("--learning-rate 1e-4", {"learning_rate": 1e-4}),
        ("--use_cpu", {"use_cpu": True}),
        ("--use_cpu true --bf16 false", {"use_cpu": True, "bf16": False}),
        ("--bf16=no --tf32 yes", {"bf16": False, "tf32": True}),
        ("--weight_decay -0.1 --max_steps -1", {"weight_decay": -0.1, "max_steps": -1}),
        ("--seed 1 --seed 2", {"seed": 2}),
        ("--report_to tensorboard", {"report_to": "tensorboard"}),
        ("--lr_scheduler_type linear", {"lr_scheduler_type": "linear"}),
        ('--lr_scheduler_kwargs {"factor":0.5}', {"lr_scheduler_kwargs": '{"factor":0.5}'}),
    ],
)
def test_values_have_the_type_that_trainer_gives_them(line, stated):
    assert parse_flags(line.split(), ONE) == [stated]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--learningrate 1", "unknown flag --learningrate; did you mean --learning_rate?"),
        ("--learning_rat 1", "did you mean --learning_rate?"),
        ("--stage2.batchsize 8", "unknown flag --batchsize"),
        ("--overwite", "did you mean --overwrite?"),
        ("--qqqqqqq", "unknown flag --qqqqqqq (flags cannot be shortened; --help lists them)"),
        ("--evaluation_strategy no", "did you mean --eval_strategy?"),
        ("--learning_rate fast", "--learning_rate: invalid float value: 'fast'"),
        ("--num_train_epochs", "--num_train_epochs: expected one argument"),
        ("--bf16 perhaps", "--bf16"),
        ("--lr_scheduler_type cosin", "'cosin'"),
        ("--seed 1.5", "--seed: invalid int value: '1.5'"),
        ("--learning_rate 1 2", "'2' belongs to no flag"),
        ("digits", "'digits' belongs to no flag; RECIPE comes first"),
        ("--stage3.learning_rate 1", "--stage3.learning_rate: this recipe has 2 stages, counted from 1"),
        ("--stage0.learning_rate=1", "this recipe has 2 stages, counted from 1"),
        ("--stage.learning_rate 1", "unknown flag --stage.learning_rate"),
        ("--stage1. 1", "unknown flag --stage1."),
        ("--stage2.output_dir elsewhere", "write --output_dir, which is for the whole run"),
        ("--output-dir elsewhere", "write --output_dir, which is for the whole run"),
        ("--stage2.data_dir elsewhere", "write --data_dir, which is for the whole run"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(line, told):
    assert told in error(line)


def test_a_recipe_of_one_stage_says_so():
    assert "has 1 stage, counted from 1" in error("--stage2.learning_rate 1", ONE)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("--push_to_hub", "--checkpoint_repo keeps checkpoints"),
        ("--hub_model_id me/mine", "python -m hub_utils.push RUN"),
        ("--stage1.hub_token secret", "--checkpoint_repo keeps checkpoints"),
        ("--resume_from_checkpoint x", "use --resume"),
        ("--remove_unused_columns false", "the image column"),
        ("--no_remove_unused_columns", "the image column"),
        ("--label_names a", "classes come from the data"),
        ("--data_seed 1", "--seed"),
        ("--do_train", "this command trains"),
        ("--save_only_model", "--resume"),
    ],
)
def test_what_trainer_has_and_this_project_does_otherwise_is_refused_with_the_way_to_go(line, instead):
    text = error(line)
    assert "is not used here" in text
    assert instead in text


def test_every_flag_that_is_the_commands_own_is_known_as_such():
    stated = {action.dest for action in parser()._actions} - {"help", "recipe"}
    assert stated <= set(OWN)


def test_a_metric_to_choose_the_best_weights_by_brings_its_direction():
    assert parse_flags(["--metric_for_best_model", "accuracy"], ONE)[0]["greater_is_better"] is True
    assert parse_flags(["--metric_for_best_model", "eval_loss"], ONE)[0]["greater_is_better"] is False
    stated = parse_flags(["--stage2.metric_for_best_model", "macro_f1", "--greater_is_better", "false"], TWO)
    assert stated == [{"greater_is_better": False}, {"metric_for_best_model": "macro_f1", "greater_is_better": False}]


# A recipe's names and what they amount to


def test_a_typo_in_a_recipes_arguments_names_the_place_and_the_near_one():
    check_arguments(ARGUMENTS, "stage 1 of recipe t")
    with pytest.raises(UserError) as caught:
        check_arguments({"learning_rat": 1}, "stage 1 of recipe t")
    assert (
        str(caught.value)
        == "stage 1 of recipe t: TrainingArguments has no 'learning_rat'; did you mean 'learning_rate'?"
    )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"eval_strategy": "epoch", "save_strategy": "steps", "load_best_model_at_end": True}, "strategy"),
        ({"fp16": True, "bf16": True, "use_cpu": True}, "fp16"),
        ({"lr_scheduler_kwargs": "{"}, "lr_scheduler_kwargs"),
        ({"optim": "adamm"}, "adamm"),
        ({"save_strategy": "no"}, "save_strategy"),
        ({"eval_strategy": "no"}, "eval_strategy"),
    ],
)
def test_values_that_do_not_go_together_are_one_line(tmp_path, values, told):
    with pytest.raises(UserError) as caught:
        make_arguments({"output_dir": str(tmp_path), "eval_strategy": "epoch", "save_strategy": "epoch"} | values)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flags_go_over_the_recipe_and_the_recipe_over_the_machine_and_the_house(tmp_path):
    machine = Hardware(device="cpu", bf16=True, channels_last=True, threads=2, workers=0, processes=2)
    stage = Stage(name="all", batch_size=24, arguments={"learning_rate": 1e-3, "weight_decay": 0.2, "bf16": False})

    def values(**flags):
        return argument_values(ONE, 1, stage, machine, RunFolder(Path(tmp_path)), flags)

    assert values()["bf16"] is False  # the recipe's, over the machine's
    assert values()["max_grad_norm"] == 0.0  # the house's
    assert (values()["learning_rate"], values(learning_rate=1e-5)["learning_rate"]) == (1e-3, 1e-5)
    assert values(max_grad_norm=1.0, bf16=True) | {"max_grad_norm": 1.0, "bf16": True} == values(
        max_grad_norm=1.0, bf16=True
    )
    assert values()["per_device_train_batch_size"] == 12  # 24 over two processes
    assert values(gradient_accumulation_steps=3)["per_device_train_batch_size"] == 4
    assert values(per_device_train_batch_size=5)["per_device_train_batch_size"] == 5


def test_the_machine_is_used_as_asked_and_otherwise_by_its_cores(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    alone = choose(use_cpu=True)
    assert (alone.device, alone.workers, alone.channels_last) == ("cpu", 0, True)
    assert 1 <= alone.threads <= os.cpu_count()
    monkeypatch.setattr("training.fitting.hardware._cpu_multiplies_bf16", lambda: True)
    asked = choose(use_cpu=True, bf16=False, channels_last=False, threads=3, workers=1)
    assert str(asked) == "cpu · fp32 · channels-first · 3 threads · 1 loader worker"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert choose(use_cpu=True).threads == 1
    with pytest.raises(UserError, match="--threads 0: at least 1"):
        choose(threads=0)


def test_a_machine_without_bf16_trains_in_fp32_and_says_so(monkeypatch):
    monkeypatch.setattr("training.fitting.hardware._cpu_multiplies_bf16", lambda: False)
    found = choose(use_cpu=True, threads=1)
    assert not found.bf16 and "fp32 (it multiplies no bf16)" in str(found)
    assert " · bf16 · " in str(choose(use_cpu=True, bf16=True, threads=1))
    assert "fp32 (it multiplies no bf16; try --fp16 true)" in str(replace(found, device="cuda"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library of C")
def test_freed_memory_is_kept():
    code = """
import psutil, torch
from training.fitting.hardware import keep_freed_memory
keep_freed_memory()
memory = psutil.Process().memory_info
before = memory().rss
torch.ones(30_000_000)
print(memory().rss - before > 100_000_000)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "True"


def test_a_container_is_granted_fewer_cores_than_its_machine_has(tmp_path, monkeypatch):
    monkeypatch.setattr("training.fitting.hardware.CONTROL_GROUP", tmp_path)
    assert _granted() == math.inf
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert _granted() == math.inf
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert _granted() == 2
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert _granted() == math.inf
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    assert _granted() == choose(use_cpu=True).threads == 1
