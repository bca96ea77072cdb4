"""A picture in a file's bytes, from anybody: opened as `pipeline` opens it, or refused in a sentence, within limits.

A file's size is asked before it is read, and a picture's before it is decoded; only decoders of formats in everyday use
are let near it (Pillow knows forty, one of which starts Ghostscript). No crowd of pictures fills the memory: there is
`_room` for so many pixels.
"""

from __future__ import annotations

import contextlib
import io
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from hub_utils.portable.command import UserError
from hub_utils.portable.file_parts import MOST_SIDE, Overbuilt, check_opened, check_parts
from hub_utils.portable.image_files import DEEP_MODES, FOREIGN, SMALLEST_SIDE, as_rgb
from hub_utils.portable.memory import give_back

MB = 1_000_000
MOST_BYTES = 50 * MB  # of a picture's file
MOST_PIXELS = 100_000_000  # of a picture, or of several at once; Pillow itself ends at 179
LARGE = 10_000_000  # pixels; once such a picture is answered, its memory is given back
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # JPEG 2000 takes 15 seconds for a file of 1 kB
READS = "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF are read here"
SAVE = "save or export it as JPEG"
RAW = "a camera's raw file"
DAMAGED = "This picture is cut off or damaged. Copy or download it again."
OVERBUILT = "This picture's file is built of more parts than can be looked at here. Save or export it as JPEG."
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
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture", SAVE),
        (rb"P[1-7]\s+[#\d]", "a PBM, PGM or PPM picture", SAVE),
        (rb"v/1\x01|#\?(RADIANCE|RGBE)", "a picture with a high dynamic range", SAVE),
        (rb"PK\x03\x04|PK\x05\x06", "a zip archive or a document", "“Many pictures” takes zips; otherwise, unpack it"),
        (rb"Rar!|7z\xbc\xaf|\x1f\x8b|BZh|\xfd7zXZ", "an archive", "unpack it"),
        (rb"....ftyp(?!avi[fs])|RIFF....AVI |\x1aE\xdf\xa3", "a video", "take one picture from it"),
        (rb"RIFF....WAVE|ID3|OggS|fLaC", "a recording of sound", "a picture is wanted"),
    )
]
OURS = re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|GIF8|BM|II\*\0|MM\0\*|....ftypavi[fs]", re.DOTALL)
TIFF_SUBFILE, TIFF_DNG = 254, 50706  # tags: "this is a small version of another picture", and Adobe's raw format


class _Room:
    """For so many pixels at once. Whoever does not fit in waits, and whoever comes later waits behind.

    Up to 16 bytes a pixel while a WebP is decoded, 4 to 8 for other pictures, 4 afterwards.
    """

    def __init__(self, pixels: int) -> None:
        self._free, self._turn, self._left = pixels, threading.Lock(), threading.Condition()

    @contextlib.contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        with self._turn, self._left:
            self._left.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            if pixels > LARGE:
                give_back()
            with self._left:
                self._free += pixels
                self._left.notify()


_room = _Room(MOST_PIXELS)


@contextlib.contextmanager
def opened(given: Path | bytes, name: str = "") -> Iterator[Image.Image]:
    """The picture in a file, or in its bytes: 8-bit RGB, turned as EXIF says, of an animation the first frame.

    It is closed in the end. Until then others may wait for its room: be short, and open no second one. A file's `name`
    only helps to tell what it is if it is no picture.

    Raises:
        UserError: there is none that we open; why, for whoever sent it, and what to do.
    """
    content = given if isinstance(given, bytes) else read_upload(given)
    with contextlib.ExitStack() as held:
        image = _decoded(content, name or (given.name if isinstance(given, Path) else ""), held)
        held.callback(image.close)
        yield image


def read_upload(path: Path) -> bytes:
    """An upload's bytes, no more of them than a picture may have.

    Raises:
        UserError: as `opened`.
    """
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise UserError("This is a folder. Choose the pictures in it, or pack them into a zip for “Many pictures”.")
        if not stat.S_ISREG(about.st_mode):
            raise UserError("This is no file. Choose a picture.")
        check_bytes(about.st_size)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError("The upload is not there any more. Choose the picture again.") from error


