"""What every benchmark says, in one form: rows of ours and another's figure, as a table and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One comparison.

    `ours` and `other` are in `unit`; `versus` says what the other is: a contestant, or a limit. `ratio` is the number
    that `asked` speaks of, as in "≥ 2.5 ×" or "≤ 1.25 ×". `met` is None where nothing is asked for. `same` says how it
    was checked that both computed the same.
    """

    what: str
    ours: float
    other: float | None
    unit: str
    ratio: float | None
    asked: str
    met: bool | None
    same: str
    versus: str = ""


def judged(checks: Mapping[str, bool]) -> tuple[bool, str]:
    """Whether all checks hold, and which those are, or which do not."""
    failed = [name for name, holds in checks.items() if not holds]
    return not failed, f"NOT THE SAME: {'; '.join(failed)}" if failed else "; ".join(checks)


def print_rows(rows: Sequence[Row]) -> None:
    """A Markdown table."""
    print("| what | ours | other | unit | ratio | asked | met | the same, checked |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        other = " ".join(part for part in (_number(row.other), row.versus and f"({row.versus})") if part)
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        cells = (row.what, _number(row.ours), other, row.unit, _number(row.ratio), row.asked, met, row.same)
        print(f"| {' | '.join(cells)} |", flush=True)


def write_rows(path: Path, rows: Sequence[Row], facts: dict[str, Any], measurements: Any = None) -> None:
    """JSON with `rows`, `facts` (of the machine) and `measurements` (every single one); whole or not at all."""
    content = {"rows": [asdict(row) for row in rows], "facts": facts, "measurements": measurements}
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    unfinished.replace(path)


def read_rows(path: Path) -> tuple[list[Row], Any]:
    """What `write_rows` wrote: rows and measurements."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return [Row(**row) for row in content["rows"]], content["measurements"]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
