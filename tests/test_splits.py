"""Splits: as large as asked in every class, the same for one seed, and never one photograph or patient on two sides."""

import csv
import random
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from training.data.duplicates import Duplicate
from training.data.intake import Example
from training.data.splits import (
    RANK,
    SPLITS,
    Row,
    as_before,
    conflict_warnings,
    conflicts,
    connected_groups,
    make_folds,
    make_splits,
    read_splits,
    warnings,
    write_conflicts,
    write_splits,
)
from training.recipe import Splits, UserError

USUAL = Splits(validation=0.15, test=0.2)


def examples(classes: dict[str, int], split: str | None = None, group: str | None = None) -> list[Example]:
    """Images of the given number for each class; no two are of one content unless their paths are equal."""
    names = [f"{name}/{split or ''}{group or ''}{i:05}.png" for name, count in classes.items() for i in range(count)]
    return [Example(name, name.split("/")[0], split, group, f"digest of {name}") for name in names]


def split(found: list[Example], splits: Splits = USUAL) -> list[Row]:
    """Rows, of examples of which none is left out."""
    rows, skipped = make_splits(found, splits)
    assert skipped == []
    return rows


def duplicate(one: Example, other: Example, kind: str = "near") -> Duplicate:
    first, second = sorted((one.path, other.path))
    return Duplicate(first, second, kind, 0.9)


def counts(rows: list[Row]) -> dict[str, dict[str, int]]:
    return {name: dict(Counter(row.label for row in rows if row.split == name)) for name in SPLITS}


def sides(rows: list[Row]) -> dict[str, set[str]]:
    """On which sides the images of each group are."""
    found = defaultdict(set)
    for row in rows:
        if row.group:
            found[row.group].add(row.split)
    return found


# How large


@pytest.mark.parametrize("shares", [(0.15, 0.2), (0.1, 0.1), (0.2, 0.25), (0.01, 0.5), (0.33, 0.33), (0.6, 0.39)])
def test_every_class_gets_its_share_to_a_rounding(shares):
    classes = {f"class {n}": n for n in (3, 4, 7, 12, 12, 13, 50, 99, 200, 1001)}
    splits = Splits(validation=shares[0], test=shares[1])
    found = counts(split(examples(classes), splits))
    wanted = {"validation": shares[0], "test": shares[1], "train": 1 - sum(shares)}
    for name, total in classes.items():
        for part, share in wanted.items():
            assert found[part][name] >= 1
            # One image of each class in each split goes before the share that was asked for.
            least = min(total * share for share in wanted.values())
            assert abs(found[part][name] - total * share) < 1 or least < 1


@pytest.mark.parametrize("share", [0.1, 0.15, 0.2, 0.33])
def test_all_classes_together_get_their_share_as_well(share):
    classes = {f"class {i:02}": n for i, n in enumerate((10, 12, 12, 13, 13, 13, 14, 50, 150, 199, 1001))}
    found = counts(split(examples(classes), Splits(validation=share, test=share)))
    for part in ("validation", "test"):
        assert abs(sum(found[part].values()) - share * sum(classes.values())) < 2  # rounded down in each, up to 8


def test_a_fifth_of_the_360_rocks_is_72():
    """A fifth of 12 is 2.4: rounded for each class alone, a sixth of all would be left for validation."""
    train = examples({f"rock {i:02}": 12 for i in range(30)})
    test = examples({f"rock {i:02}": 4 for i in range(30)}, "test")
    found = counts(split(train + test, Splits(validation=0.2, test=0.25)))
    assert {name: sum(part.values()) for name, part in found.items()} == {"train": 288, "validation": 72, "test": 120}
    assert set(found["validation"].values()) == {2, 3}


def test_the_order_of_the_rows_is_that_of_the_examples():
    found = examples({"a": 9, "b": 9})
    assert [row.path for row in split(found)] == [example.path for example in found]


@pytest.mark.parametrize(
    ("classes", "held_out"),
    [({"a": 3, "b": 3}, {"a": 1, "b": 1}), ({"a": 5, "b": 2}, {"a": 1}), ({"a": 3, "b": 1}, {"a": 1})],
)
def test_from_three_images_on_a_class_is_in_every_split_and_below_only_in_training(classes, held_out):
    found = counts(split(examples(classes)))
    assert found["validation"] == found["test"] == held_out
    assert set(found["train"]) == set(classes)


