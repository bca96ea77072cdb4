"""A search, whole, on pictures of three colours: trials that are what their run would be, and the best as a run."""

import csv
import json
import math
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import optuna
import pytest
from conftest import ROOT, write_photos
from PIL import Image
from test_commands import TORCHRUN
from test_train import COLOURS, ONE_STAGE

from training import search as command
from training.data.source import Folder
from training.fitting.fit import Options, fit
from training.fitting.search import _check_alone, search
from training.fitting.space import as_flags, as_typed, own_values, suggest
from training.fitting.study import Store, open_store, write_trials
from training.fitting.trial import compared_by, with_calibrated_loss
from training.recipe import UserError
from training.results.search import search_figure
from training.run_folder import RunFolder
from training.run_lock import locked
from training.search_folder import SearchFolder

FP32 = ["--bf16", "false", "--num_train_epochs", "2"]
OWN = {"learning_rate": 1e-2, "weight_decay": 0.0, "label_smoothing_factor": 0.0}
OTHERS = {"learning_rate": 0.05, "weight_decay": 0.1, "label_smoothing_factor": 0.2}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_resnet):
    """A search of two trials that nobody may change: its recipe, the images and the folder."""
    place = tmp_path_factory.mktemp("search")
    photos = write_photos(place / "photos", {"red": 20, "green": 20, "blue": 20})
    recipe = replace(COLOURS, base_model=str(tiny_resnet))
    folder = SearchFolder(place / "colours-search")
    folder.path.mkdir()
    for values in (OWN, OTHERS):
        store_of(folder).study.enqueue_trial(values)
    found = search(recipe, Folder(photos), folder, 2, flags=FP32)
    return SimpleNamespace(recipe=recipe, source=Folder(photos), folder=folder, found=found)


@pytest.fixture
def copy(made, tmp_path):
    """The same, to be changed."""
    shutil.copytree(made.folder.path, tmp_path / "search")
    return SimpleNamespace(recipe=made.recipe, source=made.source, folder=SearchFolder(tmp_path / "search"))


def rows(folder):
    with folder.table.open(newline="") as file:
        return list(csv.DictReader(file))


def store_of(folder, own=OWN):
    return open_store(folder.store, "calibrated_loss", "minimize", own)


# Whole


def test_a_search_is_its_trials_and_a_run_that_says_how_it_was_chosen(made):
    folder, found = made.folder, made.found
    there = {path.name for path in folder.path.iterdir()}
    assert there == {"search.db", "trials.csv", "plots", "trials", "best"}
    assert Image.open(folder.plot).size == (1350, 510)
    assert [(row["number"], row["state"]) for row in rows(folder)] == [("1", "finished"), ("2", "finished")]
    assert [{name: float(row[name]) for name in OWN} for row in rows(folder)] == [OWN, OTHERS]
    kept = {path.parent.parent.name for path in (folder.trials.path / "checkpoints").rglob("model.safetensors")}
    assert kept == {"1-head"}  # trials keep none

    chosen = rows(folder)[found["chosen"] - 1]
    assert float(chosen["result"]) == min(float(row["result"]) for row in rows(folder))
    facts = {"trials": 2, "chosen": found["chosen"], "compared_by": "calibrated validation loss", "looks": 1}
    for path in (folder.best.recipe, folder.best.results, folder.best.test_results):
        assert json.loads(path.read_text())["search"] == facts
    stated = json.loads(folder.best.recipe.read_text())["flags"][1]
    assert {name: stated[name] for name in OWN} == {name: float(chosen[name]) for name in OWN}
    card = " ".join(folder.best.card.read_text().split())
    assert "chosen among 2 trials by the calibrated validation loss, without a look at the test images" in card
    assert "looked at once" in card
    for name in ("splits.csv", "skipped.csv", "data.json"):
        assert (folder.best.path / "local" / name).read_bytes() == (folder.trials.path / "local" / name).read_bytes()


@pytest.mark.parametrize("number", [1, 2])
def test_a_trial_came_to_what_its_run_measures(number, made, tmp_path):
    """All values have reached the training of the second, label smoothing too."""
    trial, run = rows(made.folder)[number - 1], made.folder.best
    if number != made.found["chosen"]:
        run = RunFolder(tmp_path / "run")
        fit(made.recipe, made.source, run, flags=[*FP32, *as_flags((OWN, OTHERS)[number - 1], 2)])
    results = json.loads(run.results.read_text())
    assert float(trial["result"]) == pytest.approx(results["validation"]["loss"], rel=1e-4)
    assert float(trial["validation_accuracy"]) == results["validation"]["accuracy"]


