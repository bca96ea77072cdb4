"""Every command that talks to the Hub, times everything that can go wrong there, at each kind of its requests.

Whatever happens, a command ends in bounded time, in success or in one line without a traceback or a token; what it
writes, here or on the Hub, is there whole or as it was; and the same command succeeds once the Hub is well, with what
it would have come to undisturbed.

    pytest -m slow -n0 -s tests/test_hub_faults.py      all of it, with a table in the end
"""

import csv
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import ROOT, write_photos
from loopback_hub import LoopbackHub
from loopback_spaces import Space
from test_streaming import parquet, rows_of

TOKEN = "hf_alicealicealicealicealice"
SILENCE = 3.0  # seconds for which the Hub may be silent here; 30 outside
LONGEST = 180.0  # seconds a command may take, with what it would have waited
PAGE = """
import json, sys
from PIL import Image
from hub_utils.portable.command import run_command
from hub_utils.portable.served import Served, verdict

def main(words):
    served = Served("colours", words[0])
    print(json.dumps(verdict(served, *served.answer([Image.new("RGB", (50, 40), "orange")]))["probabilities"]))
    return 0

sys.exit(run_command(main, ""))
"""
RECIPE = """
from training.recipe import BatchNorm, Linear, Recipe, Stage
FAST = {{"learning_rate": 1e-2, "lr_scheduler_type": "constant", "num_train_epochs": 2}}
recipe = Recipe(
    title="Colours", base_model={base!r}, head=(BatchNorm(), Linear()),
    stages=(Stage(name="all", batch_size=8, arguments=FAST),),
)
"""

READ = ["hang", 401, 403, 429, 500, 503, "loop", "refuse"]
# By the kind of request: what it is known by, and what can happen to all of that kind. 429 asks for an hour.
ALWAYS = {
    "anything": (".", READ),
    "head": ("HEAD ", [403, 503]),
    "body": ("GET .*(/resolve/|/storage/)", ["slow", "refuse", "hang", 403, 500, 503, "cut", "corrupt"]),
    "create": ("POST /api/repos/create", ["refuse", 403, 503, "lose"]),
    "upload": ("(PUT|batch|preupload|verify)", ["refuse", "hang", 403, 503, "corrupt"]),
    "commit": ("POST .*/commit/", ["hang", 401, 403, 409, 412, 429, 500, 503, "refuse", "lose"]),
}
# What happens once, and what nobody should notice.
ONCE = {
    "anything": ["refuse", 429, 503],
    "body": ["cut", "corrupt", 500, 503],
    "create": ["lose", 503],
    "upload": ["refuse", 503],
    "commit": ["refuse", "lose", 429, 503],
}


@dataclass(frozen=True)
class Command:
    """`words` of a script or module, in the folder `prepare` made; `result` is what it came to, None for nothing yet.

    `unseen` is what it cannot notice. Of one that takes `long` only what goes wrong last at each kind of request is
    followed by another try.
    """

    script: str
    words: tuple[str, ...]
    result: Callable[["World"], object]
    prepare: tuple[str, ...] = ()
    always: tuple[str, ...] = tuple(ALWAYS)
    unseen: tuple[str, ...] = ()

    @property
    def long(self) -> bool:
        return self.script in ("training.train", "training.eval", "hub_utils.verify")


