"""Intervals: published and exact values, what groups do to them, and how often they hold the truth."""

from functools import partial

import numpy as np
import pytest
from benchmarks.coverage import Network, limits, truth
from scipy.stats import binom, binomtest, norm

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
    """In each pair one right and one wrong: less than chance, and still no more than 40, with 19 degrees of freedom."""
    assert 36 < intervals.effective_images(np.tile([True, False], 20), np.repeat(np.arange(20), 2)) < 40


def test_effective_images_by_hand():
    """Ten pairs, 7 right, 2 wrong, 1 mixed; t of 19 and 9 degrees of freedom from a table: 2.0930 and 2.2622.

    The groups' deviations from 1.5 right squared are 7 × .25, 2 × 2.25 and .25, the three with a mistake tell, and
    half a group more says .75 × .25 / 10.
    """
    right, groups = np.repeat([1, 0, 1, 0], [14, 4, 1, 1]).astype(bool), np.repeat(np.arange(10), 2)
    variance = (3 * (6.5 / 400 * 10 / 9) + 0.5 * 0.01875) / 3.5
    expected = 20 * (0.1875 / 19) / variance * (2.0930 / 2.2622) ** 2
    assert expected == pytest.approx(9.306, abs=1e-3)
    assert intervals.effective_images(right, groups) == pytest.approx(expected, rel=1e-4)


def held(sizes: list[int], share: float, shared: float, samples: int = 600) -> float:
    """How often the interval of a share holds it, where images share a part of the variance with their group."""
    draw, groups, held = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes), 0
    for _ in range(samples):
        mark = shared**0.5 * draw.normal(size=len(sizes))[groups] + (1 - shared) ** 0.5 * draw.normal(size=len(groups))
        low, high = intervals.share_interval(mark < norm.ppf(share), groups)
        held += low <= share <= high
    return held / samples


@pytest.mark.parametrize("share", [0.9, 0.97])
def test_coverage_where_patients_are_few_or_uneven(share):
    """Without the supposed group .84 to .90. Less than two standard errors of .93 may be missing, 600 samples."""
    for sizes in ([24] * 16, [12] * 8, [30, 22, 16, 12, 9, 7, 5, 4, 3, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1]):
        assert held(sizes, share, 0.6) >= 0.93 - 2 * (0.93 * 0.07 / 600) ** 0.5


def test_coverage_where_groups_are_many_and_even():
    error = 2 * (0.95 * 0.05 / 600) ** 0.5
    assert 0.93 - error <= held([2] * 200, 0.9, 0.3) <= 0.97 + error


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


def test_equal_losses_bring_no_warning(recwarn):
    groups = np.arange(48)
    found = intervals.mean_loss_interval(np.full(48, 0.1), groups, intervals.draw_groups(groups), 36)
    assert found == pytest.approx([0.1, 0.1])
    assert not recwarn.list


def test_no_mistake_seen_is_not_none_at_all():
    """48 of 48 right at .999: up to 7.41 % may be wrong by Wilson, and each costs -log .001 = 6.908."""
    spans = SplitIntervals(np.zeros(48, int), np.tile([0.999, 0.001], (48, 1)), np.arange(48))
    loss, score = spans.log_loss(), spans.brier_score()
    assert [loss.low, loss.high] == pytest.approx([0.0010005, 0.92591 * 0.0010005 + 0.07409 * 6.90776], abs=1e-4)
    assert [score.low, score.high] == pytest.approx([1e-6, 0.07409 * 0.998], abs=1e-4)


@pytest.mark.parametrize(("images", "sure", "share"), [(48, 0.99, 0.92), (48, 0.999, 0.97), (200, 0.999, 0.99)])
def test_coverage_of_the_losses_where_mistakes_are_rare(images, sure, share):
    """Exact: all images have one confidence, so that the number of mistakes is all there is; .40 to .77 before.

    Nothing is above .97 where Wilson's own interval is not.
    """
    mistakes = np.arange(0, round(images * (1 - share)) * 3 + 3)
    expected = {
        "log_loss": -share * np.log(sure) - (1 - share) * np.log(1 - sure),
        "brier_score": share * (1 - sure) ** 2 + (1 - share) * sure**2,
    }
    chance = binom.pmf(mistakes, images, 1 - share)
    for figure, value in expected.items():
        held = []
        for wrong in mistakes:
            spans = SplitIntervals(
                (np.arange(images) < wrong).astype(int), np.tile([sure, 1 - sure], (images, 1)), np.arange(images)
            )
            found = getattr(spans, figure)()
            held.append(found.low <= value <= found.high)
        assert 0.93 <= chance[held].sum() <= 0.99


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


