"""Images that show what another one shows: exact copies, resaved and resized ones, crops, overlapping views."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Duplicate:
    """Two images of which one shows what the other shows.

    `kind` is "exact" (the same bytes), "near" (resaved, resized, brighter), "mirrored" (or turned by quarters) or "part"
    (a crop, or an overlapping view). `similarity` is 0 to 1.
    """

    first: str
    second: str
    kind: str
    similarity: float
