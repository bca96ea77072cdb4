"""Images that show what another one shows: exact copies, resaved and resized ones, crops, overlapping views.

Coarse features find candidates without comparing all pairs; then the pixels of the two decide (`agreement`).
"""

from __future__ import annotations

import functools
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from tqdm.auto import tqdm

from training.data.agreement import PIXELS, agreement
from training.data.cache import Cache
from training.data.images import THUMBNAIL, grey
from training.data.intake import Example
from training.data.keypoints import Keypoints, candidates, transform
from training.data.neighbours import Neighbours

KINDS = ("exact", "near", "mirrored", "part")
ROW, COLUMN = np.mgrid[:THUMBNAIL, :THUMBNAIL]  # frequencies of a thumbnail's cosine transform
PITCH = np.hypot(ROW, COLUMN)
USED = (PITCH > 0) & (PITCH < 9.6)  # higher ones do not survive a resize
ALIKE = 0.92  # correlation of thumbnails in them, all frequencies weighing the same
NEIGHBOURS = 8  # pictures at most that are compared with one by their thumbnails
AGREES = 0.9  # correlation of windows; the same, resaved or cropped, has .93, the smoothest of what only is alike .89
TINY = 40  # pixels a side; less says so little that a digit in two hands is alike to .992, and agrees to .996
TINY_ALIKE = 0.993
LEAST = 0.2  # share of one of the pictures that must overlap
WHOLE = 0.97  # share of both pictures that must overlap, else one is a part
BACK = (0, 1, 2, 3, 4, 6, 5, 7)  # the turn that undoes each of `_turn`
BATCH = 256
Read = Callable[[str], bytes]


@dataclass(frozen=True)
class Duplicate:
    """Two images of which one shows what the other shows.

    `kind` is "exact" (the same bytes), "near" (resaved, resized, brighter), "mirrored" (or turned by a quarter or more)
    or "part" (a crop, or an overlapping view). `similarity` is the mean correlation of their pixels, up to 1.
    """

    first: str
    second: str
    kind: str
    similarity: float


def find_duplicates(
    examples: Sequence[Example], read: Read, thorough: bool = False, progress: bool = True
) -> list[Duplicate]:
    """Pairs that connect all images which show the same, not every pair among them; in the order of their paths.

    `read` gives the bytes of an example's path. Without `thorough`, exact, resaved and resized copies are found, from
    what `look` saw already; with it, mirrored and turned ones, crops and overlapping views too, by local features.
    """
    from scipy.cluster.hierarchy import DisjointSet

    by_content: dict[str, list[Example]] = defaultdict(list)
    for example in sorted(examples, key=lambda each: each.path):
        by_content[example.sha256].append(example)
    by_content.pop("", None)  # nobody looked at these
    found = [Duplicate(c[0].path, copy.path, "exact", 1.0) for c in by_content.values() for copy in c[1:]]
    images = [copies[0] for copies in by_content.values() if copies[0].facts and copies[0].facts.thumbnail]
    known = DisjointSet(range(len(images)))
    with Cache.open() as cache, ThreadPoolExecutor(os.cpu_count()) as pool:
        search = _Search(images, read, cache, pool, progress)

        def confirm(proposed: Iterator[Candidate]) -> int:
            before = len(found)
            for first, second, kind, similarity in search.confirmed(proposed, known):
                known.merge(first, second)
                pair = sorted((images[first].path, images[second].path))
                found.append(Duplicate(*pair, kind, round(similarity, 3)))
            return len(found) - before

        # Of a hundred copies each may have none but copies of its own quality for neighbours: then one of each group
        # asks again, until no two groups are alike.
        while confirm(search.by_thumbnails(thorough, sorted(map(min, known.subsets())))) and search.crowded:
            pass
        if thorough:
            confirm(search.by_keypoints())
    return sorted(found, key=lambda each: (each.first, each.second))


def summary(duplicates: Sequence[Duplicate]) -> str:
    """`12 images show what another one shows (4 exact, 8 near), …`, in one line."""
    counts = Counter(pair.kind for pair in duplicates)
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    many = "1 image shows" if len(duplicates) == 1 else f"{len(duplicates):,} images show"
    return f"{many} what another one shows ({kinds}); each stays on one side with its like"


