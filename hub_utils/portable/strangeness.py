"""How unlike its training images a picture is to a model: how far its features lie from the directions these took.

Features are scaled to length 1, so that brightness and contrast count for little. The training images' then lie close
to a subspace, that of their principal components; what is left of a picture's outside of it is its strangeness (the
residual of Wang et al. 2022, ViM, https://arxiv.org/abs/2203.10807). Classes have no part in it: neither a rare one nor
one that is never predicted can spoil it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

METHOD = "residual-1"  # another formula is another name: stored statistics and thresholds belong to one
AXES = 32  # of 2,048 features they are 175 kB of base64
FEWEST = 20  # training images; fewer tell no subspace


def strangeness(features: np.ndarray, statistics: Mapping[str, Any]) -> np.ndarray:
    """How strange each picture is, float64 (n,), from 0 to 2; its `features`, float32 (n, width), are what the model's
    head takes, and `statistics` are those of `fit`. Of features that are no finite numbers it is infinite.

    Raises:
        ValueError: the statistics are of another method or another width, or are none.
    """
    mean, axes = _decoded(statistics, "mean", 1), _decoded(statistics, "axes", 2)
    if features.ndim != 2 or features.shape[1] != len(mean):
        raise ValueError(f"features of shape {features.shape} do not go with statistics of {len(mean)}")
    offsets = _directions(features) - mean
    inside = offsets @ axes.T
    outside = (offsets**2).sum(axis=1) - (inside**2).sum(axis=1)
    # The stored axes are rounded, so that nothing may be left of less than nothing.
    return np.where(np.isfinite(outside), np.sqrt(np.maximum(outside, 0)), np.inf)


def fit(features: np.ndarray) -> dict[str, Any]:
    """Statistics for `strangeness`, as JSON takes them, from the features (n, width) of training images.

    `mean` (width,) and `axes` (axes, width), orthonormal rows, are little-endian float16 in base64.

    Raises:
        ValueError: there are fewer than `FEWEST` images whose features are finite numbers.
    """
    directions = _directions(features[np.isfinite(features).all(axis=1)])
    if len(directions) < FEWEST:
        raise ValueError(f"{len(directions)} training images are too few; {FEWEST} are needed")
    mean = directions.mean(axis=0)
    count = min(AXES, features.shape[1] // 2, len(directions) // 2)
    axes = np.linalg.svd(directions - mean, full_matrices=False)[2][:count]
    return {"method": METHOD, "width": len(mean), "mean": _encoded(mean), "axes": _encoded(axes)}


def _directions(features: np.ndarray) -> np.ndarray:
    """Rows of length 1, float64; a row of zeros stays one."""
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _encoded(values: np.ndarray) -> str:
    return base64.b64encode(values.astype("<f2").tobytes()).decode("ascii")


def _decoded(statistics: Mapping[str, Any], name: str, dimensions: int) -> np.ndarray:
    """A float64 array of rows of `width`, or one row."""
    if statistics.get("method") != METHOD:
        raise ValueError(f"strangeness of the method {statistics.get('method')!r}, and only {METHOD!r} is known")
    try:
        values = np.frombuffer(base64.b64decode(statistics[name], validate=True), "<f2").astype(np.float64)
        values = values.reshape(-1, statistics["width"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the statistics of strangeness are broken: {name}: {error}") from error
    if not len(values) or not np.isfinite(values).all() or (dimensions == 1 and len(values) > 1):
        raise ValueError(f"the statistics of strangeness are broken: {name} is no array of finite numbers")
    return values[0] if dimensions == 1 else values
