"""An image file without what its camera, its editor or its author wrote into it, and the same picture.

JPEG and PNG lose segments and chunks: what is left is byte for byte as it was, and so is every pixel. Kept is what the
picture is made of: coefficients, palette, transparency, gamma, resolution, and JPEG's JFIF and Adobe headers, of which
only the fields that decoders need. Colour profiles go: they name people, screens and dates, and neither `open_rgb` nor
`pipeline` heeds them; a browser may show the colours a little paler. A JPEG that EXIF turns is turned for good, that is
encoded anew: with its own quantisation tables, turned as well, so that little is lost, a level of 255 or less, where
the sides are multiples of 8 or 16, as cameras have them. Elsewhere the blocks of 8 × 8 pixels fall in other places, two
to six levels would go, and the picture becomes PNG. Every other format, and CMYK that is to be turned, becomes a PNG of
exactly what `open_rgb` sees: the first frame, 8-bit RGB.

No way is trusted: the result is decoded and compared, and Pillow, which reads metadata by code of its own, is asked
for any that is left. What fails becomes PNG from its pixels alone.

What is in the pixels stays: faces, name plates, a patient's name burnt into a scan. So do bytes that somebody hid in a
JPEG's compressed scan, behind its last block: only decoding it bit by bit would tell. A PNG's pixels end where their
number says, and what comes behind them goes.
"""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin

from training.data.images import open_rgb

HOW = {
    "as it was": "nothing to remove",
    "stripped": "metadata removed, every pixel as it was",
    "turned": "turned as EXIF says, encoded anew with its own quantisation tables",
    "png": "saved anew as PNG of what a network sees, 8-bit RGB",
}
KINDS = ("GPS", "EXIF", "XMP", "IPTC", "text", "colour profile", "thumbnail", "frames", "trailing bytes", "other")
TURNED = 1.5  # levels of 255: mean difference up to which a turned JPEG is the same picture

SOI, EOI, SOS = b"\xff\xd8", b"\xff\xd9", 0xDA
PICTURE = {*range(0xC0, 0xD0), *range(0xDA, 0xE0)}  # frames, scans and tables; between them lie RSTn, SOI and EOI
SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
JPEG_KINDS = (  # marker, how the segment begins, what it is
    (0xE0, b"JFXX\0", "thumbnail"),
    (0xE1, b"Exif\0", "EXIF"),
    (0xE1, b"http://ns.adobe.com/", "XMP"),
    (0xE2, b"ICC_PROFILE\0", "colour profile"),
    (0xE2, b"MPF\0", "frames"),
    (0xED, b"Photoshop", "IPTC"),
    (0xFE, b"", "text"),
)

PNG = b"\x89PNG\r\n\x1a\n"
CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"sBIT", b"pHYs"}
PNG_KINDS = {b"eXIf": "EXIF", b"iCCP": "colour profile", b"acTL": "frames", b"fcTL": "frames", b"fdAT": "frames"}
PNG_KINDS |= dict.fromkeys((b"tEXt", b"zTXt", b"iTXt", b"tIME", b"sPLT"), "text")
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's pixel, by its kind of colour
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

HARMLESS = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "adobe", "adobe_transform"}
HARMLESS |= {"progressive", "progression", "gamma", "srgb", "chromaticity", "transparency", "interlace", "aspect"}
TIFF_WORDS = {270, 271, 272, 285, 305, 306, 315, 316, 33432, 34665, 37500, *range(40091, 40096)}  # and names, and dates
GPS, XMP, IPTC = 34853, 700, 33723  # tags of EXIF and TIFF


@dataclass(frozen=True, slots=True)
class Stripped:
    """The bytes to publish; `how` is a key of `HOW`, and `found` are those of `KINDS` that are in them no more."""

    content: bytes
    how: str
    found: frozenset[str]


