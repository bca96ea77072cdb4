"""What a set of logits is worth, in numbers."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 and mean cross-entropy (in nats) of logits (images, classes), each image counted once.

    Macro F1 is the mean over the classes that are true or predicted somewhere: of the others nothing can be said.
    """
    from scipy.special import log_softmax
    from sklearn.metrics import f1_score

    predicted = logits.argmax(axis=1)
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    return {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
    }


def wilson_interval(right: float, total: float) -> list[float]:
    """95 % interval of a share of which `right` of `total` were seen (Wilson 1927): sensible near 0 and 1 too.

    The numbers need not be whole: where images belong together, fewer count than are there (see `intervals`), and
    scipy's own takes whole ones only.
    """
    z = statistics.NormalDist().inv_cdf(0.975)
    share, z_total = right / total, z**2 / total
    middle = (share + z_total / 2) / (1 + z_total)
    half = math.sqrt(z_total * share * (1 - share) + z_total**2 / 4) / (1 + z_total)
    # At the ends the limit is the share itself, and rounding could put it beside.
    return [0.0 if right == 0 else middle - half, 1.0 if right == total else middle + half]


def mean_interval(values: Sequence[float], highest: float = math.inf) -> dict[str, Any]:
    """Mean of two or more values from 0 to `highest`, their standard deviation, and the mean's 95 % Student-t interval.

    The t interval is of independent values. Folds are not: any two of them share most of their training images, so
    that theirs is approximate, and no estimate of it is without bias (Bengio and Grandvalet 2004, JMLR 5:1089).
    """
    from scipy.special import stdtrit  # `scipy.stats` takes a second to import

    mean, deviation = statistics.mean(values), statistics.stdev(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * deviation / len(values) ** 0.5
    return {
        "mean": mean,
        "standard_deviation": deviation,
        "interval": [max(0.0, mean - half), min(highest, mean + half)],
    }


def compute_metrics(prediction: Any) -> dict[str, float]:
    """`classification_metrics` as Trainer calls it. Its `loss` replaces Trainer's, a mean over batches, unsmoothed."""
    counted = prediction.label_ids >= 0  # in a stream -100 fills a gap
    return classification_metrics(prediction.predictions[counted], prediction.label_ids[counted])
