"""What is deployed answers as what was trained: the head folded, saved, and loaded as a stranger would load it."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from killing import left_by_the_dead
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import BatchNorm1d, Dropout, Linear, ReLU

from hub_utils.export import fold_head, save_deployable
from hub_utils.portable.classifier import load_classifier
from hub_utils.portable.modeling_backbone_with_head import build_layer
from training import recipe as recipes
from training.data.transforms import Preprocessing
from training.fitting.network import build_network, head_layers
from training.recipe import Recipe, Stage, load_recipe, recipe_names

LABELS = ["[Malignant] early Pre-B", "Gänseblümchen", 'a, b: "c" \\d', "日本 🌼"]
HIDDEN = (recipes.BatchNorm(), recipes.Linear(8), recipes.ReLU(), recipes.Dropout(0.5), recipes.Linear())
PLAIN = (recipes.Dropout(0.5), recipes.BatchNorm(), recipes.Linear())
FORMS = {
    "native": (PLAIN, "ResNetForImageClassification", {"config.json", "model.safetensors", "preprocessor_config.json"}),
    "timm": (PLAIN, "TimmWrapperForImageClassification", {"config.json", "model.safetensors"}),
    "custom-native": (HIDDEN, "BackboneWithHeadForImageClassification", None),
    "custom-timm": (HIDDEN, "BackboneWithHeadForImageClassification", None),
}


def upset(module: nn.Module, seed: int = 0) -> None:
    """Weights and statistics as after training: nothing at 0 or 1, where a mistake in folding would not show."""
    draw = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for values, low, high in ((layer.weight, 0.2, 2), (layer.bias, -1, 1), (layer.running_mean, -3, 3)):
                values.data.uniform_(low, high, generator=draw)
            layer.running_var.uniform_(0.05, 9, generator=draw)
        elif isinstance(layer, nn.Linear):
            layer.weight.data.normal_(0, 0.5, generator=draw)
            layer.bias.data.normal_(generator=draw)


# Folding


def assert_folds_exactly(head: nn.Sequential, width: int, temperature: float = 1.0) -> nn.Sequential:
    """The folded head's float32 weights are the nearest to what float64 says, and it answers alike."""
    upset(head)
    head.eval()
    folded = fold_head(head, temperature)
    assert {type(layer) for layer in folded} <= {Linear, ReLU}
    assert not folded.training and {p.dtype for p in folded.parameters()} == {torch.float32}
    features = torch.randn(64, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, got = head.double()(features) / temperature, folded.double()(features)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-6 * expected.abs().max().item())
    return folded


ODD = {
    "one linear": (Linear(6, 3),),
    "BatchNorm, Dropout, Linear": (BatchNorm1d(6), Dropout(0.5), Linear(6, 3)),
    "BatchNorm after Linear": (Linear(6, 3), BatchNorm1d(3)),
    "BatchNorm twice": (BatchNorm1d(6), BatchNorm1d(6, eps=1e-3), Linear(6, 3)),
    "two Linears in a row": (Linear(6, 5), Linear(5, 3)),
    "BatchNorm between two Linears": (Linear(6, 5), BatchNorm1d(5), Dropout(0.1), Linear(5, 3)),
    "BatchNorm before ReLU": (Linear(6, 5), BatchNorm1d(5), ReLU(), Linear(5, 3)),
    "BatchNorm directly before the first ReLU": (BatchNorm1d(6), ReLU(), Linear(6, 3)),
    "BatchNorm after ReLU": (Linear(6, 5), ReLU(), BatchNorm1d(5), Linear(5, 3)),
    "ReLU first": (ReLU(), Linear(6, 3)),
    "ReLU twice": (Linear(6, 5), ReLU(), Dropout(0.2), ReLU(), Linear(5, 3)),
    "everything": (
        *(BatchNorm1d(6), Linear(6, 8), BatchNorm1d(8), ReLU(), Dropout(0.3)),
        *(
            BatchNorm1d(8),
            Linear(8, 4),
            Linear(4, 8),
            ReLU(),
            BatchNorm1d(8),
            Dropout(0.3),
            Linear(8, 3),
            BatchNorm1d(3),
        ),
    ),
}


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("name", ODD)
def test_a_head_folds_to_its_linear_layers_and_relus(name, temperature):
    folded = assert_folds_exactly(nn.Sequential(*ODD[name]), 6, temperature)
    if name == "BatchNorm directly before the first ReLU":
        return  # which takes a Linear layer of its own
    kept = [type(layer) for layer in ODD[name] if isinstance(layer, (Linear, ReLU))]
    assert [type(layer) for layer in folded] == kept