def strip(content: bytes) -> Stripped:
    """An image file that `look` has no objection to, without metadata.

    Raises:
        Exception: whatever Pillow raises on a file that it cannot open.
    """
    before = np.asarray(open_rgb(content))
    with Image.open(io.BytesIO(content)) as image:
        jpeg, turned = image.format in ("JPEG", "MPO"), image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        found = _found(image)
        lossless = _bare_jpeg if jpeg else _bare_png if image.format == "PNG" else None
    if lossless:
        try:
            bare, dropped = lossless(content)
            found |= dropped
            if turned and jpeg:
                bare = _turned(content)
            if _is_bare(bare) and _is_same(before, bare, TURNED if turned and jpeg else 0):
                how = "turned" if turned and jpeg else "as it was" if bare == content else "stripped"
                return Stripped(bare, how, frozenset(found))
        except Exception:  # not as its format says, in one of many ways; its pixels are good all the same
            pass
    encoded = io.BytesIO()
    Image.fromarray(before).save(encoded, "PNG")
    if not _is_bare(encoded.getvalue()) or not _is_same(before, encoded.getvalue(), 0):
        raise RuntimeError("Pillow's PNG holds more than the picture, or another one")
    return Stripped(encoded.getvalue(), "png", frozenset(found))


def _found(image: Image.Image) -> set[str]:
    """Kinds of metadata, as Pillow reads them."""
    found = set()
    exif, xmp = image.getexif(), image.info.get("xmp", b"")
    tags = set(exif)
    if GPS in tags or b"GPSLatitude" in (xmp if isinstance(xmp, bytes) else xmp.encode()):
        found.add("GPS")
    if tags & (TIFF_WORDS | {GPS}) if image.format == "TIFF" else tags:
        found.add("EXIF")
    if exif.get_ifd(ExifTags.IFD.IFD1) and image.format != "TIFF":
        found.add("thumbnail")
    if xmp or XMP in tags:
        found.add("XMP")
    if IPTC in tags:
        found.add("IPTC")
    if image.info.get("icc_profile"):
        found.add("colour profile")
    if image.info.get("comment") or getattr(image, "text", None):
        found.add("text")
    if getattr(image, "n_frames", 1) > 1:
        found.add("frames")
    return found


def _bare_jpeg(content: bytes) -> tuple[bytes, set[str]]:
    """The segments that make the picture, up to its end, and kinds of what else there was.

    Raises:
        ValueError: the file is not built as ISO 10918-1 says.
    """
    if content[:2] != SOI:
        raise ValueError("no JPEG")
    kept, found, at = [SOI], set(), 2
    while content[at : at + 2] != EOI:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4])
        if marker == 0xFF:  # a byte to fill
            at += 1
            continue
        body = content[at + 4 : at + 2 + length]
        if content[at] != 0xFF or len(body) != length - 2:
            raise ValueError("no segment where one should be")
        short, kind = _segment(marker, body)
        if kind:
            found.add(kind)
        if short is not None:
            kept.append(bytes((0xFF, marker)) + (len(short) + 2).to_bytes(2) + short)
        at += 2 + length
        if marker == SOS:
            end = SCAN_END.search(content, at)
            if end is None:
                raise ValueError("cut off")
            kept.append(content[at : end.start()])
            at = end.start()
    if len(content) > at + 2:
        found.add("trailing bytes")
    return b"".join([*kept, EOI]), found


def _segment(marker: int, body: bytes) -> tuple[bytes | None, str | None]:
    """What stays of a segment, and the kind of what does not."""
    if marker in PICTURE:
        return body, None
    if marker == 0xE0 and body.startswith(b"JFIF\0"):  # version, unit and density, and then a thumbnail
        return body[:12] + b"\0\0", "thumbnail" if len(body) > 14 else None
    if marker == 0xEE and body.startswith(b"Adobe"):
        return body[:12], "other" if len(body) > 12 else None
    kinds = (kind for number, start, kind in JPEG_KINDS if number == marker and body.startswith(start))
    return None, next(kinds, "other")


