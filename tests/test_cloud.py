"""A model for SageMaker and Vertex AI: what goes there, and what it answers there."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from huggingface_hub import constants
from PIL import Image, ImageOps
from test_images import encoded, exif, picture
from visits import bare

from hub_utils import cloud, deployable, sagemaker
from hub_utils.cloud import main
from hub_utils.export import save_deployable
from hub_utils.portable.classifier import load_classifier, logits_of, probabilities_of
from hub_utils.portable.command import UserError
from hub_utils.portable.endpoint import MOST, read
from training.fitting.network import build_network
from training.recipe import Linear, Recipe, ReLU, Stage

LABELS = ["Gänseblümchen", "red", "日本 🌼"]
HEADS = {"native": (Linear(),), "timm": (Linear(),), "custom": (Linear(8), ReLU(), Linear())}
MODEL = {"config.json", "model.safetensors"}
ROLE = "arn:aws:iam::123456789012:role/service-role/SageMaker"


def saved(kind: str, base: Path, folder: Path) -> Path:
    """A deployable of this kind, among what else lies in a run folder."""
    recipe = Recipe(title=kind, base_model=str(base), head=HEADS[kind], stages=(Stage(name="all"),))
    save_deployable(*build_network(recipe, LABELS), run := folder / f"{kind}_Run")
    for name in ("local/splits.csv", "checkpoints/7/optimizer.pt", "notes.txt", "README.md", "pytorch_model.bin"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("patient 7")
    return run


@pytest.fixture(scope="module")
def models(tiny_resnet, tiny_timm, tmp_path_factory) -> dict[str, Path]:
    """A deployable of each kind."""
    folder = tmp_path_factory.mktemp("models")
    return {kind: saved(kind, tiny_timm if kind == "timm" else tiny_resnet, folder) for kind in HEADS}


@pytest.fixture(scope="module")
def written(models, tmp_path_factory) -> Path:
    """A folder with KIND.tar.gz and KIND, for SageMaker and Vertex AI, of each model."""
    folder = tmp_path_factory.mktemp("written")
    for kind, model in models.items():
        main(["sagemaker", str(model), "--output", str(folder / f"{kind}.tar.gz")])
        main(["vertex", str(model), "--output", str(folder / kind)])
    return folder


def names(archive: Path) -> list[str]:
    with tarfile.open(archive) as file:
        return file.getnames()


# What is written


@pytest.mark.parametrize("kind", HEADS)
def test_only_the_models_own_files_go_and_the_code_that_answers(kind, written):
    inside = names(written / f"{kind}.tar.gz")
    files = (path for path in (written / kind).rglob("*") if path.is_file())
    folder = {path.relative_to(written / kind).as_posix() for path in files}
    own = {"native": {"preprocessor_config.json"}, "timm": set()}
    own["custom"] = own["native"] | {"modeling_backbone_with_head.py"}
    code = {name for name in inside if name.startswith("code/")}
    assert set(inside) - code == MODEL | own[kind]
    assert folder - own[kind] - MODEL == {name[5:].replace("inference", "handler") for name in code}
    assert ("code/requirements.txt" in code) == (kind == "timm")
    assert "code/inference.py" in code and len(code) < 16
    assert not any(word in name for name in code for word in ("gradio", "network", "uploads", "served"))
    if kind == "timm":
        wanted = (written / kind / "requirements.txt").read_text().split()
        assert [line.split("==")[0] for line in wanted] == ["pillow", "timm"] and "+" not in "".join(wanted)


def test_the_same_model_gives_the_same_bytes_whenever_and_by_whomever(models, written, tmp_path):
    copy = tmp_path / "elsewhere" / "native_Run"
    shutil.copytree(models["native"], copy)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700 if path.is_dir() else 0o600)
    main(["sagemaker", str(copy), "--output", str(tmp_path / "again.tar.gz")])
    assert (tmp_path / "again.tar.gz").read_bytes() == (written / "native.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "again.tar.gz") as archive:
        assert {(each.mtime, each.uid, each.uname, each.mode) for each in archive} == {(0, 0, "", 0o644)}
        assert archive.getnames() == sorted(archive.getnames())


@pytest.mark.parametrize("target", ["sagemaker", "vertex"])
def test_what_is_there_stays_and_the_same_command_again_finds_it_whole(target, models, tmp_path, capsys):
    output = tmp_path / ("a.tar.gz" if target == "sagemaker" else "a")
    words = [target, str(models["native"]), "--output", str(output)]
    main(words)
    before = output.stat().st_mtime_ns
    main(words)
    assert output.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"is there already, and is another; move it away, or another --output"):
        main([target, str(models["custom"]), "--output", str(output)])
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    main(words)
    assert "wrote" in capsys.readouterr().out


def test_what_cannot_be_written_is_said_in_a_line_and_leaves_nothing(models, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sagemaker.tarfile.TarFile, "addfile", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); another --output"):
        main(["sagemaker", str(models["native"]), "--output", str(tmp_path / "a.tar.gz")])
    assert list(tmp_path.iterdir()) == []


def test_a_token_goes_nowhere(models, tmp_path):
    shutil.copytree(models["native"], tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"note": "hf_" + "aB3" * 12}))
    with pytest.raises(UserError, match=r"what must stay here was found in config\.json") as raised:
        main(["sagemaker", str(tmp_path / "run"), "--output", str(tmp_path / "a.tar.gz")])
    assert "aB3" not in str(raised.value) and not (tmp_path / "a.tar.gz").exists()


# What it answers there


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """Larger and smaller than the network's pictures, wide and tall, and one that EXIF turns."""
    folder = tmp_path_factory.mktemp("photos")
    found = []
    for number, size in enumerate([(97, 61), (40, 180), (300, 44), (20, 20)]):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
        found.append(folder / f"{number}.png")
        Image.fromarray(pixels).resize((size[0], size[1])).save(found[-1])
    found.append(folder / "turned.jpg")
    picture(size=(80, 50)).save(found[-1], exif=exif(6))
    return found


