"""A data set that is streamed: what is fetched of it, whose every row is, and that a run ends as it would unbroken."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import loopback_hub
import numpy as np
import pytest
from conftest import ROOT, write_photo
from loopback_hub import LoopbackHub
from PIL import Image
from safetensors.torch import load_file

from training.data.intake import Skipped
from training.data.source import HubDataset, load_source
from training.data.streaming import Streamed, StreamError, Survey, _by_content, _mixed, read_skipped
from training.recipe import Splits, UserError
from training.run_folder import write_skipped
from training.train import main

HUES = {"red": 0.0, "green": 1 / 3, "blue": 2 / 3}
NAMES = sorted(HUES)


def photo(folder: Path, name: str, seed: int) -> bytes:
    path = folder / f"{name}-{seed}.png"
    write_photo(path, HUES[name], seed)
    return path.read_bytes()


def rows_of(folder: Path, count: int, first: int = 0) -> list[tuple[bytes, str]]:
    """Image and class of `count` rows, the classes in turn; no two images are alike."""
    return [(photo(folder, NAMES[i % 3], first + i), NAMES[i % 3]) for i in range(count)]


def parquet(rows: list[tuple[bytes, object]], label=None, image: str = "image", group: int = 5) -> bytes:
    """A Parquet file with row groups of five rows; labels are a ClassLabel of the three colours, or `label`."""
    import pyarrow
    from datasets import ClassLabel, Features
    from datasets import Image as ImageFeature
    from pyarrow import parquet as pq

    features = Features({image: ImageFeature(), "label": label or ClassLabel(names=NAMES)})
    labels = [name if label or name is None else NAMES.index(name) for _, name in rows]
    columns = {image: [{"bytes": content, "path": None} for content, _ in rows], "label": labels}
    table, file = pyarrow.table(columns, schema=features.arrow_schema), io.BytesIO()
    pq.write_table(table, file, row_group_size=group)
    return file.getvalue()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.fixture
def served(monkeypatch) -> list[tuple[str, int]]:
    """Path and bytes of every file, or part of one, that the loopback Hub sends."""
    sent: list[tuple[str, int]] = []
    send_head = loopback_hub._Handler.send_head

    def counting(self, status, length, headers):
        if self.command == "GET" and "/resolve/" in self.path:
            sent.append((self.path.split("?")[0].split("/", 6)[-1], length))
        return send_head(self, status, length, headers)

    monkeypatch.setattr(loopback_hub._Handler, "send_head", counting)
    return sent


def ask(hub: LoopbackHub, home: Path, code: str, *words: object, **kwargs) -> list:
    """What the code prints, JSON by line, in a process whose only Hub is this one."""
    command = [sys.executable, "-c", PRELUDE + code, *map(str, words)]
    environment = hub.environment(home)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=200, **kwargs)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


PRELUDE = """
import json, sys
from collections import Counter
from training.data.streaming import Streamed, views
from training.recipe import Augmentation, Data, Splits, UserError

def survey(repo_id, **data):
    repo_id, _, config = repo_id.partition(":")
    source = Streamed(repo_id, config=config or None).pinned()
    return source.surveyed(Data(**data), Splits(validation=0.2, test=0.3), progress=False)

def say(answer):
    print(json.dumps(answer), flush=True)
"""

SURVEY = """
for repo_id in sys.argv[1:]:
    try:
        source, skipped = survey(repo_id, class_names={"red": "rose"})
        say({"classes": source.survey.classes, "counts": source.survey.counts, "held out": source.survey.held_out,
             "shards": source.survey.shards, "roles": list(source.survey.roles),
             "skipped": [(each.path.split("/", 1)[1], each.reason) for each in skipped]})
    except UserError as error:
        say(str(error))
