"""A model folder or repo id, loaded as a visitor loads it, and what it answers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hub_utils.portable.facts import told_apart

if TYPE_CHECKING:
    from PIL import Image

BATCH = {"cpu": 8}  # images at once, by device; on a CPU what larger ones bring to memory no longer fits its caches
LARGE_BATCH = 32


def load_classifier(model: str | Path, revision: str | None = None, device: Any = "cpu", **how: Any) -> Any:
    """An image-classification `pipeline` in fp32. Code that comes with a model is not run; our own class needs none.
    Nor are weights read that are no safetensors: others can run code.

    `how` goes to transformers as it is. Raises what transformers raises.

    Raises:
        ValueError: weights are missing; transformers itself draws them by lot, and the model answers at random.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification, pipeline

    from hub_utils.portable.modeling_backbone_with_head import (
        BackboneWithHeadConfig,
        BackboneWithHeadForImageClassification,
    )

    how = {"trust_remote_code": False} | how  # or transformers asks on the console, and waits
    AutoConfig.register(BackboneWithHeadConfig.model_type, BackboneWithHeadConfig, exist_ok=True)
    AutoModelForImageClassification.register(
        BackboneWithHeadConfig, BackboneWithHeadForImageClassification, exist_ok=True
    )
    with quiet():
        network, loaded = AutoModelForImageClassification.from_pretrained(
            str(model), revision=revision, dtype=torch.float32, output_loading_info=True, use_safetensors=True, **how
        )
    if loaded["missing_keys"]:
        raise ValueError(f"there are no weights for {', '.join(sorted(loaded['missing_keys'])[:3])}")
    with quiet():
        classifier = pipeline(
            "image-classification",
            model=network,
            image_processor=str(model),
            revision=revision,
            device=device,
            **how,
        )
    if classifier.device.type != "mps":  # which knows no such convolutions; elsewhere they are faster
        classifier.model.to(memory_format=torch.channels_last)
    return classifier


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own bar, and its report of weights that are missing: whoever loads says what matters."""
    from transformers.utils import logging as bars

    logger = logging.getLogger("transformers")
    level, drawn = logger.level, bars.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    bars.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if drawn:
            bars.enable_progress_bar()


def classes_of(classifier: Any) -> list[str]:
    """Names of the classes, in the order of the logits, told apart."""
    return told_apart([name for _, name in sorted(classifier.model.config.id2label.items())])


def batch_size(classifier: Any) -> int:
    """How many images at once are fastest."""
    return BATCH.get(classifier.device.type, LARGE_BATCH)


def logits_of(classifier: Any, images: Iterable[Image.Image]) -> Iterator[np.ndarray]:
    """Logits, float32 of shape (classes,), of each image in turn, as `pipeline` computes them, in batches.

    `pipeline` itself hands out sorted names and scores, of which the softmax has lost what is small, and two classes
    may have one name.
    """
    images = iter(images)
    while batch := list(islice(images, batch_size(classifier))):
        yield from forward(classifier, [classifier.preprocess(image) for image in batch])


def forward(classifier: Any, batch: Sequence[Any]) -> np.ndarray:
    """Logits, float32 of shape (images, classes), of what `classifier.preprocess` made of each image."""
    import torch

    pixels = [inputs["pixel_values"] for inputs in batch]
    if len({each.shape for each in pixels}) > 1:  # a processor that does not crop
        return np.concatenate([forward(classifier, [inputs]) for inputs in batch])
    return classifier.forward({"pixel_values": torch.cat(pixels)})["logits"].float().numpy()


def probabilities_of(classifier: Any, logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64, of logits (…, classes): the softmax; a sigmoid each where `pipeline` takes that.

    Raises:
        ValueError: a model of numbers, not of classes.
    """
    from hub_utils.portable.network import softmax  # scipy is not in a Space

    config = classifier.model.config
    if config.problem_type == "regression":
        raise ValueError(f"{type(classifier.model).__name__} predicts numbers, not classes")
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))  # the sigmoid, which nothing makes overflow
    return softmax(logits)
