"""What visitors send: a picture exactly as `pipeline` opens it, or one sentence that says why not, and soon."""

import base64
import io
import json
import os
import random
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageFile
from test_images import ODD_BUT_READABLE, REFUSED, encoded, exif, picture, png
from transformers.image_utils import load_image

from hub_utils.portable import uploads
from hub_utils.portable.command import UserError
from hub_utils.portable.uploads import MB, Picture, limits_in_words, open_content, open_upload


def refusal(content: bytes, name: str = "photo.jpg") -> str:
    with pytest.raises(UserError) as refused:
        open_content(content, name)
    return str(refused.value)


def tiff(tag: int, value: int) -> bytes:
    """A small TIFF with one more tag."""
    tags = {tag: value} if tag == 254 else {tag: (1, 4, 0, 0)}
    file = io.BytesIO()
    picture().save(file, "TIFF", tiffinfo=tags)
    return file.getvalue()


def header(kind: str, megapixels: int) -> bytes:
    """What says of itself that it is enormous, and has hardly a byte."""
    side = int((megapixels * 1e6) ** 0.5)
    if kind == "PNG":
        return png(side, side, 8, 2, b"x")
    if kind == "JPEG":
        content = bytearray(encoded(picture(size=(64, 64)), "JPEG"))
        start = content.index(b"\xff\xc0") + 5
        content[start : start + 4] = struct.pack(">HH", side, side)
        return bytes(content)
    content = bytearray(encoded(picture(), "BMP"))
    content[18:26] = struct.pack("<ii", side, side)
    return bytes(content)


