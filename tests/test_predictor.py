"""What pages ask: the same answers as the saved model's own, without torch where there is an ONNX file."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import scene
from loopback_hub import LoopbackHub
from onnx import TensorProto, checker, helper, numpy_helper, save
from PIL import Image

from hub_utils.portable import network
from hub_utils.portable.activation_maps import ActivationMaps
from hub_utils.portable.classifier import classes_of, load_classifier, probabilities_of
from hub_utils.portable.command import UserError
from hub_utils.portable.network import TOLERANCE, Network, softmax
from hub_utils.portable.predictor import labels_of, load_predictor

HEAVY = ["torch", "torchvision", "transformers", "timm", "scipy", "onnx", "onnxruntime", "sklearn", "pandas"]


def pictures() -> list[Image.Image]:
    sizes = ((40, 32), (32, 40), (90, 31), (200, 300), (33, 33))
    return [
        Image.fromarray(np.stack([scene(3 * seed + colour, height, width) for colour in range(3)], axis=-1))
        for seed, (width, height) in enumerate(sizes)
    ]


@pytest.fixture
def run(colours, tmp_path) -> Path:
    """A copy of the run of three colours, to be changed."""
    shutil.copytree(colours.path, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "local"))
    return tmp_path / "run"


def expected_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and maps of the pictures by the saved model and its image processor."""
    classifier = load_classifier(folder)
    found = []
    with torch.inference_mode():
        for picture in pictures():
            logits, maps = ActivationMaps(classifier.model)(classifier.preprocess(picture)["pixel_values"])[:2]
            found.append((probabilities_of(classifier, logits.numpy())[0], maps.numpy()[0]))
    return tuple(np.array(each) for each in zip(*found, strict=True))