def test_a_search_goes_on_ends_what_is_behind_and_makes_the_run_of_a_better_trial(copy, capsys):
    folder = copy.folder
    before, study = rows(folder), store_of(folder).study
    space = study.trials[0].distributions
    study.ask().suggest_float("learning_rate", 1e-3, 1e-1, log=True)  # was killed
    facts = {"epochs": 2.0, "validation_loss": 0.0, "validation_accuracy": 1.0, "seconds": 1.0}
    params = {"learning_rate": 0.02, "weight_decay": 0.01, "label_smoothing_factor": 0.1}
    better = {"params": params, "distributions": space, "user_attrs": facts, "value": 0.0}
    for _ in range(5):
        study.add_trial(optuna.trial.create_trial(intermediate_values={500: 0.0, 1000: 0.0}, **better))
    found = search(copy.recipe, copy.source, folder, 8, flags=FP32)

    assert rows(folder)[:2] == before
    assert [row["number"] for row in rows(folder)] == [str(number) for number in range(1, 9)]
    assert (rows(folder)[7]["state"], rows(folder)[7]["epochs"]) == ("ended early", "1.0")
    assert found["chosen"] == 3 and found["trials"] == 8 and found["looks"] == 2
    stated = json.loads(folder.best.recipe.read_text())
    assert stated["search"]["looks"] == 2 and stated["flags"][1]["label_smoothing_factor"] == 0.1
    said = capsys.readouterr().out
    assert "  trial 8/8 · learning rate " in said and ", ended early after epoch 1 · best 0.0000, of trial 3" in said
    assert "looked at 2 times, each for another choice" in said
    assert "looked at 2 times" in folder.best.card.read_text()


@pytest.mark.slow
def test_where_every_loss_becomes_no_number_nothing_is_chosen(photos, tiny_resnet, tmp_path):
    recipe, folder = replace(ONE_STAGE, base_model=str(tiny_resnet)), SearchFolder(tmp_path / "search")
    flags = ["--bf16", "false", "--num_train_epochs", "1", "--learning_rate", "1e30", "--optim", "sgd"]
    with pytest.raises(UserError, match="none of 2 trials came to a result") as stopped:
        search(recipe, Folder(photos), folder, 2, flags=flags)
    assert "\n" not in str(stopped.value)
    assert [(row["state"], row["result"]) for row in rows(folder)] == [("diverged", "")] * 2
    assert not folder.best.path.exists() and folder.plot.is_file()


# The store


def tried(store: Store, times: int, cut_off: tuple[int, ...] = ()) -> list[dict]:
    """Make trials of a function that is cheap; those of the numbers in `cut_off`, counted from 0, are left running."""
    for number in range(times):
        settings = {**store.next_trial(seed=42)}
        study = optuna.create_study(**settings)
        trial = study.ask()
        values = suggest(trial, store.own)
        if number in cut_off:
            continue
        study.tell(trial, (math.log(values["learning_rate"]) + 3) ** 2 + values["weight_decay"])
    return [dict(each.values) for each in store.trials()]


def test_what_was_cut_off_is_tried_again_and_all_goes_on_as_if_it_had_not_been(tmp_path):
    (tmp_path / "a {b} ü%20#").mkdir()
    unbroken = tried(open_store(tmp_path / "a {b} ü%20#" / "one.db", "loss", "minimize", OWN), 8)
    store = open_store(tmp_path / "two.db", "loss", "minimize", OWN)
    assert tried(store, 10, cut_off=(0, 7)) == unbroken
    assert unbroken[0] == OWN
    assert len({json.dumps(values) for values in unbroken}) == 8  # none twice
    states = [each.state.name for each in store.study.trials]
    assert states.count("FAIL") == 2 and states.count("COMPLETE") == 8
    again = open_store(tmp_path / "two.db", "loss", "minimize", OWN)
    assert again.best().number == min(again.trials(), key=lambda each: each.result).number
    assert again.note_look(again.best()) == again.note_look(again.best()) == 1
    assert again.note_look(again.trials()[0]) == 2


