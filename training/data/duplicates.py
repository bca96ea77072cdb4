"""Images that show what another one shows: exact copies, resaved and resized ones, crops, overlapping views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from training.data.intake import Example


@dataclass(frozen=True)
class Duplicate:
    """Two images of which one shows what the other shows.

    `kind` is "exact" (the same bytes), "near" (resaved, resized, brighter), "mirrored" (or turned by quarters) or
    "part" (a crop, or an overlapping view). `similarity` is 0 to 1.
    """

    first: str
    second: str
    kind: str
    similarity: float


def find_duplicates(
    examples: Sequence[Example], read: Callable[[str], bytes], thorough: bool = False, progress: bool = True
) -> list[Duplicate]:
    """Exact copies only, each with the first of its kind."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault(each.sha256, each.path), each.path) for each in sorted(examples, key=lambda e: e.path)]
    return [Duplicate(one, other, "exact", 1.0) for one, other in pairs if one != other]
