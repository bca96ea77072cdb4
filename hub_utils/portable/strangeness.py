"""How unlike its training images a picture is to a model: the sine of the angle between its features and theirs.

Training images leave most directions of the features unused: those of hundreds of kinds of pictures lie close to the
few principal axes of their features. What a picture has outside of these, as a share of its features' length, is its
strangeness (the residual of Wang et al. 2022, ViM, https://arxiv.org/abs/2203.10807, of features that are scaled to
length 1, so that brightness and contrast count for little). Classes have no part in it: neither a rare one nor one that
is never predicted can spoil it. `tests/benchmarks/strangeness.py` holds it against other scores.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

METHOD = "residual-1"  # another formula is another name: stored statistics and thresholds belong to one
AXES = 40
LARGEST = 200_000  # bytes of all axes; a third more in base64
FEWEST = 20  # training images; fewer tell no axes


def strangeness(features: np.ndarray, statistics: Mapping[str, Any]) -> np.ndarray:
    """How strange each picture is, float64 (n,), from 0 to 1, by `features`, float32 (n, width), what the head takes.

    `statistics` are those of `fit`. Of features that are no finite numbers it is infinite; of none but zeros it is 1.

    Raises:
        ValueError: the statistics are of another method or another width, or are broken.
    """
    try:
        axes = _axes(statistics["method"], statistics["width"], statistics["axes"])
    except (KeyError, TypeError, ValueError) as error:  # base64's is a ValueError, too
        raise ValueError(f"the statistics of strangeness are broken, or not known here: {error}") from error
    if features.ndim != 2 or features.shape[1] != axes.shape[1]:
        raise ValueError(f"features of shape {features.shape} do not go with statistics of {axes.shape[1]}")
    finite = np.isfinite(features).all(axis=1)
    result = np.full(len(features), np.inf)
    inside = ((_directions(features[finite]) @ axes.T) ** 2).sum(axis=1)
    result[finite] = np.sqrt(np.maximum(1 - inside, 0))  # the stored axes are rounded
    return result


def fit(features: np.ndarray) -> dict[str, Any]:
    """Statistics for `strangeness`, as JSON takes them, from the features (n, width) of training images.

    `axes` (axes, width), orthonormal rows, are little-endian float16 in base64.

    Raises:
        ValueError: there are fewer than `FEWEST` images whose features are finite numbers, and not all 0.
    """
    directions = _directions(features[np.isfinite(features).all(axis=1) & features.any(axis=1)])
    count, width = directions.shape
    if count < FEWEST:
        raise ValueError(f"{count} training images are too few to say what is strange; {FEWEST} are needed")
    most = max(1, min(AXES, LARGEST // (2 * width), width // 2, count // 2))
    axes = _principal_axes(directions, most)
    return {"method": METHOD, "width": width, "axes": base64.b64encode(axes.astype("<f2").tobytes()).decode("ascii")}


def _principal_axes(directions: np.ndarray, most: int) -> np.ndarray:
    """Orthonormal rows (most, width) or, of images that are nearly copies, fewer; the smaller matrix is the faster."""
    count, width = directions.shape
    values, vectors = np.linalg.eigh(directions @ directions.T if count < width else directions.T @ directions)
    vectors = vectors[:, values > 1e-9 * values[-1]][:, -most:].T
    return _directions(vectors @ directions) if count < width else vectors


def _directions(features: np.ndarray) -> np.ndarray:
    """Rows of length 1, float64; a row of zeros stays one."""
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float64).tiny)


@lru_cache(8)  # of whoever serves several models, once for each and not for each picture
def _axes(method: str, width: int, encoded: str) -> np.ndarray:
    """float64 (axes, width)."""
    if method != METHOD:
        raise ValueError(f"the method is {method!r}, and only {METHOD!r} is known")
    axes = np.frombuffer(base64.b64decode(encoded, validate=True), "<f2").astype(np.float64).reshape(-1, width)
    if not len(axes) or not np.isfinite(axes).all():
        raise ValueError("the axes are no finite numbers")
    return axes
