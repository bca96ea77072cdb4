"""Checkpoints that outlive the machine: a run whose disk is gone goes on from the Hub to the same end."""

import csv
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT, write_photo
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import RepositoryNotFoundError
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file

from training.fitting.checkpoint_repo import Saver, find_repo, open_repo
from training.preemption import Stopped
from training.recipe import UserError
from training.run_folder import RunFolder
from training.train import main, parser

TOKENS = {"hf_alicetoken": "alice", "hf_bobtoken": "bob", "hf_readertoken": "alice"}
REPO = "alice/flowers-checkpoints"
RECIPE = """
from training.recipe import Augmentation, BatchNorm, Data, Dropout, Linear, Recipe, Stage
FAST = {{"learning_rate": 1e-2, "lr_scheduler_type": "constant"}}
recipe = Recipe(
    title="Colours", base_model={base!r}, head=(BatchNorm(), Dropout(0.2), Linear()),
    data=Data(pattern=r"(?P<label>\\w+)/(?P<group>[a-z]+\\d+)-"),
    augmentation=Augmentation(rotation=20, horizontal_flip=True),
    stages=(
        Stage(name="head", trainable="head", batch_size=8, arguments={{**FAST, "num_train_epochs": 3}}),
        Stage(name="all", batch_size=8, arguments={{**FAST, "num_train_epochs": 4}}, early_stopping_patience=3),
    ),
)
"""

# The command itself, which dies once a checkpoint as far as a given one is on the Hub, or before the export.
DRIVER = """
import os, signal, sys, time
sys.path[:0] = [sys.argv[1]]
from training.command import run_command
from training.fitting import checkpoint_repo, fit
from training.fitting.progress import Progress
from training.train import main

moment, words = sys.argv[2], sys.argv[3:]
sleep, time.sleep = time.sleep, lambda seconds: None  # the client's own waits between two tries

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "export":
    fit.deploy = die
elif moment != "never":
    stage, step = moment.split(":")
    commit, go_on = checkpoint_repo.Saver._commit, Progress.on_step_end
    def dying(self, aside):
        commit(self, aside)
        if any(name.split("/")[1] == stage and int(name.rpartition("-")[2]) >= int(step) for name in self.saved):
            die()
    def slowly(self, *args, **kwargs):
        sleep(0.1)
        return go_on(self, *args, **kwargs)
    checkpoint_repo.Saver._commit, Progress.on_step_end = dying, slowly
sys.argv[1:] = words
sys.exit(run_command(main, ""))
"""


@pytest.fixture
def hub():
    with LoopbackHub(tokens=TOKENS, roles={"hf_readertoken": "read"}) as hub:
        yield hub


