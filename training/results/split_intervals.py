"""Which interval belongs to which figure of a split."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from training.results import intervals, weighted
from training.results.calibration_error import Bin, calibration_error_interval, reliability_bins

LEAST = float(np.finfo(np.float64).eps)  # no p counts as less in a loss, as scikit-learn has it

IMPLIED = "what Wilson's interval of the accuracy implies"

Figure = Callable[[np.ndarray], np.ndarray]  # weights (samples, images) to values (samples,)


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`, 95 %, and in words how it was found."""

    low: float
    high: float
    method: str


@dataclass
class SplitIntervals:
    """Intervals by the names of the figures, each worked out when it is asked for.

    Labels (images,), probabilities (images, classes), numbers of groups (images,) as `intervals.numbered` gives them.
    Those of shares need an image that is counted, those of the curves both of two classes.

    Each may raise `intervals.TooFew`.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray
    seed: int = 0

    def swapped(self) -> SplitIntervals:
        """Of two classes, with the first as the second, which is the positive one."""
        return SplitIntervals(1 - self.labels, self.probabilities[:, ::-1], self.groups, self.seed)

    @cached_property
    def predicted(self) -> np.ndarray:
        """Classes (images,), of equals the first."""
        return self.probabilities.argmax(axis=1)

    @cached_property
    def right(self) -> np.ndarray:
        """Where (images,) the predicted class is the true one."""
        return self.predicted == self.labels

    @cached_property
    def bins(self) -> list[Bin]:
        """Of the reliability diagram."""
        return reliability_bins(self.probabilities, self.labels)

    def accuracy(self) -> Interval:
        return self.share(self.right, np.ones_like(self.right))

    def top_5_accuracy(self) -> Interval:
        return self.share(weighted.among_five(self.probabilities, self.labels), np.ones_like(self.right))

    def precision(self, number: int) -> Interval:
        return self.share(self.right, self.predicted == number)

    def recall(self, number: int) -> Interval:
        return self.share(self.right, self.labels == number)

    def f1(self, number: int) -> Interval:
        """Of the images that are of the class or said to be, a share J is both; F1 = 2 J / (1 + J) rises with J."""
        both = self.share(self.right, (self.labels == number) | (self.predicted == number))
        return Interval(2 * both.low / (1 + both.low), 2 * both.high / (1 + both.high), both.method)

    def share(self, right: np.ndarray, counted: np.ndarray) -> Interval:
        """Of the share of `right` (images,) among the `counted` (images,)."""
        right, groups = right[counted], intervals.numbered(self.groups[counted])
        effective = intervals.effective_images(right, groups)
        few = "" if effective == len(right) else f", {effective:.1f} effective of {len(right)} images"
        return Interval(*intervals.telling(*intervals.share_interval(right, groups)), f"Wilson{few}")

    def balanced_accuracy(self) -> Interval:
        return self._mean_over_classes(weighted.balanced_accuracy)

    def macro_f1(self) -> Interval:
        return self._mean_over_classes(weighted.macro_f1)

    def roc_auc(self) -> Interval:
        again = partial(weighted.roc_auc, self.labels, self.probabilities[:, 1])
        return self._bootstrapped(again, self._class_images.min())

    def average_precision(self) -> Interval:
        again = partial(weighted.average_precision, self.labels, self.probabilities[:, 1])
        return self._bootstrapped(again, self._class_images.min())

    def log_loss(self) -> Interval:
        """Where mistakes are rare, of the bootstrap and of what the accuracy implies the wider: costs differ much."""
        losses = -np.log(np.clip(self.probabilities, LEAST, 1 - LEAST))
        seen = self._mean_loss(losses, -math.log(LEAST))
        if self._tells(seen):
            return seen
        low, high, most = self._implied(losses)
        return Interval(min(seen.low, low), max(min(seen.high, most), high), f"{seen.method}, {IMPLIED}")

    def brier_score(self) -> Interval:
        """Where mistakes are rare, what the accuracy implies: none costs more than 1, so that their number decides."""
        squares = (self.probabilities**2).sum(axis=1, keepdims=True)
        losses = (squares - 2 * self.probabilities + 1) / 2
        seen = self._mean_loss(losses, 1)
        return seen if self._tells(seen) else Interval(*intervals.telling(*self._implied(losses)[:2]), IMPLIED)

    def expected_calibration_error(self) -> Interval:
        effective = intervals.effective_images(self.right, self.groups)
        limits = calibration_error_interval(self.bins, effective, self.seed)
        return Interval(*intervals.telling(*limits), "test inversion")

    def _mean_loss(self, if_true: np.ndarray, highest: float) -> Interval:
        """Of the loss of each image for each class (images, classes), were it the true one."""
        losses = if_true[np.arange(len(self.labels)), self.labels]
        limits = intervals.mean_loss_interval(losses, self.groups, self._draws, highest)
        return Interval(*limits, "studentised group bootstrap")

    def _tells(self, seen: Interval) -> bool:
        """Whether mistakes and right answers are many enough for a bootstrap of losses."""
        fewer = min(len(np.unique(self.groups[which])) for which in (self.right, ~self.right))
        return fewer >= intervals.RARE and seen.low < seen.high

    def _implied(self, if_true: np.ndarray) -> list[float]:
        every = np.arange(len(self.labels))
        others = np.clip(self.probabilities, LEAST, 1)
        others[every, self.predicted] = 0
        chances = others.sum(axis=1)
        if_wrong = np.stack([(others * if_true).sum(axis=1) / chances, chances])
        share = intervals.share_interval(self.right, self.groups)
        losses, if_right = if_true[every, self.labels], if_true[every, self.predicted]
        return intervals.implied_interval(losses, if_right, if_wrong, self.right, share)

    def _bootstrapped(self, figure: Figure, effective: float) -> Interval:
        limits = intervals.figure_interval(figure, self.groups, self._draws, float(effective))
        return Interval(*limits, "group bootstrap, logit scale")

    def _mean_over_classes(self, figure: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Interval:
        """Where a class is all right or all wrong, reaches on to that of a right and a wrong image more in each class.

        Such a class has no variance, and yet one of five networks that err one time in ten shows fifteen images right.
        The images more count two in all and two, divided among the classes (Price and Bonett 2004, Computational
        Statistics & Data Analysis 45:449).
        """
        present, images = np.unique(self.labels, return_counts=True)
        effective = len(present) ** 2 / (1 / self._class_images).sum()
        seen = partial(figure, self.labels, self.predicted)
        right = np.bincount(self.labels, self.right)[present]
        if ((right > 0) & (right < images)).all():
            return self._bootstrapped(seen, effective)
        somewhere = np.union1d(self.labels, self.predicted)
        wrong = np.roll(somewhere, 1)[np.searchsorted(somewhere, present)]
        labels = np.concatenate([self.labels, present, present])
        predicted = np.concatenate([self.predicted, present, wrong])
        groups = np.concatenate([self.groups, self.groups.max() + 1 + np.arange(2 * len(present))])
        more = 2 / len(present) * images / self._class_images  # as much as a group of that class
        counts = np.concatenate([np.ones(len(self.labels)), more, more])
        draws = intervals.draw_groups(groups, self.seed)
        low, high = intervals.figure_interval(
            lambda weights: figure(labels, predicted, weights * counts), groups, draws, float(effective)
        )
        value = float(seen(np.ones((1, len(self.labels))))[0])
        limits = [low, value, high]
        with suppress(intervals.TooFew):  # where no class varies, only the images more tell
            found = self._bootstrapped(seen, effective)
            limits += [found.low, found.high]
        return Interval(min(limits), max(limits), "group bootstrap, logit scale")

    @cached_property
    def _draws(self) -> np.ndarray:
        return intervals.draw_groups(self.groups, self.seed)

    @cached_property
    def _class_images(self) -> np.ndarray:
        """Of each class that has one, the images that count if those of a group count as one."""
        present = np.unique(self.labels)
        return np.array([intervals.fewest_effective(self.groups[self.labels == each]) for each in present])
