"""How often the 95 % intervals of an evaluation hold the truth, and how wide they are.

python tests/benchmarks/coverage.py [--samples 2000] [--only 48] [--processes 1]

Networks are simulated: a class adds its mark to one of as many normal numbers as there are classes, which makes their
softmax the calibrated probabilities; divided by a temperature below 1 they are too sure. The truth of each figure is
what 1,600,000 images of the same network show. 2,000 samples measure a coverage of .95 with a standard error of .005.
"""

import argparse
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import norm
from tqdm import tqdm

from training.results import weighted
from training.results.calibration_error import expected_calibration_error
from training.results.intervals import TooFew
from training.results.split_intervals import SplitIntervals

TRUTH_IMAGES, TRUTH_PARTS = 200_000, 8


@dataclass(frozen=True)
class Network:
    """`images` in groups of `together` that share class and the part `shared` of the variance; answers `accuracy`."""

    name: str
    images: int
    classes: int
    accuracy: float
    temperature: float = 1.0
    together: int = 1
    shared: float = 0.0
    rare: float = 0.0  # share of the second class; of all equal if 0
    sizes: tuple[int, ...] = ()  # of the groups, where they differ: `images` in all
    mislabelled: float = 0.0  # share of images whose label is drawn by lot, on top of `accuracy`

    def answers(self, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels (images,), probabilities (images, classes), groups (images,)."""
        sizes = self.sizes or (self.together,) * (self.images // self.together)
        number = len(sizes)
        first = draw.permutation(number) < round(self.rare * number)
        labels = first.astype(np.int64) if self.rare else np.arange(number) % self.classes
        groups = np.repeat(np.arange(number), sizes)
        labels = labels[groups]
        marks = math.sqrt(self.shared) * draw.normal(size=(number, self.classes))[groups]
        marks += math.sqrt(1 - self.shared) * draw.normal(size=(len(groups), self.classes))
        strength = _strength(self.classes, self.accuracy)
        marks[np.arange(len(groups)), labels] += strength
        by_lot = draw.random(len(labels)) < self.mislabelled
        labels = np.where(by_lot, draw.integers(0, self.classes, len(labels)), labels)
        return labels, softmax(strength * marks / self.temperature, axis=1), groups


NETWORKS = [
    Network("48 images, 2 classes", 48, 2, 0.92),
    Network("48, 2 classes, too sure", 48, 2, 0.92, 0.6),
    Network("48, 2 classes, not sure enough", 48, 2, 0.92, 1.6),
    Network("48, 2 classes, 15 % labels by lot", 48, 2, 0.92, mislabelled=0.15),
    Network("48, 4 classes, too sure", 48, 4, 0.92, 0.6),
    Network("100, 2 classes, 15 positives", 100, 2, 0.9, 0.8, rare=0.15),
    Network("200, 5 classes, too sure", 200, 5, 0.9, 0.8),
    Network("1,000, 5 classes, too sure", 1_000, 5, 0.9, 0.8),
    Network("1,000, 5 classes, 5 % labels by lot", 1_000, 5, 0.9, mislabelled=0.05),
    Network("960, 120 classes", 960, 120, 0.85, 0.8),
    Network("96 in threes, 2 classes", 96, 2, 0.85, 0.8, together=3, shared=0.5),
    Network("200 in twos, 5 classes", 200, 5, 0.9, 0.8, together=2, shared=0.8),
]
UNEVEN = (30, 22, 16, 12, 9, 7, 5, 4, 3, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1)
NETWORKS += [
    Network("48, 2 classes, far too sure", 48, 2, 0.92, 0.3),
    Network("48, 2 classes, absurdly sure", 48, 2, 0.92, 0.15),
    Network("48, 2 classes, mistakes rare", 48, 2, 0.98),
    Network("48, 2 classes, mistakes rare, far too sure", 48, 2, 0.98, 0.3),
    Network("384 of 16 patients, 2 classes", 384, 2, 0.9, 0.8, together=24, shared=0.6),
    Network("124 of 20 uneven patients, 2 classes", sum(UNEVEN), 2, 0.9, 0.8, shared=0.6, sizes=UNEVEN),
]


@cache
def _strength(classes: int, accuracy: float) -> float:
    """The mark at which the true class's number is the largest of all so often."""

    def right(strength: float) -> float:
        return quad(lambda x: norm.pdf(x - strength) * norm.cdf(x) ** (classes - 1), -9, 12 + strength)[0]

    return brentq(lambda strength: right(strength) - accuracy, 0, 9)


def figures(network: Network) -> list[str]:
    """Names of the figures it has."""
    always = ["accuracy", "recall", "precision", "f1", "balanced_accuracy", "macro_f1"]
    always += ["log_loss", "brier_score", "expected_calibration_error"]
    return [*always, "roc_auc", "average_precision"] if network.classes == 2 else always


def truth(network: Network) -> dict[str, float]:
    """What endless images show, nearly; a class's own figures are those of the second class."""
    alone = replace(network, images=TRUTH_IMAGES, together=1, shared=0.0, sizes=())
    parts = [_values(network, *alone.answers(np.random.default_rng(10_000 + part))[:2]) for part in range(TRUTH_PARTS)]
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}


