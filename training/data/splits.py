"""Train, validation and test: stratified, seeded, and never with one photograph or patient on two sides."""

import csv
import random
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
    `splits.test` of it, so that every class is divided alike and exact duplicates and groups stay together. A copy of
    an image that stands in a later split of the data's own (test before validation before train) is left out.

    Raises:
        UserError: fewer than two classes, or no image is left to train on.
    """
    labels = sorted({example.label for example in examples})
    if len(labels) < 2:
        raise UserError(
            f"only one class, '{labels[0]}' ({len(examples)} images); a classifier needs two: one folder a class"
        )
    examples, skipped = _without_leaks(examples)
    groups = connected_groups(examples)
    assigned = _assign(examples, groups, splits)
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


def _without_leaks(examples: list[Example]) -> tuple[list[Example], list[Skipped]]:
    """Where the data's own splits share an image, the copy nearest to training goes."""
    rank = {None: 0, "train": 0, "validation": 1, "test": 2}
    highest: dict[str, Example] = {}
    for example in examples:
        best = highest.setdefault(example.sha256, example)
        if rank[example.split] > rank[best.split]:
            highest[example.sha256] = example
    kept, skipped = [], []
    for example in examples:
        other = highest[example.sha256]
        if rank[example.split] < rank[other.split]:
            skipped.append(Skipped(example.path, f"the same file as '{other.path}', which is in {other.split}"))
        else:
            kept.append(example)
    return kept, skipped


def _assign(examples: list[Example], groups: list[str], splits: Splits) -> list[str]:
    """A split for each example. Largest groups first, each to the split that its classes miss most."""
    given = {example.split for example in examples}
    missing = [name for name in ("validation", "test") if name not in given]
    members: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        if example.split in (None, "train"):
            members[groups[index]].append(index)
    pool = list(members.values())
    random.Random(splits.seed).shuffle(pool)
    pool.sort(key=len, reverse=True)  # stable: equal sizes stay shuffled
    needed = _targets([[examples[i].label for i in indices] for indices in pool], missing, splits)
    assigned = [example.split or "train" for example in examples]
    for indices in pool:
        counts = Counter(examples[i].label for i in indices)
        split = max(needed, key=lambda name: sum(n * needed[name][label] for label, n in counts.items()))
        for i in indices:
            assigned[i] = split
        needed[split].subtract(counts)
    empty = [name for name in SPLITS if name not in assigned]
    if empty:
        raise UserError(
            f"{len(examples)} images leave nothing for {' and '.join(empty)}; at least one class needs "
            "three images or more"
        )
    return assigned


def _targets(pool: list[list[str]], missing: list[str], splits: Splits) -> dict[str, Counter]:
    """How many images of each class each split should get; at least one of a class that has three groups or more."""
    images = Counter(label for labels in pool for label in labels)
    groups = Counter(label for labels in pool for label in set(labels))
    targets = {"train": Counter(images)}
    for name in missing:
        share = getattr(splits, name)
        targets[name] = Counter(
            {label: max(n * share, 1.0 if groups[label] >= 3 else 0.0) for label, n in images.items()}
        )
        targets["train"].subtract(targets[name])
    return targets


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
    by_content = defaultdict(set)
    for row in rows:
        by_content[row.sha256].add(row.label)
    torn = [content for content, names in by_content.items() if len(names) > 1]
    if torn:
        names = [" = ".join(row.path for row in rows if row.sha256 == content) for content in torn]
        found.append(f"{len(torn)} images stand in two classes at once: {_some(names)}")
    return found


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def write_splits(rows: list[Row], path: Path) -> None:
    """Write `splits.csv`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row.__dataclass_fields__)
        writer.writerows((row.path, row.sha256, row.label, row.split, row.group) for row in rows)


def read_splits(path: Path) -> list[Row]:
    """Read `splits.csv`.

    Raises:
        UserError: the file is missing or not one of ours.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [Row(**line) for line in csv.DictReader(file)]
    except (OSError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); start anew with --overwrite") from error
