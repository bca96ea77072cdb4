"""Figures over scikit-learn against cases counted by hand, and the bootstrap's against scikit-learn's with weights."""

import math

import evaluate
import numpy as np
import pytest
from sklearn import metrics

from training.results import figures, weighted
from training.results.calibration_error import reliability_bins

TRUE, SAID = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 2]


def compute(figure: figures.Figure, said: list, true: list) -> float | None:
    return figure.compute(predictions=said, references=true)[figure.name]


@pytest.mark.parametrize(
    ("figure", "by_hand"),
    [
        (figures.Accuracy(), 4 / 6),
        # recalls 2/3, 1/2, 1/1: (4 + 3 + 6)/6/3
        (figures.BalancedAccuracy(), 13 / 18),
        # class 0: 2 right of 3 said and 3 true, 2/3; class 1: 1 of 2 and 2, 1/2; class 2: 1
        (figures.MacroF1(), (2 / 3 + 1 / 2 + 1) / 3),
    ],
)
def test_four_of_six(figure, by_hand):
    assert compute(figure, SAID, TRUE) == pytest.approx(by_hand, abs=1e-12)


def test_each_class_by_hand_and_none_where_there_is_nothing_to_divide_by():
    """Class 3 is said once and never true, class 4 is true once and never said, class 5 is neither."""
    found = figures.ClassFigures().compute(predictions=[*SAID, 3], references=[*TRUE, 4], classes=6)
    assert found["precision"] == [pytest.approx(2 / 3), 0.5, 1, 0, None, None]
    assert found["recall"] == [pytest.approx(2 / 3), 0.5, 1, None, 0, None]
    assert found["f1"] == [pytest.approx(2 / 3), 0.5, 1, 0, 0, None]


def test_a_class_without_image_is_left_out_of_balanced_accuracy_and_counts_in_macro_f1_if_said():
    """Of 0, 0, 0, 1 said 0, 0, 2, 1: recalls 2/3 and 1; F1 2·2/(2 + 3) = 4/5, 1 and 0."""
    assert compute(figures.BalancedAccuracy(), [0, 0, 2, 1], [0, 0, 0, 1]) == pytest.approx((2 / 3 + 1) / 2)
    assert compute(figures.MacroF1(), [0, 0, 2, 1], [0, 0, 0, 1]) == pytest.approx((4 / 5 + 1 + 0) / 3)


def test_log_loss_is_in_nats():
    """-ln 1/2 and -ln 1/4: (1 + 2)/2 ln 2."""
    said = [[0.5, 0.25, 0.25], [0.375, 0.375, 0.25]]
    assert compute(figures.LogLoss(), said, [0, 2]) == pytest.approx(1.5 * math.log(2))


def test_a_mistake_without_doubt_costs_36_nats_and_no_infinity():
    assert compute(figures.LogLoss(), [[1.0, 0.0]], [1]) == pytest.approx(52 * math.log(2))  # eps is 2 to the -52


def test_brier_is_halved():
    """Two classes: .2² and .4², mean .1. Three: (.5² + .3² + .2²)/2 = .38/2."""
    assert compute(figures.BrierScore(), [[0.2, 0.8], [0.6, 0.4]], [1, 0]) == pytest.approx(0.1)
    assert compute(figures.BrierScore(), [[0.5, 0.3, 0.2]], [0]) == pytest.approx(0.19)
    assert compute(figures.BrierScore(), [[0.0, 1.0, 0.0]], [0]) == pytest.approx(1)


def test_calibration_error_by_hand():
    """.9 right, .95 wrong, .62 once right and once wrong, in three bins: (.1 + .95 + 2 · .12)/4."""
    said = [[0.9, 0.1], [0.05, 0.95], [0.62, 0.38], [0.62, 0.38]]
    assert compute(figures.ExpectedCalibrationError(), said, [0, 0, 0, 1]) == pytest.approx(1.29 / 4)
    bins = reliability_bins(np.array(said), np.array([0, 0, 0, 1]))
    assert [(each.images, each.accuracy) for each in bins] == [(2, 0.5), (1, 1), (1, 0)]
    assert [round(each.high * 15) for each in bins] == [10, 14, 15]
    assert [each.confidence for each in bins] == pytest.approx([0.62, 0.9, 0.95])


def test_a_confidence_on_an_edge_belongs_below_it_and_one_of_1_has_a_bin():
    bins = reliability_bins(np.array([[0.8, 0.2], [1.0, 0.0]]), np.array([0, 0]))
    assert [(round(15 * each.low), round(15 * each.high)) for each in bins] == [(11, 12), (14, 15)]


