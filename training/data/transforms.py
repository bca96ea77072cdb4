"""From an image to the network's input: the base model's own processor, with augmentation in its middle.

`Preprocessing` is the one source of pixels for training, evaluation and deployment: evaluation calls the saved image
processor itself; training splits it where the pixels are still bytes. Up to there an image is worked on alone, and may
be kept (`training.data.pixels`); from there on `finish` varies and normalises a whole batch, where the network is.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as tv

from training.data.images import open_rgb
from training.recipe import Augmentation, UserError

if TYPE_CHECKING:
    from training.data.pixels import Kept

VARIED = ("affine", "flips", "brightness", "contrast", "saturation")  # what `variation` draws and `vary` takes
AMPLE = 2  # times the pixels that are needed are decoded at least
GREY = (0.2989, 0.587, 0.114)  # of red, green and blue, as torchvision weighs them (ITU-R BT.601)


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
        mean, std = (each.to(pixels.device, non_blocking=True) for each in (self.mean, self.std))
        return (pixels / 255).sub_(mean).div_(std)

    def finish(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A batch of unfinished views, on whatever device, as the network takes it: varied and normalised, in float32.

        An image becomes what it would become alone, up to float rounding. What is finished already stays as it is.
        """
        pixels = batch["pixel_values"]
        if pixels.dtype != torch.uint8:
            return dict(batch)
        drawn = {name: batch[name] for name in VARIED if name in batch}
        # A thread an image: what stays in a processor's cache is done in half the time that a whole batch takes.
        piece = torch.get_num_threads() if pixels.device.type == "cpu" else len(pixels)
        done = [
            self.normalise(vary(pixels[i : i + piece], **{name: each[i : i + piece] for name, each in drawn.items()}))
            for i in range(0, len(pixels), piece)
        ]
        return {name: each for name, each in batch.items() if name not in drawn} | {"pixel_values": torch.cat(done)}

    @cached_property
    def shape(self) -> tuple[int, ...] | None:
        """What `geometry` makes of every image; None if that depends on the image."""
        sizes = (64, 64), (64, 48), (48, 64)
        shapes = {tuple(self.geometry(Image.new("RGB", size)).shape) for size in sizes}
        return shapes.pop() if len(shapes) == 1 else None

    @cached_property
    def edge(self) -> int | None:
        """The length, in pixels, to which `geometry` scales the sides of a square before it crops, the longer one.

        Measured on a gradient, for processors have many names for it; None if that does not tell.
        """
        shades = Image.linear_gradient("L")  # 256 rows, from 0 to 255
        steps = []
        for picture, across in ((shades, 2), (shades.rotate(90), 1)):
            line = self.geometry(Image.merge("RGB", [picture] * 3)).float().mean(dim=(0, across))
            middle = line[len(line) // 4 : len(line) - len(line) // 4]  # some processors add an edge
            steps.append(abs(middle[-1] - middle[0]).item() / max(1, len(middle) - 1))
        return math.ceil(256 / min(steps)) if min(steps) > 0 else None

    def needed(self, how: Augmentation) -> int | None:
        """The shorter side, in pixels, of an image that is not too small for any of its variations; see `open_rgb`."""
        kept = math.sqrt(how.crop * max(3 / 4, how.crop))  # the least that `random_crop` leaves of a side
        return self.edge and math.ceil(AMPLE * self.edge / kept)

    def _halves_agree(self) -> bool:
        """Whether `geometry` and `normalise` make of a colourful picture what the processor makes of it."""
        shades = Image.linear_gradient("L")
        probe = Image.merge("RGB", (shades, shades.rotate(90), Image.radial_gradient("L")))
        try:
            pixels = self.geometry(probe)
            return pixels.dtype == torch.uint8 and torch.allclose(self.normalise(pixels), self(probe), atol=1e-4)
        except (TypeError, RuntimeError):  # bytes where it computes with floats; another shape
            return False


class Views(Dataset):
    """Rows of a `datasets.Dataset` as `pixel_values` and `labels`.

    With an augmentation, indices are pairs (epoch, row), and the view is a pure function of seed, epoch and row:
    neither workers nor processes nor a run that goes on can change it. Without one it is, bit by bit, what the
    deployed model sees. `unfinished` views are for `Preprocessing.finish`: see `view`. Their pixels come from `kept`,
    if there are any, and are put there; those of an augmentation that crops are not: they differ each time.
    """

    def __init__(
        self,
        rows: Any,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        unfinished: bool = False,
        kept: "Kept | None" = None,
    ):
        from datasets import Image as Encoded

        told = [name for name in ("image", "label", "sha256") if name in rows.column_names]
        self.rows = rows.cast_column("image", Encoded(decode=False)).select_columns(told)
        self.labels = torch.tensor(rows["label"][:])
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed
        self.unfinished = unfinished
        self.kept = kept if unfinished and (augmentation is None or augmentation.crop == 1) else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        how, key = self.augmentation, (self.seed, epoch, index)
        if self.kept is None:
            shown = view(self.content(index), self.preprocessing, how, key, self.unfinished)
        else:
            shown = _unfinished(self._pixels(index), how, draws(key))
        return {**shown, "labels": self.labels[index].item()}

    def digest(self, index: int) -> bytes:
        """The SHA-256 of a row's image file, as `splits.csv` has it: of rows that `as_datasets` has made."""
        return bytes.fromhex(self.rows[index]["sha256"])

    def _pixels(self, index: int) -> torch.Tensor:
        """The kept ones, or those that are kept from now on."""
        pixels = self.kept.get(index)
        if pixels is None:
            content = self.content(index)
            pixels = _bytes_of(content, self.preprocessing, self.augmentation, reduced=True)
            self.kept.put(index, pixels, content)
        return pixels

    def content(self, index: int) -> bytes:
        """A row's image file."""
        image = self.rows[index]["image"]
        return image["bytes"] or Path(image["path"]).read_bytes()


def view(
    content: bytes,
    preprocessing: Preprocessing,
    how: Augmentation | None,
    key: tuple[int, int, int],
    unfinished: bool = False,
) -> dict[str, torch.Tensor]:
    """What the network is shown of an image file: `pixel_values`, varied as `key`, (seed, epoch, row), says.

    They are float32, (3, height, width), without `how` those of the saved processor. `unfinished` they are still bytes,
    uint8, with what `variation` drew beside them; then an image that is to be varied is read at a reduced size.
    """
    if how is None and not unfinished:
        return {"pixel_values": preprocessing(open_rgb(content))}
    draw = draws(key)
    item = _unfinished(_bytes_of(content, preprocessing, how, reduced=unfinished, draw=draw), how, draw)
    if unfinished:
        return item
    whole = preprocessing.finish({name: each[None] for name, each in item.items()})
    return {"pixel_values": whole["pixel_values"][0]}


def draws(key: tuple[int, int, int]) -> torch.Generator:
    """Random numbers for one view, which is (seed, epoch, row)."""
    seed, epoch, row = key
    # The primes keep the numbers of different views apart; torch mixes the bits.
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch * 15_485_863 + row)