# Seeds


def test_one_seed_one_answer_and_another_seed_another():
    found = examples({"a": 40, "b": 30})
    assert split(found) == split(found)
    others = [split(found, Splits(validation=0.15, test=0.2, seed=seed)) for seed in range(5)]
    assert len({tuple(rows) for rows in others}) == 5
    assert all(counts(rows) == counts(others[0]) for rows in others)


def test_neither_names_nor_dates_decide_what_is_held_out():
    held_out = [int(row.path[-9:-4]) for row in split(examples({"a": 1000, "b": 3})) if row.split == "test"]
    assert 300 < sum(held_out) / len(held_out) < 700


# Kept together


def with_groups(draw: random.Random, groups: int, labels: int, largest: int) -> list[Example]:
    found = []
    for number in range(groups):
        for _ in range(draw.randint(1, largest)):
            name = f"class {draw.randrange(labels) if draw.random() < 0.1 else number % labels}"
            path = f"{name}/{len(found):05}.png"
            found.append(Example(path, name, None, f"patient {number}", f"digest of {path}"))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_groups_and_duplicates_stay_on_one_side_whatever_comes(seed):
    draw = random.Random(seed)
    found = with_groups(draw, groups=draw.randint(12, 60), labels=draw.randint(2, 4), largest=draw.randint(1, 30))
    for index in range(0, len(found), 17):  # the same picture again, in another group and perhaps in another class
        twin = draw.choice(found)
        found[index] = Example(found[index].path, found[index].label, None, found[index].group, twin.sha256)
    rows = split(found)
    by_content, by_patient = defaultdict(set), defaultdict(set)
    for example, row in zip(found, rows, strict=True):
        by_content[example.sha256].add(row.split)
        by_patient[example.group].add(row.split)
    assert all(len(where) == 1 for where in [*by_content.values(), *by_patient.values(), *sides(rows).values()])
    groups = defaultdict(set)
    for row in rows:
        groups[row.label].add(row.group)
    for part in counts(rows).values():
        assert {name for name, those in groups.items() if len(those) >= 8} <= set(part)


def test_many_patients_are_divided_nearly_as_asked():
    """About as BreakHis is: 24 and 58 patients with 40 to 180 images each."""
    draw = random.Random(1)
    found = []
    for label, patients in {"benign": 24, "malignant": 58}.items():
        for patient in range(patients):
            of_one = examples({label: draw.randint(40, 180)}, group=f"{label} {patient} ")
            found += of_one
    rows = split(found)
    assert all(len(where) == 1 for where in sides(rows).values())
    for name in ("benign", "malignant"):
        total = sum(row.label == name for row in rows)
        for part, share in {"validation": 0.15, "test": 0.2}.items():
            got = sum(row.label == name and row.split == part for row in rows)
            assert got / total == pytest.approx(share, abs=0.03)


def test_three_patients_suffice_however_unlike_they_are():
    found = [
        example
        for label in ("ill", "well")
        for number, images in enumerate((50, 40, 30))
        for example in examples({label: images}, group=f"{label} {number} ")
    ]
    assert counts(split(found)) == {
        "train": {"ill": 50, "well": 50},
        "validation": {"ill": 30, "well": 30},
        "test": {"ill": 40, "well": 40},
    }


def test_one_large_group_does_not_push_single_images_out():
    found = examples({"a": 50}, group="burst") + examples({"a": 50, "b": 100})
    rows = split(found)
    assert counts(rows)["train"]["a"] == 65
    assert sides(rows) == {"burst": {"train"}}


def test_equal_content_ties_groups_together():
    a, b, c = (Example(f"{name}.png", "x", None, name, name) for name in "abc")
    bridge = Example("bridge.png", "x", None, "a", "b")
    groups = connected_groups([a, b, c, bridge])
    assert groups[0] == groups[1] == groups[3] != groups[2]


def test_duplicates_without_a_group_are_shown_as_one():
    found = examples({"a": 10, "b": 10})
    found[3] = Example("a/copy.png", "a", None, None, found[2].sha256)
    rows = split(found)
    assert [row.path for row in rows if row.group] == [found[2].path, "a/copy.png"]
    assert len(sides(rows)) == 1


