"""Train, validation and test, or folds: stratified, seeded, and never with one photograph or patient on two sides."""

import csv
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hub_utils.portable import harmless_csv
from hub_utils.portable.whole import replaced
from training.data.duplicates import Duplicate
from training.data.intake import Example, Skipped
from training.recipe import Splits, UserError

SPLITS = ("train", "validation", "test")
RANK = {None: 0, "train": 0, "validation": 1, "test": 2}
ALIKE = {
    "exact": "the same file as one",
    "near": "a near-duplicate of one",
    "mirrored": "a mirror image of one",
    "part": "overlaps with one",
}
FOLDS_LEAVE = "in the data's own test split, which folds leave alone"


@dataclass(frozen=True)
class Row:
    """A line of `local/splits.csv`."""

    path: str
    sha256: str
    label: str
    split: str
    group: str


def make_splits(
    examples: Sequence[Example], splits: Splits, duplicates: Sequence[Duplicate] = ()
) -> tuple[list[Row], list[Skipped]]:
    """Assign every example to train, validation or test.

    Splits that the data brings are kept. The missing ones are taken out of the rest, `splits.validation` and
    `splits.test` of it, so that every class is divided alike and copies, `duplicates` and groups stay together. What
    shows the same as an image of another class is only trained on. Left out is what the data itself puts on the wrong
    side: such an image in validation or test, and an image whose duplicate or group stands in a later split (test
    before validation before train).

    Raises:
        UserError: a split would be empty.
    """
    kept, skipped = _sort_out(examples, duplicates)
    assigned = _assign(kept, splits)
    _check_not_empty(kept, assigned, skipped)
    return _rows(kept, assigned), skipped


def as_before(
    examples: Sequence[Example], duplicates: Sequence[Duplicate], before: Sequence[Row]
) -> tuple[list[Row], list[Skipped]]:
    """Rows of the images that a run began with, in their order and splits, wherever they lie now; and all others.

    Of `before` only content, label and split count; files that are alike in both can stand for each other.

    Raises:
        UserError: some are not there.
    """
    groups = dict(zip((example.path for example in examples), connected_groups(examples, duplicates), strict=True))
    reasons = {each.path: each.reason for each in _sort_out(examples, duplicates)[1]}
    there: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in sorted(examples, key=lambda each: each.path in reasons):  # those that are used first
        there[example.sha256, example.label].append(example)
    found = [there[row.sha256, row.label].pop(0) for row in before if there[row.sha256, row.label]]
    if len(found) < len(before):
        raise UserError(
            f"{len(before) - len(found)} of the run's {len(before)} images are not among the {len(examples)} here, by "
            "content and class; give all that it began with, by --data_dir"
        )
    rows = _rows([_Member(each, groups[each.path], False) for each in found], [row.split for row in before])
    used = {row.path for row in rows}
    rest = [each.path for each in examples if each.path not in used]
    return rows, [Skipped(path, reasons.get(path, "not among the images that the run began with")) for path in rest]


def make_folds(
    examples: Sequence[Example], folds: int, splits: Splits, duplicates: Sequence[Duplicate] = ()
) -> tuple[list[list[Row]], list[Skipped]]:
    """Rows of each fold, so that every image is in the test split of exactly one of them.

    What is kept together by `make_splits` is kept together here, too, and what it only trains on is trained on in every
    fold. Validation is taken out of what a fold does not test. The data's own test split is left out altogether, and
    so is whatever shows the same; its own validation split is pooled with the rest.

    Raises:
        UserError: a class has fewer groups than there are folds, or a fold would have an empty split.
    """
    pooled = [example if example.split == "test" else replace(example, split=None) for example in examples]
    kept, skipped = _sort_out(pooled, duplicates)
    skipped += [Skipped(each.example.path, FOLDS_LEAVE) for each in kept if each.example.split == "test"]
    kept = [each for each in kept if each.example.split != "test"]
    _check_folds(kept, folds)
    names = [str(number) for number in range(folds)]
    free = [each for each in kept if not each.torn]
    tested = _divide(free, dict.fromkeys(names[:-1], 1 / folds), names[-1], folds, splits.seed)
    result = []
    for name in names:
        given = [_with_split(each, "test" if tested.get(each.group) == name else None) for each in kept]
        assigned = _assign(given, splits)
        _check_not_empty(given, assigned, skipped)
        result.append(_rows(given, assigned))
    return result, skipped


