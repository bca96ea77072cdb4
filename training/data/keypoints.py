"""Local features: where one picture may lie in another, whatever part of it, mirrored, turned or rescaled.

SIFT keypoints (Lowe 2004, doi 10.1023/B:VISI.0000029664.99615.94), their descriptors compared by the Hellinger kernel
(Arandjelović and Zisserman 2012, doi 10.1109/CVPR.2012.6248018), and Annoy's index, all from OpenCV. Nothing here is
proof: `agreement` has the last word.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from training.data.agreement import PIXELS

KEPT = 150  # keypoints a picture, the strongest …
CELLS = 4  # … of each cell of a grid, so many a side: else a burnt-in text takes them all
CONTRAST = 0.004  # of a keypoint at least; SIFT's own .04 sees nothing in ultrasound, or a faint stain
INDEXED = 64  # of them stand in the index: half of a picture's are enough to find its partner
DIMENSIONS = 32  # of the descriptors in the index, by principal components
TREES, LEAVES = 10, 300  # of Annoy's forest, and how many of its leaves a search opens
NEIGHBOURS = 6  # asked for each keypoint, itself among them
VOTES = 3  # keypoints that must point to the same picture before the two are compared
CANDIDATES = 8  # pictures at most that are compared with a picture, the ones with the most votes
INLIERS = 6  # keypoints that must agree on one transform
REPROJECTION = 3.0  # pixels that such a keypoint may lie off
LARGEST_SCALE = 6  # between two pictures; keypoints that fall together on a point agree on anything
BLOCK = 1_000  # pictures searched for at once

# SIFT's 4 × 4 × 8 histogram of a mirrored patch: the axis across the keypoint's direction and all angles change sign.
MIRROR = np.arange(128).reshape(4, 4, 8)[::-1, :, -np.arange(8) % 8].reshape(-1)


@dataclass(frozen=True)
class Keypoints:
    """Of a grey picture, strongest first: `places`, float32 (n, 2), x and y; `descriptors`, uint8 (n, 128)."""

    places: np.ndarray
    descriptors: np.ndarray

    @classmethod
    def of(cls, grey: np.ndarray) -> Keypoints:
        """Of a uint8 picture; small ones are enlarged first, for SIFT sees little in them."""
        if not grey.size:
            return cls.none()
        scale = max(1.0, (PIXELS / grey.size) ** 0.5)
        if scale > 1:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        # Without the precise enlargement places lie a quarter of a pixel to one side, and mirrored ones to the other.
        sift = cv2.SIFT_create(contrastThreshold=CONTRAST, enable_precise_upscale=True)
        points, found = sift.compute(grey, _strongest(sift.detect(grey, None), grey.shape))
        if found is None:
            return cls.none()
        places = np.array([point.pt for point in points], np.float32)
        return cls(((places + 0.5) / scale - 0.5).astype(np.float32), found.astype(np.uint8))

    @classmethod
    def none(cls) -> Keypoints:
        """Of a picture that shows nothing."""
        return cls(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8))

    def mirrored(self, width: int) -> Keypoints:
        """Those of the picture mirrored left to right."""
        return Keypoints(self.places * (-1, 1) + (width - 1, 0), self.descriptors[:, MIRROR])

    def to_bytes(self) -> tuple[bytes, bytes]:
        """For the cache."""
        return self.places.astype(np.float32).tobytes(), self.descriptors.tobytes()

    @classmethod
    def from_bytes(cls, places: bytes, descriptors: bytes) -> Keypoints:
        """From the cache."""
        return cls(
            np.frombuffer(places, np.float32).reshape(-1, 2), np.frombuffer(descriptors, np.uint8).reshape(-1, 128)
        )


def _strongest(points: Sequence, shape: tuple[int, int]) -> list:
    """At most KEPT of SIFT's points: first the strongest of each cell of a grid, then the second of each, and so on."""
    if not points:
        return []
    places = np.array([point.pt for point in points])
    cells = (places * CELLS / shape[::-1]).astype(int) @ (1, CELLS)
    order = np.lexsort(([-point.response for point in points], cells))
    rank = np.arange(len(order)) - np.searchsorted(cells[order], cells[order])
    return [points[i] for i in order[np.argsort(rank, kind="stable")[:KEPT]]]


