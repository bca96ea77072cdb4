"""Whoever is killed in the middle of writing leaves nothing that looks finished, and the same command again succeeds.

The sweep, `pytest -m slow tests/test_killed.py`, kills every command at some 25 of the things that it does to the file
system. Training has tests of its own.

Last measured, one command after the other with 5 to 25 kills each: 144 kills (predict 12, eval 26, data_report 31, an
archive 10, download 20, space 12, deploy 12, push 10, push_dataset 11), nothing lost, no litter.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import pytest
from conftest import ROOT, write_photos
from killing import kill_at, spread, writes
from loopback_hub import LoopbackHub
from test_archives import packed
from test_commands import OWN_RECIPE
from test_download import Server

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
ALICE = "hf_alicealicealicealicealice"
Contents = dict[str, bytes]
SKIPPED = re.compile(r"tmp/.*|(.*/)?\.[^/]*\.lock")  # what is the system's to remove, and what is empty and stays
# Times, and what somebody may change meanwhile: they differ from one run of a command to the next.
TIMES = re.compile(
    rb'"(seconds|date|git_commit|int8|float32|bfloat16|float16)": [^,}\n]*|[\d.,]+ ms\b|\b20\d\d-\d\d-\d\d\b'
    rb"|the SHA-256 of all above is \w+"
)


@dataclass
class Case:
    """A command that writes into `folder`.

    `finished`: files that say that all others are whole, in the order in which they come; of `alone` they do not
    speak. `atomic`: a folder in it that is there as a whole, or not at all. `elsewhere` gives what else there is, on a
    Hub, in one state or the other.
    """

    folder: Path
    work: Callable[[], object]
    finished: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    atomic: str | None = None
    elsewhere: Callable[[], object] = lambda: None


def contents(folder: Path) -> Contents:
    """Everything in it, hidden things too."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: TIMES.sub(b"", path.read_bytes()) for name, path in named.items() if not SKIPPED.fullmatch(name)}


def check(case: Case, before: Contents, after: Contents) -> None:
    """What looks finished, for it is not hidden and not called a part, is whole."""
    now = {name: each for name, each in contents(case.folder).items() if not re.search(r"(^|/)\.|\.part(/|$)", name)}
    new = {name for name, each in now.items() if each != before.get(name)}
    assert not {name for name in new if now[name] != after.get(name)}
    changed = {name for name in after if after[name] != before.get(name)}
    for place, name in enumerate(case.finished):
        later = set(case.finished[place + 1 :])
        if name in new:
            assert changed - later <= new
        elif name in now:
            assert new <= {*case.alone}
    if case.atomic:
        parts = [{name: each for name, each in files.items() if name.startswith(f"{case.atomic}/")}
                 for files in (now, before, after, {})]  # fmt: skip
        assert parts[0] in parts[1:]


def killed_everywhere(name: str, room: Path, given: dict[str, str], most: int) -> tuple[int, int]:
    """How often the command was killed, and in how many places it could be; whatever comes out is checked."""
    import tempfile

    make = CASES[name]
    (room / "tmp").mkdir(parents=True)
    tempfile.tempdir = str(room / "tmp")
    writes(make(room / "here", given).work, room)  # some write more when they are used for the first time
    shutil.rmtree(room / "here")
    case = make(room / "here", given)
    before, old = contents(case.folder), case.elsewhere()
    count = writes(case.work, room)
    after, new = contents(case.folder), case.elsewhere()
    assert count > 1 and (after, new) != (before, old)
    kills = 0
    for number in spread(count, most):
        shutil.rmtree(room / "here")
        case = make(room / "here", given)
        assert contents(case.folder) == before
        kills += kill_at(number, case.work, room)
        check(case, before, after)
        assert case.elsewhere() in (old, new)
        if contents(case.folder) != after or case.elsewhere() != new:  # some commands refuse to do it all again
            writes(case.work, room)  # to its end
        end = contents(case.folder)
        assert end == after, (number, count, [each for each in end | after if end.get(each) != after.get(each)])
        assert case.elsewhere() == new
    return kills, count


def command(module: str, *words: object) -> Callable[[], None]:
    """The command of a module."""
    main = import_module(module).main
    tokens = [str(word) for word in words]

    def work() -> None:
        os.chdir(ROOT)
        assert main(tokens) == 0

    return work


