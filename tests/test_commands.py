"""The commands as people type them: in processes of their own, under accelerate and torchrun."""

import csv
import json
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, help_of
from loopback_hub import LoopbackHub

from training.command import run_command
from training.recipe import recipe_names
from training.train import main

OWN_RECIPE = """
from training.recipe import Linear, Recipe, Stage
recipe = Recipe(
    title="Colours", base_model={base!r}, head=(Linear(),),
    stages=(Stage(name="all", batch_size=8, arguments={{"num_train_epochs": 2, "learning_rate": 1e-2}}),),
)
"""
COMMANDS = {
    "train",
    "search",
    "eval",
    "predict",
    "browse",
    "rocks_similarity",
    "data_report",
    "download",
    "push_dataset",
}
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "-q"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]


@pytest.fixture
def recipe(tmp_path, tiny_resnet):
    path = tmp_path / "colours.py"
    path.write_text(OWN_RECIPE.format(base=str(tiny_resnet)))
    return path


def run(launcher, *words, **kwargs):
    command = [*launcher, str(ROOT / "training" / "train.py"), *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, **kwargs)


def error_of(finished) -> str:
    """The one line that a failing command says, once it is sure that it is one line."""
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, finished.stderr
    return lines[0]


def test_accelerate_trains_a_recipe_of_ones_own_on_all_cores(recipe, photos, tmp_path):
    folder = tmp_path / "Kim's run"
    finished = run(ACCELERATE, recipe, "--data_dir", photos, "--output_dir", folder, "--threads", 2)
    assert finished.returncode == 0, finished.stderr
    assert "· 2 threads ·" in finished.stdout  # accelerate launch leaves torch one
    wrote, use, next_command = finished.stdout.splitlines()[-3:]
    assert wrote == f"wrote      {folder}"
    _, python, option, code = shlex.split(use)
    assert (python, option) == ("python", "-c")
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0 and "'score'" in answer.stdout, answer.stderr
    assert shlex.split(next_command) == ["next", "python", "training/eval.py", str(folder)]


