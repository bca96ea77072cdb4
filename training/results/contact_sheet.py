"""Contact sheets: pictures in rows with words above and below them, drawn by Pillow in a tenth of matplotlib's time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from hub_utils.portable.whole import replaced

SIDE = 224  # pixels of a picture's longer side
MARGIN = 14  # pixels around a cell
SMALL, LARGE = 11, 13  # pixels, of letters below and above


@dataclass(frozen=True)
class Cell:
    """One picture, at most SIDE pixels long, the lines below it, and the line above it, which may be `bold`."""

    picture: Image.Image
    below: str
    above: str = ""
    bold: bool = False


def save_sheet(cells: Sequence[Cell], columns: int, path: Path) -> None:
    """Write a JPEG of the cells, by rows; the same cells give the same bytes."""
    parts = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    rows = [[_drawn(cell, max(each.picture.height for each in part)) for cell in part] for part in parts]
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("RGB", (columns * (SIDE + 2 * MARGIN), sum(heights)), "white")
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * cell.width, sum(heights[:number])))
    with replaced(path, binary=True) as file:
        # Letters stay sharp; a PNG of photographs takes ten times as long.
        sheet.save(file, "JPEG", quality=90, subsampling=0)


def _drawn(cell: Cell, height: int) -> Image.Image:
    """The cell by itself, so that words that are too long end at its edge; `height`, in pixels, is for its picture."""
    top = MARGIN + 2 * LARGE
    lines = cell.below.count("\n") + 1
    drawn = Image.new("RGB", (SIDE + 2 * MARGIN, top + height + lines * (SMALL + 4) + MARGIN), "white")
    left, above = (drawn.width - cell.picture.width) // 2, top + (height - cell.picture.height) // 2
    drawn.paste(cell.picture, (left, above))
    draw = ImageDraw.Draw(drawn)
    frame = (left - 1, above - 1, left + cell.picture.width, above + cell.picture.height)
    draw.rectangle(frame, outline="lightgrey")  # white pictures on white
    draw.text((MARGIN, MARGIN), cell.above, "black", _font("DejaVuSans-Bold" if cell.bold else "DejaVuSans", LARGE))
    below = drawn.width // 2, top + height + 4
    draw.multiline_text(below, cell.below, "black", _font("DejaVuSans", SMALL), anchor="ma", align="center")
    return drawn


@cache
def _font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    """Of those that matplotlib brings along."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf"), pixels)
