"""One image file: opened as `pipeline` opens it, or refused with a reason a person understands."""

import hashlib
import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

# What PIL may open, by name. A file of another name is not taken for an image; one of these that is no image is listed.
EXTENSIONS = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".heic"]
    + [".heif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".tga"]
)
DEEP_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
SMALLEST_SIDE = 2  # pixels; a 1 × 1 picture is a placeholder, and no network sees anything in it

# PIL warns of broken EXIF data, of palettes with transparency, and of pictures from 89 megapixels on (it refuses them
# from 179 on); `pipeline` opens them all, and so do we. Said once for all threads: they share one list of filters.
warnings.filterwarnings("ignore", module=r"PIL\.")


def open_rgb(source: str | Path | bytes) -> Image.Image:
    """The image as `pipeline` sees it: turned as EXIF says, 8-bit RGB; of an animation the first frame."""
    from transformers.image_utils import load_image

    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        return load_image(image)


def inspect(content: bytes) -> str | None:
    """Decode an image file's bytes and say why it cannot be trained on, or None if it can.

    JPEGs are decoded at an eighth of their size, which still reads every byte: a file that is cut off is found. What
    stands before ": " in a reason is the kind of fault, by which `intake.summary` counts.
    """
    if not content:
        return "empty file"
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode in DEEP_MODES:
                return (
                    "16 bits a pixel or more, which `pipeline` would clip to white: make it 8-bit first, "
                    "magick IN -auto-level -depth 8 OUT.png"
                )
            if min(image.size) < SMALLEST_SIDE:
                return f"too small: {image.width} × {image.height} pixels"
            image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
            ImageOps.exif_transpose(image).convert("RGB")  # as `load_image` does, without importing torch in threads
    except UnidentifiedImageError:
        if content[4:8] == b"ftyp":
            return "HEIC or another kind that Pillow cannot open: convert it first, magick IN OUT.jpg"
        return "not an image, whatever its name says"
    except Image.DecompressionBombError as error:
        return f"a decompression bomb: {str(error).split(',')[0].lower()}"
    except Exception as error:  # PIL's decoders raise anything from SyntaxError to struct.error
        return f"cannot be read: {str(error) or type(error).__name__}"
    return None


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of a file's bytes: two files of one digest are exact duplicates."""
    return hashlib.sha256(content).hexdigest()
