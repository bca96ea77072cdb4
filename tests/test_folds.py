"""Cross-validation, whole, on pictures of three colours: one run a fold, a summary that adds up, also after a kill."""

import csv
import gc
import json
import math
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, write_photos
from PIL import Image
from test_commands import OWN_RECIPE, TORCHRUN
from test_commands import run as command
from test_train import ONE_STAGE

from hub_utils.portable.modeling_backbone_with_head import BackboneWithHeadForImageClassification
from training.data.source import Folder
from training.data.splits import read_splits
from training.fitting.fit import Options, fit
from training.fitting.folds import CAVEAT, fit_folds, table
from training.recipe import UserError
from training.results.metrics import mean_interval, wilson_interval
from training.run_folder import FoldsFolder, RunFolder
from training.train import main

SHORT = ["--num_train_epochs", "1", "--bf16", "false"]


@pytest.fixture
def recipe(tiny_resnet):
    return replace(ONE_STAGE, base_model=str(tiny_resnet))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


def images_of(run: RunFolder) -> set[str]:
    return {row.path for row in read_splits(run.splits) if row.split == "test"}


# What comes out


def test_a_cross_validation_is_a_run_a_fold_and_a_summary_that_adds_up(photos, recipe, tmp_path, capsys):
    shutil.copy(photos / "red" / "000.png", photos / "blue" / "red.png")  # in two classes
    shutil.copy(photos / "red" / "001.png", photos / "red" / "again.png")
    (photos / "red" / "broken.jpg").write_bytes(b"this is text")
    run = FoldsFolder(tmp_path / "run")
    summary = fit_folds(recipe, Folder(photos), run, 3, flags=SHORT)

    assert {path.name for path in run.path.iterdir()} == {"fold1", "fold2", "fold3", "folds.json", "plots"}
    assert files(run.path / "plots") == {"folds.png"}
    assert Image.open(run.plot).size == (1350, 510)
    for number in (1, 2, 3):
        there = {"config.json", "model.safetensors", "all_results.json", "log_history.csv", "recipe.json"}
        local = {"local/splits.csv", "local/skipped.csv", "local/conflicts.csv", "local/data.json"}
        assert there | local | {"plots/curves.png"} <= files(run.fold(number).path)

    everything = {f"{path.parent.name}/{path.name}" for path in photos.rglob("*.png")}
    conflict = {"blue/red.png", "red/000.png"}
    parts = [images_of(run.fold(number)) for number in (1, 2, 3)]
    assert Counter(path for part in parts for path in part) == dict.fromkeys(everything - conflict, 1)
    for number in (1, 2, 3):
        rows = read_splits(run.fold(number).splits)
        assert {row.path for row in rows} == everything
        assert {row.split for row in rows if row.path in conflict} == {"train"}
        assert len({row.split for row in rows if row.path in ("red/001.png", "red/again.png")}) == 1

    assert summary == json.loads(run.summary.read_text())
    assert (summary["folds"], summary["seed"]) == (3, recipe.splits.seed)
    assert summary["images"] == {"tested": 60, "only_trained_on": 2, "left_out": 1}
    assert summary["reasons"] == {"not an image, whatever its name says": 1}
    results = [json.loads(run.fold(number).results.read_text()) for number in (1, 2, 3)]
    for name in ("accuracy", "macro_f1", "loss"):
        values = [each["test"][name] for each in results]
        assert [each[name] for each in summary["results"]] == values
        mean = sum(values) / 3
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
        half = 4.302653 * deviation / math.sqrt(3)  # Student's t of 2 degrees of freedom, .975
        highest = math.inf if name == "loss" else 1
        assert summary[name]["mean"] == pytest.approx(mean)
        assert summary[name]["standard_deviation"] == pytest.approx(deviation)
        assert summary[name]["interval"] == pytest.approx([max(0, mean - half), min(highest, mean + half)], abs=1e-6)
    right = sum(each["test"]["accuracy"] * len(part) for each, part in zip(results, parts, strict=True))
    pooled = summary["pooled_accuracy"]
    assert (pooled["right"], pooled["tested"]) == (round(right), 60)
    assert pooled["accuracy"] == pytest.approx(right / 60)

    assert str(tmp_path) not in run.summary.read_text()  # of what may leave the machine
    assert ".png" not in run.summary.read_text()

    said = capsys.readouterr().out
    assert all(line in said for line in table(summary))
    assert "1 image stands in two classes at once, never to be tested" in said
    assert said.count("skipped    1 files") == 1  # they are looked at once
    assert said.count(CAVEAT) == 1