def _decoded(content: bytes, name: str, held: contextlib.ExitStack) -> Image.Image:
    """Its pixels have room for as long as `held` is.

    Raises:
        UserError: as `opened`.
    """
    check_bytes(len(content))
    try:
        check_parts(content)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_header(image, content)
            check_opened(image)
            held.enter_context(_room.of(image.width * image.height))
            try:
                return as_rgb(image)
            except BaseException:
                image.close()  # or the error holds its pixels
                raise
    except UserError:
        raise
    except Overbuilt as error:
        raise UserError(OVERBUILT) from error
    except (UnidentifiedImageError, KeyError) as error:  # the latter of a Pillow that knows no AVIF
        raise UserError(_foreign(content, name)) from error
    except Image.DecompressionBombError as error:
        found = re.search(r"\d{6,}", str(error))
        raise UserError(_too_many(int(found[0]) if found else None)) from error
    except MemoryError as error:
        raise UserError("This picture is too large for the memory of this machine. Make it smaller.") from error
    except Exception as error:  # Pillow's decoders raise anything from SyntaxError to struct.error
        raise UserError(DAMAGED) from error


def check_bytes(size: int) -> None:
    """Raise `UserError` for a file of so many bytes that it is no picture, or too large a one."""
    if not size:
        raise UserError("This file is empty. Copy or download it again.")
    if size > MOST_BYTES:
        raise UserError(too_large(size))


def too_large(size: int, most: int = MOST_BYTES) -> str:
    return f"This file has {size // MB:,} MB, and {most // MB} MB are the limit. Make it smaller."


def _check_header(image: Image.Image, content: bytes) -> None:
    """What is known before anything is decoded."""
    if image.width * image.height > MOST_PIXELS:
        raise UserError(_too_many(image.width * image.height))
    if min(image.size) < SMALLEST_SIDE:
        raise UserError(f"This picture is too small: {image.width} × {image.height} pixels. Choose a larger one.")
    if max(image.size) > MOST_SIDE:
        raise UserError(f"This picture is too narrow: {image.width:,} × {image.height:,} pixels. Cut a part out of it.")
    raw = next((what for start, what, _ in FOREIGN_KINDS if what == RAW and start.match(content)), None)
    if image.format == "TIFF" and (raw or TIFF_DNG in image.tag_v2 or image.tag_v2.get(TIFF_SUBFILE, 0) & 1):
        raise UserError(_sentence(RAW, SAVE))  # whose first picture is the small one of the camera's screen
    if image.mode in DEEP_MODES:
        raise UserError("This picture has 16 bits or more for a pixel, and a network sees 8. Save it with 8 bits.")


def _too_many(pixels: int | None) -> str:
    has = "has too many pixels"
    if pixels:  # as it says itself: no picture has a million megapixels
        has = f"has {pixels / 1e6:,.0f} megapixels" if pixels < 1e12 else "says that it has millions of megapixels"
    return f"This picture {has}, and {MOST_PIXELS // 1_000_000} are the limit. Make it smaller."


def _foreign(content: bytes, name: str) -> str:
    """What a file is that is no picture of ours."""
    for start, what, hint in FOREIGN_KINDS:
        if start.match(content[:4096]):
            return _sentence(what, hint)
    ending = Path(name).suffix.lower()
    if ending in FOREIGN or ending == ".tga":
        return _sentence(f"a file of a kind ({ending}) that browsers do not show either", SAVE)
    if OURS.match(content):
        return DAMAGED
    with contextlib.suppress(UnicodeDecodeError):
        if content[:1024].decode().isprintable() or b"\n" in content[:1024]:
            return _sentence("a text", "choose a picture")
    return f"This is not a picture, whatever its name says, or it is damaged; {READS}."


def _sentence(what: str, hint: str) -> str:
    return f"This is {what}, and {READS}: {hint}."
