"""Golden images, made by a formula: a model that is served elsewhere must answer about them as when it was saved.

They come from no data set, so that they may be published with any model, and from whole numbers alone, so that they are
the same bytes on every machine and with every version of numpy: no random generator, no sine, no rounding. Their sizes
lie above and below what models take, upright and lying, and they are full of edges, gradients, textures and colours
that are no neighbours: another size, crop, way to resample, order of the channels or normalisation is another answer.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

FORMULA = "discs-1"  # another formula is another name: stored answers belong to one
# Width and height of each. Most models take squares of 32 to 448 pixels.
SIZES = {
    "landscape": (640, 427),
    "portrait": (375, 500),
    "square": (256, 256),
    "panorama": (900, 150),
    "small": (61, 47),
    "tower": (53, 180),
    "grey": (320, 240),  # of mode L, as a scanner writes it
}
DISCS = (
    *((250, 20, 30), (20, 200, 60), (30, 60, 240), (250, 230, 20), (10, 10, 10)),
    *((240, 120, 10), (245, 245, 245), (130, 30, 160), (20, 190, 200)),
)


def golden_images() -> dict[str, Image.Image]:
    """The images by their names: of mode RGB, and one of mode L."""
    images = {name: Image.fromarray(_pixels(*size, seed)) for seed, (name, size) in enumerate(SIZES.items(), 1)}
    return images | {"grey": Image.fromarray(_pixels(*SIZES["grey"], seed=7)[..., 1])}


def _pixels(width: int, height: int, seed: int) -> np.ndarray:
    """uint8 (height, width, 3): a gradient in each colour, a patch of noise, one of stripes, and discs upon them.

    Which corner has what, and where the discs lie, depends on `seed`.
    """
    y, x = np.mgrid[:height, :width].astype(np.int64)
    red, green, blue = 255 * x // (width - 1), 255 * y // (height - 1), 255 * (x + y) // (width + height - 2)
    pixels = np.stack([red, green, 255 - blue] if seed % 2 else [blue, 255 - red, green], axis=-1)

    upper, left = y < height // 2, x < width // 2
    # Low bits of a product look random: what a resampling makes of them is its own.
    noise = (x * 40503 + y * 30011 + (x * y + seed) * 12289) // 64 % 160
    pixels = np.where((upper == left)[..., None], pixels, (pixels + noise[..., None] * np.array([1, 2, 3])) // 3)
    stripes = (x // 3 + y // (seed + 4)) % 2 == 1
    pixels = np.where((stripes & ~upper & (left == bool(seed % 2)))[..., None], 255 - pixels, pixels)

    for number, colour in enumerate(DISCS, seed):
        radius = min(width, height) * (number % 4 + 1) // 14
        inside = (x - number * 61 % 97 * width // 97) ** 2 + (y - number * 43 % 89 * height // 89) ** 2 < radius**2
        pixels = np.where(inside[..., None], np.array(colour), pixels)
    return pixels.astype(np.uint8)


def weights_sha256(folder: Path) -> str:
    """SHA-256 of `folder`/model.safetensors, in hexadecimal digits: which weights stored answers are of."""
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
