"""Plots of a data set. The sheets show images of it: they stay on the machine and are not to be uploaded."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from training.results import style
from training.results.contact_sheet import SIDE, Cell, save_sheet
from training.results.style import BLUE, GREY, ORANGE, SKY, short, wrapped

if TYPE_CHECKING:
    from matplotlib.axis import Axis

    from training.data.duplicates import Duplicate
    from training.data.intake import Example
    from training.data.splits import Row

# From dark to light, so that print tells them apart too.
COLOURS = {"train": BLUE, "validation": ORANGE, "test": SKY, "images": BLUE, "left out": GREY}
MOST_CLASSES = 120  # bars that can still be read
MOST_SIZES = 2_000  # dots
PAIRS, SUSPECTS, SHEETS = 12, 40, 4  # on a sheet, and sheets at most
DPI = 110


def plot_classes(examples: Sequence[Example], rows: Sequence[Row], path: Path) -> None:
    """Images of each class as bars, the largest above; in the colours of the splits, if there are splits."""
    splits = {row.path: row.split for row in rows}
    rest = "left out" if rows else "images"
    counts: dict[str, Counter] = {}
    for example in examples:
        counts.setdefault(example.label or "no class", Counter())[splits.get(example.path, rest)] += 1
    labels = sorted(counts, key=lambda label: (-counts[label].total(), label))
    left = len(labels) - MOST_CLASSES
    if left > 0:
        labels = [*labels[: MOST_CLASSES // 2], f"… {left} classes between …", *labels[-MOST_CLASSES // 2 :]]
    figure = style.new_figure(8, 1.2 + 0.2 * len(labels))
    axes = figure.subplots()
    start = np.zeros(len(labels))
    for split, colour in COLOURS.items():
        widths = np.array([counts.get(label, Counter())[split] for label in labels])
        if widths.any():
            axes.barh(range(len(labels)), widths, left=start, color=colour, label=split, height=0.75)
            start += widths
    for place, total in enumerate(start):
        if total:
            axes.annotate(f"{total:,.0f}", (total, place), (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(labels)), [short(label, 40) for label in labels], fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel("images")
    axes.margins(x=0.08)
    style.open_axes(axes)
    if rows:
        figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=8)
    style.save(figure, path, DPI, tight=True)


def plot_sizes(examples: Sequence[Example], path: Path) -> None:
    """Width and height of the images in pixels: a dot a size, larger where more images have it; of many, density."""
    sizes = Counter((example.facts.width, example.facts.height) for example in examples)
    width, height = np.array(list(sizes)).T
    count = np.array(list(sizes.values()))
    figure = style.new_figure(6, 5)
    axes = figure.subplots()
    limits = min(width.min(), height.min()) / 1.25, max(width.max(), height.max()) * 1.25
    axes.plot(limits, limits, color="0.7", linewidth=1, linestyle=":", zorder=0)
    axes.annotate("square", (limits[1] / 1.05, limits[1] / 1.05), ha="right", va="top", color="0.5", fontsize=8)
    scale = "log" if limits[1] > 6 * limits[0] else "linear"
    if len(count) > MOST_SIZES:
        how = {"gridsize": 40, "xscale": scale, "yscale": scale, "bins": "log", "linewidths": 0}
        cells = axes.hexbin(width, height, count, reduce_C_function=np.sum, **how)
        figure.colorbar(cells, label="images")
    else:
        axes.scatter(width, height, 8 + 300 * count / count.sum(), color=COLOURS["train"], alpha=0.5, linewidths=0)
    for axis, name in ((axes.xaxis, "width"), (axes.yaxis, "height")):
        axis.axes.set(**{f"{axis.axis_name}scale": scale})
        axis.axes.set(**{f"{axis.axis_name}lim": limits, f"{axis.axis_name}label": f"{name} in pixels"})
        _plain_numbers(axis, scale)
    axes.set_aspect("equal")
    told: list[np.ndarray] = []
    for index in np.argsort(-count)[:3]:
        place = axes.transData.transform((width[index], height[index]))
        free = all(abs(place - other)[1] > 14 or abs(place - other)[0] > 120 for other in told)
        if count[index] >= 0.05 * count.sum() and free:
            told.append(place)
            label = f"{width[index]} × {height[index]}: {count[index]:,} images"
            axes.annotate(label, (width[index], height[index]), (9, -11), textcoords="offset points", fontsize=8)
    style.open_axes(axes)
    style.save(figure, path, DPI, tight=True)


def plot_duplicates(
    pairs: Sequence[Duplicate], by_path: dict[str, Example], read: Callable[[str], bytes], folder: Path
) -> list[Path]:
    """Sheets of pairs side by side, in the order given, as `folder`/duplicates-1.jpg and so on."""
    sheets = []
    for number, start in enumerate(range(0, min(len(pairs), PAIRS * SHEETS), PAIRS), 1):
        part = pairs[start : start + PAIRS]
        pictures = _pictures([path for pair in part for path in (pair.first, pair.second)], read)
        cells = []
        for pair in part:
            first, second = by_path[pair.first], by_path[pair.second]
            torn = first.label != second.label
            title = f"{pair.kind}  {pair.similarity:.2f}{'  ·  two labels' * torn}"
            cells.append(Cell(pictures[first.path], _words(first), title, torn))
            cells.append(Cell(pictures[second.path], _words(second)))
        sheets.append(folder / f"duplicates-{number}.jpg")
        save_sheet(cells, 2 * min(2, len(part)), sheets[-1])
    return sheets


def _words(example: Example) -> str:
    return f"{wrapped(', '.join(word for word in (example.label, example.split) if word))}\n{wrapped(example.path)}"


def plot_suspects(suspects: dict[str, str], read: Callable[[str], bytes], folder: Path) -> list[Path]:
    """Contact sheets of what may be no image of the set, with the reason, as `folder`/suspects-1.jpg and so on."""
    sheets = []
    names = list(suspects)[: SUSPECTS * SHEETS]
    for number, start in enumerate(range(0, len(names), SUSPECTS), 1):
        part = names[start : start + SUSPECTS]
        pictures = _pictures(part, read)
        cells = [Cell(pictures[path], f"{wrapped(path)}\n{suspects[path].partition(':')[0]}") for path in part]
        sheets.append(folder / f"suspects-{number}.jpg")
        save_sheet(cells, min(5, len(part)), sheets[-1])
    return sheets


def _plain_numbers(axis: Axis, scale: str) -> None:
    """100, 200, 500 in place of 10²."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    if scale == "log":
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(StrMethodFormatter("{x:.0f}"))


def _pictures(paths: Iterable[str], read: Callable[[str], bytes]) -> dict[str, Image.Image]:
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(paths, pool.map(lambda path: _picture(read(path)), paths), strict=True))


def _picture(content: bytes) -> Image.Image:
    """Turned as EXIF says, in RGB, small."""
    with Image.open(io.BytesIO(content)) as image:
        scale = min(1.0, SIDE / max(image.size))
        image.draft("RGB", (max(1, int(image.width * scale)), max(1, int(image.height * scale))))
        picture = ImageOps.exif_transpose(image).convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    return picture
