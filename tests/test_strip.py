"""An image file loses what was written into it, and no pixel; where that cannot be, it becomes a PNG of its pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from conftest import scene
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from training.data import strip as module
from training.data.images import look, open_rgb
from training.data.strip import HOW, KINDS, strip

SECRET = "patient-4711"
COLOUR = Image.fromarray(np.dstack([scene(seed, 90, 122) for seed in range(3)]))
SOFT = np.clip(scene(3, 96, 128)[..., None] + 40 * np.sin(np.linspace(0, 3, 128))[:, None] * [1, 0, -1], 0, 255)
PHOTO = Image.fromarray(SOFT.astype("uint8"))  # sides that are multiples of 16, as cameras have them
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif(orientation: int | None = None) -> Image.Exif:
    """Author, camera and place."""
    facts = Image.Exif()
    facts[0x013B], facts[0x010F] = SECRET, "Camera"
    facts.get_ifd(0x8825)[1], facts.get_ifd(0x8825)[2] = "N", (52.0, 31.0, 12.0)
    if orientation:
        facts[0x0112] = orientation
    return facts


def with_thumbnail() -> bytes:
    """EXIF data with a second directory, in which a thumbnail is."""
    thumbnail = saved(COLOUR.resize((16, 12)), "JPEG", comment=SECRET)
    first = struct.pack("<HHHIII", 1, 0x013B, 2, len(SECRET) + 1, 26, 0)[:14] + struct.pack("<I", 40)
    second = (
        struct.pack("<H", 2) + struct.pack("<HHII", 513, 4, 1, 70) + struct.pack("<HHII", 514, 4, 1, len(thumbnail))
    )
    return b"Exif\0\0II*\0\x08\0\0\0" + first + SECRET.encode().ljust(14, b"\0") + second + bytes(4) + thumbnail


def saved(image: Image.Image, kind: str, **how) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2) + body


def full(jpeg: bytes) -> bytes:
    """A JPEG with all that people write into one."""
    assert jpeg[2:4] == b"\xff\xe0" and jpeg[6:11] == b"JFIF\0"
    secret = SECRET.encode()
    place = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta exif:GPSLatitude='52,31N'>" + secret
    jfif = segment(0xE0, jpeg[6:18] + bytes((2, 1)) + b"abcdef")
    return b"".join(
        [
            jpeg[:2], jfif, segment(0xE0, b"JFXX\0\x13" + secret), segment(0xE1, with_thumbnail()),
            segment(0xE1, place), segment(0xED, b"Photoshop 3.0\0" + secret), segment(0xE7, secret), b"\xff\xff",
            segment(0xFE, secret), jpeg[20:-2], segment(0xFE, secret), jpeg[-2:], b"a film: " + secret,
        ]
    )  # fmt: skip


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(open_rgb(content))


def check(content: bytes, how: str) -> module.Stripped:
    """What became of it, once it is sure that no word and, unless it was turned, no pixel is another one."""
    assert look(content).reason is None
    result = strip(content)
    assert result.how == how in HOW and result.found <= set(KINDS)
    for word in (SECRET, "Camera", "Exif", "xmpmeta", "Photoshop", "tEXt", "eXIf", "MPF"):
        assert word.encode() not in result.content
    if how != "turned":
        assert np.array_equal(pixels(content), pixels(result.content))
    assert result.content.endswith((b"\xff\xd9", b"IEND\xaeB`\x82"))
    assert strip(result.content) == module.Stripped(result.content, "as it was", frozenset())
    return result


JPEGS = {
    "baseline": COLOUR,
    "progressive": COLOUR,
    "grey": COLOUR.convert("L"),
    "4:4:4": COLOUR,
    "restarts": COLOUR,
}
FLAGS = {"progressive": {"progressive": True}, "4:4:4": {"subsampling": 0}, "restarts": {"restart_marker_rows": 1}}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_loses_its_metadata_and_keeps_every_coefficient(kind):
    plain = saved(JPEGS[kind], "JPEG", **FLAGS.get(kind, {}))
    assert check(plain, "as it was").content == plain
    result = check(full(saved(JPEGS[kind], "JPEG", icc_profile=ICC, **FLAGS.get(kind, {}))), "stripped")
    assert result.content == plain
    assert result.found == set(KINDS) - {"frames"}


def test_a_jpeg_of_four_colours_keeps_them():
    full = saved(COLOUR.convert("CMYK"), "JPEG", comment=SECRET, exif=exif(), icc_profile=ICC)
    result = check(full, "stripped")
    assert Image.open(io.BytesIO(result.content)).mode == "CMYK"
    assert {"text", "EXIF", "GPS", "colour profile"} <= result.found
    check(saved(COLOUR.convert("CMYK"), "JPEG", exif=exif(6)), "png")


def test_texts_between_the_scans_of_a_progressive_jpeg_go():
    plain = saved(COLOUR, "JPEG", progressive=True)
    second = plain.index(b"\xff\xda", plain.index(b"\xff\xda") + 2)
    written = plain[:second] + segment(0xFE, SECRET.encode()) + plain[second:]
    assert check(written, "stripped").content == plain


def test_the_second_picture_of_a_telephone_goes():
    other = Image.fromarray(np.dstack([scene(9, 90, 122)] * 3))
    content = saved(COLOUR, "MPO", save_all=True, append_images=[other], exif=exif())
    result = check(content, "stripped")
    assert {"frames", "trailing bytes", "EXIF", "GPS"} <= result.found
    with Image.open(io.BytesIO(result.content)) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("JPEG", 1)
    assert len(result.content) < len(content) * 0.7


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_jpeg_is_turned_for_good_and_hardly_changed(orientation, subsampling):
    content = saved(PHOTO, "JPEG", quality=90, subsampling=subsampling, exif=exif(orientation), icc_profile=ICC)
    result = check(content, "turned")
    before, after = pixels(content), pixels(result.content)
    assert before.shape == after.shape == ((128, 96, 3) if orientation >= 5 else (96, 128, 3))
    assert np.abs(before.astype(int) - after).mean() < (0.2 if subsampling == 0 else 1)
    with Image.open(io.BytesIO(result.content)) as image, Image.open(io.BytesIO(content)) as original:
        assert not image.getexif() and "icc_profile" not in image.info
        turn = np.transpose if orientation >= 5 else np.asarray
        for number, table in original.quantization.items():
            assert np.array_equal(turn(np.reshape(table, (8, 8))), np.reshape(image.quantization[number], (8, 8)))
    assert len(result.content) < 1.3 * len(content)


def test_a_turned_jpeg_whose_blocks_fall_elsewhere_becomes_a_png():
    """Its sides are no multiples of 8, so that turned it would lose as much again as when it was first saved."""
    assert pixels(check(saved(COLOUR, "JPEG", quality=75, exif=exif(6)), "png").content).shape == (122, 90, 3)


def text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", SECRET)
    info.add_text("Comment", SECRET, zip=True)
    info.add_itxt("XML:com.adobe.xmp", f"<x:xmpmeta>{SECRET}")
    info.add(b"tIME", struct.pack(">HBBBBB", 2026, 11, 20, 1, 2, 3))
    info.add(b"prVt", SECRET.encode())
    return info


PNGS = {
    "colour": COLOUR,
    "grey": COLOUR.convert("L"),
    "palette": COLOUR.quantize(16),
    "alpha": COLOUR.convert("RGBA"),
    "bits": COLOUR.convert("1"),
}


@pytest.mark.parametrize("kind", PNGS)
def test_a_png_loses_its_words_and_keeps_its_pixels_and_their_kind(kind):
    how = {"transparency": 3} if kind == "palette" else {}
    plain = saved(PNGS[kind], "PNG", dpi=(300, 300), **how)
    assert check(plain, "as it was").content == plain
    content = saved(PNGS[kind], "PNG", icc_profile=ICC, dpi=(300, 300), pnginfo=text(), exif=exif(), **how)
    result = check(content + SECRET.encode(), "stripped")
    assert result.content == plain
    assert {"text", "EXIF", "GPS", "XMP", "colour profile", "other", "trailing bytes"} <= result.found


def profile() -> bytes:
    """A profile as calibration writes it: with somebody's screen in it."""
    made = bytearray(ICC)
    at = made.index(b"sRGB built-in".decode().encode("utf-16-be"))
    made[at : at + 2 * len(SECRET)] = SECRET.encode("utf-16-be")
    return bytes(made)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_colour_profile_goes_with_whom_it_names_and_no_pixel_changes(kind):
    content = saved(COLOUR, kind, icc_profile=profile())
    result = check(content, "stripped" if kind in ("JPEG", "PNG") else "png")
    assert result.found == {"colour profile"}
    assert "icc_profile" not in Image.open(io.BytesIO(result.content)).info


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4])
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    sealed = (len(body).to_bytes(4) + name + body + zlib.crc32(name + body).to_bytes(4) for name, body in parts)
    return b"".join([module.PNG, *sealed])