@pytest.fixture(scope="module")
def answers(written, photos, tmp_path_factory) -> dict[tuple[str, str], list[dict]]:
    """What SageMaker's and Vertex AI's code say, by target and kind of model: of each photo, then of `BAD`."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "note.txt").write_text("no picture")
    questions = []
    for kind in HEADS:
        with tarfile.open(written / f"{kind}.tar.gz") as archive:
            archive.extractall(folder / kind)
        files = [{"file": str(path)} for path in photos]
        asked = [["image/jpeg" if path.suffix == ".jpg" else "image/png", {"file": str(path)}] for path in photos]
        asked += [["application/json", {"inputs": files, "parameters": {"top_k": 2}}]]
        asked += [["application/json; charset=utf-8", {"inputs": files[0]}]]
        asked += [["image/png", {"file": str(folder / "note.txt")}], ["text/csv", {"file": str(folder / "note.txt")}]]
        questions.append({"archive": str(folder / kind), "questions": asked})
        some = [files[0], {"b64": files[1]}]
        bad = {"instances": [files[0], base64.b64encode(b"no picture").decode()]}
        questions.append({"folder": str(written / kind), "questions": [
            {"instances": [{"b64": each} for each in files]}, {"instances": some, "parameters": {"top_k": 1}}, bad,
            {"instances": [{"b64": each} for each in files[:1]] * (MOST + 1)},
        ]})  # fmt: skip
    (folder / "questions.json").write_text(json.dumps(questions))
    script = shutil.copy(ROOT / "tests" / "cloud_visitor.py", folder)
    (folder / "here").mkdir()
    command = [sys.executable, "-P", "-X", "utf8", script, folder / "questions.json", folder / "answers.json"]
    environment = bare(os.environ) | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder / "here", env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = iter(json.loads((folder / "answers.json").read_text()))
    return {(target, kind): next(found) for kind in HEADS for target in ("sagemaker", "vertex")}


def expected(model: Path, photos: list[Path]) -> np.ndarray:
    """Probabilities as the run computes them, of pictures as `pipeline` opens them."""
    images = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in photos]
    classifier = load_classifier(model)
    return probabilities_of(classifier, np.stack(list(logits_of(classifier, images))))


def in_order(answer: list[dict]) -> list[float]:
    """The scores in the order of the classes; it is sorted by them."""
    scores = {each["label"]: each["score"] for each in answer}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    return [scores[label] for label in LABELS]


@pytest.mark.parametrize("kind", HEADS)
def test_both_answer_as_the_run_does(kind, answers, models, photos):
    ours = expected(models[kind], photos)
    one_by_one = [in_order(each["answer"]) for each in answers["sagemaker", kind][: len(photos)]]
    np.testing.assert_allclose(one_by_one, ours, rtol=0, atol=1e-6)
    together = [in_order(each) for each in answers["vertex", kind][0]["answer"]["predictions"]]
    np.testing.assert_allclose(together, ours, rtol=0, atol=1e-6)
    assert np.ptp(ours, axis=0).max() > 1e-3  # it tells pictures apart


@pytest.mark.parametrize("kind", HEADS)
def test_several_pictures_and_few_labels_can_be_asked_for(kind, answers, models, photos):
    ours = expected(models[kind], photos)
    several, one = (each["answer"] for each in answers["sagemaker", kind][len(photos) : len(photos) + 2])
    assert [len(each) for each in several] == [2] * len(photos)
    assert [each[0]["label"] for each in several] == [LABELS[index] for index in ours.argmax(axis=1)]
    np.testing.assert_allclose(in_order(one), ours[0], rtol=0, atol=1e-6)
    few = answers["vertex", kind][1]["answer"]["predictions"]
    assert [[each["label"] for each in picture] for picture in few] == [[LABELS[i]] for i in ours.argmax(axis=1)[:2]]


def test_what_is_no_picture_gets_a_sentence(answers):
    *_, alone, kind = answers["sagemaker", "native"]
    assert alone["error"].startswith("This is a text, and JPEG, PNG")
    assert kind["error"].startswith("the content type is 'text/csv'; image/jpeg")
    second, too_many = answers["vertex", "custom"][2:]
    assert second["error"].startswith("picture 2 of 2: This is a text")
    assert too_many["error"] == f"these are {MOST + 1} pictures, and one question may have {MOST}; ask several times"


B64 = base64.b64encode(encoded(picture())).decode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", "the question is no JSON"),
        ("[" * 100_000, "the question is no JSON"),
        ([B64], "the question has no 'instances'"),
        ({"inputs": [B64]}, "the question has no 'instances'"),
        ({"instances": B64}, "'instances' is a text; a list of pictures is wanted"),
        ({"instances": []}, "'instances' is an empty list"),
        ({"instances": None}, "'instances' is null"),
        ({"instances": [7]}, "instances[0] is a number; a picture's file in base64"),
        ({"instances": [B64, {"b64": 7}]}, "instances[1] is a number"),
        ({"instances": [{"image": B64}]}, "instances[0] is an object"),
        ({"instances": [[[0, 0, 0]]]}, "instances[0] is a list"),
        ({"instances": ["https://example.com/a.jpg"]}, "instances[0] is an address, and none is fetched here"),
        ({"instances": ["FILE:///etc/passwd"]}, "instances[0] is an address"),
        ({"instances": ["/etc/passwd!"]}, "instances[0] is no base64"),
        ({"instances": [B64], "more": 1}, "the question says 'more', which is not known"),
        ({"instances": [B64], "parameters": 3}, "'parameters' is a number; an object is wanted"),
        ({"instances": [B64], "parameters": {"topk": 3}}, "there is no parameter 'topk'; top_k is the only one"),
        ({"instances": [B64], "parameters": {"top_k": 0}}, "top_k is 0; a whole number from 1 on"),
        ({"instances": [B64], "parameters": {"top_k": "3"}}, 'top_k is "3"'),
        ({"instances": [B64], "parameters": {"top_k": True}}, "top_k is true"),
        ({"instances": [B64], "parameters": {"top_k": 2.5}}, "top_k is 2.5"),
        ({"instances": [B64] * (MOST + 1)}, f"these are {MOST + 1} pictures"),
    ],
)
def test_a_question_of_another_form_gets_a_sentence(body, words):
    with pytest.raises(ValueError) as raised:
        read(body, "instances")
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_pictures_may_be_given_in_three_forms():
    forms = [B64, {"b64": B64}, f"data:image/png;base64,{B64}", f"{B64[:40]}\n{B64[40:]}"]
    for given in forms:
        question = read({"instances": [given], "parameters": {"top_k": None}}, "instances")
        assert (question.pictures, question.top_k, question.alone) == ([encoded(picture())], 5, False)
    assert read(json.dumps({"inputs": B64, "parameters": {"top_k": 1}}), "inputs").alone
    assert len(read(json.dumps({"inputs": [B64, B64]}).encode(), "inputs").pictures) == 2


# What is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["aws", "RUN"], "invalid choice: 'aws'"),
        (["sagemaker", ""], "MODEL is empty"),
        (["sagemaker", "RUN"], "is a folder: --output model.tar.gz says where its archive goes"),
        (["sagemaker", "RUN", "--output", "model.zip"], "SageMaker takes an archive that ends with .tar.gz"),
        (["vertex", "RUN"], "--output DIR says where the folder for Vertex AI goes"),
        (["vertex", "RUN", "--output", "a", "--role", ROLE], "--role is for SageMaker"),
        (["vertex", "RUN", "--output", "a", "--bucket", "gs://mine"], "--bucket gs://mine: the name alone"),
        (["sagemaker", "RUN", "--output", "a.tar.gz", "--role", "me"], "--role me: as arn:aws:iam::"),
        (["sagemaker", "RUN", "--output", "a.tar.gz", "--name", "My Model"], "--name My Model: small letters"),
        (["sagemaker", "RUN", "--output", "a.tar.gz", "--region", "af-south-1"], "--image ADDRESS, from https://"),
        (["sagemaker", "RUN", "--output", "a.tar.gz", "--region", "us-central1"], "--region us-central1: as us-east-1"),
        (["sagemaker", "RUN", "--output", "a.tar.gz", "--machine", "n1-standard-2"], "n1-standard-2: as ml.m5.large"),
        (["sagemaker", "RUN", "--output", "a.tar.gz", "--image", "https://a/b"], "https://a/b: as REGISTRY/NAME:TAG"),
        (["vertex", "RUN", "--output", "a", "--region", "us-east-1"], "--region us-east-1: as us-central1"),
        (["vertex", "RUN", "--output", "a", "--machine", "ml.m5.large"], "--machine ml.m5.large: as n1-standard-2"),
        (["vertex", "RUN", "--output", "."], "--output .: a name is wanted"),
        (["sagemaker", "RUN", "--output", "a.tar.gz", "--revision", "main"], "--revision is for a repo of the Hub"),
        (
            ["sagemaker", "RUN", "--output", "a.tar.gz", "--deploy"],
            "--deploy wants --role ARN and --bucket NAME as well",
        ),
        (["vertex", "RUN", "--output", "a", "--deploy"], "--deploy wants --bucket NAME as well"),
        (["sagemaker", "runs/nowhere/here", "--output", "a.tar.gz"], "there is no folder 'runs/nowhere/here'"),
    ],
)
def test_a_mistake_on_the_command_line_gets_one_line_and_writes_nothing(words, message, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        main([str(models["native"]) if word == "RUN" else word for word in words])
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def changed(path: Path, **values) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: each for key, each in (content | values).items() if each is not None}))


SPOILT = {
    "nothing in it": (lambda run: [path.unlink() for path in run.iterdir() if path.is_file()], "it has no config.json"),
    "no weights": (lambda run: (run / "model.safetensors").unlink(), "no weights in '.*model.safetensors is wanted"),
    "damaged weights": (lambda run: (run / "model.safetensors").write_bytes(b"half"), "is damaged"),
    "a part of the weights": (
        lambda run: [
            (run / "model.safetensors").rename(run / "model-00001-of-00002.safetensors"),
            (run / "model.safetensors.index.json").write_text(
                json.dumps(
                    {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
                )
            ),
        ],
        r"not whole: it has no model-00002-of-00002\.safetensors",
    ),
    "no word on pictures": (
        lambda run: (run / "preprocessor_config.json").unlink(),
        r"does not say how pictures are prepared: it has no preprocessor_config\.json",
    ),
    "folds": (lambda run: (run / "folds.json").write_text("{}"), "holds a cross-validation; each of its folds"),
    "code of others": (
        lambda run: changed(run / "config.json", auto_map={"AutoConfig": "mine.Config"}, model_type="mine"),
        "needs code of others, which is not sent to a cloud: python training/predict.py",
    ),
    "no classifier": (
        lambda run: changed(run / "config.json", architectures=["ResNetBackbone"]),
        r"is no image classifier that an endpoint could run \(ResNetBackbone\)",
    ),
    "several labels at once": (
        lambda run: changed(run / "config.json", problem_type="multi_label_classification"),
        "has a head that an endpoint cannot run: its answer is no choice of one",
    ),
    "a processor of its own": (
        lambda run: changed(run / "preprocessor_config.json", image_processor_type="PvtImageProcessor"),
        "prepares pictures in a way that only its own transformers knows",
    ),
    "arguments of timm": (
        lambda run: changed(run / "config.json", model_args={"head_type": "mlp"}),
        r"timm builds with arguments \(head_type\), which transformers 4.5.* --image names a newer container",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_model_that_no_container_could_run_gets_one_line(how, models, tmp_path):
    shutil.copytree(models["native"], tmp_path / "run", ignore=shutil.ignore_patterns("local", "checkpoints"))
    spoil, message = SPOILT[how]
    spoil(tmp_path / "run")
    with pytest.raises(UserError, match=message) as raised:
        main(["sagemaker", str(tmp_path / "run"), "--output", str(tmp_path / "a.tar.gz")])
    assert "\n" not in str(raised.value) and not (tmp_path / "a.tar.gz").exists()


def test_a_modeling_file_that_was_changed_and_one_that_is_missing_are_refused(models, tmp_path):
    shutil.copytree(models["custom"], tmp_path / "run")
    module = tmp_path / "run" / "modeling_backbone_with_head.py"
    module.write_text(module.read_text() + "import os\n")
    with pytest.raises(UserError, match="was changed, or is of another version"):
        deployable.find(str(tmp_path / "run"))
    module.unlink()
    with pytest.raises(UserError, match="lacks its modeling file"):
        deployable.find(str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("folder", "name"),
    [("Flowers_2", "flowers-2"), ("runs/30 rocks", "model-30-rocks"), ("日本", "model"), ("x" * 80, "x" * 50)],
)
def test_an_endpoint_is_called_as_clouds_take_it(folder, name):
    assert deployable.Deployable(folder, Path(folder)).name == name


# Models of the Hub


@pytest.fixture
def on_hub(hub, models, monkeypatch, tmp_path):
    """Ours, as alice sees it in this process, with a model of each kind."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    for kind, model in models.items():
        shutil.rmtree(tmp_path / "up", ignore_errors=True)
        shutil.copytree(model, tmp_path / "up", ignore=shutil.ignore_patterns("local", "checkpoints", "*.bin"))
        hub.add(f"alice/{kind}", tmp_path / "up", private=kind == "timm")
    return hub


