"""A recipe's network from every kind of base model: its size, its pixels, what moves in training and what does not."""

import dataclasses
import json
import shutil
import time

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from training.data.transforms import Preprocessing
from training.fitting.network import base_model_facts, build_network, describe, head_layers, last_stage, set_trainable
from training.recipe import BatchNorm, Dropout, FromConfig, Linear, Recipe, ReLU, Stage, UserError

HIDDEN = (Linear(8), ReLU(), Dropout(0.5), Linear())
LABELS = ["cat", "dog", "eel"]
RANDOM = FromConfig("resnet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, image_size=32)


def recipe(base_model, **changes) -> Recipe:
    """A recipe of one linear layer, changed."""
    values = {"title": "t", "head": (Linear(),), "stages": (Stage(name="all"),)}
    return Recipe(base_model=base_model if isinstance(base_model, FromConfig) else str(base_model), **values | changes)


def edit(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype="uint8"))


@pytest.fixture(params=["native", "timm", "config"])
def base(request, tiny_resnet, tiny_timm):
    return {"native": tiny_resnet, "timm": tiny_timm, "config": RANDOM}[request.param]


@pytest.fixture
def copy_of(tmp_path):
    return lambda folder: shutil.copytree(folder, tmp_path / "base-model")


def error(*arguments) -> str:
    with pytest.raises(UserError) as caught:
        build_network(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("head", [(Linear(),), HIDDEN, (BatchNorm(), Dropout(0.2), Linear())])
def test_a_network_gives_a_logit_for_each_class(base, head):
    network, processor = build_network(recipe(base, head=head), LABELS)
    pixels = Preprocessing(processor)(noise(40, 32))
    assert pixels.shape == (3, 32, 32)
    assert network.eval()(pixels[None]).logits.shape == (1, 3)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert network.config.id2label == dict(enumerate(LABELS))


def test_the_body_has_the_base_models_weights_and_the_old_head_is_gone(tiny_resnet, tiny_timm):
    native, _ = build_network(recipe(tiny_resnet), LABELS)
    stored = load_file(tiny_resnet / "model.safetensors")
    body = native.backbone.state_dict()
    assert all(torch.equal(body[name.removeprefix("resnet.")], stored[name]) for name in stored if "resnet." in name)

    timms, _ = build_network(recipe(tiny_timm), LABELS)
    stored = load_file(tiny_timm / "model.safetensors")
    body = timms.backbone.timm_model.state_dict()
    assert stored.keys() - body.keys() == {"fc.weight", "fc.bias"}
    assert all(torch.equal(body[name], stored[name]) for name in body)


def test_the_head_is_drawn_from_the_recipes_seed_alone(base):
    torch.manual_seed(1)
    first, _ = build_network(recipe(base, head=HIDDEN), LABELS)
    torch.manual_seed(2)
    again, _ = build_network(recipe(base, head=HIDDEN), LABELS)
    other, _ = build_network(recipe(base, head=HIDDEN, seed=7), LABELS)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first.head[0].weight, other.head[0].weight)


def test_linear_layers_start_as_keras_starts_them(tiny_resnet):
    network, _ = build_network(recipe(tiny_resnet, head=(Linear(2000), ReLU(), Linear())), LABELS)
    weight = network.head[0].weight  # Glorot's uniform distribution
    assert weight.abs().max().item() <= (6 / (16 + 2000)) ** 0.5
    assert weight.std().item() == pytest.approx((2 / (16 + 2000)) ** 0.5, rel=0.02)
    assert not network.head[0].bias.any()


def test_widths_follow_one_another_through_the_head():
    head = (BatchNorm(), Linear(8), ReLU(), Dropout(0.3), BatchNorm(momentum=0.1, epsilon=1e-5), Linear())
    assert head_layers(recipe("any", head=head), 16, 3) == [
        {"type": "batch_norm", "num_features": 16, "momentum": 0.01, "eps": 1e-3},
        {"type": "linear", "in_features": 16, "out_features": 8},
        {"type": "relu"},
        {"type": "dropout", "p": 0.3},
        {"type": "batch_norm", "num_features": 8, "momentum": 0.1, "eps": 1e-5},
        {"type": "linear", "in_features": 8, "out_features": 3},
    ]


# What moves