# What is killed; each makes the state before and the command


def predict(kind: str, folder: Path, given: dict[str, str]) -> Case:
    folder.mkdir()
    (folder / f"out.{kind}").write_text("older")
    words = [given["run"], given["photos"], "--output", folder / f"out.{kind}", "--overwrite"]
    return Case(folder, command("training.predict", *words))


def evaluate(folder: Path, given: dict[str, str], *flags: str) -> Case:
    """Of a run with an earlier measurement that says something else everywhere."""
    shutil.copytree(given["measured"], folder, ignore=shutil.ignore_patterns("checkpoints"))
    for name in ("README.md", "local/predictions.csv", "plots/confusion.png", "plots/recall.png"):
        with (folder / name).open("a") as file:
            file.write("older\n")
    results = folder / "test_results.json"
    results.write_text(json.dumps({**json.loads(results.read_text()), "older": True}, indent=2))
    work = command("training.eval", folder, *flags)
    # serving.json has the checksum of the network in 8 bits that was measured: no other is pushed, or asked by a page.
    alone = ("onnx/model_int8.onnx",)
    return Case(folder, work, finished=("test_results.json", "README.md"), alone=alone)


def evaluate_int8(folder: Path, given: dict[str, str]) -> Case:
    return evaluate(folder, given, "--int8")


def report(folder: Path, given: dict[str, str]) -> Case:
    """In place of an earlier one, of other images."""
    shutil.copytree(given["report"], folder / "report")
    os.environ["HF_HOME"] = str(folder / "tmp" / "cache")
    work = command("training.data_report", given["photos"], "--output", folder / "report")
    return Case(folder, work, atomic="report")


def convert(folder: Path, given: dict[str, str]) -> Case:
    folder.mkdir()
    work = command("training.data_report", given["photos"], "--convert", folder / "copy")
    return Case(folder, work, atomic="copy")


def unpack(folder: Path, given: dict[str, str]) -> Case:
    from training.data.archives import unpack

    folder.mkdir()
    return Case(folder, lambda: unpack(Path(given["archive"]), folder / "photos", progress=False), atomic="photos")


def download(folder: Path, given: dict[str, str]) -> Case:
    folder.mkdir()
    words = [given["recipe"], "--source", f"{given['url']}/photos.zip", "--data_dir", folder / "photos"]
    return Case(folder, command("training.download", *words), atomic="photos")


def download_digits(folder: Path, given: dict[str, str]) -> Case:
    folder.mkdir()
    work = command("training.download", "digits", "--data_dir", folder / "digits")
    return Case(folder, work, atomic="digits")


def bundle(folder: Path, given: dict[str, str]) -> Case:
    """In place of an earlier one."""
    folder.mkdir()
    shutil.copytree(given["bundle"], folder / "bundle")
    (folder / "bundle" / "README.md").write_text("older")
    words = [given["run"], "--output", folder / "bundle", "--no_check"]
    return Case(folder, command("hub_utils.space", *words), atomic="bundle")


def deploy(folder: Path, given: dict[str, str]) -> Case:
    """In place of a model of another form."""
    import torch

    from hub_utils.export import save_deployable, save_onnx, save_serving
    from training.fitting.network import build_network
    from training.recipe import BatchNorm, Linear, Recipe, Stage

    shutil.copytree(given["other"], folder)
    recipe = Recipe(
        title="X", base_model=given["base"], head=(BatchNorm(), Linear()), stages=(Stage(name="all"),), name="x"
    )
    network, processor = build_network(recipe, ["a", "b", "c"])
    torch.set_num_threads(1)

    def work() -> None:
        save_deployable(network.eval(), processor, folder)
        save_onnx(folder)
        save_serving(folder)

    return Case(folder, work, finished=("model.safetensors", "onnx/model.onnx", "serving.json"))


_hubs: list[LoopbackHub] = []


def fresh_hub() -> LoopbackHub:
    """An empty one, in place of the one before."""
    from huggingface_hub import constants

    while _hubs:
        _hubs.pop().__exit__()
    _hubs.append(LoopbackHub(tokens={ALICE: "alice"}).__enter__())
    hub = _hubs[0]
    constants.ENDPOINT = hub.url
    constants.HUGGINGFACE_CO_URL_TEMPLATE = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HF_HUB_DISABLE_XET = True
    os.environ["HF_TOKEN"] = ALICE
    return hub


