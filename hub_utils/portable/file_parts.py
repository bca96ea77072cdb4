"""What a picture's file is built of, counted before Pillow reads it.

A file of a megabyte can name the same bytes ten thousand times, or hold a million comments. Pillow takes all of it in,
for minutes, or until there is no memory left, before it knows a pixel. What cameras and programs write is far from the
limits here.
"""

from __future__ import annotations

import re
import struct
from typing import IO

from PIL import Image, TiffImagePlugin

MB = 1_000_000
MOST_SEGMENTS = 10_000  # of a JPEG before its pixels, and of Photoshop's parts in them ten for each
MOST_PASSES = 50  # of a progressive JPEG: ten are usual, and each takes a tenth of a second at 100 megapixels
MOST_EXIF = 2 * MB  # bytes in a JPEG, which has no room for more than 65,533 by the standard
MOST_CHUNKS = 100_000  # of a PNG
MOST_BLOCKS = 1_000_000  # of a GIF, of up to 255 bytes each
MOST_COMMENTS = 2_000  # of a GIF, which Pillow strings together one by one
MOST_COMMENT_BYTES = MB
MOST_JUNK = MB  # bytes between parts of a JPEG or GIF, which Pillow looks at one by one
MOST_NUMBERS = MB  # bytes of tags that are numbers: Pillow makes a few hundred bytes of some of them
MOST_RUNS = 3 * MB  # bytes of a BMP in runs, which Pillow unpacks in Python, …
MOST_RUN_PIXELS = 10_000_000  # … and its pixels, …
WIDEST_RUNS = 1 << 16  # … and a row: two bytes may skip 255 of them
MOST_SIDE = 200_000  # pixels; Pillow and its decoders keep lists of rows
LARGEST_TILE = 20_000_000  # pixels of a TIFF's tile, which is unpacked whole, however small the picture is

PADDING = re.compile(rb"\xff+")
AMONG_PIXELS = re.compile(rb"\xff+(?=[^\0\xd0-\xd7\xff])")
START_OF_PASS, END = 0xDA, 0xD9
BARE = frozenset([0x00, *range(0xD0, 0xDA)])  # markers of a JPEG without a length
BYTES = (1, 2, 7)  # types of tags that stay the bytes that they are


class Overbuilt(ValueError):
    """A file of more parts than any camera or program makes."""


def check_parts(content: bytes) -> None:
    """A look at a picture's file, whatever its format; what is damaged is left to Pillow to find.

    Raises:
        Overbuilt: so it is.
    """
    if content.startswith(b"\xff\xd8\xff"):
        _check_jpeg(content)
    elif content.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(content)
    elif content.startswith(b"GIF8"):
        _check_gif(content)
    elif content.startswith(b"BM"):
        _check_bmp(content)


def check_opened(image: Image.Image) -> None:
    """A look at an image that is open and not yet decoded.

    Raises:
        Overbuilt: one side is absurdly long, or its tiles are far larger than itself.
    """
    if max(image.size) > MOST_SIDE:
        raise Overbuilt(f"{image.width} × {image.height} pixels")
    if image.format == "TIFF":
        tile = image.tag_v2.get(322, 0) * image.tag_v2.get(323, 0)
        if tile > max(LARGEST_TILE, 4 * image.width * image.height):
            raise Overbuilt(f"tiles of {tile} pixels")


def _check_jpeg(content: bytes) -> None:
    """Up to its end: what follows, as the film in a moving photo, is not looked at."""
    at, junk, exif, passes = 2, 0, 0, 0
    for _ in range(MOST_SEGMENTS):
        padding = (AMONG_PIXELS if passes else PADDING).search(content, at)
        if padding is None or padding.end() == len(content):
            return
        junk += 0 if passes else padding.end() - at - 1
        marker, at = content[padding.end()], padding.end() + 1
        passes += marker == START_OF_PASS
        if marker == END and passes:
            return
        if marker not in BARE:
            length = int.from_bytes(content[at : at + 2], "big")
            exif += length if content.startswith(b"Exif\0\0", at + 2) else 0
            at += max(length, 2)
        if passes == 1 and content.count(b"8BIM", 0, at) > 10 * MOST_SEGMENTS:
            raise Overbuilt("parts of Photoshop without end")
        if junk > MOST_JUNK or exif > MOST_EXIF or passes > MOST_PASSES:
            raise Overbuilt(f"more than {MOST_PASSES} passes" if passes else "too much before its pixels")
    raise Overbuilt("segments without end")


