"""Class activation maps and features beside the logits: which places of a picture speak for each class.

After global average pooling, Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) of any head is the
head's own Jacobian on the pooled features; for one Linear layer it is CAM (Zhou et al. 2016,
https://arxiv.org/abs/1512.04150). Either is a product of matrices: no backward pass, and ONNX carries it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class Features(nn.Module):
    """`model`, put in eval mode: `pixel_values` (batch, 3, height, width) to logits (batch, classes) and features
    (batch, width), which are what its head takes, flat.

    Raises:
        ValueError: where the head begins is not known here.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.eval()  # a new module starts in train mode, and torch.onnx hands the wrapper's mode on to the model
        body_and_head(model)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        taken: list[torch.Tensor] = []
        head = body_and_head(self.model)[1][0]
        with head.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0])):
            logits = self.model(pixel_values=pixel_values).logits
        return logits, taken[0].flatten(1)


class ActivationMaps(nn.Module):
    """`model`, put in eval mode, with its maps: `pixel_values` (batch, 3, height, width) to logits (batch, classes),
    maps (batch, classes, h, w), where h and w are the last feature map's: 7 and 7 for a ResNet and 224 pixels, and
    features (batch, width), as of `Features`.

    maps[b, c, y, x] is the sum over features k of ∂logit_c/∂feature_k, at the pooled features of picture b, times its
    feature map's A_k(y, x). It may be negative: whoever draws it takes what is above 0, and scales. With one Linear
    layer a map's mean and the layer's bias add up to the logit.

    Raises:
        ValueError: the model's features are not the means of a feature map, or its head is not Linear and ReLU layers.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.eval()
        body, layers = body_and_head(model)
        if not _pools_by_mean(body, layers):
            raise ValueError(
                f"{_name(model)} has no pooled feature map: what its head takes are not the means of what its last "
                "layer sees at each place, and so there are no class activation maps"
            )

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        body, layers = body_and_head(self.model)
        feature_map = _feature_map(body, pixel_values)
        features = _pool(body, feature_map)
        logits, jacobian = logits_and_jacobian(layers, features)
        maps = jacobian @ feature_map.flatten(2)
        return logits, maps.unflatten(2, feature_map.shape[2:]), features


def logits_and_jacobian(layers: Sequence[nn.Module], features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What Linear layers and ReLUs make of `features` (batch, width), and its derivatives by them.

    The derivatives are of shape (batch, classes, width), or (classes, width) without a ReLU, where they are the same
    for every picture. They are multiplied from the logits down, where the matrices are narrow.
    """
    factors = []
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            factors.append((features > 0).to(features.dtype)[:, None])
            features = F.relu(features)
        else:
            factors.append(layer.weight.flatten(1))  # some of timm's are convolutions of 1 × 1
            features = F.linear(features, factors[-1], layer.bias)
    jacobian = factors.pop()
    for factor in reversed(factors):
        jacobian = jacobian * factor if factor.dim() == 3 else jacobian @ factor
    return features, jacobian


def body_and_head(model: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    """The body, and the layers of the head that do something in eval mode: Linear (or a convolution of 1 × 1) and ReLU.

    Raises:
        ValueError: this class of model is not known here, or its head has other layers.
    """
    match type(model).__name__:
        case "ResNetForImageClassification":
            body, head = model.resnet, model.classifier
        case "BackboneWithHeadForImageClassification":
            body, head = model.backbone, model.head
        case "TimmWrapperForImageClassification":
            body, head = model, [model.timm_model.get_classifier()]
        case name:
            raise ValueError(f"{name} has no pooled feature map that is known here, and so no class activation maps")
    layers = [layer for layer in head if not isinstance(layer, (nn.Dropout, nn.Flatten, nn.Identity))]
    unknown = [type(layer).__name__ for layer in layers if not isinstance(layer, (nn.Linear, nn.Conv2d, nn.ReLU))]
    if unknown or not layers or isinstance(layers[-1], nn.ReLU):
        ends = ", ".join(unknown) or "no Linear layer at its end"
        raise ValueError(f"{_name(model)} has a head with {ends}; maps are for heads of Linear layers and ReLUs")
    return body, layers


def _name(model: nn.Module) -> str:
    """`TimmWrapperForImageClassification (vit_tiny_patch16_224)`: class and, for timm's, architecture."""
    config = model.config
    values = getattr(config, "backbone", None) or config.to_dict()
    architecture = values.get("architecture") or values["model_type"]
    return f"{type(model).__name__} ({architecture})"


def _feature_map(body: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """What is pooled, of shape (batch, width, h, w)."""
    if hasattr(body, "timm_model"):
        return body.timm_model.forward_features(pixel_values)
    return body(pixel_values).last_hidden_state


def _pool(body: nn.Module, feature_map: torch.Tensor) -> torch.Tensor:
    """The features, of shape (batch, width)."""
    if hasattr(body, "timm_model"):
        return body.timm_model.forward_head(feature_map, pre_logits=True).flatten(1)
    return body.pooler(feature_map).flatten(1)


def _pools_by_mean(body: nn.Module, layers: Sequence[nn.Module]) -> bool:
    """Whether the features are the means of the feature map: tried on noise, since classes of pooling are many."""
    weight = next(layer.weight for layer in layers if not isinstance(layer, nn.ReLU))
    noise = torch.randn(2, weight.shape[1], 5, 4, generator=torch.Generator().manual_seed(0)).to(weight)
    try:
        with torch.inference_mode():
            return bool((_pool(body, noise) - noise.mean((2, 3))).abs().max() < 0.01)
    except Exception:  # every architecture that takes another shape has its own
        return False