def step(network: torch.nn.Module, pixels: torch.Tensor) -> None:
    """One step as Trainer takes it: `train()` before each, and only what is trainable in the optimiser."""
    moving = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(moving, lr=1.0)
    network.train()
    network(pixels, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    optimiser.step()


@pytest.mark.parametrize("trainable", ["head", "all", "last_stage"])
def test_only_what_a_stage_trains_moves_batch_norm_statistics_included(base, trainable):
    network, _ = build_network(recipe(base, head=(BatchNorm(), Linear())), LABELS)
    set_trainable(network, trainable)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step(network, torch.randn(4, 3, 32, 32))
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    head = {name for name in before if name.startswith("head.")}
    assert {"head.0.running_mean", "head.0.num_batches_tracked", "head.1.weight"} <= moved
    assert (moved - head == set()) == (trainable == "head")
    counts = {name for name in before if name.endswith("num_batches_tracked")} - head
    assert counts
    assert counts <= moved if trainable == "all" else not counts & moved
    if trainable == "last_stage":
        norms = {name.removesuffix("num_batches_tracked") for name in counts}
        still = {name for name in before if any(name.startswith(norm) for norm in norms)}
        last = {f"backbone.{name}" for name in last_stage(network.backbone)}
        assert set() < moved - head <= last - still  # timm begins with some weights of 0, behind which nothing moves


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("densenet121", "features.transition3.norm.weight", "features.norm5.bias"),
        ("inception_resnet_v2", "mixed_7a.branch0.0.conv.weight", "conv2d_7b.bn.bias"),
        ("resnet18", "layer4.0.conv1.weight", "layer4.1.bn2.bias"),
        ("vgg11", "pre_logits.fc1.weight", "pre_logits.fc2.bias"),
    ],
)
def test_the_last_stage_of_timms_networks_begins_where_their_pictures_are_made_small_for_the_last_time(
    name, first, last
):
    from transformers import TimmWrapperConfig, TimmWrapperModel

    with torch.device("meta"):
        body = TimmWrapperModel(TimmWrapperConfig(architecture=name, do_pooling=True))
    names = last_stage(body)
    assert (names[0], names[-1]) == (f"timm_model.{first}", f"timm_model.{last}")


def test_the_last_stage_of_a_resnet_is_its_last_and_of_a_network_without_stages_all(tiny_resnet):
    body = AutoModel.from_pretrained(tiny_resnet)
    assert all(name.startswith("encoder.stages.") for name in last_stage(body))
    assert {name.split(".")[2] for name in last_stage(body)} == {str(len(body.encoder.stages) - 1)}
    body.encoder.stages = None
    assert last_stage(body) == [name for name, _ in body.named_parameters()]


def test_a_frozen_body_stands_still_even_in_layers_without_parameters():
    """Dropout and BatchNorm without scale have nothing that could be frozen, and would go on all the same."""
    network, _ = build_network(recipe(RANDOM), LABELS)
    network.backbone.add_module(
        "extra", torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.BatchNorm2d(3, affine=False))
    )
    set_trainable(network, "head")
    network.train()
    assert not any(module.training for module in network.backbone.modules())
    assert network.head.training
    set_trainable(network, "all")
    network.train()
    assert all(module.training for module in network.modules())


# What is seen


def black_share(processor) -> float:
    """Of a picture twice as wide as high, black in its middle half: 1 if cropped, 0.5 if squashed."""
    oblong = Image.new("RGB", (1200, 600), "white")
    oblong.paste("black", (300, 0, 900, 600))
    return (Preprocessing(processor).geometry(oblong) < 128).float().mean().item()


def assert_within_a_level(stock, own, image: Image.Image) -> None:
    """At most a byte's level apart; where an odd number of pixels is cut off, one more may go on the other side."""
    stock, own = (Preprocessing(processor).geometry(image).int() for processor in (stock, own))
    moved = {
        (x, y): (stock.roll((-y, -x), (1, 2)) - own)[:, :-1, :-1].abs().max().item() for x in (0, 1) for y in (0, 1)
    }
    assert min(moved.values()) <= 1


@pytest.mark.parametrize("own", [32, 384])
@pytest.mark.parametrize("image_size", [None, 48, 448])
@pytest.mark.parametrize("resize", [None, "crop", "squash"])
def test_a_native_base_model_is_cropped_or_squashed_as_the_recipe_or_else_the_base_says(
    copy_of, tiny_resnet, own, image_size, resize
):
    """ConvNext's processor, as it is, crops below 384 pixels and squashes from there on, whatever was asked for."""
    folder = copy_of(tiny_resnet)
    edit(folder / "preprocessor_config.json", size={"shortest_edge": own})
    _, processor = build_network(recipe(folder, image_size=image_size, resize=resize), LABELS)
    crops = (resize or ("crop" if own < 384 else "squash")) == "crop"
    assert Preprocessing(processor).geometry(noise(9, 9)).shape == (3, image_size or own, image_size or own)
    assert black_share(processor) == pytest.approx(1.0 if crops else 0.5, abs=0.02)


