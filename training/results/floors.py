"""Floors: what can be scored without looking at what the pictures show. A network has to beat them, not chance."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from training.data.images import Facts
from training.data.splits import Row
from training.results.intervals import numbered, share_interval

LEAST = 1e-9  # deviation of a statistic; less is what rounding leaves of equal ones
MOST = 10_000  # test images that are looked up: ± 1 point is enough, and the time stays linear


@dataclass(frozen=True)
class Floor:
    """Right answers among `images` test images, with Wilson's 95 % interval from `low` to `high`; all from 0 to 1.

    Images that belong together count as fewer, as in `intervals.share_interval`.

    `says` is the class that is always answered, where one is.
    """

    accuracy: float
    low: float
    high: float
    images: int
    says: str | None = None


def majority(rows: Iterable[Row]) -> Floor:
    """Always the class that is commonest in training; of equals, the first by name.

    Raises:
        ValueError: training or test is empty.
    """
    train, test = _parts(rows)
    counts = Counter(row.label for row in train)
    says = min(counts, key=lambda label: (-counts[label], label))
    return _floor([row.label == says for row in test], test, says)


def colour_neighbour(rows: Iterable[Row], facts: Mapping[str, Facts]) -> Floor:
    """The class of the training image whose 15 colour statistics are nearest, in units of their training deviation.

    `facts` are by path. Of more than `MOST` test images, every second, third, … is asked.

    Raises:
        ValueError: training or test is empty.
    """
    import cv2
    import numpy as np

    train, test = _parts(rows)
    test = test[:: -(-len(test) // MOST)]
    colours = [
        np.frombuffer(b"".join(facts[row.path].colours for row in part), np.float16).reshape(-1, 15).astype(float)
        for part in (train, test)
    ]
    deviation = colours[0].std(axis=0)
    deviation[deviation < LEAST] = 1
    known, asked = ((part / deviation).astype(np.float32) for part in colours)
    _, nearest = cv2.batchDistance(asked, known, cv2.CV_32F, normType=cv2.NORM_L2SQR, K=1)
    return _floor([row.label == train[number].label for row, number in zip(test, nearest.ravel(), strict=True)], test)


def file_neighbour(rows: Iterable[Row], facts: Mapping[str, Facts]) -> Floor:
    """The commonest class of the training images with the same width, height, mode and format; else the majority's.

    Raises:
        ValueError: training or test is empty.
    """
    train, test = _parts(rows)
    counts: dict[tuple, Counter] = {}
    for row in sorted(train, key=lambda row: row.label):
        counts.setdefault(_kind(facts[row.path]), Counter())[row.label] += 1
    overall = Counter(row.label for row in sorted(train, key=lambda row: row.label))
    right = [counts.get(_kind(facts[row.path]), overall).most_common(1)[0][0] == row.label for row in test]
    return _floor(right, test)


def shuffled(rows: list[Row], seed: int) -> list[Row]:
    """The same rows with their splits drawn by lot: as if nobody knew of copies, patients or the data's own splits."""
    splits = [row.split for row in rows]
    random.Random(seed).shuffle(splits)
    return [replace(row, split=split) for row, split in zip(rows, splits, strict=True)]


def _parts(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Training and test; validation serves neither."""
    rows = list(rows)
    train, test = ([row for row in rows if row.split == split] for split in ("train", "test"))
    if not train or not test:
        raise ValueError("a floor needs training and test images")
    return train, test


def _kind(facts: Facts) -> tuple:
    return facts.width, facts.height, facts.mode, facts.format


def _floor(right: Sequence[bool], test: Sequence[Row], says: str | None = None) -> Floor:
    import numpy as np

    groups = numbered([row.group or row.path for row in test])
    return Floor(sum(right) / len(test), *share_interval(np.array(right), groups), len(test), says)
