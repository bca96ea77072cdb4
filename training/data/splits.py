"""Train, validation and test: stratified, seeded, and never with one photograph or patient on two sides."""

import csv
import os
import random
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from training.data.intake import Example, Skipped
from training.recipe import Splits, UserError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Row:
    """A line of `local/splits.csv`."""

    path: str
    sha256: str
    label: str
    split: str
    group: str


def make_splits(examples: list[Example], splits: Splits) -> tuple[list[Row], list[Skipped]]:
    """Assign every example to train, validation or test.

    Splits that the data brings are kept. The missing ones are taken out of the rest, `splits.validation` and
    `splits.test` of it, so that every class is divided alike and exact duplicates and groups stay together. An image
    whose copy or group stands in a later split of the data's own (test before validation before train) is left out.

    Raises:
        UserError: a split would be empty.
    """
    groups = connected_groups(examples)
    examples, groups, skipped = _without_leaks(examples, groups)
    assigned = _assign(examples, groups, splits)
    _check_not_empty(assigned, skipped)
    sizes = Counter(groups)
    rows = []
    for example, group, split in zip(examples, groups, assigned, strict=True):
        shown = group if sizes[group] > 1 or example.group else ""
        rows.append(Row(example.path, example.sha256, example.label, split, shown))
    return rows, skipped


def connected_groups(examples: list[Example]) -> list[str]:
    """For each example the name of what it belongs to: images of one group or of equal content hang together."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for example in examples:
        parent[root(f"sha256:{example.sha256}")] = root(example.group or f"sha256:{example.sha256}")
    return [root(f"sha256:{example.sha256}") for example in examples]


def _without_leaks(examples: list[Example], groups: list[str]) -> tuple[list[Example], list[str], list[Skipped]]:
    """Where the data's own splits share an image or a group, what is nearer to training goes."""
    rank = {None: 0, "train": 0, "validation": 1, "test": 2}
    latest: dict[str, Example] = {}
    for example, group in zip(examples, groups, strict=True):
        if rank[example.split] > rank[latest.setdefault(group, example).split]:
            latest[group] = example
    kept, kept_groups, skipped = [], [], []
    for example, group in zip(examples, groups, strict=True):
        other = latest[group]
        if rank[example.split] < rank[other.split]:
            how = "the same file as one" if example.sha256 == other.sha256 else "of one group with an image"
            skipped.append(Skipped(example.path, f"{how} in {other.split}: '{other.path}'"))
        else:
            kept.append(example)
            kept_groups.append(group)
    return kept, kept_groups, skipped


def _assign(examples: list[Example], groups: list[str], splits: Splits) -> list[str]:
    """A split for each example: largest groups first, each to the split that its classes miss most."""
    given = {example.split for example in examples}
    missing = [name for name in ("validation", "test") if name not in given]
    members: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        if example.split in (None, "train"):
            members[groups[index]].append(index)
    pool = list(members.values())
    random.Random(splits.seed).shuffle(pool)
    pool.sort(key=len, reverse=True)  # stable: equal sizes stay shuffled
    labels = [Counter(examples[i].label for i in indices) for indices in pool]
    needed = _targets(labels, missing, splits)
    reserved = _reserve(labels, missing)
    assigned = [example.split or "train" for example in examples]
    for number in sorted(range(len(pool)), key=lambda number: number not in reserved):
        split = reserved.get(number) or max(
            needed, key=lambda name: sum(n * needed[name][label] for label, n in labels[number].items())
        )
        for i in pool[number]:
            assigned[i] = split
        needed[split].subtract(labels[number])
    return assigned


def _targets(pool: list[Counter], missing: list[str], splits: Splits) -> dict[str, Counter]:
    """How many images of each class each split should get; a class of fewer than three groups stays in training.

    What rounding takes from one split or class the next one gets: a fifth of 30 classes of 12 is 72 images, not 30 × 2.
    """
    images = Counter(label for labels in pool for label in labels.elements())
    groups = Counter(label for labels in pool for label in labels)
    targets = {"train": Counter(images), **{name: Counter() for name in missing}}
    owed = 0.0
    for turn, label in enumerate(label for label in sorted(images) if groups[label] >= 3):
        for name in missing if turn % 2 else reversed(missing):
            wanted = images[label] * getattr(splits, name) + owed
            targets[name][label] = max(1, round(wanted))
            owed = wanted - round(wanted)
            targets["train"][label] -= targets[name][label]
    return targets


