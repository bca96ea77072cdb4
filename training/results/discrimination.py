"""`plots/discrimination.png`: ROC and precision–recall curves, which no threshold is chosen for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.results.style import BLUE, GREY, ORANGE, VERMILION, in_percent, new_figure, open_axes, plain, save, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID = (np.arange(1000) + 0.5) / 1000  # where curves are averaged: the mean over it is the area below
WORST = 3  # classes that are named
MARKS = (("s", VERMILION), ("D", ORANGE))
POINTS = {"at_half": "one half", "at_95_sensitivity": "95% sensitivity in validation"}


@dataclass(frozen=True, eq=False)
class Curves:
    """One class against the rest. ROC is linear between its points; precision holds back to the recall before.

    `roc` is (false positive rates, true positive rates), `precision_recall` is (recalls from 1 to 0, precisions);
    `area` is that under the first, `average_precision` that under the second.
    """

    name: str
    roc: tuple[np.ndarray, np.ndarray]
    precision_recall: tuple[np.ndarray, np.ndarray]
    area: float
    average_precision: float
    share: float


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
    curve at all; else nothing is drawn.
    """
    figure = discrimination_figure(labels, probabilities, classes, title, operating_points or {})
    if figure is not None:
        save(figure, path)
    return figure is not None


def discrimination_figure(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    title: str,
    operating_points: Mapping[str, Mapping[str, Any]],
) -> Figure | None:
    """The figure that `plot_roc_and_precision_recall` saves."""
    present = set(labels.tolist())
    if len(present) < 2:
        return None
    figure = new_figure(9, 5.6 if len(classes) == 2 else 5.3)
    roc, precision_recall = figure.subplots(1, 2)
    if len(classes) == 2:
        curves = one_against_rest(classes[1], labels == 1, probabilities[:, 1])
        _draw_two(roc, precision_recall, curves)
        _mark(roc, precision_recall, labels == 1, probabilities[:, 1], operating_points)
    else:
        every = [
            one_against_rest(name, labels == index, probabilities[:, index])
            for index, name in enumerate(classes)
            if index in present
        ]
        _draw_many(roc, precision_recall, every)
        absent = [short(name, 28) for index, name in enumerate(classes) if index not in present]
        if absent:
            named = ", ".join(absent[:6]) + (f" and {len(absent) - 6} more" if len(absent) > 6 else "")
            figure.supxlabel(f"left out, for they have no test image: {named}", fontsize=8, color="0.4")
    roc.set(xlabel="false positive rate (1 − specificity)", ylabel="sensitivity")
    precision_recall.set(xlabel="recall (sensitivity)", ylabel="precision")
    for axes in (roc, precision_recall):
        axes.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
        in_percent(axes.xaxis, axes.yaxis)
        open_axes(axes)
        what = "area under the curve" if axes is roc else "average precision"
        below = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.14), "alignment": "left"}
        axes.legend(title=what, **below, frameon=False, fontsize=8, title_fontsize=8)
    figure.suptitle(plain(title), fontsize=11)
    return figure


def one_against_rest(name: str, positive: np.ndarray, probability: np.ndarray) -> Curves:
    """Both curves of a class that has images, and is not all there is. `positive` and `probability` are (images,)."""
    from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

    false, true, _ = roc_curve(positive, probability)
    precision, recall, _ = precision_recall_curve(positive, probability)
    precision[-1] = precision[-2]  # it is 1 by definition, where nothing is found
    score = average_precision_score(positive, probability)
    return Curves(
        name, (false, true), (recall, precision), float(auc(false, true)), float(score), float(positive.mean())
    )


def mean_curves(every: Sequence[Curves]) -> tuple[np.ndarray, np.ndarray]:
    """Mean true positive rate and mean precision over the classes at each of `GRID`."""
    roc = [np.interp(GRID, *each.roc) for each in every]
    steps = []
    for each in every:
        recall, precision = (values[::-1] for values in each.precision_recall)
        steps.append(precision[np.searchsorted(recall, GRID, side="left")])
    return np.mean(roc, axis=0), np.mean(steps, axis=0)


def _draw_two(roc: Axes, precision_recall: Axes, curves: Curves) -> None:
    name = short(curves.name, 28)
    roc.plot(*curves.roc, color=BLUE, label=f"{curves.area:.3f}  {name}")
    roc.plot((0, 1), (0, 1), ":", color="0.6", linewidth=1, label="0.500  chance")
    label = f"{curves.average_precision:.3f}  {name}"
    precision_recall.plot(*curves.precision_recall, color=BLUE, drawstyle="steps-post", label=label)
    precision_recall.axhline(curves.share, color="0.6", linestyle=":", linewidth=1, label=f"{curves.share:.3f}  chance")


def _mark(
    roc: Axes, precision_recall: Axes, positive: np.ndarray, probability: np.ndarray, points: Mapping[str, Any]
) -> None:
    """Where the thresholds lie on the curves."""
    for (name, point), (marker, colour) in zip(points.items(), MARKS, strict=False):
        said = probability >= point["threshold"]
        sensitivity, false = said[positive].mean(), said[~positive].mean()
        style = {"color": colour, "linestyle": "", "markeredgecolor": "black", "clip_on": False, "zorder": 3}
        text = f"threshold {point['threshold']:.3g}, {POINTS.get(name, name)}:\nsensitivity {sensitivity:.1%}"
        roc.plot(false, sensitivity, marker, **style, label=f"{text}, specificity {1 - false:.1%}")
        if said.any():
            precision = positive[said].mean()
            precision_recall.plot(sensitivity, precision, marker, **style, label=f"{text}, precision {precision:.1%}")


def _draw_many(roc: Axes, precision_recall: Axes, every: Sequence[Curves]) -> None:
    true, precision = mean_curves(every)
    for each in every:
        roc.plot(*each.roc, color=GREY, linewidth=0.8, alpha=0.6)
        precision_recall.plot(*each.precision_recall, color=GREY, linewidth=0.8, alpha=0.6, drawstyle="steps-post")
    areas = {each: each.area for each in every}
    scores = {each: each.average_precision for each in every}
    for axes, values, curve in ((roc, areas, "roc"), (precision_recall, scores, "precision_recall")):
        steps = {"drawstyle": "steps-post"} if axes is precision_recall else {}
        mean = np.mean(list(values.values()))
        averaged = precision if axes is precision_recall else true
        axes.plot(GRID, averaged, color=BLUE, linewidth=2, label=f"{mean:.3f}  mean of {len(every)} classes")
        worst = sorted((each for each in every if values[each] < 1), key=lambda each: (values[each], each.name))
        for each, dashes in zip(worst[:WORST], ("--", "-.", ":"), strict=False):
            label = f"{values[each]:.3f}  {short(each.name, 28)}"
            axes.plot(*getattr(each, curve), dashes, color=VERMILION, linewidth=1.2, label=label, **steps)
    roc.plot((0, 1), (0, 1), ":", color="0.6", linewidth=1)