def _check_png(content: bytes) -> None:
    at = 8
    for _ in range(MOST_CHUNKS):
        kind = content[at + 4 : at + 8]
        if len(kind) < 4 or kind == b"IEND":
            return
        at += 12 + int.from_bytes(content[at : at + 4], "big")
    raise Overbuilt("chunks without end")


def _check_gif(content: bytes) -> None:
    at, blocks, junk, comments, comment_bytes = 13 + _palette(content, 10), 0, 0, 0, 0
    while at < len(content) and content[at] != 0x3B:  # its end
        begin, what = at, content[at : at + 2]
        if what[0] == 0x2C:  # a picture
            at += 11 + _palette(content, at + 9)
        elif what[0] == 0x21:  # an extension
            at += 2
        else:
            at, junk = at + 1, junk + 1
            if junk > MOST_JUNK:
                raise Overbuilt("too much between its parts")
            continue
        while at < len(content) and content[at]:
            at, blocks = at + 1 + content[at], blocks + 1
        at, blocks = at + 1, blocks + 1
        if what[0] == 0x21 and what != b"\x21\xf9":  # which tells how long a picture is shown, before each
            comments, comment_bytes = comments + 1, comment_bytes + at - begin
        if blocks > MOST_BLOCKS or comments > MOST_COMMENTS or comment_bytes > MOST_COMMENT_BYTES:
            raise Overbuilt("comments or blocks without end")


def _palette(content: bytes, at: int) -> int:
    """How many bytes a palette has by the flags at this place."""
    flags = content[at] if at < len(content) else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _check_bmp(content: bytes) -> None:
    with_length = struct.Struct("<IiiHHI")  # bytes of the header, width, height, planes, bits, kind of packing
    if len(content) < 14 + with_length.size:
        return
    header, width, height, _, _, packing = with_length.unpack_from(content, 14)
    if header < 40 or packing not in (1, 2):
        return
    pixels = abs(width * height)
    if len(content) > MOST_RUNS or pixels > MOST_RUN_PIXELS or abs(width) > WIDEST_RUNS:
        raise Overbuilt("runs without end")


class _Counted:
    """A file of which no more than `left` bytes are read, however often."""

    def __init__(self, file: IO[bytes], left: int) -> None:
        self.file, self.seek, self.tell, self.left = file, file.seek, file.tell, left

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise Overbuilt("tags that name the same bytes again and again")
        return content


def _size(file: IO[bytes]) -> int:
    here = file.tell()
    size = file.seek(0, 2)
    file.seek(here)
    return size


def _load_counted(tags: TiffImagePlugin.ImageFileDirectory_v2, file: IO[bytes]) -> None:
    """As Pillow's, which copies each tag, however many share their bytes; over all pages of a file together."""
    counted = _Counted(file, tags.__dict__.get("left", 4 * _size(file) + 65_536))
    _load(tags, counted)
    tags.left = counted.left
    numbers = sum(len(data) for tag, data in tags._tagdata.items() if tags.tagtype[tag] not in BYTES)
    if numbers > MOST_NUMBERS:
        raise Overbuilt("numbers without end in its tags")


# For TIFF, and for EXIF data in any file: some decoders ask for them while they open it.
_load = TiffImagePlugin.ImageFileDirectory_v2.load
TiffImagePlugin.ImageFileDirectory_v2.load = _load_counted
