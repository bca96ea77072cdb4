"""A stage that trains the head alone: the body says once what it sees in each image, and the head learns from that.

What stands still gives the same features in every epoch. They are kept (`training.data.records`): a second run with the
same body, images and views computes none. Augmentation shows another view of each image in each epoch: kept are those
of the first few epochs, and later epochs take turns at them.

Features are computed in batches of one size, filled up at the end, so that an image's do not depend on what else is in
its batch: not in the last bit where the kernels of one size always add up in one order, as PyTorch's did on a CPU where
it was tried, though nobody promises it; elsewhere by no more than float rounding.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm.auto import tqdm
from transformers.modeling_outputs import ImageClassifierOutput

from training.data.pixels import name_of
from training.data.records import Records
from training.recipe import Augmentation, UserError

if TYPE_CHECKING:
    from hub_utils.portable.modeling_backbone_with_head import BackboneWithHeadForImageClassification
    from training.data.transforms import Views

MEMORY = 10**9  # bytes of features that a split keeps in memory at most, where the disk has no room
BATCH = {"cpu": 16}  # images that are computed together; a GPU wants more
BATCH_ELSEWHERE = 64
BODY = "body"  # in a checkpoint of a head alone: which body it was trained on


class Head(torch.nn.Module):
    """A network's head alone, its layers named as there: logits (images, classes) of features (images, width).

    Its checkpoints say which body it belongs to.
    """

    accepts_loss_kwargs = False  # as the network's
    main_input_name = "features"

    def __init__(self, network: BackboneWithHeadForImageClassification):
        super().__init__()
        self.config = network.config
        self.head = network.head
        self.register_buffer(BODY, body_of(network))

    def forward(self, features: torch.Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=self.head(features))


class FeatureRows(Dataset):
    """Features and labels of a split's images where `Views` has pixels, a whole batch at a time.

    Indices are those of `Views`: pairs (epoch, row), of which epochs take turns at `count` views; or rows. What has no
    room on the disk is in memory, and what has none there either, or is damaged, is computed whenever it is asked for.
    """

    def __init__(
        self,
        views: Views,
        count: int,
        network: BackboneWithHeadForImageClassification,
        computation: str,
        args: Any,
        limit: int | None = None,
    ):
        """`computation` is another one if `network`, in evaluation mode, would compute other features. `limit` is in
        bytes of disk, see `Records.open`.
        """
        self.views, self.network, self.args = views, network, args
        like = compute(network, views, default_collate([views[0]]), args)[0]
        self.width, self.dtype = like.numel(), like.dtype
        self.indices = [(epoch, row) for epoch in range(count) for row in range(len(views))]
        self.digests = [bytes.fromhex(each) for each in views.rows["sha256"][:]]
        keys = [_key(views, self.digests[row], epoch, row) for epoch, row in self.indices]
        self.records = Records.open(f"features-{computation}", (self.width,), "float32", keys, limit)
        self.in_memory: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.views)

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> dict[str, torch.Tensor]:
        """`features` (images, width), as exact as the body computed them, and `labels` of a batch."""
        pairs = [index if isinstance(index, tuple) else (0, index) for index in indices]
        places = [(epoch * len(self) + row) % len(self.indices) for epoch, row in pairs]
        there = {place: self._get(place) for place in places}
        missing = [place for place, features in there.items() if features is None]
        there |= {place: features for place, features, _ in self._computed(missing)}
        return {
            "features": torch.from_numpy(np.stack([there[place] for place in places])).to(self.dtype),
            "labels": self.views.labels[[row for _, row in pairs]],
        }

    def _get(self, place: int) -> np.ndarray | None:
        own = self.in_memory.get(place)
        return self.records.get(place) if own is None else own

    def fill(self) -> tuple[int, int]:
        """Compute what is not there; how much that was, and for how much there is no room.

        Several processes share the work, on each machine all of it.
        """
        process = PartialState()
        wanted = self._missing()
        process.wait_for_everyone()  # before anything is put there
        each = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        self._store(wanted[process.local_process_index :: each])
        process.wait_for_everyone()
        left = self._missing()  # what the others have no room for, and so keep for themselves
        if len(self.in_memory) < MEMORY // (4 * self.width):
            self._store(left)
        nowhere = sum(place not in self.in_memory for place in left)
        return len(wanted) - nowhere, nowhere

    def _missing(self) -> list[int]:
        """What is nowhere, or is damaged."""
        return [place for place in range(len(self.indices)) if self._get(place) is None]

    def _store(self, places: Sequence[int]) -> None:
        """Compute features and keep them, until there is no room for more."""
        room = MEMORY // (4 * self.width)
        seen = PartialState().is_local_main_process
        bar = tqdm(total=len(places), desc="  features", unit=" images", leave=False, disable=None if seen else True)
        with bar:
            for place, features, is_same in self._computed(places, self.args.dataloader_num_workers):
                if not (is_same and self.records.put(place, features)):
                    if len(self.in_memory) >= room:
                        return
                    self.in_memory[place] = features
                bar.update()

    def _computed(self, places: Sequence[int], workers: int = 0) -> Iterator[tuple[int, np.ndarray, bool]]:
        """Place, features (width) and whether they are of the file that the run began with."""
        size = BATCH.get(self.args.device.type, BATCH_ELSEWHERE)
        sampler = [self.indices[place] for place in places]
        # A generator of its own: the stage's dropout must not depend on what is computed meanwhile.
        loading = {"num_workers": workers, "generator": torch.Generator()}
        batches = DataLoader(
            _Looked(self.views, self.digests),
            size,
            sampler=sampler,
            pin_memory=self.args.dataloader_pin_memory,
            **loading,
        )
        for start, batch in zip(range(0, len(places), size), batches, strict=True):
            same = batch.pop("same").tolist()
            features = compute(self.network, self.views, batch, self.args, size).float().cpu().numpy()
            yield from zip(places[start : start + size], features, same, strict=True)


class _Looked(Dataset):
    """Views, each with whether its image file is still what it was when the run began: no other's features are kept."""

    def __init__(self, views: Views, digests: Sequence[bytes]):
        self.views = views
        self.digests = digests

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Any]:
        content = self.views.content(index[1])
        return {**self.views[index], "same": hashlib.sha256(content).digest() == self.digests[index[1]]}