def test_a_calibration_error_of_nothing_is_not_sure_to_be_nothing():
    """48 right at .999: Wilson allows an accuracy of .926, so an error of .07. 24 of 48 right at .5: .36 to .64."""
    low, high = calibration_error_interval([Bin(14 / 15, 1, 48, 0.999, 1)], 48)
    assert low == pytest.approx(0, abs=2e-3)
    assert 0.05 < high < 0.075
    low, high = calibration_error_interval([Bin(7 / 15, 8 / 15, 48, 0.5, 0.5)], 48)
    assert low == 0
    assert 0.09 < high < 0.16


def test_calibration_errors_are_drawn_of_no_more_images_than_count():
    """Forty images in ten bins: rounded up in each bin, three effective ones were ten."""
    bins = [Bin(n / 15, (n + 1) / 15, 4, (n + 0.5) / 15, 0.75) for n in range(5, 15)]
    highest = [calibration_error_interval(bins, effective)[1] for effective in (40, 10, 3)]
    assert highest[0] < highest[1] < highest[2]


def test_the_limits_of_a_figure_by_hand():
    """A mean of five values; t of 4 degrees of freedom from a table is 2.7764."""
    values, groups = np.array([0.2, 0.9, 0.7, 0.8, 0.5]), np.arange(5)
    draws = intervals.draw_groups(groups)
    means = np.array([np.repeat(values, row).mean() for row in draws])
    half = 2.7764 * means.std() * (5 / 4) ** 0.5 / (0.62 * 0.38)
    expected = [1 / (1 + np.exp(-(np.log(0.62 / 0.38) + sign * half))) for sign in (-1, 1)]
    found = intervals.figure_interval(lambda weights: weights @ values / weights.sum(axis=1), groups, draws, 5)
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_limits_of_a_loss_by_hand():
    """Each draw's distance from the mean in its own standard errors, 2.5 % cut off on either side."""
    losses = np.array([0.1, 0.4, 0.2, 1.3, 0.7, 0.05, 0.9])
    draws = intervals.draw_groups(np.arange(7))
    drawn = [np.repeat(losses, row) for row in draws]
    distances = sorted((each.mean() - losses.mean()) / (each.std(ddof=1) / 7**0.5) for each in drawn if np.ptp(each))
    error = losses.std(ddof=1) / 7**0.5
    low, high = distances[round(0.025 * len(distances))], distances[round(0.975 * len(distances))]
    expected = [max(0, losses.mean() - high * error), losses.mean() - low * error]
    assert intervals.mean_loss_interval(losses, np.arange(7), draws, 36) == pytest.approx(expected, rel=0.02)


def test_an_interval_of_nearly_everything_is_none():
    with pytest.raises(intervals.TooFew, match="from nearly 0 to nearly 1"):
        intervals.telling(0.002, 0.996)
    assert intervals.telling(0, 0.98) == [0, 0.98]


ALONE = Network("48 images, 2 classes", 48, 2, 0.92)
IN_THREES = Network("96 in threes, 2 classes", 96, 2, 0.85, 0.8, together=3, shared=0.5)
FIGURES = "accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier_score"
REPEATED = 240


@pytest.fixture(scope="module", params=[ALONE, IN_THREES], ids=lambda network: network.name)
def simulated(request) -> tuple[dict[str, float], list[dict[str, tuple[float, float]]]]:
    network = request.param
    return truth(network), [limits(network, seed, FIGURES) for seed in range(REPEATED)]


@pytest.mark.parametrize("figure", FIGURES)
def test_simulated_coverage(simulated, figure):
    """From .93 to .97, and two standard errors of a share of .95 of so many samples more; the benchmark takes more."""
    expected, samples = simulated
    error = (0.95 * 0.05 / REPEATED) ** 0.5
    held = np.mean([low <= expected[figure] <= high for low, high in (each[figure] for each in samples)])
    assert 0.93 - 2 * error <= held <= 0.97 + 2 * error