@pytest.mark.parametrize("size", [(100, 70), (33, 80), (64, 64)])
def test_another_size_keeps_the_share_that_the_base_model_cuts_off(tiny_resnet, size):
    from transformers import ConvNextImageProcessor

    _, processor = build_network(recipe(tiny_resnet, image_size=48), LABELS)
    expected = ConvNextImageProcessor(size={"shortest_edge": 48}, crop_pct=0.875, resample=2)
    assert_within_a_level(processor, expected, noise(*size))
    assert (processor.image_mean, processor.image_std) == (expected.image_mean, expected.image_std)


def test_the_base_models_own_preprocessing_is_kept_where_the_recipe_asks_for_nothing_else(tiny_resnet):
    for changes in ({}, {"image_size": 32}, {"resize": "crop"}, {"image_size": 32, "resize": "crop"}):
        _, processor = build_network(recipe(tiny_resnet, **changes), LABELS)
        assert type(processor).__name__ == "ConvNextImageProcessor"


def test_a_network_from_random_weights_follows_the_recipe_as_well():
    _, processor = build_network(recipe(RANDOM, image_size=48, resize="crop"), LABELS)
    assert Preprocessing(processor).geometry(noise(9, 9)).shape == (3, 48, 48)
    assert black_share(processor) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("head", [(Linear(),), HIDDEN])
@pytest.mark.parametrize("image_size", [None, 48])
@pytest.mark.parametrize("resize", [None, "crop", "squash"])
@pytest.mark.parametrize("own", ["center", "squash"])
def test_a_timm_base_model_is_cropped_or_squashed_as_the_recipe_or_else_the_base_says(
    copy_of, tiny_timm, own, image_size, resize, head
):
    folder = copy_of(tiny_timm)
    cfg = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    edit(folder / "config.json", pretrained_cfg=cfg | {"crop_mode": own})
    network, processor = build_network(recipe(folder, image_size=image_size, resize=resize, head=head), LABELS)
    crops = (resize or {"center": "crop"}.get(own, own)) == "crop"
    size = image_size or 32
    assert Preprocessing(processor).geometry(noise(9, 9)).shape == (3, size, size)
    kept = 0.9 if resize is None or crops else 1.0  # of the picture's middle, where the base's own share holds
    assert black_share(processor) == pytest.approx(1.0 if crops else 0.5 / kept, abs=0.03)
    assert network.config.backbone["pretrained_cfg"]["input_size"] == [3, size, size]


@pytest.mark.parametrize("size", [(100, 70), (33, 80), (64, 64), (20, 31)])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"image_size": 48},
        {"resize": "squash"},
        {"own": {"crop_mode": "squash"}},
        {"own": {"interpolation": "bilinear", "crop_pct": 1.0}},
        {"own": {"interpolation": "bilinear", "crop_pct": 0.95, "input_size": [3, 33, 33]}},
    ],
)
def test_hidden_layers_on_timm_see_through_a_stock_processor_what_timms_own_shows(copy_of, tiny_timm, values, size):
    folder = copy_of(tiny_timm)
    cfg = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    edit(folder / "config.json", pretrained_cfg=cfg | values.get("own", {}))
    changes = {name: value for name, value in values.items() if name != "own"}
    _, timms = build_network(recipe(folder, **changes), LABELS)
    _, stock = build_network(recipe(folder, head=HIDDEN, **changes), LABELS)
    assert (type(timms).__name__, hasattr(stock, "data_config")) == ("TimmWrapperImageProcessor", False)
    assert_within_a_level(stock, timms, noise(*size))


# What cannot be


def test_a_base_model_without_some_of_its_weights_is_refused(copy_of, tiny_resnet, tiny_timm):
    for source, prefix in ((tiny_resnet, "resnet.encoder.stages.1"), (tiny_timm, "layer4")):
        folder = copy_of(source)
        weights = load_file(folder / "model.safetensors")
        kept = {name: value for name, value in weights.items() if not name.startswith(prefix)}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
        text = error(recipe(folder), LABELS)
        assert f"lacks {len(weights) - len(kept)} weights" in text and prefix.removeprefix("resnet.") in text
        shutil.rmtree(folder)


def test_an_unreachable_hub_is_told_at_once_with_ways_to_go_on():
    began = time.perf_counter()
    for name in ("microsoft/resnet-50", "timm/densenet201.tv_in1k"):
        text = error(recipe(name), LABELS)
        assert all(word in text for word in (name, "--base_model DIR", "HF_ENDPOINT=", "`digits`"))
    assert time.perf_counter() - began < 10  # the client alone would ask again for 23 seconds, twice


