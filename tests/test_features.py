"""A stage of the head alone on stored features: what the slow way gives, in a fraction of the time, and never lost."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

from training.data import records
from training.data.source import Folder
from training.data.transforms import Preprocessing, Views
from training.fitting import fit as fitting
from training.fitting.features import FeatureRows, views_of
from training.fitting.fit import Options, fit
from training.fitting.network import build_network
from training.fitting.progress import Progress
from training.fitting.stage import load_checkpoint
from training.recipe import Augmentation, BatchNorm, Dropout, ExponentialDecay, Linear, Recipe, ReLU, Stage, UserError
from training.run_folder import RunFolder, sha256

AUGMENTATION = Augmentation(rotation=20, zoom=0.2, horizontal_flip=True)
FAST = {"learning_rate": 1e-2, "lr_scheduler_type": "constant", "num_train_epochs": 5}
HEAD = Stage(name="head", trainable="head", batch_size=8, arguments=FAST, restore_best=True)
ALL = Stage(name="all", batch_size=8, arguments={**FAST, "learning_rate": 1e-3, "num_train_epochs": 2})
LAYERS = (BatchNorm(), Linear(16), ReLU(), Dropout(0.2), Linear())
COLOURS = Recipe(name="colours", title="Colours", base_model="set by the test", head=LAYERS, stages=(HEAD,))
FP32 = ["--bf16", "false", "--use_cpu"]


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "records_folder", lambda: tmp_path / "records")


@pytest.fixture
def recipe(tiny_resnet):
    return replace(COLOURS, base_model=str(tiny_resnet))


@pytest.fixture
def train(photos, tmp_path, capsys, monkeypatch):
    """Train a recipe into the folder of that name, up to what would be deployed, and return what was said."""
    monkeypatch.setattr(fitting, "deploy", keep)

    def run(recipe, name="run", flags=FP32, **options):
        fit(recipe, Folder(photos), RunFolder(tmp_path / name), Options(threads=1, **options), flags)
        return capsys.readouterr().out

    return run


def keep(network, processor, datasets, folder, *_) -> dict:
    """In place of `deploy`: the network that it is given, in a file."""
    save_file(network.state_dict(), folder / "network.safetensors")
    return {}


def history(run) -> list[dict]:
    with (run / "log_history.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def numbers(rows: list[dict]) -> list[float]:
    return [float(value) for row in rows for name, value in row.items() if name != "stage" and value]


def assert_same(run, other, within=0.0):
    """The same history and the same network in the end."""
    assert numbers(history(run)) == pytest.approx(numbers(history(other)), abs=within, rel=0)
    ours, theirs = (load_file(each / "network.safetensors") for each in (run, other))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=within, rtol=0)


# What comes of it


@pytest.mark.parametrize(
    ("kind", "augmentation"),
    [
        ("native", Augmentation()),
        ("timm", AUGMENTATION),
        pytest.param("native", AUGMENTATION, marks=pytest.mark.slow),
        pytest.param("timm", Augmentation(), marks=pytest.mark.slow),
    ],
)
def test_the_head_learns_what_it_learns_the_slow_way(kind, augmentation, train, tiny_resnet, tiny_timm, tmp_path):
    base = {"native": tiny_resnet, "timm": tiny_timm}[kind]
    recipe = replace(COLOURS, base_model=str(base), augmentation=augmentation, class_weights="balanced")
    flags = [*FP32, "--label_smoothing_factor", "0.1", "--weight_decay", "0.1"]
    views = 1 if augmentation == Augmentation() else 5  # as many as epochs: what each of them shows
    said = train(recipe, "fast", flags, feature_views=5)
    assert f"trains the head on stored features of {views} view{'s' * (views > 1)} of each image" in said
    assert f"{42 * views + 9} × " in said
    assert "stored" not in train(recipe, "slow", flags, feature_views=0)
    assert_same(tmp_path / "fast", tmp_path / "slow", within=1e-4)


@pytest.mark.parametrize(
    "flags",
    [
        ["--max_steps", "13", "--eval_strategy", "steps", "--eval_steps", "5", "--save_strategy", "steps"]
        + ["--save_steps", "5"],
        pytest.param(
            ["--gradient_accumulation_steps", "2", "--lr_scheduler_type", "cosine", "--warmup_steps", "3"],
            marks=pytest.mark.slow,
        ),
        pytest.param(["--metric_for_best_model", "accuracy", "--max_grad_norm", "1"], marks=pytest.mark.slow),
    ],
)
def test_flags_of_trainer_mean_what_they_mean_otherwise(flags, recipe, train, tmp_path):
    for name, views in (("fast", None), ("slow", 0)):
        train(recipe, name, [*FP32, *flags], feature_views=views)
    assert_same(tmp_path / "fast", tmp_path / "slow", within=1e-4)


def test_a_stage_that_stops_early_stops_as_early(recipe, train, tmp_path):
    arguments = {**FAST, "num_train_epochs": 30, "learning_rate": 0.3, "lr_scheduler_type": "reduce_lr_on_plateau"}
    recipe = replace(recipe, stages=(replace(HEAD, arguments=arguments, early_stopping_patience=2),))
    for name, views in (("fast", None), ("slow", 0)):
        train(recipe, name, feature_views=views)
    assert len(history(tmp_path / "fast")) < 30
    assert_same(tmp_path / "fast", tmp_path / "slow", within=1e-3)


def test_half_precision_is_that_of_the_slow_way(recipe, train, tmp_path):
    flags = ["--bf16", "true", "--use_cpu"]
    for name, views in (("fast", None), ("slow", 0)):
        train(recipe, name, flags, feature_views=views)
    assert_same(tmp_path / "fast", tmp_path / "slow", within=1e-2)


def test_epochs_take_turns_at_the_views_and_the_stage_after_goes_on_with_the_best_head(recipe, train, tmp_path):
    decay = replace(HEAD, decay=ExponentialDecay(0.9, 10), arguments={"learning_rate": 1e-2, "num_train_epochs": 5})
    recipe = replace(recipe, augmentation=AUGMENTATION, stages=(decay, ALL))
    said = train(recipe, feature_views=2)
    assert "stored features of 2 views" in said and "computed now: 93" in said
    rows = history(tmp_path / "run")
    assert [row["stage"] for row in rows] == ["head"] * 5 + ["all"] * 2
    best = min(range(5), key=lambda number: float(rows[number]["validation_loss"]))
    folder = tmp_path / "run" / "checkpoints" / "1-head" / f"checkpoint-{rows[best]['step']}"
    stored = load_file(folder / "model.safetensors")
    assert {name.split(".")[0] for name in stored} == {"head", "body"}
    assert stored["head.0.num_batches_tracked"] == int(rows[best]["step"])  # its statistics move, as the others' do not
    network, _ = build_network(recipe, ["blue", "green", "red"])
    loaded = load_checkpoint(network, folder).state_dict()
    assert all(loaded[name].equal(value) for name, value in stored.items() if name != "body")
    assert all(loaded[name].equal(value) for name, value in network.state_dict().items() if "backbone" in name)
    # 30 small steps from there: had the head been lost, the first loss were that of three classes by lot
    assert float(rows[5]["train_loss"]) < 0.7 * np.log(3)


def test_as_many_views_as_there_are_epochs_are_enough():
    def count(asked, how=AUGMENTATION, **values):
        usual = {"num_train_epochs": 5.0, "max_steps": -1, "train_batch_size": 4, "gradient_accumulation_steps": 2}
        return views_of(asked, how, 42, SimpleNamespace(**usual | {"world_size": 1} | values))

    assert (count(3), count(9), count(0)) == (3, 5, 0)
    assert (count(3, Augmentation()), count(0, Augmentation())) == (1, 0)
    assert (count(9, num_train_epochs=1.5), count(9, max_steps=10), count(9, max_steps=10, world_size=2)) == (2, 2, 4)


# What is kept


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_another_body_or_other_images_everything(
    recipe, train, photos, tiny_resnet, tmp_path, monkeypatch
):
    recipe = replace(recipe, augmentation=AUGMENTATION)
    assert "135 × 16 numbers, 0.0 MB; computed now: 135" in train(recipe)
    with monkeypatch.context() as patched:
        looked = Views.__getitem__
        patched.setattr(Views, "__getitem__", lambda self, key: looked(self, {0: 0}[key]))  # one, for the width
        assert "computed now: 0" in train(recipe, "again", [*FP32, "--learning_rate", "1e-3"])
    assert "computed now: 42" in train(recipe, "more", feature_views=4)
    assert "computed now: 126" in train(recipe, "other views", [*FP32, "--seed", "7"])
    assert "computed now: 135" in train(recipe, "other bits", ["--bf16", "true", "--use_cpu"])
    other = shutil.copytree(tiny_resnet, tmp_path / "other-resnet")
    weights = load_file(other / "model.safetensors")
    weights["resnet.embedder.embedder.convolution.weight"][0, 0, 0, 0] += 1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    assert "computed now: 135" in train(replace(recipe, base_model=str(other)), "other body")


def test_what_is_damaged_is_computed_again_to_the_same(recipe, train, tmp_path):
    train(recipe, "whole")
    (values,) = (tmp_path / "records").glob("features-*/values")
    with values.open("r+b") as file:
        file.seek(16 * 4 * 20)
        file.write(b"\xff" * 16 * 4 * 3)
    assert "computed now: 3" in train(recipe, "mended")
    assert_same(tmp_path / "mended", tmp_path / "whole")


@pytest.mark.slow
def test_where_the_disk_has_no_room_features_stay_in_memory(recipe, train, tmp_path, monkeypatch):
    train(recipe, "kept")
    monkeypatch.setattr(records, "MOST", 0)
    monkeypatch.setattr(records, "records_folder", lambda: tmp_path / "full")
    for _ in range(2):
        assert "computed now: 51" in train(recipe, "lost", overwrite=True)
    assert_same(tmp_path / "lost", tmp_path / "kept")


@pytest.mark.slow
def test_what_has_no_room_in_memory_either_is_computed_in_each_epoch(recipe, train, tmp_path, monkeypatch):
    train(recipe, "kept")
    monkeypatch.setattr("training.fitting.features.MEMORY", 10 * 16 * 4)
    assert "computed now: 0\n" in train(recipe, "lost", pixel_cache=0.0)  # what lies there is read
    monkeypatch.setattr(records, "records_folder", lambda: tmp_path / "other")
    said = train(recipe, "lost", pixel_cache=0.0, overwrite=True)
    assert "computed now: 19; 32 have no room" in said
    assert_same(tmp_path / "lost", tmp_path / "kept")


@pytest.mark.slow
def test_of_patients_nothing_is_kept_unless_asked_for(recipe, train, tmp_path):
    recipe = replace(recipe, card=replace(recipe.card, medical=True))
    assert "computed now: 51" in train(recipe, "first") and "computed now: 51" in train(recipe, "second")
    assert not any(each.stat().st_size for each in (tmp_path / "records").rglob("values"))
    train(recipe, "third", pixel_cache=1.0)
    assert "computed now: 0" in train(recipe, "fourth", pixel_cache=1.0)


def test_another_version_of_transformers_has_the_same_body(recipe, train, monkeypatch):
    with killed_after(2):
        train(recipe)
    monkeypatch.setattr("transformers.configuration_utils.__version__", "99.0.0")
    train(recipe, resume=True)


@pytest.fixture
def rows(recipe, photos):
    """A network, and the first `count` of 20 images as stored features."""
    from datasets import Dataset

    network, processor = build_network(recipe, ["a", "b"])
    network.eval()
    paths = [photos / "red" / f"{number:03}.png" for number in range(20)]
    images = [{"path": str(path), "bytes": None} for path in paths]
    table = Dataset.from_dict({"image": images, "label": [0, 1] * 10, "sha256": [sha256(path) for path in paths]})
    loading = {"dataloader_num_workers": 0, "dataloader_pin_memory": False}
    args = SimpleNamespace(bf16=True, fp16=False, device=torch.device("cpu"), **loading)

    def stored(chosen, name="anything"):
        views = Views(table.select(chosen), Preprocessing(processor))
        result = FeatureRows(views, 1, network, name, args)
        return result, result.fill()[0]

    return stored


def test_an_images_features_do_not_depend_on_what_else_is_in_its_batch(rows):
    together, alone = rows(range(20))[0], rows([17], "something else")[0]
    ours, theirs = alone.__getitems__([0]), together.__getitems__([17, (5, 2)])
    assert theirs["features"].shape == (2, 16) and theirs["labels"].tolist() == [1, 0]
    torch.testing.assert_close(ours["features"][0], theirs["features"][0], rtol=1e-2, atol=1e-3)
    assert rows([17, 3])[1] == 0  # by their content, wherever they stand


def test_what_is_kept_of_an_image_is_of_that_image(rows, photos):
    """A file that was changed after the run began is learned from, as the slow way does, and leaves no trace."""
    path = photos / "red" / "003.png"
    before = path.read_bytes()
    path.write_bytes((photos / "blue" / "003.png").read_bytes())
    changed, _ = rows([2, 3])
    path.write_bytes(before)
    stored, computed = rows([2, 3])
    assert computed == 1 and not stored.in_memory and [*changed.in_memory] == [1]
    assert not torch.equal(changed.__getitems__([1])["features"], stored.__getitems__([1])["features"])


# Interrupted

DRIVER = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_features as tests
from training.data import records
from training.data.source import Folder
from training.fitting import fit as fitting
from training.fitting.progress import Progress
from training.run_folder import RunFolder

moment, photos, base, run, store = sys.argv[2:]
records.records_folder = lambda: Path(store)

def die_at(owner, name, count):
    was, calls = getattr(owner, name), []
    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return was(*args, **kwargs)
    setattr(owner, name, dying)

if moment == "features":
    die_at(records.Records, "put", 40)
elif moment != "never":
    die_at(Progress, "on_step_end", int(moment))
recipe = replace(tests.COLOURS, base_model=base, augmentation=tests.AUGMENTATION, stages=(tests.HEAD, tests.ALL))
fitting.deploy = tests.keep
fitting.fit(recipe, Folder(Path(photos)), RunFolder(Path(run)), fitting.Options(resume=True, threads=1))
"""


