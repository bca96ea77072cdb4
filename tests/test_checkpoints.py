"""From which of Trainer's checkpoints a run can go on, and what a finished stage hands on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from training.fitting import checkpoints
from training.fitting.checkpoints import SEAL, Underway, is_finished, newest_checkpoint, result_of, state_of

# Validation losses of the epochs: the second is the best, and with a patience of 2 the fourth is the last.
LOSSES = [3.0, 1.0, 2.0, 4.0, 0.5]


class Model(torch.nn.Module):
    """A thousand numbers, so that a checkpoint has a body; its validation losses are given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1000))
        self.evaluations = 0

    def forward(self, x, labels):
        if self.training:
            return {"loss": ((self.weight - x) ** 2).mean()}
        self.evaluations += 1
        return {"loss": torch.tensor(LOSSES[self.evaluations - 1]), "logits": self.weight[:2].expand(len(labels), 2)}


def train(folder: Path, epochs: int, **changes) -> Path:
    """A real run of Trainer with one step and one checkpoint an epoch."""
    values = {"num_train_epochs": epochs, "eval_strategy": "epoch", "save_strategy": "epoch", "use_cpu": True}
    values |= {
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
    args = TrainingArguments(str(folder), **values | changes)
    stopping = [EarlyStoppingCallback(2)] if args.load_best_model_at_end else []
    rows = [{"x": torch.ones(1000), "labels": 0}] * 2
    Trainer(Model(), args, train_dataset=rows, eval_dataset=rows[:1], callbacks=stopping).train()
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """checkpoint-1, -2 and -3 of a run of three epochs."""
    return train(tmp_path_factory.mktemp("run"), 3)


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def truncate(path: Path, share: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_the_newest_is_the_one_of_the_most_steps_and_not_of_the_last_name(run):
    (run / "checkpoint-3").rename(run / "checkpoint-10")
    assert newest_checkpoint(run) == (run / "checkpoint-10", {})


@pytest.mark.parametrize("is_link", [False, True])
def test_what_is_only_called_like_a_checkpoint_is_named_and_makes_place(run, is_link):
    false = run / "checkpoint-12"
    if is_link:
        try:
            false.symlink_to(run / "nowhere")
        except OSError:
            pytest.skip("this system lets not everybody make links")
    else:
        false.write_text("")
    assert newest_checkpoint(run) == (run / "checkpoint-3", {false: "is no folder"})
    checkpoints.begin(false)
    assert false.is_dir() and not false.is_symlink()
    checkpoints.remove(false)
    false.write_text("")
    checkpoints.remove(false)
    assert newest_checkpoint(run) == (run / "checkpoint-3", {})


def test_a_checkpoint_whose_best_one_is_cut_off_cannot_be_gone_on_from(run):
    weights = run / "checkpoint-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    newest, broken = newest_checkpoint(run)
    assert newest == run / "checkpoint-1"
    assert (
        "has a best checkpoint before it, checkpoint-2, which has weights that are cut off"
        in broken[run / "checkpoint-3"]
    )


@pytest.mark.parametrize("content", ["{}", "[]", "{"])
def test_a_state_that_says_nothing_is_a_broken_one(content, run):
    (run / "checkpoint-3" / "trainer_state.json").write_text(content)
    assert newest_checkpoint(run)[0] == run / "checkpoint-2"


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert newest_checkpoint(tmp_path) == (None, {})
    assert newest_checkpoint(tmp_path / "never") == (None, {})


def test_what_has_no_step_in_its_name_is_no_checkpoint(run):
    for name in ("checkpoint-3", "checkpoint-2"):
        shutil.copytree(run / name, run / f"{name}-backup")
    (run / "checkpoint-99").write_text("a file")
    assert newest_checkpoint(run)[0] == run / "checkpoint-3"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: (path / "trainer_state.json").unlink(), "was not written to its end"),
        (lambda path: truncate(path / "trainer_state.json"), "was not written to its end"),
        (lambda path: (path / "trainer_state.json").write_bytes(b""), "was not written to its end"),
        (lambda path: [each.unlink() for each in path.iterdir()], "was not written to its end"),
        (lambda path: truncate(path / "model.safetensors"), "weights"),
        (lambda path: truncate(path / "model.safetensors", 0.99), "weights"),
        (lambda path: (path / "model.safetensors").unlink(), "weights"),
        (lambda path: (path / "model.safetensors").write_bytes(b""), "weights"),
        (lambda path: truncate(path / "optimizer.pt"), "optimizer.pt"),
        (lambda path: truncate(path / "optimizer.pt", 0.99), "optimizer.pt"),
        (lambda path: flip_a_byte(path / "optimizer.pt"), "optimizer.pt"),
        (lambda path: (path / "optimizer.pt").unlink(), "optimizer.pt"),
        (lambda path: (path / "scheduler.pt").write_bytes(b""), "scheduler.pt"),
        (lambda path: truncate(path / "rng_state.pth"), "rng_state.pth"),
    ],
)
def test_a_half_written_checkpoint_gives_way_to_the_one_before(run, damage, told):
    damage(run / "checkpoint-3")
    newest, broken = newest_checkpoint(run)
    assert newest == run / "checkpoint-2"
    assert broken.keys() == {run / "checkpoint-3"}
    assert told in broken[run / "checkpoint-3"]