def connected_groups(examples: Sequence[Example], duplicates: Iterable[Duplicate] = ()) -> list[str]:
    """For each example the name of what it belongs to: its patient if any of its cluster has one, else the first path.

    Images of one group, of equal content or found to be duplicates hang together, directly or through others.
    """
    numbers = _clusters(examples, duplicates, by_group=True)
    names: dict[int, tuple[bool, str]] = {}
    for example, number in zip(examples, numbers, strict=True):
        name = (not example.group, example.group or example.path)
        names[number] = min(names.get(number, name), name)
    return [names[number][1] for number in numbers]


def conflicts(examples: Sequence[Example], duplicates: Iterable[Duplicate] = ()) -> list[list[Example]]:
    """Clusters of images that show the same and carry different labels, in the order of their paths.

    Sharing a group makes no conflict: a patient may well have pictures of two classes.
    """
    return [cluster for cluster in alike(examples, duplicates) if len({example.label for example in cluster}) > 1]


def alike(examples: Sequence[Example], duplicates: Iterable[Duplicate] = ()) -> list[list[Example]]:
    """Clusters of two or more images that show the same, directly or through others; in the order of their paths."""
    clusters: dict[int, list[Example]] = defaultdict(list)
    for example, number in zip(examples, _clusters(examples, duplicates, by_group=False), strict=True):
        clusters[number].append(example)
    several = (sorted(cluster, key=lambda each: each.path) for cluster in clusters.values() if len(cluster) > 1)
    return sorted(several, key=lambda cluster: cluster[0].path)


def _clusters(examples: Sequence[Example], duplicates: Iterable[Duplicate], by_group: bool) -> list[int]:
    """The number of each example's connected component."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    index = {example.path: i for i, example in enumerate(examples)}
    ties = [(index[pair.first], index[pair.second]) for pair in duplicates if {pair.first, pair.second} <= index.keys()]
    first: dict[tuple[str, str], int] = {}
    for i, example in enumerate(examples):
        for key in (("content", example.sha256), ("group", example.group if by_group else None)):
            if key[1]:
                ties.append((first.setdefault(key, i), i))
    one, other = np.array(ties, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(len(examples), len(examples)))
    return connected_components(graph, directed=False)[1].tolist()


@dataclass(frozen=True)
class _Member:
    """An example, what it must stay together with, and whether anything of that carries two labels at once."""

    example: Example
    group: str
    torn: bool


def _with_split(member: _Member, split: str | None) -> _Member:
    return replace(member, example=replace(member.example, split=split))


def _sort_out(examples: Sequence[Example], duplicates: Sequence[Duplicate]) -> tuple[list[_Member], list[Skipped]]:
    """What can stay where the data puts it, and what cannot, with the reason."""
    groups = dict(zip((example.path for example in examples), connected_groups(examples, duplicates), strict=True))
    reasons: dict[str, str] = {}
    torn = set()
    for cluster in conflicts(examples, duplicates):
        torn |= {groups[example.path] for example in cluster}
        one = cluster[0]
        another = next(example for example in cluster if example.label != one.label)
        for example in cluster:
            if RANK[example.split] > 0:
                other = one if example.label != one.label else another
                reasons[example.path] = (
                    f"in two classes at once, and in {example.split}: '{example.label}' here, '{other.label}' as "
                    f"'{other.path}'"
                )
    members = [_Member(each, groups[each.path], groups[each.path] in torn) for each in examples]
    reasons |= _leaks([member for member in members if member.example.path not in reasons], duplicates)
    kept = [member for member in members if member.example.path not in reasons]
    return kept, [Skipped(each.path, reasons[each.path]) for each in examples if each.path in reasons]


def _leaks(members: list[_Member], duplicates: Iterable[Duplicate]) -> dict[str, str]:
    """Where the data's own splits share an image or a group: of each image nearer to training, why it has to go."""
    if len({RANK[member.example.split] for member in members}) < 2:
        return {}
    latest: dict[tuple[str, str], tuple[str, Example]] = {}

    def note(key: tuple[str, str], how: str, example: Example) -> None:
        if key not in latest or RANK[example.split] > RANK[latest[key][1].split]:
            latest[key] = how, example

    by_path = {member.example.path: member.example for member in members}
    for pair in duplicates:
        if {pair.first, pair.second} <= by_path.keys():
            note(("pair", pair.first), ALIKE[pair.kind], by_path[pair.second])
            note(("pair", pair.second), ALIKE[pair.kind], by_path[pair.first])
    for member in members:
        note(("content", member.example.sha256), ALIKE["exact"], member.example)
        note(("patient", member.example.group or ""), "of one group with an image", member.example)
        note(("cluster", member.group), "linked through others to one", member.example)
    found = {}
    for member in members:
        example = member.example
        closest_first = (
            ("content", example.sha256), ("pair", example.path), ("patient", example.group), ("cluster", member.group)
        )  # fmt: skip
        ties = [latest[key] for key in closest_first if key[1] and key in latest]
        how, other = max(ties, key=lambda tie: RANK[tie[1].split])  # of equals, the first
        if RANK[other.split] > RANK[example.split]:
            found[example.path] = f"{how} in {other.split}: '{other.path}'"
    return found