def drive(moment, *paths):
    command = [sys.executable, "-c", DRIVER, str(ROOT / "tests"), moment, *map(str, paths)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_run_killed_in_the_frozen_stage_goes_on_to_the_same_end(photos, tiny_resnet, tmp_path):
    """While features are computed, and in the third epoch; then in the next stage, with all features gone."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert drive("never", photos, tiny_resnet, whole, tmp_path / "one").returncode == 0
    for moment in ("features", "15", "25"):
        killed = drive(moment, photos, tiny_resnet, run, tmp_path / "two")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    shutil.rmtree(tmp_path / "two")
    done = drive("never", photos, tiny_resnet, run, tmp_path / "two")
    assert done.returncode == 0 and "going on after step" in done.stdout, done.stdout + done.stderr
    assert_same(run, whole)
    assert history(run) == history(whole)


class Stopped(Exception):
    pass


@contextmanager
def killed_after(epochs):
    """Training within ends after so many epochs, with what it has written by then."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.epoch > epochs:
            raise Stopped

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Progress, "on_step_end", on_step_end)
        yield


def test_a_run_goes_on_in_its_own_way_and_no_other(recipe, train, tmp_path):
    train(recipe, "slow", feature_views=0)
    path = tmp_path / "run" / "recipe.json"
    with killed_after(2):
        train(recipe, feature_views=0)
    with pytest.raises(UserError, match=r"other flags \(--feature_views: 0 then, 3 now\); --resume wants the command"):
        train(recipe, resume=True, feature_views=3)
    facts = json.loads(path.read_text())
    assert facts.pop("feature_views") == 0
    path.write_text(json.dumps(facts))  # as before there was the choice
    with pytest.raises(UserError, match="--feature_views: 0 then, 2 now"):
        train(recipe, resume=True, feature_views=2)
    said = train(recipe, resume=True)
    assert "going on after step 12" in said and "stored features" not in said
    assert_same(tmp_path / "run", tmp_path / "slow")


