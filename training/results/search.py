"""`plots/search.png`: each value that was searched against what the trials came to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training.fitting.space import SPACE
from training.results.style import BLUE, GREY, VERMILION, new_figure, open_axes, plain, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from training.fitting.study import Trial


def plot_search(trials: Sequence[Trial], best: Trial | None, path: Path, title: str, measured: str) -> None:
    """Draw a point a trial; one that was ended early is hollow, one that came to nothing is left out and counted."""
    save(search_figure(trials, best, title, measured), path)


def search_figure(trials: Sequence[Trial], best: Trial | None, title: str, measured: str) -> Figure:
    """The figure that `plot_search` saves; `measured` is what the results are."""
    figure = new_figure(9, 3.4)
    axes = figure.subplots(1, len(SPACE), sharey=True)
    shown = [each for each in trials if each.result is not None]
    for axis, searched in zip(axes, SPACE, strict=True):
        values = [each.values[searched.name] for each in shown]
        if searched.choices:  # side by side: 0 has no place on an axis of factors
            ticks = sorted(set(values) | set(searched.choices))
            axis.set_xticks(range(len(ticks)), [f"{each:g}" for each in ticks])
            axis.set_xlim(-0.5, len(ticks) - 0.5)
            values = [ticks.index(each) for each in values]
        else:
            axis.set_xscale("log")
        for x, each in zip(values, shown, strict=True):
            filled = BLUE if each.state == "finished" else "none"
            axis.plot(x, each.result, "o", color=BLUE, markerfacecolor=filled, markersize=5)
            if each.number == 1:
                axis.plot(x, each.result, "s", color=GREY, markerfacecolor="none", markersize=11)
            if best is not None and each.number == best.number:
                axis.plot(x, each.result, "*", color=VERMILION, markersize=13)
        axis.set_xlabel(searched.title)
        open_axes(axis)
        axis.margins(y=0.1)
    axes[0].set_ylabel(measured)
    figure.legend(handles=_legend(trials), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(plain(title), fontsize=11)
    return figure


def _legend(trials: Sequence[Trial]) -> list:
    from matplotlib.lines import Line2D

    def entry(marker: str, colour: str, label: str, filled: bool = True, size: float = 5) -> Line2D:
        face = colour if filled else "none"
        return Line2D(
            [], [], linestyle="", marker=marker, color=colour, markerfacecolor=face, markersize=size, label=label
        )

    entries = [entry("o", BLUE, "a trial"), entry("*", VERMILION, "chosen", size=10)]
    entries.append(entry("s", GREY, "the recipe's own values", filled=False, size=8))
    if any(each.state == "ended early" for each in trials):
        entries.append(entry("o", BLUE, "ended early", filled=False))
    lost = sum(each.result is None for each in trials)
    if lost:
        entries.append(entry("", GREY, f"{lost} came to nothing: no number"))
    return entries
