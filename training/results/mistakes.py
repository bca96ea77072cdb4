"""What to look at among a model's answers: which class, which split, right or wrong, and labels that may be wrong."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hub_utils.portable import harmless_csv
from training.results.predictions import Predictions

SURE = 0.9  # probability
COLUMNS = ["path", "label", "prediction", "loss", "p_label", "p_prediction"]


@dataclass(frozen=True)
class Question:
    """Which images are asked for: of a split; labelled and taken for a class, each None for any; only what is wrong,
    only what may be labelled wrongly.
    """

    split: str
    label: int | None = None
    prediction: int | None = None
    only_mistakes: bool = False
    only_suspects: bool = False


def asked(predictions: Predictions, question: Question, suspects: np.ndarray) -> np.ndarray:
    """Numbers of the images, the largest loss first; `suspects` is bool (images,)."""
    those = np.array(predictions.splits) == question.split
    if question.label is not None:
        those &= predictions.labels == question.label
    if question.prediction is not None:
        those &= predictions.predicted == question.prediction
    if question.only_mistakes:
        those &= predictions.predicted != predictions.labels
    if question.only_suspects:
        those &= suspects
    numbers = np.flatnonzero(those)
    return numbers[np.argsort(-predictions.losses[numbers], kind="stable")]


def confusion(predictions: Predictions, split: str) -> np.ndarray:
    """Images of a split, int (classes, classes): rows are labels, columns predictions."""
    part = predictions.of(split)
    result = np.zeros((len(part.classes), len(part.classes)), int)
    np.add.at(result, (part.labels, part.predicted), 1)
    return result


def confused_pairs(matrix: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """Label, prediction and images of the `most` frequent mistakes; of equals the rarer label first."""
    wrong = matrix - np.diag(np.diag(matrix))
    found = [(int(label), int(said), int(wrong[label, said])) for label, said in zip(*np.nonzero(wrong), strict=True)]
    return sorted(found, key=lambda pair: (-pair[2], matrix[pair[0]].sum()))[:most]


def label_suspects(predictions: Predictions, neighbours: np.ndarray) -> np.ndarray:
    """Images, bool (images,), whose label may be wrong: model and nearest training images all say the same other.

    `neighbours`: labels, int (images, k), of each one's nearest training images; -1 is none. The model must be as sure
    of the other class as it is of that class's own images on average, which is the rule of confident learning
    (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068), or `SURE`: half of all images are below an average near
    1. The neighbours are asked because of a weak model that rule alone would suspect most mistakes.
    """
    said, own = predictions.predicted, predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    counts = np.bincount(predictions.labels, minlength=len(predictions.classes))
    sums = np.bincount(predictions.labels, own, minlength=len(predictions.classes))
    usual = np.divide(sums, counts, out=np.ones_like(sums), where=counts > 0)
    sure = predictions.probabilities.max(axis=1) >= np.minimum(usual, SURE)[said]
    backed = (neighbours == said[:, None]).all(axis=1)
    return (said != predictions.labels) & sure & backed


def as_csv(predictions: Predictions, numbers: Sequence[int]) -> str:
    """A line an image, in the order of `numbers`, under `COLUMNS`."""
    file = io.StringIO()
    writer = harmless_csv.Writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number in numbers:
        label, said, row = (
            part[number] for part in (predictions.labels, predictions.predicted, predictions.probabilities)
        )
        names = predictions.classes[label], predictions.classes[said]
        values = predictions.losses[number], row[label], row[said]
        writer.writerow([predictions.paths[number], *names, *(f"{value:.6g}" for value in values)])
    return file.getvalue()
