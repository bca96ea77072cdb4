"""What an image file is to all of us: the names it goes by, how it is opened, and what no network can be shown."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import EpsImagePlugin, Image, ImageOps

# What PIL may open, by name. A file of another name is not taken for an image; one of these that is no image is listed.
EXTENSIONS = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".heic"]
    + [".heif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".tga"]
)
# Images all the same: of cameras, scanners and microscopes, and drawings.
FOREIGN = frozenset(
    [".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".dng", ".psd", ".xcf", ".svg", ".jxl", ".exr", ".hdr"]
    + [".dcm", ".dicom", ".nii", ".nrrd", ".mha", ".svs", ".ndpi", ".mrxs", ".czi", ".lif", ".nd2", ".oib", ".vsi"]
)
SYSTEM_FILES = frozenset({".ds_store", "thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"})
DEEP_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
NARROWEST = 100  # times as long as wide; once its shorter side has a network's size, a longer one fills the memory
SMALLEST_SIDE = 2  # pixels; a 1 × 1 picture is a placeholder, and no network sees anything in it

# PIL warns of broken EXIF data, of palettes with transparency, and of pictures from 89 megapixels on (it refuses them
# from 179 on); `pipeline` opens them all, and so do we. Said once for all threads: they share one list of filters.
warnings.filterwarnings("ignore", module=r"PIL\.")
EpsImagePlugin.gs_binary = False  # PostScript is a program, and Ghostscript runs it: not one from a folder of images


def is_of_system(name: str) -> bool:
    """Whether operating systems leave files or folders of this name; and whatever begins with a dot."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def open_rgb(source: str | Path | bytes, at_least: int | None = None) -> Image.Image:
    """The image as `pipeline` sees it: turned as EXIF says, 8-bit RGB; of an animation the first frame.

    As transformers' `load_image` does it, without transformers. With `at_least`, a JPEG is read at a half, a quarter or
    an eighth of its size, as long as its shorter side keeps so many pixels; it costs a fraction. Raises whatever Pillow
    raises on a file that it cannot open, which is anything from SyntaxError to struct.error.
    """
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """The same of an image that is open. It is changed in place: one copy of its pixels is enough."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image if image.mode == "RGB" else image.convert("RGB")