def _values(network: Network, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    predicted, once = probabilities.argmax(axis=1), np.ones((1, len(labels)))
    right, true, said = predicted == labels, labels == 1, predicted == 1
    values = {"accuracy": right.mean(), "recall": right[true].mean(), "precision": right[said].mean()}
    values["f1"] = 2 * (true & said).sum() / (true.sum() + said.sum())
    values["balanced_accuracy"] = weighted.balanced_accuracy(labels, predicted, once)[0]
    values["macro_f1"] = weighted.macro_f1(labels, predicted, once)[0]
    values["log_loss"] = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    values["brier_score"] = ((probabilities - np.eye(network.classes)[labels]) ** 2).sum(axis=1).mean() / 2
    values["expected_calibration_error"] = expected_calibration_error(probabilities, labels)
    if network.classes == 2:
        values["roc_auc"] = weighted.roc_auc(labels, probabilities[:, 1], once)[0]
        values["average_precision"] = weighted.average_precision(labels, probabilities[:, 1], once)[0]
    return values


def limits(network: Network, seed: int, only: tuple[str, ...] = ()) -> dict[str, tuple[float, float]]:
    """Of one sample, by figure, of all if `only` names none; not a number where there is no interval."""
    spans = SplitIntervals(*network.answers(np.random.default_rng(seed)), seed)
    found = {}
    for name in only or figures(network):
        argument = [1] if name in ("recall", "precision", "f1") else []
        try:
            interval = getattr(spans, name)(*argument)
            found[name] = interval.low, interval.high
        except TooFew:
            found[name] = math.nan, math.nan
    return found


def table(network: Network, samples: Iterator[dict[str, tuple[float, float]]]) -> Iterator[str]:
    """A row a figure."""
    expected, spans = truth(network), list(samples)
    for name in figures(network):
        low, high = np.array([each[name] for each in spans]).T
        given = ~np.isnan(low)
        low, high = low[given], high[given]
        under, over = (expected[name] > high).mean(), (expected[name] < low).mean()
        held = ((low <= expected[name]) & (expected[name] <= high)).mean()
        error = math.sqrt(held * (1 - held) / len(low))
        width = np.median(high - low)
        yield (
            f"| {network.name} | {name} | {expected[name]:.4f} | {held:.3f} ± {error:.3f} | {over:.3f} | {under:.3f} "
            f"| {width:.3f} | {1 - given.mean():.3f} |"
        )


def main() -> None:
    """Print the table as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2_000, help="of each network (default: %(default)s)")
    parser.add_argument("--only", default="", help="networks whose name has this in it")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    print("| network | figure | truth | coverage | truth below | truth above | median width | no interval |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with ProcessPoolExecutor(arguments.processes) as pool:
        for network in NETWORKS:
            if arguments.only in network.name:
                samples = pool.map(partial(limits, network), range(arguments.samples), chunksize=10)
                bar = tqdm(samples, network.name, arguments.samples, leave=False)
                print("\n".join(table(network, bar)), flush=True)


if __name__ == "__main__":
    main()
