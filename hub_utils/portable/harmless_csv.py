"""CSV that a person may open in a spreadsheet: no cell of it is computed, and our programs read back what was written.

What a stranger called a file, a class or a patient stands in these tables. Excel, LibreOffice and Google's take a cell
that begins with = + - or @ for a formula, after blanks and quotes as well; and where a comma is written in numbers,
they divide lines at semicolons instead, so that a formula may begin in the middle of a cell of ours. An apostrophe
before it says to all of them that it is text. Source: OWASP, "CSV Injection".
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

BLANK = " \x00\x0b\x0c\x85\xa0\u3000\ufeff"  # what some programs leave out at a cell's start
FORMULA = rf"(?=[{BLANK}'\"]*[=+\-@＝＋－＠])"  # the wide forms are those of East Asia
PIECE = r"(?:\A|(?<=[,;\t\r\n|]))"  # where a cell may begin for a spreadsheet
MOVES_UP = rf"(?=[{BLANK}']*[\t\r\n])"  # blanks at the start, which some leave out
TO_WRITE = [re.compile(PIECE + FORMULA), re.compile(r"\A" + MOVES_UP)]
TO_READ = [re.compile(rf"\A'{MOVES_UP}"), re.compile(f"{PIECE}'{FORMULA}")]


def harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula, or for several cells; `exact` is the opposite."""
    for place in TO_WRITE:
        cell = place.sub("'", cell)
    return cell


def exact(cell: str) -> str:
    """What `harmless` was given; a cell that it did not write stays, unless an apostrophe is before a formula in it."""
    if "'" in cell:
        for place in TO_READ:
            cell = place.sub("", cell)
    return cell


class Writer:
    """As `csv.writer`, with text made harmless; numbers are not text."""

    def __init__(self, file: IO[str], **how: Any) -> None:
        self._writer = csv.writer(file, **how)

    def writerow(self, cells: Iterable[Any]) -> None:
        self._writer.writerow([harmless(cell) if isinstance(cell, str) else cell for cell in cells])

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        for row in rows:
            self.writerow(row)


def read(file: Iterable[str]) -> Iterator[list[str]]:
    """As `csv.reader`, of what a `Writer` wrote."""
    return ([exact(cell) for cell in row] for row in csv.reader(file))


def read_dicts(file: Iterable[str]) -> Iterator[dict[str, Any]]:
    """As `csv.DictReader`, of what a `Writer` wrote: under None what is too much, and None where cells are missing."""
    for row in csv.DictReader(file):
        yield {name and exact(name): exact(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
