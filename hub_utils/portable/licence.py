"""Whose images may be passed on: what is said of their licence, against a table of those that allow it.

A licence of the table lets anybody pass the images on, changed as well (metadata is removed), as long as it is named
and its terms are kept, which cards and pages do. All else needs a person who knows better: `--i_have_the_right`.
"""

from __future__ import annotations

import re

# By the Hub's own short names. Not in it: -nc (for whoever sells), -nd (a file without its EXIF data is another one).
FREE = frozenset(
    ["cc0-1.0", "pddl", "unlicense", "mit", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "zlib"]
    + ["cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "odc-by", "odbl"]
    + ["cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0"]
)


def short_name(licence: str) -> str:
    """As the Hub writes it, if it is a licence at all: `CC BY 4.0` is cc-by-4.0."""
    return re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-.")


def is_free(licence: str) -> bool:
    """Whether images of this licence may be passed on by anybody."""
    return short_name(licence) in FREE


def is_own(licence: str, origin: str | None) -> bool:
    """Whether nothing is said of where the images come from, nor of their licence: then they are the user's."""
    return not origin and licence == "unknown"
