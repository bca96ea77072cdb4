"""All that is said of a split: each figure with its interval, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from training.results.intervals import TooFew, numbered
from training.results.split_intervals import Interval, SplitIntervals

if TYPE_CHECKING:
    from training.results.figures import Figure

MANY_CLASSES = 10  # of more than these the five most probable count too
SLACK = 1e-5  # of a threshold; as far as probabilities in fp32 are apart from one runtime to the next
# Of an operating curve: every hundredth, and closer where probabilities of a sure network lie.
THRESHOLDS = (0.001, 0.002, 0.005, *(number / 100 for number in range(1, 100)), 0.995, 0.998, 0.999)


def evaluate_split(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    threshold: float | None = None,
    positive: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """What `test_results.json` holds of labels (images,) and probabilities (images, classes) whose rows sum to 1.

    A figure is `{"value", "interval", "method"}`: from 0 to 1, or nats for the log loss. One that is undefined has
    `None` for value and interval, and a `reason`; so has a value that too few images give an interval to. Balanced
    accuracy and macro F1 that leave classes out have a `note`.

    Of two classes the one with index `positive` is looked for, and `threshold` is its p that reaches 95 % sensitivity
    on validation, from `sensitivity_threshold`. `groups` (images,) name what belongs together. The same `seed` gives
    the same intervals.

    Raises:
        ValueError: no image, fewer than two classes, shapes that differ, labels or probabilities that are none.
    """
    spans = SplitIntervals(*_checked(labels, probabilities, classes, groups), numbered(groups), seed)
    measured = _Measured(spans)
    results = {
        "images": len(spans.labels),
        "groups": int(spans.groups.max()) + 1,
        "metrics": measured.headline(),
        "per_class": dict(zip(classes, measured.each_class(), strict=True)),
        "confusion": measured.confusion(),
        "reliability": [asdict(each) for each in spans.bins],
    }
    if len(classes) == 2:
        of_two = measured if positive == 1 else _Measured(spans.swapped())
        half = {"threshold": 0.5, **of_two.operating_point(0.5)}
        results["metrics"] |= of_two.areas()
        results["metrics"] |= {name: half[name] for name in ("sensitivity", "specificity")}
        results["positive"] = classes[positive]
        results["operating_points"] = {
            "at_half": half,
            "at_95_sensitivity": {"threshold": threshold, **of_two.operating_point(threshold)},
        }
    return results


def operating_curve(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    positive: Sequence[str],
) -> dict[str, Any]:
    """Sensitivity and specificity of calling `positive` whatever has a probability of these classes, together, from a
    threshold up, at `THRESHOLDS`; otherwise as `evaluate_split`.
    """
    spans = SplitIntervals(*_checked(labels, probabilities, classes, groups), numbered(groups))
    chosen = np.isin(classes, positive)
    is_positive, probability = chosen[spans.labels], spans.probabilities[:, chosen].sum(axis=1)

    def share(right: np.ndarray, counted: np.ndarray, which: str) -> dict[str, Any]:
        value = float(right[counted].mean()) if counted.any() else None
        return _beside(value, f"no image of the {which} class", lambda: spans.share(right, counted))

    return {
        "positive": [name for name in classes if name in positive],
        "negative": [name for name in classes if name not in positive],
        "images": len(spans.labels),
        "groups": int(spans.groups.max()) + 1,
        "points": [
            {
                "threshold": threshold,
                "sensitivity": share(probability >= threshold, is_positive, "positive"),
                "specificity": share(probability < threshold, ~is_positive, "negative"),
            }
            for threshold in THRESHOLDS
        ],
    }


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


class _Measured:
    """Figures of a split beside their intervals."""

    def __init__(self, spans: SplitIntervals) -> None:
        self.spans = spans

    def headline(self) -> dict[str, dict[str, Any]]:
        from training.results import figures

        spans, classes = self.spans, self.spans.probabilities.shape[1]
        predicted, probabilities = spans.predicted, spans.probabilities
        chosen: dict[str, tuple[Figure, np.ndarray]] = {
            "accuracy": (figures.Accuracy(), predicted),
            "balanced_accuracy": (figures.BalancedAccuracy(), predicted),
            "macro_f1": (figures.MacroF1(), predicted),
        }
        if classes > MANY_CLASSES:
            chosen["top_5_accuracy"] = figures.TopFiveAccuracy(), probabilities
        chosen |= {
            "log_loss": (figures.LogLoss(), probabilities),
            "brier_score": (figures.BrierScore(), probabilities),
            "expected_calibration_error": (figures.ExpectedCalibrationError(), probabilities),
        }
        found = {name: self._figure(*each, getattr(spans, name)) for name, each in chosen.items()}
        found["balanced_accuracy"] |= _note(len(np.unique(spans.labels)), classes, "have an image")
        somewhere = len(np.union1d(spans.labels, spans.predicted))
        found["macro_f1"] |= _note(somewhere, classes, "are true or predicted")
        return found

    def areas(self) -> dict[str, dict[str, Any]]:
        """Under the curves of two classes."""
        from training.results.figures import AveragePrecision, RocAuc

        scores = self.spans.probabilities[:, 1]
        return {
            "roc_auc": self._figure(RocAuc(), scores, self.spans.roc_auc),
            "average_precision": self._figure(AveragePrecision(), scores, self.spans.average_precision),
        }

    def operating_point(self, threshold: float | None) -> dict[str, dict[str, Any]]:
        """Sensitivity and specificity where p from `threshold` up is called positive; at 0.5 the predicted class."""
        from training.results.figures import Sensitivity, Specificity

        if threshold is None:
            return dict.fromkeys(("sensitivity", "specificity"), _undefined("no positive image to set a threshold by"))
        spans = self.spans
        called = spans.predicted if threshold == 0.5 else (spans.probabilities[:, 1] >= threshold).astype(np.int64)
        right = called == spans.labels
        return {
            "sensitivity": self._figure(Sensitivity(), called, lambda: spans.share(right, spans.labels == 1)),
            "specificity": self._figure(Specificity(), called, lambda: spans.share(right, spans.labels == 0)),
        }

    def each_class(self) -> list[dict[str, Any]]:
        from training.results.figures import ClassFigures

        spans, classes = self.spans, self.spans.probabilities.shape[1]
        found = ClassFigures().compute(predictions=spans.predicted, references=spans.labels, classes=classes)
        return [
            {
                "precision": _beside(found["precision"][number], "never predicted", partial(spans.precision, number)),
                "recall": _beside(found["recall"][number], "no image of this class", partial(spans.recall, number)),
                "f1": _beside(found["f1"][number], "no image, and never predicted", partial(spans.f1, number)),
                "support": int((spans.labels == number).sum()),
            }
            for number in range(classes)
        ]

    def confusion(self) -> list[list[int]]:
        """Rows true, columns predicted."""
        from sklearn.metrics import confusion_matrix

        classes = np.arange(self.spans.probabilities.shape[1])
        return confusion_matrix(self.spans.labels, self.spans.predicted, labels=classes).tolist()

    def _figure(self, figure: Figure, said: np.ndarray, span: Callable[[], Interval]) -> dict[str, Any]:
        found = figure.compute(predictions=said, references=self.spans.labels)
        return _beside(found[figure.name], found.get("reason", ""), span)


def _beside(value: float | None, reason: str, span: Callable[[], Interval]) -> dict[str, Any]:
    """A value with its interval, or the reason why there is none."""
    if value is None:
        return _undefined(reason)
    try:
        interval = span()
    except TooFew as why:
        return {"value": value, "interval": None, "reason": str(why)}
    return {"value": value, "interval": [interval.low, interval.high], "method": interval.method}


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