@pytest.fixture
def here(hub, monkeypatch, tmp_path) -> LoopbackHub:
    """The same Hub for this process, as alice; the client's own waits between two tries are left out."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", "hf_alicetoken")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.chdir(tmp_path)
    return hub


@pytest.fixture
def recipe(tmp_path, tiny_resnet) -> Path:
    path = tmp_path / "colours.py"
    path.write_text(RECIPE.format(base=str(tiny_resnet)))
    return path


@pytest.fixture
def patients(tmp_path) -> Path:
    """Three colours, 20 pictures each of 10 patients; two files are the same."""
    folder = tmp_path / "patients"
    for index, name in enumerate(("red", "green", "blue")):
        for number in range(20):
            path = folder / name / f"smith{index}{number // 2}-{number:03}.png"
            write_photo(path, index / 3, index * 100 + number)
    shutil.copyfile(folder / "red" / "smith00-000.png", folder / "red" / "smith00-copy.png")
    return folder


def train(hub: LoopbackHub, home: Path, moment: str, *words: object, token: str = "hf_alicetoken", launcher=()):
    script = home.parent / "driver.py"
    script.write_text(DRIVER)
    command = [
        sys.executable,
        *launcher,
        str(script),
        str(ROOT),
        moment,
        *map(str, words),
        "--use_cpu",
        "--threads",
        "1",
    ]
    environment = hub.environment(home, token)
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=home.parent, timeout=200)


def history(run: Path) -> list[dict]:
    with (run / "log_history.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def assert_same(run: Path, other: Path) -> None:
    ours, theirs = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in theirs)
    assert history(run) == history(other)
    results = [json.loads((each / "all_results.json").read_text()) for each in (run, other)]
    assert {**results[0], "seconds": 0} == {**results[1], "seconds": 0}
    names = {path.name for path in (other / "local").iterdir()} - {"data.json"}
    assert {name: (run / "local" / name).read_bytes() for name in names} == {
        name: (other / "local" / name).read_bytes() for name in names
    }


def printed(hub: LoopbackHub, repo_id: str = REPO) -> bytes:
    """All that was ever uploaded, names and messages as well."""
    repo = hub.commits(repo_id)
    found = [f"{commit.title}\n{commit.message}\n{path}\n".encode() for commit in repo for path in commit.files]
    return b"".join(found + [hub.stored(blob).read_bytes() for commit in repo for blob in commit.files.values()])


# In the first stage, in the second, and when all is trained and nothing is exported.
@pytest.mark.parametrize(
    "moments", [("2-all:12",), pytest.param(("1-head:12", "2-all:18", "export"), marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_a_run_whose_disk_is_lost_ends_as_an_unbroken_one(moments, hub, recipe, patients, tmp_path):
    home, unbroken, run = tmp_path / "home", tmp_path / "unbroken", tmp_path / "flowers"
    done = train(hub, home, "never", recipe, "--data_dir", patients, "--output_dir", unbroken)
    assert done.returncode == 0, done.stderr
    how, outputs = ["--checkpoint_repo"], [done]
    for moment in moments:
        killed = train(hub, home, moment, recipe, "--data_dir", patients, "--output_dir", run, *how)
        assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
        for lost in (run, home):
            shutil.rmtree(lost)
        patients = patients.rename(tmp_path / moment.replace(":", "-"))
        how = ["--resume", "flowers" if moment == "export" else REPO]
        outputs.append(killed)
    resumed = train(hub, home, "never", recipe, "--data_dir", patients, "--output_dir", run, *how)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_same(run, unbroken)
    assert f"on any machine --resume {REPO} goes on" in resumed.stdout
    assert not list(run.rglob(".saving-*")) and not (run / "down").exists()

    # Whole checkpoints for their owner alone, and nothing that leads to the machine, the pictures or the patients.
    assert hub.repos["models", REPO].private
    for token in (False, "hf_bobtoken"):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(hub.url, token=token).repo_info(REPO)
    names = set(hub.files(REPO))
    assert names - {name for name in names if name.startswith("checkpoints/")} == {
        ".gitattributes", "run.json", "recipe.json", "log_history.csv", "splits.csv",
    }  # fmt: skip
    folders = {name.rpartition("/")[0] for name in names if name.startswith("checkpoints/")}
    assert {"checkpoints/1-head/checkpoint-18", "checkpoints/2-all/checkpoint-24"} <= folders
    kept = {
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "checkpoint.json",
    }
    assert {name for name in names if "checkpoint-" in name} == {
        f"{folder}/{name}" for folder in folders for name in kept
    }
    uploaded = printed(hub)
    for secret in (b"hf_", b"smith", b".png", str(tmp_path).encode(), str(ROOT).encode(), b"training_args"):
        assert secret not in uploaded, secret
    assert not [each for each in outputs if "token" in each.stdout + each.stderr]


def test_a_hub_that_goes_down_stops_no_training_and_is_caught_up_with(here, recipe, patients, tmp_path, capsys):
    words = [recipe, "--data_dir", patients, "--output_dir", tmp_path / "flowers", "--num_train_epochs", "2"]
    words = [*map(str, words), "--use_cpu", "--checkpoint_repo"]
    here.fail("POST /api/models/.*/commit/", "down", skip=2)  # the first one is before training
    assert main(words) == 0
    said = capsys.readouterr()
    assert (tmp_path / "flowers" / "model.safetensors").is_file()
    warnings = [line for line in said.out.splitlines() if line.startswith("warning    ") and "heckpoints" in line]
    assert len(warnings) == 2 and "training goes on" in warnings[0], said.out
    assert "the last checkpoints are not on the Hub (the Hub cannot be reached" in warnings[1]
    assert "Traceback" not in said.out + said.err and "hf_" not in said.out + said.err
    here.recover()
    assert "2-all/checkpoint-12" not in saved(here)
    assert main([*words, "--resume"]) == 0
    assert {"1-head/checkpoint-12", "2-all/checkpoint-12"} <= set(saved(here))


def test_a_machine_that_is_taken_away_saves_its_last_step_first(here, recipe, patients, tmp_path, capsys, monkeypatch):
    words = [recipe, "--data_dir", patients, "--output_dir", tmp_path / "flowers", "--use_cpu", "--bf16", "false"]
    asked = iter([None, signal.SIGTERM])  # after the first step, and the second
    monkeypatch.setattr("training.preemption.asked", lambda: next(asked))
    with pytest.raises(Stopped, match="a checkpoint of step 2 is in") as stopped:
        main([*map(str, words), "--checkpoint_repo"])
    assert stopped.value.status == 143
    assert saved(here) == ["1-head/checkpoint-2"]
    assert f"on any machine --resume {REPO} goes on" in capsys.readouterr().out
    assert "checkpoints/1-head/checkpoint-2/checkpoint.json" in here.files(REPO)
    shutil.rmtree(tmp_path / "flowers")
    asked = iter([None, signal.SIGTERM])
    with pytest.raises(Stopped, match="a checkpoint of step 4 is in"):
        main([*map(str, words), "--resume", REPO])
    assert "going on after step 2" in capsys.readouterr().out
    assert saved(here) == ["1-head/checkpoint-2", "1-head/checkpoint-4"]


def data_set(folder: Path) -> dict[str, Path]:
    """The colours as Parquet files, with a test split of their own."""
    from datasets import ClassLabel, Dataset, Features, Image

    files, features = {}, Features(picture=Image(), category=ClassLabel(names=["blue", "green", "red"]))
    for split, part in (("train", slice(16)), ("test", slice(16, 20))):
        rows = [
            (str(path), name) for name in ("blue", "green", "red") for path in sorted((folder / name).iterdir())[part]
        ]
        columns = {"picture": [path for path, _ in rows], "category": [name for _, name in rows]}
        files[f"data/{split}-00000-of-00001.parquet"] = folder / f"{split}.parquet"
        Dataset.from_dict(columns, features).to_parquet(folder / f"{split}.parquet")
    return files


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["data set", "stream", "two processes"])
def test_other_runs_come_back_as_well(kind, hub, recipe, patients, tmp_path):
    home, unbroken, run = tmp_path / "home", tmp_path / "unbroken", tmp_path / "flowers"
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2") if kind == "two processes" else ()
    data = ["--data_dir", patients] if kind == "two processes" else ["--dataset", "alice/photos"]
    data += ["--streaming"] * (kind == "stream")
    hub.add("alice/photos", data_set(patients), repo_type="dataset", private=True)
    done = train(hub, home, "never", recipe, *data, "--output_dir", unbroken, launcher=launcher)
    assert done.returncode == 0, done.stderr
    words = [recipe, *data, "--output_dir", run, "--checkpoint_repo"]
    killed = train(hub, home, "2-all:12", *words, launcher=launcher)
    assert killed.returncode not in (0, 2) and not (run / "model.safetensors").exists(), killed.stderr
    for lost in (run, home):
        shutil.rmtree(lost)
    hub.add("alice/photos", {"data/train-00000-of-00001.parquet": b"changed since"}, repo_type="dataset")
    words = [recipe, *data[: 2 * (kind == "two processes")], "--output_dir", run, "--resume", "flowers"]
    resumed = train(hub, home, "never", *words, launcher=launcher)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "stage      head: " in resumed.stdout and "finished before, at step" in resumed.stdout
    assert "going on after step" in resumed.stdout
    assert_same(run, unbroken)
    folder = run / "checkpoints" / "2-all"
    states = {path.name for path in next(folder.iterdir()).glob("rng_state*")}
    assert states == ({"rng_state_0.pth", "rng_state_1.pth"} if launcher else {"rng_state.pth"})
    if not launcher:
        assert (run / "local" / "data.json").read_bytes() == (unbroken / "local" / "data.json").read_bytes()


# The parts, with checkpoints made by hand


def write_checkpoint(run: RunFolder, stage: str, step: int, best: int | None = None, done: bool = False) -> Path:
    """As Trainer leaves one."""
    folder = run.path / "checkpoints" / stage / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file({"weight": torch.full((4,), float(step))}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"step": step}, folder / name)
    (folder / "training_args.bin").write_bytes(pickle.dumps("anything"))
    control = {"args": {"should_training_stop": done}}
    state = {"global_step": step, "best_global_step": best, "best_model_checkpoint": str(folder), "log_history": []}
    state["stateful_callbacks"] = {"TrainerControl": control}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


@pytest.fixture
def begun(tmp_path) -> RunFolder:
    """A run that has begun, on a folder of images."""
    run = RunFolder(tmp_path / "flowers")
    run.splits.parent.mkdir(parents=True)
    run.recipe.write_text(json.dumps({"recipe": {}, "flags": []}))
    run.splits.write_text("path,sha256,label,split,group\nsecret/1.png,aa,red,train,smith\n")
    run.data.write_text(json.dumps({"data_dir": str(tmp_path)}))
    return run


def saver(run: RunFolder, said: list[str]) -> Saver:
    repo = open_repo("", run, goes_on=True)
    repo.begin(run)
    repo.claim(run)
    return Saver(repo, run, said.append)


def saved(hub: LoopbackHub) -> list[str]:
    return sorted({name.rpartition("/")[0].removeprefix("checkpoints/") for name in hub.files(REPO) if "/" in name})


def test_of_checkpoints_that_wait_the_newest_goes_with_all_that_it_needs(here, begun, monkeypatch):
    said: list[str] = []
    first, going = threading.Event(), threading.Event()
    commit = Saver._commit

    def slow(self, aside):
        going.set()
        first.wait(30)
        commit(self, aside)

    monkeypatch.setattr(Saver, "_commit", slow)
    write_checkpoint(begun, "1-head", 5)
    saving = saver(begun, said)
    assert going.wait(30)
    write_checkpoint(begun, "1-head", 10)
    write_checkpoint(begun, "1-head", 15, best=10, done=True)
    saving.put()
    write_checkpoint(begun, "2-all", 5, best=5)
    saving.put()
    write_checkpoint(begun, "2-all", 10, best=5)
    shutil.rmtree(begun.path / "checkpoints" / "1-head" / "checkpoint-5")  # as Trainer does
    saving.put()
    assert len(list(begun.path.glob("checkpoints/.saving-*"))) == 2
    first.set()
    saving.finish()
    assert [commit.title for commit in here.commits(REPO)[2:]] == [
        "1-head/checkpoint-5",
        "1-head/checkpoint-15, 1-head/checkpoint-10, 2-all/checkpoint-10, 2-all/checkpoint-5",
    ]
    assert saved(here) == [f"1-head/checkpoint-{n}" for n in (10, 15, 5)] + [f"2-all/checkpoint-{n}" for n in (10, 5)]
    assert not list(begun.path.glob("checkpoints/.saving-*"))
    assert said == [f"saved      checkpoints at {here.url}/{REPO}; on any machine --resume {REPO} goes on"]


@pytest.mark.parametrize("how", ["refuse", "lose", 503, 429, 412, "cut"])
def test_a_checkpoint_that_failed_goes_with_the_next(how, here, begun, capsys):
    said: list[str] = []
    saving = saver(begun, said)
    here.fail("POST /api/models/.*/(preupload|commit)/", how, times=6)
    write_checkpoint(begun, "1-head", 5)
    saving.put()
    saving._wait()
    here.recover()
    write_checkpoint(begun, "1-head", 10, best=5)
    saving.put()
    saving.finish()
    assert saved(here) == ["1-head/checkpoint-10", "1-head/checkpoint-5"]
    assert said[-1].startswith("saved ")
    assert capsys.readouterr().out.count("warning") == 1


def test_a_repo_in_which_no_checkpoint_was_saved_is_free_for_another_run(here, begun):
    before = {"run.json": b'{"run": "another", "images": ["data.json", "splits.csv"]}', "data.json": b"{}"}
    here.add(REPO, before, private=True)
    write_checkpoint(begun, "1-head", 5)
    saver(begun, []).finish()
    told = json.loads(here.files(REPO)["run.json"])
    assert told["run"] == json.loads(begun.checkpoint_repo.read_text())["run"] and told["images"] == ["splits.csv"]
    assert here.files(REPO)["splits.csv"] == b"sha256,label,split\r\naa,red,train\r\n"
    assert find_repo(REPO, begun, goes_on=True).images == ("splits.csv",)


def test_what_is_half_written_is_not_uploaded(here, begun):
    write_checkpoint(begun, "1-head", 5)
    (write_checkpoint(begun, "1-head", 10) / "trainer_state.json").unlink()
    saver(begun, []).finish()
    assert saved(here) == ["1-head/checkpoint-5"]


def test_a_disk_without_links_gets_copies(here, begun, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    write_checkpoint(begun, "1-head", 5)
    saver(begun, []).finish()
    assert saved(here) == ["1-head/checkpoint-5"]


# What is refused, and what it says


def refusal(*words: object) -> str:
    with pytest.raises(UserError) as caught:
        main([*map(str, words), "--use_cpu"])
    text = str(caught.value)
    assert "\n" not in text and "hf_" not in text.replace("hf auth", "")
    return text


def test_what_the_hub_refuses_is_told_before_anything_is_written(here, recipe, patients, tmp_path, monkeypatch):
    def told(*flags: str, token: str = "hf_alicetoken") -> str:
        monkeypatch.setenv("HF_TOKEN", token)
        text = refusal(recipe, "--data_dir", patients, "--output_dir", tmp_path / "flowers", *flags)
        assert not (tmp_path / "flowers").exists()
        return text

    here.add("alice/open-checkpoints", {"README.md": b"hello"})
    here.add("alice/model-checkpoints", {"model.safetensors": b"weights"}, private=True)
    other = {
        "run.json": b'{"run": "another", "images": []}',
        "checkpoints/1-head/checkpoint-6/trainer_state.json": b"{}",
    }
    here.add("alice/other-checkpoints", other, private=True)
    for flags, token, words in (
        (["--checkpoint_repo"], "", ["no token", "hf auth login"]),
        (["--checkpoint_repo"], "hf_unknowntoken", ["does not know this token"]),
        (["--checkpoint_repo"], "hf_readertoken", ["may only read"]),
        (["--checkpoint_repo", "bob/flowers"], "hf_alicetoken", ["HTTP 403", "--checkpoint_repo YOU/NAME"]),
        (
            ["--checkpoint_repo", "a b"],
            "hf_alicetoken",
            ["'alice/a b-checkpoints' cannot be a name", "--checkpoint_repo"],
        ),
        (["--checkpoint_repo", "a/b/c"], "hf_alicetoken", ["cannot be a name"]),
        (["--checkpoint_repo", "open"], "hf_alicetoken", ["is public", "settings"]),
        (["--checkpoint_repo", "model"], "hf_alicetoken", ["holds no checkpoints", "another NAME"]),
        (["--checkpoint_repo", "other"], "hf_alicetoken", ["another run", "--resume alice/other-checkpoints goes on"]),
        (
            ["--checkpoint_repo", "other", "--resume"],
            "hf_alicetoken",
            ["another run", "--resume alice/other-checkpoints"],
        ),
        (["--resume", "alice/nothing"], "hf_alicetoken", ["alice/nothing-checkpoints", "not on the Hub"]),
        (["--resume", "alice/other"], "hf_bobtoken", ["not on the Hub, or not for you"]),
        (["--resume", "model"], "hf_alicetoken", ["holds no checkpoints"]),
        (["--resume", "other"], "", ["no token"]),
        (["--resume", "other", "--checkpoint_repo"], "hf_alicetoken", ["leave out --checkpoint_repo"]),
        (["--folds", "3", "--checkpoint_repo"], "hf_alicetoken", ["--folds keeps its checkpoints on this machine"]),
        (["--folds", "3", "--resume", "other"], "hf_alicetoken", ["--folds keeps its checkpoints on this machine"]),
        (["--resume", "other", "--overwrite"], "hf_alicetoken", ["not allowed with"]),
        (["--push_to_hub"], "hf_alicetoken", ["--checkpoint_repo", "python -m hub_utils.push RUN"]),
        (["--hub_model_id", "x"], "hf_alicetoken", ["--checkpoint_repo", "python -m hub_utils.push RUN"]),
    ):
        text = told(*flags, token=token)
        assert all(word in text for word in words), text
    here.fail("/", "down")
    assert "the Hub cannot be reached" in told("--checkpoint_repo")
    assert "the Hub cannot be reached" in told("--resume", "other")
    here.recover()
    here.fail("POST /api/models/alice/flowers-checkpoints/commit/", 403)  # as a member of a team who may only read
    text = told("--checkpoint_repo")
    assert "HTTP 403" in text and "no checkpoint could be saved there" in text
    assert here.files("alice/other-checkpoints") == other


def test_resume_takes_a_repo_or_nothing():
    said = [parser().parse_known_args(["digits", *words])[0].resume for words in ([], ["--resume"], ["--resume", "x"])]
    assert said == [False, True, "x"]


class Payload:
    """What runs code when it is unpickled: it makes a folder."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def malicious(path: Path) -> bytes:
    """A state of Trainer's, as torch writes it, that is more than numbers."""
    file = io.BytesIO()
    torch.save({"state": Payload(path)}, file)
    return file.getvalue()