def _bytes_of(
    content: bytes,
    preprocessing: Preprocessing,
    how: Augmentation | None,
    reduced: bool,
    draw: torch.Generator | None = None,
) -> torch.Tensor:
    """An image file as uint8, (3, height, width); of one to be varied, a random part if it says so."""
    image = open_rgb(content, preprocessing.needed(how) if reduced and how is not None else None)
    if how is not None and how.crop < 1:
        image = random_crop(image, how.crop, draw)
    return preprocessing.geometry(image)


def _unfinished(pixels: torch.Tensor, how: Augmentation | None, draw: torch.Generator) -> dict[str, torch.Tensor]:
    drawn = {} if how is None else variation(how, pixels.shape[1] / pixels.shape[2], draw)
    return {"pixel_values": pixels, **drawn}


def variation(how: Augmentation, aspect: float, draw: torch.Generator) -> dict[str, torch.Tensor]:
    """One random variation of an image, by the names and in the form of one image that `vary` takes; what does not
    vary is left out. `aspect` is height over width.
    """
    affine = random_affine(how, aspect, draw)
    drawn = {"affine": affine} if how.rotation or how.shear or how.zoom or how.shift else {}
    asked = (how.horizontal_flip, how.vertical_flip)
    if any(asked):
        drawn["flips"] = torch.tensor([flip and _between(0, 1, draw) < 0.5 for flip in asked])
    for name in ("brightness", "contrast", "saturation"):
        reach = getattr(how, name)
        if reach:
            drawn[name] = torch.tensor(_between(1 - reach, 1 + reach, draw))
    return drawn


