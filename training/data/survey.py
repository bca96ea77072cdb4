"""All that can be found out about a data set before training on it, looked at once."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from training.data.convert import oddity
from training.data.duplicates import Duplicate, find_duplicates
from training.data.intake import Example, Skipped, TooFewClasses
from training.data.source import Source
from training.data.splits import Row, conflicts, make_splits
from training.recipe import Data, Recipe, UserError
from training.results.floors import Floor, colour_neighbour, file_neighbour, majority, shuffled

UNLABELLED = Data(pattern=r"(?P<label>\.)\w+$")  # the dot before its ending: the same for every image, and no label
FLAT = 0.98  # share of an image's pixels in one or two of 16 shades of grey, from which it looks empty or like a mask
VARIED = 0.9  # share below which it surely does not
MANY_NAMES = 5  # the same bytes under so many names (or under three, in several classes) are a placeholder
TINY = 8  # times smaller than the middle one: an icon among photographs


@dataclass(frozen=True)
class Survey:
    """What was found.

    `words` are the recipe and the data on a command line. `refusal` is why `train.py` would not train on these images,
    if so. `rows` are the splits it would train with, and `left_out` what these leave out. `floors` are by name, and
    `shuffled_colours` is the floor "colours" with splits drawn by lot.
    """

    recipe: Recipe
    words: str
    source: Source
    examples: list[Example]
    skipped: list[Skipped]
    duplicates: list[Duplicate]
    thorough: bool
    refusal: str | None
    rows: list[Row]
    left_out: list[Skipped]
    floors: dict[str, Floor]
    shuffled_colours: Floor | None

    @cached_property
    def by_path(self) -> dict[str, Example]:
        return {example.path: example for example in self.examples}

    @cached_property
    def clusters(self) -> list[list[Example]]:
        """Images that show the same, directly or through others; in the order of their paths."""
        return connected(self.duplicates, self.by_path)

    @cached_property
    def conflicts(self) -> list[list[Example]]:
        """Clusters in which one picture has several labels."""
        return conflicts(self.examples, self.duplicates)

    @cached_property
    def leaks(self) -> list[list[Example]]:
        """Clusters that stand on several sides of the splits the data brings."""
        return [cluster for cluster in self.clusters if len(self.sides(cluster)) > 1]

    @cached_property
    def torn_groups(self) -> dict[str, list[Example]]:
        """Groups (patients) that stand on several sides of the splits the data brings."""
        groups: dict[str, list[Example]] = defaultdict(list)
        for example in self.examples:
            if example.group:
                groups[example.group].append(example)
        return {name: members for name, members in groups.items() if len(self.sides(members)) > 1}

    @cached_property
    def suspects(self) -> dict[str, str]:
        """By path, why an image may be none that belongs here: masks, empty pictures, placeholders, icons."""
        return suspects(self.examples)

    @cached_property
    def odd(self) -> dict[str, str]:
        """By path, what is odd about images that can be trained on (see `oddity`)."""
        found = {example.path: oddity(example.facts) for example in self.examples}
        return {path: odd for path, odd in found.items() if odd}

    @cached_property
    def brings_splits(self) -> bool:
        return any(example.split for example in self.examples)

    def sides(self, members: Iterable[Example]) -> set[str]:
        """The data's own splits in which they stand; what is in none will be trained on, if there are any."""
        return {example.split or "train" for example in members} if self.brings_splits else set()


def survey(recipe: Recipe, words: str, source: Source, thorough: bool, progress: bool = True) -> Survey:
    """Look at every image of `source`; `words` are the recipe and the data on a command line.

    Raises:
        UserError: there is no image to look at.
    """
    examples, skipped, refusal = _read(recipe.data, source, progress)
    duplicates = find_duplicates(examples, source.reader(), thorough, progress)
    rows, left_out = [], []
    if refusal is None:
        try:
            rows, left_out = make_splits(examples, recipe.splits, duplicates)
        except UserError as error:
            refusal = str(error)
    floors, by_lot = {}, None
    if rows:
        facts = {example.path: example.facts for example in examples}
        floors["majority"] = majority(rows)
        floors["colours"] = colour_neighbour(rows, facts)
        floors["files"] = file_neighbour(rows, facts)
        by_lot = colour_neighbour(shuffled(rows, recipe.splits.seed), facts)
    found = examples, skipped, duplicates, thorough, refusal
    return Survey(recipe, words, source, *found, rows, left_out, floors, by_lot)


def _read(data: Data, source: Source, progress: bool) -> tuple[list[Example], list[Skipped], str | None]:
    """Examples and skipped files, also where they are no two classes; then why nobody could train on them."""
    try:
        return *source.read(data, progress), None
    except TooFewClasses as error:
        return error.examples, error.skipped, str(error)
    except UserError as error:
        try:
            source.read(UNLABELLED, progress)
        except TooFewClasses as found:
            return [replace(each, label="") for each in found.examples], found.skipped, str(error)
        except UserError:
            pass
        raise


def connected(duplicates: Iterable[Duplicate], by_path: dict[str, Example]) -> list[list[Example]]:
    """The clusters that pairs of duplicates span."""
    from scipy.cluster.hierarchy import DisjointSet

    pairs = list(duplicates)
    sets = DisjointSet([path for pair in pairs for path in (pair.first, pair.second)])
    for pair in pairs:
        sets.merge(pair.first, pair.second)
    return sorted(([by_path[path] for path in sorted(found)] for found in sets.subsets()), key=lambda c: c[0].path)


def suspects(examples: Sequence[Example]) -> dict[str, str]:
    """By path, why an image may be none; see `_flat` for when a whole data set of drawings is none of that."""
    found: dict[str, str] = {}
    sizes = [max(example.facts.width, example.facts.height) for example in examples]
    usual = statistics.median(sizes) if sizes else 0
    for example, size in zip(examples, sizes, strict=True):
        if size * TINY <= usual:
            pixels = f"{example.facts.width} × {example.facts.height}"
            found[example.path] = f"tiny: {pixels} pixels among images of {usual:.0f}"
    by_content: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_content[example.sha256].append(example)
    for copies in by_content.values():
        if len(copies) >= MANY_NAMES or (len(copies) >= 3 and len({example.label for example in copies}) > 1):
            for example in copies:
                found.setdefault(example.path, f"placeholder: the same file under {len(copies)} names")
    for example in _flat(examples):
        empty = example.facts.commonest >= FLAT
        share = example.facts.commonest if empty else example.facts.two_commonest
        words = "empty: one shade of grey" if empty else "mask-like: two shades of grey"
        covered = "all" if share > 0.9995 else f"{100 * share:.1f} %"
        found.setdefault(example.path, f"{words} on {covered} of the picture")
    return dict(sorted(found.items()))


def _flat(examples: Sequence[Example]) -> list[Example]:
    """The flat ones, if they stand apart from the rest: where much lies between, the whole data set is drawings."""
    shares = [example.facts.two_commonest for example in examples]
    flat = [example for example, share in zip(examples, shares, strict=True) if share >= FLAT]
    varied = sum(share < VARIED for share in shares)
    between = len(shares) - len(flat) - varied
    return flat if varied >= len(shares) / 5 and between <= max(len(flat) / 2, len(shares) / 20) else []
