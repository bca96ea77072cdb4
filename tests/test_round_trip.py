"""A few steps of training, a push, and a stranger who has never seen this repository: the run's own answers.

Each recipe's head on its own kind of base model; `slow` with the real architectures.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import ROOT, write_photo
from loopback_hub import LoopbackHub
from PIL import Image
from safetensors.torch import save_file
from test_export import timm_base
from test_onnx import assert_answers_as_the_deployable
from torch import nn
from visits import ask, bare, bare_python, golden_files, largest_difference, question

from hub_utils.export import NATIVE_BODY
from hub_utils.portable.classifier import load_classifier, logits_of, probabilities_of
from hub_utils.portable.golden import golden_images
from training.data.source import Folder
from training.fitting.fit import Options, fit
from training.recipe import FromConfig, Linear, Recipe, ReLU, Stage, load_recipe, recipe_names
from training.run_folder import RunFolder

TOKEN = "hf_alice"
CLASSES = ("[Malignant] early Pre-B", "Gänseblümchen", "a, b; c", "日本 🌼")  # as many as `test_onnx` has
DEPLOYED = {"native": "ResNetForImageClassification", "timm": "TimmWrapperForImageClassification"}
CUSTOM = "BackboneWithHeadForImageClassification"


@dataclass(frozen=True)
class Pushed:
    """A run, and where it is on the Hub."""

    recipe: Recipe
    run: Path
    commit: str

    @property
    def custom(self) -> bool:
        return sum(isinstance(layer, Linear | ReLU) for layer in self.recipe.head) > 1

    @property
    def kind(self) -> str:
        return kind_of(load_recipe(self.recipe.name))


def kind_of(recipe: Recipe) -> str:
    """What is trained: one of transformers' own networks, or one of timm's."""
    base = recipe.base_model
    native = (isinstance(base, FromConfig) and base.model_type in NATIVE_BODY) or base == "microsoft/resnet-50"
    return "native" if native else "timm"


def train(
    names: list[str], bases: Mapping[str, str], size: int | None, folder: Path, rate: float = 1e-2
) -> dict[str, RunFolder]:
    """A run of each recipe, of an epoch of few steps on 24 pictures; `bases` by what a base model is called."""
    for number in range(24):
        write_photo(folder / "photos" / CLASSES[number % 4] / f"{number}.png", number % 4 / 4, number, (60, 44))
    fast = {"num_train_epochs": 1, "learning_rate": rate, "lr_scheduler_type": "constant"}
    stages = (Stage(name="all", batch_size=4, arguments=fast),)
    runs = {}
    for name in names:
        recipe = replace(load_recipe(name), stages=stages, name=name)
        recipe = replace(recipe, card=replace(recipe.card, positive=()))  # these classes are others
        if isinstance(recipe.base_model, str):
            sized = {"image_size": recipe.image_size and (size or recipe.image_size)}
            recipe = replace(recipe, base_model=bases[recipe.base_model], **sized)
        runs[name] = RunFolder(folder / "runs" / name)
        one_core = Options(threads=1)  # two that wait for each other are slower where other tests run
        fit(recipe, Folder(folder / "photos"), runs[name], one_core, ["--bf16", "false", "--use_cpu"])
    return runs


PUSH = """
import json, sys
from pathlib import Path
from hub_utils.push import push
how = {"without_results": True, "verify": False, "say": lambda line: None}
print(json.dumps({run.name: push(run, f"alice/{run.name}", **how) for run in map(Path, sys.argv[1:])}))
"""


def push(hub: LoopbackHub, runs: Mapping[str, RunFolder], folder: Path) -> dict[str, Pushed]:
    """The one place where runs go to the Hub, by the command's own function."""
    environment = hub.environment(folder / "pusher", TOKEN) | {"PYTHONPATH": str(ROOT)}
    paths = [str(run.path) for run in runs.values()]
    done = subprocess.run(
        [sys.executable, "-c", PUSH, *paths], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    commits = json.loads(done.stdout.splitlines()[-1])
    return {name: Pushed(load_recipe(name), run.path, commits[name]) for name, run in runs.items()}


def visit(hub: LoopbackHub, pushed: Mapping[str, Pushed], python: Path, photos: list[str], folder: Path) -> dict:
    """What a stranger is told, by the recipe's name; code is trusted only where there is some."""
    questions = []
    for name, each in pushed.items():
        trust = {"trust_remote_code": True} if each.custom else {}
        questions.append(question(f"alice/{name}", photos, revision=each.commit, **trust))
    answers = ask(python, questions, folder, hub.environment(folder / "visitor home", TOKEN))
    return dict(zip(pushed, answers, strict=True))


def check(pushed: Pushed, answer: dict, photos: list[str]) -> None:
    """The stranger has the run's own probabilities of the golden images, and of photographs as it was trained on."""
    assert "error" not in answer, answer["error"]
    assert answer["class"] == (CUSTOM if pushed.custom else DEPLOYED[pushed.kind])
    assert (answer["missing"], answer["unexpected"], answer["labels"]) == ([], [], sorted(CLASSES))
    golden = len(answer["probabilities"]) - 2
    assert largest_difference(pushed.run, answer["probabilities"][:golden]) <= 1e-5
    assert largest_difference(pushed.run, answer["onnx_probabilities"][:golden]) <= 1e-4
    classifier = load_classifier(pushed.run)
    images = [Image.open(path) for path in photos[golden:]]
    ours = probabilities_of(classifier, np.stack(list(logits_of(classifier, images))))
    np.testing.assert_allclose(answer["probabilities"][golden:], ours, rtol=0, atol=1e-5)
    np.testing.assert_allclose(answer["onnx_probabilities"][golden:], ours, rtol=0, atol=1e-4)
    assert np.ptp(answer["probabilities"], axis=0).max() > 1e-3  # it tells pictures apart


@pytest.fixture(scope="module")
def bases(tiny_resnet, tiny_timm, tmp_path_factory) -> dict[str, str]:
    """A tiny network in the place of each base model."""
    densenet = timm_base(tmp_path_factory.mktemp("base"), "densenet121", 32, growth_rate=8, block_config=(2, 2))
    return {
        "microsoft/resnet-50": str(tiny_resnet),
        "timm/densenet201.tv_in1k": densenet,
        "timm/inception_resnet_v2.tf_in1k": str(tiny_timm),
    }


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub(tokens={TOKEN: "alice"}) as hub:
        yield hub


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Path:
    return bare_python(tmp_path_factory.mktemp("stranger") / "venv")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[str]:
    """Paths of the golden images, and of two pictures beside."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(2):
        write_photo(folder / f"{number}.png", number / 3, 100 + number, (50 + 30 * number, 70))
    return [*golden_files(folder / "golden"), str(folder / "0.png"), str(folder / "1.png")]


@pytest.fixture(scope="module")
def pushed(bases, hub, tmp_path_factory) -> dict[str, Pushed]:
    folder = tmp_path_factory.mktemp("trained")
    return push(hub, train(recipe_names(), bases, 40, folder), folder)


@pytest.fixture(scope="module")
def answers(hub, pushed, stranger, photos, tmp_path_factory) -> dict:
    return visit(hub, pushed, stranger, photos, tmp_path_factory.mktemp("visit"))


def test_every_recipe_is_here():
    assert len(recipe_names()) == 11
    assert {kind_of(load_recipe(name)) for name in recipe_names()} == {"native", "timm"}


@pytest.mark.parametrize("name", recipe_names())
def test_a_stranger_gets_the_runs_probabilities(name, pushed, answers, photos):
    check(pushed[name], answers[name], photos)


@pytest.mark.parametrize("name", recipe_names())
def test_code_goes_along_for_hidden_layers_and_for_nothing_else(name, pushed, hub):
    files = hub.files(f"alice/{name}", revision=pushed[name].commit)
    config = json.loads(files["config.json"])
    code = [path for path in files if path.endswith(".py")]
    if pushed[name].custom:
        assert code == ["modeling_backbone_with_head.py"]
        assert config["auto_map"] == {
            "AutoConfig": "modeling_backbone_with_head.BackboneWithHeadConfig",
            "AutoModelForImageClassification": f"modeling_backbone_with_head.{CUSTOM}",
        }
    else:
        assert code == [] and "auto_map" not in config
        assert config["architectures"] == [DEPLOYED[pushed[name].kind]]
    assert "preprocessor_config.json" in files or config["model_type"] == "timm_wrapper"


@pytest.mark.parametrize("name", recipe_names())
def test_onnx_has_logits_and_maps_at_any_batch_size(name, pushed):
    assert_answers_as_the_deployable(pushed[name].run)


BY_TIMM = """
import json, sys
import timm, torch
from PIL import Image
answers = {}
for name in json.loads(sys.argv[1]):
    model = timm.create_model(f"hf-hub:{name}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    images = [Image.open(path).convert("RGB") for path in json.loads(sys.argv[2])]
    with torch.inference_mode():
        logits = torch.cat([model(transform(image)[None]) for image in images])
    answers[name] = torch.softmax(logits.double(), 1).tolist()
print(json.dumps(answers))
"""


def test_timm_itself_loads_what_is_its_own_network_from_the_hub(pushed, hub, stranger, photos, tmp_path):
    names = [name for name, each in pushed.items() if each.kind == "timm" and not each.custom]
    assert sorted(names) == ["breast_cancer", "dog_breeds"]
    repos, golden = json.dumps([f"alice/{name}" for name in names]), json.dumps(photos[:-2])
    environment = bare(hub.environment(tmp_path / "home", TOKEN))
    done = subprocess.run(
        [stranger, "-c", BY_TIMM, repos, golden], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for repo, probabilities in json.loads(done.stdout).items():
        assert largest_difference(pushed[repo.partition("/")[2]].run, probabilities) <= 1e-5


def test_nobody_else_gets_in_and_no_token_stands_anywhere(pushed, hub, stranger, photos, tmp_path):
    name = next(iter(pushed))
    asked = [question(f"alice/{name}", photos[:1], revision=pushed[name].commit)]
    [refused] = ask(stranger, asked, tmp_path, hub.environment(tmp_path / "home"))
    assert "error" in refused
    for each in pushed:
        for path, content in hub.files(f"alice/{each}").items():
            assert TOKEN.encode() not in content, path


# The real architectures

REAL = {  # with recipes that stand on them: a head that folds, and one with hidden layers
    "microsoft/resnet-50": {"leukemia": "ResNetForImageClassification", "flowers": CUSTOM},
    "timm/densenet201.tv_in1k": {"breast_cancer": "TimmWrapperForImageClassification", "flowers_densenet": CUSTOM},
    "timm/inception_resnet_v2.tf_in1k": {"dog_breeds": "TimmWrapperForImageClassification"},
}
GENTLE = 1e-4  # a learning rate for them


def real_base(name: str, folder: Path) -> str:
    """The base model's architecture and preprocessing, with random weights; no network is needed."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    folder.mkdir()
    torch.manual_seed(0)
    if name == "microsoft/resnet-50":
        model = settle(ResNetForImageClassification(ResNetConfig(num_labels=7)), 224)
        model.save_pretrained(folder)
        ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875, resample=3).save_pretrained(folder)
        return str(folder)
    architecture = name.partition("/")[2].partition(".")[0]
    model = timm.create_model(architecture, num_classes=7)
    values = {**model.pretrained_cfg, "num_classes": 7}
    settle(model, values["input_size"][1])
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    config = {"architecture": architecture, "num_classes": 7, "pretrained_cfg": values}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    return str(folder)


def settle(model: nn.Module, size: int) -> nn.Module:
    """Give BatchNorm the statistics of what these weights make of pictures; without, every answer would be 0 or 1."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    pictures = [image.convert("RGB").resize((size, size)) for image in golden_images().values()]
    pixels = torch.stack([torch.from_numpy(np.asarray(each) / 127.5 - 1).permute(2, 0, 1).float() for each in pictures])
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(pixels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("base", REAL)
def test_the_real_architectures_answer_a_stranger_alike(base, hub, stranger, photos, tmp_path):
    runs = train(list(REAL[base]), {base: real_base(base, tmp_path / "base")}, None, tmp_path, GENTLE)
    there = push(hub, runs, tmp_path)
    answers = visit(hub, there, stranger, photos, tmp_path)
    golden = len(photos) - 2
    for name, each in there.items():
        found = answers[name]
        check(each, found, photos)
        assert found["class"] == REAL[base][name]
        print(
            f"\n{base}, head of {name}: {found['shapes'][0][2]} pixels, {found['class']}: golden answers differ by",
            f"{largest_difference(each.run, found['probabilities'][:golden]):.1e} and through ONNX by",
            f"{largest_difference(each.run, found['onnx_probabilities'][:golden]):.1e}",
        )