@pytest.mark.slow
def test_the_images_are_read_once_and_no_network_outlives_its_fold(photos, recipe, tmp_path, monkeypatch):
    reads, alive = [], []
    read = Folder.read
    monkeypatch.setattr(Folder, "read", lambda *words: reads.append(1) or read(*words))

    def fit_and_count(*words):
        gc.collect()
        alive.append(sum(isinstance(each, BackboneWithHeadForImageClassification) for each in gc.get_objects()))
        return fit(*words)

    monkeypatch.setattr("training.fitting.folds.fit", fit_and_count)
    fit_folds(recipe, Folder(photos), FoldsFolder(tmp_path / "run"), 3, flags=SHORT)
    assert len(reads) == 1
    assert alive == [alive[0]] * 3


@pytest.mark.slow
def test_the_datas_own_test_images_are_used_for_nothing_and_said_to_be(photos, recipe, tmp_path, capsys):
    for name in ("red", "green", "blue"):
        (photos / "train" / name).parent.mkdir(exist_ok=True)
        (photos / name).rename(photos / "train" / name)
        (photos / "test" / name).mkdir(parents=True)
        for number in range(4):
            (photos / "train" / name / f"{number:03}.png").rename(photos / "test" / name / f"{number:03}.png")
    run = FoldsFolder(tmp_path / "run")
    summary = fit_folds(recipe, Folder(photos), run, 2, flags=SHORT)
    assert summary["images"] == {"tested": 48, "only_trained_on": 0, "left_out": 12}
    assert summary["reasons"] == {"in the data's own test split, which folds leave alone": 12}
    assert not any(row.path.startswith("test/") for n in (1, 2) for row in read_splits(run.fold(n).splits))
    assert "12 × in the data's own test split, which folds leave alone" in capsys.readouterr().out
    with run.fold(2).skipped.open() as file:
        assert {row["path"].split("/")[0] for row in csv.DictReader(file)} == {"test"}


# Statistics