@pytest.mark.parametrize(("precision", "tolerance"), [("auto", TOLERANCE), ("float32", 1e-5)])
def test_the_onnx_file_answers_as_the_saved_model_does(precision, tolerance, run):
    predictor = load_predictor(run, precision=precision)
    probabilities, maps = expected_of(run)
    answers = predictor(pictures())
    assert predictor.labels == classes_of(load_classifier(run)) == ["blue", "green", "red"]
    assert (predictor.folder, predictor.revision) == (run, None)
    assert predictor.runtime.startswith("OpenVINO, ")
    assert np.ptp(probabilities, axis=0).max() > 0.1  # else it would agree with anything
    found = np.array([answer.probabilities for answer in answers])
    np.testing.assert_allclose(found, probabilities, rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        np.array([answer.maps for answer in answers]), maps, rtol=0, atol=3 * tolerance * np.abs(maps).max()
    )
    assert answers[3].probabilities.dtype == answers[3].maps.dtype == np.float32
    assert answers[3].seen == (2 / 36, (54 - 32) // 2 / 54, 34 / 36, ((54 - 32) // 2 + 32) / 54)


def test_without_an_onnx_file_transformers_answers_alike(run):
    shutil.rmtree(run / "onnx")
    predictor = load_predictor(run)
    probabilities, maps = expected_of(run)
    answers = predictor(pictures())
    assert predictor.runtime == "transformers"
    assert predictor.labels == ["blue", "green", "red"]
    np.testing.assert_allclose([answer.probabilities for answer in answers], probabilities, rtol=0, atol=1e-6)
    np.testing.assert_allclose([answer.maps for answer in answers], maps, rtol=0, atol=1e-5)
    assert answers[3].seen[0] == 2 / 36


@pytest.mark.parametrize("known", [True, False])
def test_a_narrow_picture_is_refused_before_transformers_makes_a_large_one_of_it(run, known, monkeypatch):
    """A file of 134 bytes, of which it would make one of gigabytes."""
    shutil.rmtree(run / "onnx")
    if not known:
        path = run / "preprocessor_config.json"
        values = json.loads(path.read_text(encoding="utf-8")) | {"resample": 0}
        path.write_text(json.dumps(values), encoding="utf-8")
    model = load_predictor(run)
    assert (model._preprocessing is not None) is known
    monkeypatch.setattr(model, "_outputs", lambda image: pytest.fail("it was resized"))
    with pytest.raises(UserError, match="is too narrow: cut a part out of it"):
        model([Image.new("RGB", (2, 8000))])


def test_a_timm_network_is_computed_by_onnx_or_by_transformers_alike(tiny_timm, tmp_path):
    from test_onnx import PLAIN, deployed, save_onnx

    folder = deployed(tmp_path / "run", tiny_timm, PLAIN)
    by_transformers = load_predictor(folder)
    save_onnx(folder)
    by_onnx = load_predictor(folder, precision="float32")
    assert (by_transformers.runtime, by_onnx.runtime) == ("transformers", "OpenVINO, float32")
    assert by_transformers.labels == by_onnx.labels
    for one, other in zip(by_transformers(pictures()), by_onnx(pictures()), strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=0, atol=1e-5)
        np.testing.assert_allclose(one.maps, other.maps, rtol=0, atol=1e-4 * np.abs(one.maps).max())
        assert one.seen == other.seen


def test_a_network_that_has_no_maps_answers_without_them(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    small = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    config = ViTConfig(**small, image_size=32, num_labels=3, problem_type="multi_label_classification")
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    (answer,) = load_predictor(tmp_path)(pictures()[:1])
    assert answer.maps is None
    assert answer.strangeness is None
    assert answer.probabilities.shape == (3,)
    assert 1 < answer.probabilities.sum() < 2  # a sigmoid each, of weights near 0


def test_what_several_threads_ask_at_once_is_answered_as_one_by_one(run):
    predictor = load_predictor(run, precision="float32")
    alone = [predictor([picture])[0].probabilities for picture in pictures()]
    with ThreadPoolExecutor(8) as threads:
        for answers in threads.map(predictor, [pictures()] * 16):
            for answer, expected in zip(answers, alone, strict=True):
                assert np.array_equal(answer.probabilities, expected)


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        encoding="utf-8",
        env=os.environ | environment,
    )


ASK = """
import json, sys
from PIL import Image
from hub_utils.portable.command import UserError
from hub_utils.portable.predictor import load_predictor
answers = []
for model, revision in json.loads(sys.argv[1]):
    try:
        predictor = load_predictor(model, revision)
        (answer,) = predictor([Image.new("RGB", (50, 40), "orange")])
        answers.append([predictor.revision, predictor.runtime, answer.probabilities.tolist()])
    except UserError as error:
        answers.append([None, None, str(error)])
print(json.dumps([answers, sorted(set(sys.modules) & set(%r))]))
"""


def ask(*questions: tuple[str, str | None], first: str = "", **environment: str) -> tuple[list, list[str]]:
    """In a process of its own, about an orange picture: (revision, runtime, probabilities or error) of each model, and
    which of the heavy libraries were imported.
    """
    finished = python(first + ASK % HEAVY, json.dumps([[str(model), name] for model, name in questions]), **environment)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return json.loads(finished.stdout.splitlines()[-1])


def test_onnx_is_asked_without_torch_transformers_or_scipy_in_the_process(run):
    answers, heavy = ask((run, None))
    assert heavy == []
    (expected,) = load_predictor(run)([Image.new("RGB", (50, 40), "orange")])
    assert answers == [[None, load_predictor(run).runtime, expected.probabilities.tolist()]]


SLIM = f"import sys\nfor name in {HEAVY!r}: sys.modules[name] = None\n"


def test_a_broken_onnx_file_is_said_and_transformers_answers_where_it_is_installed(run):
    whole = (run / "onnx" / "model.onnx").read_bytes()
    (expected,) = load_predictor(run, precision="float32")(pictures()[:1])
    (run / "onnx" / "model.onnx").write_bytes(whole[: len(whole) // 2])
    predictor = load_predictor(run)
    assert predictor.runtime.startswith("transformers (onnx/model.onnx cannot be used: ")
    assert str(run) not in predictor.runtime
    np.testing.assert_allclose(predictor(pictures()[:1])[0].probabilities, expected.probabilities, rtol=0, atol=1e-5)
    ((_, _, said),), _ = ask((run, None), first=SLIM)
    assert "onnx/model.onnx cannot be used: " in said
    assert said.endswith(
        "transformers must compute it, and is not installed: pip install transformers torch torchvision timm"
    )
    assert "\n" not in said


def test_a_preprocessing_that_only_transformers_knows_is_left_to_it(run):
    values = json.loads((run / "preprocessor_config.json").read_text())
    (run / "preprocessor_config.json").write_text(json.dumps(values | {"resample": 0}))
    assert load_predictor(run).runtime == "transformers (it prepares pictures as only transformers can)"


def test_an_onnx_file_of_other_classes_is_not_believed(run):
    config = json.loads((run / "config.json").read_text())
    config["id2label"]["3"] = "violet"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"answers with 3 numbers, and config.json names 4 classes; tra"):
        load_predictor(run)


BROKEN = {
    "no such folder": (lambda run: run / "nowhere", "there is no folder '.*nowhere', and no repo on the Hub can be"),
    "no model": (lambda run: run / "onnx", "has no config.json"),
    "no weights": (lambda run: without(run, "onnx/model.onnx", "model.safetensors"), "no weights in safetensors"),
    "weights cut off": (lambda run: without(cut(run), "onnx/model.onnx"), "transformers cannot load it: "),
    "config cut off": (lambda run: cut(run, "config.json"), "transformers cannot load it: "),
}


def without(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink()
    return folder


def cut(folder: Path, name: str = "model.safetensors") -> Path:
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    return folder


@pytest.mark.parametrize("name", BROKEN)
def test_a_model_that_cannot_be_loaded_is_one_line_that_names_it(name, run):
    spoil, says = BROKEN[name]
    with pytest.raises(UserError, match=says) as error:
        load_predictor(spoil(run))
    assert "run" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_has_no_revision(run):
    with pytest.raises(UserError, match=r"is a folder, and has no revision 'main'; leave it out"):
        load_predictor(run, "main")


# On the Hub


def fetched(cache: Path) -> set[str]:
    """Names of the files in the cache's snapshots."""
    return {path.name for path in cache.rglob("*") if "snapshots" in path.parts and path.is_file()}


def test_of_a_repo_only_what_is_needed_is_downloaded_and_its_commit_stays(run, tmp_path):
    with LoopbackHub() as hub:
        first = hub.add("alice/tiny", run)
        (run / "README.md").write_text("another commit")
        second = hub.add("alice/tiny", run)
        environment = hub.environment(tmp_path / "home")
        answers, heavy = ask(("alice/tiny", None), ("alice/tiny", first), ("alice/tiny", "main"), **environment)
        assert [answer[0] for answer in answers] == [second, first, second]
        assert all(isinstance(answer[2], list) for answer in answers)
        assert heavy == []
    assert {"model.onnx", "config.json", "serving.json"} <= fetched(tmp_path)
    assert not {"model.safetensors", "log_history.csv"} & fetched(tmp_path / "home")
    away, _ = ask(("alice/tiny", None), ("alice/tiny", first), ("alice/other", None), **environment)
    assert away[:2] == [answers[0], answers[1]]
    assert "'alice/other': the Hub cannot be reached" in away[2][2]


def test_of_a_repo_without_onnx_the_safetensors_are_downloaded_and_no_code_and_no_pickles(run, tmp_path):
    shutil.rmtree(run / "onnx")
    (run / "pytorch_model.bin").write_bytes(b"code that would run")
    (run / "modeling_theirs.py").write_text("raise SystemExit('their code ran')")
    with LoopbackHub() as hub:
        sha = hub.add("alice/tiny", run)
        pickled = without(run, "model.safetensors")
        hub.add("alice/pickled", pickled)
        environment = hub.environment(tmp_path / "home")
        answers, _ = ask(("alice/tiny", None), ("alice/pickled", None), **environment)
        slim, _ = ask(("alice/tiny", None), first=SLIM, **environment)
    assert answers[0][:2] == [sha, "transformers"]
    assert "no weights in safetensors; other files of weights can run code. save_pretrained" in answers[1][2]
    assert not {"pytorch_model.bin", "modeling_theirs.py"} & fetched(tmp_path / "home")
    assert "it has no onnx/model.onnx; then transformers must compute it, and is not installed" in slim[0][2]


def test_a_repo_that_is_private_missing_or_of_another_revision_is_said_in_words(run, tmp_path):
    with LoopbackHub(tokens={"hf_alice": "alice", "hf_bob": "bob"}) as hub:
        hub.add("alice/secret", run, private=True)
        hub.add("alice/tiny", run)
        environment = hub.environment(tmp_path / "bob", token="hf_bob")
        questions = ("alice/secret", None), ("alice/nowhere", None), ("alice/tiny", "v9"), ("a/b/c", None)
        answers, _ = ask(*questions, **environment)
        (hers,), _ = ask(("alice/secret", None), **hub.environment(tmp_path / "alice", token="hf_alice"))
    said = [answer[2] for answer in answers]
    assert said[0].startswith("'alice/secret': not on the Hub, or not for you (HTTP 404)")
    assert said[1].startswith("'alice/nowhere': not on the Hub, or not for you (HTTP 404)")
    assert said[2].startswith("'alice/tiny': it is on the Hub, and has no such revision")
    assert said[3].startswith("there is no folder 'a/b/c'")
    assert isinstance(hers[2], list)


# Labels


def test_labels_come_from_config_json_in_the_order_of_the_logits():
    assert labels_of({"id2label": {"10": "k", **{str(index): "abcdefghij"[index] for index in range(10)}}}) == list(
        "abcdefghijk"
    )
    assert labels_of({"label_names": ["crane", "dog", "crane"]}) == ["crane (0)", "dog", "crane (2)"]
    assert labels_of({"id2label": {"0": "a", "2": "b"}}) is None
    assert labels_of({"architecture": "resnet18", "num_classes": 1000}) is None


# Precision


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory) -> Path:
    """A network that adds up 768 numbers to logits that lie close together, much closer than they are large."""
    draw = np.random.default_rng(0)
    common, own = draw.normal(0, 2, (768, 1)), draw.normal(0, 0.07, (768, 3))
    weights = numpy_helper.from_array((common + own).astype(np.float32), "weights")
    nodes = [
        helper.make_node("Flatten", ["pixel_values"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 16, 16])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    model = helper.make_model(
        helper.make_graph([*nodes], "doubtful", [pixels], [logits], [weights]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    checker.check_model(model)
    path = tmp_path_factory.mktemp("doubtful") / "model.onnx"
    save(model, path)
    return path


def draws(count: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(1).normal(0, scale, (count, 3, 16, 16)).astype(np.float32)


@pytest.fixture
def quick(doubtful) -> Network:
    made = Network(doubtful, (3, 16, 16))
    if made.precision == "float32":
        pytest.skip("this machine multiplies no half floats")
    return made


def test_half_the_bits_are_asked_again_where_they_could_matter(quick, doubtful):
    full = Network(doubtful, (3, 16, 16), precision="float32")
    assert full.precision == "float32"
    pixels = draws(300, 3)
    exact = np.array([softmax(full(each)["logits"]) for each in pixels])
    halved = np.array([softmax(quick._quick(each)[0]) for each in pixels])
    found = np.array([softmax(quick(each)["logits"]) for each in pixels])
    assert np.abs(halved - exact).max() > 2 * TOLERANCE  # else there is nothing to mend
    assert np.abs(found - exact).max() < TOLERANCE
    assert not np.array_equal(found, exact)  # what is certain is left as it is


def counted(asked_of: Network) -> dict[str, int]:
    """How often a network asks with half the bits, and with all."""
    counts = {"_quick": 0, "_full": 0}

    def count(name: str, ask):
        def asked(pixels):
            counts[name] += 1
            return ask(pixels)

        setattr(asked_of, name, asked)

    for name in counts:
        count(name, getattr(asked_of, name))
    return counts


def test_where_most_pictures_would_be_asked_twice_they_are_asked_once_with_all_bits_and_back(quick):
    unsure, sure = draws(60, 0.1), draws(200, 50)
    counts = counted(quick)
    for each in unsure:
        quick(each)
    assert counts["_full"] == 60
    assert counts["_quick"] < 30
    for each in sure:
        quick(each)
    assert counts["_quick"] > 150
    assert counts["_full"] < 120


@pytest.mark.parametrize("form", ["native", "hidden layers", "timm", "densenet"])
def test_a_large_network_is_cut_where_all_goes_through_one_tensor_and_answers_alike(
    form, tiny_resnet, tiny_timm, tmp_path, monkeypatch
):
    import openvino
    from test_export import timm_base
    from test_onnx import FORMS, deployed, save_onnx

    base, head = FORMS[form]
    if base == "densenet121":
        base = timm_base(tmp_path, base, 64, growth_rate=8, block_config=(2, 2))
    folder = deployed(tmp_path / "run", {"tiny-resnet": tiny_resnet, "tiny-timm": tiny_timm}.get(base, base), head)
    save_onnx(folder)
    core, side = openvino.Core(), 64 if form == "densenet" else 32
    monkeypatch.setattr(network, "LARGE", 0)
    model = core.read_model(folder / "onnx" / "model.onnx")
    model.reshape([1, 3, side, side])
    pixels = np.random.default_rng(0).normal(0, 1, (3, side, side)).astype(np.float32)
    expected = network._Compiled(core, model, INFERENCE_PRECISION_HINT="f32")(pixels)
    front, rest = (network._Compiled(core, part, INFERENCE_PRECISION_HINT="f32") for part in network._cut(model))
    (joint,) = front(pixels)
    assert joint.shape != pixels.shape
    found = rest(joint)
    assert len(found) == len(expected) >= 2
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_a_network_that_is_cut_answers_as_the_saved_model_does_and_a_small_one_is_whole(run, monkeypatch):
    assert load_predictor(run)._network._rest is None
    monkeypatch.setattr(network, "LARGE", 0)
    predictor = load_predictor(run)
    if predictor.runtime == "OpenVINO, float32":
        pytest.skip("this machine multiplies no half floats")
    assert predictor._network._rest
    assert load_predictor(run, precision="float32")._network._rest is None
    found = np.array([answer.probabilities for answer in predictor(pictures())])
    np.testing.assert_allclose(found, expected_of(run)[0], rtol=0, atol=TOLERANCE)


def test_a_network_that_gives_no_logits_is_refused(tmp_path, doubtful):
    import onnx

    model = onnx.load(doubtful)
    model.graph.output[0].name = model.graph.node[-1].output[0] = "boxes"
    save(model, tmp_path / "model.onnx")
    with pytest.raises(RuntimeError, match="no image classifier's"):
        Network(tmp_path / "model.onnx", (3, 16, 16))
