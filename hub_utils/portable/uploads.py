"""What visitors give to a page: opened as `pipeline` opens it, or refused in a sentence, within limits.

Anybody may send anything. Whatever comes as a path goes through one door, `uploaded`. A file's size is asked before it
is read, and a picture's before it is decoded; only decoders of formats in everyday use are let near it (Pillow knows
forty, one of which starts Ghostscript). No crowd of pictures fills the memory: there is `_room` for so many pixels.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import stat
import threading
from abc import ABCMeta
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr
from gradio.data_classes import ImageData, ListFiles
from gradio.utils import get_upload_folder, is_in_or_equal
from PIL import Image, UnidentifiedImageError

from hub_utils.portable.answer_html import as_sentence
from hub_utils.portable.command import UserError
from hub_utils.portable.file_parts import MOST_SIDE, Overbuilt, check_opened, check_parts
from hub_utils.portable.image_files import DEEP_MODES, FOREIGN, SMALLEST_SIDE, as_rgb
from hub_utils.portable.network import give_back

MB = 1_000_000
MOST_BYTES = 50 * MB  # of a picture's file
MOST_PIXELS = 100_000_000  # of a picture, or of several at once; Pillow itself ends at 179
MOST_PICTURES = 1_000  # at once
MOST_UPLOAD = 500 * MB  # of any file: this is what a zip may have, and what `launch(max_file_size=…)` refuses above
MOST_UNPACKED = 2_000 * MB  # of all that comes out of the zips

LARGE = 10_000_000  # pixels; once such a picture is answered, its memory is given back
LONG_NAME = 300  # letters of a file's name that are kept

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # JPEG 2000 takes 15 seconds for a file of 1 kB
KINDS = "An image file: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF."
READS = "this page reads JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF"
SAVE = "save or export it as JPEG"
RAW = "a camera's raw file"
DAMAGED = "This picture is cut off or damaged. Copy or download it again."
OVERBUILT = "This picture's file is built of more parts than can be looked at here. Save or export it as JPEG."
LOST = "This file did not get here: it was not sent, or the connection broke. Give it again."
NOTHING = "Nothing was given. Choose a picture."
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


class _WithoutStub(type(gr.Image)):
    """gradio's own writes a stub file, `uploads.pyi`, beside any module that derives from a component."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> type:
        return ABCMeta.__new__(cls, name, bases, attributes)


class _Unremembered:
    """What is asked, as gradio holds it: whatever its size, it keeps a copy for each of 10,000 visitors, of this."""

    def model_dump(self, **how: Any) -> dict[str, Any]:
        return {}


class _OnePicture(_Unremembered, ImageData):
    model_config: ClassVar[dict] = {"title": "ImageData", "json_schema_extra": {"description": KINDS}}


class _ManyFiles(_Unremembered, ListFiles):
    model_config: ClassVar[dict] = {"title": "ListFiles"}


class _Unmoved:
    """gradio fetches addresses, copies files from elsewhere, and remembers what to delete, even folders: not here."""

    async def async_move_resource_to_block_cache(self, path: str) -> str:
        return path


class Picture(_Unmoved, gr.Image, metaclass=_WithoutStub):
    """A `gr.Image` that hands on an upload unopened, for `opened`: gradio's own would open whatever is in it."""

    data_model = _OnePicture

    def preprocess(self, payload: ImageData | None) -> Path | bytes:
        """The file; or the bytes of a picture that stands in the request itself."""
        with told_to_clients():
            if payload is None or not (payload.path or payload.url):
                raise UserError(NOTHING)
            return uploaded(payload.path) if payload.path else _in_request(payload.url)

    def example_payload(self) -> Any:
        return {"path": "picture.jpg", "meta": {"_type": "gradio.FileData"}}  # gradio's own lies on another host

    def get_block_name(self) -> str:
        return "image"  # gradio draws a component by this name


class Files(_Unmoved, gr.File, metaclass=_WithoutStub):
    """A `gr.File` of several that hands on the names as visitors have them, each with its file or why it has none."""

    @property
    def data_model(self) -> type[ListFiles]:
        return _ManyFiles

    @data_model.setter
    def data_model(self, value: type) -> None:
        """gradio sets its own."""

    def preprocess(self, payload: ListFiles | None) -> list[tuple[str, Path | str]]:
        return [
            (whole_letters(each.orig_name or Path(each.path).name)[-LONG_NAME:], uploaded_or_why(each.path))
            for each in payload or ()
        ]

    def get_block_name(self) -> str:
        return "file"


@contextlib.contextmanager
def told_to_clients() -> Iterator[None]:
    """A `UserError` as gradio tells it to those who ask an endpoint."""
    try:
        yield
    except UserError as error:
        raise gr.Error(as_sentence(str(error)), print_exception=False) from error


def asked(event: gr.EventData) -> dict[str, Any]:
    """What the browser says of an event; anybody may say anything, even halves of letters, which break an answer."""
    if not isinstance(event._data, dict):
        return {}
    try:
        return json.loads(whole_letters(json.dumps(event._data, ensure_ascii=False)))
    except (ValueError, RecursionError):
        return {}


def whole_letters(text: str) -> str:
    """With a question mark for each half of a letter, as JSON and the names of old files may have them."""
    return text.encode(errors="replace").decode()


def uploaded(path: Any) -> Path:
    """The door: the file that somebody says to have uploaded. No other file of this machine is opened, or deleted.

    Raises:
        UserError: it is no file in the folder of uploads.
    """
    with contextlib.suppress(OSError, ValueError):  # a name that is too long, or has a zero in it
        if isinstance(path, str) and is_in_or_equal(path, get_upload_folder()) and Path(path).is_file():
            return Path(path)
    raise UserError(LOST)


def uploaded_or_why(path: Any, size: Any = None, most: int = MOST_BYTES) -> Path | str:
    """The same, or in a sentence why not; a file of more than `most` bytes was not even sent."""
    if isinstance(size, int) and size > most:
        return too_large(min(size, 10**15), most)
    try:
        return uploaded(path)
    except UserError as error:
        return str(error)


def forget(path: Path) -> None:
    """Delete an upload; what cannot be deleted now, the sweeper of its folder will."""
    with contextlib.suppress(OSError):
        path.unlink()


def _in_request(url: str) -> bytes:
    data, _, content = url.partition(";base64,")
    if not data.startswith("data:"):
        raise UserError(LOST)  # nor is it fetched from wherever it is
    _check_bytes(len(content) * 3 // 4)
    try:
        return base64.b64decode(content)
    except ValueError as error:
        raise UserError(DAMAGED) from error


def limits_in_words(many: bool = False) -> str:
    """What is accepted, as pages say it; `many` at once."""
    one = f"up to {MOST_BYTES // MB} MB and {MOST_PIXELS // 1_000_000} megapixels"
    if not many:
        return f"JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF, {one}."
    return (
        f"Up to {MOST_PICTURES:,} pictures at once, as files or in zips of up to {MOST_UPLOAD // MB} MB "
        f"({MOST_UNPACKED // MB // 1000} GB unpacked); each a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF, {one}."
    )


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
        _check_bytes(about.st_size)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError("The upload is not there any more. Choose the picture again.") from error


def _decoded(content: bytes, name: str, held: contextlib.ExitStack) -> Image.Image:
    """Its pixels have room for as long as `held` is.

    Raises:
        UserError: as `opened`.
    """
    _check_bytes(len(content))
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