def as_it_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The collator of `FeatureRows`."""
    return batch


def compute(
    network: BackboneWithHeadForImageClassification,
    views: Views,
    batch: dict[str, torch.Tensor],
    args: Any,
    size: int = 1,
) -> torch.Tensor:
    """Features (images, width) of a batch of `views`, filled up to `size`, in the precision of the stage; by a network
    that is there, in evaluation mode.
    """
    half = torch.bfloat16 if args.bf16 else torch.float16
    with torch.inference_mode():
        there = {name: each.to(args.device, non_blocking=True) for name, each in batch.items()}
        pixels = views.preprocessing.finish(there)["pixel_values"]
        filling = pixels[-1:].expand(max(0, size - len(pixels)), -1, -1, -1)
        with torch.autocast(args.device.type, half, enabled=args.bf16 or args.fp16):
            return network.features(torch.cat([pixels, filling]))[: len(pixels)]


def stored_features(
    network: BackboneWithHeadForImageClassification,
    head: Head,
    train: Views,
    validation: Views,
    count: int,
    args: Any,
    limit: int | None = None,
) -> tuple[FeatureRows, FeatureRows, str]:
    """What the head of `network` learns from, `count` views of each training image, and what it is evaluated on; and
    how much that is, in words. `limit` is in bytes of disk, see `Records.open`. The network is left on the CPU, unless
    features will have to be computed that there is no room for.
    """
    network.to(args.device).eval()
    made = network, _computation(head, train, args), args, limit
    splits = FeatureRows(train, count, *made), FeatureRows(validation, 1, *made)
    computed, nowhere = (sum(counts) for counts in zip(*(split.fill() for split in splits), strict=True))
    total, width = sum(len(split.indices) for split in splits), splits[0].width
    told = f"{total:,} × {width:,} numbers, {total * width * 4 / 1e6:,.1f} MB; computed now: {computed:,}"
    if nowhere:
        told += f"; {nowhere:,} have no room, in memory or by --pixel_cache, and are computed in each epoch"
    else:
        network.cpu()
    return *splits, told


def views_of(asked: int, augmentation: Augmentation, images: int, args: Any) -> int:
    """How many views of each of so many training images are kept: not more than there are epochs, or differ."""
    if augmentation == Augmentation():
        return min(asked, 1)
    epochs = args.num_train_epochs
    if args.max_steps > 0:
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        epochs = args.max_steps / math.ceil(images / batch)
    return min(asked, math.ceil(epochs))


def without_workers(args: Any) -> Any:
    """`TrainingArguments` for batches that lie ready in memory."""
    args = copy(args)
    args.dataloader_num_workers, args.dataloader_prefetch_factor = 0, None
    args.dataloader_persistent_workers = args.dataloader_pin_memory = False
    return args


def body_of(network: BackboneWithHeadForImageClassification) -> torch.Tensor:
    """SHA-256 of the body's weights, as 32 bytes."""
    digest = hashlib.sha256()
    for name, value in network.backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def check_body(network: BackboneWithHeadForImageClassification, checkpoint: Path) -> None:
    """Refuse a checkpoint of a head alone that was trained on another body than this network has.

    Raises:
        UserError: it was.
    """
    from safetensors import safe_open

    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        if BODY in file.keys() and not file.get_tensor(BODY).equal(body_of(network)):  # noqa: SIM118, no mapping
            raise UserError(
                f"the head in '{checkpoint}' was trained on another body than the base model has now; --resume wants "
                "the base model that the run began with, as it was; --overwrite starts anew"
            )


def _computation(head: Head, views: Views, args: Any) -> str:
    """A name for all that features depend on but the image and how it is varied."""
    facts = {
        "body": [head.config.backbone, head.body.tolist()],
        "pixels": name_of(views.preprocessing),
        "range": [views.preprocessing.mean.tolist(), views.preprocessing.std.tolist()],
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "device": args.device.type,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _key(views: Views, image: bytes, epoch: int, row: int) -> bytes:
    """Which image, and what is shown of it."""
    how = views.augmentation  # None of validation images
    shown = None if how is None else vars(how)
    if how not in (None, Augmentation()):
        shown = {**shown, "draw": [views.seed, epoch, row]}
    return hashlib.sha256(image + json.dumps(shown).encode()).digest()
