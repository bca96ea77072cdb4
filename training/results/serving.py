"""What those who serve a run must know beside its weights: when it is not sure, what is strange to it, and what each
threshold costs. It stands in `serving.json`.

Thresholds are chosen on the validation images. With few of them, or few mistakes, they say little: then a rule that
needs no images takes their place, or there is none, and the rule or the `reason` says so.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

from hub_utils.portable.activation_maps import body_and_head
from hub_utils.portable.strangeness import fit, strangeness
from training.recipe import UserError
from training.results.evaluation import SLACK

FEWEST = 20  # validation images; of fewer even the mistakes that are to be expected say nothing
FEWEST_MISTAKES = 10  # made; of fewer a threshold that halves them is chance
LEAST_ANSWERED = 0.5
SURE = 0.9  # a probability that nobody calls unsure, however seldom the model errs
STRANGE = 50  # one picture of the own kind in so many is called strange
FITTED = 300  # training images, drawn by lot: 650 or 1,000 tell strange pictures apart no better
SPLIT = "validation"


def not_sure(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The top probability below which an answer is not sure, and by which `rule`, from validation images.

    `probabilities` (images, classes) and `labels` (images,). Half of the mistakes, in share, are to be left among what
    is answered, whatever the accuracy is. Where few were made, those count that the probabilities let expect.
    """
    if not len(labels):
        return {"reason": "there are no validation images to choose a threshold by"}
    tops, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    threshold, rule = _halving(tops, right)
    answered = tops >= threshold
    facts = {"split": SPLIT, "images": len(right)}
    if not answered.any():
        return facts | {"reason": f"no validation image gets a probability of {threshold:.0%}"}
    if len(right) >= FEWEST and right[answered].mean() <= 0.5:
        return facts | {"reason": "its probabilities do not tell what is right: above one half it is wrong as often"}
    return {
        "threshold": threshold,
        **facts,
        "answered": float(answered.mean()),
        "accuracy_answered": float(right[answered].mean()),
        "accuracy_all": float(right.mean()),
        "rule": rule,
    }


def _halving(tops: np.ndarray, right: np.ndarray) -> tuple[float, str]:
    """A threshold of the top probabilities (images,), and the rule in words."""
    half = "one half, from where on an answer is more likely right than wrong"
    if len(right) < FEWEST:
        return 0.5, f"{half}: {len(right)} validation images are too few to choose by"
    mistakes = int((~right).sum())
    counted = mistakes >= FEWEST_MISTAKES
    order = np.argsort(-tops, kind="stable")
    tops, cost = tops[order], (~right if counted else 1 - tops)[order]
    answers = np.arange(1, len(tops) + 1)
    left = np.cumsum(cost) / answers
    together = np.append(tops[1:] < tops[:-1], True)  # of equal probabilities all are answered, or none
    good = np.flatnonzero(together & (answers >= LEAST_ANSWERED * len(tops)) & (left <= cost.mean() / 2))
    if not len(good):
        return 0.5, f"{half}: no other leaves half of the mistakes and still answers half of the validation images"
    threshold = float(f"{tops[good[-1]] * (1 - SLACK):.9g}")
    if threshold > SURE:
        return SURE, f"{SURE:.0%}, which counts as sure: to halve the few mistakes it would have to be {threshold:.3f}"
    if counted:
        return threshold, "the lowest that halves the share of mistakes among the answers to the validation images"
    made = f"the {mistakes} made are too few to count" if mistakes else "none were made"
    return threshold, f"the lowest that halves the share of mistakes which the probabilities let expect: {made}"


