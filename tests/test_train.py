"""The main job, whole, on pictures of three colours: recipe and folder in, run folder out, also after a kill."""

import csv
import json
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import ROOT, write_photos
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline

from hub_utils.portable.classifier import load_classifier
from training.data.source import Folder
from training.data.splits import read_splits
from training.fitting.fit import Options, fit
from training.recipe import (
    Augmentation,
    BatchNorm,
    Dropout,
    ExponentialDecay,
    FromConfig,
    Linear,
    Recipe,
    ReLU,
    Stage,
    UserError,
)
from training.run_folder import RunFolder

FAST = {"learning_rate": 1e-2, "lr_scheduler_type": "constant"}
COLOURS = Recipe(
    name="colours",
    title="Colours",
    base_model="set by the test",
    head=(BatchNorm(), Linear(16), ReLU(), Dropout(0.2), Linear()),
    augmentation=Augmentation(rotation=20, zoom=0.2, horizontal_flip=True),
    stages=(
        Stage(
            name="head", trainable="head", batch_size=8, arguments={**FAST, "num_train_epochs": 3}, restore_best=True
        ),
        Stage(
            name="all",
            batch_size=8,
            arguments={**FAST, "num_train_epochs": 4, "lr_scheduler_type": "reduce_lr_on_plateau"},
            early_stopping_patience=2,
        ),
    ),
)
ONE_STAGE = replace(COLOURS, stages=COLOURS.stages[:1], head=(BatchNorm(), Linear()))


def test_a_run_folder_holds_what_its_contract_says(photos, tiny_resnet, tmp_path):
    run = tmp_path / "run"
    # In bf16 the last bit of a pixel decides how the second stage of so small a network goes.
    flags = ["--bf16", "false", "--stage2.num_train_epochs", "8"]
    results = fit(replace(COLOURS, base_model=str(tiny_resnet)), Folder(photos), RunFolder(run), flags=flags)
    assert results["test"]["accuracy"] >= 0.9
    assert results["images"] == {"train": 42, "validation": 9, "test": 9}
    assert results["largest_logit_difference"] <= 1e-4 * results["largest_logit"]
    assert json.loads((run / "all_results.json").read_text()) == results
    found = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    deployable = {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_backbone_with_head.py"}
    deployable |= {"onnx/model.onnx", "serving.json"}
    facts = {"recipe.json", "log_history.csv", "all_results.json", "plots/curves.png"}
    local = {"local/splits.csv", "local/skipped.csv", "local/data.json"}
    assert {path for path in found if not path.startswith("checkpoints/")} == deployable | facts | local
    for stage in (run / "checkpoints").iterdir():
        assert 1 <= len(list(stage.iterdir())) <= 2


def test_a_network_whose_weights_are_published_under_older_names_is_trained_on_too(photos, tmp_path):
    """transformers gives Swin's weights other names while they are in use, and writes the older ones."""
    values = {"image_size": 16, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 2}
    swin = FromConfig("swin", values, image_size=16)
    stages = tuple(replace(stage, arguments={"num_train_epochs": 1}) for stage in COLOURS.stages)
    results = fit(replace(COLOURS, base_model=swin, stages=stages), Folder(photos), RunFolder(tmp_path / "run"))
    assert results["largest_logit_difference"] <= 1e-4 * results["largest_logit"]


def test_what_leaves_the_machine_names_no_path_of_it(photos, tiny_resnet, tmp_path):
    run = tmp_path / "run"
    fit(
        replace(ONE_STAGE, base_model=str(tiny_resnet)),
        Folder(photos),
        RunFolder(run),
        flags=["--num_train_epochs", "1"],
    )
    for path in [path for path in run.iterdir() if path.is_file() and path.suffix != ".safetensors"]:
        assert str(tmp_path) not in path.read_text()
        assert str(tiny_resnet.parent) not in path.read_text()
    assert json.loads((run / "recipe.json").read_text())["recipe"]["base_model"] == "tiny-resnet (a local folder)"


def test_the_history_has_a_row_an_evaluation_with_both_accuracies(photos, tiny_resnet, tmp_path):
    run = tmp_path / "run"
    fit(
        replace(COLOURS, base_model=str(tiny_resnet)), Folder(photos), RunFolder(run), flags=["--num_train_epochs", "2"]
    )
    with (run / "log_history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["stage"], row["epoch"]) for row in rows] == [
        ("head", "1.0"),
        ("head", "2.0"),
        ("all", "1.0"),
        ("all", "2.0"),
    ]
    for row in rows:
        assert 0 <= float(row["train_accuracy"]) <= 1 and 0 <= float(row["validation_accuracy"]) <= 1
        assert float(row["train_loss"]) > 0 and float(row["validation_loss"]) > 0 and float(row["seconds"]) > 0


def test_the_pipeline_gives_what_was_measured(photos, tiny_timm, tmp_path):
    run = tmp_path / "run"
    results = fit(replace(ONE_STAGE, base_model=str(tiny_timm)), Folder(photos), RunFolder(run))
    classifier = pipeline("image-classification", model=str(run))
    test = [row for row in read_splits(run / "local" / "splits.csv") if row.split == "test"]
    right = [classifier(str(photos / row.path), top_k=1)[0]["label"] == row.label for row in test]
    assert sum(right) / len(right) == results["test"]["accuracy"]


def test_accumulation_divides_the_global_batch(photos, tiny_resnet, tmp_path):
    recipe = replace(ONE_STAGE, base_model=str(tiny_resnet), head=(Linear(),), augmentation=Augmentation())
    plain, accumulated = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "accumulated")
    flags = ["--bf16", "false", "--num_train_epochs", "2"]
    fit(recipe, Folder(photos), plain, flags=flags)
    fit(recipe, Folder(photos), accumulated, flags=[*flags, "--gradient_accumulation_steps", "2"])
    one, two = (load_file(run.path / "model.safetensors")["classifier.1.weight"] for run in (plain, accumulated))
    assert (one - two).abs().max() < 1e-4 * one.abs().max()


