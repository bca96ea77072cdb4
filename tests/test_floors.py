"""Floors, against cases counted by hand."""

import numpy as np
import pytest

from training.data.images import Facts
from training.data.splits import Row
from training.results.floors import colour_neighbour, file_neighbour, majority, shuffled


def rows(*cases: tuple[str, str]) -> list[Row]:
    """Rows of split and label, called 0, 1, 2, …"""
    return [Row(str(index), "", label, split, "") for index, (split, label) in enumerate(cases)]


def facts(*colours: float, **others) -> dict[str, Facts]:
    """Facts of images whose 15 statistics are all one number."""
    return {
        str(index): Facts("", colours=np.full(15, colour, np.float16).tobytes(), **others)
        for index, colour in enumerate(colours)
    }


def test_the_majority_is_that_of_training_and_is_measured_on_test():
    floor = majority(
        rows(*[("train", "b")] * 3, *[("train", "a")] * 2, *[("validation", "a")] * 9)
        + rows(("test", "b"), ("test", "a"), ("test", "a"), ("test", "a"))
    )
    assert (floor.says, floor.accuracy, floor.images) == ("b", 0.25, 4)


def test_of_two_majorities_the_first_by_name_is_taken():
    assert majority(rows(("train", "b"), ("train", "a"), ("test", "a"))).says == "a"


def test_the_interval_is_wilsons():
    """50 of 100: Wilson's is (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), which is .5 ± .0962."""
    floor = majority(rows(("train", "a"), *[("test", "a")] * 50, *[("test", "b")] * 50))
    z = 1.959964
    half = z * (0.25 / 100 + z**2 / 40_000) ** 0.5 / (1 + z**2 / 100)
    assert (floor.low, floor.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


def test_all_right_is_no_certainty():
    floor = majority(rows(("train", "a"), *[("test", "a")] * 10))
    assert floor.accuracy == floor.high == 1
    assert floor.low == pytest.approx(10 / (10 + 1.959964**2), abs=1e-6)


def test_the_nearest_colours_class_is_answered_and_validation_counts_for_nothing():
    cases = rows(("train", "dark"), ("train", "light"), ("validation", "other"), ("test", "dark"), ("test", "dark"))
    floor = colour_neighbour(cases, facts(0.1, 0.9, 0.2, 0.2, 0.8))
    assert (floor.accuracy, floor.images) == (0.5, 2)


def test_of_very_many_test_images_a_part_is_asked_from_all_over():
    labels = ["a"] * 15_000 + ["b"] * 15_000
    cases = rows(("train", "a"), ("train", "b"), *[("test", label) for label in labels])
    floor = colour_neighbour(cases, facts(0.1, 0.9, *[0.2] * 30_000))
    assert (floor.images, floor.accuracy) == (10_000, 0.5)


def test_colour_statistics_are_measured_in_units_of_their_deviation_in_training():
    """The first statistic hardly varies but tells the class; the second varies much and tells nothing."""
    cases = rows(("train", "a"), ("train", "b"), ("train", "a"), ("train", "b"), ("test", "a"), ("test", "b"))
    values = [(0.50, 0.0), (0.51, 0.1), (0.50, 0.9), (0.51, 1.0), (0.50, 0.3), (0.51, 0.3)]
    known = {str(i): Facts("", colours=np.array(v + (0,) * 13, np.float16).tobytes()) for i, v in enumerate(values)}
    assert colour_neighbour(cases, known).accuracy == 1


def test_a_file_of_a_kind_that_training_has_not_gets_the_majority():
    cases = rows(
        *[("train", "big")] * 2, *[("train", "small")] * 3, ("test", "big"), ("test", "small"), ("test", "big")
    )
    kinds = [(200, 200)] * 2 + [(20, 20)] * 3 + [(200, 200), (20, 20), (77, 77)]
    known = {str(i): Facts("", width=w, height=h, mode="RGB", format="PNG") for i, (w, h) in enumerate(kinds)}
    assert file_neighbour(cases, known).accuracy == 2 / 3


def test_splits_drawn_by_lot_keep_their_sizes_and_the_labels():
    before = rows(*[("train", "a")] * 30, *[("test", "b")] * 10)
    after = shuffled(before, seed=1)
    assert [(row.path, row.label) for row in after] == [(row.path, row.label) for row in before]
    assert sorted(row.split for row in after) == sorted(row.split for row in before)
    assert 0 < sum(row.split == "test" and row.label == "a" for row in after) < 10
    assert after == shuffled(before, seed=1) != shuffled(before, seed=2)


@pytest.mark.parametrize("split", ["train", "test"])
def test_without_training_or_test_there_is_no_floor(split):
    with pytest.raises(ValueError, match="needs training and test"):
        majority(rows((split, "a")))
