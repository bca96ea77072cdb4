"""predict.py: any images, any classifier, a row each; and one line for whatever is wrong with them."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, write_photo
from loopback_hub import LoopbackHub
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, ResNetConfig, ResNetForImageClassification, pipeline

from hub_utils.portable.classifier import batch_size, load_classifier
from training.data.source import Folder
from training.fitting.fit import fit
from training.predict import main
from training.recipe import Linear, Recipe, ReLU, Stage, UserError
from training.results.answers import answers
from training.run_folder import RunFolder

SCRIPT = str(ROOT / "training" / "predict.py")
AWKWARD = ['a, "b"; c.png', "Müller-猫.png", " spaces .png", "=1+1.png"]
if os.name != "nt":
    AWKWARD += ["two\nlines.png"]


def tell(*words: object) -> str:
    """What the command prints when all goes well."""
    with redirect_stdout(io.StringIO()) as said:
        assert main([str(word) for word in words]) == 0
    return said.getvalue()


def refusal(*words: object) -> str:
    """The one line that the command refuses with."""
    with pytest.raises(UserError) as refused, redirect_stdout(io.StringIO()):
        main([str(word) for word in words])
    assert "\n" not in str(refused.value)
    return str(refused.value)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines(path: Path) -> list[dict]:
    def refuse(constant: str):
        raise ValueError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def three(tmp_path) -> Path:
    """Three pictures at two depths."""
    folder = tmp_path / "three"
    for name, hue in (("b.png", 0.0), ("a/z.png", 0.3), ("c.PNG", 0.6)):
        write_photo(folder / name, hue, 1)
    return folder


def classifier_of(folder: Path, like: Path, **config) -> Path:
    """A network of three classes in the Hub's layout, with the image processor of another."""
    torch.manual_seed(1)
    names = config.pop("names", ["one", "two", "three"])
    small = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **config)
    small.id2label, small.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}
    ResNetForImageClassification(small).save_pretrained(folder)
    shutil.copy(like / "preprocessor_config.json", folder)
    return folder


# What comes out


def test_a_row_an_image_in_order_as_csv_and_as_json_lines(colours, three, tmp_path):
    single = tmp_path / "single.png"
    write_photo(single, 0.3, 5)
    images = [single, three, three / "a" / "z.png"]
    said = tell(colours.path, *images, "--output", tmp_path / "deep" / "out.csv")
    assert said.splitlines()[-3:-1] == [
        f"predicted  5 of 5 images with {colours.path}",
        f"wrote      {tmp_path / 'deep' / 'out.csv'}",
    ]
    rows = table(tmp_path / "deep" / "out.csv")
    assert list(rows[0]) == ["path", "prediction", "p_blue", "p_green", "p_red", "error"]
    expected = [single, three / "a" / "z.png", three / "b.png", three / "c.PNG", three / "a" / "z.png"]
    assert [row["path"] for row in rows] == [path.as_posix() for path in expected]
    tell(colours.path, *images, "--output", tmp_path / "out.jsonl")
    for row, line in zip(rows, lines(tmp_path / "out.jsonl"), strict=True):
        assert set(line) == {"path", "prediction", "probabilities"}
        assert (line["path"], line["prediction"]) == (row["path"], row["prediction"])
        assert {name: float(row[f"p_{name}"]) for name in ("blue", "green", "red")} == line["probabilities"]
        assert row["prediction"] == max(line["probabilities"], key=line["probabilities"].get)
        assert row["error"] == ""
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["out.csv"]


def test_probabilities_are_those_of_plain_pipeline(colours, three, tmp_path):
    tell(colours.path, three, "--output", tmp_path / "out.csv")
    plain = pipeline("image-classification", model=str(colours.path), dtype=torch.float32)
    for row in table(tmp_path / "out.csv"):
        for each in plain(row["path"], top_k=None):
            assert float(row[f"p_{each['label']}"]) == pytest.approx(each["score"], abs=1e-6)


def test_a_model_of_several_labels_gives_each_its_own_probability_as_pipeline_does(tiny_resnet, three, tmp_path):
    model = classifier_of(tmp_path / "model", tiny_resnet, problem_type="multi_label_classification")
    tell(model, three, "--output", tmp_path / "out.csv")
    plain = pipeline("image-classification", model=str(model), dtype=torch.float32)
    for row in table(tmp_path / "out.csv"):
        chances = {each["label"]: each["score"] for each in plain(row["path"], top_k=None)}
        assert abs(sum(chances.values()) - 1) > 0.01
        for name, score in chances.items():
            assert float(row[f"p_{name}"]) == pytest.approx(score, abs=1e-6)


