"""Whether two pictures show the same pixels where one is laid over the other: the proof behind every duplicate.

Candidates come from coarse features, which any two X-rays or two round stones may share. Here the pixels decide: laid
over each other, windows of the two must rise and fall together nearly everywhere where there is anything to see. What
only shares a border, a logo or an outline agrees in a few windows, and chance agreement of a window is 0.
"""

import cv2
import numpy as np

WINDOW = 15  # pixels a side of the windows that are correlated, in pictures of at most PIXELS
PIXELS = 320 * 240  # at which pictures are compared; by their longer side, a panorama would lose the other
SHORTEST = 96  # pixels of the longer side at least, so that a window is no large part of the whole …
ENLARGED = 2.25  # … but so many times at most, or each window holds mere noise of JPEG
TEXTURE = 2.0  # grey levels of 255; windows that vary less than this in both pictures tell nothing


def agreement(first: np.ndarray, second: np.ndarray, transform: np.ndarray) -> tuple[float, float, float]:
    """How alike two pictures are where they overlap, and how much of each the overlap is.

    Args:
        first, second: uint8, (height, width).
        transform: (2, 3), maps pixels (x, y) of the second to pixels of the first.

    Returns:
        The mean correlation of their windows, of shades or of details, whichever is less, from -1 to 1, 0 where there
        is nothing to compare; the share of the first and of the second that the overlap covers, 0 to 1.
    """
    scale = abs(np.linalg.det(transform[:, :2])) ** 0.5  # pixels of the first that one pixel of the second covers
    if scale > 1:  # compare on the coarser grid
        score, of_second, of_first = agreement(second, first, cv2.invertAffineTransform(transform))
        return score, of_first, of_second
    size, grid = _grid(first.shape)
    base = cv2.resize(first, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    onto = _compose(grid, transform)
    fine = second.astype(np.float32)
    step = abs(np.linalg.det(onto[:, :2])) ** 0.5
    if step < 0.8:  # as many pixels of the second fall into one: blur them, as a camera or a resize would
        fine = cv2.GaussianBlur(fine, (0, 0), 0.5 / step)
    # Nothing black around it: blurred, that would be an edge that the other one lacks, and the strongest one in a faint
    # picture.
    laid = cv2.warpAffine(fine, onto, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    covered = cv2.warpAffine(np.ones(second.shape, np.float32), onto, size) > 0.49
    area = abs(np.linalg.det(onto[:, :2])) * second.size
    shares = float(covered.mean()), float(min(1.0, covered.sum() / max(area, 1.0)))
    scores = (_correlation(part(base), part(laid), covered) for part in (_shades, _details))
    return min((score for score in scores if score is not None), default=0.0), *shares


def _shades(picture: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), 1)


def _details(picture: np.ndarray) -> np.ndarray:
    """Without what is smooth: two X-rays of the same make agree in their shades, to .93, but not in these."""
    return cv2.GaussianBlur(picture, (0, 0), 1.5) - cv2.GaussianBlur(picture, (0, 0), 5)


def _grid(shape: tuple[int, int]) -> tuple[tuple[int, int], np.ndarray]:
    """Width and height of the grid to compare on, and the transform from the picture's pixels to the grid's."""
    height, width = shape
    scale = float(np.clip(SHORTEST / max(width, height), 1, ENLARGED))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    x, y = size[0] / width, size[1] / height
    # Pixels are squares whose middle is at their number: half a pixel stays half a pixel.
    return size, np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])


def _compose(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The (2, 3) transform that does `before`, then `after`."""
    return (np.vstack([after, [0, 0, 1]]) @ np.vstack([before, [0, 0, 1]]))[:2]


def _correlation(first: np.ndarray, second: np.ndarray, covered: np.ndarray) -> float | None:
    """Mean over the windows inside the overlap, in which either varies, of Pearson's correlation; None if none does."""
    inside = covered.astype(np.float32)

    def window(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values * inside, -1, (WINDOW, WINDOW), normalize=False, borderType=cv2.BORDER_CONSTANT)

    count = np.maximum(window(np.ones_like(inside)), 1)
    mean_first, mean_second = window(first) / count, window(second) / count
    variance_first = np.maximum(window(first * first) / count - mean_first**2, 0)
    variance_second = np.maximum(window(second * second) / count - mean_second**2, 0)
    covariance = window(first * second) / count - mean_first * mean_second
    # A window that hangs over the edge by more than half is judged by too little.
    telling = covered & (count > WINDOW**2 / 2) & (np.maximum(variance_first, variance_second) > TEXTURE**2)
    if telling.sum() < WINDOW**2:
        return None
    return float((covariance[telling] / np.sqrt(np.maximum(variance_first * variance_second, 1e-3)[telling])).mean())
