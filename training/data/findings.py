"""What is to be put right in a data set, most important first, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from training.data.convert import RULES
from training.data.intake import Example, Skipped
from training.data.splits import SPLITS, first_of_each, parallel_folders, spelt_alike
from training.data.survey import Survey

Severity = Literal["stops", "wrong", "uncertain", "lost", "hint"]
SEVERITIES = {
    "stops": "training cannot begin",
    "wrong": "makes results wrong",
    "uncertain": "makes results uncertain",
    "lost": "images that are not used",
    "hint": "good to know",
}
FEW = 10  # training images of a class, below which it is hardly learnt
FEW_TESTED = 50  # test images, below which an accuracy is uncertain by 14 points or more
FEW_GROUPS = 10  # groups (patients) in the test split
IMBALANCE = 5  # images of the largest class for one of the smallest
IMPRESSIVE = 0.3  # accuracy of always saying the same that deserves a word
MUCH = 0.2  # share of a folder that is lost, from which its class is not what was collected
TELLING = 0.8  # a floor, from which on a good result shows nothing
TABLE = "a table"
ROWS = ("no label", "no path", "no such file", "more values than columns")
REPEATED = "a file that the table has already"
HARMLESS = (
    REPEATED,
    "hidden, or the operating system's own",
    "not an image by its name",
    "a mask of the image beside it",
)
DEEP = "16 bits a pixel or more"
ALIKE = {
    "exact": "the same file",
    "near": "resaved, resized or brightened",
    "mirrored": "mirrored or turned",
    "part": "a crop, or an overlapping view",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found: `what`, `why` it matters and what `to_do`.

    Of `files`, those that belong together are in one list, and `tie` stands between them; `notes` have a word on some,
    by path.
    """

    kind: str
    severity: Severity
    what: str
    why: str
    to_do: str
    files: list[list[str]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    tie: str = " = "


def findings(survey: Survey) -> list[Finding]:
    """All of them, most important first; within a severity in the order in which they are looked for."""
    found = [each for look in LOOKS for each in look(survey)]
    order = list(SEVERITIES)
    return sorted(found, key=lambda each: order.index(each.severity))


def _refused(survey: Survey) -> Iterator[Finding]:
    if survey.refusal:
        yield Finding(
            "refused", "stops", survey.refusal, "`train.py` refuses these images as they are.", "Put that right first."
        )


def _conflicts(survey: Survey) -> Iterator[Finding]:
    kind_of = {frozenset((each.first, each.second)): each.kind for each in survey.duplicates}
    whole, parts = [], []
    for cluster in survey.conflicts:
        paths = {example.path for example in cluster}
        if paths <= survey.suspects.keys():  # a placeholder has no right label
            continue
        kinds = {kind for pair, kind in kind_of.items() if pair <= paths}
        (parts if "part" in kinds else whole).append(cluster)
    todo = "Look at them side by side (plots/duplicates-1.jpg) and delete the wrong ones"
    if whole:
        classes = _listed(sorted({example.label for cluster in whole for example in cluster}), 4)
        yield Finding(
            "label_conflict",
            "wrong",
            f"{_count(len(whole), 'picture stands', 'pictures stand')} in more than one class: {classes}",
            "One of the labels is wrong. The network learns both, and one of its answers is always marked wrong.",
            todo,
            _named(whole, lambda example: example.label),
        )
    if parts:
        yield Finding(
            "overlap_conflict",
            "wrong",
            f"{_count(len(parts), 'set', 'sets')} of overlapping pictures stand in more than one class",
            "They show the same place, at least in part. Unless the class is about a detail that only one of them "
            "holds, a label is wrong.",
            todo,
            _named(parts, lambda example: example.label),
        )


def _leaks(survey: Survey) -> Iterator[Finding]:
    answer = "`train.py` leaves out those nearer to training; results published on these splits are too good"
    if survey.leaks:
        later = sum(example.split in ("validation", "test") for cluster in survey.leaks for example in cluster)
        total = sum(example.split in ("validation", "test") for example in survey.examples)
        sides = sorted({side for cluster in survey.leaks for side in survey.sides(cluster)}, key=SPLITS.index)
        yield Finding(
            "split_leak",
            "wrong",
            f"{len(survey.leaks)} {_word(survey.leaks, 'picture stands', 'pictures stand')} on several sides of the "
            f"data's own splits ({', '.join(sides)}): {later} of {total} validation and test images",
            "The network has seen the answers: it is tested on what it learnt by heart.",
            answer,
            _named(survey.leaks, lambda example: example.split),
        )
    if survey.torn_groups:
        yield Finding(
            "group_leak",
            "wrong",
            f"{len(survey.torn_groups)} {_word(survey.torn_groups, 'group (patient) has', 'groups (patients) have')} "
            "images on several sides of the data's own splits",
            "The network can recognise the patient instead of the disease.",
            answer,
            _named(survey.torn_groups.values(), lambda example: example.split),
            {member.path: f"group {name}" for name, members in survey.torn_groups.items() for member in members},
            ", ",
        )


def _suspects(survey: Survey) -> Iterator[Finding]:
    if survey.suspects:
        kinds = Counter(why.partition(":")[0] for why in survey.suspects.values())
        told = ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common())
        yield Finding(
            "suspects",
            "wrong",
            f"{_count(len(survey.suspects), 'file does', 'files do')} not look like an image of this set ({told})",
            "A mask or a placeholder that stands in a class is learnt as if it were that class, and is easy to score.",
            "Look at them (plots/suspects-1.jpg) and move what does not belong here to another folder",
            [[path] for path in survey.suspects],
            survey.suspects,
        )