def test_intervals_of_known_cases():
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx([0.2553, 0.3662], abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx([0.0624, 0.1605], abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx([0.0, 0.1611], abs=5e-5)
    assert wilson_interval(29, 29) == pytest.approx([0.8830, 1.0], abs=5e-5)
    assert mean_interval([0.5, 0.7], 1.0)["interval"] == [0, 1]  # 12.7 standard errors either way
    assert mean_interval([0.8, 0.8, 0.8], 1.0) == {"mean": 0.8, "standard_deviation": 0, "interval": [0.8, 0.8]}


# Going on

DRIVER = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_folds
from training.data.source import Folder
from training.fitting import fit as fitting, folds as module
from training.fitting.progress import Progress
from training.run_folder import FoldsFolder

moment, photos, base, run, resume = sys.argv[2:7]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "making ready":
    write = module.begin
    module.begin = lambda run, *words: die() if run.path.name == "fold2" else write(run, *words)
elif moment == "summary":
    module.plot_folds = die
elif moment != "never":
    go_on = Progress.on_step_end
    def on_step_end(self, args, state, control, **kwargs):
        if Path(args.output_dir).parts[-3] == moment and state.global_step == 5:
            die()
        return go_on(self, args, state, control, **kwargs)
    Progress.on_step_end = on_step_end
recipe = replace(test_folds.ONE_STAGE, base_model=base)
options = module.Options(resume=resume == "resume")
module.fit_folds(recipe, Folder(Path(photos)), FoldsFolder(Path(run)), 3, options, [*test_folds.SHORT[2:], "--num_train_epochs", "2"])
"""  # noqa: E501


def drive(moment, photos, base, run, resume="afresh"):
    words = [sys.executable, "-c", DRIVER, str(ROOT / "tests"), moment, str(photos), str(base), str(run), resume]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_folds_killed_time_and_again_end_as_unbroken_ones(photos, tiny_resnet, tmp_path):
    unbroken, broken = FoldsFolder(tmp_path / "unbroken"), FoldsFolder(tmp_path / "broken")
    assert drive("never", photos, tiny_resnet, unbroken.path).returncode == 0
    for moment, resume in (("making ready", "afresh"), ("fold2", "resume"), ("summary", "resume")):
        killed = drive(moment, photos, tiny_resnet, broken.path, resume)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert killed.stdout.count("starting afresh") == (moment == "fold2")  # no fold had begun to train
        assert killed.stdout.count(": finished before") == (moment == "summary")
        if moment == "fold2":  # what comes later belongs to no fold
            Image.new("RGB", (40, 32)).save(photos / "red" / "late.png")
            first = contents(broken.fold(1).path)
    resumed = drive("never", photos, tiny_resnet, broken.path, "resume")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count(": finished before") == 3
    assert contents(broken.fold(1).path) == first
    one, other = ({k: v for k, v in run.stored().items() if k != "results"} for run in (broken, unbroken))
    assert one == other
    for number in (1, 2, 3):
        ours, theirs = broken.fold(number), unbroken.fold(number)
        assert ours.splits.read_bytes() == theirs.splits.read_bytes()
        assert (ours.path / "model.safetensors").read_bytes() == (theirs.path / "model.safetensors").read_bytes()


# What is refused


@pytest.mark.slow
def test_folds_are_neither_mixed_nor_lost(photos, recipe, tmp_path):
    run, source = FoldsFolder(tmp_path / "run"), Folder(photos)
    fit_folds(recipe, source, run, 3, flags=SHORT)
    (run.path / "fold3" / "notes.txt").write_text("mine")
    before = contents(run.path)
    for folds, options, flags, message in (
        (3, Options(), SHORT, "holds a cross-validation already; --resume goes on, --overwrite replaces it"),
        (2, Options(resume=True), SHORT, "began with 3 folds; --resume wants --folds 3, --overwrite starts anew"),
        (3, Options(resume=True), ["--num_train_epochs", "2"], "began with other flags"),
    ):
        with pytest.raises(UserError, match=message):
            fit_folds(recipe, source, run, folds, options, flags)
    for options in (Options(), Options(resume=True), Options(overwrite=True)):
        with pytest.raises(UserError, match="holds a cross-validation; --folds 3 --resume goes on with it"):
            fit(recipe, source, RunFolder(run.path), options, SHORT)
    assert contents(run.path) == before

    again = fit_folds(recipe, source, run, 3, Options(resume=True), SHORT)
    assert again == json.loads(before["folds.json"])
    fit_folds(recipe, source, run, 2, Options(overwrite=True), SHORT)
    assert {path.name for path in run.path.iterdir()} == {"fold1", "fold2", "fold3", "folds.json", "plots"}
    assert files(run.path / "fold3") == {"notes.txt"}
    assert run.stored()["folds"] == 2

    run.fold(2).data.unlink()
    with pytest.raises(UserError, match="fold2' is not whole any more; --overwrite"):
        fit_folds(recipe, source, run, 2, Options(resume=True), SHORT)


def test_folds_are_not_put_into_a_run_nor_among_other_things(photos, recipe, tmp_path):
    fit(recipe, Folder(photos), RunFolder(tmp_path / "run"), flags=SHORT)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "folds.json").write_text('{"folds": "of paper"}')
    before = contents(tmp_path)
    for options in (Options(), Options(resume=True), Options(overwrite=True)):
        with pytest.raises(UserError, match="holds a single run; --folds 2 needs another --output_dir"):
            fit_folds(recipe, Folder(photos), FoldsFolder(tmp_path / "run"), 2, options, SHORT)
        with pytest.raises(UserError, match="not empty and no run of ours"):
            fit_folds(recipe, Folder(photos), FoldsFolder(tmp_path / "thesis"), 2, options, SHORT)
    with pytest.raises(UserError, match="lie inside the run folder"):
        fit_folds(recipe, Folder(photos), FoldsFolder(tmp_path), 2, Options(), SHORT)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("folds", "classes", "message"),
    [
        (1, {"red": 9, "blue": 9}, "--folds 1: at least 2 are needed"),
        (-3, {"red": 9, "blue": 9}, "--folds -3: at least 2 are needed"),
        (8, {"red": 9, "blue": 7}, "'blue' has 7 .*: at most --folds 7 is possible"),
        (2, {"red": 3, "blue": 3}, "leave nothing for validation"),
    ],
)
def test_what_cannot_be_cross_validated_is_refused_and_nothing_is_written(folds, classes, message, recipe, tmp_path):
    photos = write_photos(tmp_path / "photos", classes)
    with pytest.raises(UserError, match=message) as refused:
        fit_folds(recipe, Folder(photos), FoldsFolder(tmp_path / "run"), folds, flags=SHORT)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["base model", "flag", "disk"])
def test_nothing_is_written_before_all_is_known_to_be_good(what, photos, recipe, tmp_path, monkeypatch):
    flags = SHORT
    if what == "base model":
        recipe = replace(recipe, base_model=str(tmp_path / "no-model"))
    elif what == "flag":
        flags = ["--learning_rat", "1"]
    else:  # enough for one run, not for five: a run of this network wants about 200 kB
        monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 300_000})())
        fit(recipe, Folder(photos), RunFolder(tmp_path / "one"), flags=flags)
    with pytest.raises(UserError) as refused:
        fit_folds(recipe, Folder(photos), FoldsFolder(tmp_path / "run"), 5, flags=flags)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


# The command


@pytest.fixture
def own(tmp_path, tiny_resnet):
    path = tmp_path / "colours.py"
    path.write_text(OWN_RECIPE.format(base=str(tiny_resnet)))
    return path


@pytest.mark.slow
def test_two_processes_train_the_same_folds_and_the_last_lines_name_what_comes_next(own, photos, tmp_path):
    out = tmp_path / "my run"
    words = [own, "--data_dir", photos, "--output_dir", out, "--folds", 2, "--num_train_epochs", 1, "--use_cpu"]
    finished = command(TORCHRUN, *words)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-2:] == [
        f"wrote      {out}",
        f"next       accelerate launch -q training/train.py {own} --data_dir {photos} --num_train_epochs 1 --use_cpu "
        f"--output_dir '{out}-1'",
    ]
    summary = FoldsFolder(out).stored()
    assert summary["pooled_accuracy"]["tested"] == 60
    assert [json.loads(FoldsFolder(out).fold(n).results.read_text())["processes"] for n in (1, 2)] == [2, 2]
    assert images_of(FoldsFolder(out).fold(1)) | images_of(FoldsFolder(out).fold(2)) == {
        f"{path.parent.name}/{path.name}" for path in photos.rglob("*.png")
    }
    again = command([sys.executable], own, "--output_dir", out, "--folds", 2, *words[7:], "--resume")
    assert again.returncode == 0, again.stderr  # it remembers where the images lie
    assert again.stdout.count(": finished before") == 2
    with pytest.raises(UserError, match="--folds 2 --resume goes on with it"):
        main([str(own), "--output_dir", str(out)])
