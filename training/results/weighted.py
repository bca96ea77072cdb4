"""Figures of the same images under many weightings at once: what the bootstrap needs, and scikit-learn is slow at.

Each equals its namesake in `figures` where all weights are 1, and scikit-learn's with `sample_weight` elsewhere.
`weights` are (weightings, images) from 0, results (weightings,): NaN where the images that count leave them undefined.
"""

import numpy as np


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean recall of the classes with an image that counts."""
    right, true, _ = _sums(labels, predicted, weights)
    return _mean_of_defined(right, true)


def macro_f1(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean F1 of the classes that are true or predicted of an image that counts."""
    right, true, said = _sums(labels, predicted, weights)
    return _mean_of_defined(2 * right, true + said)


def roc_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the curve of labels 0 and 1 by score; of equal scores half."""
    positive, negative = _above_thresholds(labels, scores, weights)
    gained = np.diff(positive, prepend=0, axis=1)
    passed = np.diff(negative, prepend=0, axis=1)
    area = (passed * (positive - gained / 2)).sum(axis=1)
    return _ratio(area, positive[:, -1] * negative[:, -1])


def average_precision(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Precision at each threshold, weighted by the recall gained there; of labels 0 and 1 by score."""
    positive, negative = _above_thresholds(labels, scores, weights)
    precision = _ratio(positive, positive + negative)
    # Above the first image that counts there is no precision, and nothing gained either.
    area = (np.nan_to_num(precision) * np.diff(positive, prepend=0, axis=1)).sum(axis=1)
    return np.where(negative[:, -1] > 0, _ratio(area, positive[:, -1]), np.nan)


def among_five(probabilities: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Where (images,) the true class is among the five most probable; of equals the first."""
    # scikit-learn's own takes the last of equals, so that a right answer could be missing among the five.
    five = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    return (five == true[:, None]).any(axis=1)


def _sums(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of each class's right, true and predicted images, each (weightings, classes that occur)."""
    classes = np.union1d(labels, predicted)
    is_true, is_said = ((answers[:, None] == classes).astype(np.float64) for answers in (labels, predicted))
    return weights @ (is_true * is_said), weights @ is_true, weights @ is_said


def _above_thresholds(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the positives and of the negatives with a score from each threshold up, (weightings, thresholds)."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of equal scores
    positive = np.cumsum(weights[:, order] * (labels[order] == 1), axis=1)[:, last]
    negative = np.cumsum(weights[:, order] * (labels[order] == 0), axis=1)[:, last]
    return positive, negative


def _mean_of_defined(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    shares = np.nan_to_num(_ratio(parts, wholes))
    return _ratio(shares.sum(axis=1), (wholes > 0).sum(axis=1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
