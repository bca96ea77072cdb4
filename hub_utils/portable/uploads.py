"""What visitors give to a page: opened as `pipeline` opens it, or refused in a sentence, within limits.

Anybody may send anything. A file's size is asked before it is read, and a picture's before it is decoded; only decoders
of formats in everyday use are let near it (Pillow knows forty, one of which starts Ghostscript).
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
import stat
import threading
from abc import ABCMeta
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image, UnidentifiedImageError

from hub_utils.portable.command import UserError
from hub_utils.portable.image_files import DEEP_MODES, FOREIGN, SMALLEST_SIDE, as_rgb

MB = 1_000_000
MOST_BYTES = 50 * MB  # of a picture's file
MOST_PIXELS = 100_000_000  # of a picture: 300 MB of memory; Pillow itself ends at 179
MOST_PICTURES = 1_000  # at once
MOST_UPLOAD = 500 * MB  # of any file: this is what a zip may have, and what `launch(max_file_size=…)` refuses above
MOST_UNPACKED = 2_000 * MB  # of all that comes out of the zips

LARGE = 25_000_000  # pixels; such pictures are decoded one at a time, so that no crowd of them fills the memory
MOST_PASSES = 50  # of a progressive JPEG: ten are usual, and each takes a tenth of a second at 100 megapixels

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "DIB", "TGA")
READS = "this page reads JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF"
SAVE = "save or export it as JPEG"
RAW = "a camera's raw file"
DAMAGED = "This picture is cut off or damaged. Copy or download it again."
# How files begin, what they are, and what to do.
FOREIGN_KINDS = [
    (re.compile(start, re.DOTALL | re.IGNORECASE), what, hint)
    for start, what, hint in (
        (
            rb"....ftyp(hei|hev|mif1|msf1)",
            "a HEIC picture, as iPhones take them",
            "share it as JPEG, or take a screenshot",
        ),
        (rb"....ftypcrx|(II\*\0....|MM\0\*....)CR|FUJIFILMCCD-RAW|IIU\0|IIR[OS]|MMOR", RAW, SAVE),
        (rb".{128}DICM", "a DICOM file", SAVE),
        (rb"\s*(<\?xml[^<]*)?(<!--.{0,2000}?-->\s*|<!DOCTYPE svg[^<]*)*<svg", "a drawing (SVG)", SAVE),
        (rb"\s*<(!doctype html|html|head|\?xml)", "a web page", "save the picture itself, not the page that it is on"),
        (rb"%PDF", "a PDF document", SAVE),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript drawing", SAVE),
        (rb"8BPS|gimp xcf", "a project of a drawing program", SAVE),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture", SAVE),
        (rb"v/1\x01|#\?(RADIANCE|RGBE)", "a picture with a high dynamic range", SAVE),
        (rb"PK\x03\x04|PK\x05\x06", "a zip archive or a document", "“Many pictures” takes zips; otherwise, unpack it"),
        (rb"Rar!|7z\xbc\xaf|\x1f\x8b|BZh|\xfd7zXZ", "an archive", "unpack it"),
        (rb"....ftyp(?!avi[fs])|RIFF....AVI |\x1aE\xdf\xa3", "a video", "take one picture from it"),
        (rb"RIFF....WAVE|ID3|OggS|fLaC", "a recording of sound", "a picture is wanted"),
    )
]
OURS = re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|GIF8|BM|II\*\0|MM\0\*|....ftypavi[fs]", re.DOTALL)
TIFF_SUBFILE, TIFF_DNG = 254, 50706  # tags: "this is a small version of another picture", and Adobe's raw format

_one_at_a_time = threading.Lock()


class _WithoutStub(type(gr.Image)):
    """gradio's own writes a stub file, `uploads.pyi`, beside any module that derives from a component."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> type:
        return ABCMeta.__new__(cls, name, bases, attributes)


class Picture(gr.Image, metaclass=_WithoutStub):
    """A `gr.Image` that hands on the upload's path unopened: gradio's own would open whatever is in it.

    Give what comes of it to `open_upload`.
    """

    def preprocess(self, payload: Any) -> str | None:
        if payload is None or payload.path:
            return payload and payload.path
        _, _, content = (payload.url or "").partition(";base64,")  # a picture that stands in the request itself
        try:
            decoded = base64.b64decode(content)
        except ValueError:
            decoded = b""  # which `open_upload` has a sentence for
        return save_bytes_to_cache(decoded, "picture.bin", self.GRADIO_CACHE)

    def get_block_name(self) -> str:
        return "image"  # gradio draws a component by this name


class Files(gr.File, metaclass=_WithoutStub):
    """A `gr.File` of several that hands on the names as visitors have them, (name, path) each."""

    def preprocess(self, payload: Any) -> list[tuple[str, str]]:
        return [(each.orig_name or Path(each.path).name, each.path) for each in payload or ()]

    def get_block_name(self) -> str:
        return "file"