"""


def test_a_survey_counts_every_layout_and_explains_what_it_cannot_use(tmp_path):
    from datasets import Value

    train, test = rows_of(tmp_path, 21), rows_of(tmp_path, 9, 100)
    numbers = [(content, NAMES.index(name)) for content, name in train]
    folder = {f"train/{name}/{i}.png": content for i, (content, name) in enumerate(train)}
    folder |= {f"test/{name}/{i}.png": content for i, (content, name) in enumerate(test)}
    odd = [*train, (train[0][0], None), (cut(train[1][0]), "green"), (train[0][0], "blue")]
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in ("one", "two"))
    both = {"README.md": f"---\nconfigs:\n{configs}---\n".encode(), "one.parquet": parquet(train)}
    both["two.parquet"] = parquet(test)
    with LoopbackHub() as hub:
        own = {"data/train-0.parquet": parquet(train[:12]), "data/train-1.parquet": parquet(train[12:])}
        own |= {"data/validation-0.parquet": parquet(test[:6]), "data/test-0.parquet": parquet(test)}
        hub.add("alice/own", own, repo_type="dataset")
        hub.add("alice/words", {"data/train-0.parquet": parquet(odd, Value("string"), "jpg")}, repo_type="dataset")
        hub.add("alice/numbers", {"data/train-0.parquet": parquet(numbers, Value("int64"))}, repo_type="dataset")
        hub.add("alice/folder", folder, repo_type="dataset")
        hub.add("alice/red", {"data/train-0.parquet": parquet([train[2], train[5]] * 20)}, repo_type="dataset")
        hub.add("alice/broken", {"data/train-0.parquet": b"PAR1"}, repo_type="dataset")
        hub.add("alice/tests", {"data/test-0.parquet": parquet(test)}, repo_type="dataset")
        hub.add("alice/two", both, repo_type="dataset")
        own, words, numbers, folder, red, broken, tests, two, one, three = ask(
            hub, tmp_path / "home", SURVEY, "alice/own", "alice/words", "alice/numbers", "alice/folder", "alice/red",
            "alice/broken", "alice/tests", "alice/two", "alice/two:one", "alice/two:three",
        )  # fmt: skip
    assert own["classes"] == ["blue", "green", "rose"] and own["held out"] == []
    assert own["counts"] == {"train": [7, 7, 7], "validation": [2, 2, 2], "test": [3, 3, 3]}
    assert [shard for shard in own["shards"] if shard[0] == "train"] == [
        ["train", number, rows] for number, rows in enumerate([5, 5, 2, 5, 4])
    ]
    assert words["held out"] == ["validation", "test"]
    assert words["skipped"][0] == ["train/21", "no label"] and words["skipped"][1][0] == "train/22"
    assert words["skipped"][1][1].startswith("cannot be read: ")
    # The last row is a copy of the first: the same split, whatever its label says.
    assert words["roles"][23] == words["roles"][0] and words["roles"][21:23] == [3, 3]
    assert np.sum([words["counts"][split] for split in ("train", "validation", "test")]) == 22
    assert numbers["classes"] == ["0", "1", "2"] and words["roles"][:21] == numbers["roles"]
    assert folder["counts"]["test"] == [3, 3, 3] and folder["held out"] == ["validation"]
    assert sum(folder["counts"]["train"]) + sum(folder["counts"]["validation"]) == 21
    assert red.startswith("only one class in data set 'alice/red', 'rose' (40 images); a classifier needs two or more")
    assert broken.startswith("data set 'alice/broken' cannot be loaded: ")
    assert tests.startswith("data set 'alice/tests' leaves nothing for train and validation; its splits are test")
    assert two == (
        "data set 'alice/two' has several configurations, one, two; choose one, as in --dataset alice/two:one"
    )
    assert sum(map(sum, one["counts"].values())) == 21
    assert three.startswith("data set 'alice/two' cannot be loaded: ") and "['one', 'two']" in three


VIEWS = """
from transformers import ConvNextImageProcessor
from training.data.transforms import Preprocessing
from torch.utils.data import DataLoader
from pathlib import Path
from training.run_folder import write_skipped
import training.data.streaming as streaming