def test_the_higher_accuracy_is_the_better_one(tmp_path):
    store = open_store(tmp_path / "search.db", "accuracy", "maximize", OWN)
    for result in (0.5, 0.9, 0.9, 0.7):
        study = optuna.create_study(**store.next_trial(seed=1))
        trial = study.ask()
        suggest(trial, OWN)
        study.tell(trial, result)
    assert store.best().number == 2  # the first of equals
    with pytest.raises(UserError, match="compares by accuracy, this command by loss; give the command that began it"):
        open_store(tmp_path / "search.db", "loss", "minimize", OWN)


@pytest.mark.parametrize("what", ["no database", "another program's", "cut off"])
def test_a_store_that_is_none_is_refused_and_left_as_it_is(what, tmp_path):
    path = tmp_path / "search.db"
    if what == "another program's":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE music (title TEXT)")
        connection.close()
    else:
        tried(open_store(path, "loss", "minimize", OWN), 1)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 3] if what == "cut off" else b"text " * 1000)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"search\.db' (is no store of a search|cannot be used) \(") as refused:
        tried(open_store(path, "loss", "minimize", OWN), 1)
    assert "\n" not in str(refused.value) and "--overwrite starts anew" in str(refused.value)
    assert path.read_bytes() == before


def test_a_store_that_was_killed_before_there_was_anything_in_it_is_begun(tmp_path):
    (tmp_path / "search.db").touch()
    assert open_store(tmp_path / "search.db", "loss", "minimize", OWN).trials() == []


def test_without_optuna_there_is_a_line_that_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"a search needs optuna \(.*\): pip install 'optuna>=5,<6'"):
        open_store(tmp_path / "search.db", "loss", "minimize", OWN)
    assert not (tmp_path / "search.db").exists()


# What is searched, and what by


def test_values_lie_around_the_recipe_s_and_can_be_typed():
    own = {"learning_rate": 3e-4, "weight_decay": 0.05, "label_smoothing_factor": 0.07}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = [suggest(study.ask(), own) for _ in range(200)]
    rates = [values["learning_rate"] for values in seen]
    assert 3e-5 <= min(rates) < 5e-5 and 2e-3 < max(rates) <= 3e-3
    assert all(len(f"{rate:e}".split("e")[0].rstrip("0")) <= 4 for rate in rates)  # "1.23"
    assert {values["weight_decay"] for values in seen} == {0, 1e-4, 1e-3, 1e-2, 0.05, 0.1}
    assert {values["label_smoothing_factor"] for values in seen} == {0, 0.05, 0.07, 0.1, 0.2}
    exact = {"learning_rate": 0.00123456, "weight_decay": 0.0, "label_smoothing_factor": 0.0}
    assert as_typed(exact, exact) == exact  # the recipe's own stay what they are
    for values in seen[:20]:
        flags = as_flags(values, 2)
        assert {flag: float(word) for flag, word in zip(flags[::2], flags[1::2], strict=True)} == {
            f"--stage2.{name}": value for name, value in values.items()
        }


def test_around_a_rate_of_nothing_there_is_nothing_to_search():
    args = SimpleNamespace(**{**OWN, "learning_rate": 0})
    with pytest.raises(UserError, match="a number above 0 is needed"):
        own_values(args)


def test_trials_are_compared_by_what_the_stage_watches_and_of_losses_by_the_calibrated_one():
    def args(metric, restores, greater=False):
        return SimpleNamespace(metric_for_best_model=metric, load_best_model_at_end=restores, greater_is_better=greater)

    assert compared_by(args("eval_loss", True), True) == ("calibrated_loss", "minimize")
    assert compared_by(args("eval_loss", True), False) == ("loss", "minimize")
    assert compared_by(args("accuracy", True, True), True) == ("accuracy", "maximize")
    assert compared_by(args("accuracy", False, True), True) == ("calibrated_loss", "minimize")


def test_an_unsure_network_is_not_worse_for_it():
    import numpy as np

    draw = np.random.default_rng(0)
    labels = np.arange(300) % 3
    logits = 4 * np.eye(3)[labels] + draw.normal(0, 1.5, (300, 3))
    sure, unsure = (
        with_calibrated_loss(SimpleNamespace(predictions=logits * scale, label_ids=labels)) for scale in (1.0, 0.3)
    )
    assert unsure["loss"] > 1.5 * sure["loss"]
    assert unsure["calibrated_loss"] == pytest.approx(sure["calibrated_loss"], rel=0.05)


