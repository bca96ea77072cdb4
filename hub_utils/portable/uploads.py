"""What visitors give to a page: files, that is, and how they came. `pictures.py` opens what is in them.

Anybody may send anything. Whatever comes as a path goes through one door, `uploaded`.
"""

from __future__ import annotations

import base64
import contextlib
import json
from abc import ABCMeta
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr
from gradio.data_classes import ImageData, ListFiles
from gradio.utils import get_upload_folder, is_in_or_equal

from hub_utils.portable.answer_html import as_sentence
from hub_utils.portable.command import UserError
from hub_utils.portable.pictures import DAMAGED, MB, MOST_BYTES, MOST_PIXELS, check_bytes, too_large

MOST_PICTURES = 1_000  # at once
MOST_UPLOAD = 500 * MB  # of any file: this is what a zip may have, and what `launch(max_file_size=…)` refuses above
MOST_UNPACKED = 2_000 * MB  # of all that comes out of the zips

LONG_NAME = 300  # letters of a file's name that are kept

KINDS = "An image file: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF."
LOST = "This file did not get here: it was not sent, or the connection broke. Give it again."
NOTHING = "Nothing was given. Choose a picture."


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
    check_bytes(len(content) * 3 // 4)
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
