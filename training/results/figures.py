"""The figures of a test split: subclasses of `evaluate.Metric` over scikit-learn; nothing is downloaded or written.

Each is called with what a network says of images and with the true classes (images,), and answers by its own name::

    >>> Accuracy().compute(predictions=[0, 1, 1], references=[0, 1, 0])
    {'accuracy': 0.6666666666666666}

What it says are classes (images,), or scores (images,) of the positive class, 1, or probabilities (images, classes). A
figure that is undefined is `None`, and why is said beside it: `{"roc_auc": None, "reason": "…"}`.

`evaluate` takes seconds to import: import this module where it is used.
"""

import math
from typing import Any, ClassVar

import evaluate
import numpy as np
from datasets import Features, List, Value
from sklearn import metrics

from training.results.calibration_error import expected_calibration_error
from training.results.weighted import among_five

CLASS, SCORE, PROBABILITIES = Value("int64"), Value("float64"), List(Value("float64"))


class Undefined(ValueError):
    """A figure that these images cannot give; the message says why."""


class Figure(evaluate.Metric):
    """One number of `said` and true classes; a subclass says in `takes` what `said` is."""

    takes: ClassVar[Value | List] = CLASS

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True, seed=0)

    def measure(self, said: np.ndarray, true: np.ndarray) -> float:
        """The number.

        Raises:
            Undefined: there is none.
        """
        raise NotImplementedError

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        try:
            return {self.name: float(self.measure(np.asarray(predictions), np.asarray(references)))}
        except Undefined as why:
            return {self.name: None, "reason": str(why)}

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": self.takes, "references": CLASS})
        form = None if self.takes is PROBABILITIES else "numpy"
        return evaluate.MetricInfo(description=type(self).__doc__, citation="", features=features, format=form)

    def _build_data_dir(self) -> str:
        return ""  # the base class makes a folder in the user's cache, even of what stays in memory


class Accuracy(Figure):
    """Share of images whose predicted class is the true one."""

    def measure(self, said: np.ndarray, true: np.ndarray) -> float:
        return metrics.accuracy_score(true, said)


class BalancedAccuracy(Figure):
    """Mean recall of the classes that have an image: of the others nothing can be said."""

    def measure(self, said: np.ndarray, true: np.ndarray) -> float:
        return metrics.recall_score(true, said, labels=np.unique(true), average="macro", zero_division=0)


class MacroF1(Figure):
    """Mean F1 of the classes that are true or predicted somewhere: of the others nothing can be said.

    A class that is predicted and never true counts as 0.
    """

    def measure(self, said: np.ndarray, true: np.ndarray) -> float:
        return metrics.f1_score(true, said, average="macro", zero_division=0)


class Sensitivity(Figure):
    """Share of the positives, 1, that are called so."""

    def measure(self, said: np.ndarray, true: np.ndarray) -> float:
        if not (true == 1).any():
            raise Undefined("no image of the positive class")
        return metrics.recall_score(true, said, pos_label=1)


class Specificity(Figure):
    """Share of the negatives, 0, that are called so."""

    def measure(self, said: np.ndarray, true: np.ndarray) -> float:
        if not (true == 0).any():
            raise Undefined("no image of the negative class")
        return metrics.recall_score(true, said, pos_label=0)


class RocAuc(Figure):
    """Share of pairs of a positive and a negative in which the positive scores higher; equal ones count half."""

    takes = SCORE

    def measure(self, said: np.ndarray, true: np.ndarray) -> float:
        _both_present(true)
        return metrics.roc_auc_score(true, said)


class AveragePrecision(Figure):
    """Precision at each threshold, weighted by the recall gained there: a sum of steps, not of trapezia."""

    takes = SCORE

    def measure(self, said: np.ndarray, true: np.ndarray) -> float:
        _both_present(true)
        return metrics.average_precision_score(true, said)


class TopFiveAccuracy(Figure):
    """Share of images whose true class is among the five most probable; of equals the first, as for the first place."""

    takes = PROBABILITIES

    def measure(self, said: np.ndarray, true: np.ndarray) -> float:
        return metrics.accuracy_score(np.ones(len(true), dtype=bool), among_five(said, true))


class LogLoss(Figure):
    """Mean of -log p of the true class, in nats; p counts as 2.2e-16 at least, so that it is at most 36."""

    takes = PROBABILITIES

    def measure(self, said: np.ndarray, true: np.ndarray) -> float:
        return metrics.log_loss(true, said, labels=np.arange(said.shape[1]))


class BrierScore(Figure):
    """Half the mean squared distance of the probabilities from the truth: from 0 to 1, for any number of classes.

    Half of Brier's own sum over all classes (1950, Monthly Weather Review 78:1), so that of two classes it is what
    everybody calls their Brier score: the mean of (p - y)² of one of them.
    """

    takes = PROBABILITIES

    def measure(self, said: np.ndarray, true: np.ndarray) -> float:
        return metrics.brier_score_loss(true, said, labels=np.arange(said.shape[1]), scale_by_half=True)


class ExpectedCalibrationError(Figure):
    """Mean distance of confidence and accuracy over 15 bins of equal width; see `calibration_error`."""

    takes = PROBABILITIES

    def measure(self, said: np.ndarray, true: np.ndarray) -> float:
        return expected_calibration_error(said, true)


class ClassFigures(Figure):
    """Precision, recall and F1 of each of `classes` classes, as lists; `None` where undefined.

    So is the precision of a class that is never predicted, the recall of one without an image, the F1 of one that is
    neither predicted nor true.
    """

    def _compute(self, predictions: Any, references: Any, classes: int) -> dict[str, list[float | None]]:
        scores = metrics.precision_recall_fscore_support(
            references, predictions, labels=np.arange(classes), zero_division=np.nan
        )
        return {
            name: [None if math.isnan(value) else float(value) for value in values]
            for name, values in zip(("precision", "recall", "f1"), scores, strict=False)
        }


def _both_present(true: np.ndarray) -> None:
    if len(np.unique(true)) < 2:
        raise Undefined("only one class among the images")
