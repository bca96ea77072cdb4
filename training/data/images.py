"""One image file: opened as `pipeline` opens it, or refused with a reason a person understands; and what is in it."""

import hashlib
import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hub_utils.portable.file_parts import Overbuilt, check_opened, check_parts
from hub_utils.portable.image_files import DEEP_MODES, EXTENSIONS, FOREIGN, NARROWEST, SMALLEST_SIDE, open_rgb

__all__ = ["DEEP_MODES", "EXTENSIONS", "FOREIGN", "Facts", "grey", "look", "open_rgb", "thumbnail"]

COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBX"})
BITS_PER_SAMPLE = 258  # TIFF's tag
THUMBNAIL = 16  # pixels a side
FLAT = 1.0  # levels of grey, of 255; a thumbnail that varies less shows nothing
QUARTILES = np.array([0.25, 0.5, 0.75]) * (32 * 32 - 1)  # places among the sorted pixels of a sample
BELOW = QUARTILES.astype(int)
BETWEEN = (QUARTILES - BELOW).astype(np.float32)
GLANCE = 64  # pixels; the shorter side at which a JPEG is decoded at least, where it has them


@dataclass(frozen=True, slots=True)
class Facts:
    """What one decoding tells of an image file's bytes.

    `reason` says why it cannot be trained on, or is None; what stands before ": " in it is the kind of fault, by which
    `intake.summary` counts. Width and height are in pixels, after the turn that EXIF asks for; they, `mode` and
    `format` (Pillow's words; "RGB;16" if the file has 16 bits a colour) are known of refused images too, as far as
    decoding came. `thumbnail` is 16 × 16 bytes of grey, by rows, whatever the image's shape, from 0, its darkest, to
    255; all 0 if the image is flat. `colours` are 15 float16: of red, green and blue, from 0 to 1, the mean, the
    standard deviation and the three quartiles. `commonest` is the share of pixels in the most frequent of 16 shades of
    grey, `two_commonest` in the two most frequent: near 1 for an empty picture, and for a mask.
    """

    sha256: str
    reason: str | None = None
    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    frames: int = 1
    thumbnail: bytes = b""
    colours: bytes = b""
    commonest: float = 0.0
    two_commonest: float = 0.0


def look(content: bytes) -> Facts:
    """Decode an image file's bytes once, whole; never raises.

    JPEGs are decoded at a smaller scale, which still reads every byte: a file that is cut off is found.
    """
    facts = {"sha256": hashlib.sha256(content).hexdigest()}
    try:
        facts["reason"] = _look(content, facts)
    except UnidentifiedImageError:
        facts["reason"] = "not an image, whatever its name says"
        if content[4:8] == b"ftyp":
            facts["reason"] = "HEIC or another kind that Pillow cannot open: convert it first, magick IN OUT.jpg"
    except Image.DecompressionBombError as error:
        facts["reason"] = f"a decompression bomb: {str(error).split(',')[0].lower()}"
    except Overbuilt as error:
        facts["reason"] = f"built of more parts than can be read: {error}; export it anew"
    except Exception as error:  # PIL's decoders raise anything from SyntaxError to struct.error
        facts["reason"] = f"cannot be read: {str(error) or type(error).__name__}"
    return Facts(**facts)


def _look(content: bytes, facts: dict) -> str | None:
    """Fill in the facts, in place, as far as decoding goes; the reason to refuse the image."""
    if not content:
        return "empty file"
    check_parts(content)
    with Image.open(io.BytesIO(content)) as image:
        check_opened(image)
        facts.update(width=image.width, height=image.height, mode=image.mode, format=image.format or "")
        facts["frames"] = getattr(image, "n_frames", 1)
        if image.mode in COLOUR_MODES and _is_deep(image, content):
            facts["mode"] = f"{image.mode};16"
        if image.mode in DEEP_MODES:
            return (
                "16 bits a pixel or more, which `pipeline` would clip to white: make 8-bit copies first, "
                "data_report.py DIR --convert COPY"
            )
        if min(image.size) < SMALLEST_SIDE:
            return f"too small: {image.width} × {image.height} pixels"
        if max(image.size) > NARROWEST * min(image.size):
            return f"too narrow: {image.width} × {image.height} pixels"
        scale = max(1 / 8, GLANCE / min(image.size))
        image.draft("RGB", (max(1, int(image.width * scale)), max(1, int(image.height * scale))))
        turned = ImageOps.exif_transpose(image)
        if (turned.width > turned.height) != (image.width > image.height):
            facts.update(width=facts["height"], height=facts["width"])
        rgb = turned.convert("RGB")  # as `load_image` does, without importing torch in threads
    grey = rgb.convert("L")
    shades = np.sort(np.asarray(grey.histogram()).reshape(16, 16).sum(axis=1))[::-1] / (grey.width * grey.height)
    facts["commonest"], facts["two_commonest"] = float(shades[0]), float(shades[0] + shades[1])
    facts["thumbnail"] = thumbnail(grey)
    facts["colours"] = _colours(rgb)
    return None


def _is_deep(image: Image.Image, content: bytes) -> bool:
    """Whether a file has 16 bits for each colour, of which Pillow, and so `pipeline`, takes the upper 8."""
    if image.format == "PNG":
        return content[24] == 16
    return image.format == "TIFF" and max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) > 8


def thumbnail(grey: Image.Image) -> bytes:
    """An "L" image as 16 × 16 bytes, each the mean of what it covers, stretched so that they fill 0 to 255.

    Few bright dots in the dark are still there, when whole levels of grey would have lost them.
    """
    smooth = Image.Resampling.BOX if min(grey.size) >= THUMBNAIL else Image.Resampling.BILINEAR
    shades = np.asarray(grey.convert("F").resize((THUMBNAIL, THUMBNAIL), smooth))
    shades = shades - shades.min()
    return np.round(shades * (255 / shades.max() if shades.max() >= FLAT else 0)).astype(np.uint8).tobytes()


def _colours(rgb: Image.Image) -> bytes:
    """Mean, deviation and quartiles of each channel; 32 × 32 pixels are sample enough."""
    sample = np.frombuffer(rgb.resize((32, 32), Image.Resampling.NEAREST).tobytes(), np.uint8)
    shades = np.array(sample.reshape(-1, 3).T, np.float32, order="C") / 255
    shades.sort(axis=1)  # `np.quantile` would take longer than all else here, and hold up other threads meanwhile
    mean = shades.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.square(shades - mean).mean(axis=1, keepdims=True))
    quartiles = shades[:, BELOW] + (shades[:, BELOW + 1] - shades[:, BELOW]) * BETWEEN
    return np.hstack([mean, deviation, quartiles]).T.astype(np.float16).tobytes()


def grey(content: bytes, pixels: int) -> np.ndarray:
    """The image in shades of grey, uint8, (height, width), of about so many `pixels` at most; never enlarged."""
    with Image.open(io.BytesIO(content)) as image:
        scale = min(1.0, math.sqrt(pixels / (image.width * image.height)))
        image.draft("RGB", (max(1, int(image.width * scale)), max(1, int(image.height * scale))))
        turned = ImageOps.exif_transpose(image).convert("RGB").convert("L")
    scale = min(1.0, math.sqrt(pixels / (turned.width * turned.height)))
    size = max(1, round(turned.width * scale)), max(1, round(turned.height * scale))
    return np.asarray(turned.resize(size, Image.Resampling.BOX))