def test_what_lies_between_two_linear_layers_can_be_looked_at():
    head = nn.Sequential(BatchNorm1d(6), Linear(6, 2), BatchNorm1d(2), Linear(2, 3))
    folded = assert_folds_exactly(head, 6)
    assert [layer.out_features for layer in folded] == [2, 3]
    features = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(folded[0](features), head[:3](features), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", recipe_names())
def test_the_head_of_every_recipe_folds(name):
    recipe = load_recipe(name)
    head = nn.Sequential(*(build_layer(layer) for layer in head_layers(recipe, 32, 5)))
    folded = assert_folds_exactly(head, 32)
    assert len(folded) == sum(isinstance(layer, recipes.Linear | recipes.ReLU) for layer in recipe.head)


def test_folding_leaves_the_head_as_it_was():
    head = nn.Sequential(BatchNorm1d(6), Linear(6, 3))
    upset(head)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    fold_head(head, temperature=2.0)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    assert head.training


@pytest.mark.parametrize("layers", [(Linear(6, 3), ReLU()), (Dropout(0.5),), (Linear(6, 3), nn.Sigmoid())])
def test_what_cannot_be_folded_is_refused(layers):
    with pytest.raises(ValueError, match=r"must end in a Linear|Sigmoid cannot be folded"):
        fold_head(nn.Sequential(*layers))


# Saving and loading


def noise(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype="uint8"))


def softmax(logits: torch.Tensor) -> dict[str, float]:
    return dict(zip(LABELS, torch.softmax(logits.double(), -1).tolist(), strict=True))


@pytest.fixture(scope="module")
def trained(tiny_resnet, tiny_timm):
    """By form: network in training form, its processor."""
    made = {}
    for form, (head, _, _) in FORMS.items():
        base = tiny_timm if "timm" in form else tiny_resnet
        recipe = Recipe(title="t", base_model=str(base), head=head, stages=(Stage(name="all"),))
        network, processor = build_network(recipe, LABELS)
        upset(network)
        made[form] = network.eval(), processor
    return made


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    """By form: the folder of what is deployed."""
    folders = {form: tmp_path_factory.mktemp("deployed") / form for form in FORMS}
    for form, (network, processor) in trained.items():
        save_deployable(network, processor, folders[form])
    return folders


def check_same_logits(network, deployed, pixels, temperature=1.0):
    with torch.inference_mode():
        expected, got = network(pixels).logits, deployed.eval()(pixels).logits * temperature
    assert expected.abs().max() > 0
    assert (expected - got).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("form", FORMS)
