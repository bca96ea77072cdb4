"""The weights that every contestant starts from, as a model folder that transformers loads, and a batch to prove it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def save_start(recipe_file: Path, base_model: Path, labels: Sequence[str], seed: int, folder: Path) -> Any:
    """Write the network that `train.py recipe_file --base_model … --seed …` starts from; returns its image processor.

    The head must be one linear layer.
    """
    from hub_utils.export import save_deployable
    from training.fitting.network import build_network
    from training.recipe import load_recipe

    recipe = replace(load_recipe(str(recipe_file)), base_model=str(base_model), seed=seed)
    network, processor = build_network(recipe, sorted(labels))
    save_deployable(network.eval(), processor, folder)
    return processor


def save_probe(processor: Any, data: Path, images: int, file: Path) -> None:
    """Write `pixels`, float32 (images, 3, height, width), and `labels` of the first training images of all classes."""
    import torch
    from PIL import Image

    classes = sorted((data / "train").iterdir())
    paths = [path for group in zip(*(sorted(each.iterdir()) for each in classes), strict=False) for path in group]
    paths = (paths * -(-images // len(paths)))[:images]
    pixels = processor([Image.open(path).convert("RGB") for path in paths], return_tensors="pt")["pixel_values"]
    names = [each.name for each in classes]
    torch.save({"pixels": pixels, "labels": torch.tensor([names.index(path.parent.name) for path in paths])}, file)


def probe_loss(model: torch.nn.Module, file: Path, half: bool) -> float:
    """The loss of a first step on the probe, in training mode; the model stays as it was."""
    import torch
    from torch.nn import functional

    probe = torch.load(file, weights_only=True)
    device = next(model.parameters()).device
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    halved = None if half else vars(model).pop("forward", None)  # accelerate's, which is always in half floats
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
        found = model.train()(probe["pixels"].to(device))
    for name, buffer in model.named_buffers():
        buffer.copy_(kept[name])
    model.train(was_training)
    if halved is not None:
        model.forward = halved
    logits = getattr(found, "logits", found).float()
    return functional.cross_entropy(logits, probe["labels"].to(device)).item()
