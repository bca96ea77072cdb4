"""Drawings become images as those of the data set are, and are read right."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from strokes import DIGITS, painted, placed, variants

from hub_utils.portable.command import UserError
from hub_utils.portable.drawing import SIDE, as_data, received, seen

PEN = 0.06


def counts(image: Image.Image) -> np.ndarray:
    """Ink, 0 to 16, of an image that is written as the data are."""
    assert (image.mode, image.size) == ("L", (8, 8))
    return ((255 - np.asarray(image, float)) * 16 / 255).round().astype(int)


def first(digit: str) -> Image.Image:
    return painted(placed(DIGITS[digit][0], 0.2, 0.1, 0.8), PEN)


def sheet(*strokes: tuple[int, int, int, int], mode: str = "L") -> Image.Image:
    image = Image.new("L", (200, 200), 255)
    for box in strokes:
        image.paste(0, box)
    return image.convert(mode)


@pytest.fixture(scope="module")
def data():
    from sklearn.datasets import load_digits

    return load_digits()


def test_a_block_of_ink_is_counted_by_hand():
    # Stretched to 20 × 32 it is 640 pixels, which is too heavy: eroded twice, 16 × 28 are left.
    middle = np.full((8, 4), 16)
    middle[[0, -1]] = 8
    assert np.array_equal(counts(as_data(sheet((30, 50, 60, 170)))), np.pad(middle, ((0, 0), (2, 2))))


def test_thin_and_thick_strokes_come_out_alike():
    """Of a frame, whose lines are 1/20 to 1/4 of its height."""
    ink = []
    for width in (8, 16, 28, 40):
        frame = sheet((20, 20, 180, 180))
        frame.paste(255, (20 + width, 20 + width, 180 - width, 180 - width))
        ink.append(counts(as_data(frame)).sum())
    assert min(ink) >= 256 and max(ink) <= 412, ink


def test_slanted_strokes_stand_upright():
    upright, slanted = [placed([[(0.3, 0), (0.3, 1)]], 0.3, 0.05, 0.9, slant) for slant in (0, 0.4)]
    for strokes in (upright, slanted):
        found = counts(as_data(painted(strokes, 0.1)))
        middles = (found * np.arange(8)).sum(1) / found.sum(1)
        assert np.ptp(middles[1:-1]) < 0.4, found


def test_place_and_size_do_not_matter():
    strokes = DIGITS["5"][0]
    reference = counts(as_data(painted(placed(strokes, 0.25, 0.25, 0.5), PEN)))
    moved = counts(as_data(painted(placed(strokes, 0.05, 0.4, 0.5), PEN)))
    larger = counts(as_data(painted(placed(strokes, 0.1, 0.05, 0.9), PEN * 0.9 / 0.5)))
    assert np.abs(reference - moved).mean() < 0.5 and np.abs(reference - larger).mean() < 0.5


def test_the_data_are_as_the_docstring_says_and_so_are_drawings(data):
    drawn = np.stack([counts(as_data(painted(strokes, pen))) for _, strokes, pen in variants(6)])
    for images, share in ((data.images, 0.95), (drawn, 0.75)):
        ink = images.sum((1, 2))
        assert ((ink >= 256) & (ink <= 412)).mean() >= share
        assert (images[:, [0, 7]].sum(2) > 0).all()
    assert data.images[:, :, 0].sum() / data.images.sum() < 0.002 and drawn[:, :, 0].sum() == 0


def test_the_files_of_the_data_set_are_of_the_same_kind(tmp_path):
    from training.data.embedded import write_digits

    write_digits(tmp_path / "digits")
    with Image.open(tmp_path / "digits" / "0" / "0000.png") as file:
        drawn = as_data(first("0"))
        assert (file.mode, file.size) == (drawn.mode, drawn.size)
        assert set(np.unique(drawn)) <= {round(255 - 255 * each / 16) for each in range(17)}
        assert np.abs(counts(file) - counts(drawn)).mean() < 4  # a 0 is a 0


def test_nine_of_ten_drawings_are_nearest_to_their_digit(data):
    """No network is asked: of all the data's images the most similar one shows the same digit."""

    def nearest(image: Image.Image) -> str:
        return str(data.target[((data.images - counts(image)) ** 2).sum((1, 2)).argmin()])

    assert sum(nearest(as_data(first(digit))) == digit for digit in DIGITS) >= 9
    drawings = variants(20)
    right = [nearest(as_data(painted(strokes, pen))) == digit for digit, strokes, pen in drawings]
    assert len(right) == 200 and np.mean(right) >= 0.9


