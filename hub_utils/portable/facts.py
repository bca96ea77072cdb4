"""What a model's JSON files say; whatever is of another shape than was expected counts as not said."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Estimate(NamedTuple):
    """A share, 0 to 1, and both ends of its 95 % interval if it has one."""

    value: float
    interval: tuple[float, float] | None = None


def read_facts(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; {} if there is none that is whole."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def told(facts: Any, *keys: str, of: type[T]) -> T | None:
    """What stands under `keys`, one in the other, if it is of that type; a whole number is a float, too.

    A number is finite, and neither true nor false is one.
    """
    for key in keys:
        facts = facts.get(key) if isinstance(facts, dict) else None
    if of is float:
        return _number(facts)
    return facts if isinstance(facts, of) and (of is bool or not isinstance(facts, bool)) else None


def estimate(facts: Any, *keys: str) -> Estimate | None:
    """A share as {"value": 0.9, "interval": [0.8, 0.95]}, or as a bare number; None of what is none."""
    bare = told(facts, *keys, of=float)
    value = told(facts, *keys, "value", of=float) if bare is None else bare
    if value is None or not 0 <= value <= 1:
        return None
    ends = [_number(end) for end in told(facts, *keys, "interval", of=list) or ()]
    whole = len(ends) == 2 and None not in ends and 0 <= ends[0] <= ends[1] <= 1
    return Estimate(value, (ends[0], ends[1]) if whole else None)


def told_apart(names: list[str]) -> list[str]:
    """Names of classes; where two have one name (ImageNet's cranes), each with its number."""
    times = Counter(names)
    return [name if times[name] == 1 else f"{name} ({index})" for index, name in enumerate(names)]


def _number(value: Any) -> float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and abs(value) <= sys.float_info.max else None
