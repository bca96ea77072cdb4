"""What a set of logits is worth, in numbers."""

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


def compute_metrics(prediction: Any) -> dict[str, float]:
    """`classification_metrics` as Trainer calls it. Its `loss` replaces Trainer's, a mean over batches, unsmoothed."""
    counted = prediction.label_ids >= 0  # in a stream -100 fills a gap
    return classification_metrics(prediction.predictions[counted], prediction.label_ids[counted])
