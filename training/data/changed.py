"""A run that goes on: are the images still those that it began with, and if not, what it can go on with.

What is known of a file is remembered (`training.data.cache`), so that a set which has not changed is not read again.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from training.data.duplicates import find_duplicates
from training.data.intake import Example, Skipped, TooFewClasses
from training.data.source import Folder, open_local
from training.data.splits import SPLITS, Row, make_splits, some
from training.data.table import is_table
from training.recipe import Recipe, UserError

SHOWN = 3  # names of each kind


@dataclass(frozen=True)
class Changes:
    """What differs, by path: of what the run began with, and `new`, of which it knows nothing, with their `classes`."""

    gone: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    label: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)  # that only new ones have

    def of_the_run(self) -> str:
        """`1 is gone (a/1.jpg), 2 have another content (…)`; empty where nothing that is learned from differs."""
        kinds = (
            (self.gone, "is gone or cannot be used", "are gone or cannot be used"),
            (self.content, "has another content", "have another content"),
            (self.label, "is of another class", "are of another class"),
            (self.moved, "lies elsewhere", "lie elsewhere"),
        )
        return ", ".join(_count(paths, one, several) for paths, one, several in kinds if paths)

    def of_others(self) -> str:
        """As `of_the_run`, of those that the run does not know."""
        if not self.new:
            return ""
        named = some([f"'{each}'" for each in self.classes], SHOWN)
        whole = f", and so {'is the class' if len(self.classes) == 1 else 'are the classes'} {named}"
        return _count(self.new, "is new", "are new") + (whole if self.classes else "")


def as_given(source: Folder, given: Sequence[str]) -> tuple[Folder, bool]:
    """The source with the roots or the table that the run began with, and whether that is all that belongs to it.

    `given` are the paths that the run began with, as `Folder.given` had them; none if that is not known.

    Raises:
        UserError: they are there, and cannot be understood any more.
    """
    plain = len(given) == 1 and not is_table(Path(given[0]))
    if plain or source.table is not None or source.roots:
        return source, True
    if not given or not all(os.path.exists(path) for path in given):
        return source, False
    before = open_local([Path(path) for path in given])
    return (before, True) if before.data_dir.resolve() == source.data_dir.resolve() else (source, False)


def look_again(
    source: Folder, whole: bool, rows: Sequence[Row], skipped: Collection[Skipped], recipe: Recipe
) -> tuple[list[Example | None], Changes]:
    """For each row what its image is now, or None, and how that differs from the row.

    Where the source is not `whole`, new images and other classes are not looked for. `skipped` is what the run has left
    out.

    Raises:
        UserError: all images are gone.
    """
    if not any((source.data_dir / row.path).is_file() for row in rows):
        source.check_there(rows)
    if whole:
        try:
            found = source.read(recipe.data)[0]
        except TooFewClasses as error:
            found = error.examples
    else:
        facts = source.facts(rows)
        found = [
            Example(row.path, row.label, sha256=facts[row.path].sha256, facts=facts[row.path])
            for row in rows
            if row.path in facts
        ]
    return _compare(rows, found, {each.path for each in skipped})


def go_on_with(
    rows: Sequence[Row], now: Sequence[Example | None], source: Folder, recipe: Recipe, thorough: bool
) -> tuple[list[Row], list[Skipped]]:
    """Rows of what the images are now, each in the split that it was in, and what is left out, with the reason.

    As in a run that begins, what shows the same as an image of a later split is left out, and in validation and test
    what stands in two classes.

    Raises:
        UserError: a split or a class would be empty, or there would be one more class.
    """
    before = {row.label for row in rows}
    lost = [Skipped(row.path, "gone or changed since the run began, and cannot be used") for row in rows]
    lost = [each for each, example in zip(lost, now, strict=True) if example is None]
    there = [
        replace(example, split=row.split, group=example.group or row.group or None)
        for row, example in zip(rows, now, strict=True)
        if example is not None
    ]
    _check_whole(before, there)
    found, left_out = make_splits(there, recipe.splits, find_duplicates(there, source.reader(), thorough))
    _check_whole(before, found)
    return found, lost + left_out


def _compare(
    rows: Sequence[Row], found: Sequence[Example], known: Collection[str]
) -> tuple[list[Example | None], Changes]:
    by_path = {example.path: example for example in found}
    paths = {row.path for row in rows}
    elsewhere: dict[str, list[Example]] = defaultdict(list)
    for example in found:
        if example.path not in paths and example.path not in known:
            elsewhere[example.sha256].append(example)
    changes, now = Changes(), []
    for row in rows:
        example = by_path.get(row.path)
        if example is None and elsewhere[row.sha256]:
            example = elsewhere[row.sha256].pop(0)
            (changes.moved if example.label == row.label else changes.label).append(row.path)
        elif example is None:
            changes.gone.append(row.path)
        elif example.sha256 != row.sha256:
            changes.content.append(row.path)
        elif example.label != row.label:
            changes.label.append(row.path)
        now.append(example)
    new = [example for alike in elsewhere.values() for example in alike]
    changes.new.extend(sorted(example.path for example in new))
    changes.classes.extend(sorted({example.label for example in new} - {row.label for row in rows}))
    return now, changes


def _check_whole(before: set[str], there: Sequence[Example] | Sequence[Row]) -> None:
    """Raise `UserError` where the network that is being trained would not fit, or there is nothing to measure by."""
    after = {each.label for each in there}
    differ = [f"no image of '{label}' is left" for label in sorted(before - after)]
    differ += [f"the class '{label}' is new" for label in sorted(after - before)]
    differ += [f"no {split} image is left" for split in SPLITS if split not in {each.split for each in there}]
    if differ:
        raise UserError(f"--accept_changed_data: {some(differ, SHOWN)}; put back what was there, or --overwrite")


def _count(paths: Sequence[str], one: str, several: str) -> str:
    return f"{len(paths):,} {one if len(paths) == 1 else several} ({some(list(paths), SHOWN)})"