def test_the_learning_rate_decays_continuously(photos, tiny_resnet, tmp_path):
    stage = replace(ONE_STAGE.stages[0], decay=ExponentialDecay(0.96, 40), arguments={"num_train_epochs": 2})
    recipe = replace(ONE_STAGE, base_model=str(tiny_resnet), stages=(stage,))
    run = tmp_path / "run"
    fit(recipe, Folder(photos), RunFolder(run), flags=["--learning_rate", "1e-3"])
    with (run / "log_history.csv").open() as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([1e-3 * 0.96 ** (step / 40) for step in (5, 11)])  # of the last step, counted from 0


def test_early_stopping_ends_and_the_best_weights_come_back(photos, tiny_resnet, tmp_path):
    stage = Stage(
        name="all",
        batch_size=8,
        arguments={**FAST, "num_train_epochs": 30, "learning_rate": 0.3},
        early_stopping_patience=2,
    )
    run = tmp_path / "run"
    results = fit(replace(ONE_STAGE, base_model=str(tiny_resnet), stages=(stage,)), Folder(photos), RunFolder(run))
    with (run / "log_history.csv").open() as file:
        losses = [float(row["validation_loss"]) for row in csv.DictReader(file)]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 30
    assert results["validation"]["loss"] == pytest.approx(
        losses[best], rel=0.2, abs=1e-3
    )  # the log's is of bf16, where there is


def test_an_image_alone_in_the_last_batch_stops_nothing(tmp_path, tiny_resnet):
    photos = write_photos(tmp_path / "photos", {"red": 25, "green": 25})
    recipe, run = replace(ONE_STAGE, base_model=str(tiny_resnet)), RunFolder(tmp_path / "run")
    images = fit(recipe, Folder(photos), run, flags=["--num_train_epochs", "1"])["images"]["train"]
    batch = next(batch for batch in range(2, 40) if images % batch == 1)
    flags = ["--num_train_epochs", "1", "--per_device_train_batch_size", str(batch)]
    fit(recipe, Folder(photos), run, Options(overwrite=True), flags=flags)


