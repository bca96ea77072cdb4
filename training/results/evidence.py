"""Why a model says what it says of an image: where it looked, and which training images it finds most alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import functional as tv
from tqdm.auto import tqdm

from hub_utils.portable.activation_maps import ActivationMaps, Features
from hub_utils.portable.whole import replaced
from training.data.images import open_rgb
from training.data.transforms import Preprocessing

BATCH = 8  # images; whoever waits for a heat map waits no longer than one batch
NEAREST = 5
REMEMBERED = 500  # images whose maps are kept; those of 120 classes are 24 kB each
CHUNK = 512  # images that are held against all training images at once


class Evidence:
    """Images by their number: pictures, heat maps and, once `gather` is through, the nearest training images.

    The first `examined` of `paths` are those that the model was asked about, the others it was trained on. `read` gives
    the bytes of a path; what it or the decoder raises, the methods raise, too. They may be called from any thread.

    `why_no_maps` says why there are no heat maps, or is None. `nearest`, None until they are found, are int (examined,
    NEAREST), numbers of images, -1 where there is none, and float32, their cosines. `done` images were looked at;
    `failure` says why no neighbours were found.
    """

    def __init__(self, classifier: Any, read: Callable[[str], bytes], paths: Sequence[str], examined: int):
        self.paths, self.examined = paths, examined
        self._read, self._model = read, classifier.model
        self._preprocessing = Preprocessing(classifier.image_processor)
        self._lock = threading.Lock()  # one pass through the network at a time: each takes all cores
        self._maps_of = lru_cache(REMEMBERED)(self._compute_maps)
        try:
            self._network, self.why_no_maps = ActivationMaps(classifier.model), None
        except ValueError as error:
            self._network, self.why_no_maps = None, str(error)
        self.nearest: tuple[np.ndarray, np.ndarray] | None = None
        self.done, self.failure = 0, None
        self._stopped, self._wanted = threading.Event(), []  # heat maps that somebody is waiting for

    def picture(self, number: int, side: int) -> Image.Image:
        """The whole picture, RGB, at most `side` pixels wide and high."""
        image = open_rgb(self._read(self.paths[number]))
        image.thumbnail((side, side))
        return image

    def heat_map(self, number: int, index: int) -> Image.Image:
        """What the network saw of the picture, and over it which places spoke for class `index`."""
        from training.results.gallery import overlay

        return overlay(*self.look(number, index))

    def look(self, number: int, index: int) -> tuple[Image.Image, np.ndarray]:
        """What the network saw of the picture, and what in it spoke for class `index`: float32 (h, w), 0 if unknown."""
        self._wanted.append(number)
        try:
            with self._lock:
                seen, maps = self._maps_of(number)
        finally:
            self._wanted.remove(number)
        return seen, maps[index]

    def _compute_maps(self, number: int) -> tuple[Image.Image, np.ndarray]:
        image = open_rgb(self._read(self.paths[number]))
        seen = tv.to_pil_image(self._preprocessing.geometry(image))
        if self._network is None:
            return seen, np.zeros((self._model.config.num_labels, 1, 1), np.float32)
        pixels = self._preprocessing(image)[None].to(self._model.device)
        with torch.inference_mode():
            _, maps, _ = self._network(pixels)
        return seen, maps[0].float().cpu().numpy()

    def gather(self, kept: Path, of: str) -> None:
        """Find the nearest training images of all; in a thread, as it takes as long as an evaluation of all images.

        The features are kept in the file `kept`, and taken from there if they are `of` the same model and images.
        """
        try:
            features = _load(kept, of)
            if features is None:
                features = self._look_at_all()
                if features is None:
                    return
                _save(features, kept, of)
            self.done = len(self.paths)
            self.nearest = nearest(features[: self.examined], features[self.examined :], NEAREST, self.examined)
        except Exception as error:  # a thread has nobody else to tell
            self.failure = f"{type(error).__name__}: {error}"

    def stop(self) -> None:
        """Let `gather` end before its time."""
        self._stopped.set()

    def _look_at_all(self) -> np.ndarray | None:
        """Features of all images, float16 (images, width), NaN where one cannot be read; None if stopped."""
        result: np.ndarray | None = None
        with tqdm(total=len(self.paths), desc="Nearest images", unit=" images", leave=False, disable=None) as bar:
            for first in range(0, len(self.paths), BATCH):
                if self._stopped.is_set():
                    return None
                numbers, pixels = self._readable(range(first, min(first + BATCH, len(self.paths))))
                while self._wanted and not self._stopped.wait(0.02):
                    pass
                if numbers:
                    with self._lock:
                        found = pooled_features(self._model, torch.stack(pixels).to(self._model.device))
                    if result is None:
                        result = np.full((len(self.paths), found.shape[1]), np.nan, np.float16)
                    result[numbers] = found
                self.done = min(first + BATCH, len(self.paths))
                bar.update(self.done - bar.n)
        if result is None:
            raise OSError("no image can be read")
        return result

    def _readable(self, numbers: Sequence[int]) -> tuple[list[int], list[torch.Tensor]]:
        """What the network is shown of those that are still there."""
        result: tuple[list[int], list[torch.Tensor]] = [], []
        for number in numbers:
            try:
                pixels = self._preprocessing(open_rgb(self._read(self.paths[number])))
            except Exception:  # gone, or no image any more, for which PIL raises anything
                continue
            result[0].append(number)
            result[1].append(pixels)
        return result


def pooled_features(model: nn.Module, pixel_values: torch.Tensor) -> np.ndarray:
    """What an image classification model's head takes, float32 (batch, width), for (batch, 3, height, width)."""
    with torch.inference_mode():
        return Features(model)(pixel_values)[1].float().cpu().numpy()


def nearest(asked: np.ndarray, among: np.ndarray, most: int, offset: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """For each row of `asked` (n, width) the rows of `among` (m, width) with the largest cosine, largest first.

    Their numbers plus `offset`, int (n, `most`), and the cosines, float32. A row with NaN finds nothing and is not
    found: number -1, cosine NaN; so are those that are missing when m is less than `most`.
    """
    numbers = np.full((len(asked), most), -1)
    cosines = np.full((len(asked), most), np.nan, np.float32)
    there = np.flatnonzero(np.isfinite(among).all(axis=1))
    directions = _normalised(among[there])
    count = min(most, len(there))
    for rows in _chunks(np.flatnonzero(np.isfinite(asked).all(axis=1))):
        close = _normalised(asked[rows]) @ directions.T
        best = np.argsort(-close, axis=1, kind="stable")[:, :count]
        numbers[rows, :count] = there[best] + offset
        cosines[rows, :count] = np.take_along_axis(close, best, axis=1)
    return numbers, cosines


def _normalised(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK))


def _load(path: Path, of: str) -> np.ndarray | None:
    try:
        with np.load(path) as stored:
            return stored["features"] if str(stored["of"]) == of else None
    except Exception:  # missing, or cut off: numpy and zipfile raise anything
        return None


def _save(features: np.ndarray, path: Path, of: str) -> None:
    with suppress(OSError), replaced(path, binary=True) as file:  # in a folder that is only for reading, they are
        np.savez(file, features=features, of=of)  # computed again next time
