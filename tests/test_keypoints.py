"""Keypoints: a part of one picture is found in another, mirrored, turned or rescaled, among many pictures."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import scene

from training.data.keypoints import KEPT, MIRROR, Keypoints, candidates, transform


def along(place: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ place[:, :2].T + place[:, 2]


CORNERS = np.array([[20.0, 20], [150, 20], [20, 110], [150, 110]])


def test_mirrored_keypoints_are_those_of_the_mirrored_picture():
    """The order of the 128 numbers is nowhere documented: SIFT of the flipped picture is the proof."""
    picture = scene(1)
    claimed = Keypoints.of(picture).mirrored(picture.shape[1])
    found = Keypoints.of(np.ascontiguousarray(picture[:, ::-1]))
    apart = np.linalg.norm(claimed.places[:, None] - found.places[None], axis=2)
    one, other = np.nonzero(apart < 0.1)
    assert len(set(one)) > 0.6 * len(claimed.places)  # the weakest that are kept are others
    claimed, found = claimed.descriptors[one].astype(float), found.descriptors[other].astype(float)
    alike = (claimed * found).sum(1) / np.linalg.norm(claimed, axis=1) / np.linalg.norm(found, axis=1)
    assert np.median(alike) > 0.98  # one place may have two directions, which make two descriptors
    assert sorted(MIRROR) == list(range(128)) and (MIRROR[MIRROR] == np.arange(128)).all()


@pytest.mark.parametrize(
    "turn, by, shift",
    [(0, 1.0, (-60, -30)), (0, 0.8, (10, 10)), (90, 1.0, (0, 0)), (25, 0.9, (20, -15)), (180, 1.3, (-40, -20))],
)
def test_a_transform_is_recovered(turn, by, shift):
    picture = scene(2)
    there = cv2.getRotationMatrix2D((160, 120), turn, by)
    there[:, 2] += shift
    moved = cv2.warpAffine(picture, there, (320, 240), borderMode=cv2.BORDER_REFLECT)
    found = transform(Keypoints.of(moved), Keypoints.of(picture))
    inside = ((along(there, CORNERS) > 0) & (along(there, CORNERS) < (320, 240))).all(1)
    assert np.abs(along(found, CORNERS) - along(there, CORNERS))[inside].max() < 2


def test_a_mirrored_crop_is_recovered():
    picture = scene(3)
    crop = np.ascontiguousarray(picture[30:210, 40:260][:, ::-1])
    found = transform(Keypoints.of(picture), Keypoints.of(crop).mirrored(crop.shape[1]))
    np.testing.assert_allclose(along(found, CORNERS), CORNERS + (40, 30), atol=1.5)


def test_a_small_copy_is_recovered():
    picture = scene(4)
    small = cv2.resize(picture, (80, 60), interpolation=cv2.INTER_AREA)
    found = transform(Keypoints.of(picture), Keypoints.of(small))
    assert found[0, 0] == pytest.approx(4, rel=0.03)


def test_other_pictures_lie_nowhere():
    assert transform(Keypoints.of(scene(5)), Keypoints.none()) is None
    assert transform(Keypoints.none(), Keypoints.none()) is None


def test_keypoints_come_back_from_bytes():
    found = Keypoints.of(scene(6))
    back = Keypoints.from_bytes(*found.to_bytes())
    np.testing.assert_array_equal(back.places, found.places)
    np.testing.assert_array_equal(back.descriptors, found.descriptors)
    assert found.places.shape == (len(found.descriptors), 2) and found.descriptors.shape[1] == 128


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (1, 300), (2, 500), (240, 320)])
def test_what_shows_nothing_has_no_keypoints(shape):
    assert len(Keypoints.of(np.full(shape, 90, np.uint8)).places) == 0


def test_a_strong_text_does_not_take_all_keypoints():
    """Burnt-in letters are the strongest keypoints of an ultrasound picture, and the same in each."""
    faint = (128 + (scene(7).astype(float) - 128) / 4).astype(np.uint8)
    for line in range(6):
        cv2.putText(faint, "ACME 5-1 Abd", (5, 12 + 12 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 255, 1)
    places = Keypoints.of(faint).places
    assert len(places) == KEPT
    assert ((places[:, 0] > 110) | (places[:, 1] > 85)).mean() > 0.5


def test_the_same_picture_has_the_same_keypoints_each_time():
    first, second = Keypoints.of(scene(8)), Keypoints.of(scene(8))
    np.testing.assert_array_equal(first.descriptors, second.descriptors)


def test_partners_are_found_among_many_whatever_their_number():
    """More pictures than go into one block, and one without any keypoint between them: numbers do not shift."""
    pictures = [scene(seed) for seed in range(100, 130)]
    pictures.insert(7, np.zeros((240, 320), np.uint8))
    pictures += [pictures[3][30:210, 40:280], np.ascontiguousarray(pictures[20][:200, ::-1]), pictures[29][:, 100:]]
    keypoints = [Keypoints.of(picture) for picture in pictures]
    found = {
        (min(a, b), max(a, b), mirrored) for a, b, mirrored in candidates(range(len(pictures)), keypoints.__getitem__)
    }
    assert {(3, 31, False), (20, 32, True), (29, 33, False)} <= found
    assert not any(7 in pair[:2] for pair in found)


def test_blocks_of_questions_keep_their_numbers(monkeypatch):
    monkeypatch.setattr("training.data.keypoints.BLOCK", 4)
    pictures = [scene(seed) for seed in range(200, 210)]
    pictures += [picture[20:220, 30:290] for picture in pictures]
    keypoints = [Keypoints.of(picture) for picture in pictures]
    found = {tuple(sorted(pair[:2])) for pair in candidates(range(20), keypoints.__getitem__)}
    assert {(number, number + 10) for number in range(10)} <= found


@pytest.mark.parametrize("count", [0, 1, 2])
def test_pictures_without_keypoints_have_no_partners(count):
    assert list(candidates(range(count), lambda number: Keypoints.none())) == []


def test_thousands_of_keypoints_are_indexed():
    """With a seed of 0, OpenCV's index of these would never be built; a process of its own, or nothing ends it."""
    code = """if True:
        import numpy as np
        from training.data.keypoints import Keypoints, candidates
        draw = np.random.default_rng(0)
        found = [Keypoints(np.zeros((64, 2), np.float32), draw.integers(0, 256, (64, 128), "uint8")) for _ in range(80)]
        print(list(candidates(range(81), [*found, found[5]].__getitem__)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "(5, 80, False)" in done.stdout, done.stderr