@dataclass
class World:
    """A Hub, a folder to work in, and a process that is warm."""

    hub: LoopbackHub
    root: Path
    kept: dict[str, Path]  # what `prepare` may ask for
    process: subprocess.Popen
    repos: dict = field(default_factory=dict)

    @property
    def here(self) -> Path:
        return self.root / "here"

    @property
    def home(self) -> Path:
        return self.root / "home"

    def anew(self, command: Command) -> None:
        self.hub.recover()
        self.hub.repos = {name: copy_of(repo) for name, repo in self.repos.items()}
        self.hub.jobs.clear()
        self.hub.spaces.clear()
        self.hub.next_space = Space(stages=["BUILDING", "RUNNING"])
        self.forget()
        shutil.rmtree(self.here, ignore_errors=True)
        self.here.mkdir()
        for name in command.prepare:
            target = self.here / name
            target.parent.mkdir(parents=True, exist_ok=True)
            source = self.kept[name]
            shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)

    def forget(self) -> None:
        """Empty the caches."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir()

    def run(self, command: Command) -> dict:
        self.hub.requests.clear()
        asked = {"script": command.script, "words": command.words, "folder": str(self.here)}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def copy_of(repo):
    from copy import copy

    other = copy(repo)
    other.commits, other.branches, other.tags = dict(repo.commits), dict(repo.branches), dict(repo.tags)
    other.objects = set(repo.objects)
    return other


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def trained(world: World) -> object:
    """Weights and measures of runs/colours, once it has its card or whatever is last; nothing of half a run."""
    run = world.here / "runs" / "colours"
    if not (run / "config.json").exists():
        return None
    results = json.loads((run / "all_results.json").read_text())
    timed = [name for name in results if "second" in name or "time" in name]
    return sha256(run / "model.safetensors"), {name: results[name] for name in results.keys() - timed}


def saved(world: World) -> object:
    """As `trained`, with what is in the repo of its checkpoints."""
    here = trained(world)
    return here and (here, sorted(name for name in on_hub(world, "alice/colours-checkpoints") if "/" in name))


def on_hub(world: World, name: str, kind: str = "model") -> dict[str, str]:
    if (f"{kind}s", name) not in world.hub.repos:
        return {}
    files = world.hub.files(name, kind)
    return {path: hashlib.sha256(content).hexdigest() for path, content in files.items() if path != ".gitattributes"}


def printed(world: World) -> object:
    path = world.here / ".said"
    said = path.read_text(errors="replace").splitlines() if path.exists() else []
    found = [line for line in said if re.match(r"\{|  (passed|FAILED)|verified|failed ", line)]
    return None if not found or said[-1].startswith("error:") else found


def table(world: World) -> object:
    path = world.here / "predictions.csv"
    return list(csv.reader(path.open())) if path.exists() else None


def measured(world: World) -> object:
    path = world.here / "runs" / "colours" / "test_results.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return found.get("accuracy") or found.get("test_accuracy") or (sorted(found) or None)


def sent(name: str, kind: str = "model") -> Callable[[World], object]:
    def result(world: World) -> object:
        found = on_hub(world, name, kind)
        return {path: "" if path == "README.md" else sha for path, sha in found.items()} or None

    return result


def job(world: World) -> object:
    return [re.sub("[0-9a-f]{40}", "", each.spec["command"][-1]) for each in world.hub.jobs] or None


TRAIN = ("colours.py", "--use_cpu", "--threads", "1", "--bf16", "false", "--output_dir", "runs/colours")
COMMANDS = {
    "page": Command("page.py", ("alice/colours",), printed, ("page.py",), ("anything", "head", "body")),
    "push": Command(
        "hub_utils.push",
        ("runs/colours", "--without_results", "--no_verify", "--repo_id", "mine", "--tag", "v1"),
        sent("alice/mine"),
        ("runs/colours",),
    ),
    "push_dataset": Command(
        "training.push_dataset", ("photos", "--repo_id", "mine"), sent("alice/mine", "dataset"), ("photos",)
    ),
    "space --push": Command(
        "hub_utils.space",
        ("alice/colours", "--push", "--no_check", "--repo_id", "mine", "--secret", "HF_TOKEN"),
        sent("alice/mine", "space"),
        (),
    ),
    "jobs": Command(
        "hub_utils.jobs",
        (
            *("colours.py", "--base_model", "alice/tiny", "--dataset", "alice/photos"),
            *("--flavor", "cpu-basic", "--repo_id", "mine"),
        ),
        job,
        ("colours.py",),
    ),
    "train --dataset": Command(
        "training.train", (*TRAIN, "--dataset", "alice/photos"), trained, ("colours.py",), ("anything", "head", "body")
    ),
    "train --streaming": Command(
        "training.train",
        (*TRAIN, "--dataset", "alice/photos", "--streaming"),
        trained,
        ("colours.py",),
        ("anything", "head", "body"),
        ("corrupt",),  # parts of a file come, and the Hub has hashes of whole ones
    ),
    "train, base model": Command(
        "training.train",
        (*TRAIN, "--data_dir", "photos", "--base_model", "alice/tiny"),
        trained,
        ("colours.py", "photos"),
        ("anything", "head", "body"),
    ),
    "train --checkpoint_repo": Command(
        "training.train",
        (*TRAIN, "--data_dir", "photos", "--checkpoint_repo", "colours"),
        saved,
        ("colours.py", "photos"),
    ),
    "train --resume REPO_ID": Command(
        "training.train",
        (*TRAIN, "--data_dir", "photos", "--resume", "alice/kept"),
        trained,
        ("colours.py", "photos"),
        ("anything", "head", "body"),
    ),
    "eval": Command("training.eval", ("runs/colours",), measured, ("runs/colours",), ("anything", "head", "body")),
    "predict": Command(
        "training.predict", ("alice/colours", "photos"), table, ("photos",), ("anything", "head", "body")
    ),
    "verify": Command("hub_utils.verify", ("alice/colours",), printed, (), ("anything", "head", "body")),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_resnet) -> Iterator[World]:
    with a_world(tmp_path_factory.mktemp("world"), tiny_resnet) as world:
        yield _begun(world, tiny_resnet)


@contextmanager
def a_world(root: Path, base: Path, *modules: str) -> Iterator[World]:
    """One with nothing on its Hub; `modules` are imported, or else all that any command needs."""
    if not hasattr(os, "fork"):
        pytest.skip("commands are forks here, which this system does not know")
    photos = write_photos(root / "kept" / "photos", {"red": 16, "green": 16, "blue": 16})
    recipe, page = root / "kept" / "colours.py", root / "kept" / "page.py"
    recipe.write_text(RECIPE.replace("{base!r}", repr(str(base))).replace("{{", "{").replace("}}", "}"))
    page.write_text(PAGE)
    kept = {"colours.py": recipe, "photos": photos, "page.py": page, "runs/colours": root / "kept" / "run"}
    with LoopbackHub(tokens={TOKEN: "alice"}) as hub:
        environment = hub.environment(root / "home", TOKEN) | {
            "HF_HUB_DOWNLOAD_TIMEOUT": f"{SILENCE:.0f}",
            "HF_HUB_ETAG_TIMEOUT": f"{SILENCE:.0f}",
            "MPLCONFIGDIR": str(root / "matplotlib"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(ROOT / "tests" / "warm.py"), str(SILENCE), *modules]
        (root / "home").mkdir()
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, text=True
            )
        try:
            assert json.loads(process.stdout.readline() or "null") == "warm", (root / "log").read_text()[-3000:]
            yield World(hub, root, kept, process)
        finally:
            process.kill()
            process.wait()


def _begun(world: World, base: Path) -> World:
    """With a data set, a base model, a model and checkpoints on the Hub, as the commands themselves put them there."""
    hub = world.hub
    images = world.root / "images"
    images.mkdir()
    for split, count, first in (("train", 24, 0), ("validation", 12, 100), ("test", 12, 200)):
        content = parquet(rows_of(images, count, first))
        hub.add("alice/photos", {f"data/{split}-00000-of-00001.parquet": content}, "dataset", private=True)
    hub.add("alice/tiny", base)
    world.repos = dict(hub.repos)

    begin = Command("training.train", (*TRAIN, "--dataset", "alice/photos"), trained, ("colours.py",))
    world.anew(begin)
    done = world.run(begin)
    assert done["code"] == 0, done
    shutil.copytree(world.here / "runs" / "colours", world.kept["runs/colours"])
    world.repos = dict(world.hub.repos)
    words = ("runs/colours", "--without_results", "--no_verify", "--repo_id", "colours")
    push = Command("hub_utils.push", words, sent("alice/colours"), ("runs/colours",))
    world.anew(push)
    done = world.run(push)
    assert done["code"] == 0, done
    world.repos = dict(world.hub.repos)
    save = Command(
        "training.train",
        (*TRAIN, "--data_dir", "photos", "--checkpoint_repo", "kept"),
        trained,
        ("colours.py", "photos"),
    )
    world.anew(save)
    done = world.run(save)
    assert done["code"] == 0, done
    world.repos = dict(world.hub.repos)
    return world


def flaws(done: dict) -> list[str]:
    """What is wrong with how a command ended."""
    said = done["said"]
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    found = []
    if done["code"] is None:
        found.append("it did not end")
    elif done["seconds"] + done["waited"] > LONGEST:
        found.append(f"{done['seconds']} s, and {done['waited']} s of waiting")
    if "Traceback" in said:
        found.append("a traceback")
    if done["code"] not in (0, None) and (len(errors) != 1 or not said.rstrip().splitlines()[-1].startswith("error: ")):
        found.append(f"{len(errors)} lines of error, status {done['code']}")
    if TOKEN in said or "signature=" in said:
        found.append("a secret")
    return found


@dataclass
class Tally:
    tried: int = 0
    went_well: int = 0
    ended_clearly: int = 0
    wrong: list[str] = field(default_factory=list)


def plan(hub: LoopbackHub, pattern: str, how: str | int, times: float) -> None:
    asks = {"Retry_After": 3600 if times > 1 else 2} if how == 429 else {}
    hub.fail(pattern, how, times=times, seconds=1.0 if how == "slow" else 20.0, **asks)


def try_all(world: World, command: Command, always: dict = ALWAYS, once: dict = ONCE) -> Tally:
    """All cells of one row."""
    world.anew(command)
    old = command.result(world)
    undisturbed = world.run(command)
    assert undisturbed["code"] == 0 and not flaws(undisturbed), undisturbed
    new, requests = command.result(world), [" ".join(each) for each in world.hub.requests]
    assert new is not None
    tally = Tally()

    def look(cell: str, done: dict, must_go_well: bool) -> None:
        tally.tried += 1
        found, left = flaws(done), command.result(world)
        if done["code"] == 0 and left != new:
            found.append("it ended well, with something else")
        if done["code"] != 0 and left not in (old, new) and command.result is not saved:
            found.append("something half-written")
        if must_go_well and done["code"] != 0:
            found.append("it did not survive")
        print(f"{cell}: {found or done['code']} {done['seconds']} s", file=sys.stderr, flush=True)
        tally.went_well += done["code"] == 0 and not found
        tally.ended_clearly += done["code"] != 0 and not found
        if found:
            tally.wrong.append(f"{cell}: {', '.join(found)}\n    {done['said'].strip()[-700:]}")

    for kind, (pattern, hows) in always.items():
        if kind not in command.always or not any(re.search(pattern, each) for each in requests):
            continue
        hows = [how for how in hows if how not in command.unseen]
        for how in hows:
            world.anew(command)
            plan(world.hub, pattern, how, math.inf)
            done = world.run(command)
            look(f"{kind}, always {how}", done, must_go_well=how == "slow")
            if done["code"] == 0 or (command.long and how != hows[-1]):
                continue
            world.hub.recover()
            again = world.run(command)
            look(f"{kind}, always {how}, then again", again, must_go_well=True)
        for how in [how for how in once.get(kind, ()) if how not in command.unseen]:
            world.anew(command)
            plan(world.hub, pattern, how, 1)
            look(f"{kind}, once {how}", world.run(command), must_go_well=True)
    return tally


def test_a_page_meets_the_worst_of_it(tmp_path, tiny_resnet):
    modules = ("torch", "transformers.models.resnet.modeling_resnet", "hub_utils.portable.predictor")
    with a_world(tmp_path, tiny_resnet, *modules) as world:
        world.hub.add("alice/colours", tiny_resnet)
        world.repos = dict(world.hub.repos)
        always = {"anything": (".", [429, "refuse"]), "body": (ALWAYS["body"][0], [503, "cut", "corrupt"])}
        tally = try_all(world, COMMANDS["page"], always, {"body": ["corrupt", 503]})
    assert not tally.wrong, "\n".join(tally.wrong)
    assert tally.tried > 8 and tally.ended_clearly > 2


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_meets_every_fault(world, name):
    tally = try_all(world, COMMANDS[name])
    print(f"\n| {name} | {tally.tried} | {tally.went_well} | {tally.ended_clearly} | {len(tally.wrong)} |")
    assert not tally.wrong, "\n".join(tally.wrong)