def test_two_classes_of_one_name_have_a_column_each(tiny_resnet, three, tmp_path):
    model = classifier_of(tmp_path / "model", tiny_resnet, names=["crane", "crane", "p_path"])
    tell(model, three, "--output", tmp_path / "out.csv")
    [first, *_] = table(tmp_path / "out.csv")
    assert list(first) == ["path", "prediction", "p_crane (0)", "p_crane (1)", "p_p_path", "error"]
    assert sum(float(first[name]) for name in list(first)[2:5]) == pytest.approx(1)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_awkward_names_come_out_as_they_are(ending, colours, tmp_path):
    folder = tmp_path / "photos"
    for number, name in enumerate(AWKWARD):
        write_photo(folder / name, 0.3, number)
    said = tell(colours.path, folder, "--output", tmp_path / f"out.{ending}")
    rows = (table if ending == "csv" else lines)(tmp_path / f"out.{ending}")
    assert sorted(row["path"] for row in rows) == sorted((folder / name).as_posix() for name in AWKWARD)
    assert all(row["prediction"] for row in rows)
    assert "skipped" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere refuse such a name")
def test_a_name_that_is_no_text_is_escaped_or_refused_in_its_row(colours, tmp_path):
    write_photo(tmp_path / "photos" / "good.png", 0.3, 1)
    strange = tmp_path / "photos" / os.fsdecode(b"caf\xe9.png")
    shutil.copy(tmp_path / "photos" / "good.png", strange)
    tell(colours.path, tmp_path / "photos", strange, "--output", tmp_path / "out.csv")
    refused, good, escaped = table(tmp_path / "out.csv")
    assert refused["path"] == escaped["path"]
    assert escaped["path"].endswith(r"caf\udce9.png")
    assert (refused["error"], escaped["error"]) == ("its name is not UTF-8", "")
    assert escaped["p_red"] == good["p_red"]


def test_no_more_images_than_two_batches_are_held(colours, three):
    classifier, begun = load_classifier(colours.path), 0

    def many():
        nonlocal begun
        for _ in range(40):
            begun += 1
            yield three / "b.png"

    for done, (_, logits) in enumerate(answers(classifier, many(), Path.read_bytes), 1):
        assert begun - done < 2 * batch_size(classifier) < 40
        assert logits.shape == (3,)
    assert done == 40


# Images that are none


