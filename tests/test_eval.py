"""eval.py on runs as people have them, whole, broken and moved: what it writes, and what it says of what is wrong."""

import csv
import io
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, write_photo
from loopback_hub import LoopbackHub
from PIL import Image
from safetensors.torch import load_file, save_file
from test_streaming import RECIPE, parquet, rows_of

from training.data.source import Folder
from training.data.splits import Row, read_splits, write_splits
from training.eval import main
from training.fitting.fit import Options, fit
from training.fitting.folds import fit_folds
from training.recipe import Data, Linear, Recipe, Stage, UserError
from training.results.predictions import read_predictions
from training.run_folder import FoldsFolder, RunFolder

HEADLINE = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier_score", "expected_calibration_error")
FLAGS = ["--bf16", "false"]  # which is slow where the processor emulates it
TWO_CLASSES = ("roc_auc", "average_precision", "sensitivity", "specificity")


def tell(run: RunFolder, *words: object) -> str:
    """What the command prints of a run that it can measure."""
    with redirect_stdout(io.StringIO()) as said:
        assert main([str(run.path), *map(str, words)]) == 0
    return said.getvalue()


def results_of(run: RunFolder) -> dict:
    def refuse(constant: str):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(run.test_results.read_text(encoding="utf-8"), parse_constant=refuse)


def refusal(run: Path | RunFolder, *words: object) -> str:
    """The one line that a run is refused with; nothing was written."""
    path = run.path if isinstance(run, RunFolder) else run
    with pytest.raises(UserError) as refused, redirect_stdout(io.StringIO()):
        main([str(path), *map(str, words)])
    assert "\n" not in str(refused.value)
    assert not (path / "test_results.json").exists()
    assert not list(path.rglob("predictions.csv"))
    return str(refused.value)


def photos_of(run: RunFolder) -> Path:
    return Path(json.loads(run.data.read_text())["data_dir"])


