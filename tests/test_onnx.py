"""The ONNX file answers as the deployable does, names nothing of this machine, and can be asked without torch."""

import getpass
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import ROOT, scene
from loopback_hub import LoopbackHub
from PIL import Image
from safetensors.torch import load_file, save_file
from test_export import HIDDEN, LABELS, PLAIN, timm_base, upset
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hub_utils import export
from hub_utils.export import save_deployable, save_onnx
from hub_utils.onnx_example import onnx_example
from hub_utils.portable.activation_maps import ActivationMaps, body_and_head
from hub_utils.portable.classifier import classes_of, load_classifier
from training.fitting.network import build_network
from training.recipe import Recipe, Stage

FORMS = {
    "native": ("tiny-resnet", PLAIN),
    "hidden layers": ("tiny-resnet", HIDDEN),
    "timm": ("tiny-timm", PLAIN),
    "timm with hidden layers": ("tiny-timm", HIDDEN),
    "densenet": ("densenet121", PLAIN),
}


def deployed(folder: Path, base: str, head: tuple, **values) -> Path:
    """A folder with a deployable of drawn weights."""
    recipe = Recipe(title="t", base_model=str(base), head=head, stages=(Stage(name="all"),), **values)
    network, processor = build_network(recipe, LABELS)
    upset(network)
    save_deployable(network.eval(), processor, folder)
    return folder


@pytest.fixture(scope="module")
def exported(tiny_resnet, tiny_timm, tmp_path_factory):
    """By form: a folder with a deployable and its ONNX file."""
    bases = {"tiny-resnet": tiny_resnet, "tiny-timm": tiny_timm}
    bases["densenet121"] = timm_base(
        tmp_path_factory.mktemp("densenet"), "densenet121", 64, growth_rate=8, block_config=(2, 2)
    )
    folders = {}
    for form, (base, head) in FORMS.items():
        folders[form] = deployed(tmp_path_factory.mktemp("exported"), bases[base], head)
        difference = save_onnx(folders[form])
        assert 0 < difference < 1e-5
    return folders


def session(folder: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])


def assert_answers_as_the_deployable(folder: Path, batches=(1, 2, 5)) -> None:
    classifier, ours = load_classifier(folder), session(folder)
    size = classifier.preprocess(Image.new("RGB", (90, 70)))["pixel_values"].shape[1:]
    (taken,), given = ours.get_inputs(), ours.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("pixel_values", "tensor(float)", ["batch", *size])
    assert [output.name for output in given] == ["logits", "maps", "features"]
    assert [output.shape[:2] for output in given[:2]] == [["batch", 4]] * 2
    head = body_and_head(classifier.model)[1][0]
    assert given[2].shape == ["batch", head.weight.shape[1]]
    for batch in batches:
        pixels = torch.randn(batch, *size, generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            pooled = []
            with head.register_forward_pre_hook(lambda _, inputs, pooled=pooled: pooled.append(inputs[0].flatten(1))):
                logits = classifier.model(pixels).logits
            outputs = logits, ActivationMaps(classifier.model)(pixels)[1], pooled[0]
        for got, expected in zip(ours.run(None, {"pixel_values": pixels.numpy()}), outputs, strict=True):
            assert got.shape == expected.shape
            assert expected.abs().max() > 0.01
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("form", FORMS)
def test_logits_maps_and_features_are_the_deployables_at_any_batch_size(form, exported):
    assert_answers_as_the_deployable(exported[form])


@pytest.mark.slow
def test_inception_resnet_answers_alike_as_well(tmp_path):
    save_onnx(deployed(tmp_path / "run", timm_base(tmp_path, "inception_resnet_v2", 96), PLAIN))
    assert_answers_as_the_deployable(tmp_path / "run", batches=(1, 2))


@pytest.mark.parametrize("head", [PLAIN, HIDDEN])
def test_a_network_that_pools_no_map_has_logits_and_features(head, tmp_path):
    folder = deployed(tmp_path / "run", timm_base(tmp_path, "test_vit", 160), head)
    assert save_onnx(folder) < 1e-4
    pixels, model = torch.randn(2, 3, 160, 160), load_classifier(folder).model
    with torch.inference_mode():
        expected = model(pixels).logits
    assert [output.name for output in session(folder).get_outputs()] == ["logits", "features"]
    logits, features = session(folder).run(None, {"pixel_values": pixels.numpy()})
    again = nn.Sequential(*body_and_head(model)[1])(torch.from_numpy(features)).detach()
    for found in (logits, again):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_a_network_whose_head_is_unknown_has_logits_alone(tmp_path):
    """A transformers ViT, which is no deployable of ours."""
    values = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    ViTForImageClassification(ViTConfig(image_size=32, **values)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert save_onnx(tmp_path) < 1e-4
    assert [output.name for output in session(tmp_path).get_outputs()] == ["logits"]


@pytest.mark.parametrize("form", FORMS)
def test_the_file_is_one_and_holds_no_word_of_this_machine(form, exported):
    assert [path.name for path in (exported[form] / "onnx").iterdir()] == ["model.onnx"]
    model = onnx.load(exported[form] / "onnx" / "model.onnx")
    onnx.checker.check_model(model)
    for tensor in model.graph.initializer:
        assert tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64)
        assert tensor.data_location == onnx.TensorProto.DEFAULT
        tensor.ClearField("raw_data")
    assert not model.metadata_props and not model.doc_string and not model.graph.doc_string
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    words = model.SerializeToString()
    machine = [str(ROOT), tempfile.gettempdir(), str(Path.home()), "site-packages", ".py", "\\Users\\", "/home/"]
    assert [word for word in (*machine, f"/{getpass.getuser()}/") if word.encode() in words] == []


def test_the_same_deployable_gives_the_same_bytes_and_nothing_else_in_the_folder_changes(exported):
    folder = exported["hidden layers"]

    def digests() -> dict[str, str]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = digests()
    save_onnx(folder)
    assert digests() == before


def test_the_exporter_is_silent(exported, capfd, recwarn):
    save_onnx(exported["timm"])
    said = "".join(capfd.readouterr())
    assert not [word for word in ("onnx", "arning", "trac") if word in said.lower()]
    assert not recwarn.list


def test_an_export_that_answers_otherwise_is_refused_and_the_earlier_file_stays(exported, monkeypatch):
    folder = exported["native"]
    before = (folder / "onnx" / "model.onnx").read_bytes()
    monkeypatch.setattr(export, "ONNX_TOLERANCE", 0.0)
    with pytest.raises(RuntimeError, match=r"differ from the model's by \d.+e-\d+ of the largest.+please report this"):
        save_onnx(folder)
    assert (folder / "onnx" / "model.onnx").read_bytes() == before
    assert [path.name for path in (folder / "onnx").iterdir()] == ["model.onnx"]


def test_a_network_of_nothing_but_nan_is_refused_and_leaves_no_file(exported, tiny_resnet, tmp_path):
    folder = deployed(tmp_path / "run", tiny_resnet, PLAIN)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.1.bias"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RuntimeError, match="by nan of the largest"):
        save_onnx(folder)
    assert not [*(folder / "onnx").iterdir()]


def test_another_model_saved_in_the_folder_takes_the_earlier_ones_onnx_away(tiny_resnet, tmp_path):
    folder = deployed(tmp_path / "run", tiny_resnet, PLAIN)
    save_onnx(folder)
    deployed(folder, tiny_resnet, PLAIN)
    assert not (folder / "onnx" / "model.onnx").exists()


# The model card's lines

NO_TORCH = "import sys\nfor name in ('torch', 'torchvision', 'transformers', 'timm'):\n    sys.modules[name] = None\n"


def photo(folder: Path) -> Path:
    """A landscape on its side, as telephones write it."""
    pixels = np.stack([scene(seed) for seed in (1, 2, 3)], axis=-1)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels).save(folder / "photo.jpg", quality=95, exif=exif)
    return folder / "photo.jpg"


