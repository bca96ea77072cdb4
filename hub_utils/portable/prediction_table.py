"""The table of what a model says of many images: a row an image, a probability a class, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MARK = "p_"  # before the name of a class, so that a class called "path" is no trouble


def header(classes: Sequence[str]) -> list[str]:
    return ["path", "prediction", *(f"{MARK}{name}" for name in classes), "error"]


def row(path: str, classes: Sequence[str], probabilities: np.ndarray | None, error: str = "") -> list[str]:
    """Cells in the order of `header`, of float probabilities (classes,): as many digits as a float32 needs."""
    if probabilities is None:
        return [path, "", *("" for _ in classes), error]
    return [path, classes[probabilities.argmax()], *(f"{each:.9g}" for each in probabilities), ""]
