"""95 % intervals where images may belong together (a patient, near-duplicates): groups are drawn, not images.

Shares of images have Wilson's interval with an effective number of images; means of a loss a studentised bootstrap;
what is neither, a bootstrap's standard error on the logit scale. A plain percentile bootstrap of 48 images at 92 %
accuracy holds the truth 88 times in 100, of an AUC of .98 82 times; `tests/benchmarks/coverage.py` measures these.

`groups` are numbers (images,) from 0, equal where images belong together, none left out; see `numbered`.
"""

from collections.abc import Callable, Sequence

import numpy as np

from training.results.metrics import wilson_interval

SAMPLES = 2_000
SUPPOSED_GROUPS = 0.5  # in which all are right or wrong together, beside those seen
RARE = 5  # groups: of fewer with a mistake a bootstrap of losses says too little
FEWEST = 5  # groups: a bootstrap of fewer says nothing
NEARLY_ALL = 0.01, 0.99  # an interval that reaches beyond both says nothing
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
    Methodology 24:193), those of the effective number of groups where they are uneven; never more than there are.

    The effect is seen only in groups that hold a right and others that hold a wrong image: of 16 patients with one
    mistake, none is seen, and the interval would be that of images that stand alone. So half a group more is supposed
    in which all are right or wrong together; where none or all are right it is all there is. Without it the intervals
    of 17 uneven patients at 97 % held the truth 84 times in 100; with it they err, where groups are few, to the wide
    side.
    """
    from scipy.special import stdtrit  # `scipy.stats` takes a second to import

    images, share, together = len(right), float(right.mean()), fewest_effective(groups)
    if int(groups.max()) + 1 == images:
        return float(images)
    if share in (0, 1) or together <= 1:
        return together
    variance = (np.bincount(groups, right - share) ** 2).sum() / images**2 * together / (together - 1)
    if_alone, if_together = share * (1 - share) / images, share * (1 - share) / together
    telling_groups = min(len(np.unique(groups[right])), len(np.unique(groups[~right])))
    seen = telling_groups * max(variance, if_alone)
    variance = (seen + SUPPOSED_GROUPS * if_together) / (telling_groups + SUPPOSED_GROUPS)
    quantiles = stdtrit(images - 1, 0.975) / stdtrit(together - 1, 0.975)
    return float(images * min(1.0, share * (1 - share) / (images - 1) / variance * quantiles**2))


def share_interval(right: np.ndarray, groups: np.ndarray) -> list[float]:
    """Wilson's interval of the share of `right` (images,), with the effective number of images."""
    images = effective_images(right, groups)
    return wilson_interval(float(right.mean()) * images, images)