def copy(of: RunFolder, to: Path) -> RunFolder:
    """The run and its images, the images where they were for whoever reads `data.json`."""
    shutil.copytree(of.path, to / "run", ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree(photos_of(of), to / "photos")
    run = RunFolder(to / "run")
    run.data.write_text(json.dumps({"data_dir": str(to / "photos")}))
    return run


@pytest.fixture
def run(colours, tmp_path) -> RunFolder:
    """A copy that a test may spoil."""
    return copy(colours, tmp_path)


@pytest.fixture(scope="module")
def measured(colours, tmp_path_factory) -> tuple[RunFolder, str]:
    """A copy that was measured, and what was said."""
    run = copy(colours, tmp_path_factory.mktemp("measured"))
    return run, tell(run)


@pytest.fixture(scope="module")
def patients(tmp_path_factory, tiny_resnet) -> RunFolder:
    """Two classes, sick and well, two pictures of each patient, a few of them hard to tell."""
    folder = tmp_path_factory.mktemp("patients")
    for patient in range(40):
        label = ("sick", "well")[patient % 2]
        hue = 0.1 if patient % 5 == 0 else (0.0, 0.35)[patient % 2]
        for number in range(2):
            write_photo(folder / "photos" / label / f"p{patient:02}_{number}.png", hue, 2 * patient + number)
    data = Data(pattern=r"(?P<label>sick|well)/(?P<group>p\d+)_")
    stage = Stage(name="all", batch_size=8, arguments={"learning_rate": 1e-2, "num_train_epochs": 1})
    recipe = Recipe(title="Patients", base_model=str(tiny_resnet), head=(Linear(),), stages=(stage,), data=data)
    run = RunFolder(folder / "run")
    fit(replace(recipe, name="patients"), Folder(folder / "photos"), run, Options(calibrate=False), FLAGS)
    return run


def resplit(run: RunFolder, change) -> None:
    """Give each row the split that `change` makes of it."""
    write_splits([replace(row, split=change(row)) for row in read_splits(run.splits)], run.splits)


# What it writes


def test_every_headline_figure_has_its_interval_and_stands_beside_the_floors(measured):
    run, said = measured
    results = results_of(run)
    assert set(results["metrics"]) == set(HEADLINE)
    for figure in results["metrics"].values():
        low, high = figure["interval"]
        assert low <= figure["value"] <= high and figure["method"]
    assert results["metrics"]["accuracy"]["method"] == "Wilson"
    assert results["classes"] == ["blue", "green", "red"] == list(results["per_class"])
    for figures in results["per_class"].values():
        assert set(figures) == {"precision", "recall", "f1", "support"}
    test = [row for row in read_splits(run.splits) if row.split == "test"]
    assert results["images"] == len(test) == sum(each["support"] for each in results["per_class"].values())
    assert np.sum(results["confusion"]) == len(test)
    floors = results["floors"]
    assert set(floors) == {"majority", "colour_neighbour"}
    says = floors["majority"]["says"]
    assert floors["majority"]["value"] == pytest.approx(sum(row.label == says for row in test) / len(test))
    assert floors["colour_neighbour"]["value"] > 0.5  # colour is all there is
    assert "warning    colour alone does about as well" in said
    for name in ("temperature", "model_class", "model_sha256", "versions", "hardware", "date", "git_commit"):
        assert results[name], name
    assert results["missing"] == []


def test_it_says_what_training_said_and_what_it_wrote(measured):
    run, said = measured
    results, trained = results_of(run), json.loads(run.results.read_text())["test"]
    assert results["metrics"]["accuracy"]["value"] == pytest.approx(trained["accuracy"])
    assert results["metrics"]["macro_f1"]["value"] == pytest.approx(trained["macro_f1"])
    assert results["metrics"]["log_loss"]["value"] == pytest.approx(trained["loss"], rel=1e-4)
    lines = said.splitlines()
    assert lines[0] == "Colours (colours)"
    assert f"accuracy   {trained['accuracy']:.1%} [" in said
    assert lines[-1] == f"next       python training/browse.py {run.path}"
    for name in ("confusion", "reliability", "discrimination", "recall"):
        assert Image.open(run.plots / f"{name}.png").size[0] > 400
    assert Image.open(run.mistakes).size[0] > 400
    card = (run.path / "README.md").read_text(encoding="utf-8")
    assert f"{100 * trained['accuracy']:.1f}" in card and "More information needed" not in card


def test_predictions_hold_validation_and_test_and_a_probability_a_class(measured):
    run, _ = measured
    with run.predictions.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "prediction", "p_blue", "p_green", "p_red", "group", "split"]
    splits = [row for row in read_splits(run.splits) if row.split != "train"]
    told = [(row["path"], row["label"], row["group"], row["split"]) for row in rows]
    assert told == [(row.path, row.label, row.group, row.split) for row in splits]
    assert {row.split for row in splits} == {"validation", "test"}
    for row in rows:
        chances = {name: float(row[f"p_{name}"]) for name in ("blue", "green", "red")}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-6)
        assert row["prediction"] == max(chances, key=chances.get)
    test = read_predictions(run.predictions).of("test")
    assert (test.predicted == test.labels).mean() == results_of(run)["metrics"]["accuracy"]["value"]


def test_weights_stay_a_second_time_says_the_same_and_no_path_of_the_machine_leaves_it(measured, colours):
    run, _ = measured
    before, predictions = results_of(run), run.predictions.read_bytes()
    tell(run)
    after = results_of(run)
    assert {key: value for key, value in after.items() if key != "seconds"} == {
        key: value for key, value in before.items() if key != "seconds"
    }
    assert run.predictions.read_bytes() == predictions
    for name in ("model.safetensors", "config.json", "preprocessor_config.json", "all_results.json", "recipe.json"):
        assert (run.path / name).read_bytes() == (colours.path / name).read_bytes(), name
    above = [path for path in run.path.rglob("*") if path.is_file() and "local" not in path.parts]
    assert {path.suffix for path in above} >= {".json", ".md", ".png", ".csv", ".safetensors"}
    for path in above:
        content = path.read_bytes()
        assert str(run.path.parent).encode() not in content and str(colours.path.parent).encode() not in content, path
        assert not any(row.path.encode() in content for row in read_splits(run.splits)), path
    assert not [path for path in run.path.rglob(".*") if path.is_file()]  # no file half written