def test_near_duplicates_stay_together_and_the_first_names_their_cluster():
    found = examples({"a": 12, "b": 12})
    chain = [duplicate(found[9], found[4]), duplicate(found[4], found[7], "part"), duplicate(found[5], found[6])]
    rows, skipped = make_splits(found, USUAL, chain)
    assert skipped == []
    assert {row.path: row.group for row in rows if row.group} == {
        **dict.fromkeys([found[4].path, found[7].path, found[9].path], "a/00004.png"),
        **dict.fromkeys([found[5].path, found[6].path], "a/00005.png"),
    }
    assert all(len(where) == 1 for where in sides(rows).values())
    again = make_splits(found, USUAL, [chain[2], chain[1], chain[0]])
    assert again == (rows, [])


def test_a_patient_names_the_cluster_and_hands_on_what_is_tied_to_it():
    found = [*examples({"a": 2}, group="patient 2"), *examples({"a": 2}, group="patient 1"), *examples({"a": 1})]
    pairs = [duplicate(found[0], found[2]), duplicate(found[1], found[4])]
    assert connected_groups(found, pairs) == ["patient 1"] * 5
    assert connected_groups(found[::-1], pairs) == ["patient 1"] * 5


def test_images_of_which_no_content_is_known_are_not_taken_for_copies():
    found = [replace(example, sha256="") for example in examples({"a": 3, "b": 3})]
    assert connected_groups(found) == [example.path for example in found]
    assert conflicts(found) == []


def test_duplicates_of_images_that_are_not_there_tie_nothing():
    found = examples({"a": 3})
    assert connected_groups(found, [Duplicate("a/00000.png", "gone.png", "near", 1)]) == [e.path for e in found]


# Two classes at once


def test_conflicts_are_clusters_of_images_with_unlike_labels_and_a_patient_makes_none():
    rose, rose_again, tulip, daisy, lily = (
        Example(f"{name}.png", name.rstrip("2"), None, "one patient", name)
        for name in ("rose", "rose2", "tulip", "daisy", "lily")
    )
    copy = replace(daisy, path="also/daisy.png", label="lily")
    pairs = [duplicate(rose, rose_again), duplicate(rose_again, tulip, "mirrored")]
    assert conflicts([lily, tulip, daisy, copy, rose, rose_again], pairs) == [[copy, daisy], [rose, rose_again, tulip]]
    assert conflicts([rose, rose_again, lily], pairs) == []


def test_conflicts_are_written_whole(tmp_path):
    rose, tulip = Example("ä, b/rose.png", "rose"), Example("tulip.png", "tulip")
    write_conflicts([[tulip, rose]], tmp_path / "conflicts.csv")
    with (tmp_path / "conflicts.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["cluster", "path", "label"],
            ["tulip.png", "tulip.png", "tulip"],
            ["tulip.png", "ä, b/rose.png", "rose"],
        ]


def test_whoever_belongs_to_a_patient_with_a_conflict_is_only_trained_on():
    found = [*examples({"a": 40, "b": 40}), *examples({"a": 6}, group="patient")]
    rows, _ = make_splits(found, USUAL, [duplicate(found[80], found[50])])
    assert {row.split for row in rows if row.group == "patient"} == {"train"}
    assert sum(row.group == "patient" for row in rows) == 7


def test_conflicts_that_the_data_tests_are_left_out_and_told_and_their_twins_trained_on():
    train, validation, test = (examples({"a": 12, "b": 12}, name) for name in SPLITS)
    pairs = [duplicate(train[0], test[20]), duplicate(validation[1], validation[13]), duplicate(train[2], test[2])]
    rows, skipped = make_splits([*train, *validation, *test], USUAL, pairs)
    torn = "in two classes at once, and in {}: '{}' here, '{}' as '{}'"
    assert [(each.path, each.reason) for each in skipped] == [
        ("a/train00002.png", "a near-duplicate of one in test: 'a/test00002.png'"),
        ("a/validation00001.png", torn.format("validation", "a", "b", "b/validation00001.png")),
        ("b/validation00001.png", torn.format("validation", "b", "a", "a/validation00001.png")),
        ("b/test00008.png", torn.format("test", "b", "a", "a/train00000.png")),
    ]
    assert {row.split for row in rows if row.path == "a/train00000.png"} == {"train"}


