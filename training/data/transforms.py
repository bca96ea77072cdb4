"""From an image to the network's input: the base model's own processor, with augmentation in its middle.

`Preprocessing` is the one source of pixels for training, evaluation and deployment: evaluation calls the saved image
processor itself; training splits it where the pixels are still bytes, varies the image there, and normalises after.
"""

import math
from typing import Any

import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as tv

from training.data.images import open_rgb
from training.recipe import Augmentation, UserError


class Preprocessing:
    """An image processor, native or timm's, and the two halves it consists of.

    Raises:
        UserError: it does more than resize, crop and normalise, as EfficientNet's, which normalises twice.
    """

    def __init__(self, processor: Any):
        self.processor = processor
        if hasattr(processor, "data_config"):  # timm's
            steps = processor.val_transforms.transforms
            self._geometry = steps[: [type(step).__name__ for step in steps].index("MaybeToTensor")]
            mean, std = processor.data_config["mean"], processor.data_config["std"]
        else:
            self._geometry = None
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
            if getattr(processor, "do_normalize", False):
                mean, std = processor.image_mean, processor.image_std
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)
        if not self._halves_agree():
            raise UserError(
                f"{type(processor).__name__} does more to an image than resize, crop and normalise, which training "
                "cannot repeat; choose another base model"
            )

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """What the deployed model sees: float32, (3, height, width)."""
        return self.processor(image, return_tensors="pt")["pixel_values"][0]

    def geometry(self, image: Image.Image) -> torch.Tensor:
        """Resized and cropped, not yet normalised: uint8, (3, height, width)."""
        if self._geometry is None:
            return self.processor(image, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0]
        for step in self._geometry:
            image = step(image)
        return tv.pil_to_tensor(image)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels of 0 to 255, (…, 3, height, width), to the network's range."""
        return (pixels.float() / 255 - self.mean) / self.std

    def _halves_agree(self) -> bool:
        """Whether `geometry` and `normalise` make of a colourful picture what the processor makes of it."""
        shades = Image.linear_gradient("L")
        probe = Image.merge("RGB", (shades, shades.rotate(90), Image.radial_gradient("L")))
        try:
            return torch.allclose(self.normalise(self.geometry(probe)), self(probe), atol=1e-4)
        except (TypeError, RuntimeError):  # bytes where it computes with floats; another shape
            return False


class Views(Dataset):
    """Rows of a `datasets.Dataset` as `pixel_values` and `labels`.

    With an augmentation, indices are pairs (epoch, row), and the view is a pure function of seed, epoch and row:
    neither workers nor processes nor a run that goes on can change it.
    """

    def __init__(
        self, rows: Any, preprocessing: Preprocessing, augmentation: Augmentation | None = None, seed: int = 0
    ):
        from datasets import Image as Encoded

        self.rows = rows.cast_column("image", Encoded(decode=False)).select_columns(["image", "label"])
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = self.rows[index]
        image = open_rgb(row["image"]["bytes"] or row["image"]["path"])
        pixels = view(image, self.preprocessing, self.augmentation, (self.seed, epoch, index))
        return {"pixel_values": pixels, "labels": row["label"]}


def view(
    image: Image.Image, preprocessing: Preprocessing, how: Augmentation | None, key: tuple[int, int, int]
) -> torch.Tensor:
    """What the network is shown of an image: float32, (3, height, width); varied as `key`, (seed, epoch, row), says."""
    if how is None:
        return preprocessing(image)
    seed, epoch, row = key
    # The primes keep (seed, epoch, row) of different views apart; torch mixes the bits.
    draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch * 15_485_863 + row)
    if how.crop < 1:
        image = random_crop(image, how.crop, draw)
    return preprocessing.normalise(augment(preprocessing.geometry(image), how, draw))


def augment(pixels: torch.Tensor, how: Augmentation, draw: torch.Generator) -> torch.Tensor:
    """One random variation of a uint8 image (3, height, width), as float32 of 0 to 255."""
    height, width = pixels.shape[1:]
    theta = random_affine(how, height / width, draw)
    image = pixels.float()[None]
    if not torch.equal(theta, torch.eye(2, 3)):
        grid = functional.affine_grid(theta[None], list(image.shape), align_corners=False)
        image = functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    for axis, flips in ((3, how.horizontal_flip), (2, how.vertical_flip)):
        if flips and _between(0, 1, draw) < 0.5:
            image = image.flip(axis)  # not in the matrix, whose rounding would blur what only has to be turned round
    for name in ("brightness", "contrast", "saturation"):
        reach = getattr(how, name)
        if reach:
            image = getattr(tv, f"adjust_{name}")(image / 255, _between(1 - reach, 1 + reach, draw)) * 255
    return image[0]


def random_affine(how: Augmentation, aspect: float, draw: torch.Generator) -> torch.Tensor:
    """The (2, 3) matrix that maps places in the new image to places in the old one, both from -1 to 1.

    Rotation, shear and zoom act on pixels that are square, whence `aspect`, height over width.
    """
    angle = math.radians(_between(-how.rotation, how.rotation, draw))
    shear = math.tan(math.radians(_between(-how.shear, how.shear, draw)))
    scale = _between(1 - how.zoom, 1 + how.zoom, draw)
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = rotation @ torch.tensor([[1.0, shear], [0.0, 1.0]]) / scale
    linear *= torch.tensor([[1.0, aspect], [1 / aspect, 1.0]])
    shift = torch.tensor([[2 * _between(-how.shift, how.shift, draw)], [2 * _between(-how.shift, how.shift, draw)]])
    return torch.cat([linear, shift], dim=1)


def random_crop(image: Image.Image, smallest: float, draw: torch.Generator) -> Image.Image:
    """A random part of `smallest` to all of the area, its sides at most 3:4 off the image's own ratio."""
    area = _between(smallest, 1, draw)
    widest = math.log(min(4 / 3, 1 / area))  # beyond 1 / area the part would be wider than the image
    ratio = math.exp(_between(-widest, widest, draw))
    width = max(1, round(image.width * math.sqrt(area * ratio)))
    height = max(1, round(image.height * math.sqrt(area / ratio)))
    left = round(_between(0, image.width - width, draw))
    top = round(_between(0, image.height - height, draw))
    return image.crop((left, top, left + width, top + height))


def _between(low: float, high: float, draw: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=draw).item()
