"""`plots/recall.png`: of the images of each class, how many are found; 120 classes still read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.results import style
from training.results.style import BLUE, SKY, VERMILION, percent, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 120  # of more, the worst and the best
ROWS = 40  # in a column


def plot_recall(per_class: Mapping[str, Mapping[str, Any]], path: Path, title: str) -> bool:
    """Draw the recall of every class with its 95 % interval, the lowest first, and its number of images.

    `per_class` is by class: `{"recall": {"value": 0.9, "interval": [0.8, 0.95]}, "support": 40}`. A class without test
    images is left out, and the plot says so. Returns whether there was one that had some; else nothing is drawn.
    """
    figure = recall_figure(per_class, title)
    if figure is not None:
        style.save(figure, path)
    return figure is not None


def recall_figure(per_class: Mapping[str, Mapping[str, Any]], title: str) -> Figure | None:
    """The figure that `plot_recall` saves."""
    seen = {name: each for name, each in per_class.items() if each["support"]}
    if not seen:
        return None
    names: list[str | None] = sorted(seen, key=lambda name: _rank(name, seen[name]))
    left = len(names) - MOST_CLASSES + 1
    if left > 1:
        half = MOST_CLASSES // 2
        names = [*names[:half], None, *names[1 - half :]]
    mean = sum(each["recall"]["value"] for each in seen.values()) / len(seen)
    notes = [f"mean over the classes {percent(mean)} (dashed)"]
    columns = -(-len(names) // ROWS)
    rows = -(-len(names) // columns)
    figure = style.new_figure(2 + 4 * columns, 1.4 + 0.2 * rows)
    for column, axes in enumerate(figure.subplots(1, columns, squeeze=False).flat):
        part = names[column * rows : (column + 1) * rows]
        _draw(axes, [(name, seen.get(name)) for name in part], rows, mean, left)
    absent = [name for name in per_class if name not in seen]
    if absent:
        notes.append(style.left_out(absent, 80 * columns))
    figure.supxlabel("\n".join(notes), fontsize=8, color="0.4")
    figure.suptitle(style.plain(title), fontsize=11)
    return figure


def _draw(axes: Axes, lines: list[tuple[str | None, Any]], rows: int, mean: float, left: int) -> None:
    """One column; a line without a name stands for the classes that are left out between."""
    axes.axvline(mean, color=VERMILION, linewidth=1, linestyle="--", zorder=0)
    for place, (name, each) in enumerate(lines):
        if name is None:
            continue
        value, interval = each["recall"]["value"], each["recall"]["interval"]
        axes.plot(interval, (place, place), color=SKY, linewidth=3, solid_capstyle="butt", zorder=1)
        axes.plot(value, place, "o", color=BLUE, markersize=5, clip_on=False)
        where = {"xy": (1, place), "xycoords": ("axes fraction", "data"), "xytext": (7, 0)}
        axes.annotate(percent(value), **where, textcoords="offset points", va="center", fontsize=7)
    labels = [f"… {left} classes between …" if name is None else _label(name, each) for name, each in lines]
    axes.set_yticks(range(len(lines)), labels, fontsize=8)
    axes.tick_params(axis="y", length=0, pad=7)
    axes.grid(axis="x", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set(xlim=(0, 1), ylim=(rows - 0.4, -0.6), xlabel="recall, with 95% interval")
    style.in_percent(axes.xaxis)
    style.open_axes(axes)


def _label(name: str, each: Mapping[str, Any]) -> str:
    return f"{short(name, 28)} · {each['support']:,}"


def _rank(name: str, each: Mapping[str, Any]) -> tuple:
    return each["recall"]["value"], -each["support"], name