@pytest.fixture
def on_the_hub(here, recipe, patients, tmp_path) -> Path:
    """A finished run of one epoch a stage whose checkpoints are on the Hub and nowhere else; where it would be."""
    run = tmp_path / "flowers"
    words = [recipe, "--data_dir", patients, "--output_dir", run, "--num_train_epochs", "1", "--checkpoint_repo"]
    assert main([*map(str, words), "--use_cpu"]) == 0
    run.rename(tmp_path / "kept")
    return run


def test_a_run_comes_back_only_as_itself_and_only_harmless(here, on_the_hub, recipe, patients, tmp_path, capsys):
    run = on_the_hub
    words = [recipe, "--data_dir", patients, "--output_dir", run, "--num_train_epochs", "1"]

    def told(*changes: object) -> str:
        text = refusal(*words, "--resume", "flowers", *changes)
        assert not run.exists() and not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        return text

    def told_without_folder() -> str:
        text = refusal(recipe, "--dataset", "a/b", "--output_dir", run, *words[5:], "--resume", "flowers")
        assert not run.exists()
        return text

    assert "began with other flags" in told("--num_train_epochs", "2")
    moved = (patients / "red" / "smith00-000.png").rename(tmp_path / "one.png")
    assert "1 of the run's 61 images are not among the 60 here" in told()
    moved.rename(patients / "red" / "smith00-000.png")
    assert "nowhere" in told("--data_dir", tmp_path / "nowhere")
    assert "began with a folder of images" in told_without_folder()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".mine").write_text("dear")
    assert "is not empty" in refusal(*words, "--resume", "flowers", "--output_dir", tmp_path / "full")
    assert (tmp_path / "full" / ".mine").read_text() == "dear"

    name = "checkpoints/2-all/checkpoint-6/"
    before = here.files(REPO)
    payload = {name + "optimizer.pt": malicious(tmp_path / "harm")}
    for state in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        here.add(REPO, {name + state: malicious(tmp_path / "harm")})
        assert "holds something else than numbers" in told()
        assert not (tmp_path / "harm").exists()
        here.add(REPO, {name + state: before[name + state]})
    with zipfile.ZipFile(io.BytesIO(payload[name + "optimizer.pt"])) as archive:  # it would have done it
        pickle.loads(archive.read("archive/data.pkl"))
    assert (tmp_path / "harm").is_dir()

    here.add(REPO, {name + "model.safetensors": before[name + "model.safetensors"][:-9]})
    assert "2-all/checkpoint-6 has weights that are cut off" in told()
    here.add(REPO, {name + "trainer_state.json": b"{"})
    assert "is damaged" in told()
    here.add(REPO, {path: before[path] for path in (name + "model.safetensors", name + "trainer_state.json")})
    here.fail("GET .*model.safetensors|GET /storage/", "corrupt", times=9)
    assert "came damaged" in told()
    here.recover()
    here.fail("GET .*model.safetensors|GET /storage/", "down")
    assert "the Hub cannot be reached" in told()
    here.recover()

    # What nobody asked for is not downloaded, wherever it says that it belongs.
    state = json.loads(before[name + "trainer_state.json"]) | {"best_model_checkpoint": "/etc"}
    strange = {name + "training_args.bin": b"x", name + "pytorch_model.bin": b"x", "modeling.py": b"x"}
    strange |= {
        "checkpoints/2-all/checkpoint-6/../../../out.pt": b"x",
        "checkpoints/2-all/checkpoint-6/deep/optimizer.pt": b"x",
    }
    here.add(REPO, strange | {name + "trainer_state.json": json.dumps(state).encode()})
    requests = len(here.requests)
    assert main([*map(str, words), "--resume", "flowers", "--use_cpu"]) == 0
    asked = " ".join(path for _, path in here.requests[requests:])
    assert not any(word in asked for word in ("training_args", "pytorch_model", "modeling.py", "out.pt", "deep"))
    assert_same(run, tmp_path / "kept")
    assert not (run / "modeling.py").exists() and not list(run.rglob("*.bin"))
    back = json.loads((run / "checkpoints" / "2-all" / "checkpoint-6" / "trainer_state.json").read_text())
    assert back["best_model_checkpoint"] is None

    # A folder that is as far goes on; one that is behind, or of another run, does not.
    capsys.readouterr()
    assert main([*map(str, words), "--resume", "flowers", "--use_cpu"]) == 0
    assert "finished before" in capsys.readouterr().out
    assert main([*map(str, words), "--resume", "--use_cpu"]) == 0
    assert f"checkpoints stay on this machine now: {REPO} takes them by --checkpoint_repo" in capsys.readouterr().out
    shutil.rmtree(run / "checkpoints" / "2-all")
    assert "is further than" in refusal(*words, "--resume", "flowers")
    assert "is further than" in refusal(*words, "--resume", "--checkpoint_repo")
    (run / "local" / "checkpoint_repo.json").unlink()
    assert "holds another run than" in refusal(*words, "--resume", "flowers")


@pytest.mark.parametrize("how", ["lose", "refuse", 503])
def test_a_run_begins_though_the_hub_fails_once(how, here, recipe, patients, tmp_path):
    run = RunFolder(tmp_path / "flowers")
    run.data.parent.mkdir(parents=True)
    run.data.write_text('{"dataset": "alice/photos"}')
    run.recipe.write_text("{}")
    here.fail("POST .*/commit/", how)
    open_repo("flowers", run, goes_on=False).begin(run)
    assert "run.json" in here.files(REPO)
