"""`plots/curves.png`: loss and accuracy by epoch, with the switch between stages marked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.results.style import BLUE, VERMILION, in_percent, new_figure, open_axes, plain, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAIN, VALIDATION = (BLUE, "--", "o"), (VERMILION, "-", "s")


def plot_curves(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the rows of `log_history.csv` (see `history_rows`); epochs are counted through all stages."""
    save(curves_figure(rows, title), path)


def curves_figure(rows: list[dict[str, Any]], title: str) -> Figure:
    """The figure that `plot_curves` saves."""
    from matplotlib.ticker import MaxNLocator

    epochs, switches = _count_through(rows)
    figure = new_figure(9, 3.4)
    axes = figure.subplots(1, 2)
    for axis, value in zip(axes, ("loss", "accuracy"), strict=True):
        for name, (colour, dashes, marker) in {"train": TRAIN, "validation": VALIDATION}.items():
            points = [(x, row[f"{name}_{value}"]) for x, row in zip(epochs, rows, strict=True)]
            points = [point for point in points if point[1] is not None]
            label = "training (augmented)" if name == "train" else name
            marker = marker if len(points) <= 40 else None
            axis.plot(*zip(*points, strict=True), dashes, color=colour, marker=marker, markersize=3.5, label=label)
        for x, stage in switches:
            if x > epochs[0]:
                axis.axvline(x, color="0.6", linewidth=1, linestyle=":")
            axis.annotate(
                plain(stage), (x, 1), (3, -3), xycoords=("data", "axes fraction"), textcoords="offset points",
                va="top", color="0.4", fontsize=8,
            )  # fmt: skip
        axis.set_xlim(switches[0][0] - 0.1, epochs[-1] + 0.5)
        axis.set_xlabel("epoch")
        axis.set_ylabel(value)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        open_axes(axis)
        axis.margins(y=0.12)
    in_percent(axes[1].yaxis)
    axes[1].set_ylim(top=min(1.02, axes[1].get_ylim()[1]))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(plain(title), fontsize=11)
    return figure


def _count_through(rows: list[dict[str, Any]]) -> tuple[list[float], list[tuple[float, str]]]:
    """Epochs counted through all stages, and where each stage begins, half an epoch before its first point."""
    epochs: list[float] = []
    switches: list[tuple[float, str]] = []
    offset = 0.0
    for index, row in enumerate(rows):
        if index == 0 or row["stage"] != rows[index - 1]["stage"]:
            offset = epochs[-1] if epochs else 0.0
            switches.append((offset + row["epoch"] / 2, row["stage"]))
        epochs.append(offset + row["epoch"])
    return epochs, switches
