"""`plots/reliability.png`: whether a model is right as often as it says it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.results.metrics import wilson_interval
from training.results.style import BLUE, SKY, in_percent, new_figure, open_axes, plain, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_reliability(
    bins: Sequence[Mapping[str, Any]], path: Path, title: str, ece: float | None, grouped: bool = False
) -> None:
    """Draw accuracy against confidence, a point a bin with its 95 % interval, and below how many images each bin has.

    A bin has `low`, `high`, its mean `confidence` and its `accuracy`, from 0 to 1, and a number of `images`; one
    without images is not drawn. The interval is Wilson's, of images that have nothing to do with each other; where
    some are `grouped` it is too narrow, and the plot says what it takes them for. `ece` is the expected calibration
    error, from 0 to 1.
    """
    save(reliability_figure(bins, title, ece, grouped), path)


def reliability_figure(
    bins: Sequence[Mapping[str, Any]], title: str, ece: float | None, grouped: bool = False
) -> Figure:
    """The figure that `plot_reliability` saves."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    bins = [each for each in bins if each["images"]]
    figure = new_figure(4.8, 6.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    above.plot((0, 1), (0, 1), ":", color="0.6", linewidth=1)
    for each in bins:
        interval = wilson_interval(round(each["accuracy"] * each["images"]), each["images"])
        above.plot((each["confidence"],) * 2, interval, color=SKY, linewidth=3, solid_capstyle="butt")
    points = [(each["confidence"], each["accuracy"]) for each in bins]
    above.plot(*zip(*points, strict=True), "o", color=BLUE, markersize=7, markeredgecolor="white", clip_on=False)
    above.annotate("too timid", (0.03, 0.97), va="top", color="0.5", fontsize=8)
    above.annotate("too sure", (0.97, 0.03), ha="right", color="0.5", fontsize=8)
    said = "dotted: right as often as it says"
    said = said if ece is None else f"expected calibration error {ece:.1%}  ·  {said}"
    taken = "\n(images taken as independent)" if grouped else ""
    above.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", ylabel="accuracy, with 95% interval" + taken)
    above.set_title(said, fontsize=8)
    for each in bins:
        width = each["high"] - each["low"]
        middle = each["low"] + width / 2
        below.bar(middle, each["images"], width, color=BLUE, edgecolor="white", linewidth=1)
        where = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center"}
        below.annotate(f"{each['images']:,}", (middle, each["images"]), **where, fontsize=6)
    below.set(xlabel="confidence: probability of the predicted class", ylabel="images")
    below.margins(y=0.25)
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    below.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    in_percent(above.xaxis, above.yaxis)
    open_axes(above)
    open_axes(below)
    figure.suptitle(plain(title), fontsize=11)
    return figure
