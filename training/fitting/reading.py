"""The images of a run: read when it begins, looked at again when it goes on; and what is told of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from training.data import changed
from training.data import splits as splitting
from training.data.duplicates import Duplicate, find_duplicates
from training.data.duplicates import summary as duplicates_summary
from training.data.intake import Example, Skipped, summary
from training.data.source import Folder, HubDataset, Source, load_source
from training.data.splits import SPLITS, Row
from training.data.streaming import Streamed
from training.data.suspects import suspects
from training.recipe import Recipe, UserError
from training.run_folder import RunFolder, read_json, stored_skipped, write_json, write_skipped

if TYPE_CHECKING:
    from training.fitting.plan import Options

ACCEPT = "--accept_changed_data goes on with what is there, "


@dataclass(frozen=True)
class Found:
    """What there is to learn from."""

    source: Source
    examples: list[Example]
    duplicates: Sequence[Duplicate]
    skipped: list[Skipped]


@dataclass(frozen=True)
class Reading:
    """What a run learns from: where the images lie, the split of each, and what is to be told of the others."""

    source: Source
    rows: list[Row]
    skipped: list[Skipped] = field(default_factory=list)
    conflicts: list[list[Example]] = field(default_factory=list)
    duplicates: Sequence[Duplicate] = ()
    suspects: dict[str, str] = field(default_factory=dict)
    accepted: list[str] | None = None  # where a run goes on with other images: the paths that they were given by


def read_data(
    recipe: Recipe, source: Source, run: RunFolder | None, options: Options, say: Callable[[str], None]
) -> Reading:
    """What the run that goes on has read, or what is found by looking at the images."""
    if run is not None:
        return read_before(recipe, source, run, options, say)
    if isinstance(source, Streamed):
        source, skipped = source.pinned().surveyed(recipe.data, recipe.splits)
        return Reading(source, [], skipped)
    found = find(recipe, source, options.thorough)
    rows, leaks = splitting.make_splits(found.examples, recipe.splits, found.duplicates)
    torn = splitting.conflicts(found.examples, found.duplicates)
    return Reading(found.source, rows, [*found.skipped, *leaks], torn, found.duplicates, suspects(found.examples))


def read_before(
    recipe: Recipe,
    source: Source,
    run: RunFolder,
    options: Options,
    say: Callable[[str], None],
    accept: str = ACCEPT,
) -> Reading:
    """What the run that goes on has read: a data set of the Hub at the commit it was at, a folder if it is the same.

    Raises:
        UserError: it is not, and nobody has said that it may be another, as `accept` says how to.
    """
    stored = load_source(run.data)
    if type(stored) is not type(source) or (
        isinstance(stored, HubDataset) and (source.repo_id, source.config) != (stored.repo_id, stored.config)
    ):
        raise UserError(f"the run in '{run.path}' began with {stored}; going on wants the same, or neither flag")
    if isinstance(stored, HubDataset):
        return Reading(stored, [] if isinstance(stored, Streamed) else splitting.read_splits(run.splits))
    rows, skipped = splitting.read_splits(run.splits), stored_skipped(run.skipped)
    if not options.look_again:
        return Reading(source, rows)
    given = read_json(run.data).get("given", [])
    source, whole = changed.as_given(source, given)
    now, changes = changed.look_again(source, whole, rows, skipped, recipe)
    if changes.new:
        say(f"warning    of the images {changes.of_others()}; this run does not learn from new ones")
    told = changes.of_the_run()
    if not told:
        return Reading(source, rows)
    if not options.accept_changed_data:
        raise UserError(
            f"of the {len(rows):,} images that the run in '{run.path}' began with, {told}; put back what was there, or "
            f"{accept}--overwrite starts anew"
        )
    say(f"warning    of the {len(rows):,} images that the run began with, {told}; it goes on with what is there")
    rows, left_out = changed.go_on_with(rows, now, source, recipe, options.thorough)
    return Reading(source, rows, [*skipped, *left_out], accepted=source.given() if whole else given)


def find(recipe: Recipe, source: Source, thorough: bool = False) -> Found:
    """Look at every image, and for duplicates; see `find_duplicates`."""
    if isinstance(source, HubDataset):
        source = source.pinned()
    examples, skipped = source.read(recipe.data)
    return Found(source, examples, find_duplicates(examples, source.reader(), thorough), skipped)


def data_lines(recipe: Recipe, reading: Reading) -> list[str]:
    """What is in the data, for a person to read before the long part begins."""
    if isinstance(reading.source, Streamed):
        return _streamed_lines(recipe, reading)
    rows = reading.rows
    counts = {split: Counter(row.label for row in rows if row.split == split) for split in SPLITS}
    lines = _count_lines(recipe, counts) + left_out_lines(reading)
    return lines + [f"warning    {warning}" for warning in splitting.warnings(rows)]


def _streamed_lines(recipe: Recipe, reading: Reading) -> list[str]:
    """As `data_lines`, of a stream; and which splits are not the Hub's own."""
    survey = reading.source.survey
    named = {split: Counter(dict(zip(survey.classes, counts, strict=True))) for split, counts in survey.counts.items()}
    lines = _count_lines(recipe, named)
    lines[0] += " · streamed"
    for name in survey.held_out:
        share = getattr(recipe.splits, name)
        lines.append(f"           the Hub has no {name} split: {share:.0%} of its train split, chosen by content")
    lines.append("           a stream is not searched for copies: what the Hub's splits share, they share")
    lines += left_out_lines(reading)
    return lines + [f"warning    {warning}" for warning in splitting.warnings(reading.source.sample())]


