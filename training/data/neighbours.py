"""Nearest neighbours among many vectors: approximately, in time that grows as n log n, with the vectors on disk.

Annoy's forest (https://github.com/spotify/annoy), as OpenCV has it. Trees that search exactly compare nearly all pairs
in as many dimensions as pictures need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from hub_utils.portable.whole import passing

TREES = 10
LEAVES = 300  # vectors that a search looks at, at least


class Neighbours:
    """Vectors are added in any number of calls, then the forest is grown once, then it answers."""

    def __init__(self, folder: Path, dimensions: int):
        self._vectors = (folder / "vectors").open("w+b")
        self._dimensions = dimensions
        self._forest = cv2.ANNIndex.create(dimensions, cv2.ANNINDEX_DIST_EUCLIDEAN)
        self._forest.setSeed(1)  # with 0 its generator stands still, and `build` never ends
        self._forest.setOnDiskBuild(str(folder / "forest"))
        self.count = 0
        self.vectors = np.zeros((0, dimensions), np.float32)  # all that were added, once `grow` was called

    @classmethod
    @contextlib.contextmanager
    def of(cls, dimensions: int) -> Iterator[Neighbours]:
        """An empty forest in a temporary folder."""
        with passing("neighbours") as folder:
            neighbours = cls(Path(folder), dimensions)
            try:
                yield neighbours
            finally:
                del neighbours.vectors  # a mapped file cannot be removed, says Windows
                neighbours._vectors.close()

    def add(self, vectors: np.ndarray) -> None:
        """Add float32 (n, dimensions); the first vector that was ever added is number 0."""
        self._vectors.write(vectors.astype(np.float32).tobytes())
        self.count += len(vectors)

    def grow(self) -> None:
        """To be called once, after the last vector."""
        if self.count:
            self._vectors.flush()
            self.vectors = np.memmap(self._vectors, np.float32, "r", shape=(self.count, self._dimensions))
            self._forest.addItems(self.vectors)  # all at once: a second call would begin at number 0 again
            self._forest.build(TREES)

    def nearest(self, vectors: np.ndarray, most: int) -> np.ndarray:
        """Numbers of the nearest to each of (n, dimensions): int (n, at most `most`). A vector finds itself, too."""
        most = min(most, self.count)
        if not most or not len(vectors):
            return np.zeros((len(vectors), most), int)
        return self._forest.knnSearch(np.ascontiguousarray(vectors, np.float32), most, LEAVES)[0]