def limits_in_words(many: bool = False) -> str:
    """What is accepted, as pages say it; `many` at once."""
    one = f"up to {MOST_BYTES // MB} MB and {MOST_PIXELS // 1_000_000} megapixels"
    if not many:
        return f"JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF, {one}."
    return (
        f"Up to {MOST_PICTURES:,} pictures at once, as files or in zips of up to {MOST_UPLOAD // MB} MB "
        f"({MOST_UNPACKED // MB // 1000} GB unpacked); each a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF, {one}."
    )


def open_upload(path: str | Path) -> Image.Image:
    """The picture in a file: 8-bit RGB, turned as EXIF says, of an animation the first frame.

    Raises:
        UserError: there is none that we open; why, for whoever sent it, and what to do.
    """
    path = Path(path)
    return open_content(read_upload(path), path.name)


def read_upload(path: Path) -> bytes:
    """An upload's bytes, no more of them than a picture may have.

    Raises:
        UserError: as `open_upload`.
    """
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise UserError("This is a folder. Choose the pictures in it, or pack them into a zip for “Many pictures”.")
        if not stat.S_ISREG(about.st_mode):
            raise UserError("This is no file. Choose a picture.")
        _check_bytes(about.st_size)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError("The upload is not there any more. Choose the picture again.") from error


def open_content(content: bytes, name: str = "") -> Image.Image:
    """The same of a file's bytes; `name` only helps to tell what they are if they are no picture.

    Raises:
        UserError: as `open_upload`.
    """
    _check_bytes(len(content))
    if content[:2] == b"\xff\xd8" and content.count(b"\xff\xda") > MOST_PASSES:
        raise UserError(
            f"This JPEG is built in more than {MOST_PASSES} passes, which takes too long. {SAVE.capitalize()}."
        )
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_header(image, content)
            with _one_at_a_time if image.width * image.height > LARGE else contextlib.nullcontext():
                return as_rgb(image)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(_foreign(content, name)) from error
    except Image.DecompressionBombError as error:
        found = re.search(r"\d{6,}", str(error))
        raise UserError(_too_many(int(found[0]) if found else None)) from error
    except MemoryError as error:
        raise UserError("This picture is too large for the memory of this machine. Make it smaller.") from error
    except Exception as error:  # Pillow's decoders raise anything from SyntaxError to struct.error
        raise UserError(DAMAGED) from error


def _check_bytes(size: int) -> None:
    if not size:
        raise UserError("This file is empty. Copy or download it again.")
    if size > MOST_BYTES:
        raise UserError(too_large(size))


def too_large(size: int) -> str:
    return f"This file has {size / MB:,.0f} MB, and {MOST_BYTES // MB} MB are the limit. Make it smaller."


def _check_header(image: Image.Image, content: bytes) -> None:
    """What is known before anything is decoded."""
    if image.width * image.height > MOST_PIXELS:
        raise UserError(_too_many(image.width * image.height))
    if min(image.size) < SMALLEST_SIDE:
        raise UserError(f"This picture is too small: {image.width} × {image.height} pixels. Choose a larger one.")
    raw = next((what for start, what, _ in FOREIGN_KINDS if what == RAW and start.match(content)), None)
    if image.format == "TIFF" and (raw or TIFF_DNG in image.tag_v2 or image.tag_v2.get(TIFF_SUBFILE, 0) & 1):
        raise UserError(_sentence(RAW, SAVE))  # whose first picture is the small one of the camera's screen
    if image.mode in DEEP_MODES:
        raise UserError("This picture has 16 bits or more for a pixel, and a network sees 8. Save it with 8 bits.")


def _too_many(pixels: int | None) -> str:
    has = f"has {pixels / 1e6:,.0f} megapixels" if pixels else "has too many pixels"
    return f"This picture {has}, and {MOST_PIXELS // 1_000_000} are the limit. Make it smaller."


def _foreign(content: bytes, name: str) -> str:
    """What a file is that is no picture of ours."""
    for start, what, hint in FOREIGN_KINDS:
        if start.match(content[:4096]):
            return _sentence(what, hint)
    ending = Path(name).suffix.lower()
    if ending in FOREIGN:
        return _sentence(f"a file of a kind ({ending}) that browsers do not show either", SAVE)
    if OURS.match(content):
        return DAMAGED
    with contextlib.suppress(UnicodeDecodeError):
        if content[:1024].decode().isprintable() or b"\n" in content[:1024]:
            return _sentence("a text", "choose a picture")
    return f"This is not a picture, whatever its name says, or it is damaged; {READS}."


def _sentence(what: str, hint: str) -> str:
    return f"This is {what}, and {READS}: {hint}."