def _names(survey: Survey) -> Iterator[Finding]:
    """Class names that are one but for case, blanks or a plural."""
    labels = sorted({example.label for example in survey.examples})
    same = spelt_alike(labels)
    spelt = {label.casefold(): label for label in labels}
    plurals = [[spelt[word], spelt[many]] for word in spelt for many in _plurals(word) if many in spelt]
    why = "As two classes they share their images between them, and the network cannot tell them apart."
    to_do = "If they are one class, put their images into one folder"
    for kind, severity, how, found in (
        ("same_name", "wrong", "case, blanks or dashes", same),
        ("plural", "hint", "a plural", plurals),
    ):
        if found:
            pairs = "; ".join(" and ".join(f"'{label}'" for label in labels) for labels in found)
            yield Finding(kind, severity, f"classes whose names differ only in {how}: {pairs}", why, to_do)
    parallel = parallel_folders(survey.rows)
    if parallel:
        yield Finding(
            "parallel_folders",
            "uncertain",
            parallel.partition("; ")[0],
            "They may be versions of one data set (in colour, in grey, cut out) and no classes at all.",
            parallel.partition("; ")[2],
        )


def _plurals(word: str) -> list[str]:
    """How English might write several of it; a letter or a number has no plural."""
    if len(word) < 3:
        return []
    return [f"{word}s", f"{word}es", *([f"{word[:-1]}ies"] if word.endswith("y") else [])]


def _floors(survey: Survey) -> Iterator[Finding]:
    """What can be answered without looking at the picture."""
    if not survey.floors:
        return
    base = survey.floors["majority"]
    for name, words, why in (
        ("colours", "colour alone gets", "The pictures of a class share their light, their stain or their background."),
        ("files", "size and kind of file alone get", "The classes come from different cameras or collections."),
    ):
        floor = survey.floors[name]
        if floor.accuracy >= TELLING and floor.low > base.high:
            score = f"{100 * floor.accuracy:.0f} %"
            yield Finding(
                f"{name}_tell",
                "uncertain",
                f"{words} {score} of the test images right: a network that scores {score} has shown nothing",
                why,
                "Compare every result with this number, and test on images from elsewhere",
            )
    by_lot, ours = survey.shuffled_colours, survey.floors["colours"]
    if by_lot and by_lot.low > ours.high:
        yield Finding(
            "lot_leak",
            "uncertain",
            f"with splits drawn by lot, colour alone gets {100 * by_lot.accuracy:.0f} %, with splits that keep copies "
            f"and groups together {100 * ours.accuracy:.0f} %",
            "The difference is no skill: it is recognising pictures that were seen before. Numbers published on random "
            "splits of these images contain it.",
            "Compare results only on splits like those that `train.py` makes",
        )