def test_a_bad_file_has_its_reason_in_its_row_and_the_others_are_answered(colours, three, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    content = (three / "b.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("hello")
    Image.fromarray(np.zeros((30, 30), np.uint16)).save(folder / "deep.png")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "notes.txt").write_text("passed by")
    said = tell(colours.path, folder, three, folder / "notes.txt", "--output", tmp_path / "out.csv")
    assert "predicted  3 of 9 images" in said and "warning    of 6 there is no answer" in said
    rows = {Path(row["path"]).name: row for row in table(tmp_path / "out.csv")}
    reasons = {name: row["error"] for name, row in rows.items() if row["error"]}
    assert set(reasons) == {"cut.png", "empty.png", "text.jpg", "deep.png", "bomb.png", "notes.txt"}
    assert reasons["empty.png"] == "empty file"
    assert reasons["text.jpg"] == "not an image, whatever its name says" == reasons["notes.txt"]
    assert reasons["deep.png"].startswith("16 bits a pixel")
    assert reasons["bomb.png"].startswith("a decompression bomb")
    assert all(rows[name]["prediction"] == "" == rows[name]["p_red"] for name in reasons)
    assert all(rows[name]["prediction"] for name in ("b.png", "z.png", "c.PNG"))
    tell(colours.path, folder / "empty.png", "--output", tmp_path / "out.jsonl")
    assert lines(tmp_path / "out.jsonl") == [{"path": (folder / "empty.png").as_posix(), "error": "empty file"}]


def test_a_model_whose_answers_are_no_numbers_gives_no_row_that_looks_right(tiny_resnet, three, tmp_path):
    model = classifier_of(tmp_path / "model", tiny_resnet)
    weights = load_file(model / "model.safetensors")
    weights["classifier.1.bias"][1] = np.nan
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    tell(model, three, "--output", tmp_path / "out.jsonl")
    assert {line["error"] for line in lines(tmp_path / "out.jsonl")} == {"the model's answer is no finite number"}


def test_what_leads_nowhere_and_folders_without_images_are_told(colours, tmp_path):
    (tmp_path / "none" / "inside").mkdir(parents=True)
    output = tmp_path / "out.csv"
    assert refusal(colours.path, tmp_path / "nowhere.png", "--output", output).startswith("no file or folder")
    assert refusal(colours.path, tmp_path / "none", "--output", output).startswith("no images in")
    assert "a path is empty" in refusal(colours.path, "", "--output", output)
    assert not output.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes are made otherwise there")
def test_what_cannot_be_a_picture_has_its_reason_in_its_row(colours, tmp_path):
    photos = tmp_path / "photos"
    write_photo(photos / "good.png", 0.3, 1)
    (photos / "broken.png").symlink_to("nowhere")
    (photos / "raw.cr2").write_bytes(b"raw")
    (photos / "notes.txt").write_text("no picture, and nobody said that it was one")
    os.mkfifo(tmp_path / "pipe.png")
    named = [tmp_path / "pipe.png", tmp_path / "gone.png"]
    said = tell(colours.path, photos, *named, "--output", tmp_path / "out.csv")
    assert {Path(row["path"]).name: row["error"] for row in table(tmp_path / "out.csv")} == {
        "broken.png": "a broken link",
        "good.png": "",
        "raw.cr2": "an image that Pillow cannot open",
        "pipe.png": "neither a file nor a folder",
        "gone.png": "no such file, or a broken link",
    }
    assert "skipped    1 × not an image by its name (notes.txt)" in said


# The table


def test_a_table_that_is_there_is_replaced_only_when_that_is_asked_for(colours, three, tmp_path):
    output = tmp_path / "out.csv"
    output.write_text("mine")
    assert "--overwrite replaces it" in refusal(colours.path, three, "--output", output)
    assert output.read_text() == "mine"
    tell(colours.path, three, "--output", output, "--overwrite")
    assert len(table(output)) == 3


def test_a_table_that_cannot_be_written_and_one_of_another_kind_are_told(colours, three, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(colours.path, three, "--output", tmp_path / "file" / "out.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "cannot be written" in refusal(colours.path, three, "--output", tmp_path / "folder.csv", "--overwrite")
    assert "a table is called .csv or .jsonl" in refusal(colours.path, three, "--output", tmp_path / "out.xlsx")


SLOWED = """
import sys, time
from training.command import run_command
from training.data import images
from training.predict import main
from training.results import answers
look = images.look

def slowly(content):
    time.sleep(0.2)
    return look(content)

answers.look = slowly
sys.exit(run_command(main, "nothing was written"))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal for one process")
@pytest.mark.slow
def test_ctrl_c_keeps_the_rows_so_far_and_says_where(colours, three, tmp_path):
    output = tmp_path / "out.csv"
    command = [sys.executable, "-c", SLOWED, str(colours.path), *[str(three)] * 300, "--output", str(output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "out.csv.partial"
    started = time.monotonic()
    while not ([*tmp_path.glob(".out.csv.*.part")] and process.poll() is None and time.monotonic() - started < 100):
        assert process.poll() is None and time.monotonic() - started < 100
        time.sleep(0.1)
    time.sleep(4)  # a batch or two
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in said
    assert said.splitlines()[-1] == f"error: interrupted; the rows so far are in '{partial}'"
    assert 0 < len(table(partial)) < 900
    assert not [*tmp_path.glob("out.csv"), *tmp_path.glob(".*")]


# The model


def test_a_folder_that_is_no_classifier_is_told_in_one_line(tiny_resnet, three, tmp_path, capfd):
    output = ["--output", tmp_path / "out.csv"]
    assert "it has no config.json" in refusal(three, three, *output)
    assert "no model './nowhere'" in refusal("./nowhere", three, *output)
    assert "is a file; MODEL is the folder" in refusal(three / "b.png", three, *output)
    assert "'runs/nowhere' is no folder here" in refusal("runs/nowhere", three, *output)
    tiny = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=30)
    BertModel(tiny).save_pretrained(tmp_path / "bert")
    assert "is of the kind Bert, which does not classify images" in refusal(tmp_path / "bert", three, *output)
    regression = classifier_of(tmp_path / "numbers", tiny_resnet, problem_type="regression")
    assert "predicts numbers, not classes" in refusal(regression, three, *output)
    headless = classifier_of(tmp_path / "headless", tiny_resnet)
    weights = load_file(headless / "model.safetensors")
    body = {name: each for name, each in weights.items() if not name.startswith("classifier")}
    save_file(body, headless / "model.safetensors", {"format": "pt"})
    assert "no weights for classifier.1.bias, classifier.1.weight" in refusal(headless, three, *output)
    (headless / "model.safetensors").write_bytes(b"cut off")
    assert "cannot be loaded" in refusal(headless, three, *output)
    (headless / "model.safetensors").unlink()
    assert "cannot be loaded" in refusal(headless, three, *output)
    blind = classifier_of(tmp_path / "blind", tiny_resnet)
    (blind / "preprocessor_config.json").unlink()
    message = refusal(blind, three, *output)
    assert "it needs config.json, model.safetensors and preprocessor_config.json" in message
    assert "huggingface.co" not in message
    assert "LOAD REPORT" not in capfd.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_code_of_a_repo_runs_only_at_a_pinned_commit(three, tmp_path):
    for revision in ([], ["--revision", "main"], ["--revision", "0123abc"]):
        assert "a full commit" in refusal("alice/tiny", three, "--trust_remote_code", *revision)
    assert "--revision is for a repo of the Hub" in refusal(three, three, "--revision", "main")


@pytest.fixture(scope="module")
def own_class(tmp_path_factory, tiny_resnet) -> RunFolder:
    """A run whose head has hidden layers, and which so brings a class of its own."""
    folder = tmp_path_factory.mktemp("own")
    for number in range(30):
        write_photo(folder / "photos" / ("red", "green")[number % 2] / f"{number}.png", number % 2 / 3, number)
    stage = Stage(name="all", batch_size=8, arguments={"num_train_epochs": 1})
    head = (Linear(4), ReLU(), Linear())
    recipe = Recipe(title="Own", name="own", base_model=str(tiny_resnet), head=head, stages=(stage,))
    fit(recipe, Folder(folder / "photos"), RunFolder(folder / "run"), flags=["--bf16", "false"])
    return RunFolder(folder / "run")


ASK = """
import json, sys, time
from training.predict import main
from training.recipe import UserError
for words in json.loads(sys.argv[1]):
    began = time.monotonic()
    try:
        main(words)
    except UserError as error:
        print("refused:", error)
    print("took:", time.monotonic() - began)
"""


def ask(environment: dict[str, str], *commands: list) -> list[str]:
    """What each command line is refused with, or "", in a process whose Hub is the environment's."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", ASK, words],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    answers, said = [], ""
    for line in done.stdout.splitlines():
        if line.startswith("refused: "):
            said = line.removeprefix("refused: ")
        if line.startswith("took: "):
            assert float(line.removeprefix("took: ")) < 20  # the client alone would try for minutes
            answers.append(said)
            said = ""
    assert len(answers) == len(commands)
    return answers


@pytest.mark.slow
def test_a_repo_of_the_hub_answers_as_its_folder_does_and_from_the_cache(own_class, tiny_resnet, three, tmp_path):
    local, newer = tmp_path / "local.csv", classifier_of(tmp_path / "newer", tiny_resnet)
    tell(own_class.path, three, "--output", local)
    deployable = {
        path.name: path for path in own_class.path.iterdir() if path.suffix in (".json", ".safetensors", ".py")
    }
    with LoopbackHub(tokens={"hf_alice": "alice"}) as hub:
        commit = hub.add("alice/own", deployable, private=True)
        hub.add("alice/own", newer)  # main is another model from now on
        hub.add("alice/text", {"README.md": b"no model"})
        owner = hub.environment(tmp_path / "owner", "hf_alice")
        stranger = hub.environment(tmp_path / "stranger")

        def command(repo: str, name: str, *words) -> list:
            return [repo, three, "--output", tmp_path / name, *words]

        own = ["--revision", commit]
        assert ask(owner, command("alice/own", "own.csv", *own), command("alice/own", "main.csv")) == ["", ""]
        private, absent, empty = ask(
            stranger, command("alice/own", "x.csv"), command("alice/nothing", "x.csv"), command("alice/text", "x.csv")
        )
        assert "no model 'alice/own' on the Hub, or it is private" in private and "hf auth login" in private
        assert "no model 'alice/nothing' on the Hub" in absent
        assert "it has no config.json" in empty
        [unknown] = ask(owner, command("alice/own", "x.csv", "--revision", "nowhere"))
        assert "no such revision" in unknown
    rows = [{name: value for name, value in row.items() if name != "path"} for row in table(local)]
    assert [
        {name: value for name, value in row.items() if name != "path"} for row in table(tmp_path / "own.csv")
    ] == rows
    assert "p_three" in table(tmp_path / "main.csv")[0]
    # The Hub is gone: what is in the cache still does, at the commit as well as at main.
    again = [command("alice/own", "own2.csv", *own), command("alice/own", "main2.csv")]
    assert ask(owner, *again) == ["", ""]
    assert (tmp_path / "own2.csv").read_bytes() == (tmp_path / "own.csv").read_bytes()
    assert (tmp_path / "main2.csv").read_bytes() == (tmp_path / "main.csv").read_bytes()
    [away] = ask(stranger, command("alice/own", "x.csv"))
    assert "is no folder here, not in the cache, and the Hub cannot be reached" in away
    assert not (tmp_path / "x.csv").exists()


def test_the_command_says_one_line_and_ends_with_status_1(three):
    for words in ([], ["model"], ["nowhere/at/all", str(three)], ["m", "i", "--outptu", "x"]):
        done = subprocess.run([sys.executable, SCRIPT, *words], cwd=ROOT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: "), done.stderr