def test_the_plot_marks_what_was_chosen_and_leaves_out_what_came_to_nothing(tmp_path):
    store = open_store(tmp_path / "search.db", "loss", "minimize", OWN)
    tried(store, 6)
    study = optuna.create_study(**store.next_trial(seed=42))
    trial = study.ask()
    suggest(trial, OWN)
    study.tell(trial, math.inf)
    trials, best = store.trials(), store.best()
    assert (trials[6].state, trials[6].result) == ("diverged", None)
    figure = search_figure(trials, best, "Colours", "validation loss")
    for axis in figure.axes:
        stars = [line for line in axis.lines if line.get_marker() == "*"]
        assert [float(line.get_ydata()[0]) for line in stars] == [best.result]
        assert sum(line.get_marker() == "o" for line in axis.lines) == 6
    assert "1 came to nothing: no number" in [text.get_text() for text in figure.legends[0].get_texts()]
    write_trials(trials, tmp_path / "trials.csv")
    assert (tmp_path / "trials.csv").read_text().splitlines()[7].endswith(",,,,,") and len(trials) == 7


# What is refused


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--stage2.learning_rate", "0.5"],
            r"began with other flags \(--stage2.*the search wants the command that beg",
        ),
        (["--seed", "7"], "began with another recipe .*seed: 42 then, 7 now.*--overwrite starts anew"),
        (["--metric_for_best_model", "accuracy"], "began with other flags"),
    ],
)
def test_another_command_does_not_mix_with_a_search(flags, message, copy):
    before = copy.folder.store.read_bytes()
    with pytest.raises(UserError, match=message) as refused:
        search(copy.recipe, copy.source, copy.folder, 3, flags=[*FP32, *flags])
    assert "\n" not in str(refused.value)
    assert copy.folder.store.read_bytes() == before


def test_neither_do_other_images_nor_another_way_to_compare(copy, tmp_path):
    others = write_photos(tmp_path / "photos", {"red": 20, "green": 21, "blue": 19})
    with pytest.raises(UserError, match="put back what was there, or --overwrite starts anew"):
        search(copy.recipe, Folder(others), copy.folder, 3, flags=FP32)
    with pytest.raises(UserError, match="compares by calibrated_loss, this command by loss"):
        search(copy.recipe, copy.source, copy.folder, 3, Options(calibrate=False), FP32)
    assert len(rows(copy.folder)) == 2


def test_a_folder_of_something_else_is_refused(copy, tmp_path):
    asked = [copy.recipe, copy.source]
    with pytest.raises(UserError, match="holds a run; a search wants a folder of its own"):
        search(*asked, SearchFolder(copy.folder.best.path), 2, flags=FP32)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(UserError, match="is not empty and no search of ours"):
        search(*asked, SearchFolder(tmp_path / "mine"), 2, flags=FP32)
    with pytest.raises(UserError, match="is a file"):
        search(*asked, SearchFolder(tmp_path / "mine" / "notes.txt"), 2, flags=FP32)
    with pytest.raises(UserError, match=r"holds a search; the run that it chose is .*best"):
        RunFolder(copy.folder.path).check_trained()
    shutil.rmtree(copy.folder.trials.path)
    with pytest.raises(UserError, match="trials is not what it was; put it back, or --overwrite starts anew"):
        search(*asked, copy.folder, 2, flags=FP32)


def test_a_search_without_its_store_and_one_that_is_under_way_are_refused(copy):
    asked = [copy.recipe, copy.source, copy.folder, 2]
    holding, done = threading.Event(), threading.Event()

    def hold():
        with locked(copy.folder.path, "trains into"):
            holding.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        holding.wait(60)
        with pytest.raises(UserError, match=r"trains into .* already"):
            search(*asked, flags=FP32)
    finally:
        done.set()
        thread.join()
    copy.folder.store.unlink()
    with pytest.raises(UserError, match=r"search\.db is gone; put it back, or --overwrite starts anew"):
        search(*asked, flags=FP32)