def test_a_head_does_not_go_on_on_another_body(recipe, train, tiny_resnet, tmp_path):
    base = shutil.copytree(tiny_resnet, tmp_path / "base" / "tiny-resnet")
    recipe = replace(recipe, base_model=str(base))
    with killed_after(2):
        train(recipe)
    weights = load_file(base / "model.safetensors")
    weights["resnet.embedder.embedder.convolution.weight"] += 0.1
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="trained on another body than the base model has now; --resume wants") as told:
        train(recipe, resume=True)
    assert "\n" not in str(told.value)


def test_a_run_goes_on_with_the_views_of_its_recipe(recipe, train, tmp_path):
    recipe = replace(recipe, augmentation=AUGMENTATION, stages=(replace(HEAD, views=2),))
    with killed_after(2):
        train(recipe)
    with pytest.raises(UserError, match=r"\(--feature_views: the recipe's then, 4 now\)"):
        train(recipe, resume=True, feature_views=4)
    assert "stored features of 2 views" in train(recipe, resume=True)


def test_a_run_from_before_a_stage_had_views_goes_on_with_the_number_that_it_has(recipe, train, tmp_path):
    recipe = replace(recipe, augmentation=AUGMENTATION)
    path = tmp_path / "run" / "recipe.json"
    with killed_after(2):
        train(recipe, feature_views=2)
    facts = json.loads(path.read_text())
    del facts["recipe"]["stages"][0]["views"]
    path.write_text(json.dumps(facts))
    assert "stored features of 2 views" in train(recipe, resume=True)