# Two classes


def test_of_two_classes_operating_points_are_told_and_groups_count_once(patients, tmp_path):
    run = copy(patients, tmp_path)
    said, results = tell(run), results_of(run)
    assert set(results["metrics"]) == {*HEADLINE, *TWO_CLASSES}
    assert results["positive"] == "well"
    assert results["groups"] == results["images"] / 2
    assert f"some belong together: {results['groups']} groups" in said
    assert "effective of" in results["metrics"]["accuracy"]["method"]
    validation = read_predictions(run.predictions).of("validation")
    positives = np.sort(validation.probabilities[validation.labels == 1, 1])
    point = results["operating_points"]["at_95_sensitivity"]
    assert (positives >= point["threshold"]).mean() >= 0.95  # in the table too, whose numbers are rounded
    assert (positives > point["threshold"] * 1.0001).mean() < 0.95  # the highest that reaches it
    assert results["operating_points"]["at_half"]["threshold"] == 0.5
    assert said.count("'well' from 0.") == 2
    assert results["temperature"] is None  # --no_calibrate


def test_a_class_that_the_test_split_lacks_is_named_and_what_it_leaves_undefined_is_null(patients, tmp_path):
    run = copy(patients, tmp_path)
    resplit(run, lambda row: "train" if row.split == "test" and row.label == "well" else row.split)
    said, results = tell(run), results_of(run)
    assert results["missing"] == ["well"]
    assert "warning    no test image of well: of such a class nothing is known" in said
    undefined = [results["metrics"][name] for name in ("roc_auc", "average_precision", "sensitivity")]
    undefined.append(results["per_class"]["well"]["recall"])
    for figure in undefined:
        assert figure["value"] is None and figure["interval"] is None and figure["reason"]
    assert "1 of 2 classes" in results["metrics"]["balanced_accuracy"]["note"]
    assert "sensitivity unknown (" in said
    assert not (run.plots / "discrimination.png").exists()


def test_one_test_image_is_measured_and_without_validation_there_is_no_threshold(patients, tmp_path):
    run = copy(patients, tmp_path)
    one = next(row.path for row in read_splits(run.splits) if row.split == "test" and row.label == "well")
    resplit(run, lambda row: "test" if row.path == one else "train")
    said, results = tell(run), results_of(run)
    assert "test       1 images, 2 classes" in said
    assert results["images"] == 1
    low, high = results["metrics"]["accuracy"]["interval"]
    assert high - low > 0.5
    point = results["operating_points"]["at_95_sensitivity"]
    assert point["threshold"] is None and point["sensitivity"]["reason"]
    for figure in results["metrics"].values():
        assert figure["interval"] is not None or figure["reason"]


# What is wrong with a run


def test_what_is_no_run_is_told_apart(run, colours, tmp_path):
    (tmp_path / "plain").mkdir()
    assert "no run 'nowhere'" in refusal(Path("nowhere"))
    assert "no run that train.py wrote" in refusal(tmp_path / "plain")
    run.weights.unlink()
    message = refusal(run)
    assert "has not come to its end" in message and "--resume" in message


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("model.safetensors", lambda content: content[: len(content) // 2], "cannot be loaded"),
        ("config.json", lambda content: content[:40], "cannot be loaded"),
        ("all_results.json", lambda content: content[:40], "all_results.json' cannot be read"),
        ("local/data.json", lambda content: b"{}", "data.json', which says where the images lie, cannot be read"),
        ("local/splits.csv", None, "has no local/splits.csv, which is never uploaded"),
        ("local/splits.csv", lambda content: content[:9], "splits.csv' cannot be read"),
    ],
)
def test_a_file_of_the_run_that_is_broken_is_named(name, spoil, message, run):
    path = run.path / name
    path.write_bytes(spoil(path.read_bytes())) if spoil else path.unlink()
    assert message in refusal(run)


