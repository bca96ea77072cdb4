"""`--find_lr`: what a curve says, of curves made by hand; and the test of each stage, which leaves nothing else."""

import csv
import json
import math
import random
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import ROOT
from test_train import COLOURS

from training import preemption, train
from training.data.source import Folder
from training.fitting import find_lr as module
from training.fitting.find_lr import HIGHEST, LOWEST, STEPS, find_lr
from training.preemption import Stopped
from training.recipe import ExponentialDecay, UserError
from training.results.lr_range import LEAST, Curve, has_blown_up, lr_range_figure, smooth

RATES = [LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)) for step in range(STEPS)]


def curve(seed, begins=2.3, ends=0.3, falls_at=1e-3, blows_up_at=0.1, noise=0.05):
    """A loss that falls about one rate and blows up about another, seen in noisy batches until the test would end."""
    draw, losses = random.Random(seed), []
    for rate in RATES:
        true = ends + (begins - ends) / (1 + (rate / falls_at) ** 1.5) + (rate / blows_up_at) ** 2
        losses.append(max(1e-4, true + draw.gauss(0, noise)))
        if has_blown_up(losses):
            break
    return Curve("all", 1e-3, RATES[: len(losses)], losses)


# What a curve says


def test_the_smoothed_loss_is_counted_by_hand():
    assert smooth([2.0, 1.0]) == pytest.approx([2.0, (0.9 * 0.1 * 2 + 0.1 * 1) / (1 - 0.81)])
    assert smooth([0.7] * 50) == pytest.approx([0.7] * 50)


def test_the_test_ends_where_the_loss_blows_up_and_not_where_it_is_merely_noisy():
    flat = [1.0] * 30
    assert not has_blown_up(flat) and not has_blown_up([*flat, 5.0])
    assert has_blown_up([*flat, *[9.0] * 10]) and has_blown_up([*flat, math.nan]) and has_blown_up([math.inf])
    fitted = [2.0] * 10 + [0.01] * 40
    assert not has_blown_up([*fitted, 0.5, 0.5])  # far above the lowest, but still better than at the beginning


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_the_suggestion_lies_in_the_fall_well_below_where_it_blows_up(noise):
    for seed in range(20):
        found = curve(seed, noise=noise)
        assert len(found.losses) < STEPS
        assert 5e-4 < found.suggested < 1e-2, found.why
        assert "a tenth of" in found.why and "\n" not in found.why


def test_it_moves_with_the_curve():
    low, high = (curve(1, falls_at=at, blows_up_at=100 * at).suggested for at in (1e-5, 1e-3))
    assert high / low == pytest.approx(100, rel=0.3)


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
def test_a_loss_that_never_falls_suggests_nothing_and_says_so(noise):
    told = [curve(seed, begins=1.0, ends=1.0, noise=noise) for seed in range(30)]
    silent = [each for each in told if each.suggested is None]
    assert len(silent) >= 29
    assert all("never fell clearly" in each.why for each in silent)


def test_a_curve_of_too_few_steps_suggests_nothing_and_says_so():
    at_once = Curve("all", 1e-3, RATES[: LEAST - 1], [2.0 * 0.5**step for step in range(LEAST - 1)])
    assert at_once.suggested is None and f"blew up within {LEAST - 1} steps" in at_once.why
    nothing = Curve("all", 1e-3, [], [])
    assert nothing.suggested is None and "no number from the first step" in nothing.why


def test_a_loss_that_falls_to_the_end_says_that_it_does():
    falling = Curve("all", 1e-3, RATES, [3 - 0.02 * step for step in range(STEPS)])
    assert falling.suggested == HIGHEST / 10 and falling.why.endswith("still falling")


def test_the_plot_shows_a_stage_each_and_what_matters_of_it():
    blown = curve(1)
    blown = replace(blown, losses=[*blown.losses[:-1], 1e6])
    figure = lr_range_figure([blown, curve(2, begins=0.3, ends=0.3), Curve("none", 1e-3, [], [])], "A title of $1")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"all: suggested {blown.suggested:.1e}", "all: nothing suggested", "none: nothing suggested"]
    assert all(axes.get_xscale() == "log" for axes in figure.axes)
    assert figure.axes[0].get_ylim()[1] < 10
    assert "suggested" in [text.get_text() for text in figure.legends[0].get_texts()]


# The test of each stage


@pytest.fixture
def recipe(tiny_resnet):
    return replace(COLOURS, base_model=str(tiny_resnet))


FLAGS = ["--bf16", "false", "--num_train_epochs", "2"]


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_each_stage_is_tested_and_nothing_else_stays(photos, recipe, tmp_path, capsys):
    stages = (replace(recipe.stages[0], decay=ExponentialDecay(0.5, 3)), recipe.stages[1])  # and a plateau
    folder = tmp_path / "runs" / "colours-find_lr"
    facts = find_lr(replace(recipe, stages=stages), Folder(photos), folder, flags=FLAGS)
    assert files(tmp_path / "runs") == [f"colours-find_lr/{name}" for name in module.WRITTEN]
    with (folder / module.CSV).open() as file:
        rows = list(csv.DictReader(file))
    for name in ("head", "all"):
        rates = [float(row["learning_rate"]) for row in rows if row["stage"] == name]
        assert rates == pytest.approx(RATES[: len(rates)], rel=1e-4) and len(rates) > LEAST
    assert json.loads((folder / module.JSON).read_text()) == json.loads(json.dumps(facts))
    assert str(tmp_path) not in (folder / module.JSON).read_text()
    assert [each["learning_rate"] for each in facts["stages"]] == [1e-2, 1e-2]  # the recipe's own, not that of the test
    said = capsys.readouterr().out
    assert "head on stored features" in said and "validation loss" in said  # the head was trained for the second stage
    assert said.count("(recipe 1.0e-02)") == 2