def test_a_temperature_is_folded_into_the_weights(form, trained, tmp_path):
    network, processor = trained[form]
    save_deployable(network, processor, tmp_path, temperature=2.5)
    check_same_logits(network, load_classifier(tmp_path).model, torch.randn(4, 3, 32, 32), 2.5)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_loaded_again_answers_as_what_was_trained(form, trained, saved):
    network, processor = trained[form]
    classifier = load_classifier(saved[form])
    assert type(classifier.model).__name__ == FORMS[form][1]
    check_same_logits(network, classifier.model, torch.randn(15, 3, 32, 32))
    for image in (noise(40, 32, 1), noise(33, 91, 2)):
        pixels = Preprocessing(processor)(image)
        assert torch.equal(Preprocessing(classifier.image_processor)(image), pixels)
        with torch.inference_mode():
            expected = softmax(network(pixels[None]).logits[0])
        got = {each["label"]: each["score"] for each in classifier(image, top_k=None)}
        assert got == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_folder_holds_what_pipeline_needs_and_nothing_of_this_machine(form, saved, tiny_resnet):
    custom = {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_backbone_with_head.py"}
    assert {path.name for path in saved[form].iterdir()} == (FORMS[form][2] or custom)
    for path in saved[form].glob("*.json"):
        assert str(tiny_resnet.parent.parent) not in path.read_text(encoding="utf-8")
    config = json.loads((saved[form] / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == [FORMS[form][1]]
    names = config["label_names"] if form == "timm" else [config["id2label"][str(index)] for index in range(4)]
    assert names == LABELS


# A process of a stranger: nothing of this project can be imported there.
STRANGER = """
import json, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path = [path for path in sys.path if "__editable__" not in path]
for name in ("hub_utils", "training"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")
from PIL import Image
from transformers import pipeline
answers = {}
for form, folder in json.loads(sys.argv[1]).items():
    options = {}
    if form.startswith("custom"):
        try:
            pipeline("image-classification", model=folder, trust_remote_code=False)
        except ValueError as error:
            assert "trust_remote_code" in str(error)
            options["trust_remote_code"] = True
    classifier = pipeline("image-classification", model=folder, **options)
    found = classifier(Image.open(sys.argv[2]), top_k=None)
    answers[form] = [type(classifier.model).__name__, {each["label"]: each["score"] for each in found}]
print(json.dumps(answers))
"""


def test_a_stranger_gets_the_same_answers_with_remote_code_only_for_hidden_layers(saved, tmp_path):
    image = noise(50, 37, 3)
    image.save(tmp_path / "photo.png")
    folders = json.dumps({form: str(folder) for form, folder in saved.items()})
    command = [sys.executable, "-I", "-c", STRANGER, folders, str(tmp_path / "photo.png")]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr[-2000:]
    answers = json.loads(finished.stdout)
    for form, folder in saved.items():
        ours = {each["label"]: each["score"] for each in load_classifier(folder)(image, top_k=None)}
        name, theirs = answers[form]
        assert name == FORMS[form][1]
        assert theirs == pytest.approx(ours, abs=1e-6)


def test_timm_itself_loads_what_was_deployed_of_timm(saved, trained):
    network, processor = trained["timm"]
    model = timm.create_model(f"local-dir:{saved['timm']}", pretrained=True).eval()
    pixels = Preprocessing(processor)(noise(40, 32, 1))[None]
    with torch.inference_mode():
        expected, got = network(pixels).logits, model(pixels)
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    assert torch.equal(transform(noise(40, 32, 1))[None], pixels)


def test_sizes_that_a_recipe_changes_are_deployed_with_the_model(tiny_timm, tiny_resnet, tmp_path):
    for number, (base, head) in enumerate(itertools.product((tiny_timm, tiny_resnet), (PLAIN, HIDDEN))):
        values = {"title": "t", "head": head, "stages": (Stage(name="all"),), "image_size": 48, "resize": "squash"}
        network, processor = build_network(Recipe(base_model=str(base), **values), LABELS)
        save_deployable(network, processor, tmp_path / str(number))
        image = noise(90, 40, 1)
        deployed = Preprocessing(load_classifier(tmp_path / str(number)).image_processor)(image)
        assert deployed.shape == (3, 48, 48)
        assert torch.equal(deployed, Preprocessing(processor)(image))


def timm_base(folder, architecture: str, size: int, **model_args) -> str:
    """A base model of random weights in timm's layout."""
    model = timm.create_model(architecture, num_classes=7, **model_args)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    cfg = {
        "input_size": [3, size, size],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    config = {"architecture": architecture, "num_classes": 7, "pretrained_cfg": cfg, "model_args": model_args}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize("head", [PLAIN, HIDDEN])
@pytest.mark.parametrize(
    ("architecture", "model_args"),
    [
        ("dpn48b", {}),  # its classifier is a convolution
        (
            "swin_tiny_patch4_window7_224",
            {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "img_size": 32, "window_size": 4},
        ),
    ],  # swin's buffers are not in its weights, and have to be made anew when it is loaded
)
def test_timm_networks_of_other_kinds_deploy_as_well(tmp_path, architecture, model_args, head):
    base = timm_base(tmp_path, architecture, 32, **model_args)
    network, processor = build_network(Recipe(title="t", base_model=base, head=head, stages=(Stage(name="a"),)), LABELS)
    save_deployable(network.eval(), processor, tmp_path / "run")
    check_same_logits(network, load_classifier(tmp_path / "run").model, torch.randn(2, 3, 32, 32))


# Dying while saving


class Dying:
    """An image processor during whose saving the power fails."""

    def save_pretrained(self, folder):
        raise KeyboardInterrupt


def test_an_interrupted_save_leaves_the_earlier_model_whole(trained, tmp_path):
    network, processor = trained["native"]
    save_deployable(network, processor, tmp_path)
    (tmp_path / "recipe.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        save_deployable(trained["custom-native"][0], Dying(), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_killed_save_left_behind_goes_with_the_next_one(trained, tmp_path):
    left = left_by_the_dead(tmp_path / "model")
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    save_deployable(*trained["timm"], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_a_model_of_another_form_leaves_nothing_behind_that_would_speak_for_the_new_one(trained, tmp_path):
    """A preprocessor_config.json left beside a timm network would win over timm's own values on the Hub."""
    (tmp_path / "recipe.json").write_text("{}")
    save_deployable(*trained["custom-native"], tmp_path)
    save_deployable(*trained["timm"], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "recipe.json"}
    assert len(load_file(tmp_path / "model.safetensors")) > 10