report = Path(sys.argv[2])
write_skipped([], report)
source, _ = survey(sys.argv[1])
parts = source.splits(report)
preprocessing = Preprocessing(ConvNextImageProcessor(size={"shortest_edge": 16}, crop_pct=1.0))
how = Augmentation(rotation=10)

def epoch(split, processes, workers, number=0, batch=4, how=None):
    "For each process the batches of an epoch, each image by the sum of its pixels, and its label."
    result = []
    for rank in range(processes):
        mine = views(parts[split], preprocessing, batch, how, 1, (rank, processes), unfinished=True)
        mine.set_epoch(number)
        loader = DataLoader(mine, batch, num_workers=workers)
        done = map(preprocessing.finish, loader)
        got = [[(p.double().sum().item(), l) for p, l in zip(b["pixel_values"], b["labels"].tolist())] for b in done]
        assert len(got) == len(loader) and sum(map(len, got)) == len(mine)
        result.append(got)
    return result
"""

SHARING = """
for split, augmentation in (("test", None), ("train", Augmentation())):
    for processes, workers in ((1, 0), (2, 0), (3, 0), (6, 0), (1, 2), (2, 3)):
        say([split, processes, workers, epoch(split, processes, workers, how=augmentation)])
"""


def counted(process: list[list]) -> list[float]:
    return [image for batch in process for image, label in batch if label != -100]


@pytest.mark.parametrize("layout", ["parquet", "folder"])
@pytest.mark.slow
def test_every_row_has_one_reader_and_all_readers_have_as_many_batches(layout, tmp_path):
    train, test = rows_of(tmp_path, 31), rows_of(tmp_path, 17, 100)
    train[3], test[4] = (cut(train[3][0]), train[3][1]), (cut(test[4][0]), test[4][1])
    if layout == "parquet":
        files = {"data/train-0.parquet": parquet(train[:23]), "data/train-1.parquet": parquet(train[23:])}
        files |= {"data/validation-0.parquet": parquet(rows_of(tmp_path, 3, 200)), "data/test-0.parquet": parquet(test)}
    else:
        groups = (("train", train), ("validation", rows_of(tmp_path, 3, 200)), ("test", test))
        files = {f"{split}/{name}/{i:03}.png": row for split, rows in groups for i, (row, name) in enumerate(rows)}
    report = tmp_path / "skipped.csv"
    with LoopbackHub() as hub:
        sha = hub.add("alice/photos", files, repo_type="dataset")
        answers = ask(hub, tmp_path / "home", VIEWS + SHARING, "alice/photos", report)
    whole = {split: set(counted(got[0])) for split, *readers, got in answers if readers == [1, 0]}
    assert {split: len(images) for split, images in whole.items()} == {"train": 30, "test": 16}
    for split, processes, workers, got in answers:
        where = (split, processes, workers)
        assert len({tuple(map(len, process)) for process in got}) == 1, where  # or one process would wait for ever
        seen = [image for process in got for image in counted(process)]
        assert len(seen) == len(set(seen)) and set(seen) <= whole[split], where
        if split == "test":
            assert set(seen) == whole[split], where
        else:
            each = {1: 31, 2: 15, 3: 10, 6: 4}[processes]  # a fifth image of six processes would be alone in a batch
            assert each * processes - 1 <= len(seen) <= each * processes, where
    broken = [path for path, _ in (tuple(vars(each).values()) for each in read_skipped(report))]
    if layout == "parquet":
        assert broken == [f"{sha}/test/4", f"{sha}/train/3"]
    else:
        assert {path.split("/")[1] for path in broken} == {"train", "test"} and len(broken) == 2
    assert not report.with_name("skipped.csv.lock").exists()


ORDER = """
first, again, second = (epoch("train", 1, 0, number, how=Augmentation()) for number in (0, 0, 1))
varied = [epoch("train", 2, workers, 1, how=how) for workers in (0, 2)]
streaming.BUFFER = 3 * 3500
small = epoch("train", 1, 0, 0, how=Augmentation())
say([first, again, second, varied, small])
"""


@pytest.mark.slow
def test_an_epoch_is_mixed_anew_and_the_view_of_an_image_has_no_other_cause_than_seed_epoch_and_row(tmp_path):
    train, test = rows_of(tmp_path, 40), rows_of(tmp_path, 9, 100)
    files = {f"data/{name}-0.parquet": parquet(test) for name in ("validation", "test")}
    with LoopbackHub() as hub:
        hub.add("alice/photos", files | {"data/train-0.parquet": parquet(train)}, repo_type="dataset")
        [answer] = ask(hub, tmp_path / "home", VIEWS + ORDER, "alice/photos", tmp_path / "skipped.csv")
    first, again, second, varied, small = answer
    assert first == again
    assert counted(first[0]) != counted(second[0]) and set(counted(first[0])) == set(counted(second[0]))
    assert set(counted(small[0])) == set(counted(first[0])) and counted(small[0]) != counted(first[0])
    alone, with_workers = ({image for process in got for image in counted(process)} for got in varied)
    assert alone == with_workers and len(alone) == 40


@pytest.mark.slow
def test_labels_are_counted_without_fetching_images_and_nothing_is_stored(tmp_path, served):
    noise = np.random.default_rng(0)

    def large(name: str) -> tuple[bytes, str]:
        file = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (160, 160, 3), dtype="uint8")).save(file, "PNG")
        return file.getvalue(), name

    groups = {"train": 40, "validation": 10, "test": 10}
    files = {
        f"data/{split}-{shard}.parquet": parquet([large(NAMES[i % 3]) for i in range(count // 2)], group=10)
        for split, count in groups.items()
        for shard in range(2)
    }
    loose = {f"{split}/{NAMES[i % 3]}/{i}.png": large("")[0] for split in groups for i in range(10)}
    home = tmp_path / "home"
    with LoopbackHub() as hub:
        hub.add("alice/photos", files, repo_type="dataset")
        hub.add("alice/loose", loose, repo_type="dataset")
        [answer] = ask(hub, home, SURVEY, "alice/photos")
        assert answer["counts"]["train"] == [14, 14, 12]
        surveyed = sum(length for path, length in served if path.endswith(".parquet"))
        assert surveyed < sum(map(len, files.values())) / 2
        [answer] = ask(hub, home, SURVEY, "alice/loose")
        assert answer["counts"]["test"] == [3, 3, 4] or sum(answer["counts"]["test"]) == 10
        assert not [path for path, _ in served if path.endswith(".png")]
        served.clear()
        read = 'say(len(epoch("train", 1, 0, how=how)[0]))'
        assert ask(hub, home, VIEWS + read, "alice/photos", tmp_path / "skipped.csv") == [10]
        fetched = sum(length for path, length in served if path.endswith(".parquet"))
        assert fetched < 1.5 * sum(len(content) for path, content in files.items() if "train" in path) + surveyed
    stored = [path for path in home.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in stored) < 100_000
    assert not [path for path in stored if path.suffix in (".parquet", ".arrow", ".png")]


def test_a_stored_data_set_may_call_its_column_image(tmp_path):
    code = """