@pytest.mark.slow
def test_the_test_is_of_the_same_weights_whatever_was_tested_before(photos, recipe, tmp_path):
    """The first stage as it is tested alone; the second from what training the first leaves, not from its test."""
    for number, stages in enumerate((recipe.stages[:1], recipe.stages)):
        find_lr(replace(recipe, stages=stages), Folder(photos), tmp_path / str(number), flags=FLAGS)
    one, two = ((tmp_path / str(number) / module.CSV).read_text().splitlines() for number in range(2))
    assert two[: len(one)] == one
    first = [
        float(next(line.split(",")[3] for line in two if line.startswith(f"{name},1,"))) for name in ("head", "all")
    ]
    assert first[1] < 0.8 * first[0]


@pytest.mark.slow
def test_a_former_test_gives_way_and_anything_else_does_not(photos, recipe, tmp_path):
    one = replace(recipe, stages=recipe.stages[:1])
    folder = tmp_path / "found"
    find_lr(one, Folder(photos), folder, flags=FLAGS)
    before = (folder / module.CSV).read_bytes()
    find_lr(replace(one, seed=7), Folder(photos), folder, flags=FLAGS)
    assert (folder / module.CSV).read_bytes() != before
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'notes.txt', which is nothing of a former test; --find_lr writes into"):
        find_lr(one, Folder(photos), folder, flags=FLAGS)
    assert (folder / "notes.txt").read_text() == "mine"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text('{"recipe": {}, "flags": []}')
    with pytest.raises(UserError, match="holds a run; --find_lr writes into a folder of its own"):
        find_lr(one, Folder(photos), tmp_path / "run", flags=FLAGS)
    with pytest.raises(UserError, match="is a file"):
        find_lr(one, Folder(photos), tmp_path / "run" / "recipe.json", flags=FLAGS)
    with pytest.raises(UserError, match="keep them apart"):
        find_lr(one, Folder(photos), photos.parent, flags=FLAGS)


@pytest.mark.slow
def test_a_signal_ends_it_and_nothing_stays(photos, recipe, tmp_path, monkeypatch):
    asked = iter([None] * 15)
    monkeypatch.setattr(preemption, "asked", lambda: next(asked, 15))
    monkeypatch.setattr(preemption._State, "goes_on", preemption.BEGINS_ANEW)
    with pytest.raises(Stopped, match="stopped by SIGTERM; nothing is left behind, and the same command begins anew"):
        find_lr(recipe, Folder(photos), tmp_path / "runs" / "found", flags=FLAGS)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]  # no folder, no lock, no checkpoint


def test_a_stage_that_cannot_be_trained_names_the_rate_to_try(photos, recipe, tmp_path):
    with pytest.raises(UserError) as refused:
        find_lr(recipe, Folder(photos), tmp_path / "found", flags=[*FLAGS, "--stage1.learning_rate", "1e38"])
    assert "stage head, epoch 1, step" in str(refused.value) and "\n" not in str(refused.value)
    assert "so the next stage cannot be tested: try --stage1.learning_rate " in str(refused.value)
    assert "checkpoint" not in str(refused.value) and not (tmp_path / "found").exists()


# The command


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume"], "--resume with --find_lr, which leaves no run and no checkpoints; leave out one of them"),
        (["--resume", "you/x-checkpoints"], "--resume with --find_lr"),
        (["--folds", "5"], "--folds with --find_lr"),
        (["--checkpoint_repo"], "--checkpoint_repo with --find_lr"),
    ],
)
def test_what_does_not_go_with_it_is_refused(flags, message):
    with pytest.raises(UserError, match=message):
        train.understand(["digits", "--find_lr", *flags])


def test_the_next_command_trains_with_what_was_found_or_tests_again():
    typed = ["digits", "--find_lr", "--output_dir", "my runs/x", "--seed", "1", "--stage1.learning_rate", "3"]
    trained = shlex.split(train._with_flags(typed, ["--stage1.learning_rate", "0.0028"]))
    assert trained[3:] == ["training/train.py", "digits", "--seed", "1", "--stage1.learning_rate", "0.0028"]
    again = ["--find_lr", "--per_device_train_batch_size", "32"]
    assert shlex.split(train._with_flags(typed, again))[4:] == [
        "digits", "--output_dir", "my runs/x", "--seed", "1", "--stage1.learning_rate", "3", *again,
    ]  # fmt: skip


@pytest.mark.slow
def test_where_nothing_is_found_larger_batches_are_next(photos, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HIGHEST", 1.1 * LOWEST)  # at which nothing moves
    one = replace(recipe, stages=recipe.stages[1:])
    facts = find_lr(one, Folder(photos), tmp_path / "found", flags=["--bf16", "false"])
    assert facts["stages"][0]["suggested"] is None and "never fell clearly" in facts["stages"][0]["why"]
    assert facts["next"] == ["--find_lr", "--per_device_train_batch_size", "16"]


@pytest.mark.slow
def test_two_processes_find_one_curve(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "training" / "train.py"), "digits", "--use_cpu", "--find_lr", "--num_train_epochs", "1"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    assert files(tmp_path / "runs") == [f"digits-find_lr/{name}" for name in module.WRITTEN]
    facts = json.loads((tmp_path / "runs" / "digits-find_lr" / module.JSON).read_text())
    assert facts["processes"] == 2 and 3e-4 < facts["stages"][0]["suggested"] < 3e-2
    (line,) = [line for line in finished.stdout.splitlines() if line.startswith("next")]
    assert line.split()[-2:] == ["--stage1.learning_rate", f"{facts['stages'][0]['suggested']:g}"]