def _few(survey: Survey) -> Iterator[Finding]:
    if not survey.rows:
        return
    counts = {split: Counter(row.label for row in survey.rows if row.split == split) for split in SPLITS}
    images = Counter(example.label for example in survey.examples)
    few = sorted((label for label in images if counts["train"][label] < FEW), key=lambda label: (images[label], label))
    if few:
        yield Finding(
            "few_images",
            "uncertain",
            f"{_count(len(few), 'class has', 'classes have')} fewer than {FEW} images to learn from: "
            + _listed([f"{label} ({counts['train'][label]})" for label in few]),
            "So few pictures show little of what a class can look like.",
            "Add images, or put classes together",
        )
    untested = [label for label in sorted(images) if not counts["test"][label]]
    if untested:
        yield Finding(
            "untested_classes",
            "uncertain",
            f"{_count(len(untested), 'class has', 'classes have')} no test image: {_listed(untested)}",
            "Nothing can be said of how well they are recognised.",
            "Add images: three at least that are neither copies nor of one group",
        )
    tested = counts["test"].total()
    if tested < FEW_TESTED:
        points = 100 * 1.96 * 0.5 / tested**0.5
        yield Finding(
            "small_test",
            "uncertain",
            f"only {tested} test images: an accuracy on them is uncertain by ± {points:.0f} points",
            "A better network cannot be told from a lucky one.",
            "Add images, or test every one of them in its turn: `train.py … --folds 5`",
        )
    groups = {row.group for row in survey.rows if row.split == "test"}
    if any(example.group for example in survey.examples) and len(groups) < FEW_GROUPS:
        yield Finding(
            "few_groups",
            "uncertain",
            f"the test images are of only {len(groups)} groups (patients)",
            "Images of one patient are alike: the number of patients says how certain a result is.",
            "Say so with every result",
        )
    base = survey.floors["majority"]
    largest, smallest = max(images, key=images.get), min(images, key=images.get)
    always = f": always saying '{base.says}' is right for {100 * base.accuracy:.0f} % of the test images"
    always *= base.accuracy >= IMPRESSIVE
    if images[largest] >= IMBALANCE * images[smallest]:
        yield Finding(
            "imbalance",
            "uncertain",
            f"'{largest}' has {images[largest]} images, '{smallest}' {images[smallest]}" + always,
            "A network can look good and never recognise the small classes.",
            "Train with `--class_weights balanced`, and look at each class, not at accuracy alone",
        )