def test_if_all_images_are_in_two_classes_it_is_said():
    found = examples({"a": 4, "b": 4})
    found = [replace(example, sha256=example.path[2:]) for example in found]
    with pytest.raises(UserError, match="; 8 of them stand in two classes and cannot be used for it; add images"):
        make_splits(found, USUAL)


# Splits that the data brings


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("exact", "the same file as one"),
        ("near", "a near-duplicate of one"),
        ("mirrored", "a mirror image of one"),
        ("part", "overlaps with one"),
    ],
)
def test_a_leak_is_told_with_its_kind(kind, how):
    train, test = examples({"a": 12, "b": 12}, "train"), examples({"a": 3, "b": 3}, "test")
    # The third of the chain has no tie of its own with the test image.
    chain = [duplicate(train[0], test[0], kind), duplicate(train[0], train[1], "near")]
    _, skipped = make_splits([*train, *test], USUAL, chain)
    assert [(each.path, each.reason) for each in skipped] == [
        (train[0].path, f"{how} in test: '{test[0].path}'"),
        (train[1].path, f"linked through others to one in test: '{test[0].path}'"),
    ]


def test_given_splits_are_kept_and_only_the_missing_ones_are_carved():
    classes = {"a": 20, "b": 40}
    test = examples({"a": 5, "b": 5}, "test")
    rows = split(examples(classes, "train") + test)
    assert counts(rows) == {"train": {"a": 17, "b": 34}, "validation": {"a": 3, "b": 6}, "test": {"a": 5, "b": 5}}
    assert {row.path for row in rows if row.split == "test"} == {example.path for example in test}


def test_given_splits_are_all_kept_if_nothing_is_missing():
    found = [example for name in SPLITS for example in examples({"a": 3, "b": 4}, name)]
    assert [row.split for row in split(found)] == [example.split for example in found]


def test_a_class_that_is_only_in_the_given_test_split_is_kept_and_warned_of():
    rows = split(examples({"a": 20, "b": 20}, "train") + examples({"a": 5, "c": 5}, "test"))
    assert counts(rows)["test"] == {"a": 5, "c": 5}
    assert "fewer than 10 images to learn from: c (0)" in warnings(rows)
    assert "classes without a test image, on which nothing can be said: b" in warnings(rows)


def test_copies_across_given_splits_are_removed_from_the_side_nearer_to_training_and_listed():
    train, validation, test = (examples({"a": 12, "b": 12}, name) for name in SPLITS)
    in_test = Example("a/another train twin.png", "a", "train", None, test[0].sha256)
    in_validation = Example("a/train twin.png", "a", "train", None, validation[0].sha256)
    of_both = Example("a/validation twin.png", "a", "validation", None, test[1].sha256)
    rows, skipped = make_splits([*train, *validation, *test, in_test, in_validation, of_both], USUAL)
    assert [(each.path, each.reason) for each in skipped] == [
        ("a/another train twin.png", f"the same file as one in test: '{test[0].path}'"),
        ("a/train twin.png", f"the same file as one in validation: '{validation[0].path}'"),
        ("a/validation twin.png", f"the same file as one in test: '{test[1].path}'"),
    ]
    assert counts(rows) == {name: {"a": 12, "b": 12} for name in SPLITS}


def test_a_patient_of_a_given_test_split_is_not_trained_on():
    train = examples({"a": 20, "b": 20}, "train")
    seen = Example("a/seen.png", "a", "train", "patient 1", "seen")
    test = [Example(f"{name}/test.png", name, "test", "patient 1", name) for name in "ab"]
    rows, skipped = make_splits([*train, seen, *test], USUAL)
    assert [(each.path, each.reason) for each in skipped] == [
        ("a/seen.png", "of one group with an image in test: 'a/test.png'")
    ]
    assert sides(rows) == {"patient 1": {"test"}}


def test_copies_within_one_side_are_all_kept():
    found = examples({"a": 10, "b": 10}, "train") + examples({"a": 3, "b": 3}, "test")
    twins = [Example("a/twin.png", "a", "train", None, found[0].sha256)]
    rows = split(found + twins)
    assert len({row.split for row in rows if row.sha256 == found[0].sha256}) == 1