def draw_groups(groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """How often (samples, groups) each group is drawn, where as many are drawn with replacement as there are.

    Raises:
        TooFew: groups.
    """
    number = int(groups.max()) + 1
    if number < FEWEST:
        raise TooFew(f"a bootstrap needs {FEWEST} images that do not belong together, and {number} are there")
    draw = np.random.default_rng(seed)
    times = np.empty((SAMPLES, number), dtype=np.uint8)
    for part in _parts(number):
        rows = len(times[part])
        drawn = draw.integers(number, size=(rows, number)) + number * np.arange(rows)[:, None]
        times[part] = np.bincount(drawn.ravel(), minlength=rows * number).reshape(rows, number)
    return times


def mean_loss_interval(losses: np.ndarray, groups: np.ndarray, draws: np.ndarray, highest: float) -> list[float]:
    """Studentised bootstrap (Hall 1988, Annals of Statistics 16:927) of the mean of losses from 0 to `highest`.

    Losses are skewed: few images carry most. Its limits follow, where those of a percentile or BCa interval stay too
    low; the upper limit may lie far off where few images are there. Of mistakes that did not occur it knows nothing;
    see `implied_interval`. `draws` are of `draw_groups`.
    """
    sums, sizes = np.bincount(groups, losses), np.bincount(groups).astype(np.float64)
    terms = np.column_stack([sums, sizes, sums**2, sums * sizes, sizes**2])
    (mean,), (error,) = _mean_and_error(terms.sum(axis=0, keepdims=True), len(sums))
    if error == 0:
        return [float(mean)] * 2
    drawn = np.concatenate([draws[part].astype(np.float64) @ terms for part in _parts(len(sums))])
    means, errors = _mean_and_error(drawn, len(sums))
    varied = errors > 0
    low, high = np.quantile((means - mean)[varied] / errors[varied], (0.025, 0.975))
    limits = max(0.0, float(mean - high * error)), min(highest, float(mean - low * error))
    return [min(limits[0], float(mean)), max(limits[1], float(mean))]


def implied_interval(
    losses: np.ndarray, if_right: np.ndarray, if_wrong: np.ndarray, right: np.ndarray, share: list[float]
) -> list[float]:
    """Mean loss where as many images are wrong as the limits of the accuracy, `share`, allow, and the most it can be.

    Few mistakes carry a loss, and of 48 images of a network that errs one time in fifty two in five show none: no
    draw of these can bring one. So the share of mistakes goes over Wilson's interval, and the limits are what so many
    mistakes cost beside the mean loss of the right images. A mistake costs the mean of those seen and of one that is
    supposed, which `if_wrong` is, the losses (images,) of all with their chances (images,) as its second row.

    The third number is as many mistakes of the costly kind, the dearer of the dearest seen and the mean `if_wrong`:
    the limit of a bootstrap, which few mistakes throw anywhere, is not believed beyond it.
    """
    value, of_wrong = float(losses.mean()), losses[~right]
    of_right = float(if_right[right].mean() if right.any() else if_right.mean())
    supposed = float(if_wrong[0] @ if_wrong[1] / if_wrong[1].sum())
    cost = (of_wrong.sum() + supposed) / (len(of_wrong) + 1)
    dearest = max([float(if_wrong[0].mean()), cost, *of_wrong])
    implied = [of_right + (1 - limit) * (cost - of_right) for limit in share]
    beyond = of_right + (1 - share[0]) * (dearest - of_right)
    return [float(min(*implied, value)), float(max(*implied, value)), float(max(*implied, value, beyond))]


def figure_interval(
    figure: Callable[[np.ndarray], np.ndarray], groups: np.ndarray, draws: np.ndarray, effective: float
) -> list[float]:
    """Group bootstrap of a figure from 0 to 1: the standard error of its samples, as a t interval of the logit.

    `figure` takes weights (samples, images) and gives values (samples,), see `weighted`; `draws` are of `draw_groups`;
    `effective` is the number of images that carry the figure, of which the t quantile is. Where the figure is 0 or 1
    it is so in each sample, and Wilson's interval of a share of as many images stands for it.

    Raises:
        TooFew: images that carry the figure, so that the interval would reach over nearly everything, or nothing but
            one value is ever drawn, other than 0 or 1, of which no uncertainty can be told.
    """
    from scipy.special import expit, logit, stdtrit

    if effective < 2:
        raise TooFew("a class has too few images that do not belong together")
    value = float(figure(np.ones((1, len(groups))))[0])
    samples = np.concatenate([figure(draws[part].astype(np.float64)[:, groups]) for part in _parts(len(groups))])
    number = draws.shape[1]
    error = float(np.nanstd(samples)) * (number / (number - 1)) ** 0.5
    if min(value, 1 - value) < 1e-12:
        return telling(*wilson_interval(round(value) * effective, effective))
    if error < 1e-12:
        raise TooFew("every draw of the images gives the same value")
    half = stdtrit(effective - 1, 0.975) * error / (value * (1 - value))
    return telling(float(expit(logit(value) - half)), float(expit(logit(value) + half)))


def telling(low: float, high: float) -> list[float]:
    """Limits of a figure from 0 to 1 that leave something out.

    Raises:
        TooFew: they do not.
    """
    if low < NEARLY_ALL[0] and high > NEARLY_ALL[1]:
        raise TooFew("too few images that do not belong together: the interval reaches from nearly 0 to nearly 1")
    return [low, high]


def _parts(columns: int) -> list[slice]:
    """The samples, in parts that fit into memory."""
    rows = max(1, CELLS // columns)
    return [slice(start, start + rows) for start in range(0, SAMPLES, rows)]


def _mean_and_error(terms: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean over images and its standard error by groups, those of a linearised ratio, of each row of sums of terms."""
    sums, sizes, squares, products, squared_sizes = terms.T
    mean = sums / sizes
    deviations = squares - 2 * mean * products + mean**2 * squared_sizes
    deviations[deviations < 1e-12 * squares] = 0  # what rounding leaves of equal ones is no variance
    return mean, np.sqrt(deviations * groups / (groups - 1)) / sizes