from training.data.source import HubDataset
from training.data.splits import make_splits
source = HubDataset("alice/photos").pinned()
examples, _ = source.read(Data(), progress=False)
parts = source.as_datasets(make_splits(examples, Splits())[0])
say({split: [part.column_names, part[0]["image"].size] for split, part in parts.items()})
"""
    with LoopbackHub() as hub:
        hub.add("alice/photos", {"data/train-0.parquet": parquet(rows_of(tmp_path, 30))}, repo_type="dataset")
        [answer] = ask(hub, tmp_path / "home", code)
    assert answer == {
        split: [["image", "label", "path", "sha256"], [40, 32]] for split in ("train", "validation", "test")
    }


RECIPE = """
from training.recipe import Augmentation, BatchNorm, Dropout, Linear, Recipe, Stage
FAST = {{"learning_rate": 1e-2, "lr_scheduler_type": "constant"}}
recipe = Recipe(
    title="Colours", base_model={base!r}, head=({head}Linear(),), class_weights="balanced",
    augmentation=Augmentation(rotation=20, horizontal_flip=True),
    stages=(
        Stage(name="head", trainable="head", batch_size=8, arguments={{**FAST, "num_train_epochs": 2}}),
        Stage(name="all", batch_size=8, arguments={{**FAST, "num_train_epochs": 3}}, early_stopping_patience=3),
    ),
)
"""

# The command itself, which dies after a given step of a stage.
DRIVER = """
import os, signal, sys
sys.path[:0] = [sys.argv[1]]
from training.fitting.progress import Progress
from training.command import run_command
from training.train import main

