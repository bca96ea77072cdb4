"""No table of ours computes anything in a spreadsheet, and each is read back to the letter."""

import csv
import io
import random
from dataclasses import replace

import numpy as np
import pytest

from hub_utils.portable.harmless_csv import Writer, exact, harmless, read, read_dicts
from hub_utils.run_files import read_rows
from training.data.splits import Row, read_splits, write_splits
from training.results.mistakes import as_csv
from training.results.predictions import Predictions, read_predictions, write_predictions

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(1)",
    "＝1",
    ' "=1"',
    "'=1",
    "a;=1",
    "a,=1",
    "a\n-1",
    "a\t+1",
    "\t=1",
    "\r\n@a",
    "\t",
    "\xa0=1",
    "\u3000=1",
    "\ufeff@a",
    "\x0b+1",
    "\x00=1",
    "a; \xa0'=1",
]


def spreadsheet(text: str, divided_at: str) -> list[str]:
    """The cells that a spreadsheet would make of a table, quotes gone, as far as it matters whether one is computed."""
    return [cell for row in csv.reader(io.StringIO(text, newline=""), delimiter=divided_at) for cell in row]


@pytest.mark.parametrize("cell", FORMULAS)
@pytest.mark.parametrize("divided_at", [",", ";", "\t"])
def test_nothing_is_computed_wherever_cells_are_divided(cell, divided_at):
    text = io.StringIO(newline="")
    Writer(text).writerow(["cat.png", cell, cell, "dog"])
    cells = spreadsheet(text.getvalue(), divided_at)
    assert cells and not [
        each for each in cells if each.strip(' "\t\r\n\x00\x0b\x0c\x85\xa0\u3000\ufeff')[:1] in tuple("=+-@＝＋－＠")
    ], cells
    assert list(read(io.StringIO(text.getvalue(), newline=""))) == [["cat.png", cell, cell, "dog"]]


@pytest.mark.parametrize(
    "cell", ["cat.jpg", "a=b.png", "3-1.png", "a;b", "it's", "'quoted'", "花.png", "", "a b", "x\ny"]
)
def test_what_is_no_formula_stays_as_it_is(cell):
    assert harmless(cell) == cell == exact(cell)


def test_whatever_is_written_is_read_back_to_the_letter():
    draw = random.Random(0)
    letters = "=+-@'\" ,;|\t\r\nab＝\x00\x0b\x0c\x85\xa0\u3000\ufeff"
    for _ in range(20_000):
        cell = "".join(draw.choices(letters, k=draw.randrange(8)))
        assert exact(harmless(cell)) == cell, repr(cell)
        assert cell == "" or harmless(cell)[0] not in "=+-@＝＋－＠\t\r\n", repr(cell)


def test_numbers_are_numbers_and_names_of_columns_are_text():
    text = io.StringIO(newline="")
    Writer(text, lineterminator="\n").writerows([["path", "=p"], ["a.png", -0.5]])
    assert text.getvalue() == "path,'=p\na.png,-0.5\n"
    assert list(read_dicts(io.StringIO("path,'=p\n'-a.png,1,2\nb\n"))) == [
        {"path": "-a.png", "=p": "1", None: ["2"]},
        {"path": "b", "=p": None},
    ]


def test_a_run_s_tables_are_read_back_with_names_that_would_be_formulas(tmp_path):
    rows = [Row(f"=a/{cell}", "0" * 64, cell, "test", f"@{cell}") for cell in ("=x", "a;-1", "'=y", "cat")]
    write_splits(rows, tmp_path / "splits.csv")
    assert read_splits(tmp_path / "splits.csv") == rows
    assert [row["path"] for row in read_rows(tmp_path / "splits.csv", ["path"])] == [row.path for row in rows]
    said = Predictions(["=a", "-b"], ["=1.png"], np.array([0]), np.array([[0.25, 0.75]]), ["@g"], ["test"])
    write_predictions(said, tmp_path / "predictions.csv")
    assert "\n=" not in (text := (tmp_path / "predictions.csv").read_text(encoding="utf-8")) and ",=" not in text
    again = read_predictions(tmp_path / "predictions.csv")
    assert (again.classes, again.paths, again.groups) == (said.classes, said.paths, said.groups)
    assert "\n'=1.png,'=a,'-b," in as_csv(said, [0])
    write_splits([replace(rows[0], path="it's.png")], tmp_path / "splits.csv")
    assert "\nit's.png," in (tmp_path / "splits.csv").read_text(encoding="utf-8")
