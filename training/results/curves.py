"""`plots/curves.png`: loss and accuracy by epoch, with the switch between stages marked."""

from pathlib import Path
from typing import Any

# Okabe and Ito's blue and vermilion, which colour-blind eyes tell apart; the dashes tell them apart in print.
TRAIN, VALIDATION = ("#0072B2", "--", "o"), ("#D55E00", "-", "s")


def plot_curves(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the rows of `log_history.csv` (see `history_rows`); epochs are counted through all stages."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    epochs, switches = _count_through(rows)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
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
                f"{stage}", (x, 1), (3, -3), xycoords=("data", "axes fraction"), textcoords="offset points",
                va="top", color="0.4", fontsize=8,
            )  # fmt: skip
        axis.set_xlim(switches[0][0] - 0.1, epochs[-1] + 0.5)
        axis.set_xlabel("epoch")
        axis.set_ylabel(value)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(y=0.12)
    axes[1].yaxis.set_major_formatter("{x:.0%}")
    axes[1].set_ylim(top=min(1.02, axes[1].get_ylim()[1]))
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


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