def _count_lines(recipe: Recipe, counts: dict[str, Counter]) -> list[str]:
    """How many images there are of each split and class."""
    by_class = sum(counts.values(), Counter())
    split = " · ".join(f"{name} {counts[name].total():,}" for name in SPLITS)
    lines = [f"data       {by_class.total():,} images, {len(by_class)} classes · {split}"]
    if len(by_class) <= 12:
        lines.append("           " + ", ".join(f"{label} {by_class[label]:,}" for label in sorted(by_class)))
    if recipe.data.classes not in (None, len(by_class)):
        lines.append(f"warning    {recipe.name} is made for {recipe.data.classes} classes, found {len(by_class)}")
    return lines


def left_out_lines(reading: Reading) -> list[str]:
    """What the table said, what is not learned from, what only stands together, and what is learned from only."""
    lines = []
    if isinstance(reading.source, Folder) and reading.source.table is not None:
        lines.append(f"table      {reading.source.table.told}")
    if reading.skipped:
        lines.append(f"skipped    {len(reading.skipped)} files (all in local/skipped.csv): {summary(reading.skipped)}")
    if reading.duplicates:
        lines.append(f"duplicates {duplicates_summary(reading.duplicates)}")
    if reading.suspects:
        path, why = next(iter(reading.suspects.items()))
        told = f"{len(reading.suspects)} files look like no images of this set ('{path}': {why})"
        lines.append(f"warning    {told}; training/data_report.py shows them all")
    torn = splitting.conflict_warnings(reading.conflicts)
    return lines + [f"warning    {warning}; all in local/conflicts.csv" for warning in torn]


def read_again(recipe: Recipe, source: Source, thorough: bool, copy: RunFolder, before: Sequence[Row]) -> None:
    """Find the images that a run began with, and write which they are, as `begin` did."""
    found = find(recipe, source, thorough)
    rows, left_out = splitting.as_before(found.examples, found.duplicates, before)
    torn = splitting.conflicts(found.examples, found.duplicates)
    write_reading(copy, Reading(found.source, rows, [*found.skipped, *left_out], torn))


def write_reading(run: RunFolder, reading: Reading) -> None:
    """Write which images the run learns from."""
    if reading.rows:  # a stream has none: what it has seen is not kept
        splitting.write_splits(reading.rows, run.splits)
    write_skipped(reading.skipped, run.skipped)
    if reading.conflicts:
        splitting.write_conflicts(reading.conflicts, run.conflicts)
    facts = reading.source.to_dict()
    if isinstance(reading.source, Folder):
        facts["given"] = reading.source.given() if reading.accepted is None else reading.accepted
    write_json(facts, run.data)
