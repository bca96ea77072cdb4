"""All that can be found out about a data set before training on it, looked at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from training.data.convert import oddity
from training.data.duplicates import Duplicate, find_duplicates
from training.data.intake import Example, Skipped, TooFewClasses
from training.data.source import Source
from training.data.splits import Row, alike, conflicts, make_splits
from training.data.suspects import suspects
from training.recipe import Data, Recipe, UserError
from training.results.floors import Floor, colour_neighbour, file_neighbour, majority, shuffled

UNLABELLED = Data(pattern=r"(?P<label>\.)\w+$")  # the dot before its ending: the same for every image, and no label


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
        return alike(self.examples, self.duplicates)

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
    return survey_of(read(recipe.data, source, progress), recipe, words, source, thorough, progress)


def survey_of(
    images: tuple[list[Example], list[Skipped], str | None],
    recipe: Recipe,
    words: str,
    source: Source,
    thorough: bool,
    progress: bool = True,
) -> Survey:
    """What there is to say of images that `read` has found."""
    examples, skipped, refusal = images
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


def read(data: Data, source: Source, progress: bool = True) -> tuple[list[Example], list[Skipped], str | None]:
    """Examples and skipped files, also where they are no two classes; then why nobody could train on them.

    Raises:
        UserError: there is no image to look at.
    """
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
