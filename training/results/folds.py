"""`plots/folds.png`: how each fold did, and their mean with its interval."""

from pathlib import Path
from typing import Any

from training.results.style import BLUE, VERMILION, in_percent, new_figure, open_axes, plain, save

FOLD, MEAN = BLUE, VERMILION


def plot_folds(summary: dict[str, Any], path: Path, title: str) -> None:
    """Draw `folds.json`: a point a fold, the mean as a line, its approximate 95 % interval as a band."""
    from matplotlib.ticker import MaxNLocator

    numbers = range(1, len(summary["results"]) + 1)
    figure = new_figure(9, 3.4)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (name, shown) in zip(axes, {"accuracy": "accuracy", "macro_f1": "macro F1"}.items(), strict=True):
        over_folds = summary[name]
        mean, (low, high) = over_folds["mean"], over_folds["interval"]
        axis.axhspan(low, high, color=MEAN, alpha=0.15, linewidth=0)
        axis.axhline(mean, color=MEAN, linestyle="--", label=f"mean {mean:.1%}, interval about {low:.1%} to {high:.1%}")
        axis.plot(numbers, [each[name] for each in summary["results"]], "o", color=FOLD, label="a fold, tested")
        axis.set_xlabel("fold")
        axis.set_ylabel(shown)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        in_percent(axis.yaxis, decimals=None)
        open_axes(axis)
        axis.margins(x=0.1, y=0.15)
        axis.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    bottom, top = axes[0].get_ylim()
    axes[0].set_ylim(max(bottom, -0.02), min(top, 1.02))
    figure.suptitle(plain(title), fontsize=11)
    save(figure, path)