def test_curves_by_hand():
    """Positives .8 and .4, negatives .6 and .4: of four pairs 1 + 1 + 0 + 1/2 are in order.

    Precision: 1 at .8 for half of the recall, and 2 of 4 at .4 for the other half.
    """
    true, scores = [1, 1, 0, 0], [0.8, 0.4, 0.6, 0.4]
    assert compute(figures.RocAuc(), scores, true) == pytest.approx(2.5 / 4)
    assert compute(figures.AveragePrecision(), scores, true) == pytest.approx(0.5 * 1 + 0.5 * 0.5)


def test_sensitivity_and_specificity_by_hand():
    """Of 4 positives 3 are called so, of 2 negatives 1."""
    true, called = [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 1]
    assert compute(figures.Sensitivity(), called, true) == pytest.approx(3 / 4)
    assert compute(figures.Specificity(), called, true) == pytest.approx(1 / 2)


@pytest.mark.parametrize("figure", [figures.RocAuc(), figures.AveragePrecision(), figures.Specificity()])
def test_one_class_leaves_it_undefined_and_says_so(figure):
    found = figure.compute(predictions=[1, 1], references=[1, 1])
    assert found[figure.name] is None
    assert "class" in found["reason"]


def test_top_five_holds_the_predicted_class_also_of_equals():
    """Twelve classes: sixth place is not among five; of twelve equals the first five are."""
    falling = list(np.arange(12, 0, -1) / 78)
    figure = figures.TopFiveAccuracy()
    assert compute(figure, [falling] * 3, [0, 4, 5]) == pytest.approx(2 / 3)
    assert compute(figure, [[1 / 12] * 12] * 2, [0, 11]) == pytest.approx(1 / 2)


def test_top_five_agrees_with_scikit_learn_where_no_two_are_equal():
    draw = np.random.default_rng(0)
    said, true = draw.dirichlet(np.ones(12), 50), draw.integers(0, 12, 50)
    expected = metrics.top_k_accuracy_score(true, said, k=5, labels=range(12))
    assert compute(figures.TopFiveAccuracy(), said, true) == pytest.approx(expected)


def test_nothing_is_written(monkeypatch, tmp_path):
    """The base class makes a folder in the user's cache when it is made, and lock files when it computes."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "cache")
    figure = figures.Accuracy()
    for predictions in ([0, 1], [1, 1]):
        figure.add_batch(predictions=predictions, references=[1, 1])
    assert figure.compute() == {"accuracy": 0.75}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(5))
def test_weighted_figures_are_scikit_learns(seed):
    """Scores of one decimal have many equals; a fifth of the weights is 0."""
    draw = np.random.default_rng(seed)
    labels, predicted = draw.integers(0, 4, 40), draw.integers(0, 4, 40)
    weights = draw.multinomial(40, np.full(40, 1 / 40), 3).astype(float)
    binary, scores = (labels > 1).astype(int), draw.random(40).round(1)
    for row, *found in zip(
        weights,
        weighted.macro_f1(labels, predicted, weights),
        weighted.balanced_accuracy(labels, predicted, weights),
        weighted.roc_auc(binary, scores, weights),
        weighted.average_precision(binary, scores, weights),
        strict=True,
    ):
        assert found == pytest.approx(
            [
                metrics.f1_score(labels, predicted, average="macro", sample_weight=row),
                metrics.balanced_accuracy_score(labels, predicted, sample_weight=row),
                metrics.roc_auc_score(binary, scores, sample_weight=row),
                metrics.average_precision_score(binary, scores, sample_weight=row),
            ],
            abs=1e-12,
        )


def test_a_sample_without_a_class_has_no_curve_and_a_mean_over_the_others():
    labels, predicted, weights = np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([[0.0, 1, 1], [2, 0, 0]])
    assert np.isnan(weighted.roc_auc(labels, np.array([0.1, 0.2, 0.3]), weights)).all()
    assert np.isnan(weighted.average_precision(labels, np.array([0.1, 0.2, 0.3]), weights)).all()
    assert weighted.balanced_accuracy(labels, predicted, weights).tolist() == [0.5, 1]
    # Once 1 is right of two true and one said, 2/3, and 0 is said once and never true; then 0 alone, and right.
    assert weighted.macro_f1(labels, predicted, weights) == pytest.approx([(2 / 3 + 0) / 2, 1])
