"""The end of training: fold, save, load again as a visitor would, and measure what was loaded, in fp32."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hub_utils.export import largest_difference, save_deployable
from hub_utils.portable.modeling_backbone_with_head import BackboneWithHeadForImageClassification
from hub_utils.portable.predictor import load_classifier
from training.data.streaming import StreamedSplit, views
from training.data.transforms import Preprocessing
from training.results.metrics import classification_metrics

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import TrainingArguments

TOLERANCE = 1e-4  # of the largest logit: how far the deployed model may be from the trained one, in fp32
COMPARED = 64  # images on which the two are compared


def deploy(
    network: BackboneWithHeadForImageClassification,
    processor: Any,
    datasets: DatasetDict | dict[str, StreamedSplit],
    folder: Path,
    args: TrainingArguments,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write the deployable into `folder` and return how it does on validation and test.

    Raises:
        RuntimeError: what was saved does not answer as what was trained.
    """
    save_deployable(network, processor, folder)
    classifier = load_classifier(folder, args.device)
    deployed = classifier.model.eval()
    preprocessing = Preprocessing(classifier.image_processor)
    difference, largest = _compare(
        network.to(args.device), deployed, _batches(datasets["validation"], preprocessing, args)
    )
    if not difference <= TOLERANCE * largest:
        raise RuntimeError(
            f"the saved model's logits differ from the trained one's by {difference:.2e}, more than {TOLERANCE:g} of "
            f"the largest, {largest:.2e}: please report this"
        )
    say(
        f"saved      {type(deployed).__name__}, loaded again; its logits differ by {difference:.1e} at most (largest "
        f"logit {largest:.1f})"
    )
    results: dict[str, Any] = {
        "model_class": type(deployed).__name__,
        "largest_logit_difference": difference,
        "largest_logit": largest,
    }
    for split in ("validation", "test"):
        logits, labels = answers(deployed, _batches(datasets[split], preprocessing, args), split)
        results[split] = classification_metrics(logits, labels)
        accuracy, loss = results[split]["accuracy"], results[split]["loss"]
        say(f"{split:<11}accuracy {accuracy:.2%} of {len(labels)}, loss {loss:.4f}")
    return results


def answers(model: torch.nn.Module, batches: DataLoader, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits (images, classes) and labels over batches of `pixel_values` and `labels`; `name` is for the bar.

    What is labelled -100, a gap in a stream, is left out.
    """
    device = next(model.parameters()).device
    logits, labels = [], []
    with torch.inference_mode():
        for batch in tqdm(batches, f"Measuring {name}", unit=" batches", leave=False, disable=None):
            logits.append(model(batch["pixel_values"].to(device)).logits.float().cpu())
            labels.append(batch["labels"])
    counted = torch.cat(labels) >= 0
    return torch.cat(logits)[counted].numpy(), torch.cat(labels)[counted].numpy()


def _compare(network: torch.nn.Module, deployed: torch.nn.Module, batches: DataLoader) -> tuple[float, float]:
    """`largest_difference` on the first images."""
    device = next(deployed.parameters()).device
    few = [batch["pixel_values"].to(device) for batch in islice(batches, -(-COMPARED // batches.batch_size))]
    return largest_difference(network, deployed, few)


def _batches(rows: Dataset | StreamedSplit, preprocessing: Preprocessing, args: TrainingArguments) -> DataLoader:
    size = args.per_device_eval_batch_size
    return DataLoader(views(rows, preprocessing, size), size, num_workers=args.dataloader_num_workers)
