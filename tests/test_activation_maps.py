"""Class activation maps: equal to what autograd says, with logits that are the model's own."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hub_utils.portable.activation_maps import ActivationMaps, logits_and_jacobian
from hub_utils.portable.modeling_backbone_with_head import (
    BackboneWithHeadConfig,
    BackboneWithHeadForImageClassification,
)

CLASSES = 4
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
TIMM = {"model_type": "timm_wrapper", "architecture": "test_resnet", "num_classes": 0, "pretrained_cfg": {}}
HIDDEN = ({"type": "linear", "out_features": 12}, {"type": "relu"}, {"type": "linear", "out_features": 9})
HIDDEN += ({"type": "relu"}, {"type": "linear", "out_features": CLASSES})


def native() -> nn.Module:
    return ResNetForImageClassification(ResNetConfig(**RESNET, num_labels=CLASSES))


def timm_model(architecture: str, **values) -> nn.Module:
    config = {"architecture": architecture, "num_classes": CLASSES, "label_names": list("abcd")}
    return TimmWrapperForImageClassification(
        TimmWrapperConfig.from_dict({**config, "model_args": values, "pretrained_cfg": {}})
    )


def with_head(backbone: dict, layers: tuple[dict, ...], width: int) -> nn.Module:
    head = []
    for layer in layers:
        head.append({"in_features": width, **layer} if layer["type"] == "linear" else layer)
        width = layer.get("out_features", width)
    return BackboneWithHeadForImageClassification(BackboneWithHeadConfig(backbone=backbone, head=head))


MODELS = {
    "native": native,
    "timm": lambda: timm_model("test_resnet"),
    "timm densenet": lambda: timm_model("densenet121", growth_rate=8, block_config=(2, 2)),
    "timm with a convolution for its classifier": lambda: timm_model("resnetv2_18"),
    "native with hidden layers": lambda: with_head({"model_type": "resnet", **RESNET}, HIDDEN, 16),
    "timm with hidden layers": lambda: with_head(TIMM, HIDDEN, 96),
    "a ReLU before all": lambda: with_head(
        {"model_type": "resnet", **RESNET}, ({"type": "relu"}, {"type": "linear", "out_features": CLASSES}), 16
    ),
}


def head_of(model: nn.Module) -> nn.Module:
    return model.timm_model.get_classifier() if hasattr(model, "timm_model") else [*model.children()][-1]


def stirred(model: nn.Module) -> nn.Module:
    """Weights as after training, drawn: timm's fresh classifiers are all but zero, and BatchNorm stands at 0 and 1."""
    draw = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=draw)
            module.running_var.uniform_(0.5, 2, generator=draw)
            module.bias.data.normal_(0, 0.3, generator=draw)
    for parameter in head_of(model).parameters():
        parameter.data.normal_(0, 0.3, generator=draw)
    return model


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    torch.manual_seed(0)
    return stirred(MODELS[request.param]())


def pixels(batch: int, size: int = 64) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_the_logits_are_the_models_own(model):
    maps = ActivationMaps(model)
    with torch.inference_mode():
        logits, _, _ = maps(pixels(3))
        expected = model(pixels(3)).logits
    assert expected.std() > 0.01
    assert (logits - expected).abs().max() <= 1e-6 * expected.abs().max()


