"""The evaluation of a split: its form, its undefined figures, and its threshold."""

import json
import warnings

import numpy as np
import pytest
from scipy.special import softmax

from training.results.evaluation import evaluate_split, sensitivity_threshold
from training.results.metrics import classification_metrics, wilson_interval


def drawn(images: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Labels, probabilities, class names, groups of one."""
    draw = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    logits = draw.normal(size=(images, classes)) + 3 * np.eye(classes)[labels]
    return labels, softmax(2 * logits, axis=1), [f"c{n}" for n in range(classes)], [str(n) for n in range(images)]


def evaluated(*arguments, **options) -> dict:
    """Without a warning, and as it comes back from a file that knows no NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return json.loads(json.dumps(evaluate_split(*arguments, **options), allow_nan=False))


def defined(figure: dict) -> bool:
    low, high = figure["interval"]
    return low - 1e-9 <= figure["value"] <= high + 1e-9 and bool(figure["method"])


def test_two_classes_have_all_figures_and_the_second_is_positive():
    found = evaluated(*drawn(60, 2), threshold=0.3)
    assert list(found["metrics"]) == [
        *("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier_score", "expected_calibration_error"),
        *("roc_auc", "average_precision", "sensitivity", "specificity"),
    ]
    assert all(defined(figure) for figure in found["metrics"].values())
    assert (found["images"], found["groups"], found["positive"]) == (60, 60, "c1")
    half, low = found["operating_points"]["at_half"], found["operating_points"]["at_95_sensitivity"]
    assert (half["threshold"], low["threshold"]) == (0.5, 0.3)
    assert half["sensitivity"] == found["metrics"]["sensitivity"] == found["per_class"]["c1"]["recall"]
    assert half["specificity"] == found["per_class"]["c0"]["recall"]
    assert low["sensitivity"]["value"] >= half["sensitivity"]["value"]
    assert low["specificity"]["value"] <= half["specificity"]["value"]


def test_confusion_and_classes_by_hand():
    """True a a a b b c, said a a b b a c, each with .8."""
    said = np.array([0, 0, 1, 1, 0, 2])
    probabilities = np.full((6, 3), 0.1) + 0.7 * np.eye(3)[said]
    found = evaluated(np.array([0, 0, 0, 1, 1, 2]), probabilities, ["a", "b", "c"], list("123456"))
    assert found["confusion"] == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert [each["support"] for each in found["per_class"].values()] == [3, 2, 1]
    assert found["per_class"]["a"]["recall"] == {
        "value": pytest.approx(2 / 3), "interval": pytest.approx(wilson_interval(2, 3)), "method": "Wilson"
    }  # fmt: skip
    # Of the 4 images that are a or said to be, 2 are both.
    low, high = wilson_interval(2, 4)
    assert found["per_class"]["a"]["f1"]["interval"] == pytest.approx([2 * low / (1 + low), 2 * high / (1 + high)])
    assert found["metrics"]["accuracy"]["interval"] == pytest.approx(wilson_interval(4, 6))
    (one_bin,) = found["reliability"]
    assert one_bin == pytest.approx(
        {"low": 11 / 15, "high": 12 / 15, "images": 6, "confidence": 0.8, "accuracy": 4 / 6}
    )
    assert found["metrics"]["expected_calibration_error"]["value"] == pytest.approx(0.8 - 4 / 6)
    assert "roc_auc" not in found["metrics"] and "operating_points" not in found


def test_it_agrees_with_what_training_reports():
    labels, probabilities, classes, groups = drawn(90, 4)
    found = evaluated(labels, probabilities, classes, groups)["metrics"]
    training = classification_metrics(np.log(probabilities), labels)
    assert found["accuracy"]["value"] == pytest.approx(training["accuracy"])
    assert found["macro_f1"]["value"] == pytest.approx(training["macro_f1"])
    assert found["log_loss"]["value"] == pytest.approx(training["loss"])


@pytest.mark.parametrize(("classes", "there"), [(10, False), (11, True)])
def test_top_five_of_more_than_ten_classes(classes, there):
    found = evaluated(*drawn(44, classes))["metrics"]
    assert ("top_5_accuracy" in found) is there
    if there:
        assert found["top_5_accuracy"]["value"] >= found["accuracy"]["value"]


def test_the_same_seed_gives_the_same_and_another_nearly():
    data = drawn(50, 2)
    assert evaluated(*data, seed=1) == evaluated(*data, seed=1)
    first, second = (evaluated(*data, seed=seed)["metrics"]["macro_f1"] for seed in (1, 2))
    assert first != second
    assert first["interval"] == pytest.approx(second["interval"], abs=0.02)


def test_groups_widen_and_are_named():
    labels, probabilities, classes, groups = drawn(40, 2)
    alone = evaluated(labels, probabilities, classes, groups)
    copies = [np.repeat(each, 3, axis=0) for each in (labels, probabilities)]
    found = evaluated(*copies, classes, np.repeat(groups, 3))
    assert (found["images"], found["groups"]) == (120, 40)
    for name in ("balanced_accuracy", "log_loss", "roc_auc"):
        assert found["metrics"][name]["interval"] == pytest.approx(alone["metrics"][name]["interval"], rel=0.05)
    assert found["metrics"]["accuracy"]["method"].endswith("effective of 120 images")
    width, width_alone = (np.ptp(each["metrics"]["accuracy"]["interval"]) for each in (found, alone))
    assert width >= width_alone


def test_one_class_in_the_split_leaves_the_curves_undefined():
    _, probabilities, classes, groups = drawn(20, 2)
    found = evaluated(np.ones(20, int), probabilities, classes, groups, threshold=0.4)
    for name in ("roc_auc", "average_precision"):
        assert found["metrics"][name] == {"value": None, "interval": None, "reason": "only one class among the images"}
    nothing = {"value": None, "interval": None, "reason": "no image of the negative class"}
    assert found["metrics"]["specificity"] == nothing
    assert found["operating_points"]["at_95_sensitivity"]["specificity"] == nothing
    assert defined(found["metrics"]["sensitivity"])
    assert found["per_class"]["c0"]["recall"]["value"] is None
    assert found["metrics"]["balanced_accuracy"]["note"] == "mean over the 1 of 2 classes that have an image"


def test_a_class_missing_from_the_split_and_one_never_said():
    labels, probabilities = np.array([0, 0, 1, 1, 0, 1]), np.zeros((6, 4))
    probabilities[np.arange(6), [0, 0, 1, 1, 0, 3]] = 1
    found = evaluated(labels, probabilities, ["a", "b", "c", "d"], list("123456"))
    c, d = found["per_class"]["c"], found["per_class"]["d"]
    assert (c["precision"]["reason"], c["recall"]["reason"]) == ("never predicted", "no image of this class")
    assert (c["f1"]["value"], c["support"]) == (None, 0)
    assert (d["precision"]["value"], d["recall"]["value"], d["f1"]["value"]) == (0, None, 0)
    # Recalls 1 and 2/3; F1 1, 2·2/(2 + 3) and, of d, 0.
    assert found["metrics"]["balanced_accuracy"]["value"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["metrics"]["balanced_accuracy"]["note"] == "mean over the 2 of 4 classes that have an image"
    assert found["metrics"]["macro_f1"]["value"] == pytest.approx((1 + 4 / 5 + 0) / 3)
    assert found["metrics"]["macro_f1"]["note"] == "mean over the 3 of 4 classes that are true or predicted"


def test_without_a_threshold_its_figures_say_why():
    point = evaluated(*drawn(20, 2), threshold=None)["operating_points"]["at_95_sensitivity"]
    assert point["threshold"] is None
    assert point["sensitivity"]["value"] is point["specificity"]["value"] is None
    assert "no positive image" in point["sensitivity"]["reason"]


@pytest.mark.parametrize("classes", [2, 12])
def test_one_image_has_values_and_says_what_it_cannot(classes):
    found = evaluated(np.array([1]), np.eye(classes)[[1]], [f"c{n}" for n in range(classes)], ["a"])
    assert found["metrics"]["accuracy"] == {"value": 1, "interval": wilson_interval(1, 1), "method": "Wilson"}
    assert found["metrics"]["balanced_accuracy"]["value"] == 1
    assert found["metrics"]["log_loss"]["interval"] is None
    assert "and 1 are there" in found["metrics"]["log_loss"]["reason"]


def test_a_single_positive_has_an_auc_without_interval():
    labels, probabilities, classes, groups = drawn(20, 2)
    labels = (np.arange(20) == 3).astype(int)
    found = evaluated(labels, probabilities, classes, groups)["metrics"]["roc_auc"]
    assert found["value"] is not None and found["interval"] is None and "too few" in found["reason"]


def odd_splits() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Labels, probabilities and groups that are uncommon, and happen."""
    draw, alone = np.random.default_rng(0), np.arange(48)
    found = {}
    for classes in (2, 5):
        labels, first = np.arange(48) % classes, np.zeros(48, int)
        for name, said in {"right": labels, "wrong": (labels + 1) % classes, "always the first": first}.items():
            for sure in (0.999, 0.6):
                rows = (1 - sure) / (classes - 1) + (sure - (1 - sure) / (classes - 1)) * np.eye(classes)[said]
                for groups in (alone, np.minimum(alone, 9)):
                    found[f"{classes} classes, {name} at {sure}, {groups.max() + 1} groups"] = labels, rows, groups
        found[f"{classes} classes, all equal"] = labels, np.full((48, classes), 1 / classes), alone
        one_wrong = np.where(alone == 7, (labels + 1) % classes, labels)
        found[f"{classes} classes, one wrong"] = (
            labels,
            0.001 + (1 - classes * 0.001) * np.eye(classes)[one_wrong],
            alone,
        )
        found[f"{classes} classes, by lot"] = labels, draw.dirichlet(np.ones(classes), 48), alone // 6
    found["a single positive"] = (alone == 3).astype(int), draw.dirichlet(np.ones(2), 48), alone
    found["each group half right"] = alone % 2, np.tile([0.7, 0.3], (48, 1)), alone // 2
    found["one image"] = np.array([1]), np.eye(2)[[0]], np.array([0])
    return found


ODD = odd_splits()


@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("error", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interval_holds_its_value_and_has_a_width(name):
    labels, rows, groups = ODD[name]
    classes = [f"c{number}" for number in range(rows.shape[1])]
    found = evaluated(labels, rows, classes, [str(group) for group in groups], threshold=0.5)
    figures = list(found["metrics"].items()) + list(found.get("operating_points", {}).get("at_half", {}).items())[1:]
    figures += [each for row in found["per_class"].values() for each in row.items() if each[0] != "support"]
    for figure, each in figures:
        if each["interval"] is None:
            assert each["reason"]
        else:
            low, high = each["interval"]
            assert 0 <= low <= each["value"] + 1e-12 and each["value"] - 1e-12 <= high, (figure, each)
            certain = "all equal" in name and figure in ("log_loss", "brier_score")  # whatever is true
            assert certain or high - low > 1e-3, (figure, each)
            assert figure == "log_loss" or (high <= 1 and (low >= 0.01 or high <= 0.99)), (figure, each)


def test_everything_equal_is_no_trouble():
    """Of equals the first class is said; half the pairs are in order; confidence and accuracy agree."""
    found = evaluated(np.arange(40) % 2, np.full((40, 2), 0.5), ["a", "b"], [str(n) for n in range(40)], threshold=0.5)
    values = {name: figure["value"] for name, figure in found["metrics"].items()}
    assert (values["accuracy"], values["sensitivity"], values["specificity"]) == (0.5, 0, 1)
    assert (values["roc_auc"], values["average_precision"]) == (0.5, 0.5)
    assert (values["brier_score"], values["expected_calibration_error"]) == (0.25, 0)
    assert values["log_loss"] == pytest.approx(np.log(2))


def test_sure_and_wrong_is_finite():
    found = evaluated(np.arange(40) % 2, np.eye(2)[1 - np.arange(40) % 2], ["a", "b"], [str(n) for n in range(40)])
    assert found["metrics"]["log_loss"]["value"] == pytest.approx(52 * np.log(2))
    assert found["metrics"]["brier_score"]["value"] == 1
    assert found["metrics"]["accuracy"]["interval"][0] == 0


def test_single_precision_is_accepted():
    labels, probabilities, classes, groups = drawn(30, 12)
    once, twice = (evaluated(labels, p, classes, groups) for p in (probabilities, probabilities.astype(np.float32)))
    assert twice["metrics"]["log_loss"]["value"] == pytest.approx(once["metrics"]["log_loss"]["value"], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": np.array([], int), "probabilities": np.empty((0, 2)), "groups": []}, "needs images, and got none"),
        ({"classes": ["a"]}, "two or more classes, and got 1"),
        ({"classes": ["a", "b", "c"]}, "3 classes do not go with probabilities of shape"),
        ({"groups": ["x"]}, "and 1 groups"),
        ({"labels": np.array([0, 2])}, "labels from 0 to 2 are not all among 2 classes"),
        ({"probabilities": np.array([[0.5, 0.5], [2.0, -1.0]])}, "probabilities must be from 0 to 1"),
        ({"probabilities": np.array([[3.0, 1.0], [0.5, 0.5]])}, "sum to 1"),
        ({"probabilities": np.array([[np.nan, 1.0], [0.5, 0.5]])}, "sum to 1"),
    ],
)
def test_what_is_no_evaluation_is_refused(change, says):
    good = {"labels": np.array([0, 1]), "probabilities": np.eye(2), "classes": ["a", "b"], "groups": ["x", "y"]}
    with pytest.raises(ValueError, match=says):
        evaluate_split(**{**good, **change})


def test_the_threshold_that_19_of_20_reach():
    """Scores .01 to .20: nineteen reach .02; negatives do not count."""
    positive = np.append(np.arange(1, 21) / 100, [0.9, 0.95])
    labels = np.append(np.ones(20, int), [0, 0])
    assert sensitivity_threshold(labels, positive) == 0.02
    assert sensitivity_threshold(labels, positive, 0.96) == 0.01
    assert sensitivity_threshold(labels, positive, 0.5) == 0.11


def test_equal_scores_reach_the_threshold_together():
    labels, positive = np.ones(10, int), np.array([0.9] * 5 + [0.3] * 5)
    assert sensitivity_threshold(labels, positive, 0.6) == 0.3
    assert (positive >= 0.3).mean() == 1


def test_no_positive_gives_no_threshold_and_one_its_own():
    assert sensitivity_threshold(np.zeros(3, int), np.array([0.1, 0.2, 0.3])) is None
    assert sensitivity_threshold(np.array([0, 1]), np.array([0.1, 0.7])) == 0.7
