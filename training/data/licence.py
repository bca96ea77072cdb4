"""Whose images may be published: what is said of their licence, against a table of those that allow it.

A licence of the table lets anybody pass the images on, changed as well (metadata is removed), as long as it is named
and its terms are kept, which the card does. All else needs a person who knows better: `--i_have_the_right`.
"""

from __future__ import annotations

import re

from training.recipe import Recipe

# By the Hub's own short names. Not in it: -nc (for whoever sells), -nd (a file without its EXIF data is another one).
FREE = frozenset(
    ["cc0-1.0", "pddl", "unlicense", "mit", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "zlib"]
    + ["cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "odc-by", "odbl"]
    + ["cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0"]
)
UNKNOWN = frozenset({"unknown", "unverified", "none-stated", "none"})


def short_name(licence: str) -> str:
    """As the Hub writes it, if it is a licence at all: `CC BY 4.0` is cc-by-4.0."""
    return re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-.")


def is_own(recipe: Recipe) -> bool:
    """Whether the recipe says nothing of where images come from: then they are the user's."""
    return not (recipe.data.source or recipe.data.homepage) and recipe.card.data_license == "unknown"


def objection(recipe: Recipe, public: bool) -> str | None:
    """Why these images may not be passed on as far as anybody knows: the licence, the source, and the next step."""
    if is_own(recipe) and not public:
        return None
    if is_own(recipe):
        return (
            "--public shows these images to everybody, and nothing says that you may: add --i_have_the_right if they "
            "are yours to publish (and --license NAME, so that others know what they may do), or leave out --public"
        )
    if short_name(recipe.card.data_license) in FREE:
        return None
    where = recipe.data.homepage or recipe.data.source or "not stated"
    return (
        f"the images of recipe '{recipe.name}' have no licence that lets you pass them on: "
        f"'{recipe.card.data_license}' (source: {where}); read its terms, and if you have the right all the same, say "
        "--i_have_the_right"
    )


def card_facts(recipe: Recipe, stated: str | None) -> dict[str, str]:
    """What the card's front matter says of the licence: `stated` if the user states one, else what the recipe says."""
    said = stated or recipe.card.data_license
    name = short_name(said)
    if stated is None and is_own(recipe):
        return {}
    if name in FREE or re.fullmatch(r"cc-by(-nc)?(-nd|-sa)?-\d\.\d", name):
        return {"license": name}
    if name in UNKNOWN:
        return {"license": "unknown"}
    return {"license": "other", "license_name": name[:80] or "other"}