def gradients_of_the_feature_map(model: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is pooled (batch, width, h, w), and the derivatives of every logit by it (classes, batch, width, h, w).

    Taken where the pooling's input is seen by a hook, so that nothing of the module under test has a part in it.
    """
    seen = []
    pool = [module for name, module in model.named_modules() if name.endswith(("pooler", "global_pool"))][-1]
    handle = pool.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    logits = model(batch).logits
    handle.remove()
    rows = [torch.autograd.grad(logits[:, index].sum(), seen[0], retain_graph=True)[0] for index in range(CLASSES)]
    return seen[0].detach(), torch.stack(rows)


def test_the_maps_are_grad_cam_by_autograd_in_float64(model):
    exact = deepcopy(model).eval().double()
    batch = pixels(3).double()
    feature_map, gradients = gradients_of_the_feature_map(exact, batch)
    places = feature_map.shape[2] * feature_map.shape[3]
    weights = gradients.mean((3, 4)) * places  # the mean spreads a feature's derivative over all places
    expected = torch.einsum("cbk,bkhw->bchw", weights, feature_map)
    with torch.inference_mode():
        _, maps, _ = ActivationMaps(exact)(batch)
        _, single, _ = ActivationMaps(model)(pixels(3))
    assert places > 1
    assert expected.abs().max() > 0
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("name", [name for name in MODELS if "hidden" not in name and "ReLU" not in name])
def test_with_one_linear_layer_a_maps_mean_and_the_bias_are_the_logit(name):
    torch.manual_seed(0)
    model = stirred(MODELS[name]())
    with torch.inference_mode():
        logits, maps, _ = ActivationMaps(model)(pixels(2))
    bias = [*head_of(model).parameters()][-1]
    assert bias.abs().max() > 0
    torch.testing.assert_close(maps.mean((2, 3)) + bias, logits, rtol=0, atol=1e-5 * logits.abs().max().item())


def test_the_jacobian_is_autograds_and_one_for_all_where_there_is_no_relu():
    draw = torch.Generator().manual_seed(0)
    layers = [nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5), nn.Linear(5, 6), nn.ReLU(), nn.ReLU(), nn.Linear(6, 3)]
    head = nn.Sequential(*layers).double()
    features = torch.randn(4, 7, dtype=torch.float64, generator=draw)
    logits, jacobian = logits_and_jacobian(layers, features)
    assert torch.equal(logits, head(features))
    expected = torch.stack([torch.autograd.functional.jacobian(head, row) for row in features])
    torch.testing.assert_close(jacobian, expected, rtol=1e-12, atol=1e-12)
    assert not torch.equal(expected[0], expected[1])  # other ReLUs are open
    assert torch.equal(logits_and_jacobian(layers[-1:], features[:, :6])[1], layers[-1].weight)


def test_a_relu_at_zero_is_shut_as_it_is_for_autograd():
    layers = [nn.ReLU(), nn.Linear(2, 1)]
    features = torch.tensor([[0.0, 1.0]], requires_grad=True)
    logits, jacobian = logits_and_jacobian(layers, features)
    assert torch.equal(jacobian[0], torch.autograd.grad(logits.sum(), features)[0])


def test_the_model_is_put_in_eval_mode():
    model = native().train()
    maps = ActivationMaps(model)
    assert not any(module.training for module in maps.modules())


WITHOUT = {
    "resnet18 catavgmax": (lambda: timm_model("resnet18", global_pool="catavgmax"), r"\(resnet18\) has no pooled"),
    "resnet18 avgmax": (lambda: timm_model("resnet18", global_pool="avgmax"), r"\(resnet18\) has no pooled"),
    "resnet18 max": (lambda: timm_model("resnet18", global_pool="max"), r"\(resnet18\) has no pooled"),
    "attention pooling": (lambda: timm_model("test_vit2"), r"TimmWrapper\w+ \(test_vit2\) has no pooled feature map"),
    "a norm after pooling": (lambda: timm_model("test_convnext"), r"\(test_convnext\) has no pooled feature map"),
    "timm ViT": (lambda: timm_model("test_vit"), r"\(test_vit\) has no pooled feature map"),
    "transformers ViT": (
        lambda: ViTForImageClassification(
            ViTConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
        ),
        "ViTForImageClassification has no pooled feature map",
    ),
    "ViT with hidden layers": (
        lambda: with_head({**TIMM, "architecture": "test_vit"}, HIDDEN, 64),
        r"BackboneWithHeadForImageClassification \(test_vit\) has no pooled feature map",
    ),
    "BatchNorm in the head": (
        lambda: with_head(
            {"model_type": "resnet", **RESNET},
            ({"type": "batch_norm", "num_features": 16}, {"type": "linear", "out_features": CLASSES}),
            16,
        ),
        r"BackboneWithHeadForImageClassification \(resnet\) has a head with BatchNorm1d",
    ),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_what_pools_no_feature_map_by_its_mean_is_refused_by_name(name):
    make, says = WITHOUT[name]
    with pytest.raises(ValueError, match=says):
        ActivationMaps(make())