def _lost(survey: Survey) -> Iterator[Finding]:
    deep, tables, rows, harmless, faulty = [], [], [], [], []
    for each in survey.skipped:
        kind = _kind(each)
        if kind == TABLE:
            tables.append(each)
        elif each.reason.startswith(DEEP):
            deep.append(each)
        else:
            (harmless if kind in HARMLESS else rows if kind in ROWS else faulty).append(each)
    if tables:
        yield Finding(
            "table",
            "wrong",
            f"a table lies among the images: {_listed([each.path for each in tables])}",
            "If it tells the classes, the folders do not.",
            "If it does, give it in place of the folder: --data_dir FOLDER/TABLE",
        )
    if rows:
        yield Finding(
            "rows",
            "lost",
            f"{_count(len(rows), 'row', 'rows')} of the table cannot be used: {_kinds(rows)}",
            "What is skipped is neither trained on nor tested.",
            "Mend these rows, or delete them",
            [[each.path] for each in rows],
            {each.path: each.reason for each in rows},
        )
    if deep:
        yield Finding(
            "deep",
            "lost",
            f"{_count(len(deep), 'image has', 'images have')} {DEEP} and cannot be used",
            "`pipeline` would clip them to white, so the deployed model would not see what training saw.",
            f"Make a copy with plain images: `{convert_command(survey)}`",
            [[each.path] for each in deep],
        )
    if faulty:
        there = Counter(_folder(example.path) for example in survey.examples)
        lost = Counter(_folder(each.path) for each in faulty)
        hurt = sorted((name for name in lost if lost[name] >= MUCH * (lost[name] + there[name])), key=lost.get)[::-1]
        told = (
            "; of " + _listed([f"{name} {lost[name]} of {lost[name] + there[name]}" for name in hurt]) if hurt else ""
        )
        yield Finding(
            "skipped",
            "wrong" if hurt else "lost",
            f"{_count(len(faulty), 'file is', 'files are')} skipped: {_kinds(faulty)}{told}",
            "What is skipped is neither trained on nor tested, and it is seldom lost evenly among the classes.",
            "Copy or save these files anew, or delete them",
            [[each.path] for each in faulty],
            {each.path: each.reason for each in faulty},
        )
    if harmless:
        yield Finding(
            "not_images",
            "hint",
            f"{_count(len(harmless), 'file was', 'files were')} left aside, as should be: {_kinds(harmless)}",
            "They are no images to train on.",
            "Nothing, unless one of them is",
            [[each.path] for each in harmless],
        )


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or "."


def _kind(skipped: Skipped) -> str:
    return skipped.reason.partition(": ")[0]


def _kinds(skipped: Iterable[Skipped]) -> str:
    return ", ".join(f"{count} × {kind}" for kind, count in Counter(map(_kind, skipped)).most_common())


def _copies(survey: Survey) -> Iterator[Finding]:
    """Duplicates that do no harm."""
    harmful = {example.path for cluster in [*survey.conflicts, *survey.leaks] for example in cluster}
    plain = [cluster for cluster in survey.clusters if cluster[0].path not in harmful]
    if plain:
        copies = sum(len(cluster) - 1 for cluster in plain)
        yield Finding(
            "duplicates",
            "hint",
            f"{_count(copies, 'image shows', 'images show')} what another one of the same class shows",
            "They teach nothing new. `train.py` keeps them on one side of the splits.",
            "Delete them if you like",
            _named(plain),
        )


def _odd(survey: Survey) -> Iterator[Finding]:
    if survey.odd:
        kinds = Counter(survey.odd.values())
        told = ", ".join(f"{count} × {RULES[kind].partition(':')[0]}" for kind, count in kinds.most_common())
        yield Finding(
            "odd",
            "hint",
            f"{_count(len(survey.odd), 'file is', 'files are')} not plain 8-bit colour or grey: {told}",
            "Programs disagree on how such files look. `train.py` takes them as `pipeline` does: the first frame or "
            "page, without alpha.",
            f"Look whether that is what you want; plain copies come by `{convert_command(survey)}`",
            [[path] for path in survey.odd],
            {path: RULES[kind] for path, kind in survey.odd.items()},
        )


def _more(survey: Survey) -> Iterator[Finding]:
    if not survey.thorough:
        yield Finding(
            "not_thorough",
            "hint",
            "crops, mirrored pictures and overlapping views were not looked for",
            "They leak between splits as copies do.",
            "Say the same command with --thorough; it takes a while",
        )


LOOKS = (_refused, _conflicts, _leaks, _suspects, _names, _floors, _few, _lost, _copies, _odd, _more)


def convert_command(survey: Survey) -> str:
    """How to make a plain copy of these images."""
    return f"python training/data_report.py {survey.words} --convert COPY"


def _named(
    clusters: Iterable[list[Example]], side: Callable[[Example], str | None] = lambda _: None
) -> list[list[str]]:
    """The paths of each cluster, those first that show all its sides."""
    named = []
    for cluster in clusters:
        first = first_of_each(cluster, side)
        named.append([example.path for example in (*first, *(each for each in cluster if each not in first))])
    return named


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _word(things, one: str, many: str) -> str:
    return one if len(things) == 1 else many


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