def on(hub: LoopbackHub, repo_type: str) -> dict[str, bytes]:
    """What is in the repo; of one that is not there, or was just made, nothing."""
    files = hub.files("alice/x", repo_type) if (f"{repo_type}s", "alice/x") in hub.repos else {}
    return {path: TIMES.sub(b"", content) for path, content in files.items() if path != ".gitattributes"}


def push(folder: Path, given: dict[str, str]) -> Case:
    """Of a run in which push itself makes what is missing."""
    hub = fresh_hub()
    shutil.copytree(given["measured"], folder, ignore=shutil.ignore_patterns("checkpoints"))
    (folder / "serving.json").unlink()
    (folder / "onnx" / "model.onnx").unlink()
    words = [folder, "--repo_id", "alice/x", "--no_verify"]
    work = command("hub_utils.push", *words)
    return Case(folder, work, elsewhere=lambda: on(hub, "model"))


def push_dataset(folder: Path, given: dict[str, str]) -> Case:
    hub = fresh_hub()
    folder.mkdir()
    words = [given["photos"], "--repo_id", "alice/x", "--i_have_the_right"]
    work = command("training.push_dataset", *words)
    return Case(folder, work, elsewhere=lambda: on(hub, "dataset"))


CASES: dict[str, Callable[[Path, dict[str, str]], Case]] = {
    "predict": partial(predict, "csv"),
    "predict to JSON lines": partial(predict, "jsonl"),
    "eval": evaluate,
    "eval --int8": evaluate_int8,
    "data_report": report,
    "data_report --convert": convert,
    "an archive": unpack,
    "download": download,
    "download digits": download_digits,
    "space": bundle,
    "deploy": deploy,
    "push": push,
    "push_dataset": push_dataset,
}


def in_a_fresh_process(function: Callable, *arguments: object) -> object:
    """What it returns there, where no thread has begun: a fork would lack it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(function, *arguments).result()


def call(module: str, *words: str) -> None:
    command(module, *words)()


@pytest.fixture(scope="module")
def given(colours, tiny_resnet, tmp_path_factory):
    """What the cases need, as paths and an address."""
    folder = tmp_path_factory.mktemp("given")
    photos = write_photos(folder / "photos", {"red": 12, "green": 12})
    others = write_photos(folder / "others", {"red": 5, "green": 6})
    recipe = folder / "mine.py"
    recipe.write_text(OWN_RECIPE.format(base=str(tiny_resnet)))
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in photos.rglob("*.png")}
    published, told = Server(), {"photos": photos, "run": colours.path, "base": tiny_resnet, "recipe": recipe}
    told |= {"archive": packed(folder / "photos.zip", files), "url": published.url}
    published.files["/photos.zip"] = told["archive"].read_bytes()
    told |= {name: folder / name for name in ("measured", "report", "bundle", "other")}
    shutil.copytree(colours.path, told["measured"])
    shutil.copytree(colours.path, told["other"], ignore=shutil.ignore_patterns("checkpoints", "plots", "local"))
    told = {name: str(each) for name, each in told.items()}
    in_a_fresh_process(call, "training.eval", told["measured"])
    in_a_fresh_process(call, "training.data_report", str(others), "--output", told["report"])
    in_a_fresh_process(call, "hub_utils.space", told["run"], "--output", told["bundle"], "--no_check")
    yield told
    published.http.shutdown()
    published.http.server_close()


def test_an_archive_that_is_killed_in_some_places_is_there_whole_or_not_at_all(tmp_path):
    photos = write_photos(tmp_path / "photos", {"red": 2, "green": 2})
    files = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in photos.rglob("*.png")}
    given = {"archive": str(packed(tmp_path / "photos.zip", files))}
    kills, count = in_a_fresh_process(killed_everywhere, "an archive", tmp_path / "room", given, 8)
    assert kills == 8 < count


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_command_that_is_killed_anywhere_leaves_nothing_that_looks_finished(name, given, tmp_path):
    most = 5 if name == "download digits" else 25  # it writes, and looks at, 1,797 images each time
    kills, count = in_a_fresh_process(killed_everywhere, name, tmp_path / "room", given, most)
    print(f"{name}: killed {kills} times, at {count} places")
    assert kills == len([*spread(count, most)])