def _bare_png(content: bytes) -> tuple[bytes, set[str]]:
    """The same of a PNG.

    Raises:
        ValueError: the file is not built as ISO 15948 says.
    """
    kept, found, at, name = [], set(), len(PNG), b""
    while name != b"IEND":
        end, name = at + 12 + int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        if len(name) < 4 or end > len(content):
            raise ValueError("cut off")
        if name in CHUNKS:
            kept.append((name, content[at:end]))
        else:
            found.add(PNG_KINDS.get(name, "other"))
        at = end
    if len(content) > at:
        found.add("trailing bytes")
    data = b"".join(chunk[8:-4] for name, chunk in kept if name == b"IDAT")
    pixels, more = _png_pixels(kept[0][1][8:-4], data)
    if more:
        found.add("trailing bytes")
        body, first = b"IDAT" + zlib.compress(pixels), [name for name, _ in kept].index(b"IDAT")
        kept = [each for each in kept if each[0] != b"IDAT"]
        kept.insert(first, (b"IDAT", (len(body) - 4).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)))
    return b"".join([PNG, *(chunk for _, chunk in kept)]), found


def _png_pixels(header: bytes, data: bytes) -> tuple[bytes, bool]:
    """The rows of a PNG before they were compressed, as many as its header says, and whether anything follows them.

    Raises:
        ValueError: there are fewer.
    """
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    bits = header[8] * SAMPLES[header[9]]
    passes = [(-((x - width) // right), -((y - height) // down)) for x, y, right, down in ADAM7]
    length = sum(
        rows * (1 + (columns * bits + 7) // 8)  # each begins with the number of its filter
        for columns, rows in (passes if header[12] else [(width, height)])
        if columns
    )
    stream = zlib.decompressobj()
    pixels = stream.decompress(data, length + 1)
    if len(pixels) < length:
        raise ValueError("cut off")
    return pixels[:length], len(pixels) > length or not stream.eof or bool(stream.unused_data)


def _turned(content: bytes) -> bytes:
    """A JPEG in grey or colour turned as its EXIF says, with its own quantisation tables.

    Where rows become columns the tables are transposed with the picture: then each block gets its own coefficients
    back, but for rounding.

    Raises:
        ValueError: it is of another kind.
    """
    with Image.open(io.BytesIO(content)) as image:
        if image.mode not in ("L", "RGB"):
            raise ValueError(f"mode {image.mode}")
        tables = [np.reshape(table, (8, 8)) for _, table in sorted(image.quantization.items())]
        if image.getexif()[ExifTags.Base.Orientation] >= 5:
            tables = [table.T for table in tables]
        sampling = JpegImagePlugin.get_sampling(image)  # 4:2:2 has no name in Pillow once it is turned
        how = {"qtables": [table.ravel().tolist() for table in tables], "subsampling": 2 if sampling == 2 else 0}
        # From an array: Pillow would write the comment and the colour profile along.
        encoded = io.BytesIO()
        Image.fromarray(np.asarray(ImageOps.exif_transpose(image))).save(encoded, "JPEG", **how)
    return encoded.getvalue()


def _is_same(before: np.ndarray, content: bytes, tolerance: float) -> bool:
    """Whether `open_rgb` sees the same picture, up to a mean difference of `tolerance` levels."""
    after = np.asarray(open_rgb(content))
    if after.shape != before.shape or not tolerance:
        return np.array_equal(before, after)
    return bool(np.abs(before.astype(np.int16) - after).mean() <= tolerance)


def _is_bare(content: bytes) -> bool:
    """Whether Pillow finds a JPEG or PNG of one picture with nothing written into it."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()  # a PNG may have text behind its pixels
        bare = not image.getexif() and not getattr(image, "text", None) and getattr(image, "n_frames", 1) == 1
        return bare and image.format in ("JPEG", "PNG") and set(image.info) <= HARMLESS
