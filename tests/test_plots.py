"""Plots of a model's results: what is drawn is what was given, the hard cases read, and files are whole."""

import numpy as np
import pytest
from PIL import Image

from training.results import style
from training.results.confusion import LEAST, MOST, confusion_figure, plot_confusion
from training.results.curves import curves_figure
from training.results.discrimination import (
    GRID,
    discrimination_figure,
    mean_precision_recall,
    mean_roc,
    one_against_rest,
    plot_roc_and_precision_recall,
)
from training.results.metrics import wilson_interval
from training.results.recall import plot_recall, recall_figure
from training.results.reliability import plot_reliability, reliability_figure

# Sockets that the pages of other tests in this process left to the garbage collector are none of these.
OTHERS = ("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
pytestmark = pytest.mark.filterwarnings("error", *OTHERS)

HARD = ["a_b $x$", "_p", "[two]\nlines", "$", "Übergröße " * 9, "花", r"\frac{$1}^2", "%d {x}", "é" * 300, " "]
LARGEST = 3600  # pixels of a side


def names(count: int) -> list[str]:
    return [*HARD, *(f"Greater Swiss mountain dog, kind {number}" for number in range(count))][:count]


def answers(images: int, classes: int, skill: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that know something of them."""
    draw = np.random.default_rng(classes)
    labels = draw.integers(0, classes, images)
    logits = draw.normal(size=(images, classes))
    logits[np.arange(images), labels] += skill
    odds = np.exp(logits)
    return labels, odds / odds.sum(axis=1, keepdims=True)


def counted(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    confusion = np.zeros((probabilities.shape[1],) * 2, int)
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    return confusion


def by_class(confusion: np.ndarray, classes: list[str]) -> dict[str, dict]:
    """`per_class` as an evaluation says it, as far as it is drawn."""
    found = {}
    for name, right, support in zip(classes, confusion.diagonal().tolist(), confusion.sum(1).tolist(), strict=True):
        recall = {"value": None, "interval": None, "reason": "no test image"}
        if support:
            recall = {"value": right / support, "interval": wilson_interval(right, support)}
        found[name] = {"recall": recall, "support": support}
    return found


def bins(labels: np.ndarray, probabilities: np.ndarray) -> list[dict]:
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    found = []
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        means = {"confidence": confidence[inside].mean(), "accuracy": right[inside].mean()} if inside.any() else {}
        empty = {"confidence": None, "accuracy": None}
        found.append({"low": low, "high": low + 0.1, "images": int(inside.sum()), **(means or empty)})
    return found


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(
    ("images", "classes", "skill"),
    [(1, 2, 2.0), (60, 2, 2.0), (60, 2, 99.0), (200, 5, 0.0), (120, 30, 2.0), (150, 120, 4.0)],
    ids=["one image", "two", "perfect", "hopeless", "thirty", "120"],
)
def test_every_plot_is_a_picture_of_sensible_size(images, classes, skill, tmp_path):
    labels, probabilities = answers(images, classes, skill)
    confusion = counted(labels, probabilities)
    title = "A title with $ and _ of $5"
    plot_confusion(confusion.tolist(), names(classes), tmp_path / "confusion.png", title)
    plot_reliability(bins(labels, probabilities), tmp_path / "reliability.png", title, 0.0312)
    assert plot_recall(by_class(confusion, names(classes)), tmp_path / "recall.png", title)
    points = {"at_half": {"threshold": 0.5}, "at_95_sensitivity": {"threshold": None}} if classes == 2 else None
    curves = tmp_path / "discrimination.png"
    drawn = plot_roc_and_precision_recall(labels, probabilities, names(classes), curves, title, points)
    assert drawn == curves.exists() == (images > 1)
    assert len(list(tmp_path.iterdir())) == 3 + drawn
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert image.format == "PNG" and min(image.size) > 150 and max(image.size) < LARGEST, path.name
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20, path.name


# The house style


def test_the_same_figure_gives_the_same_bytes_and_names_no_software(tmp_path):
    for name in ("first.png", "second.png"):
        plot_confusion([[8, 2], [1, 9]], ["a", "b"], tmp_path / "new" / name, "twice")
    first, second = sorted((tmp_path / "new").iterdir())
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as image:
        assert set(image.info) <= {"dpi"}


def test_a_plot_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "plot.png" / "full").mkdir(parents=True)
    with pytest.raises(OSError):
        style.save(style.new_figure(1, 1), tmp_path / "plot.png")
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


def test_names_stay_what_they_are_in_one_line_and_differ_still_when_they_are_long():
    assert style.short("[two]\n  lines_$x$", 30) == r"[two] lines_\$x\$"
    long = [style.short(f"Greater Swiss mountain dog of kind number {number}", 28) for number in range(20)]
    assert len(set(long)) == 20 and {len(name) <= 28 for name in long} == {True}


@pytest.mark.parametrize(
    ("share", "said"), [(0, "0%"), (0.001, "<1%"), (0.5, "50%"), (0.994, "99%"), (0.9999, ">99%"), (1, "100%")]
)
def test_all_and_nothing_are_not_said_of_nearly_all_and_nearly_nothing(share, said):
    assert style.percent(share) == said


# Confusion


def cells(axes) -> dict[tuple[int, int], list[str]]:
    """What is written in each cell, by column and row, the larger first."""
    found = {}
    for text in sorted(axes.texts, key=lambda text: -text.get_fontsize()):
        if not text.get_text().startswith("grey"):
            column, row = text.get_position()
            found.setdefault((column, round(row)), []).append(text.get_text())
    return found


def test_the_shares_of_a_row_come_to_all_of_it():
    """One of forty is 2.5 %, which whole percents would call 2; then the others have a decimal, too."""
    found = cells(confusion_figure(np.array([[37, 1, 2], [0, 40, 0], [0, 0, 40]]), ["a", "b", "c"], "three").axes[0])
    assert [found[column, 0] for column in range(3)] == [["37", "92.5%"], ["1", "2.5%"], ["2", "5.0%"]]
    assert found[1, 1] == ["40", "100.0%"]


def test_a_cell_says_nothing_and_all_of_nothing_else():
    found = cells(confusion_figure(np.array([[9999, 1], [0, 5]]), ["a", "b"], "two").axes[0])
    assert (found[0, 0], found[1, 0]) == (["9999", ">99.9%"], ["1", "<0.1%"])


def test_the_frames_of_the_diagonal_lie_above_the_grid():
    from matplotlib.collections import LineCollection, PatchCollection

    axes = confusion_figure(np.eye(4, dtype=int), list("abcd"), "four").axes[0]
    lines = [each.get_zorder() for each in axes.collections if isinstance(each, LineCollection)]
    (frames,) = [each for each in axes.collections if isinstance(each, PatchCollection)]
    assert frames.get_zorder() > max(lines)


def test_cells_hold_the_counts_and_the_shares_of_the_true_class():
    axes = confusion_figure(np.array([[8, 2, 0], [0, 0, 0], [1, 0, 1]]), ["a", "b", "c"], "three").axes[0]
    assert cells(axes) == {(0, 0): ["8", "80%"], (1, 0): ["2", "20%"], (0, 2): ["1", "50%"], (2, 2): ["1", "50%"]}
    assert "grey: no\ntest image" in texts(axes)
    right, wrong = (image.get_array() for image in axes.images)
    assert right.filled(-1).diagonal().tolist() == [0.8, -1, 0.5] and wrong.filled(-1)[0].tolist() == [-1, 0.2, 0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]


def test_one_mistake_in_a_hundred_is_seen_beside_a_full_diagonal():
    axes = confusion_figure(np.array([[99, 1], [0, 100]]), ["a", "b"], "two").axes[0]
    wrong = axes.images[1].to_rgba(axes.images[1].get_array(), bytes=True).astype(int)
    grey = wrong[..., :3] @ np.array([0.299, 0.587, 0.114])
    assert grey[1, 0] == pytest.approx(255, abs=0.5) and 255 - grey[0, 1] > 8


def test_of_many_classes_the_pairs_confused_most_stand_beside_and_every_class_is_named():
    confusion = np.diag(np.full(120, 50))
    confusion[3, 7], confusion[7, 3], confusion[90, 2] = 12, 5, 5
    confusion[90, 90] = 5
    axes = confusion_figure(confusion, [f"class {number}" for number in range(120)], "many").axes[0]
    assert texts(axes) == [
        "most confused", "true → predicted", "12 of 62", "class 3 → class 7", "5 of 10", "class 90 → class 2",
        "5 of 55", "class 7 → class 3",
    ]  # fmt: skip
    assert len(axes.get_xticklabels()) == len(axes.get_yticklabels()) == 120
    perfect = confusion_figure(np.diag(np.full(30, 4)), [f"class {number}" for number in range(30)], "perfect").axes[0]
    assert "no mistakes" in texts(perfect)


def test_a_long_list_of_pairs_ends_in_how_many_more_there_are():
    axes = confusion_figure(np.ones((30, 30), int), [f"class {number}" for number in range(30)], "all").axes[0]
    lines = [text for text in texts(axes) if "→ class" in text]
    assert len(lines) == LEAST
    assert texts(axes)[-1] == f"… and {30 * 29 - LEAST} pairs more, of one image each"


@pytest.mark.parametrize(("several", "shown", "last"), [
    (3, LEAST, f"… and {40 - LEAST} pairs more, of one image each"),
    (15, 15, "… and 25 pairs more, of one image each"),
    (40, MOST, f"… and {40 - MOST} pairs more"),
    (39, MOST, f"… and {40 - MOST} pairs more"),
])  # fmt: skip
def test_pairs_of_one_image_are_not_listed_where_there_are_others(several, shown, last):
    confusion = np.diag(np.full(40, 5)) + np.eye(40, k=1, dtype=int)
    confusion[39, 0] = 1
    confusion[np.arange(several), (np.arange(several) + 1) % 40] = 2
    axes = confusion_figure(confusion, [f"class {number}" for number in range(40)], "pairs").axes[0]
    assert sum("→ class" in text for text in texts(axes)) == shown and texts(axes)[-1] == last


# Reliability


def test_reliability_draws_a_point_a_bin_with_its_interval_and_its_images():
    empty = {"low": 0.0, "high": 0.5, "images": 0, "confidence": None, "accuracy": None}
    full = {"low": 0.5, "high": 1.0, "images": 1200, "confidence": 0.9, "accuracy": 0.75}
    above, below = reliability_figure([empty, full], "two bins", 0.15).axes
    diagonal, interval, points = above.lines
    assert points.get_xydata().tolist() == [[0.9, 0.75]] and list(diagonal.get_xdata()) == [0, 1]
    assert list(interval.get_ydata()) == wilson_interval(900, 1200)
    assert [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in below.patches] == [(0.5, 0.5, 1200)]
    assert texts(below) == ["1,200"] and "15.0%" in above.get_title()


def test_where_images_belong_together_the_bars_say_that_they_do_not_count_it():
    full = {"low": 0.5, "high": 1.0, "images": 1200, "confidence": 0.9, "accuracy": 0.75}
    said = [reliability_figure([full], "grouped", None, grouped).axes[0].get_ylabel() for grouped in (False, True)]
    assert "independent" not in said[0] and "images taken as independent" in said[1]


# Recall


def test_recall_is_sorted_the_lowest_first_with_support_and_interval():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [9, 0, 1]])
    figure = recall_figure(by_class(confusion, ["good", "absent", "bad"]), "three")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bad · 10", "good · 4"]
    assert texts(axes) == ["10%", "75%"]
    mean, *rest = axes.lines
    assert mean.get_xdata() == [pytest.approx((0.1 + 0.75) / 2)] * 2
    assert [list(line.get_xdata()) for line in rest] == [wilson_interval(1, 10), [0.1], wilson_interval(3, 4), [0.75]]
    assert figure.get_supxlabel().endswith("without test images: absent")


def test_of_more_classes_than_can_be_read_the_worst_and_the_best_are_drawn():
    classes = [f"class {number:03}" for number in range(300)]
    per_class = by_class(np.diag(np.arange(300)) + np.eye(300, k=1, dtype=int) * 100, classes)
    labels = [label.get_text() for axes in recall_figure(per_class, "many").axes for label in axes.get_yticklabels()]
    assert len(labels) == 120 and labels[0] == "class 000 · 100" and labels[-1] == "class 299 · 299"
    assert labels[60] == "… 181 classes between …"


def test_without_test_images_no_recall_is_drawn(tmp_path):
    assert not plot_recall(by_class(np.zeros((2, 2), int), ["a", "b"]), tmp_path / "recall.png", "none")
    assert not list(tmp_path.iterdir())


# ROC and precision–recall


def test_two_classes_have_the_curves_of_the_second_by_hand():
    """Sorted by probability: + − + −, so that 3 of 4 pairs are in order, and precision is 1/1, then 2/3."""
    labels, probability = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    probabilities = np.stack([1 - probability, probability], axis=1)
    points = {"at_half": {"threshold": 0.5}, "at_95_sensitivity": {"threshold": 0.35}}
    left, right = discrimination_figure(labels, probabilities, ["benign", "_malignant$"], "two", points).axes
    chance, curve, half, high = left.lines
    assert list(chance.get_xdata()) == [0, 1]
    assert curve.get_xydata().tolist() == [[0, 0], [0, 0.5], [0.5, 0.5], [0.5, 1], [1, 1]]
    assert (half.get_xydata().tolist(), high.get_xydata().tolist()) == ([[0, 0.5]], [[0.5, 1]])
    curve, chance, half, high = right.lines
    assert np.allclose(curve.get_xydata(), [[1, 0.5], [1, 2 / 3], [0.5, 0.5], [0.5, 1], [0, 1]])
    assert np.allclose(half.get_xydata(), [[0.5, 1]]) and np.allclose(high.get_xydata(), [[1, 2 / 3]])
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert legend[:2] == ["0.500  chance", r"0.750  _malignant\$"]
    assert legend[2] == "threshold 0.5:\nsensitivity 50.0%, specificity 100.0%"
    assert "0.833" in right.get_legend().get_texts()[0].get_text()


def test_at_one_half_two_equals_are_not_called_positive_and_an_undefined_threshold_is_not_marked():
    labels, probabilities = np.array([0, 0, 1, 1]), np.array([[0.6, 0.4], [0.5, 0.5], [0.5, 0.5], [0.2, 0.8]])
    points = {"at_half": {"threshold": 0.5}, "at_95_sensitivity": {"threshold": None}}
    left, _ = discrimination_figure(labels, probabilities, ["a", "b"], "ties", points).axes
    assert [line.get_xydata().tolist() for line in left.lines[2:]] == [[[0, 0.5]]]


def test_the_mean_curves_have_the_mean_areas():
    labels, probabilities = answers(300, 4, skill=1.0)
    every = [one_against_rest(str(index), labels == index, probabilities[:, index]) for index in range(4)]
    for curves, mean in zip(zip(*every, strict=True), (mean_roc, mean_precision_recall), strict=True):
        assert mean(curves).shape == GRID.shape
        assert mean(curves).mean() == pytest.approx(np.mean([curve.area for curve in curves]), abs=1e-3)


def test_of_many_classes_the_worst_are_named_and_those_without_images_left_out_and_said():
    labels, probabilities = answers(400, 6, skill=2.0)
    probabilities[labels == 5, 5] = 0  # never found
    labels[labels == 2] = 3
    axes, _ = discrimination_figure(labels, probabilities, list("abcdef"), "six", {}).axes
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert said[1].endswith("mean of 5 classes") and said[2] == "0.000  f"
    assert said[-1] == "left out, without test images: c"


def test_the_worst_classes_differ_in_colour_and_in_dashes():
    labels, probabilities = answers(400, 6, skill=1.0)
    for axes in discrimination_figure(labels, probabilities, list("abcdef"), "six", {}).axes:
        named = [line for line in axes.get_legend().get_lines() if line.get_linewidth() == 1.4]
        assert len({line.get_color() for line in named}) == len({line.get_linestyle() for line in named}) == 3


def test_a_threshold_near_one_is_not_called_one():
    labels, probabilities = np.array([0, 0, 1, 1]), np.array([[0.6, 0.4], [0.5, 0.5], [0.5, 0.5], [0.0001, 0.9999]])
    points = {"at_half": {"threshold": 0.5}, "at_95_sensitivity": {"threshold": 0.9996}}
    left, _ = discrimination_figure(labels, probabilities, ["a", "b"], "near one", points).axes
    assert "threshold 0.9996 " in left.get_legend().get_texts()[-1].get_text()


# Curves


def test_curves_of_one_epoch_have_whole_epochs_and_no_legend_on_the_points():
    row = {"stage": "all", "epoch": 1.0, "train_loss": 1.2, "validation_loss": 0.9}
    figure = curves_figure([row | {"train_accuracy": 0.4, "validation_accuracy": 0.6}], "one")
    figure.draw_without_rendering()
    assert [tick for tick in figure.axes[0].get_xticks() if 0.4 < tick < 1.5] == [1]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["training (augmented)", "validation"]
    assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_one_class_alone_has_no_curve(tmp_path):
    path = tmp_path / "curves.png"
    assert not plot_roc_and_precision_recall(np.zeros(3, int), np.full((3, 2), 0.5), ["a", "b"], path, "one class")
    assert not list(tmp_path.iterdir())
