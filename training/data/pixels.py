"""Training's images, decoded and resized once: as bytes in `training.data.records`, from the second look on.

They are kept by the content of the image file and everything that their making depends on, whichever run made them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import torch

from training.data.records import Records
from training.data.transforms import AMPLE, Preprocessing
from training.recipe import Augmentation

if TYPE_CHECKING:
    from datasets import Dataset

VERSION = 1  # of what is stored: a change in how images are opened needs a new number
SHARE = 0.75  # of the records' room, so that there is some for features
MAKERS = ("pillow", "timm", "torch", "torchvision", "transformers")  # which decode and resize
NORMALISES = frozenset(
    ("mean", "std", "image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor")
)  # comes after what is kept


@dataclass(frozen=True)
class Kept:
    """The pixels of one split, by row: some of the records, from `first` on."""

    records: Records
    first: int
    digests: tuple[bytes, ...]

    def get(self, row: int) -> torch.Tensor | None:
        """uint8, (3, height, width); None: not there yet, or damaged."""
        found = self.records.get(self.first + row)
        return None if found is None else torch.tensor(found)

    def put(self, row: int, pixels: torch.Tensor, content: bytes) -> None:
        """Keep what was made of an image file, if that is still the file that the run began with."""
        if hashlib.sha256(content).digest() == self.digests[row]:
            self.records.put(self.first + row, pixels.numpy())


def keep(
    datasets: Mapping[str, Dataset], preprocessing: Preprocessing, how: Augmentation, limit: int | None = None
) -> dict[str, Kept]:
    """Where pixels of training images and of validation images are kept, by split; a split that is not is left out.

    Not kept are training images of which a random part is cut out before they are resized, and none at all if each
    comes out in a shape of its own. `limit` is in bytes of disk, see `Records.open`.
    """
    if preprocessing.shape is None:
        return {}
    splits = ("train", "validation") if how.crop == 1 else ("validation",)
    digests = {split: tuple(map(bytes.fromhex, datasets[split]["sha256"][:])) for split in splits}
    keys = [_key(digest, split == "train") for split in splits for digest in digests[split]]
    records = Records.open(name_of(preprocessing), preprocessing.shape, "uint8", keys, limit, SHARE)
    firsts = dict(zip(splits, (0, len(digests[splits[0]])), strict=False))
    return {split: Kept(records, firsts[split], digests[split]) for split in splits}


def name_of(preprocessing: Preprocessing) -> str:
    """Part of a file's name: another one if images could come out otherwise, up to the point where they are bytes."""
    processor = preprocessing.processor
    facts = processor.data_config if hasattr(processor, "data_config") else processor.to_dict()
    facts = {name: value for name, value in facts.items() if name not in NORMALISES}
    made = [VERSION, AMPLE, type(processor).__qualname__, facts, [_version(name) for name in MAKERS]]
    return f"pixels-{hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()[:16]}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # timm is needed for its own networks only
        return None


def _key(digest: bytes, reduced: bool) -> bytes:
    """Of an image file that is read whole the same as of the file; of one read at a reduced size another one."""
    return hashlib.sha256(b"reduced " + digest).digest() if reduced else digest
