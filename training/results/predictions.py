"""`local/predictions.csv`: what a model says of each image, a row an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hub_utils.portable import harmless_csv
from hub_utils.portable.prediction_table import MARK
from hub_utils.portable.whole import replaced
from training.recipe import UserError

FIRST, LAST = ["path", "label", "prediction"], ["group", "split"]


@dataclass(frozen=True)
class Predictions:
    """What a model says of images; everything is in the order of `paths`, classes are in the model's own.

    `labels`: int64 (images,), the index of the true class. `probabilities`: float64 (images, classes), rows sum to 1.
    `groups`: images with the same name belong together; "" stands alone.
    """

    classes: list[str]
    paths: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    groups: list[str]
    splits: list[str]

    @cached_property
    def predicted(self) -> np.ndarray:
        """Index of the likeliest class, (images,)."""
        return self.probabilities.argmax(axis=1)

    @cached_property
    def losses(self) -> np.ndarray:
        """-log of the true class's probability, (images,), in nats; at most that of the smallest float32."""
        own = self.probabilities[np.arange(len(self.labels)), self.labels]
        return -np.log(np.maximum(own, np.finfo(np.float32).tiny))

    def of(self, split: str) -> Predictions:
        """The images of one split."""
        return self.take([number for number, each in enumerate(self.splits) if each == split])

    def take(self, numbers: Sequence[int] | np.ndarray) -> Predictions:
        """Some of the images, in the order of `numbers`."""
        numbers = np.asarray(numbers, dtype=np.int64)
        paths, groups, splits = ([each[n] for n in numbers] for each in (self.paths, self.groups, self.splits))
        return Predictions(self.classes, paths, self.labels[numbers], self.probabilities[numbers], groups, splits)


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write it whole or not at all; probabilities with as many digits as a float32 needs."""
    with replaced(path) as file:
        writer = harmless_csv.Writer(file)
        writer.writerow([*FIRST, *(f"{MARK}{name}" for name in predictions.classes), *LAST])
        names = predictions.classes
        for number, row in enumerate(predictions.probabilities):
            said = [names[predictions.labels[number]], names[predictions.predicted[number]]]
            last = [predictions.groups[number], predictions.splits[number]]
            writer.writerow([predictions.paths[number], *said, *(f"{value:.9g}" for value in row), *last])


def read_predictions(path: Path) -> Predictions:
    """The opposite of `write_predictions`.

    Raises:
        UserError: there is none, or it is not one of ours.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = harmless_csv.read(file)
        classes = [name.removeprefix(MARK) for name in header[len(FIRST) : -len(LAST)]]
        if header != [*FIRST, *(f"{MARK}{name}" for name in classes), *LAST]:
            raise ValueError(f"its columns are {', '.join(header[:3])}, …")
        index = {name: number for number, name in enumerate(classes)}
        labels = np.array([index[row[1]] for row in rows], dtype=np.int64)
        probabilities = np.array([row[len(FIRST) : -len(LAST)] for row in rows], dtype=np.float64)
        probabilities = probabilities.reshape(len(rows), len(classes))
    except (OSError, ValueError, LookupError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"'{path}' cannot be read ({reason}); `python training/eval.py RUN` writes it") from error
    paths, groups, splits = ([row[place] for row in rows] for place in (0, -2, -1))
    return Predictions(classes, paths, labels, probabilities, groups, splits)
