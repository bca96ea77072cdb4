"""A model folder or repo id, loaded as a visitor loads it, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

BATCH = 32  # images


def load_classifier(model: str | Path, revision: str | None = None, device: Any = "cpu", **how: Any) -> Any:
    """An image-classification `pipeline` in fp32. Our own custom class needs no `trust_remote_code`.

    `how` goes to `pipeline` as it is. Raises what `pipeline` raises.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification, pipeline

    from hub_utils.portable.modeling_backbone_with_head import (
        BackboneWithHeadConfig,
        BackboneWithHeadForImageClassification,
    )

    AutoConfig.register(BackboneWithHeadConfig.model_type, BackboneWithHeadConfig, exist_ok=True)
    AutoModelForImageClassification.register(
        BackboneWithHeadConfig, BackboneWithHeadForImageClassification, exist_ok=True
    )
    return pipeline(
        "image-classification", model=str(model), revision=revision, device=device, dtype=torch.float32, **how
    )


def classes_of(classifier: Any) -> list[str]:
    """Names of the classes, in the order of the logits."""
    names = classifier.model.config.id2label
    return [names[index] for index in range(len(names))]


def logits_of(classifier: Any, images: Iterable[Image.Image], batch_size: int = BATCH) -> Iterator[np.ndarray]:
    """Logits, float32 of shape (classes,), of each image in turn, as `pipeline` computes them, in batches.

    `pipeline` itself hands out sorted names and scores, of which the softmax has lost what is small, and two classes
    may have one name.
    """
    import torch

    images = iter(images)
    while batch := list(islice(images, batch_size)):
        pixels = torch.cat([classifier.preprocess(image)["pixel_values"] for image in batch])
        yield from classifier.forward({"pixel_values": pixels})["logits"].float().numpy()