def _assign(members: list[_Member], splits: Splits) -> list[str]:
    """A split for each: what the data says, and for the rest such that no conflict is anywhere but in training."""
    given = {member.example.split for member in members}
    shares = {name: getattr(splits, name) for name in ("validation", "test") if name not in given}
    free = [member for member in members if member.example.split in (None, "train") and not member.torn]
    chosen = _divide(free, shares, "train", 3, splits.seed)
    return [
        member.example.split if RANK[member.example.split] > 0 else chosen.get(member.group, "train")
        for member in members
    ]


def _rows(members: list[_Member], assigned: list[str]) -> list[Row]:
    """Lines of `splits.csv`; whoever stands alone, with no patient either, needs no group."""
    sizes = Counter(member.group for member in members)
    rows = []
    for member, split in zip(members, assigned, strict=True):
        example = member.example
        shown = member.group if sizes[member.group] > 1 or example.group else ""
        rows.append(Row(example.path, example.sha256, example.label, split, shown))
    return rows


def _divide(members: list[_Member], shares: dict[str, float], rest: str, least: int, seed: int) -> dict[str, str]:
    """A part for each group: of every class its share for each part of `shares`, and what is left for `rest`.

    Largest groups first, each to the part that its classes miss most; a class of fewer groups than `least` is not
    divided, and every other class is in every part.
    """
    labels: dict[str, Counter] = defaultdict(Counter)
    for member in members:
        labels[member.group][member.example.label] += 1
    names = list(labels)
    random.Random(seed).shuffle(names)
    names.sort(key=lambda name: labels[name].total(), reverse=True)  # stable: equal sizes stay shuffled
    pool = [labels[name] for name in names]
    needed = _targets(pool, shares, rest, least)
    reserved = _reserve(pool, [*shares, rest], least)
    chosen = {}
    for number in sorted(range(len(pool)), key=lambda number: number not in reserved):
        part = reserved.get(number) or max(
            needed, key=lambda part: sum(n * needed[part][label] for label, n in pool[number].items())
        )
        chosen[names[number]] = part
        needed[part].subtract(pool[number])
    return chosen


def _targets(pool: list[Counter], shares: dict[str, float], rest: str, least: int) -> dict[str, Counter]:
    """How many images of each class each part should get.

    What rounding takes from one part or class the next one gets: a fifth of 30 classes of 12 is 72 images, not 30 × 2.
    """
    images = Counter(label for labels in pool for label in labels.elements())
    groups = Counter(label for labels in pool for label in labels)
    targets = {rest: Counter(images), **{name: Counter() for name in shares}}
    owed = 0.0
    for turn, label in enumerate(label for label in sorted(images) if groups[label] >= least):
        for name in shares if turn % 2 else reversed(shares):
            wanted = images[label] * shares[name] + owed
            targets[name][label] = max(1, round(wanted))
            owed = wanted - round(wanted)
            targets[rest][label] -= targets[name][label]
    return targets


def _reserve(pool: list[Counter], parts: list[str], least: int) -> dict[int, str]:
    """A part for some of the pool, largest first, so that every class of `least` groups or more is in every part.

    Rare classes choose first; the smallest groups are enough for all parts but the last.
    """
    where: dict[str, list[int]] = defaultdict(list)
    for number, labels in enumerate(pool):
        for label in labels:
            where[label].append(number)
    reserved: dict[int, str] = {}
    present: dict[str, set[str]] = defaultdict(set)
    for label, numbers in sorted(where.items(), key=lambda item: (len(item[1]), item[0])):
        for name in parts if len(numbers) >= least else ():
            free = [number for number in numbers if number not in reserved]
            if free and label not in present[name]:
                chosen = free[0] if name == parts[-1] else free[-1]
                reserved[chosen] = name
                present[name].update(pool[chosen])
    return reserved


