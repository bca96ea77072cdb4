"""Images that show what another image shows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Duplicate:
    """Two images of which one shows what the other shows."""

    first: str  # path; first < second
    second: str  # path
    kind: str  # "exact", "near" (resaved, resized, brighter), "mirrored", "part" (a crop, or an overlapping view)
    similarity: float  # 0 to 1