# Whatever comes


def anything(seed: int) -> tuple[list[Example], list[Duplicate]]:
    """Images of a few classes with patients, copies and duplicates, some across classes, some with splits given."""
    draw = random.Random(seed)
    given = draw.choice([[None], ["train", "test"], ["train", "train", "validation", "test"], [None, "test"]])
    found, classes = [], draw.randint(2, 4)
    for number in range(draw.randint(120, 240)):
        label = f"class {number % classes}"
        patient = f"patient {draw.randrange(80)} {label}" if draw.random() < 0.5 else None
        found.append(Example(f"{label}/{number:04}.png", label, draw.choice(given), patient, f"digest {number}"))
    pairs = []
    for _ in range(draw.randint(0, 15)):
        one, other = draw.sample(range(len(found)), 2)
        if draw.random() < 0.7 and found[one].label != found[other].label:
            continue  # most duplicates are of one class
        if draw.random() < 0.5:
            found[one] = replace(found[one], sha256=found[other].sha256)
        else:
            pairs.append(duplicate(found[one], found[other], draw.choice(["near", "mirrored", "part"])))
    return found, pairs


def reachable(found: list[Example], pairs: list[Duplicate], by_group: bool) -> dict[str, set[str]]:
    """For each path those that it is tied to, by walking; the slow way, which is easily seen to be right."""
    ties = defaultdict(set)
    for pair in pairs:
        ties[pair.first].add(pair.second)
        ties[pair.second].add(pair.first)
    for one in found:
        for other in found:
            if one.sha256 == other.sha256 or (by_group and one.group and one.group == other.group):
                ties[one.path].add(other.path)
    result = {}
    for example in found:
        seen, front = {example.path}, [example.path]
        while front:
            new = ties[front.pop()] - seen
            seen |= new
            front += new
        result[example.path] = seen
    return result


@pytest.mark.parametrize("seed", range(40))
def test_no_cluster_is_on_two_sides_and_no_conflict_is_tested(seed):
    found, pairs = anything(seed)
    label, given = ({e.path: getattr(e, name) for e in found} for name in ("label", "split"))
    rows, skipped = make_splits(found, USUAL, pairs)
    assert sorted([row.path for row in rows] + [each.path for each in skipped]) == sorted(label)
    where = {row.path: row.split for row in rows}
    for path, together in reachable(found, pairs, by_group=True).items():
        assert path not in where or {where[each] for each in together if each in where} == {where[path]}
    torn = {p for p, alike in reachable(found, pairs, by_group=False).items() if len({label[e] for e in alike}) > 1}
    assert {where[path] for path in torn & where.keys()} <= {"train"}
    assert {example.path for cluster in conflicts(found, pairs) for example in cluster} == torn
    # A split of the data's own is kept or the image is left out; and every image that is left out has to be.
    assert all(given[path] in (None, "train", split) for path, split in where.items())
    assert {each.path for each in skipped if each.reason.startswith("in two classes")} == {
        path for path in torn if RANK[given[path]] > 0
    }
    leaks = [each for each in skipped if not each.reason.startswith("in two classes")]
    assert all(each.reason.rsplit("'", 2)[1] in where for each in leaks)
    if set(given.values()) == {None}:
        tied = reachable(found, pairs, by_group=True)
        clean = [path for path in where if not tied[path] & torn]
        assert not skipped
        for name, share in {"validation": USUAL.validation, "test": USUAL.test}.items():
            got = sum(split == name for split in where.values())
            assert got == pytest.approx(share * len(clean), abs=len(set(label.values())) + 1)


