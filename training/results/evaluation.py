"""All that is said of a split: each figure with its interval, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from training.results import intervals, weighted
from training.results.calibration_error import calibration_error_interval, reliability_bins

if TYPE_CHECKING:
    from training.results.figures import Figure

MANY_CLASSES = 10  # of more than these the five most probable count too
LEAST = float(np.finfo(np.float64).eps)  # no p counts as less in a loss, as scikit-learn has it


def evaluate_split(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    threshold: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What `test_results.json` holds of labels (images,) and probabilities (images, classes) whose rows sum to 1.

    A figure is `{"value", "interval", "method"}`: from 0 to 1, or nats for the log loss. One that is undefined has
    `None` for value and interval, and a `reason`; so has a value that too few images give an interval to. Balanced
    accuracy and macro F1 that leave classes out have a `note`.

    Of two classes the second is positive, and `threshold` is its p that reaches 95 % sensitivity on validation, from
    `sensitivity_threshold`. `groups` (images,) name what belongs together. The same `seed` gives the same intervals.

    Raises:
        ValueError: no image, fewer than two classes, shapes that differ, labels or probabilities that are none.
    """
    split = _Split(*_checked(labels, probabilities, classes, groups), intervals.numbered(groups), seed)
    results = {
        "images": len(split.labels),
        "groups": int(split.groups.max()) + 1,
        "metrics": split.headline(),
        "per_class": dict(zip(classes, split.each_class(), strict=True)),
        "confusion": split.confusion(),
        "reliability": [asdict(each) for each in split.bins],
    }
    if len(classes) == 2:
        half = {"threshold": 0.5, **split.operating_point(0.5)}
        results["metrics"] |= {name: half[name] for name in ("sensitivity", "specificity")}
        results["positive"] = classes[1]
        results["operating_points"] = {
            "at_half": half,
            "at_95_sensitivity": {"threshold": threshold, **split.operating_point(threshold)},
        }
    return results


def sensitivity_threshold(labels: np.ndarray, positive: np.ndarray, sensitivity: float = 0.95) -> float | None:
    """Highest p of the positive class that at least this share of the positives reach; `None` where there are none.

    Labels (images,) are 0 and 1, `positive` (images,) is the p of class 1. What has at least the threshold is called
    positive; what has the same p is called the same, so that more than the share may be reached.
    """
    scores = np.sort(np.asarray(positive)[np.asarray(labels) == 1])[::-1]
    if len(scores) == 0:
        return None
    needed = int(np.ceil(sensitivity * len(scores) - 1e-9))  # .95 × 20 is 19, and not a rounding error more
    return float(scores[max(needed, 1) - 1])