def test_of_a_repo_the_container_may_take_it_by_itself_or_get_the_same_archive(on_hub, written, tmp_path, capsys):
    main(["sagemaker", "alice/native"])
    said = capsys.readouterr().out
    sha = on_hub.commits("alice/native")[-1].sha
    assert f"HF_MODEL_ID=alice/native, HF_MODEL_REVISION={sha}" in said
    assert "TRUST" not in said and "s3" not in said and "may be off by 0.01" in said
    main(["sagemaker", "alice/native", "--output", str(tmp_path / "a.tar.gz")])
    assert (tmp_path / "a.tar.gz").read_bytes() == (written / "native.tar.gz").read_bytes()


def test_of_a_repo_with_code_the_full_commit_has_to_be_named(on_hub, written, tmp_path):
    sha, output = on_hub.commits("alice/custom")[-1].sha, str(tmp_path / "a.tar.gz")
    with pytest.raises(UserError, match=rf"brings code of its own .*--revision {sha}, which 'main' is now"):
        main(["sagemaker", "alice/custom", "--output", output])
    with pytest.raises(UserError, match="has a head with hidden layers, and the container cannot take it"):
        main(["sagemaker", "alice/custom", "--revision", sha])
    main(["sagemaker", "alice/custom", "--revision", sha, "--output", output])
    assert Path(output).read_bytes() == (written / "custom.tar.gz").read_bytes()


def test_what_the_container_cannot_take_by_itself_is_said(on_hub):
    with pytest.raises(UserError, match=r"is a private repo, and .*--output model\.tar\.gz"):
        main(["sagemaker", "alice/timm"])
    with pytest.raises(UserError, match=r"the model 'alice/nothing', which is no folder here: not on the Hub"):
        main(["sagemaker", "alice/nothing"])


def test_help_imports_no_heavy_library():
    code = (
        "import sys\nfrom hub_utils.cloud import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'PIL', 'huggingface_hub', 'boto3'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]" and cloud.USAGE.splitlines()[0] in done.stdout
