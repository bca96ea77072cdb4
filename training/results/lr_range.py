"""What a learning-rate range test has found: its curve, the rate that it suggests, and `plots/lr_range.png`.

The suggestion is a tenth of the rate at which the smoothed loss was lowest (as fastai's `lr_find` has it, "minimum /
10"). The lowest place hangs on many steps together, and so moves little. On twenty curves of a hundred steps made by
hand with much noise, suggestions were at most 2.7 times apart, where those of the steepest place were 11 times; with
three seeds of digits 2.3 times, where those of the longest fall (fastai's "valley") were 8 times.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hub_utils.portable.whole import replaced
from training.results.style import BLUE, GREY, VERMILION, new_figure, open_axes, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEGINNING = 10  # steps at rates too small to change anything: where the loss began
LEAST = 20  # steps, with fewer of which a curve says nothing
SMOOTHING = 0.9  # of the mean so far; fastai's 0.98 looks back over half of a hundred steps
BLOWN_UP = 4  # times the lowest loss, as in fastai, where that is also more than at the beginning
CLEAR = 1.5  # times the noise of single steps: a fall of less may be chance, see tests/test_lr_range.py
COLUMNS = ("stage", "step", "learning_rate", "loss", "smoothed_loss")


@dataclass(frozen=True)
class Curve:
    """The loss of each step of a stage's test, as its batch met it, beside the learning rate of that step."""

    stage: str
    learning_rate: float  # the recipe's own, as the flags change it
    rates: Sequence[float]
    losses: Sequence[float]  # finite

    @cached_property
    def smoothed(self) -> list[float]:
        """The exponential mean of the losses so far, without the bias of its beginning."""
        return smooth(self.losses)

    @cached_property
    def lowest(self) -> int:
        """Where the smoothed loss is lowest, once it is the mean of several."""
        count = len(self.smoothed)
        return min(range(min(BEGINNING, count - 1), count), key=self.smoothed.__getitem__)

    @property
    def before(self) -> float:
        """The loss at the beginning."""
        return fmean(self.losses[:BEGINNING])

    @property
    def suggested(self) -> float | None:
        """The learning rate, to two digits; None where the curve says nothing."""
        return None if self._unclear else float(f"{self.rates[self.lowest] / 10:.1e}")

    @property
    def why(self) -> str:
        """The reason for the suggestion, or for none, in a line."""
        if self._unclear:
            return self._unclear
        at, loss = self.rates[self.lowest], self.smoothed[self.lowest]
        still = "" if self.lowest < len(self.losses) - 1 else ", the highest that was tried: still falling"
        return f"a tenth of {at:.1e}, where the smoothed loss was lowest ({loss:.3g}, from {self.before:.3g}){still}"

    @cached_property
    def _unclear(self) -> str | None:
        """Why nothing is suggested, if so."""
        if len(self.losses) < LEAST:
            return (
                f"the loss blew up within {len(self.losses)} steps, at a rate of {self.rates[-1]:.1e} at most"
                if self.losses
                else "the loss was no number from the first step on"
            )
        fall, noise = self.before - self.smoothed[self.lowest], self._noise
        if fall > CLEAR * noise:
            return None
        return f"the loss never fell clearly: by {max(fall, 0):.2g} at most, where single steps differ by {noise:.2g}"

    @property
    def _noise(self) -> float:
        """The standard deviation of single steps about the curve, from their differences until it was lowest."""
        until = self.losses[: max(self.lowest + 1, LEAST)]
        return math.sqrt(fmean((after - before) ** 2 for before, after in pairwise(until)) / 2)


def smooth(losses: Sequence[float]) -> list[float]:
    """The exponential mean up to each loss, divided by the share of its weights that there are yet."""
    mean, smoothed = 0.0, []
    for step, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING**step))
    return smoothed


def has_blown_up(losses: Sequence[float]) -> bool:
    """Whether the test can end: the last loss is no finite number, or the smoothed one far above its lowest."""
    if losses and not math.isfinite(losses[-1]):
        return True
    if len(losses) <= BEGINNING:
        return False
    smoothed = smooth(losses)[BEGINNING:]  # the first are means of too few
    return smoothed[-1] > max(BLOWN_UP * min(smoothed), fmean(losses[:BEGINNING]))


def write_curves(curves: Sequence[Curve], path: Path) -> None:
    """Write `lr_range.csv`: a row a step."""
    with replaced(path) as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for curve in curves:
            for step, values in enumerate(zip(curve.rates, curve.losses, curve.smoothed, strict=True), 1):
                writer.writerow((curve.stage, step, *(f"{value:.6g}" for value in values)))


def curve_facts(curve: Curve) -> dict[str, Any]:
    """What `lr_range.json` says of a stage."""
    return {
        "stage": curve.stage,
        "learning_rate": curve.learning_rate,
        "suggested": curve.suggested,
        "why": curve.why,
        "steps": len(curve.losses),
    }


def plot_lr_range(curves: Sequence[Curve], path: Path, title: str) -> None:
    """Draw the loss against the learning rate, a picture a stage, with the suggestion and the recipe's own rate."""
    save(lr_range_figure(curves, title), path)


def lr_range_figure(curves: Sequence[Curve], title: str) -> Figure:
    """The figure that `plot_lr_range` saves."""
    figure = new_figure(max(5.0, 4.5 * len(curves)), 3.6)
    (row,) = figure.subplots(1, len(curves), squeeze=False)
    for axes, curve in zip(row, curves, strict=True):
        _draw(axes, curve)
    row[0].set_ylabel("training loss")
    handles = dict(zip(*reversed(row[0].get_legend_handles_labels()), strict=True))
    for axes in row[1:]:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    where = {"loc": "outside lower center", "ncols": 4, "frameon": False, "fontsize": 8}
    figure.legend(handles.values(), handles.keys(), **where)
    figure.suptitle(plain(title), fontsize=11)
    return figure


def _draw(axes: Axes, curve: Curve) -> None:
    axes.plot(curve.rates, curve.losses, ".", color=GREY, markersize=3, label="loss of a step")
    axes.plot(curve.rates, curve.smoothed, color=BLUE, label="smoothed")
    axes.axvline(curve.learning_rate, color="0.4", linewidth=1, linestyle=":", label="the recipe's rate")
    if curve.suggested is not None:
        axes.axvline(curve.suggested, color=VERMILION, linewidth=1.2, linestyle="--", label="suggested")
    axes.set_xscale("log")
    if curve.losses:  # what blew up may be a thousand times higher than all that matters
        low, high = min(curve.losses), max(curve.smoothed[: curve.lowest + 1])
        axes.set_ylim(low - 0.08 * (high - low), high + 0.35 * (high - low) + 1e-6)
    axes.set_xlabel("learning rate")
    says = "nothing suggested" if curve.suggested is None else f"suggested {curve.suggested:.1e}"
    axes.set_title(plain(f"{curve.stage}: {says}"), fontsize=9, loc="left", color="0.3")
    open_axes(axes)