def test_a_flag_for_the_schedule_replaces_the_recipes_whole(photos, tiny_resnet, tmp_path):
    plateau = {**FAST, "lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"factor": 0.5}}
    flags = ["--lr_scheduler_type", "constant", "--learning_rate", "1e-3", "--num_train_epochs", "2"]
    for stage in (
        replace(ONE_STAGE.stages[0], arguments=plateau),
        replace(ONE_STAGE.stages[0], decay=ExponentialDecay(0.5, 1)),
    ):
        run = RunFolder(tmp_path / f"run-{stage.decay is None}")
        fit(replace(ONE_STAGE, base_model=str(tiny_resnet), stages=(stage,)), Folder(photos), run, flags=flags)
        with run.history.open() as file:
            assert [float(row["learning_rate"]) for row in csv.DictReader(file)] == [1e-3, 1e-3]


def test_the_images_may_not_lie_in_the_run_folder(photos, tiny_resnet):
    with pytest.raises(UserError, match="keep them apart"):
        fit(replace(ONE_STAGE, base_model=str(tiny_resnet)), Folder(photos), RunFolder(photos.parent))


def test_balanced_weights_make_the_rare_class_count(tmp_path, tiny_resnet):
    photos = write_photos(tmp_path / "photos", {"common": 30, "rare": 6})
    recipe = replace(ONE_STAGE, base_model=str(tiny_resnet), head=(Linear(),), augmentation=Augmentation())
    losses = {}
    for weights in (None, "balanced"):
        run = tmp_path / f"{weights}"
        flags = [
            "--num_train_epochs",
            "1",
            "--learning_rate",
            "0",
            "--per_device_train_batch_size",
            "26",
            "--bf16",
            "false",
        ]
        fit(replace(recipe, class_weights=weights), Folder(photos), RunFolder(run), flags=flags)
        with (run / "log_history.csv").open() as file:
            losses[weights] = float(next(csv.DictReader(file))["train_loss"])
    # One step on 22 common and 4 rare images, before anything has moved: (22 c + 4 r) / 26 against (c + r) / 2.
    assert losses[None] != pytest.approx(losses["balanced"], rel=1e-3)


def test_a_bad_file_is_listed_and_the_rest_is_trained_on(photos, tiny_resnet, tmp_path, capsys):
    (photos / "red" / "broken.jpg").write_bytes(b"this is text")
    Image.new("I;16", (40, 32)).save(photos / "red" / "deep.png")
    run = tmp_path / "run"
    fit(
        replace(ONE_STAGE, base_model=str(tiny_resnet)),
        Folder(photos),
        RunFolder(run),
        flags=["--num_train_epochs", "1"],
    )
    with (run / "local" / "skipped.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["red/broken.jpg", "red/deep.png"]
    assert "skipped    2 files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning_rat", "1"], "unknown flag --learning_rat; did you mean --learning_rate?"),
        (["--stage3.learning_rate", "1"], "this recipe has 2 stages"),
        (["--num_train_epochs", "many"], "--num_train_epochs"),
        (["--lr_scheduler_type", "spiral"], "--lr_scheduler_type"),
        (["--push_to_hub"], "--push_to_hub is not used here"),
        (["--stage2.bf16", "false"], "write --bf16, which is for the whole run"),
        (["--stage1.num_train_epochs", "0"], "num_train_epochs is 0"),
        (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps is 0"),
        (["--gradient_accumulation_steps", "8"], "BatchNorm in the head cannot learn from batches of one image"),
        (["--learning_rate", "-1"], "learning_rate is -1"),
        (["--metric_for_best_model", "acuracy"], "allowed are loss, accuracy, macro_f1"),
        (["--dataloader_drop_last"], "it would drop validation images too"),
    ],
)
def test_a_bad_flag_is_refused_and_nothing_is_written(flags, message, photos, tiny_resnet, tmp_path):
    with pytest.raises(UserError, match=message) as refused:
        fit(replace(COLOURS, base_model=str(tiny_resnet)), Folder(photos), RunFolder(tmp_path / "run"), flags=flags)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["missing data", "missing base model", "unknown argument in the recipe", "full disk"])