moment, words = sys.argv[2], sys.argv[3:]
if ":" in moment:
    stage, step = moment.split(":")
    go_on = Progress.on_step_end
    def on_step_end(self, args, state, control, **kwargs):
        if self.stage == stage and state.global_step == int(step):
            os.kill(os.getpid(), signal.SIGKILL)
        return go_on(self, args, state, control, **kwargs)
    Progress.on_step_end = on_step_end
sys.argv[1:] = words
sys.exit(run_command(main, ""))
"""


@pytest.fixture
def recipe(tmp_path, tiny_resnet) -> Path:
    path = tmp_path / "colours.py"
    path.write_text(RECIPE.format(base=str(tiny_resnet), head="BatchNorm(), Dropout(0.2), "))
    return path


def train(
    hub: LoopbackHub, home: Path, moment: str, *words: object, launcher: tuple = ()
) -> subprocess.CompletedProcess:
    script = home.parent / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, *launcher, str(script), str(ROOT), moment, *map(str, words)]
    # One thread: what the runs are compared for does not depend on it, and on a busy machine two wait for each other.
    command += ["--use_cpu", "--threads", "1"]
    return subprocess.run(command, env=hub.environment(home), capture_output=True, text=True, cwd=ROOT, timeout=200)


def history(run: Path) -> list[dict]:
    with (run / "log_history.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_streamed_run_that_is_killed_goes_on_to_the_same_end(recipe, tmp_path):
    rows = rows_of(tmp_path, 66)
    rows[7] = (cut(rows[7][0]), rows[7][1])
    test = rows_of(tmp_path, 13, 100)
    test[0] = (cut(test[0][0]), test[0][1])
    files = {"data/train-0.parquet": parquet(rows[:30]), "data/train-1.parquet": parquet(rows[30:])}
    files |= {"data/test-0.parquet": parquet(test)}
    home, unbroken, run = tmp_path / "home", tmp_path / "unbroken", tmp_path / "run"
    with LoopbackHub() as hub:
        sha = hub.add("alice/photos", files, repo_type="dataset")
        words = [recipe, "--dataset", "alice/photos", "--streaming", "--output_dir"]
        done = train(hub, home, "never", *words, unbroken)
        assert done.returncode == 0, done.stderr
        for moment in ("head:9", "all:10"):
            killed = train(hub, home, moment, *words, run, "--resume")
            assert killed.returncode == -signal.SIGKILL, killed.stderr
        hub.add("alice/photos", {"data/train-0.parquet": b"changed since"}, repo_type="dataset")
        resumed = train(hub, home, "never", *words, run, "--resume")
        assert resumed.returncode == 0, resumed.stderr
    assert "stands still, computed anew in each epoch, as of any stream; 51 images" in done.stdout
    assert "· streamed" in done.stdout and "the Hub has no validation split: 15% of its train split" in done.stdout
    ours, theirs = load_file(run / "model.safetensors"), load_file(unbroken / "model.safetensors")
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert history(run) == history(unbroken) and len(history(run)) == 5
    results = json.loads((unbroken / "all_results.json").read_text())
    assert {s: json.loads((run / "all_results.json").read_text())[s] for s in ("validation", "test", "images")} == {
        s: results[s] for s in ("validation", "test", "images")
    }
    assert results["images"]["test"] == 12 and sum(results["images"].values()) == 66 + 13 - 2
    assert f"accuracy {results['test']['accuracy']:.2%} of 12, loss" in done.stdout
    # The image of the training split was found by the survey, that of the test split when it was measured.
    with (unbroken / "local" / "skipped.csv").open() as file:
        assert {line["path"] for line in csv.DictReader(file)} == {f"{sha}/train/7", f"{sha}/test/0"}
    assert "skipped    2 images in all" in done.stdout
    assert {path.name for path in (unbroken / "local").iterdir()} == {"data.json", "skipped.csv"}
    stored = json.loads((unbroken / "local" / "data.json").read_text())
    assert (stored["dataset"], stored["revision"], stored["streaming"]) == ("alice/photos", sha, True)
    again = load_source(unbroken / "local" / "data.json")
    assert isinstance(again, Streamed) and again.to_dict() == stored
    assert sum(path.stat().st_size for path in home.rglob("*") if path.is_file()) < 100_000


@pytest.mark.slow
def test_two_processes_with_uneven_rows_end_together_and_count_every_image_once(recipe, tmp_path):
    rows, validation, test = rows_of(tmp_path, 53), rows_of(tmp_path, 11, 100), rows_of(tmp_path, 7, 200)
    # One process gets nearly all that cannot be read: a quarter of the images.
    for broken in range(12):
        rows[broken] = (cut(rows[broken][0]), rows[broken][1])
    validation[1] = (cut(validation[1][0]), validation[1][1])
    files = {"data/train-0.parquet": parquet(rows[:40], group=40), "data/train-1.parquet": parquet(rows[40:])}
    files |= {"data/validation-0.parquet": parquet(validation), "data/test-0.parquet": parquet(test)}
    run = tmp_path / "run"
    with LoopbackHub() as hub:
        hub.add("alice/photos", files, repo_type="dataset")
        words = [recipe, "--dataset", "alice/photos", "--streaming", "--output_dir", run, "--bf16", "false"]
        launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2")
        done = train(hub, tmp_path / "home", "never", *words, launcher=launcher)
    assert done.returncode == 0, done.stderr
    results = json.loads((run / "all_results.json").read_text())
    assert results["processes"] == 2 and "2 processes" in done.stdout
    assert results["images"] == {"train": 53 - 12, "validation": 10, "test": 7}
    last = history(run)[-1]
    best = min(history(run)[2:], key=lambda row: float(row["validation_loss"]))
    assert float(best["validation_loss"]) == pytest.approx(results["validation"]["loss"], rel=1e-4)
    assert float(best["validation_accuracy"]) == results["validation"]["accuracy"]
    assert (last["step"], last["epoch"]) == (str(3 * 7), "3.0")  # 26 images a process in batches of 4


def test_a_hub_that_goes_away_is_told_in_one_line(recipe, tmp_path):
    with LoopbackHub() as hub:
        hub.add("alice/photos", {"data/train-0.parquet": parquet(rows_of(tmp_path, 60))}, repo_type="dataset")
        gone = """
