"""One image file: what `pipeline` can open is opened just so, and everything else is refused in words."""

import io
import random
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from transformers.image_utils import load_image

from training.data.images import look, open_rgb

SIZE = (48, 32)


def picture(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """Blocks of random colour: every corner is another one, and JPEG hardly changes them."""
    colours = np.random.default_rng(7).integers(0, 256, (2, 3, 3), dtype="uint8")
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST).convert(mode)


def encoded(image: Image.Image, format: str = "PNG", **how) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **how)
    return content.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG put together by hand: what Pillow itself would not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def frames() -> dict:
    return {"save_all": True, "append_images": [ImageOps.invert(picture())], "duration": 100}


ODD_BUT_READABLE = {
    "RGB.png": encoded(picture()),
    "grey.png": encoded(picture("L")),
    "bilevel.png": encoded(picture("1")),
    "palette.png": encoded(picture("P")),
    "palette with transparency.png": encoded(picture("P"), transparency=b"\x00\x80\xff"),
    "palette with one transparent colour.gif": encoded(picture("P"), "GIF", transparency=0),
    "grey and alpha.png": encoded(picture("LA")),
    "RGBA.png": encoded(picture("RGBA")),
    "RGBA.webp": encoded(picture("RGBA"), "WEBP"),
    "CMYK.jpg": encoded(picture("CMYK"), "JPEG"),
    "CMYK.tif": encoded(picture("CMYK"), "TIFF"),
    "grey.jpg": encoded(picture("L"), "JPEG"),
    "progressive.jpg": encoded(picture(), "JPEG", progressive=True),
    "16 bits for each of red, green and blue.png": png(4, 4, 16, 2, (b"\0" + b"\x80\x12\x40\x00\xff\xff" * 4) * 4),
    "animated.gif": encoded(picture(), "GIF", **frames()),
    "animated.webp": encoded(picture(), "WEBP", lossless=True, **frames()),
    "animated.png": encoded(picture(), "PNG", **frames()),
    "bitmap.bmp": encoded(picture(), "BMP"),
    "a PNG by content.jpg": encoded(picture()),
    "smaller than a JPEG's block.jpg": encoded(picture(size=(5, 3)), "JPEG"),
    "one line short of a block.jpg": encoded(picture(size=(200, 7)), "JPEG"),
    **{f"turned {way}.jpg": encoded(picture(), "JPEG", exif=exif(way)) for way in range(1, 9)},
    "unknown turn.jpg": encoded(picture(), "JPEG", exif=exif(77)),
}


@pytest.mark.parametrize("name", ODD_BUT_READABLE)
def test_an_odd_image_is_opened_exactly_as_pipeline_opens_it(name, tmp_path):
    content = ODD_BUT_READABLE[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert look(content).reason is None
    as_pipeline = load_image(str(path))
    for source in (path, str(path), content):
        ours = open_rgb(source)
        assert (ours.mode, ours.size) == ("RGB", as_pipeline.size)
        assert np.array_equal(np.array(ours), np.array(as_pipeline))


def test_an_image_on_its_side_is_set_upright():
    upright = picture()
    on_its_side = upright.transpose(Image.Transpose.ROTATE_90)
    opened = open_rgb(encoded(on_its_side, "PNG", exif=exif(6)))  # 6: turn by 90 degrees clockwise to see it
    assert opened.size == upright.size
    assert np.array_equal(np.array(opened), np.array(upright))


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp", "animated.png"])
def test_of_an_animation_the_first_frame_counts(name):
    first = np.array(open_rgb(ODD_BUT_READABLE[name])).astype(int)
    assert np.abs(first - np.array(picture()).astype(int)).max() <= 8  # GIF has 256 colours


FLOAT = Image.fromarray(np.ones((4, 4), "float32"))
REFUSED = {
    "zero bytes": (b"", "empty file"),
    "text": (b"404 not found", "not an image, whatever its name says"),
    "web page": (b"<!DOCTYPE html><html></html>", "not an image, whatever its name says"),
    "truncated JPEG": (encoded(picture(size=(300, 200)), "JPEG")[:-200], "cannot be read: .*truncated"),
    "truncated PNG": (encoded(picture())[:-30], "cannot be read: "),
    "1 × 1": (encoded(picture(size=(1, 1))), "too small: 1 × 1 pixels"),
    "a line": (encoded(picture(size=(300, 1))), "too small: 300 × 1 pixels"),
    "16-bit grey PNG": (encoded(Image.new("I;16", SIZE)), "16 bits .*clip to white: make 8-bit copies first"),
    "16-bit grey TIFF": (encoded(Image.new("I;16", SIZE), "TIFF"), "16 bits .*--convert COPY"),
    "32-bit TIFF": (encoded(Image.new("I", SIZE), "TIFF"), "16 bits .*--convert COPY"),
    "float TIFF": (encoded(FLOAT, "TIFF"), "16 bits .*--convert COPY"),
    "16-bit PGM": (b"P5 2 2 65535 " + bytes(8), "16 bits .*--convert COPY"),
    "bomb": (png(20_000, 20_000, 8, 2, b"x"), r"a decompression bomb: image size \(400000000 pixels\) exceeds limit"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "HEIC .*convert it first, magick IN OUT.jpg"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_on_is_refused_in_one_line_that_says_why(name):
    content, reason = REFUSED[name]
    found = look(content).reason
    assert found is not None
    assert "\n" not in found
    assert re.match(reason, found), found


def opens(content: bytes) -> bool:
    try:
        open_rgb(content)
    except Exception:
        return False
    return True


FORMATS = {
    "JPEG": {},
    "progressive JPEG": {"progressive": True},
    "CMYK JPEG": {},
    "PNG": {},
    "palette PNG": {},
    "GIF": {},
    "WEBP": {},
    "BMP": {},
    "turned JPEG": {"exif": exif(6)},
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_passes_only_if_training_can_open_it(name):
    mode = "CMYK" if "CMYK" in name else "P" if "palette" in name else "RGB"
    whole = encoded(picture(mode, (96, 64)), name.split()[-1], **FORMATS[name])
    draw = random.Random(name)
    for attempt in range(40):
        damaged = bytearray(whole)
        if attempt % 2:
            del damaged[draw.randrange(1, len(whole)) :]
        else:
            for _ in range(draw.randrange(1, 8)):
                damaged[draw.randrange(len(whole))] = draw.randrange(256)
        assert (look(bytes(damaged)).reason is None) == opens(bytes(damaged))


def test_large_pictures_are_opened_and_pillow_does_not_babble(tmp_path):
    """In a process of its own, for pytest has its own filters, and with the limit at 1,000 pixels, not 89 million."""
    torn = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0"
    jpeg = encoded(picture(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(torn) + 2) + torn
    (tmp_path / "broken EXIF data.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:])
    (tmp_path / "palette.png").write_bytes(ODD_BUT_READABLE["palette with transparency.png"])
    code = (
        "import sys; from pathlib import Path; from PIL import Image\n"
        "from training.data.images import look, open_rgb\n"
        "Image.MAX_IMAGE_PIXELS = 1000\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()): print(look(path.read_bytes()).reason, open_rgb(path).size)"
    )
    command = [sys.executable, "-W", "default::UserWarning", "-W", "default::RuntimeWarning", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.stdout.splitlines() == [f"None {SIZE}"] * 2
    assert done.stderr == ""


def test_files_of_one_digest_are_exact_duplicates():
    assert look(b"abc").sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
