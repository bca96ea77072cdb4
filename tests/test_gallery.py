"""The sheet of mistakes: heat maps over pictures of any shape, the surest mistakes first."""

import numpy as np
import pytest
from PIL import Image

from training.results.gallery import MOST, Mistake, mistakes_figure, overlay, plot_mistakes

# Sockets that the pages of other tests in this process left to the garbage collector are none of these.
OTHERS = ("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
pytestmark = pytest.mark.filterwarnings("error", *OTHERS)


def picture(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(60, 120, (height, width, 3)).astype(np.uint8))


def mistake(number: int, confidence: float, size: tuple[int, int] = (60, 40), **changes) -> Mistake:
    draw = np.random.default_rng(number)
    values = {"path": f"folder/{number:02}.jpg", "image": picture(*size), "map": draw.normal(size=(7, 7))}
    return Mistake(**{**values, "label": "a_b", "prediction": "$c$", "confidence": confidence, **changes})


@pytest.mark.parametrize("size", [(60, 40), (40, 90), (224, 224)])
def test_the_overlay_is_strongest_where_the_map_peaks_and_leaves_the_rest_alone(size):
    map = np.zeros((5, 8))
    map[1, 6] = 3e-9  # scaled by its own maximum
    image = picture(*size)
    changed = np.abs(np.asarray(overlay(image, map)).astype(int) - np.asarray(image)).sum(axis=2)
    row, column = np.unravel_index(changed.argmax(), changed.shape)
    assert changed.shape == (size[1], size[0])
    assert abs((row + 0.5) / size[1] * 5 - 1.5) < 0.6 and abs((column + 0.5) / size[0] * 8 - 6.5) < 0.6
    assert not changed[:, : size[0] // 2].any()


def test_what_spoke_against_the_class_is_not_shown():
    image, map = picture(), np.zeros((4, 4), np.float32)
    map[2, 2] = 1.0
    against = map.copy()
    against[0] = -50
    assert np.array_equal(overlay(image, map), overlay(image, against))


@pytest.mark.parametrize(
    "map", [np.zeros((7, 7)), np.full((7, 7), -1.0), np.array([[np.nan, 1.0]]), np.array([[np.inf, 1.0]])]
)
def test_a_map_that_says_nothing_leaves_the_picture_as_it_is(map):
    image = picture()
    assert np.array_equal(overlay(image, map), image)


def test_the_overlay_is_smooth_and_the_picture_shows_through():
    flat = Image.new("L", (200, 200), 128)
    heated = np.asarray(overlay(flat, np.eye(4))).astype(int)
    assert max(np.abs(np.diff(heated, axis=axis)).max() for axis in (0, 1)) < 25  # 128 to 250 within 50 pixels
    dark = np.asarray(overlay(Image.new("RGB", (50, 50), "black"), np.ones((7, 7)))).astype(int)
    light = np.asarray(overlay(Image.new("RGB", (50, 50), "white"), np.ones((7, 7))))
    assert (light - dark).min() > 50


def test_the_surest_mistakes_come_first_with_what_was_said_of_them():
    figure = mistakes_figure([mistake(number, number / 30) for number in range(30)], "thirty")
    parts = figure.subfigs
    said = [part.get_suptitle() for part in parts]
    assert len(said) == MOST
    assert said[:2] == ["a_b → \\$c\\$ 97%\nfolder/29.jpg", "a_b → \\$c\\$ 93%\nfolder/28.jpg"]
    shown = parts[0].axes[0].images[0].get_array()
    assert np.array_equal(shown, np.asarray(picture()))
    assert not np.array_equal(parts[0].axes[1].images[0].get_array(), shown)


def test_the_words_stand_nearer_to_their_own_picture_than_to_the_one_above():
    figure = mistakes_figure([mistake(number, number / 30, (50, 50)) for number in range(8)], "two rows")
    figure.draw_without_rendering()
    upper, lower = figure.subfigs[0], figure.subfigs[4]
    words = lower._suptitle.get_window_extent()
    above = upper.axes[0].get_window_extent().y0 - words.y1
    below = words.y0 - lower.axes[0].get_window_extent().y1
    assert 0 < below < above / 2


def test_a_sheet_of_every_shape_and_name_is_a_picture(tmp_path):
    sizes = [(224, 224), (300, 100), (90, 280), (8, 8), (500, 40)]
    hard = ["$", "_private", "[two]\nlines", "花", "Übergröße " * 9]
    mistakes = [
        mistake(number, 0.9999, size, label=name, path=f"{'deep/' * 20 * number}{name}.jpg")
        for number, (size, name) in enumerate(zip(sizes, hard, strict=True))
    ]
    assert plot_mistakes(mistakes, tmp_path / "local" / "mistakes.png", "every $ shape")
    with Image.open(tmp_path / "local" / "mistakes.png") as image:
        assert image.format == "PNG" and min(image.size) > 300 and max(image.size) < 2400


def test_without_mistakes_nothing_is_drawn(tmp_path):
    assert plot_mistakes([], tmp_path / "mistakes.png", "none") is False
    assert not list(tmp_path.iterdir())
