"""`plots/confusion.png`: which classes are taken for which; thirty and 120 classes still read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.results.style import BLUE, VERMILION, new_figure, plain, save, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

# Classes at most: with percents in the cells, with counts in the cells, with every class named.
SPACIOUS, NUMBERED, NAMED = 12, 40, 130
LEAST, MOST = 10, 25  # pairs listed: those of one image only until there are so many
PITCH = 13 / 72  # of their lines, in inches
TICKS = (0, 0.01, 0.05, 0.2, 0.5, 1)


def plot_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str], path: Path, title: str) -> None:
    """Draw counts (classes, classes), rows true and columns predicted; each row is shaded by its shares.

    Right and wrong have a hue each, and shade goes by the root of the share: one mistake in a hundred is still seen
    beside a full diagonal. Of many classes, the pairs that are confused most stand beside the matrix.
    """
    save(confusion_figure(np.asarray(confusion), classes, title), path, tight=True)


def confusion_figure(confusion: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """The figure that `plot_confusion` saves. It is as large as the matrix alone: the rest stands around it."""
    side = _side(len(classes))
    figure = new_figure(side, side)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    names = [short(name, 28) for name in classes]
    _draw_cells(axes, confusion)
    _name_classes(axes, names)
    _draw_scale(axes.inset_axes((1 + 0.2 / side, 1 - 1.8 / side, 0.3 / side, 1.8 / side)))
    if (confusion.sum(axis=1) == 0).any():
        where = {"xy": (1, 1), "xycoords": "axes fraction", "xytext": (15, -180), "textcoords": "offset points"}
        axes.annotate("grey: no\ntest image", **where, fontsize=7)
    if len(classes) > SPACIOUS:
        _list_pairs(axes, confusion, names, most=min(MOST, int(side / PITCH) - 2))
    axes.set_title(plain(title), fontsize=11, pad=22)
    return figure


def _side(count: int) -> float:
    """Inches of the matrix: cells hold what is written in them, and names stand line by line."""
    cell = 0.7 if count <= SPACIOUS else 0.27 if count <= NUMBERED else 0.105
    return float(np.clip(count * cell, 2, NAMED * 0.105))


def _step(count: int) -> int:
    """From one class that is named to the next."""
    return -(-count // NAMED)


def _draw_cells(axes: Axes, confusion: np.ndarray) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    count = len(confusion)
    shares = _shares(confusion)
    right = np.eye(count, dtype=bool)
    for hue, hidden in ((BLUE, ~right), (VERMILION, right)):
        cells = np.ma.masked_invalid(np.ma.array(shares, mask=hidden))
        axes.imshow(cells, cmap=_shades(hue), norm=_root(), aspect="equal", interpolation="nearest")
    axes.set_facecolor("0.9")  # shows where a class has no test image
    every = 1 if count <= NUMBERED else 10 * _step(count)
    edges = np.arange(0, count + 1, every) - 0.5
    axes.hlines(edges, -0.5, count - 0.5, color="0.85", linewidth=0.5)
    axes.vlines(edges, -0.5, count - 0.5, color="0.85", linewidth=0.5)
    if count > NUMBERED:
        return
    cells = [Rectangle((place - 0.5, place - 0.5), 1, 1) for place in range(count)]
    frames = {
        "facecolor": "none",
        "edgecolor": "0.3",
        "linewidth": 0.96,
        "zorder": 3,
        "clip_on": False,
    }  # print has no hues
    axes.add_collection(PatchCollection(cells, **frames))
    places = list(zip(*np.nonzero(confusion), strict=True))
    decimals = 0 if all(round(100 * shares[place], 9).is_integer() for place in places) else 1
    for row, column in places:
        share, text = shares[row, column], f"{confusion[row, column]}"
        how = {"ha": "center", "va": "center", "color": "white" if _root()(share) > 0.6 else "black"}
        if count <= SPACIOUS:
            axes.text(column, row - 0.12, text, **how, fontsize=min(12, 60 / len(text)))
            axes.text(column, row + 0.22, _percent(share, decimals), **how, fontsize=7)
        else:
            axes.text(column, row, text, **how, fontsize=min(8, 25 / len(text)))


def _name_classes(axes: Axes, names: list[str]) -> None:
    every = _step(len(names))
    places = range(0, len(names), every)
    size = 8 if len(names) <= NUMBERED else 6
    upright = len(names) > SPACIOUS or max(map(len, names)) > 9
    axes.set_xticks(places, names[::every], fontsize=size, rotation=90 if upright else 0)
    axes.set_yticks(places, names[::every], fontsize=size)
    axes.tick_params(length=0 if len(names) <= NUMBERED else 2)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true" if every == 1 else f"true (one class in {every} is named)")


def _draw_scale(axes: Axes) -> None:
    ramp = np.linspace(1, 0, 256)[:, None] ** 2
    for place, hue in enumerate((BLUE, VERMILION)):
        axes.imshow(ramp, cmap=_shades(hue), norm=_root(), aspect="auto", extent=(place, place + 1, 0, 1))
    axes.set(xlim=(0, 2), ylim=(0, 1))
    axes.set_xticks([0.5, 1.5], ["right", "wrong"], rotation=90, fontsize=7)
    axes.set_yticks(_root()(TICKS), [f"{share:.0%}" for share in TICKS], fontsize=7)
    axes.tick_params(length=2, bottom=False, left=False, right=True, labelleft=False, labelright=True)
    axes.spines[:].set(color="0.7", linewidth=0.5)
    axes.set_title("share of the true class", fontsize=7, loc="left")


def _list_pairs(axes: Axes, confusion: np.ndarray, names: list[str], most: int) -> None:
    """The pairs that are confused most, in lines beside the scale: by count, then by share.

    Of pairs that happened once there are many, and another test would have others: they fill up to `LEAST` lines.
    """
    shares = _shares(confusion)
    pairs = [(row, column) for row, column in zip(*np.nonzero(confusion), strict=True) if row != column]
    pairs.sort(key=lambda pair: (-confusion[pair], -shares[pair], pair))
    several = sum(confusion[pair] > 1 for pair in pairs)
    shown = pairs[: min(max(several, LEAST), most)]
    shown = pairs if len(pairs) == len(shown) + 1 else shown  # a line more says it, too
    lines = [("most confused", "true → predicted")] if pairs else [("no mistakes", "")]
    for true, predicted in shown:
        counted = f"{confusion[true, predicted]:,} of {confusion[true].sum():,}"
        lines.append((counted, f"{names[true]} → {names[predicted]}"))
    if len(shown) < len(pairs):
        once = ", of one image each" if several <= len(shown) else ""
        lines += [("", f"… and {len(pairs) - len(shown):,} pairs more{once}")]
    for number, (counted, pair) in enumerate(lines):
        for x, text, side in ((150, counted, "right"), (158, pair, "left")):
            axes.annotate(
                text, (1, 1), (x, -number * PITCH * 72), xycoords="axes fraction", textcoords="offset points",
                ha=side, va="top", fontsize=8, color="0.4" if number == 0 else "black",
            )  # fmt: skip


def _shares(confusion: np.ndarray) -> np.ndarray:
    """Of each true class, NaN where it has no image."""
    totals = confusion.sum(axis=1, keepdims=True).astype(float)
    return np.divide(confusion, totals, out=np.full(confusion.shape, np.nan), where=totals > 0)


def _percent(share: float, decimals: int) -> str:
    """Of a row they come to 100; nearly nothing and nearly all are not called nothing and all."""
    text, least = f"{share:.{decimals}%}", 10.0**-decimals
    if share < 1 and text == f"{1:.{decimals}%}":
        return f">{100 - least:.{decimals}f}%"
    return f"<{least:g}%" if text == f"{0:.{decimals}%}" else text


def _root() -> Normalize:
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, 0, 1)


def _shades(hue: str) -> Colormap:
    """From white to the hue, and on to half as bright, so that print has the whole range."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    dark = tuple(0.55 * value for value in to_rgb(hue))
    return LinearSegmentedColormap.from_list("shades", [(0, "white"), (0.7, hue), (1, dark)])
