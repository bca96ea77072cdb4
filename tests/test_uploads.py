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
from gradio.utils import get_upload_folder
from PIL import Image, ImageFile
from test_images import ODD_BUT_READABLE, REFUSED, encoded, exif, picture, png
from transformers.image_utils import load_image

from hub_utils.portable import pictures, uploads
from hub_utils.portable.command import UserError
from hub_utils.portable.pictures import MB, opened
from hub_utils.portable.uploads import LOST, Files, Picture, limits_in_words, uploaded


def open_content(content: bytes, name: str = "") -> Image.Image:
    with opened(content, name) as image:
        return image.copy()


def open_upload(path: Path) -> Image.Image:
    with opened(path) as image:
        return image.copy()


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
    "JPEG 2000": encoded(picture(), "JPEG2000"),
    "JPEG 2000 without a box": encoded(picture(), "JPEG2000", no_jp2=True),
    "TGA": encoded(picture(), "TGA"),
    "DIB": encoded(picture(), "DIB"),
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
    "16-bit PGM": "a PBM, PGM or PPM picture",
    "JPEG 2000": "a JPEG 2000 picture",
    "JPEG 2000 without a box": "a JPEG 2000 picture",
    "TGA": "not a picture, whatever its name says",
    "DIB": "not a picture, whatever its name says",
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
    "passes without end": "more parts than can be looked at",
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
    assert "(.tga)" in refusal(encoded(picture(), "TGA"), "x.TGA")
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