def test_all_that_are_broken_are_named_newest_first(run):
    for step in (1, 2, 3):
        truncate(run / f"checkpoint-{step}" / "model.safetensors")
    newest, broken = newest_checkpoint(run)
    assert newest is None
    assert list(broken) == [run / f"checkpoint-{step}" for step in (3, 2, 1)]


def test_a_stage_is_finished_when_its_length_is_reached(run):
    assert [is_finished(run / f"checkpoint-{step}") for step in (1, 2, 3)] == [False, False, True]
    assert state_of(run / "checkpoint-2")["global_step"] == 2


def test_a_stage_that_stopped_early_is_finished_and_hands_on_its_best_weights(tmp_path):
    run = train(tmp_path, 5, load_best_model_at_end=True, save_total_limit=2)
    newest, _ = newest_checkpoint(run)
    assert newest == run / "checkpoint-4"
    assert is_finished(newest)
    assert result_of(newest, restore_best=True) == run / "checkpoint-2"
    assert result_of(newest, restore_best=False) == newest

    moved = run.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    assert result_of(moved / "checkpoint-4", restore_best=True) == moved / "checkpoint-2"


def test_the_last_weights_are_handed_on_where_none_were_best(run):
    state = state_of(run / "checkpoint-3")
    state["best_global_step"] = None
    (run / "checkpoint-3" / "trainer_state.json").write_text(json.dumps(state))
    assert result_of(run / "checkpoint-3", restore_best=True) == run / "checkpoint-3"


# Sealed ones

UNDERWAY = Underway(loss=[0.1], seen=[[1, 2]], logged=3, learning_rate=0.5, evaluated=True, epoch_over=True)


@pytest.fixture
def sealed(run) -> Path:
    for step in (1, 2, 3):
        checkpoints.seal(run / f"checkpoint-{step}", UNDERWAY)
    return run


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", checkpoints.STATE]
)
def test_one_bit_is_noticed_in_whatever_is_sealed(sealed, name):
    assert newest_checkpoint(sealed) == (sealed / "checkpoint-3", {})
    if name == checkpoints.STATE:  # still JSON
        path = sealed / "checkpoint-3" / name
        path.write_text(path.read_text().replace('"total_flos": 0', '"total_flos": 1'))
    else:
        flip_a_bit(sealed / "checkpoint-3" / name)
    newest, broken = newest_checkpoint(sealed)
    assert newest == sealed / "checkpoint-2" and "changed since" in broken[sealed / "checkpoint-3"]
    what = "weights" if name == "model.safetensors" else name
    assert what in broken[sealed / "checkpoint-3"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: truncate(path / "model.safetensors"), "has weights that are cut off"),
        (lambda path: (path / "rng_state.pth").unlink(), "has a rng_state.pth that cannot be read (No such file"),
        (lambda path: (path / "optimizer.pt").unlink(), "has an optimizer.pt that cannot be read (No such file"),
        (lambda path: truncate(path / SEAL), "was not written to its end"),
        (lambda path: (path / SEAL).write_text("{}"), "was not written to its end"),
        (lambda path: (path / SEAL).write_text('{"parts": [], "underway": {}}'), "was not written to its end"),
    ],
)
def test_what_is_sealed_is_whole_or_gives_way_to_the_one_before(sealed, damage, told):
    damage(sealed / "checkpoint-3")
    newest, broken = newest_checkpoint(sealed)
    assert newest == sealed / "checkpoint-2" and told in broken[sealed / "checkpoint-3"]


def test_a_checkpoint_that_is_begun_counts_for_nothing_until_it_is_sealed(sealed):
    new = sealed / "checkpoint-4"
    checkpoints.begin(new)
    shutil.copytree(sealed / "checkpoint-3", new, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SEAL))
    assert newest_checkpoint(sealed)[0] == sealed / "checkpoint-3"  # all is there, but for what another process writes
    checkpoints.seal(new, UNDERWAY)
    assert newest_checkpoint(sealed) == (new, {})
    assert checkpoints.underway_of(new) == UNDERWAY
    linked = sealed / "linked"
    linked.hardlink_to(new / "optimizer.pt")  # as where it waits to be uploaded
    before = linked.read_bytes()
    checkpoints.begin(new)
    assert [path.name for path in new.iterdir()] == [SEAL] and linked.read_bytes() == before


def test_what_was_left_in_an_evaluation_is_not_finished(sealed):
    last = sealed / "checkpoint-3"
    assert is_finished(last)
    checkpoints.seal(last, Underway(**{**vars(UNDERWAY), "evaluated": False}))
    assert not is_finished(last)


@pytest.mark.parametrize(
    ("limit", "best", "left"), [(2, None, [2, 3]), (2, 1, [1, 3]), (1, 1, [1, 3]), (1, 3, [3]), (None, 1, [1, 2, 3])]
)
def test_old_ones_go_and_neither_the_newest_nor_the_best(sealed, limit, best, left):
    checkpoints.rotate(sealed, limit, best)
    assert sorted(path.name for path in sealed.iterdir()) == [f"checkpoint-{step}" for step in left]


def test_what_is_left_of_one_that_was_being_deleted_is_none(sealed, monkeypatch):
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed
    checkpoints.remove(sealed / "checkpoint-3")
    assert newest_checkpoint(sealed)[0] == sealed / "checkpoint-2"
