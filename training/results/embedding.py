"""What a layer of a trained network says of images: a row of values an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from hub_utils.portable.activation_maps import body_and_head
from training.recipe import UserError
from training.results.answers import answers


def layers(model: nn.Module) -> dict[str, nn.Sequential]:
    """By name, from the pooled features on to the logits: the part of the head that makes a layer of the features.

    `linear1` is the head's first Linear layer, `relu1` the same after its ReLU. A deployed head has no others: what
    BatchNorm and Dropout did in training is folded into them.

    Raises:
        UserError: the head is not of Linear layers.
    """
    head = _head(model)
    found = {"features": nn.Sequential()}
    number = 0
    for depth, layer in enumerate(head[:-1], 1):
        number += isinstance(layer, nn.Linear)
        kind = "linear" if isinstance(layer, nn.Linear) else "relu"
        found[f"{kind}{number}"] = nn.Sequential(*head[:depth])
    return {**found, "logits": nn.Sequential(*head)}


def choose_layer(model: nn.Module, wanted: str | None) -> str:
    """The layer of that name, or the next-to-last: what the last one reads, after its ReLU if it has
    one, as Keras gives a layer.

    Raises:
        UserError: there is none.
    """
    known = list(layers(model))
    if wanted is None:
        return known[-2]
    if wanted not in known:
        raise UserError(f"--layer '{wanted}': this network has {', '.join(known)}")
    return wanted


def embed(classifier: Any, paths: Sequence[Path], layer: str) -> np.ndarray:
    """What a layer says of each image, float64 (images, width): the deployed model and preprocessing, in eval mode.

    Raises:
        UserError: an image cannot be read, or the layer's values are not finite.
    """
    model = classifier.model.eval()
    pooled: list[torch.Tensor] = []
    watch = _head(model)[0].register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0].flatten(1)))
    known = answers(classifier, paths, Path.read_bytes)
    try:
        for path, answer in tqdm(known, "Looking", len(paths), unit=" images", leave=False, disable=None):
            if isinstance(answer, str):
                raise UserError(f"'{path}': {answer}; every image is needed, fetch it anew")
    finally:
        watch.remove()
    with torch.inference_mode():
        values = layers(model)[layer](torch.cat(pooled)).cpu().double().numpy()
    if not np.isfinite(values).all():
        raise UserError(f"layer '{layer}' of this network gives values that are not finite; train it anew")
    return values


def _head(model: nn.Module) -> list[nn.Module]:
    """The layers from the pooled features to the logits."""
    try:
        return body_and_head(model)[1]
    except ValueError as error:
        raise UserError(f"{error}, so its layers cannot be told apart") from error