@dataclass
class _Split:
    labels: np.ndarray  # (images,)
    probabilities: np.ndarray  # (images, classes)
    groups: np.ndarray  # (images,) numbers
    seed: int

    @cached_property
    def predicted(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1)

    @cached_property
    def right(self) -> np.ndarray:
        return self.predicted == self.labels

    @cached_property
    def bins(self) -> list:
        return reliability_bins(self.probabilities, self.labels)

    def headline(self) -> dict[str, dict[str, Any]]:
        from training.results import figures

        classes, counted = self.probabilities.shape[1], len(np.unique(self.labels))
        somewhere = len(np.union1d(self.labels, self.predicted))
        found = {
            "accuracy": self._share(figures.Accuracy(), self.predicted),
            "balanced_accuracy": self._bootstrapped(figures.BalancedAccuracy(), self.predicted, self._mean_images)
            | _note(counted, classes, "have an image"),
            "macro_f1": self._bootstrapped(figures.MacroF1(), self.predicted, self._mean_images)
            | _note(somewhere, classes, "are true or predicted"),
        }
        if classes > MANY_CLASSES:
            five = figures.among_five(self.probabilities, self.labels)
            found["top_5_accuracy"] = self._share(figures.TopFiveAccuracy(), self.probabilities, five)
        found |= {
            "log_loss": self._mean_loss(figures.LogLoss(), self._log_losses(), -math.log(LEAST)),
            "brier_score": self._mean_loss(figures.BrierScore(), self._brier_scores(), 1.0),
            "expected_calibration_error": self._calibration(figures.ExpectedCalibrationError()),
        }
        if classes == 2:
            scores = self.probabilities[:, 1]
            found["roc_auc"] = self._bootstrapped(figures.RocAuc(), scores, self._rarer_images)
            found["average_precision"] = self._bootstrapped(figures.AveragePrecision(), scores, self._rarer_images)
        return found

    def operating_point(self, threshold: float | None) -> dict[str, dict[str, Any]]:
        """Sensitivity and specificity where p from `threshold` up is called positive; at 0.5 the predicted class."""
        from training.results.figures import Sensitivity, Specificity

        if threshold is None:
            return dict.fromkeys(("sensitivity", "specificity"), _undefined("no positive image to set a threshold by"))
        positive = self.predicted if threshold == 0.5 else (self.probabilities[:, 1] >= threshold).astype(np.int64)
        right = positive == self.labels
        return {
            "sensitivity": self._share(Sensitivity(), positive, right, self.labels == 1),
            "specificity": self._share(Specificity(), positive, right, self.labels == 0),
        }

    def each_class(self) -> list[dict[str, Any]]:
        from training.results.figures import ClassFigures

        classes = self.probabilities.shape[1]
        scores = ClassFigures().compute(predictions=self.predicted, references=self.labels, classes=classes)
        return [self._one_class(number, *each) for number, each in enumerate(zip(*scores.values(), strict=True))]

    def confusion(self) -> list[list[int]]:
        """Rows true, columns predicted."""
        from sklearn.metrics import confusion_matrix

        classes = np.arange(self.probabilities.shape[1])
        return confusion_matrix(self.labels, self.predicted, labels=classes).tolist()

    def _one_class(self, number: int, precision: float | None, recall: float | None, f1: float | None) -> dict:
        true, said = self.labels == number, self.predicted == number
        found = {
            "precision": self._wilson(precision, self.right, said, "never predicted"),
            "recall": self._wilson(recall, self.right, true, "no image of this class"),
            "f1": self._wilson(f1, self.right, true | said, "no image of this class, and never predicted"),
            "support": int(true.sum()),
        }
        if f1 is not None:
            # Of the images that are of the class or said to be, a share J is both, and F1 = 2 J / (1 + J) rises with J.
            found["f1"]["interval"] = [2 * share / (1 + share) for share in found["f1"]["interval"]]
        return found

    def _share(
        self,
        figure: Figure,
        predictions: np.ndarray,
        right: np.ndarray | None = None,
        counted: np.ndarray | slice = slice(None),
    ) -> dict[str, Any]:
        """A share of `right` (images,), which are the right answers if not given, among those `counted`."""
        value, reason = self._compute(figure, predictions)
        return self._wilson(value, self.right if right is None else right, counted, reason)

    def _wilson(self, value: float | None, right: np.ndarray, counted: np.ndarray | slice, reason: str) -> dict:
        if value is None:
            return _undefined(reason)
        right, groups = right[counted], intervals.numbered(self.groups[counted])
        effective = intervals.effective_images(right, groups)
        few = "" if effective == len(right) else f", {effective:.1f} effective of {len(right)} images"
        return {"value": value, "interval": intervals.share_interval(right, groups), "method": f"Wilson{few}"}

    def _mean_loss(self, figure: Figure, losses: np.ndarray, highest: float) -> dict[str, Any]:
        interval = partial(intervals.mean_loss_interval, losses, self.groups, highest, self.seed)
        return self._with_interval(figure, self.probabilities, "studentised group bootstrap", interval)

    def _bootstrapped(self, figure: Figure, answers: np.ndarray, effective: float) -> dict[str, Any]:
        again = partial(getattr(weighted, figure.name), self.labels, answers)
        interval = partial(intervals.figure_interval, again, self.groups, effective, self.seed)
        return self._with_interval(figure, answers, "group bootstrap, logit scale", interval)

    def _calibration(self, figure: Figure) -> dict[str, Any]:
        effective = intervals.effective_images(self.right, self.groups)
        interval = partial(calibration_error_interval, self.bins, effective, self.seed)
        return self._with_interval(figure, self.probabilities, "test inversion", interval)

    def _with_interval(
        self, figure: Figure, predictions: np.ndarray, method: str, interval: Callable[[], list[float]]
    ) -> dict[str, Any]:
        value, reason = self._compute(figure, predictions)
        if value is None:
            return _undefined(reason)
        try:
            return {"value": value, "interval": interval(), "method": method}
        except intervals.TooFew as why:
            return {"value": value, "interval": None, "reason": str(why)}

    def _compute(self, figure: Figure, predictions: np.ndarray) -> tuple[float | None, str]:
        found = figure.compute(predictions=predictions, references=self.labels)
        return found[figure.name], found.get("reason", "")

    def _log_losses(self) -> np.ndarray:
        return -np.log(np.clip(self.probabilities[np.arange(len(self.labels)), self.labels], LEAST, 1 - LEAST))

    def _brier_scores(self) -> np.ndarray:
        truth = np.eye(self.probabilities.shape[1])[self.labels]
        return ((self.probabilities - truth) ** 2).sum(axis=1) / 2

    @cached_property
    def _class_images(self) -> np.ndarray:
        """Of each class that has one, the images that count if those of a group count as one."""
        present = np.unique(self.labels)
        return np.array([intervals.fewest_effective(self.groups[self.labels == each]) for each in present])

    @property
    def _mean_images(self) -> float:
        """As many images as have the variance of a mean over the classes, were these equally hard."""
        return float(len(self._class_images) ** 2 / (1 / self._class_images).sum())

    @property
    def _rarer_images(self) -> float:
        return float(self._class_images.min())


def _undefined(reason: str) -> dict[str, Any]:
    return {"value": None, "interval": None, "reason": reason}


def _note(counted: int, classes: int, which: str) -> dict[str, str]:
    return {} if counted == classes else {"note": f"mean over the {counted} of {classes} classes that {which}"}


def _checked(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], groups: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """In double precision, where rows of single precision sum to 1 again."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if len(classes) < 2:
        raise ValueError(f"an evaluation needs two or more classes, and got {len(classes)}")
    if len(labels) == 0:
        raise ValueError("an evaluation needs images, and got none")
    if probabilities.shape != (len(labels), len(classes)) or len(groups) != len(labels):
        raise ValueError(
            f"{len(labels)} labels and {len(classes)} classes do not go with probabilities of shape "
            f"{probabilities.shape} and {len(groups)} groups"
        )
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"labels from {labels.min()} to {labels.max()} are not all among {len(classes)} classes")
    sums = probabilities.sum(axis=1)
    if not (np.isfinite(probabilities).all() and (probabilities >= 0).all() and np.allclose(sums, 1, atol=1e-3)):
        raise ValueError("probabilities must be from 0 to 1, and each image's sum to 1")
    return labels.astype(np.int64), probabilities / sums[:, None]