def test_overwriting_removes_what_a_search_wrote_and_nothing_else(copy):
    folder = copy.folder
    (folder.path / "notes.txt").touch()
    (folder.best.path / "notes.txt").touch()
    folder.clear()
    found = sorted(path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*"))
    assert found == ["best", "best/notes.txt", "notes.txt"]


def test_no_trials_and_several_processes_are_refused(made, tmp_path):
    folder = SearchFolder(tmp_path / "new")
    with pytest.raises(UserError, match="--trials 0: at least 1 is needed"):
        search(made.recipe, made.source, folder, 0)
    with pytest.raises(UserError, match="in one process, and not in 2: accelerate launch --num_processes 1"):
        _check_alone(SimpleNamespace(process=SimpleNamespace(num_processes=2)))
    assert not folder.path.exists()


@pytest.mark.parametrize("flag", ["--resume", "--resume=you/x", "--folds", "--find_lr", "--accept_changed_data"])
def test_flags_that_are_not_for_a_search_say_why(flag):
    with pytest.raises(UserError, match=rf"{flag.partition('=')[0]} is not for a search: "):
        command.main(["digits", flag])


def test_the_next_command_trains_what_was_chosen_with_another_seed(tmp_path):
    words = ["digits", "--trials", "5", "--data_dir", "my photos", "--seed", "3", "--overwrite", "--output_dir", "x"]
    said = command._other_seed(words, ["--stage1.learning_rate", "0.01"], tmp_path / "run")
    assert said == (
        "accelerate launch -q training/train.py digits --data_dir 'my photos' --stage1.learning_rate 0.01 --seed 1 "
        f"--output_dir {(tmp_path / 'run').as_posix()}"
    )


# As it is typed


RECIPE = """
from training.recipe import Augmentation, Linear, Recipe, Stage
fast = {{"learning_rate": 1e-2, "num_train_epochs": 2}}
recipe = Recipe(
    title="Colours", base_model={base!r}, head=(Linear(),), augmentation=Augmentation(rotation=20),
    stages=(
        Stage(name="head", trainable="head", batch_size=8, arguments=fast),
        Stage(name="all", batch_size=8, arguments=fast, restore_best=True),
    ),
)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")
def test_a_search_that_is_killed_at_any_moment_comes_to_the_same(tmp_path, tiny_resnet):
    photos = write_photos(tmp_path / "photos", {"red": 20, "green": 20, "blue": 20})
    (tmp_path / "colours.py").write_text(RECIPE.format(base=str(tiny_resnet)))

    def started(folder, trials=4):
        flags = ["--data_dir", photos, "--bf16", "false", "--use_cpu", "--threads", 1, "--trials", trials]
        words = [ROOT / "training" / "search.py", tmp_path / "colours.py", *flags, "--output_dir", folder.path]
        return subprocess.Popen(
            [sys.executable, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    unbroken, killed = SearchFolder(tmp_path / "unbroken"), SearchFolder(tmp_path / "killed")
    process = started(unbroken)
    said, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert said.splitlines()[-2].startswith("next       python -m hub_utils.space ")
    # While the stage before is trained, and in the middle of two trials.
    for number, done in ((signal.SIGKILL, None), (signal.SIGKILL, 1), (signal.SIGINT, 2)):
        process = started(killed)
        deadline = time.monotonic() + 300
        while not (killed.trials.history.is_file() if done is None else count(killed) > done):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=100)
        assert process.returncode == (130 if number == signal.SIGINT else -number), errors
        if number == signal.SIGINT:
            assert errors.splitlines()[-1] == "error: interrupted; the same command goes on"
    process = started(killed)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors

    def without_seconds(folder):
        return [{name: each for name, each in row.items() if name != "seconds"} for row in rows(folder)]

    assert without_seconds(killed) == without_seconds(unbroken)
    assert killed.best.weights.read_bytes() == unbroken.best.weights.read_bytes()
    facts = [json.loads(folder.best.test_results.read_text())["search"] for folder in (killed, unbroken)]
    assert facts[0] == facts[1] and facts[0]["looks"] == 1


def count(folder):
    return len(rows(folder)) if folder.table.is_file() else 0


@pytest.mark.slow
def test_two_processes_are_refused_once(tmp_path, tiny_resnet):
    photos = write_photos(tmp_path / "photos", {"red": 20, "green": 20})
    (tmp_path / "colours.py").write_text(RECIPE.format(base=str(tiny_resnet)))
    words = [ROOT / "training" / "search.py", tmp_path / "colours.py", "--data_dir", photos, "--use_cpu"]
    finished = subprocess.run(
        [*TORCHRUN, *map(str, words), "--output_dir", str(tmp_path / "search")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 1
    assert finished.stderr.count("error: a search trains in one process, and not in 2") == 1
    assert not (tmp_path / "search").exists()
