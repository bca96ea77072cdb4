"""Intervals: published and exact values, what groups do to them, and how often they hold the truth."""

from functools import partial

import numpy as np
import pytest
from benchmarks.coverage import Network, limits, truth
from scipy.stats import binom, binomtest

from training.results import intervals, weighted
from training.results.calibration_error import Bin, calibration_error_interval
from training.results.metrics import wilson_interval
from training.results.split_intervals import SplitIntervals


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(right, total, low, high):
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    assert wilson_interval(right, total) == pytest.approx([low, high], abs=5e-5)


def test_wilson_is_scipys_for_whole_numbers():
    for total in (1, 2, 48, 1000):
        for right in {0, 1, total // 3, total}:
            expected = binomtest(right, total).proportion_ci(method="wilson")
            assert wilson_interval(right, total) == pytest.approx([expected.low, expected.high], abs=1e-12)


def test_wilson_at_the_ends_holds_the_share():
    assert wilson_interval(0, 7.3)[0] == 0
    assert wilson_interval(7.3, 7.3)[1] == 1


@pytest.mark.parametrize(("images", "share"), [(48, 0.92), (48, 0.5), (198, 0.9), (1000, 0.98)])
def test_exact_coverage_of_wilson(images, share):
    """Summed over all that may be seen: .9463 at 48 images and .92."""
    seen = np.arange(images + 1)
    low, high = np.array([wilson_interval(right, images) for right in seen]).T
    coverage = binom.pmf(seen, images, share)[(low <= share) & (share <= high)].sum()
    assert 0.93 <= coverage <= 0.97
    if (images, share) == (48, 0.92):
        assert coverage == pytest.approx(0.9463, abs=1e-4)


def test_images_that_stand_alone_count_each():
    right = np.array([True] * 44 + [False] * 4)
    assert intervals.effective_images(right, np.arange(48)) == 48
    assert intervals.share_interval(right, np.arange(48)) == wilson_interval(44, 48)


def test_copies_add_nothing():
    """Sixteen images three times each: a little less than 16, for fewer than 47 degrees of freedom."""
    right, groups = np.repeat(np.arange(16) > 2, 3), np.repeat(np.arange(16), 3)
    assert 13.5 < intervals.effective_images(right, groups) < 16


def test_groups_without_a_mistake_count_as_one_each():
    """Sixteen of three, none wrong: no effect can be seen, so 16. Of 3, 2 and 1 images: 6²/(9 + 4 + 1)."""
    assert intervals.effective_images(np.ones(48, bool), np.repeat(np.arange(16), 3)) == 16
    assert intervals.effective_images(np.zeros(6, bool), np.array([0, 0, 0, 1, 1, 2])) == pytest.approx(36 / 14)
    assert intervals.effective_images(np.array([True, False]), np.array([0, 0])) == 1


def test_groups_that_are_mixed_by_chance_do_not_add_images():
    """In each pair one right and one wrong: less than chance, and still no more than 40."""
    assert intervals.effective_images(np.tile([True, False], 20), np.repeat(np.arange(20), 2)) == 40


def test_a_bootstrap_of_copies_is_that_of_the_groups():
    draw = np.random.default_rng(0)
    losses, labels, predicted = draw.exponential(size=30), draw.integers(0, 3, 30), draw.integers(0, 3, 30)
    alone, copied = np.arange(30), np.repeat(np.arange(30), 4)
    draws = intervals.draw_groups(alone)
    assert intervals.mean_loss_interval(np.repeat(losses, 4), copied, draws, 36) == pytest.approx(
        intervals.mean_loss_interval(losses, alone, draws, 36)
    )
    again = partial(weighted.macro_f1, np.repeat(labels, 4), np.repeat(predicted, 4))
    assert intervals.figure_interval(again, copied, draws, 30) == pytest.approx(
        intervals.figure_interval(partial(weighted.macro_f1, labels, predicted), alone, draws, 30)
    )


def test_draws_take_as_many_groups_as_there_are_in_parts_or_not(monkeypatch):
    monkeypatch.setattr(intervals, "CELLS", 70)
    groups = np.repeat(np.arange(12), 2)
    draws = intervals.draw_groups(groups, seed=3)
    assert draws.shape == (intervals.SAMPLES, 12)
    assert (draws.sum(axis=1) == 12).all()
    assert draws.mean(axis=0) == pytest.approx(np.ones(12), abs=0.1)
    assert (draws == intervals.draw_groups(groups, seed=3)).all()
    assert (draws != intervals.draw_groups(groups, seed=4)).any()


def test_four_groups_are_too_few():
    with pytest.raises(intervals.TooFew, match="5 images that do not belong together, and 4"):
        intervals.draw_groups(np.repeat(np.arange(4), 100))


def test_what_is_all_right_or_all_wrong_still_has_an_interval():
    labels, groups = np.arange(48) % 2, np.arange(48)
    draws = intervals.draw_groups(groups)
    right = partial(weighted.balanced_accuracy, labels, labels)
    assert intervals.figure_interval(right, groups, draws, 48) == wilson_interval(48, 48)
    wrong = partial(weighted.balanced_accuracy, labels, 1 - labels)
    assert intervals.figure_interval(wrong, groups, draws, 48) == wilson_interval(0, 48)


@pytest.mark.parametrize("figure", ["balanced_accuracy", "macro_f1"])
def test_a_class_without_a_mistake_is_not_taken_to_make_none(figure):
    """Fifteen positives all right: so one of five networks that err one time in ten shows it, 9 of 85 others wrong."""
    labels = np.repeat([0, 1], [85, 15])
    wrong = labels.copy()
    wrong[:9] = 1
    spans = SplitIntervals(labels, 0.2 + 0.6 * np.eye(2)[wrong], np.arange(100))
    only_seen = intervals.figure_interval(
        partial(getattr(weighted, figure), labels, wrong), spans.groups, intervals.draw_groups(spans.groups), 50
    )
    found = getattr(spans, figure)()
    assert found.high == pytest.approx(only_seen[1], abs=0.01)
    if figure == "balanced_accuracy":
        assert found.low < 0.9 < only_seen[0]
    else:
        assert found.low <= only_seen[0] + 0.01


def test_equal_losses_have_no_width_and_no_warning(recwarn):
    groups = np.arange(48)
    found = intervals.mean_loss_interval(np.full(48, 0.1), groups, intervals.draw_groups(groups), 36)
    assert found == pytest.approx([0.1, 0.1])
    assert not recwarn.list


def test_one_large_loss_stays_within_the_possible():
    groups, losses = np.arange(5), np.array([0.0, 0, 0, 0, 1])
    low, high = intervals.mean_loss_interval(losses, groups, intervals.draw_groups(groups), 1)
    assert 0 <= low <= 0.2 <= high <= 1


def test_a_calibrated_diagram_may_be_without_error_and_a_wrong_one_may_not():
    """Of 100 images at .9, 88 right: .02, as chance has it. Of 100 at .9, 50 right: .4, ± .1."""
    low, high = calibration_error_interval([Bin(13 / 15, 14 / 15, 100, 0.9, 0.88)], 100)
    assert low == 0
    assert 0.05 < high < 0.11
    low, high = calibration_error_interval([Bin(13 / 15, 14 / 15, 100, 0.9, 0.5)], 100)
    assert [low, high] == pytest.approx([0.3, 0.5], abs=0.03)


def test_fewer_effective_images_make_the_calibration_error_less_certain():
    bins = [Bin(13 / 15, 14 / 15, 100, 0.9, 0.5)]
    low, high = calibration_error_interval(bins, 100)
    wider_low, wider_high = calibration_error_interval(bins, 25)
    assert wider_high - wider_low > 1.5 * (high - low)


NETWORK = Network("48 images, 2 classes", 48, 2, 0.92)


@pytest.fixture(scope="module")
def simulated() -> tuple[dict[str, float], list[dict[str, tuple[float, float]]]]:
    return truth(NETWORK), [limits(NETWORK, seed) for seed in range(300)]


@pytest.mark.parametrize("figure", ["accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier_score"])
def test_coverage_of_48_images_at_92_percent(simulated, figure):
    """300 samples; the benchmark takes more, and more networks."""
    expected, samples = simulated
    held = [low <= expected[figure] <= high for low, high in (each[figure] for each in samples)]
    assert 0.93 <= np.mean(held) <= 0.98