@pytest.mark.parametrize("seed", range(40))
def test_every_image_is_tested_in_one_fold_and_what_conflicts_in_none(seed):
    found, pairs = anything(seed)
    folds = 2 + seed % 4
    label, given = ({e.path: getattr(e, name) for e in found} for name in ("label", "split"))
    parts, skipped = make_folds(found, folds, USUAL, pairs)
    assert len(parts) == folds
    together = reachable(found, pairs, by_group=True)
    torn = {p for p, alike in reachable(found, pairs, by_group=False).items() if len({label[e] for e in alike}) > 1}
    tested = Counter()
    for rows in parts:
        where = {row.path: row.split for row in rows}
        assert set(where) == {row.path for row in parts[0]}
        assert all(
            {where[each] for each in together[path] if each in where} == {split} for path, split in where.items()
        )
        assert {where[path] for path in torn & where.keys()} <= {"train"}
        assert set(where.values()) == set(SPLITS)
        assert {row.label for row in rows if row.split == "test"} == {row.label for row in rows}
        tested.update(path for path, split in where.items() if split == "test")
    assert set(tested.values()) == {1}
    assert {row.path for row in parts[0]} - set(tested) == {row.path for row in parts[0] if together[row.path] & torn}
    # The data's own test split is used for nothing, and nothing that shows the same is.
    left_out = {each.path for each in skipped}
    assert {path for path, split in given.items() if split == "test"} <= left_out
    assert left_out | {row.path for row in parts[0]} == set(label)


# Folds


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_folds_are_alike_in_every_class(folds):
    classes = {f"class {i:02}": n for i, n in enumerate((10, 12, 12, 13, 50, 199))}
    parts, _ = make_folds(examples(classes), folds, USUAL)
    for name, total in classes.items():
        sizes = [counts(rows)["test"][name] for rows in parts]
        assert sum(sizes) == total and max(sizes) - min(sizes) <= 2
    sizes = [sum(counts(rows)["test"].values()) for rows in parts]
    assert max(sizes) - min(sizes) <= 3
    for rows, size in zip(parts, sizes, strict=True):
        learned_from = sum(classes.values()) - size
        share = sum(counts(rows)["validation"].values()) / learned_from
        assert share == pytest.approx(USUAL.validation, abs=0.02)


def test_groups_that_are_very_unlike_are_divided_and_rare_classes_are_in_every_fold():
    draw = random.Random(3)
    found = []
    for label, patients in {"a": 60, "b": 20, "rare": 5}.items():
        for patient in range(patients):
            found += examples({label: draw.choice([1, 1, 2, 5, 40])}, group=f"{label} {patient} ")
    parts, _ = make_folds(found, 5, USUAL)
    total = Counter(example.label for example in found)
    for rows in parts:
        assert set(counts(rows)["test"]) == {"a", "b", "rare"}
        assert counts(rows)["test"]["a"] / total["a"] == pytest.approx(0.2, abs=0.03)
        assert all(len(where) == 1 for where in sides(rows).values())


def test_folds_are_a_function_of_data_and_seed():
    found = examples({"a": 30, "b": 30})
    parts = [make_folds(found, 3, Splits(seed=seed)) for seed in (1, 1, 2)]
    assert parts[0] == parts[1] != parts[2]


def test_the_120_rocks_are_used_for_nothing():
    train = examples({f"rock {i:02}": 12 for i in range(30)})
    test = examples({f"rock {i:02}": 4 for i in range(30)}, "test")
    train[5] = replace(train[5], sha256=test[1].sha256)
    parts, skipped = make_folds([*train, *test], 4, USUAL)
    assert {row.path for rows in parts for row in rows} == {example.path for example in train} - {train[5].path}
    assert Counter(each.reason.partition(":")[0] for each in skipped) == {
        "in the data's own test split, which folds leave alone": 120,
        "the same file as one in test": 1,
    }


def test_own_validation_images_are_tested_like_all_others():
    found = examples({"a": 10, "b": 10}, "train") + examples({"a": 5, "b": 5}, "validation")
    parts, skipped = make_folds(found, 3, USUAL)
    assert skipped == []
    assert {row.path for rows in parts for row in rows if row.split == "test"} == {example.path for example in found}


def test_more_folds_than_the_smallest_class_has_groups_are_refused_with_how_many_there_may_be():
    found = examples({"a": 30, "b": 5})
    found[33] = replace(found[33], sha256=found[34].sha256)
    with pytest.raises(UserError) as refused:
        make_folds(found, 5, USUAL)
    assert str(refused.value) == (
        "--folds 5 needs 5 images of every class to test, 'b' has 4 (duplicates of one image, or all of one group, "
        "count once; what stands in two classes does not count): at most --folds 4 is possible"
    )
    assert len(make_folds(found, 4, USUAL)[0]) == 4