# A picture laid on another: "whole 0" to "whole 7" by `_turn`, "part" and "mirrored part" by their keypoints.
Candidate = tuple[int, int, str]


class _Search:
    """The searches over a list of images of different content; pictures go by their number in it."""

    def __init__(self, images: list[Example], read: Read, cache: Cache, pool: ThreadPoolExecutor, progress: bool):
        self.images = images
        self.cache = cache
        self.pool = pool
        self.progress = progress
        self.read = read
        self.grey = functools.lru_cache(2 * BATCH)(self._grey)
        self.keypoints = functools.lru_cache(2 * BATCH)(self._keypoints)

    def by_thumbnails(self, turned: bool, numbers: Sequence[int]) -> Iterator[Candidate]:
        """Of these pictures, those that are alike as a whole; if `turned`, in any of the eight ways to lay a square.

        Once all are taken, `crowded` says whether a picture had none but those that are alike for neighbours, so that
        others may have been left out.
        """
        numbers = [number for number in numbers if any(self.images[number].facts.thumbnail)]  # of flat ones it is all 0
        needed = np.where([_is_tiny(self.images[number]) for number in numbers], TINY_ALIKE, ALIKE)
        parts = [np.arange(start, min(start + BATCH, len(numbers))) for start in range(0, len(numbers), BATCH)]
        self.crowded = False
        with Neighbours.of(int(USED.sum())) as neighbours:
            for part in parts:
                neighbours.add(_spectra(self._thumbnails(numbers, part)))
            neighbours.grow()
            for turn in range(8 if turned else 1):
                for part in parts:
                    asked = _spectra(_turn(self._thumbnails(numbers, part), turn)) if turn else neighbours.vectors[part]
                    found = neighbours.nearest(asked, NEIGHBOURS)
                    likeness = np.einsum("ijk,ik->ij", neighbours.vectors[found], asked)
                    alike = likeness >= np.minimum(needed[found], needed[part][:, None])
                    self.crowded |= bool(alike.all(axis=1).any())
                    row, column = np.nonzero(alike & (found != part[:, None]))
                    for first, second in zip(found[row, column].tolist(), part[row].tolist(), strict=True):
                        one, other = numbers[first], numbers[second]
                        yield min(one, other), max(one, other), f"whole {BACK[turn] if one > other else turn}"

    def _thumbnails(self, numbers: Sequence[int], part: np.ndarray) -> np.ndarray:
        """Uint8, (n, 16, 16), of the pictures whose numbers stand at the places `part`."""
        content = b"".join(self.images[numbers[place]].facts.thumbnail for place in part)
        return np.frombuffer(content, np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL)

    def by_keypoints(self) -> Iterator[Candidate]:
        """Pictures of which parts are alike; a part of a tiny one is too little to tell anything."""
        numbers = [number for number, image in enumerate(self.images) if not _is_tiny(image)]
        bar = tqdm(
            total=len(numbers), desc="Finding keypoints", unit=" images", leave=False, disable=not self.progress or None
        )
        for start in range(0, len(numbers), BATCH):
            self._remember_keypoints(numbers[start : start + BATCH])
            bar.update(len(numbers[start : start + BATCH]))
        bar.close()
        for one, other, mirrored in candidates(numbers, self.keypoints):
            first, second = sorted((numbers[one], numbers[other]))
            yield first, second, "mirrored part" if mirrored else "part"

    def confirmed(self, proposed: Iterator[Candidate], known) -> Iterator[tuple[int, int, str, float]]:
        """Those that prove to show the same, with the kind and the similarity; what `known` connects is passed over."""
        bar = tqdm(desc="Comparing", unit=" pairs", leave=False, disable=not self.progress or None)
        asked: set[Candidate] = set()
        proposed = (each for each in proposed if each not in asked and not asked.add(each))
        while batch := list(islice(proposed, BATCH)):
            batch = [each for each in batch if not known.connected(*each[:2])]
            for (first, second, _), result in zip(batch, self._compare(batch), strict=True):
                bar.update()
                if result is not None and not known.connected(first, second):
                    yield first, second, *result
        bar.close()

    def _compare(self, batch: list[Candidate]) -> list[tuple[str, float] | None]:
        """Kind and similarity of each pair of pictures, or None; remembered by their content."""
        names = [f"{self.images[one].sha256} {self.images[other].sha256} {how}" for one, other, how in batch]
        results = {name: self.cache.comparison(name) for name in names}
        asked = {}
        for name, (first, second, how) in zip(names, batch, strict=True):
            if results[name] is None:
                # Keypoints come out of the cache, which is for this thread alone.
                keypoints = () if how.startswith("whole") else (self.keypoints(first), self.keypoints(second))
                asked[name] = self.pool.submit(self._judge, first, second, how, *keypoints)
        news = {name: future.result() for name, future in asked.items()}
        self.cache.put_comparisons((name, result) for name, result in news.items() if result is not None)
        results |= news
        return [tuple(results[name]) if results[name] else None for name in names]

    def _judge(self, first: int, second: int, how: str, *keypoints) -> list | None:
        """Kind and similarity, or nothing; None if one of the files cannot be read any more."""
        base, other = self.grey(first), self.grey(second)
        if not (base.size and other.size):
            return None
        if how.startswith("whole"):
            turn = int(how[-1])
            other = _turn(other, turn)
            place = _stretch(other.shape, base.shape)
        else:
            turn = int(how.startswith("mirrored"))
            one, two = keypoints
            place = transform(one, two.mirrored(other.shape[1]) if turn else two)
            if place is None:
                return []
            other = _turn(other, turn)
        similarity, of_first, of_second = agreement(base, other, place)
        if similarity < AGREES or max(of_first, of_second) < LEAST:
            return []
        if turn or abs(math.atan2(place[1, 0], place[0, 0])) > math.pi / 4:
            return ["mirrored", similarity]
        whole = how.startswith("whole") or min(of_first, of_second) >= WHOLE
        return ["near" if whole else "part", similarity]

    def _grey(self, number: int) -> np.ndarray:
        """Empty if the file is gone, or another one by now: it had been read before, and nobody waits for it here."""
        try:
            return grey(self.read(self.images[number].path), PIXELS)
        except Exception:  # PIL's decoders raise anything
            return np.zeros((0, 0), np.uint8)

    def _keypoints(self, number: int) -> Keypoints:
        stored = self.cache.keypoints(self.images[number].sha256)
        return Keypoints.from_bytes(*stored) if stored else Keypoints.of(self.grey(number))

    def _remember_keypoints(self, numbers: Sequence[int]) -> None:
        """Find those that the cache does not have, in parallel."""
        unknown = [number for number in numbers if not self.cache.keypoints(self.images[number].sha256)]
        found = self.pool.map(lambda number: Keypoints.of(self.grey(number)), unknown)
        self.cache.put_keypoints(
            (self.images[number].sha256, *each.to_bytes())
            for number, each in zip(unknown, found, strict=True)
            if len(each.places)  # none may mean that the file was gone
        )


def _is_tiny(image: Example) -> bool:
    return image.facts.width * image.facts.height < TINY**2


def _turn(pictures: np.ndarray, turn: int) -> np.ndarray:
    """One of the eight ways to lay a square on itself: 1 mirrors left to right, 2 top to bottom, 4 at the diagonal."""
    if turn & 4:
        pictures = pictures.swapaxes(-1, -2)
    return pictures[..., :: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]


def _spectra(thumbnails: np.ndarray) -> np.ndarray:
    """Unit vectors (n, frequencies) of thumbnails (n, 16, 16): their cosine transforms without the mean, weighed.

    Amplitudes of photographs fall as 1 / frequency: weighed by it, all frequencies tell as much.
    """
    from scipy.fft import dctn

    spectra = (dctn(thumbnails.astype(np.float32), axes=(1, 2), norm="ortho") * PITCH)[:, USED]
    return spectra / np.maximum(np.linalg.norm(spectra, axis=1, keepdims=True), 1e-6)


def _stretch(shape: tuple[int, ...], onto: tuple[int, ...]) -> np.ndarray:
    """The (2, 3) transform that lays the whole of a picture on the whole of another."""
    y, x = onto[0] / shape[0], onto[1] / shape[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])
