"""95 % intervals where images may belong together (a patient, near-duplicates): groups are drawn, not images.

Shares of images have Wilson's interval with an effective number of images; means of a loss a studentised bootstrap;
what is neither, a bootstrap's standard error on the logit scale. A plain percentile bootstrap of 48 images at 92 %
accuracy holds the truth 88 times in 100, of an AUC of .98 82 times; `tests/benchmarks/coverage.py` measures these.

`groups` are numbers (images,) from 0, equal where images belong together, none left out; see `numbered`.
"""

from collections.abc import Callable, Sequence

import numpy as np

from training.results.metrics import wilson_interval

DRAWS = 2_000  # bootstrap samples
FEWEST = 5  # groups; a bootstrap of fewer says nothing
CELLS = 4_000_000  # weights in memory at once


class TooFew(ValueError):
    """Too few groups for an interval; the message says how many."""


def numbered(groups: Sequence[str]) -> np.ndarray:
    """Numbers (images,) from 0 of the groups' names."""
    return np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)


def fewest_effective(groups: np.ndarray) -> float:
    """Effective number of images where all of a group are right or wrong together (Kish 1965); the groups' if even."""
    sizes = np.unique(groups, return_counts=True)[1]
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def effective_images(right: np.ndarray, groups: np.ndarray) -> float:
    """How many images that stand alone tell as much of the share of `right` (images,) as these do.

    Images over the design effect, with t quantiles for the fewer degrees of freedom (Korn and Graubard 1998, Survey
    Methodology 24:193); never more than there are. Where all or none are right no effect can be estimated, and each
    group is taken to be right or wrong together.
    """
    from scipy.stats import t

    images, number, share = len(right), int(groups.max()) + 1, float(right.mean())
    if number == images:
        return float(images)
    if share in (0, 1) or number == 1:
        return fewest_effective(groups)
    deviations = np.bincount(groups, right - share)
    variance = (deviations**2).sum() / images**2 * number / (number - 1)
    alone = share * (1 - share) / (images - 1)
    quantiles = t.ppf(0.975, images - 1) / t.ppf(0.975, number - 1)
    return float(images * min(1.0, alone / variance * quantiles**2)) if variance > 0 else float(images)


def share_interval(right: np.ndarray, groups: np.ndarray) -> list[float]:
    """Wilson's interval of the share of `right` (images,), with the effective number of images."""
    images = effective_images(right, groups)
    return wilson_interval(float(right.mean()) * images, images)


def mean_loss_interval(losses: np.ndarray, groups: np.ndarray, highest: float, seed: int = 0) -> list[float]:
    """Studentised bootstrap (Hall 1988, Annals of Statistics 16:927) of the mean of losses from 0 to `highest`.

    Losses are skewed: few images carry most. Its limits follow, where those of a percentile or BCa interval stay too
    low; the upper limit may lie far off where few images are there.

    Raises:
        TooFew: groups.
    """
    number = _enough(groups)
    sums, sizes = np.bincount(groups, losses), np.bincount(groups).astype(np.float64)
    draws = _draws(number, DRAWS, np.random.default_rng(seed))
    mean, error = _mean_and_error(np.ones((1, number)), sums, sizes)
    means, errors = _mean_and_error(draws, sums, sizes)
    if error[0] == 0:
        return [float(mean[0])] * 2
    varied = errors > 0
    low, high = np.quantile((means - mean)[varied] / errors[varied], (0.025, 0.975))
    return [max(0.0, float(mean[0] - high * error[0])), min(highest, float(mean[0] - low * error[0]))]


def figure_interval(
    figure: Callable[[np.ndarray], np.ndarray], groups: np.ndarray, effective: float, seed: int = 0
) -> list[float]:
    """Group bootstrap of a figure from 0 to 1: the standard error of its samples, as a t interval of the logit.

    `figure` takes weights (samples, images) and gives values (samples,); see `weighted`. `effective` is the number of
    images that carry it: their t quantile is used. Where the figure is 0 or 1 it is so in each sample, and Wilson's
    interval of a share of as many images stands for it.

    Raises:
        TooFew: groups.
    """
    from scipy.special import expit, logit
    from scipy.stats import t

    number = _enough(groups)
    if effective < 2:
        raise TooFew("too few images of a class that do not belong together")
    value = float(figure(np.ones((1, len(groups))))[0])
    samples = bootstrap(figure, groups, seed)
    deviation = float(np.nanstd(samples)) * (number / (number - 1)) ** 0.5
    if min(value, 1 - value) < 1e-12 or deviation == 0:
        return wilson_interval(round(value) * effective, effective)
    half = t.ppf(0.975, effective - 1) * deviation / (value * (1 - value))
    return [float(expit(logit(value) - half)), float(expit(logit(value) + half))]


def bootstrap(figure: Callable[[np.ndarray], np.ndarray], groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """Values (samples,) of the figure for groups drawn with replacement, as many as there are."""
    draw = np.random.default_rng(seed)
    number = int(groups.max()) + 1
    at_once = max(1, min(DRAWS, CELLS // len(groups)))
    parts = [min(at_once, DRAWS - start) for start in range(0, DRAWS, at_once)]
    return np.concatenate([figure(_draws(number, samples, draw)[:, groups]) for samples in parts])


def _draws(groups: int, samples: int, draw: np.random.Generator) -> np.ndarray:
    """How often (samples, groups) each group is drawn."""
    return draw.multinomial(groups, np.full(groups, 1 / groups), samples).astype(np.float64)


def _mean_and_error(draws: np.ndarray, sums: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over images, and its standard error by groups (linearised ratio), of each draw (draws, groups)."""
    images = draws @ sizes
    mean = draws @ sums / images
    squares = draws @ sums**2 - 2 * mean * (draws @ (sums * sizes)) + mean**2 * (draws @ sizes**2)
    # What is left of equal terms by rounding is no variance.
    squares[squares < 1e-12 * (draws @ sums**2)] = 0
    number = len(sums)
    return mean, np.sqrt(squares * number / (number - 1)) / images


def _enough(groups: np.ndarray) -> int:
    number = int(groups.max()) + 1
    if number < FEWEST:
        raise TooFew(f"a bootstrap needs {FEWEST} images that do not belong together, and {number} are there")
    return number