def test_a_base_model_comes_from_the_hub_and_later_from_the_cache(tiny_resnet, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with LoopbackHub() as hub:
        hub.add("alice/tiny", tiny_resnet)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        from_hub, _ = build_network(recipe("alice/tiny"), LABELS)
        assert "no base model 'alice/typo' on the Hub" in error(recipe("alice/typo"), LABELS)
    from_cache, _ = build_network(recipe("alice/tiny"), LABELS)
    assert torch.equal(from_cache.head[0].weight, from_hub.head[0].weight)


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/nowhere", "my/own/folder", "C:\\models\\mine"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name):
    assert f"base model folder '{name}' does not exist" in error(recipe(name), LABELS)


@pytest.mark.parametrize("name", ["two words", "a/b/c/", "-x"])
def test_what_cannot_be_a_hub_id_is_refused_by_its_name(name):
    assert f"'{name}'" in error(recipe(name), LABELS)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_folder_that_is_no_base_model_is_refused_with_what_it_needs(copy_of, tiny_resnet, missing):
    folder = copy_of(tiny_resnet)
    (folder / missing).unlink()
    text = error(recipe(folder), LABELS)
    assert f"base model folder '{folder}' cannot be loaded" in text
    assert missing in text


def test_weights_that_are_cut_off_are_refused(copy_of, tiny_resnet):
    weights = copy_of(tiny_resnet) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cannot be loaded" in error(recipe(weights.parent), LABELS)


def test_code_of_strangers_is_neither_run_nor_asked_about(copy_of, tiny_resnet):
    folder = copy_of(tiny_resnet)
    edit(folder / "config.json", model_type="theirs", auto_map={"AutoConfig": "theirs.C", "AutoModel": "theirs.M"})
    (folder / "theirs.py").write_text("raise SystemExit('ran')")
    assert "cannot be loaded" in error(recipe(folder), LABELS)


def test_a_size_that_a_base_model_cannot_take_is_refused(tmp_path):
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ViTModel(ViTConfig(image_size=32, patch_size=16, **small)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    build_network(recipe(tmp_path), LABELS)
    assert "48" in error(recipe(tmp_path, image_size=48), LABELS)


def test_a_distilled_model_of_two_classifiers_is_refused_before_training_and_not_after_it(tmp_path):
    import timm

    small = {"embed_dim": 8, "depth": 1, "num_heads": 1, "img_size": 32}
    model = timm.create_model("deit_tiny_distilled_patch16_224", **small)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    cfg = {"input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": "deit_tiny_distilled_patch16_224", "num_classes": 1000, "model_args": small}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": cfg}))
    assert "two classifiers" in error(recipe(tmp_path), LABELS)
    build_network(recipe(tmp_path, head=HIDDEN), LABELS)


def test_a_body_that_pools_nothing_is_refused():
    one_block = {"num_encoder_blocks": 1, "depths": [1], "sr_ratios": [1], "num_attention_heads": [1]}
    narrow = {"hidden_sizes": [8], "patch_sizes": [7], "strides": [4], "mlp_ratios": [2], "decoder_hidden_size": 8}
    base = FromConfig("segformer", one_block | narrow, image_size=32)
    assert "pools no features" in error(recipe(base), LABELS)


# What is told


def test_the_facts_of_a_base_model_hold_no_local_path(tiny_resnet, monkeypatch):
    assert base_model_facts(recipe("microsoft/resnet-50")) == "microsoft/resnet-50"
    assert base_model_facts(recipe(tiny_resnet)) == "tiny-resnet (a local folder)"
    assert base_model_facts(recipe(RANDOM)) == dataclasses.asdict(RANDOM)
    monkeypatch.setenv("HOME", str(tiny_resnet.parent))
    monkeypatch.setenv("USERPROFILE", str(tiny_resnet.parent))
    assert base_model_facts(recipe("~/tiny-resnet")) == "tiny-resnet (a local folder)"
    network, _ = build_network(recipe("~/tiny-resnet"), LABELS)
    assert str(tiny_resnet) not in json.dumps(network.config.to_dict())


def test_the_description_counts_every_part(tiny_resnet):
    head = recipe(tiny_resnet, head=(Linear(8), ReLU(), Linear()))
    network, _ = build_network(head, LABELS)
    lines = describe(network, head).splitlines()
    numbers = [int(line.split()[-1].replace(",", "")) for line in lines]
    assert "tiny-resnet" in lines[0] and str(tiny_resnet) not in lines[0]
    assert numbers[1:4] == [16 * 8 + 8, 0, 8 * 3 + 3]
    assert sum(numbers[:4]) == numbers[4]
    running = sum(value.numel() for name, value in network.state_dict().items() if "running_" in name)
    assert numbers[5] == numbers[4] + running