def test_a_number_of_views_below_zero_is_refused(recipe, train, tmp_path):
    with pytest.raises(UserError, match="--feature_views -1: 0 or more"):
        train(recipe, feature_views=-1)
    assert not (tmp_path / "run").exists()


# In several processes


@pytest.mark.slow
def test_two_processes_share_the_work_and_read_what_both_computed(photos, tiny_resnet, tmp_path):
    recipe = tmp_path / "colours.py"
    recipe.write_text(
        "from training.recipe import *\n"
        f"stage = Stage(name='head', trainable='head', batch_size=6, arguments={FAST})\n"
        f"recipe = Recipe(title='Colours', base_model={str(tiny_resnet)!r}, head=(Linear(),), stages=(stage,))\n"
    )
    flags = [str(recipe), "--data_dir", str(photos), *FP32, "--threads", "1"]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    said = {}
    for name, how in (("one", []), ("two", launcher)):
        command = [
            sys.executable,
            *how,
            str(ROOT / "training" / "train.py"),
            *flags,
            "--output_dir",
            str(tmp_path / name),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / f"home-{name}")}
        finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert finished.returncode == 0, finished.stderr
        said[name] = finished.stdout
    assert all(said[name].count("51 × 16 numbers, 0.0 MB; computed now: 51") == 1 for name in said)
    one, two = (numbers(history(tmp_path / name)) for name in said)
    assert two == pytest.approx(one, abs=1e-4)
