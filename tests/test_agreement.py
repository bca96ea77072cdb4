"""Agreement: the same pixels agree, whatever was done to them; what only is alike does not."""

import io

import cv2
import numpy as np
import pytest
from conftest import scene
from PIL import Image

from training.data.agreement import agreement

SAME = np.eye(2, 3)


def resaved(picture: np.ndarray, quality: int) -> np.ndarray:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content))


def stretch(by: float) -> np.ndarray:
    return np.array([[by, 0, (by - 1) / 2], [0, by, (by - 1) / 2]])


def test_the_same_picture_agrees_wholly():
    assert agreement(scene(1), scene(1), SAME) == pytest.approx((1, 1, 1), abs=1e-3)


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_a_resaved_picture_agrees(quality):
    assert agreement(scene(1), resaved(scene(1), quality), SAME)[0] > 0.95


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_a_brighter_or_darker_picture_agrees(factor):
    bright = np.clip(scene(1) * factor, 0, 255).astype(np.uint8)
    assert agreement(scene(1), bright, SAME)[0] > 0.95


@pytest.mark.parametrize("by", [0.25, 0.5, 1.6])
def test_a_resized_picture_agrees_and_so_it_does_the_other_way_round(by):
    small = cv2.resize(scene(1), None, fx=by, fy=by, interpolation=cv2.INTER_AREA if by < 1 else cv2.INTER_CUBIC)
    there = agreement(scene(1), small, stretch(1 / by))
    back = agreement(small, scene(1), stretch(by))
    assert min(there) > 0.95 and min(back) > 0.95


def test_another_scene_does_not_agree():
    assert max(agreement(scene(1), scene(other), SAME)[0] for other in range(2, 12)) < 0.5


def test_the_shares_are_those_of_the_overlap():
    wide = scene(3, 200, 300)
    score, of_left, of_right = agreement(wide[:, :200], wide[:, 100:], np.array([[1.0, 0, 100], [0, 1, 0]]))
    assert score > 0.99
    assert (of_left, of_right) == pytest.approx((0.5, 0.5), abs=0.01)
    score, of_whole, of_crop = agreement(wide, wide[20:180, 30:180], np.array([[1.0, 0, 30], [0, 1, 20]]))
    assert score > 0.99
    assert (of_whole, of_crop) == pytest.approx((160 * 150 / wide.size, 1), abs=0.01)


def test_a_few_pixels_off_it_does_not_agree():
    assert agreement(scene(1), scene(1), np.array([[1.0, 0, 6], [0, 1, 6]]))[0] < 0.8


def test_smooth_shades_in_common_are_not_enough():
    """Chest X-rays: all alike in their shades, each with its own ribs and vessels."""
    y, x = np.mgrid[:240, :320] / 240
    body = 120 + 90 * np.cos(5 * x) * np.sin(4 * y)
    first, second = (
        body + 6 * cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 4, body.shape), (0, 0), 3) for seed in (1, 2)
    )
    first, second = (np.clip(each, 0, 255).astype(np.uint8) for each in (first, second))
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.98
    assert agreement(first, second, SAME)[0] < 0.5
    assert agreement(first, resaved(first, 75), SAME)[0] > 0.9


def test_a_logo_in_common_is_not_enough():
    first, second = scene(1), scene(2)
    for picture in (first, second):
        cv2.putText(picture, "ACME 5-1", (10, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 255, 3)
        picture[200:] = 0
    assert agreement(first, second, SAME)[0] < 0.6


def test_a_faint_picture_agrees_with_a_part_of_it():
    """The edge of the part is no edge in the picture, nor the strongest of all."""
    faint = (128 + (scene(5).astype(float) - 128) / 16).astype(np.uint8)
    assert agreement(faint, faint[40:200, 50:250], np.array([[1.0, 0, 50], [0, 1, 40]]))[0] > 0.9


@pytest.mark.parametrize("shape", [(240, 320), (1, 1), (1, 400), (400, 1), (2, 3)])
def test_where_there_is_nothing_to_see_nothing_agrees(shape):
    flat = np.full(shape, 200, np.uint8)
    assert agreement(flat, flat, SAME)[0] == 0


def test_pictures_that_do_not_touch_do_not_agree():
    score, of_first, of_second = agreement(scene(1), scene(1), np.array([[1.0, 0, 900], [0, 1, 900]]))
    assert (score, of_first, of_second) == (0, 0, 0)
