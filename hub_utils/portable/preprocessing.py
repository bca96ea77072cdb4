"""From a picture to a network's input, as the model's saved image processor makes it, with PIL and numpy alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hub_utils.portable.command import UserError

LONGEST = 1 << 16  # pixels of a side when the shorter one has the network's size; a file of 90 KB can ask for millions
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # timm's values where nothing is said
# Image processors of transformers that resize, crop and normalise, and what one number for a size means to them.
NATIVE = {"ConvNext": "shortest_edge", "Bit": "shortest_edge", "ViT": "square", "DeiT": "square"}
# What their files may say, and what has no effect on pictures of mode RGB.
SAYS = {"image_processor_type", "feature_extractor_type", "size", "crop_size", "crop_pct", "resample", "do_resize"}
SAYS |= {"do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_center_crop"}
SAYS |= {"do_convert_rgb", "data_format", "processor_class", "_valid_processor_keys", "_processor_class"}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop from the middle, normalise.

    `resized` is width and height, or the length of the shorter side; `cropped` width and height; `resample` PIL's name;
    `mean` and `std` are of red, green and blue from 0 to 1. `timm`'s processors resample by PIL and round the place of
    the crop; transformers' resample by torchvision, and cut the place's fraction off.
    """

    resized: int | tuple[int, int]
    cropped: tuple[int, int]
    resample: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    timm: bool

    def __call__(self, image: Image.Image) -> np.ndarray:
        """What the network takes of a picture of mode RGB: float32, (3, height, width).

        Raises:
            UserError: it is so narrow that nothing could be made of it but a very large one.
        """
        size, box = self._place(image.size)
        mean, std = np.float32(self.mean).reshape(3, 1, 1), np.float32(self.std).reshape(3, 1, 1)
        if self.timm:
            resized = image if size == image.size else image.resize(size, Image.Resampling[self.resample])
            colours = np.asarray(resized.crop(box), np.float32).transpose(2, 0, 1)
            return (colours / np.float32(255) - mean) / std
        colours = np.stack([_resample(np.asarray(plane), size, box, self.resample) for plane in image.split()])
        return (colours - mean * np.float32(255)) / (std * np.float32(255))  # in this order, bit for bit as there

    def seen(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what is left of a picture of this width and height, as shares of them."""
        (width, height), (left, top, right, bottom) = self._place(size)
        return left / width, top / height, right / width, bottom / height

    def _place(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
        """Width and height of the whole once it is resized, and the part of it that is cut out."""
        resized = self.resized
        if isinstance(resized, int):
            resized = tuple(int(resized * side / min(size)) for side in size)
        if max(resized) > LONGEST:
            raise UserError(f"a picture of {size[0]:,} × {size[1]:,} pixels is too narrow: cut a part out of it")
        corner = [(whole - part) / 2 for whole, part in zip(resized, self.cropped, strict=True)]
        left, top = (round(each) if self.timm else int(each) for each in corner)
        return resized, (left, top, left + self.cropped[0], top + self.cropped[1])


def preprocessing_of(folder: Path) -> Preprocessing | None:
    """What the files of a model say about its image processor; None where they say what is not known here.

    Then transformers must be asked. They are preprocessor_config.json or, for timm's networks, config.json.
    """
    native = folder / "preprocessor_config.json"
    try:
        values = json.loads((native if native.is_file() else folder / "config.json").read_text(encoding="utf-8"))
        found = _native(values) if native.is_file() else _timm(values["pretrained_cfg"])
        smallest = found.resized if isinstance(found.resized, tuple) else (found.resized, found.resized)
        # A crop that is larger leaves a border; one that is a number alone is none, and pictures keep their shape.
        fits = all(0 < part <= whole for part, whole in zip(found.cropped, smallest, strict=True))
        return found if fits and len(found.mean) == len(found.std) == 3 and all(found.std) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _native(values: dict[str, Any]) -> Preprocessing:
    name = values.get("image_processor_type") or values["feature_extractor_type"]
    kind = re.sub(r"(ImageProcessor|ImageProcessorFast|FeatureExtractor)$", "", name)
    unknown = [key for key, value in values.items() if key not in SAYS and value not in (None, False)]
    steps = all(values.get(step, True) for step in ("do_resize", "do_rescale", "do_normalize"))
    if kind not in NATIVE or unknown or not steps or abs(values.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-9:
        raise ValueError(f"{name} with {', '.join(unknown) or 'other values'}")
    resized = _size(values["size"], NATIVE[kind])
    cropped = resized
    if kind == "ConvNext":  # which crops below 384 pixels, and squashes from there on
        edge = resized
        cropped = edge, edge
        resized = int(edge / (values.get("crop_pct") or 224 / 256)) if edge < 384 else cropped
    if values.get("do_center_crop", kind in ("Bit", "DeiT")):
        cropped = _size(values["crop_size"], "square")
    resample = Image.Resampling(values["resample"]).name
    KERNELS[resample]  # torchvision has no others
    return Preprocessing(
        resized, cropped, resample, tuple(values["image_mean"]), tuple(values["image_std"]), timm=False
    )


def _size(size: int | dict[str, int], number: str) -> int | tuple[int, int]:
    """The shorter side, or width and height; `number` says what one number is."""
    if isinstance(size, int):
        return size if number == "shortest_edge" else (size, size)
    match {key: value for key, value in size.items() if value is not None}:
        case {"shortest_edge": int(edge), **others} if not others:
            return edge
        case {"height": int(height), "width": int(width), **others} if not others:
            return width, height
    raise ValueError(f"size {size}")


def _timm(values: dict[str, Any]) -> Preprocessing:
    """As timm's `resolve_data_config` and `create_transform` read them."""
    _, height, width = values.get("input_size") or (3, 224, 224)
    mode, share = values.get("crop_mode") or "center", values.get("crop_pct") or 0.875
    if mode not in ("center", "squash") or (mode == "center" and width != height):
        raise ValueError(f"crop_mode {mode} to {width} × {height}")
    larger = math.floor(width / share), math.floor(height / share)
    resample = Image.Resampling[(values.get("interpolation") or "bicubic").upper()].name
    mean, std = (tuple(values.get(name) or IMAGENET[name]) for name in ("mean", "std"))
    return Preprocessing(larger if mode == "squash" else larger[0], (width, height), resample, mean, std, timm=True)


# torchvision's antialiased resampling of bytes. PIL's has weights of 22 bits, this of 16: one colour of a hundred is
# another by a level, and that alone moves a trained network's probabilities by half a percent.


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _bicubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    x = np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


KERNELS = {"BILINEAR": (_bilinear, 1), "BICUBIC": (_bicubic, 2), "LANCZOS": (_lanczos, 3)}  # and how far they reach
COLUMNS = 16  # of a block; more waste products with zeros, fewer waste calls
STRIP = 1 << 18  # pixels that are floats at once, so that a large photograph needs little memory, and fits a cache


def _resample(plane: np.ndarray, size: tuple[int, int], box: tuple[int, int, int, int], resample: str) -> np.ndarray:
    """The part `box` of one colour, uint8 (height, width), once it is resized to `size` (width, height): whole numbers.

    Every pixel is a sum of few, with weights that are whole numbers: products of a banded matrix, block by block, with
    floats that hold each sum exactly, so that neither order nor BLAS matters. By width first; then what has been
    rounded to bytes by height.
    """
    across = _bands(plane.shape[1], size[0], box[0], box[2], resample)
    down = _bands(plane.shape[0], size[1], box[1], box[3], resample)
    first, last = down.blocks[0].first, down.blocks[-1].last
    narrow = np.empty((last - first, box[2] - box[0]), down.dtype)
    rows = max(1, STRIP // plane.shape[1])
    for top in range(first, last, rows):
        strip = plane[top : min(top + rows, last)].astype(across.dtype)
        sums = np.empty((len(strip), narrow.shape[1]), across.dtype)
        for block in across.blocks:
            sums[:, block.made] = strip[:, block.first : block.last] @ block.weights.T
        narrow[top - first : top - first + len(strip)] = across.as_bytes(sums)
    sums = np.empty((box[3] - box[1], box[2] - box[0]), down.dtype)
    for block in down.blocks:
        sums[block.made] = block.weights @ narrow[block.first - first : block.last - first]
    return down.as_bytes(sums).astype(np.float32, copy=False)


@dataclass(frozen=True)
class _Block:
    """`weights` (pixels, last - first) make the pixels `made` of those from `first` to `last`."""

    made: slice
    first: int
    last: int
    weights: np.ndarray


@dataclass(frozen=True)
class _Bands:
    """Resampling along one axis; the weights are so many 2 ** -`bits`."""

    blocks: list[_Block]
    bits: int
    dtype: type

    def as_bytes(self, sums: np.ndarray) -> np.ndarray:
        """Sums, in place, rounded to the levels 0 to 255."""
        sums += 2.0**self.bits / 2
        sums *= 2.0**-self.bits
        return np.clip(np.floor(sums, out=sums), 0, 255, out=sums)


@lru_cache(maxsize=32)  # photographs of one camera are of one size
def _bands(length: int, resized: int, start: int, stop: int, resample: str) -> _Bands:
    """How the pixels from `start` to `stop`, of `resized` in all, are made of `length`.

    Source: `_compute_indices_int16_weights_aa` in aten/src/ATen/native/cpu/UpSampleKernel.cpp of PyTorch.
    """
    if length == resized:  # then torchvision leaves all as it is
        return _Bands(
            [_Block(slice(0, stop - start), start, stop, np.eye(stop - start, dtype=np.float32))], 0, np.float32
        )
    firsts, weights, bits = _weights(length, resized, resample)
    exact = 255 * np.abs(weights).sum(axis=1).max() + 2.0**bits < 2**24
    dtype = np.float32 if exact else np.float64
    return _Bands(list(_blocks(firsts, weights.astype(dtype), length, start, stop)), bits, dtype)


def _weights(length: int, resized: int, resample: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Of each pixel: the first that it is made of, and whole weights of that and the next ones, so many 2 ** -bits."""
    kernel, reach = KERNELS[resample]
    scale = length / resized
    support = reach * max(scale, 1.0)
    taps = np.arange(math.ceil(support) * 2 + 1)
    centres = scale * (np.arange(resized) + 0.5)
    firsts = np.maximum((centres - support + 0.5).astype(int), 0)
    lasts = np.minimum((centres + support + 0.5).astype(int), length)
    shares = kernel((taps + firsts[:, None] - centres[:, None] + 0.5) * (1 / max(scale, 1.0)))
    shares[taps >= (lasts - firsts)[:, None]] = 0
    shares /= np.cumsum(shares, axis=1)[:, -1:]  # summed one by one, as there
    bits = next((bits for bits in range(22) if int(0.5 + shares.max() * 2 ** (bits + 1)) >= 2**15), 22)
    return firsts, np.trunc(shares * 2**bits + np.where(shares < 0, -0.5, 0.5)), bits


def _blocks(firsts: np.ndarray, weights: np.ndarray, length: int, start: int, stop: int) -> Iterator[_Block]:
    taps = weights.shape[1]
    for begin in range(start, stop, COLUMNS):
        end = min(begin + COLUMNS, stop)
        first, last = firsts[begin], min(firsts[end - 1] + taps, length)
        band = np.zeros((end - begin, last - first + taps), weights.dtype)
        for row, pixel in enumerate(range(begin, end)):
            band[row, firsts[pixel] - first :][:taps] = weights[pixel]
        yield _Block(slice(begin - start, end - start), int(first), int(last), band[:, : last - first].copy())
