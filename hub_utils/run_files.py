"""What the files of a run say, objects of JSON and tables; one that is broken is said to be."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hub_utils.portable import harmless_csv
from hub_utils.portable.command import UserError

TEXTS = ("source", "homepage", "data_license", "citation")  # of a recipe's data and card


def read_json(path: Path) -> dict[str, Any]:
    """What a file of a run says.

    Raises:
        UserError: it cannot be read, or is no object of JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object of JSON")
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read ({error}); train or evaluate the run anew") from error
    return content


def read_recipe(folder: Path, place: str) -> dict[str, Any]:
    """By what the model in `folder` was trained, as recipe.json has it; {} if there is none. `place` is told to people.

    Raises:
        UserError: it cannot be read, or says of its data or its card what it never says.
    """
    path = folder / "recipe.json"
    recipe = read_json(path).get("recipe", {}) if path.is_file() else {}
    inner = [recipe.get(name, {}) for name in ("data", "card")] if isinstance(recipe, dict) else [recipe]
    texts = [each.get(name) for each in inner if isinstance(each, dict) for name in TEXTS]
    if not all(isinstance(each, dict) for each in inner) or not all(isinstance(each, str | None) for each in texts):
        raise UserError(f"'recipe.json' of '{place}' is not as training writes it; train the run anew")
    return recipe


def read_rows(path: Path, columns: Collection[str]) -> list[dict[str, str]]:
    """The rows of a CSV file of a run, each with these columns at least.

    Raises:
        UserError: it cannot be read, or lacks one of them.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(harmless_csv.read_dicts(file))
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"'{path}' cannot be read ({error}); train the run anew") from error
    missing = [name for name in columns if any(row.get(name) is None for row in rows)]
    if missing:
        raise UserError(f"'{path}' has rows without {', '.join(missing)}; train the run anew")
    return rows