def familiar(statistics: Mapping[str, Any], scores: np.ndarray) -> dict[str, Any]:
    """The statistics with the threshold above which a picture is strange, from the scores of validation images (n,).

    It is the conformal quantile (Vovk et al. 2005): a further picture of the same kind lies above it once in `STRANGE`
    times at most, however few images there are; of fewer than 49 even the largest score does not promise that.
    """
    count = len(scores)
    facts = {**statistics, "threshold": None, "split": SPLIT, "images": count}
    if count + 1 < STRANGE:
        return facts | {"reason": f"{count} validation images are too few for a threshold; {STRANGE - 1} are needed"}
    largest = float(np.sort(scores)[count - (count + 1) // STRANGE])
    if not math.isfinite(largest):
        return facts | {"reason": "the features of validation images are not finite numbers"}
    threshold = float(f"{largest * (1 + SLACK):.9g}")
    share = float((scores <= threshold).mean())
    rule = f"a further picture of the validation images' kind lies above it once in {STRANGE} times at most"
    return facts | {"threshold": threshold, "share_below": share, "rule": rule}


class Strangeness:
    """How strange the images are that go through a model: `scores`, of each inside of `watching`, in order.

    `statistics` are those of `fit`; None where there can be none, and `reason` says why.
    """

    def __init__(self, classifier: Any, statistics: Mapping[str, Any] | None, reason: str | None = None):
        self._model, self.statistics, self.reason = classifier.model, statistics, reason
        self.scores: list[float] = []

    @classmethod
    def fitted(cls, classifier: Any, show: Callable[[], object]) -> Strangeness:
        """From what goes through the model while `show` runs, which are training images, not augmented."""
        features: list[np.ndarray] = []
        try:
            with _taking_features(classifier.model, features.append):
                show()
            return cls(classifier, fit(np.concatenate(features) if features else np.empty((0, 1), np.float32)))
        except ValueError as error:  # where the head begins is not known, or the images are too few
            return cls(classifier, None, str(error))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Score each image that goes through the model."""
        if self.statistics is None:
            yield
            return
        with _taking_features(self._model, lambda each: self.scores.extend(strangeness(each, self.statistics))):
            yield

    def fact(self, validation: Sequence[float], test: Sequence[float] = ()) -> dict[str, Any]:
        """For serving.json, from the scores of both splits."""
        if self.statistics is None:
            return {"reason": self.reason}
        found = familiar(self.statistics, np.array(validation))
        if found["threshold"] is not None and len(test):
            share = float((np.array(test) <= found["threshold"]).mean())
            found["test"] = {"images": len(test), "share_below": share}
        return found


def drawn(count: int, at_most: int = FITTED) -> list[int]:
    """Which of `count` training images are looked at, in order, always the same."""
    return sorted(random.Random(0).sample(range(count), min(at_most, count)))


@contextmanager
def _taking_features(model: nn.Module, take: Callable[[np.ndarray], None]) -> Iterator[None]:
    """While it is open, hand `take` the pooled features, float32 (batch, width), of what goes through the model.

    Raises:
        ValueError: where its head begins is not known.
    """
    head = body_and_head(model)[1][0]
    watch = head.register_forward_pre_hook(lambda _, inputs: take(inputs[0].detach().flatten(1).float().cpu().numpy()))
    try:
        yield
    finally:
        watch.remove()


def as_lines(facts: Mapping[str, Any]) -> list[str]:
    """The thresholds, for a person to read."""
    lines, unsure, strange = [], facts["not_sure"], facts["strangeness"]
    if "threshold" in unsure:
        lines.append(
            f"not sure   below {unsure['threshold']:.0%}: answers {unsure['answered']:.0%} of the validation images, "
            f"{unsure['accuracy_answered']:.1%} of these right"
        )
    else:
        lines.append(f"warning    not known when it is not sure: {unsure['reason']}")
    if strange.get("threshold") is not None:
        lines.append(
            f"strange    above {strange['threshold']:.3f}: {1 - strange['share_below']:.1%} of the validation images"
        )
    elif "reason" in strange:
        lines.append(f"warning    not known what is strange to it: {strange['reason']}")
    return lines


def positive_classes(card: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """The classes that are looked for: the recipe's `positive`, or of two classes of a medical recipe the second.

    Without either none: of daisies and roses neither is the one that may not be missed.

    Raises:
        UserError: the recipe names a class that is not there, or all of them.
    """
    named = list(card.get("positive") or ())
    unknown = [name for name in named if name not in classes]
    if unknown:
        raise UserError(
            f"the recipe looks for the class '{unknown[0]}', and there are {', '.join(classes)}; correct `positive` in "
            "its Card, or the names by `class_names` in its Data"
        )
    if named and len(set(named)) == len(classes):
        raise UserError("the recipe looks for all classes there are; `positive` in its Card must leave one out")
    if not named and card.get("medical") and len(classes) == 2:
        return [classes[1]]
    return [name for name in classes if name in named]
