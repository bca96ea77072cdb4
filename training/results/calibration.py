"""Temperature scaling: one number that logits are divided by, so that probabilities mean what they say."""

import math

import numpy as np

PRIOR_DEVIATION = math.log(2)  # of log T: a temperature between 1/2 and 2 surprises nobody
FURTHEST = math.log(20)
LEAST_GAIN = 1.0  # nats, of all images together: what one free number gains by chance (Akaike 1974, IEEE TAC 19:716)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T by which logits (images, classes) are divided for labels (images,); above 1 where they were too sure.

    Summed log loss (Guo et al. 2017, ICML) with a normal prior on log T around 0 with deviation log 2: of thousands of
    images the prior weighs nothing, and a handful that are all right do not drive T to 0. Where that gains less than
    `LEAST_GAIN`, T is 1: the images do not ask for another, and the next ones may well ask for the opposite.

    Raises:
        ValueError: shapes that do not go together, a label that is no class, logits that are not finite.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits, labels = _checked(logits, labels)
    images = np.arange(len(labels))

    def cost(log_temperature: float) -> float:
        losses = -log_softmax(logits / math.exp(log_temperature), axis=1)[images, labels]
        return float(losses.sum()) + (log_temperature / PRIOR_DEVIATION) ** 2 / 2

    found = minimize_scalar(cost, bounds=(-FURTHEST, FURTHEST), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x) if cost(0.0) - found.fun > LEAST_GAIN else 1.0


def _checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits of shape {logits.shape} do not go with labels of shape {labels.shape}")
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite to fit a temperature to them")
    if len(labels) and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} are not all among {logits.shape[1]} classes")
    return logits, labels
