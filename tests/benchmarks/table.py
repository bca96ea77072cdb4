"""What every benchmark says, in one form: rows of ours and another's figure, as a table and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

DIFFERENT = "NOT THE SAME: "
FAILED = "failed: "


@dataclass(frozen=True)
class Row:
    """One comparison.

    `ours` and `other` are in `unit`; `versus` says what the other is: a contestant, or a limit. `ratio` is the number
    that `asked` speaks of, as in "≥ 2.5 ×" or "≤ 1.25 ×". `met` is None where nothing is asked for or could be judged,
    and "quick" where too little was measured to judge. `same` says how it was checked that both computed the same.
    """

    what: str
    ours: float | None
    other: float | None
    unit: str
    ratio: float | None
    asked: str
    met: bool | Literal["quick"] | None
    same: str
    versus: str = ""

    @property
    def comparable(self) -> bool:
        """Whether both did what is compared."""
        return not self.same.startswith((DIFFERENT, FAILED))


def compared(row: Row, checks: Mapping[str, bool], small: bool = False) -> Row:
    """The row as it is judged: without a ratio if not all checks hold, without a verdict if `small`."""
    failed = [name for name, holds in checks.items() if not holds]
    same = f"{DIFFERENT}{'; '.join(failed)}" if failed else "; ".join(checks)
    ratio, met = (None, row.met and False) if failed else (row.ratio, row.met)
    return Row(**{**asdict(row), "same": same, "ratio": ratio, "met": "quick" if small and met is not None else met})


def lost(what: str, unit: str, asked: str, why: str, versus: str = "") -> Row:
    """The row of what could not be compared."""
    return Row(what, None, None, unit, None, asked, None, f"{FAILED}{why}", versus)


def print_rows(rows: Sequence[Row]) -> None:
    """A Markdown table."""
    print("| what | ours | other | unit | ratio | asked | met | the same, checked |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        other = " ".join(part for part in (_number(row.other), row.versus and f"({row.versus})") if part)
        met = {True: "yes", False: "**no**", None: ""}.get(row.met, row.met)
        cells = (row.what, _number(row.ours), other, row.unit, _number(row.ratio), row.asked, met, row.same)
        print(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |", flush=True)


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
