"""The end of training: calibrate, fold, save, load again as a visitor would, and measure what was loaded, in fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import softmax
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hub_utils.export import save_deployable, save_onnx, save_serving
from hub_utils.portable.classifier import load_classifier
from hub_utils.portable.modeling_backbone_with_head import BackboneWithHeadForImageClassification
from training.data.streaming import StreamedSplit, views
from training.data.transforms import Preprocessing
from training.fitting import hardware
from training.recipe import Augmentation, UserError, first_line
from training.results.calibration import fit_temperature
from training.results.calibration_error import expected_calibration_error
from training.results.metrics import classification_metrics
from training.results.serving import FITTED, Strangeness, as_lines, drawn, not_sure

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import TrainingArguments

TOLERANCE = 1e-4  # of the largest logit: how far the deployed model may be from the trained one, in fp32


def deploy(
    network: BackboneWithHeadForImageClassification,
    processor: Any,
    datasets: DatasetDict | dict[str, StreamedSplit],
    folder: Path,
    args: TrainingArguments,
    say: Callable[[str], None],
    calibrate: bool = True,
) -> dict[str, Any]:
    """Write the deployable into `folder` and return how it does on validation and test.

    With `calibrate`, its logits are those of `network` divided by the temperature that suits the validation split.

    Raises:
        UserError: the network's answers are not finite.
        RuntimeError: what was saved does not answer as what was trained.
    """
    hardware.compute_exactly()
    batches = _batches(datasets["validation"], Preprocessing(processor), args)
    layout = torch.preserve_format if args.device.type == "mps" else torch.channels_last
    trained, labels = answers(network.to(args.device, memory_format=layout), batches, "the trained network")
    if not np.isfinite(trained).all():
        raise UserError(
            "training has come to nothing: the network's answers are not finite numbers; --overwrite with a smaller "
            "--learning_rate starts anew"
        )
    temperature = fit_temperature(trained, labels) if calibrate else None
    save_deployable(network, processor, folder, temperature or 1.0)
    classifier = load_classifier(folder, device=args.device)
    preprocessing = Preprocessing(classifier.image_processor)
    sample = _training_sample(datasets["train"], preprocessing, args)
    with torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):  # statistics, which are no more exact
        strange = Strangeness.fitted(classifier, lambda: answers(classifier.model, sample, "training images"))
    found = {}
    for split in ("validation", "test"):
        with strange.watching() if split == "validation" else nullcontext():
            found[split] = answers(classifier.model, _batches(datasets[split], preprocessing, args), split)
    name = type(classifier.model).__name__
    difference, largest = _compare(trained, found["validation"][0] * (temperature or 1.0))
    say(f"saved      {name}, loaded again; its logits differ by {difference:.1e} at most (largest logit {largest:.1f})")
    results: dict[str, Any] = {
        "model_class": name,
        "largest_logit_difference": difference,
        "largest_logit": largest,
        "temperature": temperature,
        "onnx_difference": _save_onnx(folder, say),
        "calibration": {},
    }
    for split, (logits, labels) in found.items():
        results[split] = classification_metrics(logits, labels)
        accuracy, loss = results[split]["accuracy"], results[split]["loss"]
        say(f"{split:<11}accuracy {accuracy:.2%} of {len(labels)}, loss {loss:.4f}")
        if temperature is not None:
            before, after = _calibration(logits * temperature, labels), _calibration(logits, labels)
            results["calibration"][split] = {"before": before, "after": after}
    if temperature is not None:
        told = f"logits divided by {temperature:.2f}; on the test split {_gain(**results['calibration']['test'])}"
        say("calibrated " + (told if temperature != 1 else "nothing to do: the validation split asks for no scaling"))
    logits, labels = found["validation"]
    serving = {
        "not_sure": not_sure(softmax(logits.astype(np.float64), axis=1), labels),
        "strangeness": strange.fact(strange.scores),
    }
    save_serving(folder, serving)
    for line in as_lines(serving):
        say(line)
    return results


def answers(
    model: torch.nn.Module, batches: Iterable[dict[str, torch.Tensor]], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (images, classes) and labels over batches of `pixel_values` and `labels`; `name` is for the bar.

    What is labelled -100, a gap in a stream, is left out.
    """
    device = next(model.parameters()).device
    logits, labels = [], []
    with torch.inference_mode():
        for batch in tqdm(batches, f"Measuring {name}", unit=" batches", leave=False, disable=None):
            counted = batch["labels"] >= 0
            if counted.any():
                logits.append(model(batch["pixel_values"][counted].to(device)).logits.float().cpu())
                labels.append(batch["labels"][counted])
    return torch.cat(logits).numpy(), torch.cat(labels).numpy()


def _compare(trained: np.ndarray, deployed: np.ndarray) -> tuple[float, float]:
    """Largest difference of the logits, and the largest logit.

    Raises:
        RuntimeError: the difference is too large, or no number.
    """
    difference, largest = float(np.abs(trained - deployed).max()), float(np.abs(trained).max())
    if not difference <= TOLERANCE * largest:
        raise RuntimeError(
            f"the saved model's logits differ from the trained one's by {difference:.2e}, more than {TOLERANCE:g} of "
            f"the largest, {largest:.2e}: please report this"
        )
    return difference, largest


def _save_onnx(folder: Path, say: Callable[[str], None]) -> float | None:
    """See `save_onnx`. The model is whole without it, so that a network that cannot be exported is worth a warning."""
    try:
        return save_onnx(folder)
    except Exception as error:  # the exporter's are of many kinds
        say(f"warning    no ONNX file: {first_line(error)}")
        return None


def _calibration(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    probabilities = softmax(logits.astype(np.float64), axis=1)
    return {
        "loss": classification_metrics(logits, labels)["loss"],
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
    }


def _gain(before: dict[str, float], after: dict[str, float]) -> str:
    errors = " → ".join(f"{each['expected_calibration_error']:.1%}" for each in (before, after))
    return f"log loss {before['loss']:.4f} → {after['loss']:.4f}, calibration error {errors}"


def _batches(rows: Dataset | StreamedSplit, preprocessing: Preprocessing, args: TrainingArguments) -> DataLoader:
    size = args.per_device_eval_batch_size
    return DataLoader(views(rows, preprocessing, size), size, num_workers=args.dataloader_num_workers)


def _training_sample(
    rows: Dataset | StreamedSplit, preprocessing: Preprocessing, args: TrainingArguments
) -> Iterable[dict[str, torch.Tensor]]:
    """Batches of at most `FITTED` training images, drawn by lot and not augmented.

    Of a stream they are the first ones in the order of an epoch, which mixes shards and what lies in them: its own
    first ones may all be of one class.
    """
    if not isinstance(rows, StreamedSplit):
        return _batches(rows.select(drawn(len(rows))), preprocessing, args)
    size = args.per_device_eval_batch_size
    mixed = views(rows, preprocessing, size, Augmentation())
    return islice(DataLoader(mixed, size, num_workers=args.dataloader_num_workers), -(-FITTED // size))
