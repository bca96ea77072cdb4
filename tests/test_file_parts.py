"""Files that are small, and built to take all of the memory or time: refused at once; what cameras write is not."""

import io
import subprocess
import time
import tracemalloc

import numpy as np
import pytest
from bad_pictures import after_header, bmp_in_runs, chunk, encoded, picture, tags, tiff
from PIL import Image

from hub_utils.portable.command import UserError
from hub_utils.portable.file_parts import MOST_SIDE
from hub_utils.portable.pictures import OVERBUILT, opened
from training.data.images import look

# By name, for those that are many times what they need to be are no better tests.
AGAIN = tags([(1000 + n, 7, 200_000, 8) for n in range(3000)]) + bytes(200_000)
JPEG, PNG, GIF = (encoded(picture(), kind) for kind in ("JPEG", "PNG", "GIF"))
PICTURE_OF_GIF = GIF.index(b"\x2c\0\0\0\0")
REFUSED = {
    "tags of a TIFF that share their bytes": AGAIN,
    "tags of EXIF data that share their bytes": after_header(PNG, chunk(b"eXIf", AGAIN)),
    "a million numbers": tiff(96, 64, (274, 3, 1, 6), (65000, 5, 130_000, bytes(1_040_000))),
    "a tile far larger than the picture": tiff(9, 9, (322, 4, 1, 30_000), (323, 4, 1, 30_000), (324, 4, 1, 8)),
    "comments": GIF[:PICTURE_OF_GIF] + b"\x21\xfe\x01x\0" * 3_000 + GIF[PICTURE_OF_GIF:],
    "one comment": GIF[:PICTURE_OF_GIF] + b"\x21\xfe" + (b"\xff" + bytes(255)) * 5_000 + b"\0" + GIF[PICTURE_OF_GIF:],
    "chunks": after_header(PNG, chunk(b"abCd") * 110_000),
    "padding": JPEG[:2] + b"\xff" * 1_100_000 + JPEG[2:],
    "segments": JPEG[:2] + b"\xff\xe5\0\2" * 11_000 + JPEG[2:],
    "markers": JPEG[:2] + b"\xff\xd0" * 11_000 + JPEG[2:],
    "a BMP that skips gigabytes": bmp_in_runs(20_000_000, 2, b"\0\2\0\x20" * 4),
    "passes": JPEG[:-2] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" * 60 + b"\xff\xd9",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_built_of_too_many_parts_is_refused_at_once_by_pages_and_by_training(name):
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(UserError) as refused, opened(REFUSED[name]):
            pass
        assert "more parts than can be read" in look(REFUSED[name]).reason
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(refused.value) == OVERBUILT
    assert peak < 10_000_000 and time.process_time() - began < 5


@pytest.mark.parametrize("size", [(MOST_SIDE + 1, 2), (2, MOST_SIDE + 1)])
def test_a_picture_that_is_a_line_is_refused_before_it_is_decoded(size):
    with (
        pytest.raises(UserError, match="is too narrow"),
        opened(encoded(Image.new("L", size), "PNG")),
    ):
        pass


SOUND = {
    "a BMP in runs": bmp_in_runs(96, 64, (b"\x60\7" + b"\0\0") * 64 + b"\0\1"),
    "a photo with a film behind it": JPEG + np.random.default_rng(1).bytes(8_000_000),
    "twenty passes": encoded(picture(), "JPEG", progressive=True),
    "restarts": encoded(picture(size=(400, 300)), "JPEG", restart_marker_blocks=1),
    "a large profile": encoded(picture(), "JPEG", icc_profile=bytes(3_000_000)),
    "two frames": encoded(picture(), "GIF", save_all=True, append_images=[picture("L")] * 200),
    "a comment": encoded(picture(), "GIF", comment=b"x" * 5_000),
    "small chunks": after_header(PNG, chunk(b"teXt", b"made by hand") * 500),
    "a strip a row": encoded(picture(size=(100, 4_000)), "TIFF", strip_size=300),
    "pages": encoded(picture(), "TIFF", save_all=True, append_images=[picture()] * 50),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_what_cameras_and_programs_write_is_opened(name):
    """Among random bytes there is the mark of a JPEG's pass in every 65,536."""
    with opened(SOUND[name]) as image, Image.open(io.BytesIO(SOUND[name])) as plain:
        assert np.array_equal(np.asarray(image), np.asarray(plain.convert("RGB")))
    assert look(SOUND[name]).reason is None


def test_no_program_is_run_for_a_postscript_drawing_that_calls_itself_a_photo(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\nshowpage\n%%EOF\n"
    assert "cannot be read" in look(drawing).reason


def test_nothing_is_trained_on_that_would_fill_the_memory_once_it_is_resized():
    assert look(encoded(Image.new("RGB", (50_000, 2)), "PNG")).reason == "too narrow: 50000 × 2 pixels"
    assert look(encoded(Image.new("RGB", (1_000, 10)), "PNG")).reason is None
