"""Expected calibration error: the bins it is made of, and its interval.

Images are sorted by confidence, the probability of the predicted class, into 15 bins of equal width; the error is the
distance of mean confidence and accuracy, averaged over the bins by their images (Naeini et al. 2015, AAAI; Guo et al.
2017, ICML). Fifteen of equal width because published figures are of these; bins of as many images each have a little
less bias (Roelofs et al. 2022, AISTATS), but put three of 48 images into a bin.

It is a sum of absolute values, so that chance alone makes it larger than 0: .07 for 48 images of a network that is
perfectly calibrated.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.results.metrics import wilson_interval

BINS = 15
DRAWS = 500  # samples for each supposed truth
STEPS, SHIFTS = 61, 21  # supposed truths of each kind


@dataclass(frozen=True)
class Bin:
    """`images` with a confidence above `low` and up to `high`: their mean `confidence`, and their `accuracy`."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def reliability_bins(probabilities: np.ndarray, labels: np.ndarray) -> list[Bin]:
    """The bins that hold an image, from low to high; of probabilities (images, classes) and labels (images,)."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    place = np.digitize(confidence, edges[1:-1], right=True)
    bins = []
    for number in np.unique(place):
        inside = place == number
        limits = float(edges[number]), float(edges[number + 1])
        bins.append(Bin(*limits, int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean())))
    return bins


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """From 0 to 1; of probabilities (images, classes) and labels (images,)."""
    images, confidence, accuracy = _arrays(reliability_bins(probabilities, labels))
    return _error(images, confidence, accuracy)


def calibration_error_interval(bins: list[Bin], effective: float, seed: int = 0) -> list[float]:
    """95 % interval of the error that endless images would show in these bins.

    `effective` is the number of images that count, where they belong together; see `intervals.effective_images`.

    A bootstrap of the error only adds to its bias: of a calibrated network no percentile interval holds the truth. So
    the question is put the other way round. Truths are supposed from "calibrated", where the accuracy of each bin is
    its confidence (Bröcker and Smith 2007, Weather and Forecasting 22:651), towards the accuracies seen and beyond,
    and to the other side; the same towards these with the part taken off that chance alone would make; and the
    confidences, all shifted so that the accuracy of all images is what Wilson's interval
    allows, since bins that show no error would leave nothing to suppose. Right answers are drawn from each. The
    interval reaches over the errors of the truths that give the error seen neither in the lowest nor in the highest
    2.5 % of their draws.

    Simulated coverage (`tests/benchmarks/coverage.py`, 200 samples) of 48 images is .96 to .99, calibrated or far too
    sure; of 384 images of 16 patients .89: where groups are few and large, errors of the bins go together, and here
    they are drawn bin by bin.
    """
    images, confidence, accuracy = _arrays(bins)
    seen, total = _error(images, confidence, accuracy), images.sum()
    draw = np.random.default_rng(seed)
    low = high = seen
    for truth in _supposed(images, confidence, accuracy, effective):
        by_chance = draw.binomial(images.astype(np.int64), truth, (DRAWS, len(images))) / images - truth
        drawn = np.clip(truth + by_chance * np.sqrt(total / effective), 0, 1)
        errors = np.abs(drawn - confidence) @ images / total
        # The draws are counts, so that equals are common; they stand on both sides.
        if (errors >= seen - 1e-12).mean() > 0.025:
            low = min(low, _error(images, confidence, truth))
        if (errors <= seen + 1e-12).mean() > 0.025:
            high = max(high, _error(images, confidence, truth))
    return [low, high]


def _supposed(
    images: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray, effective: float
) -> Iterator[np.ndarray]:
    """Accuracies (bins,) that the network may have."""
    for gap in (accuracy - confidence, _less_chance(images * effective / images.sum(), confidence, accuracy)):
        for distance in np.linspace(-3, 3, STEPS):
            yield np.clip(confidence + distance * gap, 0, 1)
    share = float(accuracy @ images / images.sum())
    to_limits = np.array(wilson_interval(share * effective, effective)) - confidence @ images / images.sum()
    for shift in np.linspace(min(0, to_limits[0]), max(0, to_limits[1]), SHIFTS):
        yield np.clip(confidence + shift, 0, 1)


def _less_chance(counts: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Accuracy above confidence, its square less its variance, which one image of the mean confidence more smooths."""
    variance = (counts * accuracy * (1 - accuracy) + confidence * (1 - confidence)) / (counts + 1) / counts
    gap = accuracy - confidence
    return np.sign(gap) * np.sqrt(np.maximum(0, gap**2 - variance))


def _arrays(bins: list[Bin]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images, confidence, accuracy = np.array([(each.images, each.confidence, each.accuracy) for each in bins]).T
    return images, confidence, accuracy


def _error(images: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray) -> float:
    return float(np.abs(accuracy - confidence) @ images / images.sum())