@pytest.mark.parametrize("name", ODD_BUT_READABLE)
def test_pixels_are_those_of_pipeline(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(ODD_BUT_READABLE[name])
    ours, theirs = open_upload(path), load_image(str(path))
    assert (ours.mode, ours.size) == ("RGB", theirs.size)
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    assert ours.getexif().get(0x0112, 1) == 1 or "unknown" in name  # nobody turns it a second time


BAD = {
    **{name: content for name, (content, _) in REFUSED.items()},
    "HEIC of today's iPhones": b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHEmiaf" + bytes(400),
    "cut HEIC": b"\0\0\0\x24ftyphevc",
    "Canon's raw": b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + bytes(400),
    "Adobe's raw": tiff(50706, 0),
    "Nikon's raw": tiff(254, 1),
    "DICOM": bytes(128) + b"DICM" + bytes(500),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    "SVG of a program": b'<?xml version="1.0"?>\n<!-- Made by hand -->\n<!DOCTYPE svg PUBLIC "x">\n<svg></svg>',
    "XML": b'<?xml version="1.0"?><root/>',
    "PDF": b"%PDF-1.7\n" + bytes(90),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "Photoshop": b"8BPS\0\x01" + bytes(90),
    "zip": b"PK\x03\x04" + bytes(90),
    "tar.gz": b"\x1f\x8b" + bytes(90),
    "video": b"\0\0\0\x20ftypisom" + bytes(90),
    "sound": b"RIFF\0\0\0\0WAVEfmt " + bytes(90),
    "noise": random.Random(3).randbytes(5000),
    "zeros": bytes(5000),
    "cut AVIF": encoded(picture(size=(200, 200)), "AVIF")[:-100],
    "cut WebP": encoded(picture(size=(200, 200)), "WEBP", lossless=True)[:-100],
    "a single byte": b"\xff",
    "200 megapixels, PNG": header("PNG", 200),
    "200 megapixels, JPEG": header("JPEG", 200),
    "150 megapixels, BMP": header("BMP", 150),
    "passes without end": encoded(picture(), "JPEG")[:-2] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" * 60 + b"\xff\xd9",
}
WORDS = {
    "zero bytes": "is empty",
    "text": "a text",
    "web page": "a web page",
    "truncated JPEG": "cut off or damaged",
    "truncated PNG": "cut off or damaged",
    "1 × 1": "too small: 1 × 1 pixels",
    "a line": "too small: 300 × 1 pixels",
    "16-bit grey PNG": "16 bits",
    "16-bit grey TIFF": "16 bits",
    "32-bit TIFF": "16 bits",
    "float TIFF": "16 bits",
    "16-bit PGM": "16 bits",
    "bomb": "400 megapixels, and 100 are the limit",
    "HEIC": "HEIC picture",
    "HEIC of today's iPhones": "HEIC picture",
    "cut HEIC": "HEIC picture",
    "Canon's raw": "a camera's raw file",
    "Adobe's raw": "a camera's raw file",
    "Nikon's raw": "a camera's raw file",
    "DICOM": "a DICOM file",
    "SVG": "a drawing (SVG)",
    "SVG of a program": "a drawing (SVG)",
    "XML": "a web page",
    "PDF": "a PDF document",
    "PostScript": "a PostScript drawing",
    "Photoshop": "a drawing program",
    "zip": "“Many pictures” takes zips",
    "tar.gz": "an archive",
    "video": "a video",
    "sound": "a recording of sound",
    "noise": "not a picture, whatever its name says",
    "zeros": "not a picture, whatever its name says",
    "cut AVIF": "cut off or damaged",
    "cut WebP": "cut off or damaged",
    "a single byte": "not a picture",
    "200 megapixels, PNG": "200 megapixels, and 100 are the limit",
    "200 megapixels, JPEG": "200 megapixels, and 100 are the limit",
    "150 megapixels, BMP": "150 megapixels, and 100 are the limit",
    "passes without end": "more than 50 passes",
}


@pytest.mark.parametrize("name", BAD)
def test_every_bad_file_gets_a_sentence_that_says_what_it_is_and_what_to_do(name):
    began = time.monotonic()
    told = refusal(BAD[name])
    assert WORDS[name] in told
    assert told.startswith("This ") and told.endswith(".") and "\n" not in told and len(told) < 200
    assert not any(word in told for word in ("Error", "PIL", "0x", "None", "BytesIO"))
    assert time.monotonic() - began < 5


def test_a_name_helps_where_bytes_do_not_and_is_not_believed_where_they_do(tmp_path):
    assert "(.nrrd)" in refusal(random.Random(1).randbytes(99), "x.nrrd")
    for name in ("liar.svg", "liar.heic", "liar.txt", "no ending", ".hidden", "x" * 200 + ".jpg", "花 ' \" <b>;\n.png"):
        (tmp_path / name).write_bytes(encoded(picture()))
        assert open_upload(tmp_path / name).size == picture().size


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "missing.jpg", "\udc80.png"])
def test_a_path_that_leads_nowhere(name, tmp_path):
    with pytest.raises(UserError, match="not there any more"):
        open_upload(tmp_path / name)


def test_folders_and_pipes_are_no_pictures(tmp_path):
    with pytest.raises(UserError, match="a folder"):
        open_upload(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        with pytest.raises(UserError, match="no file"):  # reading it would wait for ever
            open_upload(tmp_path / "pipe.jpg")


def test_a_file_of_100_megabytes_is_refused_before_it_is_read(tmp_path, monkeypatch):
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(100 * MB)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it was read"))
    with pytest.raises(UserError, match="has 100 MB, and 50 MB are the limit"):
        open_upload(tmp_path / "large.jpg")


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    """Blank rows shrink a thousandfold: 120 megapixels in a file of 400 kB, which is all there and in order."""
    rows = zlib.compressobj(9)
    line = bytes(1 + 12_000)
    data = b"".join([*(rows.compress(line) for _ in range(10_000)), rows.flush()])

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 10_000, 8, 0, 0, 0, 0))
    whole += chunk(b"IDAT", data) + chunk(b"IEND", b"")
    assert len(whole) < MB
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("it was decoded"))
    assert "120 megapixels" in refusal(whole)


