"""Strangeness: small for what resembles the training images, large for the rest, and the same in half precision."""

import json

import numpy as np
import pytest

from hub_utils.portable import strangeness as module
from hub_utils.portable.strangeness import AXES, FEWEST, LARGEST, fit, strangeness

WIDTH = 96


def features(images: int, seed: int, axes_seed: int = 0, axes: int = 6, noise: float = 0.1) -> np.ndarray:
    """Images as a network's features have them: a few directions, none below 0, and a little of everything."""
    draw = np.random.default_rng(seed)
    directions = np.random.default_rng(axes_seed).random((axes, WIDTH)) ** 3
    values = draw.random((images, axes)) @ directions + noise * draw.random((images, WIDTH))
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def statistics() -> dict:
    return json.loads(json.dumps(fit(features(300, seed=1)), allow_nan=False))


def test_what_resembles_the_training_images_is_familiar_and_other_directions_are_strange(statistics):
    own, other = strangeness(features(200, seed=2), statistics), strangeness(features(200, 3, axes_seed=9), statistics)
    assert own.dtype == np.float64 and own.shape == (200,)
    assert (own >= 0).all() and (other <= 1).all()
    assert own.max() < other.min()


def test_it_is_the_sine_of_the_angle_to_the_span_of_the_training_images():
    """Of images along three axes: by hand."""
    few = np.zeros((60, WIDTH), np.float32)
    few[:, :3] = 1 + np.random.default_rng(0).random((60, 3))
    asked = np.zeros((3, WIDTH), np.float32)
    asked[0, 0], asked[1, 50], asked[2, [1, 50]] = 7, 2, (3, 4)
    assert strangeness(asked, fit(few)) ** 2 == pytest.approx([0, 1, 0.64], abs=2e-3)


def test_neither_contrast_nor_the_images_beside_it_change_a_score(statistics):
    some = features(50, seed=4)
    together = strangeness(some, statistics)
    assert strangeness(1000 * some, statistics) == pytest.approx(together, abs=1e-6)
    assert np.concatenate([strangeness(row[None], statistics) for row in some]) == pytest.approx(together, abs=1e-12)


def test_features_rounded_to_bfloat16_or_float16_score_the_same(statistics):
    for some in (features(100, seed=5), features(100, seed=6, axes_seed=9)):
        exact = strangeness(some, statistics)
        bfloat16 = (some.view(np.uint32) + 0x8000 & 0xFFFF0000).view(np.float32)
        assert np.abs(bfloat16 - some).max() > 0
        for rounded in (bfloat16, some.astype(np.float16)):
            assert strangeness(rounded, statistics) == pytest.approx(exact, abs=1e-3)


def test_features_that_are_no_numbers_are_infinitely_strange_and_empty_ones_wholly(statistics):
    some = features(4, seed=7)
    some[0, 3], some[1, 4], some[2] = np.nan, np.inf, 0
    found = strangeness(some, statistics)
    assert list(found[:3]) == [np.inf, np.inf, 1.0] and found[3] < 0.5
    assert strangeness(some[:0], statistics).shape == (0,)


@pytest.mark.parametrize(("images", "width"), [(50, 2048), (1000, 2048), (300, 8000), (FEWEST, 3), (200, 1), (500, 64)])
def test_statistics_are_small_whatever_the_network(images, width):
    stored = json.dumps(fit(np.random.default_rng(0).random((images, width), np.float32)))
    assert len(stored) < 300_000
    statistics = json.loads(stored)
    axes = module._axes(statistics["method"], width, statistics["axes"])
    assert 1 <= len(axes) <= min(AXES, LARGEST // (2 * width), images)
    assert axes @ axes.T == pytest.approx(np.eye(len(axes)), abs=3e-3)


def test_axes_are_the_same_from_the_smaller_and_from_the_larger_matrix():
    """More images than features, and fewer, with a singular value decomposition as the judge."""
    for images in (60, 200):
        some = features(images, seed=8)
        lengths = np.linalg.norm(some.astype(np.float64), axis=1, keepdims=True)
        statistics = fit(some)
        axes = module._axes(statistics["method"], WIDTH, statistics["axes"])
        expected = np.linalg.svd(some / lengths, full_matrices=False)[2][: len(axes)]
        assert axes.T @ axes == pytest.approx(expected.T @ expected, abs=1e-3)


def test_copies_of_one_image_leave_one_axis():
    one = features(1, seed=9)
    statistics = fit(np.repeat(one, 40, axis=0))
    assert len(module._axes(statistics["method"], WIDTH, statistics["axes"])) == 1
    assert strangeness(one, statistics)[0] < 0.05


def test_too_few_images_are_refused_and_those_that_are_no_numbers_do_not_count():
    some = features(FEWEST, seed=10)
    fit(some)
    some[5, 5] = np.nan
    with pytest.raises(ValueError, match=f"^{FEWEST - 1} training images are too few"):
        fit(some)
    for none in (np.empty((0, WIDTH), np.float32), np.zeros((40, WIDTH), np.float32)):  # the latter of a dead network
        with pytest.raises(ValueError, match=r"^0 training images"):
            fit(none)


BROKEN = {
    "another method": {"method": "mahalanobis-1"},
    "no method": {"method": None},
    "another width": {"width": WIDTH + 1},
    "a width in words": {"width": "many"},
    "not base64": {"axes": "§§"},
    "cut off": {"axes": "AAA"},
    "nothing": {"axes": ""},
    "no text": {"axes": 3},
    "no numbers": {"axes": "fH4AfA==" * 24},
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_statistics_are_refused_in_words(what, statistics):
    with pytest.raises(ValueError, match="statistics of strangeness are broken"):
        strangeness(features(2, seed=1), statistics | BROKEN[what])


def test_missing_statistics_and_features_of_another_network_are_refused(statistics):
    with pytest.raises(ValueError, match="broken"):
        strangeness(features(2, seed=1), {"reason": "too few"})
    with pytest.raises(ValueError, match=r"shape \(2, 95\) do not go with statistics of 96"):
        strangeness(features(2, seed=1)[:, 1:], statistics)