MEASURE = """
import json, re, sys, threading, time
from pathlib import Path
from hub_utils.portable import pictures
from hub_utils.portable.pictures import opened

def look():
    with opened(Path(sys.argv[1])) as image:
        sizes.append(image.size)
        time.sleep(0.1)

def memory(kind):  # in MB
    return int(re.search(kind + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1e3

pictures._room = pictures._Room(int(sys.argv[3]))
sizes, before, began = [], memory("VmRSS"), time.process_time()
threads = [threading.Thread(target=look) for _ in range(int(sys.argv[2]))]
for each in threads: each.start()
for each in threads: each.join()
heavy = sorted({"torch", "transformers", "scipy", "datasets"} & set(sys.modules))
print(json.dumps([sizes, memory("VmHWM") - before, memory("VmRSS") - before, time.process_time() - began, heavy]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is asked as Linux tells it")
@pytest.mark.parametrize(
    ("kind", "how", "side", "crowd", "most"),
    [
        ("JPEG", {"progressive": True}, 10_000, 1, 1000),
        ("WEBP", {"lossless": True, "method": 0}, 4000, 8, 600),
    ],
)
def test_the_largest_pictures_take_bounded_time_and_memory_and_give_it_back(kind, how, side, crowd, most, tmp_path):
    """In a process of its own, with room for one. A crowd of WebPs takes 1,000 MB where nobody has to wait."""
    path = tmp_path / "large"
    Image.new("RGB", (side, side), (200, 90, 30)).save(path, kind, **how)
    command = [sys.executable, "-c", MEASURE, path, str(crowd), str(side**2)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    sizes, peak, left, seconds, heavy = json.loads(done.stdout)
    assert (sizes, heavy) == ([[side, side]] * crowd, [])
    assert peak < most and left < 100  # MB
    assert seconds < 30


def test_pictures_wait_where_there_is_no_room_and_none_is_passed_over_for_ever(monkeypatch):
    room = pictures._Room(100)
    now, most, lock = [0], [0], threading.Lock()

    def look(pixels: int) -> None:
        with room.of(pixels):
            with lock:
                now[0] += pixels
                most[0] = max(most[0], now[0])
            time.sleep(0.002)
            with lock:
                now[0] -= pixels

    small = [threading.Thread(target=lambda: [look(30) for _ in range(100)]) for _ in range(6)]
    for thread in small:
        thread.start()
    look(100)
    assert any(thread.is_alive() for thread in small)  # it came in between them
    for thread in small:
        thread.join()
    assert most == [100] and room._free == 100


def test_a_picture_leaves_its_room_whatever_becomes_of_it(monkeypatch):
    monkeypatch.setattr(pictures, "_room", pictures._Room(picture().width * picture().height))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), opened(encoded(picture())) as image:
            1 / 0  # noqa: B018
        with pytest.raises(ValueError, match="closed"):
            image.copy()
        assert "cut off" in refusal(encoded(picture())[:-30])
    with opened(encoded(picture())) as image:
        assert image.size == picture().size


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
        kind = draw.choice(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
        damaged = bytearray(encoded(picture(size=(96, 64)), kind))
        for _ in range(draw.randrange(1, 8)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            ours = open_content(bytes(damaged))
        except UserError:
            continue
        (tmp_path / "x").write_bytes(damaged)
        assert np.array_equal(np.asarray(ours), np.asarray(load_image(str(tmp_path / "x"))))


def arrived(name: str, content: bytes) -> Path:
    """Where the browser's uploads lie."""
    path = Path(get_upload_folder(), "uploads test", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_box_hands_on_what_it_is_given_unopened():
    """gradio's own component raises on such a file, in words of Pillow's."""
    bad = arrived("bad.jpg", b"404 not found")
    box = Picture(label="Picture")
    payload = box.data_model(path=str(bad), orig_name="bad.jpg")
    assert box.preprocess(payload) == bad
    with pytest.raises(Exception, match="identify"):
        gr.Image().preprocess(payload)
    assert box.get_block_name() == "image" and Files().get_block_name() == "file"


def test_a_picture_in_the_request_itself_is_written_nowhere(monkeypatch):
    box, before = Picture(label="Picture"), sorted(Path(get_upload_folder()).rglob("*"))
    small = f"data:image/png;base64,{base64.b64encode(encoded(picture())).decode()}"
    assert box.preprocess(box.data_model(url=small)) == encoded(picture())
    for url, told in (("data:image/png;base64,x", "is empty"), ("data:image/png;base64,xxxxx", "damaged")):
        with pytest.raises(gr.Error, match=told):
            box.preprocess(box.data_model(url=url))
    monkeypatch.setattr(base64, "b64decode", lambda content: pytest.fail("it was decoded"))
    with pytest.raises(gr.Error, match="has 75 MB, and 50 MB are the limit"):
        box.preprocess(box.data_model(url="data:image/png;base64," + "A" * 100 * MB))
    assert sorted(Path(get_upload_folder()).rglob("*")) == before


NOT_OURS = [None, "", 5, [], {}, b"x", "x.png", "/etc/passwd", "http://127.0.0.1:9/x.png", "a\0b", "\udc80", "y" * 5000]


@pytest.mark.parametrize("path", NOT_OURS)
def test_the_door_is_shut_for_what_is_no_upload(path):
    with pytest.raises(UserError, match="did not get here"):
        uploaded(path)


@pytest.mark.parametrize("name", ["", ".", "missing.png", "x" * 300, "x" * 5000, "a\0b", "../{outside}", "link"])
def test_nor_does_it_open_by_way_of_the_folder(name, tmp_path):
    folder = arrived("a.png", b"x").parent
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"secret")
    if hasattr(os, "symlink"):
        (folder / "link").unlink(missing_ok=True)
        (folder / "link").symlink_to(outside)
    for path in (f"{folder}/{name.format(outside=outside)}", f"{get_upload_folder()}/{name.format(outside=outside)}"):
        with pytest.raises(UserError, match="did not get here"):
            uploaded(path)


def test_boxes_shut_it_too_in_the_same_words():
    inside, one, many = arrived("b.png", encoded(picture())), Picture(label="Picture"), Files(file_count="multiple")
    with pytest.raises(gr.Error, match="did not get here"):
        one.preprocess(one.data_model(path="/etc/passwd"))
    for nothing in (None, one.data_model()):
        with pytest.raises(gr.Error, match="Nothing was given"):
            one.preprocess(nothing)
    given = [{"path": path, "orig_name": "n" * 999} for path in ("/etc/passwd", str(inside), str(inside.parent))]
    found = many.preprocess(many.data_model(root=given))
    assert [path for _, path in found] == [LOST, inside, LOST]
    assert {len(name) for name, _ in found} == {uploads.LONG_NAME} and many.preprocess(None) == []


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