def _reserve(pool: list[Counter], missing: list[str]) -> dict[int, str]:
    """A split for some of the pool, largest first, so that every class of three groups or more is in every split.

    Rare classes choose first; the smallest groups are enough for validation and test.
    """
    where: dict[str, list[int]] = defaultdict(list)
    for number, labels in enumerate(pool):
        for label in labels:
            where[label].append(number)
    reserved: dict[int, str] = {}
    present: dict[str, set[str]] = defaultdict(set)
    for label, numbers in sorted(where.items(), key=lambda item: (len(item[1]), item[0])):
        for name in (*missing, "train") if len(numbers) >= 3 else ():
            free = [number for number in numbers if number not in reserved]
            if free and label not in present[name]:
                chosen = free[0] if name == "train" else free[-1]
                reserved[chosen] = name
                present[name].update(pool[chosen])
    return reserved


def _check_not_empty(assigned: list[str], skipped: list[Skipped]) -> None:
    """Raise `UserError` if a split has no image."""
    empty = [name for name in SPLITS if name not in assigned]
    if "train" in empty:
        there = " and ".join(name for name in SPLITS if name in assigned)
        copies = f" ({len(skipped)} left out as copies)" if skipped else ""
        raise UserError(
            f"no image is left to train on: all {len(assigned)} are in {there} by the data's own splits{copies}; add a "
            "folder `train`, or arrange them in class folders alone"
        )
    if empty:
        raise UserError(
            f"{len(assigned)} images leave nothing for {' and '.join(empty)}: no class has three (copies of one image, "
            "or all of one group, count once); add images, at least three to a class"
        )


def warnings(rows: list[Row]) -> list[str]:
    """What makes results on these splits mean little, in sentences; empty if nothing does."""
    counts = {split: Counter(row.label for row in rows if row.split == split) for split in SPLITS}
    labels = sorted({row.label for row in rows})
    found = []
    few = [f"{label} ({counts['train'][label]})" for label in labels if counts["train"][label] < 10]
    if few:
        found.append(f"fewer than 10 images to learn from: {_some(few)}")
    for split in ("validation", "test"):
        total = sum(counts[split].values())
        if total < 50:
            width = 100 * 1.96 * 0.5 / max(total, 1) ** 0.5
            found.append(f"only {total} {split} images: an accuracy on them is uncertain by ± {width:.0f} points")
        absent = [label for label in labels if not counts[split][label]]
        if absent:
            found.append(f"classes without a {split} image, on which nothing can be said: {_some(absent)}")
    found += [f"classes that differ only in how they are written: {_some(names)}" for names in _spelt_alike(labels)]
    parallel = _parallel(rows)
    if parallel:
        found.append(parallel)
    by_content = defaultdict(list)
    for row in rows:
        by_content[row.sha256].append(row)
    torn = [copies for copies in by_content.values() if len({row.label for row in copies}) > 1]
    if torn:
        names = [" = ".join(row.path for row in copies) for copies in torn]
        found.append(f"{len(torn)} images stand in two classes at once (delete the wrong ones): {_some(names, most=3)}")
    return found


def _spelt_alike(labels: list[str]) -> list[list[str]]:
    """Classes that are one word but for capitals and what stands between words: `Rose` and `rose`."""
    words = defaultdict(list)
    for label in labels:
        words[re.sub(r"[\s_-]+", " ", label.casefold())].append(label)
    return [names for names in words.values() if len(names) > 1]


def _parallel(rows: list[Row]) -> str | None:
    """A warning if the classes look like whole data sets: PlantVillage has color, grayscale and segmented of each."""
    below: dict[str, set[str]] = {row.label: set() for row in rows}
    if len(below) < 2:
        return None
    loose = 0
    for row in rows:
        folders = row.path.split("/")[:-1]
        # Where the label is no folder of the path, a pattern or a table told it, and knew.
        place = next((i for i, name in enumerate(folders) if unicodedata.normalize("NFC", name) == row.label), None)
        if place is None:
            return None
        if place + 1 < len(folders):
            below[row.label].add(folders[place + 1])
        else:
            loose += 1
    common, either = set.intersection(*below.values()), set.union(*below.values())
    if len(common) < 2 or 2 * len(common) < len(either) or 10 * loose > len(rows):
        return None
    return (
        f"the classes {_some(sorted(below))} hold folders of the same names ({_some(sorted(common), most=3)}); if "
        f"these are the classes, give one of the former alone, such as --data_dir …/{min(below)}"
    )


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def write_splits(rows: list[Row], path: Path) -> None:
    """Write `splits.csv` under a temporary name and move it, so that the file is whole or not there."""
    partial = path.with_name(f".{path.name}")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Row.__dataclass_fields__)
            writer.writerows((row.path, row.sha256, row.label, row.split, row.group) for row in rows)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_splits(path: Path) -> list[Row]:
    """Read `splits.csv`.

    Raises:
        UserError: the file is missing or not one of ours.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [Row(**line) for line in csv.DictReader(file)]
        if not rows or any(row.split not in SPLITS or row.group is None for row in rows):
            raise ValueError("it has no rows, or half of a row, or one of an unknown split")
    except (OSError, TypeError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"'{path}' cannot be read ({reason}); start anew with --overwrite") from error
    return rows