def candidates(pictures: Sequence, keypoints_of: Callable[[Any], Keypoints]) -> Iterator[tuple[int, int, bool]]:
    """Pairs of pictures, by number, that share keypoints; with True, one of them mirrored.

    Every keypoint asks an index for its nearest neighbours, so that the time grows as n log n; vectors and index lie on
    disk. `keypoints_of` is called with the elements of `pictures`, twice for each.
    """
    sample = [keypoints_of(picture).descriptors[:INDEXED] for picture in _spread(pictures, BLOCK)]
    if sum(map(len, sample)) < 2:
        return
    mean, axes = cv2.PCACompute(_hellinger(np.concatenate(sample)), None, maxComponents=DIMENSIONS)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows removes no file that is mapped
        vectors = np.memmap(Path(folder) / "vectors", np.float32, "w+", shape=(len(pictures) * INDEXED, len(axes)))
        owner = np.zeros(len(vectors), np.int32)
        used = 0
        for number, picture in enumerate(pictures):
            found = keypoints_of(picture).descriptors[:INDEXED]
            vectors[used : used + len(found)] = (_hellinger(found) - mean) @ axes.T
            owner[used : used + len(found)] = number
            used += len(found)
        index = cv2.ANNIndex.create(len(axes), cv2.ANNINDEX_DIST_EUCLIDEAN)
        index.setSeed(1)  # with 0 its generator stands still, and `build` never ends
        index.setOnDiskBuild(str(Path(folder) / "index"))
        index.addItems(vectors[:used])  # all at once: a second call would begin at number 0 again
        index.build(TREES)
        del vectors
        for start in range(0, len(pictures), BLOCK):
            block = [keypoints_of(picture).descriptors[:INDEXED] for picture in pictures[start : start + BLOCK]]
            asks = np.repeat(np.arange(start, start + len(block)), [len(each) for each in block])
            plain = np.concatenate(block)
            for mirrored, asked in ((False, plain), (True, plain[:, MIRROR])) if len(asks) else ():
                nearest, _ = index.knnSearch((_hellinger(asked) - mean) @ axes.T, min(NEIGHBOURS, used), LEAVES)
                for first, second in _elected(asks, owner[nearest], len(pictures)):
                    yield first, second, mirrored


def _elected(asks: np.ndarray, answers: np.ndarray, pictures: int) -> Iterator[tuple[int, int]]:
    """Pairs with enough votes: `asks` (n,) the picture of each keypoint, `answers` (n, k) those of its neighbours."""
    ballot = np.unique(np.stack([np.repeat(np.arange(len(asks)), answers.shape[1]), answers.ravel()], 1), axis=0)
    voter, chosen = asks[ballot[:, 0]], ballot[:, 1]
    pairs, votes = np.unique((voter * pictures + chosen)[voter != chosen], return_counts=True)
    pairs, votes = pairs[votes >= VOTES], votes[votes >= VOTES]
    order = np.lexsort((pairs, -votes, pairs // pictures))
    pairs = pairs[order]
    rank = np.arange(len(pairs)) - np.searchsorted(pairs // pictures, pairs // pictures)
    for pair in pairs[rank < CANDIDATES].tolist():
        yield divmod(pair, pictures)


def transform(first: Keypoints, second: Keypoints) -> np.ndarray | None:
    """The (2, 3) turn, scale and shift that lays the second picture's keypoints on the first's, if enough agree."""
    if min(len(first.places), len(second.places)) < 2:
        return None
    # Not numpy's product: its own threads, in each thread of a pool, cost ten times what they compute.
    matches = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(
        _hellinger(first.descriptors), _hellinger(second.descriptors)
    )
    if len(matches) < INLIERS:
        return None
    found, inliers = cv2.estimateAffinePartial2D(
        second.places[[match.trainIdx for match in matches]],
        first.places[[match.queryIdx for match in matches]],
        method=cv2.RANSAC,
        ransacReprojThreshold=REPROJECTION,
    )
    if found is None or inliers.sum() < INLIERS:
        return None
    scale = abs(np.linalg.det(found[:, :2])) ** 0.5
    return found if 1 / LARGEST_SCALE < scale < LARGEST_SCALE else None


def _hellinger(descriptors: np.ndarray) -> np.ndarray:
    """Unit vectors, float32, whose products are the Hellinger kernel of the histograms."""
    counts = descriptors.astype(np.float32)
    return np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _spread(pictures: Sequence, most: int) -> Sequence:
    """At most so many of them, evenly."""
    return pictures[:: max(1, -(-len(pictures) // most))]