def test_a_picture_at_the_limit_is_opened_within_bounds_of_time_and_memory(tmp_path):
    """In a process of its own, whose peak is measured; progressive, which costs twice a plain one's memory."""
    if sys.platform == "win32":
        pytest.skip("Windows has no getrusage")
    path = tmp_path / "large.jpg"
    Image.new("RGB", (10_000, 10_000), (200, 90, 30)).save(path, progressive=True)
    code = (
        "import json, resource, sys, time\n"
        "from hub_utils.portable.uploads import open_upload\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before, began = peak(), time.process_time()\n"
        "size = open_upload(sys.argv[1]).size\n"
        "heavy = sorted({'torch', 'transformers', 'scipy', 'datasets'} & set(sys.modules))\n"
        "print(json.dumps([size, peak() - before, time.process_time() - began, heavy]))"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    size, memory, seconds, heavy = json.loads(done.stdout)
    memory = memory / 1e6 if sys.platform == "darwin" else memory / 1e3
    assert (size, heavy) == ([10_000, 10_000], [])
    assert memory < 1500  # MB; the pixels are 400 in Pillow, a progressive JPEG's coefficients 300 to 600
    assert seconds < 30


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(uploads, "LARGE", 100)
    at_once, most, lock, real = [0], [0], threading.Lock(), uploads.as_rgb

    def counted(image: Image.Image) -> Image.Image:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.01)
        opened = real(image)
        with lock:
            at_once[0] -= 1
        return opened

    monkeypatch.setattr(uploads, "as_rgb", counted)
    threads = [threading.Thread(target=open_content, args=(encoded(picture()),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_many_threads_see_the_same_pixels():
    contents = [ODD_BUT_READABLE[name] for name in sorted(ODD_BUT_READABLE)]
    expected = [np.asarray(open_content(content)).tobytes() for content in contents]
    wrong = []

    def work() -> None:
        for _ in range(5):
            for content, pixels in zip(contents, expected, strict=True):
                if np.asarray(open_content(content)).tobytes() != pixels:
                    wrong.append(content[:8])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_damage_of_any_kind_is_a_sentence_or_the_picture_that_pipeline_sees(tmp_path):
    for number in range(150):
        draw = random.Random(number)
        kind = draw.choice(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA"])
        damaged = bytearray(encoded(picture(size=(96, 64)), kind))
        for _ in range(draw.randrange(1, 8)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            ours = open_content(bytes(damaged))
        except UserError:
            continue
        (tmp_path / "x").write_bytes(damaged)
        assert np.array_equal(np.asarray(ours), np.asarray(load_image(str(tmp_path / "x"))))


def test_the_box_hands_on_what_it_is_given_unopened(tmp_path):
    """Over gradio's own way of taking an upload in; its own component raises on such a file, in words of Pillow's."""
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"404 not found")
    box = Picture(label="Picture")
    payload = box.data_model(path=str(bad), orig_name="bad.jpg")
    assert box.preprocess(payload) == str(bad)
    assert box.preprocess(None) is None
    with pytest.raises(Exception, match="identify"):
        gr.Image().preprocess(payload)
    small = f"data:image/png;base64,{base64.b64encode(encoded(picture())).decode()}"
    assert open_upload(box.preprocess(box.data_model(url=small))).size == picture().size
    with pytest.raises(UserError, match="is empty"):
        open_upload(box.preprocess(box.data_model(url="data:image/png;base64,x")))
    assert box.get_block_name() == "image"


def test_importing_leaves_nothing_behind():
    """gradio writes a stub file beside a module that derives from a component."""
    assert not list((ROOT / "hub_utils").rglob("*.pyi"))


def test_the_limits_are_said_as_they_are():
    assert limits_in_words() == "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF, up to 50 MB and 100 megapixels."
    assert "1,000 pictures" in limits_in_words(many=True) and "500 MB" in limits_in_words(many=True)


def test_an_upload_with_broken_exif_is_opened_as_it_lies():
    jpeg = encoded(picture(), "JPEG")
    torn = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0"
    broken = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(torn) + 2) + torn + jpeg[2:]
    assert np.array_equal(np.asarray(open_content(broken)), np.asarray(open_content(jpeg)))
    assert open_content(encoded(picture(), "JPEG", exif=exif(6))).size == picture().size[::-1]