def test_if_the_data_wants_all_of_it_for_its_test_there_are_no_folds():
    with pytest.raises(UserError, match="all images are in the data's own test split"):
        make_folds(examples({"a": 5, "b": 5}, "test"), 2, USUAL)


def test_a_class_of_a_single_group_cannot_be_cross_validated():
    with pytest.raises(UserError, match=r"'b' has 1 .*: add images, at least two to each class"):
        make_folds(examples({"a": 30}) + examples({"b": 9}, group="patient"), 2, USUAL)


# Too little


def test_too_few_images_are_refused_with_what_would_do():
    with pytest.raises(UserError) as refused:
        make_splits(examples({"a": 2, "b": 2}), USUAL)
    assert str(refused.value) == (
        "4 images leave nothing for validation and test: no class has three (copies of one image, or all of one group, "
        "count once); add images, at least three to a class"
    )


def test_if_all_is_for_the_test_nothing_is_left_to_train_on():
    with pytest.raises(UserError) as refused:
        make_splits(examples({"a": 20, "b": 20}, "test"), USUAL)
    assert str(refused.value) == (
        "no image is left to train on: all 40 are in test by the data's own splits; add a folder `train`, or arrange "
        "them in class folders alone"
    )


def test_if_every_training_image_is_a_copy_of_a_test_image_nothing_is_left_to_train_on():
    test = examples({"a": 5, "b": 5}, "test")
    train = [Example(f"train/{each.path}", each.label, "train", None, each.sha256) for each in test]
    with pytest.raises(
        UserError, match=r"no image is left to train on: all 10 are in test .* \(10 left out as copies\)"
    ):
        make_splits(train + test, USUAL)


# Warnings


def test_splits_on_which_results_mean_something_are_not_warned_of():
    assert warnings(split(examples({"a": 300, "b": 300}))) == []


def test_small_splits_are_warned_of_with_the_uncertainty():
    assert warnings(split(examples({"a": 70, "b": 70}))) == [
        "only 21 validation images: an accuracy on them is uncertain by ± 21 points",
        "only 28 test images: an accuracy on them is uncertain by ± 19 points",
    ]


def test_of_many_small_classes_five_are_named():
    found = warnings(split(examples({f"{i:03}": 4 for i in range(120)})))
    assert found == [
        "fewer than 10 images to learn from: 000 (2), 001 (2), 002 (2), 003 (2), 004 (2) and 115 more",
    ]


def test_an_image_in_two_classes_is_warned_of_and_only_trained_on():
    found = examples({"rose": 300, "tulip": 300})
    for i in range(7):
        found[300 + i] = Example(found[300 + i].path, "tulip", None, None, found[i].sha256)
    rows = split(found)
    assert warnings(rows) == []
    (warning,) = conflict_warnings(conflicts(found))
    assert warning.startswith(
        "7 images stand in two classes at once, never to be tested (delete the wrong copies): "
        "rose/00000.png (rose) = tulip/00000.png (tulip), rose/00001.png (rose)"
    )
    assert warning.endswith(" and 4 more")
    assert sorted(sides(rows).values()) == [{"train"}] * 7


def test_nothing_is_warned_of_where_nothing_conflicts():
    assert conflict_warnings(conflicts(examples({"a": 3, "b": 3}))) == []


def test_a_hundred_thousand_images_are_divided_and_judged_in_no_time():
    found = examples({f"class {i}": 1000 for i in range(100)})
    # A quarter is there twice, in two classes; the rest has near-duplicates.
    found = [
        replace(e, sha256=f"digest {i % 12_500}") if i < 25_000 else replace(e, group=f"patient {i // 3}")
        for i, e in enumerate(found)
    ]
    pairs = [duplicate(found[i], found[i + 500]) for i in range(25_000, 99_000, 7)]
    given = [replace(e, split="test" if i % 10 == 0 else "train") for i, e in enumerate(found)]
    began = time.perf_counter()
    rows, _ = make_splits(found, USUAL, pairs)
    assert len(rows) == 100_000 and len(conflicts(found, pairs)) > 12_000
    rows, skipped = make_splits(given, USUAL, pairs)
    assert len(rows) + len(skipped) == 100_000
    assert time.perf_counter() - began < 30  # it takes 5 seconds; quadratic, it would take hours