def vary(
    pixels: torch.Tensor,
    affine: torch.Tensor | None = None,
    flips: torch.Tensor | None = None,
    brightness: torch.Tensor | None = None,
    contrast: torch.Tensor | None = None,
    saturation: torch.Tensor | None = None,
) -> torch.Tensor:
    """uint8 images (n, 3, height, width), each varied in its own way, as float32 of 0 to 255.

    `affine`, (n, 2, 3), are matrices of `random_affine`; `flips`, (n, 2), bool, say whether to exchange left and right,
    top and bottom, after that; the others, (n,), are factors, as torchvision's adjust_brightness and so on take them.
    """
    if affine is not None:
        images = _moved(pixels.float(), affine if flips is None else _flipped(affine, flips))
    else:
        # Not by the matrix, whose rounding would blur what only has to be turned round.
        for axis in (3, 2) if flips is not None else ():
            pixels = torch.where(flips[:, 3 - axis].view(-1, 1, 1, 1), pixels.flip(axis), pixels)
        images = pixels.float()
    if brightness is not None:
        images = _blended(images, 0.0, brightness)
    if contrast is not None:
        images = _blended(images, _grey(images).mean(dim=(1, 2, 3), keepdim=True), contrast)
    if saturation is not None:
        images = _blended(images, _grey(images), saturation)
    return images


def _flipped(affine: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """Matrices that look up places from the other side: (n, 2, 3), of equal ones, (n, 2)."""
    signs = torch.cat([1 - 2 * flips.to(affine), affine.new_ones(len(flips), 1)], dim=1)
    return affine * signs[:, None]


def _moved(images: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
    """Each image as its matrix says where its pixels come from; beyond the edge the edge goes on.

    Not by torch's `affine_grid`, whose matrix product rounds differently in batches of different sizes.
    """
    height, width = images.shape[2:]
    x, y = (_centres(length, images) for length in (width, height))
    across, down, shift = affine[:, None, None].unbind(-1)  # (n, 1, 1, 2) each
    places = across * x.view(1, 1, -1, 1) + (down * y.view(1, -1, 1, 1) + shift)
    return functional.grid_sample(images, places, padding_mode="border", align_corners=False)


def _centres(length: int, like: torch.Tensor) -> torch.Tensor:
    """Where the pixels of a side lie, from -1 to 1; the same, negated, from its other end."""
    return (2 * torch.arange(length, dtype=like.dtype, device=like.device) + 1 - length) / length


def _blended(images: torch.Tensor, ground: torch.Tensor | float, factors: torch.Tensor) -> torch.Tensor:
    """torchvision's `_blend`, with a factor for each image: on its ground at 0, as it is at 1, exaggerated beyond."""
    factors = factors.view(-1, 1, 1, 1)
    return (images * factors + ground * (1 - factors)).clamp_(0, 255)


def _grey(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = images.unbind(1)
    return (GREY[0] * red + GREY[1] * green + GREY[2] * blue).unsqueeze(1)


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
