"""What is said of the licence of a data set that is to be published, and what speaks against it."""

from __future__ import annotations

import re

from hub_utils.portable import licence
from hub_utils.portable.licence import FREE, short_name
from training.recipe import Recipe

UNKNOWN = frozenset({"unknown", "unverified", "none-stated", "none"})


def is_own(recipe: Recipe) -> bool:
    """Whether the recipe says nothing of where images come from: then they are the user's."""
    return licence.is_own(recipe.card.data_license, recipe.data.source or recipe.data.homepage)


def objection(recipe: Recipe, public: bool) -> str | None:
    """Why these images may not be passed on as far as anybody knows: the licence, the source, and the next step."""
    if is_own(recipe) and not public:
        return None
    if is_own(recipe):
        return (
            "--public shows these images to everybody, and nothing says that you may: add --i_have_the_right if they "
            "are yours to publish (and --license NAME, so that others know what they may do), or leave out --public"
        )
    if licence.is_free(recipe.card.data_license):
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