@pytest.mark.slow
def test_two_processes_count_every_image_once_and_reach_the_same(recipe, photos, tmp_path):
    flags = ["--data_dir", photos, "--bf16", "false", "--use_cpu", "--num_train_epochs", 4]
    assert run([sys.executable], recipe, "--output_dir", tmp_path / "one", *flags).returncode == 0
    finished = run(TORCHRUN, recipe, "--output_dir", tmp_path / "two", *flags)
    assert finished.returncode == 0, finished.stderr
    one, two = (json.loads((tmp_path / name / "all_results.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["test"]["accuracy"] >= one["test"]["accuracy"] - 0.2
    with (tmp_path / "two" / "log_history.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    # Nine validation images do not divide by two: an image that counts twice would show here.
    assert float(last["validation_loss"]) == pytest.approx(two["validation"]["loss"], rel=1e-4)
    assert float(last["validation_accuracy"]) == two["validation"]["accuracy"]


@pytest.mark.slow
def test_an_error_in_two_processes_is_said_once(recipe, tmp_path):
    finished = run(TORCHRUN, recipe, "--data_dir", tmp_path / "nowhere", "--use_cpu", "--output_dir", tmp_path / "run")
    assert finished.returncode == 1
    assert finished.stderr.count("error: data folder") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["flower"], "did you mean 'flowers'?"),
        (["nowhere/mine.py"], "no recipe file"),
        (["digits", "--data_dir", "nowhere"], "data folder 'nowhere' does not exist"),
        (["digits", "--num_train_epoch", "3"], "did you mean --num_train_epochs?"),
        (["--num_train_epochs", "3", "digits"], "RECIPE comes first"),
        (["digits", "--data_dir", "a", "--dataset", "b"], "not allowed with"),
    ],
)
def test_a_mistake_on_the_command_line_gets_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", *words, "--output_dir", str(tmp_path / "run")])
    status = run_command(main, "")
    finished = subprocess.CompletedProcess(sys.argv, status, *capsys.readouterr())
    assert message in error_of(finished)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_imports_no_heavy_library(name):
    said = help_of(
        f"{name}.py", "torch", "transformers", "numpy", "PIL", "datasets", "gradio", "matplotlib", "huggingface_hub"
    )
    assert f"training/{name}.py" in said
    if name in ("train", "search"):
        assert all(recipe in said for recipe in recipe_names())


def test_every_command_is_known_here():
    scripts = (ROOT / "training").glob("*.py")
    assert {path.stem for path in scripts if "__main__" in path.read_text(encoding="utf-8")} == COMMANDS


def test_a_base_model_comes_from_the_hub_and_its_absence_is_explained(photos, tiny_resnet, tmp_path):
    recipe = tmp_path / "colours.py"
    recipe.write_text(OWN_RECIPE.format(base="alice/tiny"))
    words = [recipe, "--data_dir", photos, "--num_train_epochs", 1]
    with LoopbackHub(tokens={"hf_alice": "alice"}) as hub:
        hub.add("alice/tiny", tiny_resnet, private=True)
        owner, stranger = (hub.environment(tmp_path / f"home-{token}", token) for token in ("hf_alice", None))
        finished = run([sys.executable], *words, "--output_dir", tmp_path / "run", env=owner)
        assert finished.returncode == 0, finished.stderr
        assert json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]["base_model"] == "alice/tiny"
        refused = run([sys.executable], *words, "--output_dir", tmp_path / "other", env=stranger)
        assert "no base model 'alice/tiny' on the Hub, or it is private" in error_of(refused)
    # The Hub is gone: what is in the cache still does; who has no cache is told what helps.
    cached = run([sys.executable], *words, "--output_dir", tmp_path / "run", "--overwrite", env=owner)
    assert cached.returncode == 0, cached.stderr
    unreachable = error_of(run([sys.executable], *words, "--output_dir", tmp_path / "other", env=stranger))
    assert all(word in unreachable for word in ("alice/tiny", "--base_model DIR", "HF_ENDPOINT", "digits"))
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_data_set_comes_from_the_hub_at_a_pinned_commit(recipe, photos, tmp_path):
    from datasets import ClassLabel, Dataset, Features, Image

    names = ["blue", "green", "red"]
    files = {}
    for split, part in (("train", range(15)), ("test", range(15, 20))):
        rows = [(str(photos / name / f"{number:03}.png"), names.index(name)) for name in names for number in part]
        features = Features(picture=Image(), category=ClassLabel(names=names))
        table = Dataset.from_dict({"picture": [row[0] for row in rows], "category": [row[1] for row in rows]}, features)
        path = tmp_path / f"{split}.parquet"
        table.to_parquet(path)
        files[f"data/{split}-00000-of-00001.parquet"] = path
    with LoopbackHub() as hub:
        commit = hub.add("alice/photos", files, repo_type="dataset")
        environment = hub.environment(tmp_path / "home")
        words = [recipe, "--dataset", "alice/photos", "--output_dir", tmp_path / "run"]
        finished = run([sys.executable], *words, env=environment)
        assert finished.returncode == 0, finished.stderr
        missing = run(
            [sys.executable], recipe, "--dataset", "alice/nothing", "--output_dir", tmp_path / "no", env=environment
        )
        assert "no data set 'alice/nothing' on the Hub" in error_of(missing)
        hub.add("alice/photos", {"data/train-00000-of-00001.parquet": b"changed since"}, repo_type="dataset")
        resumed = run([sys.executable], *words, "--resume", env=environment)
        assert resumed.returncode == 0, resumed.stderr
    with (tmp_path / "run" / "local" / "splits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["path"].split("/")[0] for row in rows} == {commit}
    assert {row["path"].split("/")[1] for row in rows if row["split"] == "test"} == {"test"}
    assert {row["label"] for row in rows} == set(names)