def test_nothing_is_written_before_all_is_known_to_be_good(what, photos, tiny_resnet, tmp_path, monkeypatch):
    recipe, folder = replace(COLOURS, base_model=str(tiny_resnet)), photos
    if what == "missing data":
        folder = tmp_path / "nowhere"
    elif what == "missing base model":
        recipe = replace(recipe, base_model=str(tmp_path / "no-model"))
    elif what == "unknown argument in the recipe":
        recipe = replace(recipe, stages=(replace(COLOURS.stages[0], arguments={"learning_rat": 1}),))
    else:
        monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError) as refused:
        fit(recipe, Folder(folder), RunFolder(tmp_path / "run"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_run_is_neither_mixed_nor_lost(photos, tiny_resnet, tmp_path):
    recipe, run = replace(ONE_STAGE, base_model=str(tiny_resnet)), RunFolder(tmp_path / "run")
    flags = ["--num_train_epochs", "1"]
    fit(recipe, Folder(photos), run, flags=flags)
    with pytest.raises(UserError, match="--resume goes on, --overwrite replaces"):
        fit(recipe, Folder(photos), run, flags=flags)
    with pytest.raises(UserError, match="began with other flags"):
        fit(recipe, Folder(photos), run, Options(resume=True), flags=["--num_train_epochs", "2"])
    before = (run.path / "model.safetensors").read_bytes()
    again = fit(recipe, Folder(photos), run, Options(resume=True), flags=flags)
    assert (run.path / "model.safetensors").read_bytes() == before
    assert again["test"] == json.loads(run.results.read_text())["test"]
    fit(recipe, Folder(photos), run, Options(overwrite=True), flags=flags)


DRIVER = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_train
from training.data.source import Folder
from training.fitting import fit as module
from training.fitting.progress import Progress
from training.run_folder import RunFolder

moment, photos, base, run, resume = sys.argv[2:7]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def dying_at(stage, step):
    go_on = Progress.on_step_end
    def on_step_end(self, args, state, control, **kwargs):
        if self.stage == stage and state.global_step == step:
            die()
        return go_on(self, args, state, control, **kwargs)
    Progress.on_step_end = on_step_end

if moment == "export":
    module.deploy = die
elif moment == "half a checkpoint":
    from transformers import TrainerState
    write = TrainerState.save_to_json
    def save_to_json(self, path):
        return die() if self.global_step == 12 and "2-all" in path else write(self, path)
    TrainerState.save_to_json = save_to_json
elif moment != "never":
    dying_at(*[int(part) if part.isdigit() else part for part in moment.split(":")])
recipe = replace(test_train.COLOURS, base_model=base)
module.fit(recipe, Folder(Path(photos)), RunFolder(Path(run)), module.Options(resume=resume == "resume"))
"""


def drive(moment, photos, base, run, resume="afresh"):
    command = [sys.executable, "-c", DRIVER, str(ROOT / "tests"), moment, str(photos), str(base), str(run), resume]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("moments", [("all:8", "half a checkpoint"), ("head:2", "head:9", "export")])
def test_a_run_killed_at_any_moment_ends_as_an_unbroken_one(moments, photos, tiny_resnet, tmp_path):
    unbroken = tmp_path / "unbroken"
    assert drive("never", photos, tiny_resnet, unbroken).returncode == 0
    expected = json.loads((unbroken / "all_results.json").read_text())
    # head:2 is before the first checkpoint, head:9 and all:8 in the middle of a stage, export after all training.
    for moment in moments:
        run = tmp_path / moment.replace(":", "-")
        killed = drive(moment, photos, tiny_resnet, run)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (run / "model.safetensors").exists()
        resumed = drive("never", photos, tiny_resnet, run, "resume")
        assert resumed.returncode == 0, resumed.stderr
        got = json.loads((run / "all_results.json").read_text())
        assert {split: got[split] for split in ("validation", "test")} == {
            s: expected[s] for s in ("validation", "test")
        }
        assert (run / "local" / "splits.csv").read_bytes() == (unbroken / "local" / "splits.csv").read_bytes()
        ours, theirs = load_file(run / "model.safetensors"), load_file(unbroken / "model.safetensors")
        assert all(ours[name].equal(theirs[name]) for name in theirs), moment
        with (run / "log_history.csv").open() as file, (unbroken / "log_history.csv").open() as other:
            drop = {"seconds"}
            assert [{k: v for k, v in row.items() if k not in drop} for row in csv.DictReader(file)] == [
                {k: v for k, v in row.items() if k not in drop} for row in csv.DictReader(other)
            ]


def test_the_custom_head_loads_in_our_own_processes_without_remote_code(photos, tiny_resnet, tmp_path):
    run = tmp_path / "run"
    fit(
        replace(COLOURS, base_model=str(tiny_resnet)), Folder(photos), RunFolder(run), flags=["--num_train_epochs", "1"]
    )
    answer = load_classifier(run)(str(photos / "red" / "000.png"), top_k=3)
    assert {each["label"] for each in answer} == {"red", "green", "blue"}