def _check_folds(members: list[_Member], folds: int) -> None:
    """Raise `UserError` unless every class has a group for every fold."""
    groups: dict[str, set[str]] = {member.example.label: set() for member in members}
    for member in members:
        if not member.torn:
            groups[member.example.label].add(member.group)
    if not groups:
        raise UserError(f"--folds {folds}: all images are in the data's own test split, which folds leave alone")
    label, fewest = min(((label, len(those)) for label, those in groups.items()), key=lambda each: each[1])
    if folds > fewest:
        most = f"at most --folds {fewest} is possible" if fewest > 1 else "add images, at least two to each class"
        raise UserError(
            f"--folds {folds} needs {folds} images of every class to test, '{label}' has {fewest} (duplicates of one "
            f"image, or all of one group, count once; what stands in two classes does not count): {most}"
        )


def _check_not_empty(members: list[_Member], assigned: list[str], skipped: list[Skipped]) -> None:
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
        torn = sum(member.torn for member in members)
        besides = f"; {torn} of them stand in two classes and cannot be used for it" if torn else ""
        raise UserError(
            f"{len(assigned)} images leave nothing for {' and '.join(empty)}: no class has three (copies of one image, "
            f"or all of one group, count once){besides}; add images, at least three to a class"
        )


def warnings(rows: list[Row]) -> list[str]:
    """What makes results on these splits mean little, in sentences; empty if nothing does."""
    counts = {split: Counter(row.label for row in rows if row.split == split) for split in SPLITS}
    labels = sorted({row.label for row in rows})
    found = []
    few = [f"{label} ({counts['train'][label]})" for label in labels if counts["train"][label] < 10]
    if few:
        found.append(f"fewer than 10 images to learn from: {some(few)}")
    for split in ("validation", "test"):
        total = sum(counts[split].values())
        if total < 50:
            width = 100 * 1.96 * 0.5 / max(total, 1) ** 0.5
            found.append(f"only {total} {split} images: an accuracy on them is uncertain by ± {width:.0f} points")
        absent = [label for label in labels if not counts[split][label]]
        if absent:
            found.append(f"classes without a {split} image, on which nothing can be said: {some(absent)}")
    found += [f"classes that differ only in how they are written: {some(names)}" for names in spelt_alike(labels)]
    parallel = parallel_folders(rows)
    if parallel:
        found.append(parallel)
    return found


def spelt_alike(labels: list[str]) -> list[list[str]]:
    """Classes that are one word but for capitals and what stands between words: `Rose` and `rose`."""
    words = defaultdict(list)
    for label in labels:
        words[re.sub(r"[\s_-]+", " ", label.casefold())].append(label)
    return [names for names in words.values() if len(names) > 1]


def parallel_folders(rows: list[Row]) -> str | None:
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
        f"the classes {some(sorted(below))} hold folders of the same names ({some(sorted(common), most=3)}); if "
        f"these are the classes, give one of the former alone, such as --data_dir …/{min(below)}"
    )


def conflict_warnings(torn: Sequence[Sequence[Example]]) -> list[str]:
    """The same of what `conflicts` found."""
    if not torn:
        return []
    names = [
        " = ".join(f"{each.path} ({each.label})" for each in first_of_each(cluster, lambda each: each.label))
        for cluster in torn
    ]
    stand = "1 image stands" if len(torn) == 1 else f"{len(torn)} images stand"
    return [f"{stand} in two classes at once, never to be tested (delete the wrong copies): {some(names, most=3)}"]


def first_of_each(cluster: Sequence[Example], side: Callable[[Example], str | None]) -> list[Example]:
    """The first image of each side, which is its class, say."""
    return list({side(example): example for example in reversed(cluster)}.values())[::-1]


def some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def write_splits(rows: list[Row], path: Path) -> None:
    """Write `splits.csv`."""
    with replaced(path) as file:
        writer = harmless_csv.Writer(file)
        writer.writerow(Row.__dataclass_fields__)
        writer.writerows((row.path, row.sha256, row.label, row.split, row.group) for row in rows)


def write_conflicts(torn: Sequence[Sequence[Example]], path: Path) -> None:
    """Write `conflicts.csv`: a row for each image of each cluster of `conflicts`, which its first path names."""
    with replaced(path) as file:
        writer = harmless_csv.Writer(file)
        writer.writerow(("cluster", "path", "label"))
        writer.writerows((cluster[0].path, each.path, each.label) for cluster in torn for each in cluster)


def read_splits(path: Path) -> list[Row]:
    """Read `splits.csv`.

    Raises:
        UserError: the file is missing or not one of ours.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [Row(**line) for line in harmless_csv.read_dicts(file)]
        if not rows or any(row.split not in SPLITS or row.group is None for row in rows):
            raise ValueError("it has no rows, or half of a row, or one of an unknown split")
    except (OSError, TypeError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"'{path}' cannot be read ({reason}); start anew with --overwrite") from error
    return rows