def hidden(png: bytes, change) -> bytes:
    """The PNG with another stream of pixels, in two chunks."""
    parts = chunks(png)
    data = change(b"".join(body for name, body in parts if name == b"IDAT"))
    others = [part for part in parts if part[0] != b"IDAT"]
    return png_of([*others[:-1], (b"IDAT", data[:100]), (b"IDAT", data[100:]), others[-1]])


def interlaced() -> bytes:
    """COLOUR in seven passes, which Pillow reads and cannot write."""
    array, raw = np.asarray(COLOUR), b""
    for x, y, right, down in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        raw += b"".join(b"\0" + row.tobytes() for row in array[y::down, x::right])
    header = COLOUR.width.to_bytes(4) + COLOUR.height.to_bytes(4) + bytes((8, 2, 0, 0, 1))
    return png_of([(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")])


@pytest.mark.parametrize("kind", [*PNGS, "interlaced"])
def test_bytes_behind_a_pngs_pixels_go_and_the_pixels_stay(kind):
    """Behind the compressed stream, and in it, below the last row."""
    plain = interlaced() if kind == "interlaced" else saved(PNGS[kind], "PNG")
    assert np.array_equal(pixels(plain), np.asarray(PNGS.get(kind, COLOUR).convert("RGB")))
    assert check(plain, "as it was").content == plain
    assert check(hidden(plain, lambda data: data), "as it was").found == frozenset()
    for change in (
        lambda data: data + SECRET.encode(),
        lambda data: zlib.compress(zlib.decompress(data) + SECRET.encode(), 0),
        lambda data: zlib.compress(zlib.decompress(data)) + zlib.compress(SECRET.encode(), 0),
    ):
        result = check(hidden(plain, change), "stripped")
        assert result.found == {"trailing bytes"}
        with Image.open(io.BytesIO(result.content)) as image, Image.open(io.BytesIO(plain)) as original:
            assert image.mode == original.mode and np.array_equal(np.asarray(image), np.asarray(original))


def test_a_png_that_exif_turns_and_an_animated_one():
    content = saved(COLOUR, "PNG", exif=exif(6))
    assert pixels(check(content, "png").content).shape == (122, 90, 3)
    others = [COLOUR.rotate(90), COLOUR.rotate(180)]
    result = check(saved(COLOUR, "PNG", save_all=True, append_images=others), "stripped")
    assert result.found == {"frames"} and b"fdAT" not in result.content


def tiff() -> bytes:
    return saved(COLOUR, "TIFF", description=SECRET, artist=SECRET, compression="tiff_lzw")


OTHERS = {
    "webp": lambda: saved(COLOUR, "WEBP", exif=exif(6).tobytes(), xmp=f"<x:xmpmeta>{SECRET}".encode()),
    "gif": lambda: saved(COLOUR, "GIF", comment=SECRET, save_all=True, append_images=[COLOUR.rotate(90)]),
    "tiff": tiff,
    "bmp": lambda: saved(COLOUR, "BMP"),
    "ppm": lambda: saved(COLOUR, "PPM"),
    "webp with alpha": lambda: saved(COLOUR.convert("RGBA"), "WEBP"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_every_other_format_becomes_a_png_of_what_a_network_sees(kind):
    result = check(OTHERS[kind](), "png")
    expected = {"webp": {"EXIF", "GPS", "XMP"}, "gif": {"text", "frames"}, "tiff": {"EXIF"}}
    assert result.found == expected.get(kind, set())
    with Image.open(io.BytesIO(result.content)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")


def test_a_jpeg_that_is_oddly_built_becomes_a_png():
    plain = saved(COLOUR, "JPEG", comment=SECRET)
    odd = plain[:20] + b"\0\0\0" + plain[20:]
    assert np.array_equal(pixels(odd), pixels(plain))
    check(odd, "png")


@pytest.mark.parametrize(
    "broken", [lambda content: (content, set()), lambda content: (saved(ImageOps.flip(COLOUR), "JPEG"), set())]
)
def test_what_fails_the_second_look_becomes_a_png(monkeypatch, broken):
    """A stripper that leaves metadata, and one that gives another picture."""
    content = full(saved(COLOUR, "JPEG"))
    monkeypatch.setattr(module, "_bare_jpeg", broken)
    result = strip(content)
    assert result.how == "png" and np.array_equal(pixels(result.content), pixels(content))
    assert SECRET.encode() not in result.content
