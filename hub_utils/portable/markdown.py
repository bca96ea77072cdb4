"""Any text as Markdown: what people and file names bring along is shown as it is and changes nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

# Control characters, halves of surrogate pairs, and what turns the direction of writing.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
LONG = 60  # letters of a name that are read at a glance
MOST = 12  # names, and lines of a table; more are folded away or cut off
ADDRESS = r"https?://[^\s<>()\[\]\"'`\\{}|]*[\w/]"


def as_text(value: Any) -> str:
    """Any string as one line of Markdown that shows it as it is."""
    line = re.sub(r"&(?=#?\w+;)", "&amp;", one_line(value))
    line = re.sub(r"([\\`*{}\[\]<>#|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)  # an inner _ is one
    line = re.sub(r"^([-+=])", r"\\\1", line)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", line)


def as_prose(value: Any) -> str:
    """As `as_text`, with the addresses in it as links."""
    line, told = one_line(value), ""
    for text, address in re.findall(rf"(.*?)({ADDRESS}|$)", line):
        told += " " * text.startswith(" ") + as_text(text) + " " * text.endswith(" ")
        told += f"<{address}>" if address else ""
    return told.strip()


def as_code(value: Any) -> str:
    """A string as inline code, whatever backticks are in it."""
    line = one_line(value)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if "`" in (line[:1], line[-1:]) else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def one_line(value: Any) -> str:
    """White space of all kinds as single blanks, and what is no letter but a command to the screen made visible."""
    return UNSEEN.sub("\ufffd", " ".join(str(value).split()))


def as_link(url: str) -> str | None:
    """A link, if it is the address of a page at all."""
    return f"<{url}>" if re.fullmatch(ADDRESS, url) else None


def as_table(head: Sequence[str], rows: Iterable[Sequence[str]], right: bool = True) -> str:
    """Columns after the first to the right, where they hold numbers."""
    rule = ["---"] + ["---:" if right else "---"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def folded(title: str, table: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n\n{table}\n\n</details>"


def as_list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def names_of(names: Sequence[str], most: int = MOST) -> str:
    shown = [as_text(name) for name in names[:most]]
    return " · ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(number: int, one: str, several: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def short(name: str) -> str:
    """A class's name for a sentence, where one of thousands of letters would leave nothing else to be read."""
    return name if len(name) <= LONG else f"{name[:LONG]}…"