@pytest.mark.slow
def test_a_trained_network_reads_nine_of_ten(tmp_path, monkeypatch):
    """The recipe, on the machine's processor, in about half a minute."""
    from hub_utils.portable.predictor import load_predictor
    from training.train import main

    monkeypatch.chdir(tmp_path)
    main(["digits", "--output_dir", "run"])
    predictor = load_predictor(tmp_path / "run")

    def right(digits: list[str], drawings: list[Image.Image]) -> float:
        answers = predictor([as_data(drawing).convert("RGB") for drawing in drawings])
        names = [predictor.labels[answer.probabilities.argmax()] for answer in answers]
        return float(np.mean(np.array(names) == np.array(digits)))

    assert right(list(DIGITS), [first(digit) for digit in DIGITS]) >= 0.9
    many = variants(20)
    assert right([digit for digit, *_ in many], [painted(strokes, pen) for _, strokes, pen in many]) >= 0.93


# What is no digit

BAD = {
    "nothing": (sheet(), "nothing is drawn yet"),
    "nothing, transparent": (Image.new("RGBA", (200, 200), (0, 0, 0, 0)), "nothing is drawn yet"),
    "a dot": (painted([[(0.5, 0.5)]], PEN), "too small to read"),
    "a dot in the corner": (painted([[(1, 1)]], PEN), "too small to read"),
    "a line outside": (painted([[(1.2, 0.1), (1.3, 0.9)]], PEN), "nothing is drawn yet"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_drawing_gets_a_sentence(name):
    drawing, sentence = BAD[name]
    with pytest.raises(UserError, match=sentence):
        as_data(drawing)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 40), (40, 1), (3, 3)])
def test_any_ink_on_any_paper_becomes_an_image(size):
    assert counts(as_data(Image.new("L", size))).sum() > 0


def test_a_line_across_and_a_full_field_are_read_as_anything_else():
    for strokes in ([[(-0.5, 0.5), (1.5, 0.5)]], [[(0.5, -1), (0.5, 2)]], [[(0, 0), (1, 1)], [(0, 1), (1, 0)]]):
        assert counts(as_data(painted(strokes, PEN))).sum() > 100
    assert counts(as_data(Image.new("L", (SIDE, SIDE)))).max() == 16


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_the_mode_does_not_matter(mode):
    strokes = sheet((30, 20, 60, 170)), sheet((30, 20, 60, 170), mode=mode)
    assert np.array_equal(*(counts(as_data(each)) for each in strokes))


def test_ink_is_what_is_painted_on_glass():
    glass = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    glass.paste((0, 0, 0, 255), (30, 50, 60, 170))
    assert np.array_equal(counts(as_data(glass)), counts(as_data(sheet((30, 50, 60, 170)))))


# What the browser sends


def sent(image: Image.Image, kind: str = "PNG") -> str:
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def test_a_drawing_arrives_as_it_was_sent():
    drawing = first("3")
    assert np.array_equal(received(sent(drawing)), drawing)


@pytest.mark.parametrize(
    "came",
    [
        "x",
        "data:image/png;base64,AAAA",
        "é",
        sent(Image.new("L", (9, 9)))[:40],
        sent(Image.new("L", (9, 9)), "GIF"),
        sent(Image.new("1", (SIDE * 3, 10))),
        "A" * 1_000_000,
    ],
    ids=["letter", "address", "accent", "cut off", "GIF", "wide", "long"],
)
def test_what_is_no_drawing_is_refused(came):
    with pytest.raises(UserError, match="what came is no drawing"):
        received(came)


def test_what_the_model_sees_is_said_in_words_too():
    html = seen(as_data(first("3")))
    assert 'alt="The drawing in 8 × 8 grey squares"' in html and "data:image/png;base64," in html
