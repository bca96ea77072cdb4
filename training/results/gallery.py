"""`local/mistakes.png`: the mistakes a model was surest of, and where it looked. It shows images of the data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from training.results.style import new_figure, percent, plain, save, short, show_picture, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 24  # mistakes on the sheet
COLUMNS = 4
STRONGEST = 0.75  # opacity of the map where it peaks: the picture shows through


@dataclass(frozen=True, eq=False)
class Mistake:
    """An image that was taken for another class than its own.

    `image` is what the network saw, `map` (height, width) what spoke for `prediction` in it, at any resolution;
    `confidence` is the probability of `prediction`, from 0 to 1.
    """

    path: str
    image: Image.Image
    map: np.ndarray
    label: str
    prediction: str
    confidence: float


def overlay(image: Image.Image, map: np.ndarray) -> Image.Image:
    """The picture under a heat map of what spoke for a class in it, from nothing to the map's own maximum.

    `map` (height, width) covers the whole picture; what is below 0 in it spoke against the class, and is not shown. If
    nothing spoke for it, or the map is not finite, the picture is returned as it is.
    """
    from matplotlib import colormaps

    image = image.convert("RGB")
    map = np.asarray(map, dtype=np.float32)
    if not np.isfinite(map).all() or map.max(initial=0) <= 0:
        return image
    strength = Image.fromarray(np.maximum(map, 0) / map.max()).resize(image.size, Image.Resampling.BICUBIC)
    strength = np.clip(strength, 0, 1)
    colours = Image.fromarray(colormaps["inferno"](strength, bytes=True)[..., :3])
    opacity = Image.fromarray(np.round(strength * (255 * STRONGEST)).astype(np.uint8))
    return Image.composite(colours, image, opacity)


def plot_mistakes(mistakes: Sequence[Mistake], path: Path, title: str) -> bool:
    """Draw the mistakes of highest confidence, each picture beside itself under its heat map, at most `MOST`.

    Returns whether there was a mistake; else nothing is drawn.
    """
    if mistakes:
        save(mistakes_figure(mistakes, title), path, dpi=110, tight=True)
    return bool(mistakes)


def mistakes_figure(mistakes: Sequence[Mistake], title: str) -> Figure:
    """The figure that `plot_mistakes` saves."""
    chosen = sorted(mistakes, key=lambda each: (-each.confidence, each.path))[:MOST]
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = new_figure(3.9 * columns, 2.55 * rows + 0.5)
    parts = figure.subfigures(rows, columns, squeeze=False).flat
    for each, part in zip(chosen, parts, strict=False):
        plainly, heated = part.subplots(1, 2)
        show_picture(plainly, each.image.convert("RGB"), "")
        show_picture(heated, overlay(each.image, each.map), "")
        said = f"{short(each.label, 24)} → {short(each.prediction, 24)} {percent(each.confidence)}"
        part.suptitle(f"{said}\n{plain(wrapped(each.path, 56))}", fontsize=8)
        for axes in (plainly, heated):
            axes.set_anchor("N")  # what is left of the height is between this picture and the words of the next
    figure.suptitle(plain(title), fontsize=11)
    figure.supxlabel("bright: what spoke for the predicted class", fontsize=8, color="0.4")
    return figure
