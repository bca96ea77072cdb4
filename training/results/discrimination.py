"""`plots/discrimination.png`: ROC and precision–recall curves, which need no threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.results import style
from training.results.style import BLUE, GREY, ORANGE, VERMILION, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID = (np.arange(1000) + 0.5) / 1000  # where curves are averaged: the mean over it is the area below
GREEN, PURPLE = "#009E73", "#CC79A7"  # Okabe and Ito's, too
WORST = (("--", VERMILION), ("-.", GREEN), (":", PURPLE))  # the classes that are named; dashes are for print
MARKS = (("s", VERMILION), ("D", ORANGE))
POINTS = {"at_half": "", "at_95_sensitivity": " (95% sensitivity in validation)"}


@dataclass(frozen=True, eq=False)
class Curve:
    """Points of a class's curve, in the order of its thresholds, and the area under it.

    A ROC curve is false positive rate and true positive rate, with straight lines between. The other is recall, from 1
    to 0, and precision, which is kept from each recall down to the next: the area of those steps is average precision.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    area: float


def plot_roc_and_precision_recall(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    path: Path,
    title: str,
    operating_points: Mapping[str, Mapping[str, Any]] | None = None,
) -> bool:
    """Draw both curves of `labels` (images,) and `probabilities` (images, classes).

    Of two classes it is the second that is looked for, and operating points, `{"at_half": {"threshold": 0.5}}`, are
    marked. Of more, each is told from all the others: every curve is pale, the mean over the classes is strong, and the
    worst are named. A class without images in the test is left out, and the plot says so. Returns whether there is a
    curve at all, for which two classes are needed; else nothing is drawn.
    """
    figure = discrimination_figure(labels, probabilities, classes, title, operating_points or {})
    if figure is not None:
        style.save(figure, path, tight=True)
    return figure is not None


def discrimination_figure(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    title: str,
    operating_points: Mapping[str, Mapping[str, Any]],
) -> Figure | None:
    """The figure that `plot_roc_and_precision_recall` saves."""
    present = np.unique(labels)
    if len(present) < 2:
        return None
    figure = style.new_figure(9, 5.4)
    left, right = figure.subplots(1, 2)
    left.plot((0, 1), (0, 1), ":", color="0.6", linewidth=1, label="0.500  chance")
    looked_for = present if len(classes) > 2 else [1]
    every = [one_against_rest(classes[index], labels == index, probabilities[:, index]) for index in looked_for]
    for axes, curves in zip((left, right), zip(*every, strict=True), strict=True):
        _draw(axes, curves, mean_roc if axes is left else mean_precision_recall)
    if len(classes) == 2:
        share = (labels == 1).mean()
        right.axhline(share, color="0.6", linestyle=":", linewidth=1, label=f"{share:.3f}  chance")
        _mark(left, right, labels == 1, probabilities[:, 1], operating_points)
    absent = [name for index, name in enumerate(classes) if index not in present]
    if absent:
        left.plot([], [], " ", label=style.left_out(absent, 56))
    left.set(xlabel="false positive rate (1 − specificity)", ylabel="sensitivity")
    right.set(xlabel="recall (sensitivity)", ylabel="precision")
    for axes, area in ((left, "area under the curve"), (right, "average precision")):
        axes.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
        style.in_percent(axes.xaxis, axes.yaxis)
        style.open_axes(axes)
        below = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.14), "alignment": "left"}
        axes.legend(title=area, **below, frameon=False, fontsize=8, title_fontsize=8)
    figure.suptitle(style.plain(title), fontsize=11)
    return figure


def one_against_rest(name: str, positive: np.ndarray, probability: np.ndarray) -> tuple[Curve, Curve]:
    """ROC and precision–recall of a class that has some of the images and not all; both arrays are (images,)."""
    from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

    false, true, _ = roc_curve(positive, probability)
    precision, recall, _ = precision_recall_curve(positive, probability)
    precision[-1] = precision[-2]  # where nothing is found it is 1 by definition
    area = float(average_precision_score(positive, probability))
    return Curve(name, false, true, float(auc(false, true))), Curve(name, recall, precision, area)


def mean_roc(curves: Sequence[Curve]) -> np.ndarray:
    """Mean true positive rate of the classes at each false positive rate of `GRID`."""
    return np.mean([np.interp(GRID, curve.x, curve.y) for curve in curves], axis=0)


def mean_precision_recall(curves: Sequence[Curve]) -> np.ndarray:
    """Mean precision of the classes at each recall of `GRID`."""
    return np.mean([curve.y[::-1][np.searchsorted(curve.x[::-1], GRID)] for curve in curves], axis=0)


def _draw(axes: Axes, curves: Sequence[Curve], mean: Any) -> None:
    how = {"drawstyle": "steps-post"} if mean is mean_precision_recall else {}
    if len(curves) == 1:
        axes.plot(curves[0].x, curves[0].y, color=BLUE, label=_label(curves[0].area, curves[0].name), **how)
        return
    for curve in curves:
        axes.plot(curve.x, curve.y, color=GREY, linewidth=0.8, alpha=0.6 if len(curves) <= 40 else 0.3, **how)
    area = np.mean([curve.area for curve in curves])
    axes.plot(GRID, mean(curves), color=BLUE, linewidth=2, label=_label(area, f"mean of {len(curves)} classes"))
    worst = sorted((curve for curve in curves if curve.area < 0.9995), key=lambda curve: curve.area)
    for curve, (dashes, colour) in zip(worst, WORST, strict=False):
        label = _label(curve.area, curve.name)
        axes.plot(curve.x, curve.y, dashes, color=colour, linewidth=1.4, label=label, **how)


def _label(area: float, name: str) -> str:
    """The number first: a legend leaves out what begins with an underscore."""
    return f"{area:.3f}  {short(name, 28)}"


def _mark(
    left: Axes, right: Axes, positive: np.ndarray, probability: np.ndarray, points: Mapping[str, Mapping[str, Any]]
) -> None:
    """Where the thresholds lie on the curves."""
    for (name, point), (marker, colour) in zip(points.items(), MARKS, strict=False):
        if point["threshold"] is None:  # undefined: validation has nothing to choose it by
            continue
        # At one half the predicted class is what is said, and argmax takes the first of two equals.
        said = probability > 0.5 if point["threshold"] == 0.5 else probability >= point["threshold"]
        sensitivity, specificity = said[positive].mean(), 1 - said[~positive].mean()
        threshold = f"{point['threshold']:.{3 if point['threshold'] < 0.995 else 6}g}"  # of nearly 1 it is not 1
        text = f"threshold {threshold}{POINTS.get(name, f' ({name})')}:\nsensitivity {sensitivity:.1%}"
        look = {"color": colour, "linestyle": "", "markeredgecolor": "black", "clip_on": False, "zorder": 3}
        left.plot(1 - specificity, sensitivity, marker, **look, label=f"{text}, specificity {specificity:.1%}")
        if said.any():
            precision = positive[said].mean()
            right.plot(sensitivity, precision, marker, **look, label=f"{text}, precision {precision:.1%}")