import time
from threading import Event
source, _ = survey("alice/photos")
parts = source.splits()
say("ready")
sys.stdin.readline()
time.sleep = lambda seconds: None
from torch.utils.data import DataLoader
for workers in (0, 1):
    try:
        list(DataLoader(views(parts["train"], None, 4, Augmentation()), 4, num_workers=workers))
    except UserError as error:
        say(str(error))
"""
        command = [sys.executable, "-c", PRELUDE + gone]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, env=hub.environment(tmp_path / "home"), text=True, cwd=ROOT, **pipes)
        assert json.loads(process.stdout.readline()) == "ready"
    out, errors = process.communicate("\n", timeout=120)
    assert process.returncode == 0, errors
    assert len(out.splitlines()) == 2, errors
    for line in map(json.loads, out.splitlines()):
        assert line.startswith("the stream of data set 'alice/photos' broke: ") and "\n" not in line
        assert re.search("refused|disconnected", line)
        assert line.endswith("with --resume goes on from the last checkpoint")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--streaming"], "--streaming reads a data set of the Hub: say which one with --dataset REPO_ID"),
        (["--streaming", "--data_dir", "photos"], "say which one with --dataset REPO_ID"),
        (["--streaming", "--dataset", "alice/photos"], "data set 'alice/photos': .*is the network there"),
        (
            ["--streaming", "--dataset", "alice//photos:one"],
            "'alice//photos': a data set of the Hub is called OWNER/NAME",
        ),
    ],
)
def test_a_mistake_gets_one_line_and_nothing_is_written(words, message, recipe, tmp_path):
    with pytest.raises(UserError, match=message) as refused:
        main([str(recipe), *words, "--output_dir", str(tmp_path / "run")])
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_an_error_of_a_loader_worker_loses_its_traceback():
    told = "Caught StreamError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File …\n"
    assert str(StreamError(told + "training.data.streaming.StreamError: the stream broke")) == "the stream broke"
    assert str(StreamError("the stream broke")) == "the stream broke"


def test_equal_images_are_held_out_together_in_the_shares_of_the_recipe():
    splits = Splits(validation=0.1, test=0.2)
    roles = [_by_content(str(i).encode(), ["validation", "test"], splits) for i in range(5000)]
    assert roles == [_by_content(str(i).encode(), ["validation", "test"], splits) for i in range(5000)]
    assert np.bincount(roles) / 5000 == pytest.approx([0.7, 0.1, 0.2], abs=0.02)
    assert 2 not in [_by_content(str(i).encode(), ["validation"], splits) for i in range(5000)]
    assert roles != [_by_content(str(i).encode(), ["validation", "test"], Splits(seed=1)) for i in range(5000)]


def test_the_buffer_is_bounded_by_bytes():
    import random

    held = most = 0

    def rows():
        nonlocal held, most
        for index in range(500):
            held += 1
            most = max(most, held)
            yield index, 0, {"bytes": b"x" * 1000}

    mixed = []
    for row in _mixed(rows(), random.Random(1), 30_000):
        held -= 1
        mixed.append(row[0])
    assert sorted(mixed) == list(range(500)) and mixed != list(range(500))
    assert most == 21  # of 1,500 bytes each


def test_a_streamed_source_is_remembered(tmp_path):
    survey = Survey("image", "label", ["a", "b"], {"0": 0, "1": 1}, [["train", 0, 3]], bytes([0, 1, 2]),
                    {"train": [1, 0], "validation": [0, 1], "test": [1, 0]}, ["test"])  # fmt: skip
    for source in (Streamed("alice/photos", "abc", "one", survey), HubDataset("alice/photos", "abc", "one")):
        (tmp_path / "data.json").write_text(json.dumps(source.to_dict()))
        assert load_source(tmp_path / "data.json") == source
    assert survey.roles not in repr(Streamed("alice/photos", "abc", None, survey)).encode()
    stored = Streamed("alice/photos", "abc", None, survey)
    assert [stored.split_of_row(f"abc/train/{row}") for row in range(3)] == ["train", "validation", "test"]


def test_rows_that_several_readers_could_not_read_are_listed_once(tmp_path):
    report = tmp_path / "skipped.csv"
    write_skipped([Skipped("abc/train/10", "no label")], report)
    with report.open("a", newline="") as file:
        csv.writer(file).writerows([("abc/train/2", "x, y"), ("abc/train/2", "x, y")])
    assert read_skipped(report) == [Skipped("abc/train/2", "x, y"), Skipped("abc/train/10", "no label")]
    assert os.listdir(tmp_path) == ["skipped.csv"]