def test_weights_that_lack_a_part_are_refused_and_not_drawn_by_lot(run, capfd):
    weights = load_file(run.weights)
    del weights["classifier.1.weight"]
    save_file(weights, run.weights, {"format": "pt"})
    assert "there are no weights for classifier.1.weight" in refusal(run)
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_weights_that_are_no_numbers_are_told(run):
    weights = load_file(run.weights)
    save_file({**weights, "classifier.1.bias": weights["classifier.1.bias"] * math.nan}, run.weights, {"format": "pt"})
    assert "are not finite numbers" in refusal(run)


def test_labels_that_are_not_the_datas_and_an_empty_test_split_are_refused(run):
    rows = read_splits(run.splits)
    write_splits([replace(row, label=row.label.replace("red", "rose")) for row in rows], run.splits)
    message = refusal(run)
    assert "has the class 'rose', its model answers blue, green, red" in message
    write_splits([row for row in rows if row.split != "test"], run.splits)
    assert "has no image in its test split" in refusal(run)


# Images that are not what they were


def first(run: RunFolder, split: str) -> Row:
    return next(row for row in read_splits(run.splits) if row.split == split)


def test_an_image_that_is_gone_changed_or_broken_is_named(run, tmp_path):
    path = photos_of(run) / first(run, "test").path
    content = path.read_bytes()
    write_photo(path, 0.5, 1)
    message = refusal(run)
    assert "are not what training saw" in message and first(run, "test").path in message
    path.write_bytes(content[:100])
    assert "cannot be read any more" in refusal(run)
    path.unlink()
    message = refusal(run)
    assert "1 of the run's" in message and first(run, "test").path in message and "--data_dir" in message
    assert "data folder 'nowhere' does not exist" in refusal(run, "--data_dir", "nowhere")


def test_images_that_were_moved_are_found_with_data_dir_and_training_images_may_be_gone(run, tmp_path):
    photos_of(run).rename(tmp_path / "moved")
    assert "--data_dir" in refusal(run)
    lost = [row for row in read_splits(run.splits) if row.split == "train"][:3]
    for row in lost[:2]:
        (tmp_path / "moved" / row.path).unlink()
    write_photo(tmp_path / "moved" / lost[2].path, 0.5, 1)  # another one by now
    said = tell(run, "--data_dir", tmp_path / "moved")
    floor = results_of(run)["floors"]["colour_neighbour"]
    assert floor == {
        "value": None,
        "interval": None,
        "reason": "the colours of 3 training images are not known: they are gone, have changed, or were streamed",
    }
    assert "nearest by colour alone unknown (the colours of 3" in said
    assert "colour alone does about as well" not in said


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_run_that_cannot_be_written_is_told_before_the_work(run):
    run.path.chmod(0o555)
    try:
        assert "cannot be written" in refusal(run)
    finally:
        run.path.chmod(0o755)


def test_a_file_in_the_place_of_a_folder_is_told_before_the_work(run):
    shutil.rmtree(run.plots)
    run.plots.write_text("not a folder")
    assert "cannot be written" in refusal(run)


# As a process, from the Hub, and of folds


def test_the_command_says_one_line_and_ends_with_status_1(run):
    run.weights.write_bytes(b"nothing")
    command = [sys.executable, str(ROOT / "training" / "eval.py")]
    for words in ([str(run.path)], [], [str(run.path), "--data_dri", "x"]):
        done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: "), done.stderr


@pytest.mark.slow
def test_each_fold_of_a_cross_validation_is_measured_and_the_whole_is_not(photos, tiny_resnet, tmp_path):
    stage = Stage(name="all", batch_size=16, arguments={"num_train_epochs": 1})
    recipe = Recipe(title="Colours", base_model=str(tiny_resnet), head=(Linear(),), stages=(stage,), name="colours")
    folds = FoldsFolder(tmp_path / "folds")
    fit_folds(recipe, Folder(photos), folds, 2, flags=FLAGS)
    message = refusal(folds.path)
    assert "cross-validation" in message and str(folds.fold(1).path) in message
    for number in (1, 2):
        tell(folds.fold(number))
        assert results_of(folds.fold(number))["images"] == 30