# splits.csv

ODD = ['a, "b"/1.png', "it's/ü 花 [1].png", " leading/x.png", "semi;colon/#.png", "tab\there/1.png", "two\nlines/1.png"]


def test_splits_are_read_back_as_they_were_written_whatever_the_names(tmp_path):
    rows = [Row(path, "0" * 64, path.split("/")[0], "train", f"group of {path}") for path in ODD]
    write_splits(rows, tmp_path / "splits.csv")
    assert read_splits(tmp_path / "splits.csv") == rows
    assert [path.name for path in tmp_path.iterdir()] == ["splits.csv"]
    header = (tmp_path / "splits.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "path,sha256,label,split,group"


def test_a_failing_write_leaves_neither_half_a_file_nor_the_old_one_harmed(tmp_path):
    path = tmp_path / "splits.csv"
    whole = [Row("a.png", "0", "a", "train", "")]
    write_splits(whole, path)
    with pytest.raises(UnicodeEncodeError):
        write_splits([*whole, Row("\udcff.png", "0", "a", "train", "")], path)
    assert read_splits(path) == whole
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"path,label\na.png,a\n",
        b"path,sha256,label,split,group\n",
        b"path,sha256,label,split,group\na.png,0,a\n",
    ]
    + [
        b"path,sha256,label,split,group\na.png,0,a,training,\n",
        b"\xff\xfe",
        b"path,sha256,label,split,group\na,b,c,test,,,\n",
    ],
)
def test_a_file_that_is_not_ours_is_refused_with_the_way_out(content: bytes | None, tmp_path: Path):
    path = tmp_path / "splits.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_splits(path)
    assert str(refused.value).startswith(f"'{path}' cannot be read (")
    assert str(refused.value).endswith("); start anew with --overwrite")
    assert "\n" not in str(refused.value)


# A run that comes back on another machine, where only content, label and split are known of its images


def forgotten(rows: list[Row]) -> list[Row]:
    return [replace(row, path="", group="") for row in rows]


def test_images_come_back_to_the_places_that_they_had():
    found = examples({"a": 30, "b": 30}, group="patient-") + examples({"c": 20})
    found = [replace(each, group=each.path[:-5]) if each.label == "a" else each for each in found]
    copies = [replace(found[0], path="a/copy.png"), replace(found[65], path="c/copy.png")]
    torn = replace(found[70], path="a/torn.png", label="a")
    found, pairs = [*found, *copies, torn], [duplicate(found[3], found[4])]
    rows, left_out = make_splits(found, USUAL, pairs)
    assert as_before(found, pairs, forgotten(rows)) == (rows, left_out)


def test_what_the_data_left_out_is_left_out_again_with_its_reason():
    found = examples({"a": 30, "b": 30}, "train") + examples({"a": 9, "b": 9}, "test")
    found.append(replace(found[-1], path="b/again.png", split="train"))
    rows, left_out = make_splits(found, USUAL)
    assert [each.path for each in left_out] == ["b/again.png"]
    assert as_before(found, (), forgotten(rows)) == (rows, left_out)


def test_neither_names_nor_order_nor_new_images_move_anything():
    found = examples({"a": 30, "b": 30})
    rows = split(found)
    moved = [replace(each, path=f"z/{each.path[::-1]}") for each in found[::-1]]
    new = examples({"a": 3}, group="new")
    back, left_out = as_before([*new, *moved], (), forgotten(rows))
    assert [(row.sha256, row.label, row.split) for row in back] == [(row.sha256, row.label, row.split) for row in rows]
    assert [each.path for each in left_out] == [each.path for each in new]
    assert {each.reason for each in left_out} == {"not among the images that the run began with"}


def test_what_is_missing_or_of_another_class_is_counted():
    found = examples({"a": 30, "b": 30})
    rows = forgotten(split(found))
    changed = [replace(found[0], sha256="other"), replace(found[1], label="b"), *found[3:]]
    with pytest.raises(UserError, match=r"3 of the run's 60 images are not among the 59 here.*--data_dir"):
        as_before(changed, (), rows)