def run_lines(lines: str, folder: Path, **environment) -> tuple[list[float], str]:
    """Scores that the lines come to in a process of their own, and what they print."""
    code = f"{lines}\nprint(json.dumps(scores.tolist()))\n"
    options = {"cwd": folder, "capture_output": True, "text": True, "timeout": 120, "encoding": "utf-8"}
    finished = subprocess.run([sys.executable, "-X", "utf8", "-c", code], **options, **environment)
    assert finished.returncode == 0, finished.stderr[-2000:]
    printed, _, scores = finished.stdout.rstrip().rpartition("\n")
    return json.loads(scores), printed


def scores_by_pipeline(folder: Path, path: Path) -> list[float]:
    classifier = load_classifier(folder)
    found = {each["label"]: each["score"] for each in classifier(str(path), top_k=len(LABELS))}
    return [found[label] for label in classes_of(classifier)]


@pytest.mark.parametrize("form", FORMS)
def test_the_cards_lines_answer_as_pipeline_does_without_torch(form, exported, tmp_path):
    path = photo(tmp_path)
    scores, printed = run_lines(NO_TORCH + onnx_example(exported[form], exported[form]), tmp_path)
    expected = scores_by_pipeline(exported[form], path)
    assert scores == pytest.approx(expected, abs=1e-3)
    best = int(np.argmax(expected))
    assert printed.splitlines()[0] == f"{scores[best]:.1%} {LABELS[best]}"
    assert len(printed.splitlines()) == len(LABELS)


def test_of_a_repo_the_lines_fetch_what_they_need_and_not_the_weights(exported, tmp_path):
    folder, path = exported["hidden layers"], photo(tmp_path)
    with LoopbackHub() as hub:
        hub.add("alice/tiny", folder)
        environment = hub.environment(tmp_path)
        scores, _ = run_lines(NO_TORCH + onnx_example(folder, "alice/tiny"), tmp_path, env=environment)
    assert scores == pytest.approx(scores_by_pipeline(folder, path), abs=1e-3)
    fetched = {path.name for path in tmp_path.rglob("*") if "snapshots" in path.parts}
    assert "model.onnx" in fetched
    assert "model.safetensors" not in fetched


def test_preprocessing_that_a_few_lines_cannot_say_is_left_to_the_processor(tiny_timm, tmp_path, monkeypatch):
    """timm's `border` pads a picture to a square."""
    folder, path = deployed(tmp_path / "run", tiny_timm, PLAIN), photo(tmp_path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["pretrained_cfg"]["crop_mode"] = "border"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_onnx(folder)
    lines = onnx_example(folder, folder)
    assert "AutoImageProcessor" in lines
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(lines, names)
    assert names["scores"] == pytest.approx(scores_by_pipeline(folder, path), abs=1e-4)