HUB = """
import json, sys
from pathlib import Path
from training.eval import main as measure
from training.recipe import UserError
from training.train import main as train

recipe, folder = sys.argv[1:]
for name, words in {"stored": [], "streamed": ["--streaming"]}.items():
    run = f"{folder}/{name}"
    short = ["--num_train_epochs", "1", "--use_cpu", "--threads", "1", "--bf16", "false"]
    train([recipe, "--dataset", "alice/photos", "--output_dir", run, *words, *short])
    measure([run, "--int8"])
    try:
        measure([run, "--data_dir", folder])
    except UserError as error:
        print(f"refused: {error}")
"""


@pytest.mark.slow
def test_a_run_on_a_data_set_of_the_hub_is_measured_stored_and_streamed(tiny_resnet, tmp_path):
    recipe = tmp_path / "colours.py"
    recipe.write_text(RECIPE.format(base=str(tiny_resnet), head=""))
    splits = {
        "train": rows_of(tmp_path, 30),
        "validation": rows_of(tmp_path, 9, 100),
        "test": rows_of(tmp_path, 9, 200),
    }
    with LoopbackHub() as hub:
        files = {f"data/{name}-0.parquet": parquet(rows) for name, rows in splits.items()}
        hub.add("alice/photos", files, repo_type="dataset")
        command = [sys.executable, "-c", HUB, str(recipe), str(tmp_path)]
        environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    stored, streamed = (RunFolder(tmp_path / name) for name in ("stored", "streamed"))
    for run in (stored, streamed):
        results = results_of(run)
        assert results["images"] == 9
        trained = json.loads(run.results.read_text())["test"]
        assert results["metrics"]["accuracy"]["value"] == pytest.approx(trained["accuracy"])
        assert results["floors"]["majority"]["value"] == pytest.approx(1 / 3)
        predictions = read_predictions(run.predictions)
        assert sorted(set(predictions.splits)) == ["test", "validation"] and len(predictions.paths) == 18
        assert all(path.split("/")[1] in ("validation", "test") for path in predictions.paths)
        assert results["int8"]["test"]["images"] == 9 and run.int8.is_file()
        assert {
            each["images"] for each in json.loads((run.path / "serving.json").read_text())["precision"].values()
        } <= {9}
        assert "alice/photos" in (run.path / "README.md").read_text(encoding="utf-8")
    assert results_of(stored)["floors"]["colour_neighbour"]["value"] is not None
    assert "were streamed" in results_of(streamed)["floors"]["colour_neighbour"]["reason"]
    assert not streamed.mistakes.exists()  # whose images would be fetched again
    refused = [line for line in done.stdout.splitlines() if line.startswith("refused: ")]
    assert len(refused) == 2 and all("come from the Hub, data set 'alice/photos'" in line for line in refused)


def test_a_moved_runs_next_command_names_the_folder_too(colours, tmp_path, capsys):
    run = RunFolder(tmp_path / "my run")
    shutil.copytree(colours.path, run.path)
    source = json.loads(run.data.read_text())["data_dir"]
    run.data.unlink()
    with pytest.raises(UserError, match="name their folder with --data_dir"):
        main([str(run.path)])
    assert main([str(run.path), "--data_dir", source]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words == ["next", "python", "training/browse.py", str(run.path), "--data_dir", source]


def test_an_evaluation_for_which_the_disk_has_no_room_leaves_the_earlier_one_as_it_was(colours, tmp_path, monkeypatch):
    run = copy(colours, tmp_path)
    tell(run)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.results.measure.plot_surest_mistakes", full)
    with pytest.raises(UserError, match="no space left in"):
        tell(run)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
