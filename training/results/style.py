"""The house style that all plots share: colours, figures that need no display, names as text, files that are whole."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hub_utils.portable.whole import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from PIL import Image

# Okabe and Ito's colours, which colour-blind eyes tell apart. In print blue and vermilion are alike: where both stand
# in one plot, their dashes, markers or places differ too.
BLUE, VERMILION, ORANGE, SKY, GREY = "#0072B2", "#D55E00", "#E69F00", "#56B4E9", "#BBBBBB"


def new_figure(width: float, height: float) -> Figure:
    """Inches; drawn without a display, and without pyplot's list of open figures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, dpi: int = 150, tight: bool = False) -> None:
    """Write a PNG, whole or not at all; the same figure gives the same bytes. `tight` cuts off empty margins."""
    content = io.BytesIO()
    with warnings.catch_warnings():  # letters that the font lacks are boxes
        warnings.filterwarnings("ignore", message="Glyph ")
        edge = "tight" if tight else None
        figure.savefig(content, format="png", dpi=dpi, bbox_inches=edge, metadata={"Software": None})
    write_bytes(content.getvalue(), path)


def open_axes(axes: Axes) -> None:
    """Without the lines above and at the right, which say nothing."""
    axes.spines[["top", "right"]].set_visible(False)


def in_percent(*sides: Axis, decimals: int | None = 0) -> None:
    """Percents along an axis of shares from 0 to 1; with None, as many decimals as the range of the axis asks for."""
    from matplotlib.ticker import PercentFormatter

    for side in sides:
        side.set_major_formatter(PercentFormatter(1, decimals=decimals))


def plain(text: str) -> str:
    """The text as it is: a dollar would begin a formula."""
    return text.replace("$", r"\$")


def short(name: str, most: int) -> str:
    """One line of at most so many letters, to be drawn as it is; what is left out is from the middle.

    Long names of classes differ at their ends as often as at their beginnings.
    """
    name = " ".join(name.split())
    end = (most - 1) // 2
    return plain(name if len(name) <= most else f"{name[: most - 1 - end].rstrip()}…{name[-end:].lstrip()}")


def left_out(names: Sequence[str], letters: int) -> str:
    """That these classes have no test images, in lines of so many letters; of many, the first are named."""
    named = ", ".join(short(name, 28) for name in names[:6])
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return textwrap.fill(f"left out, without test images: {named}{more}", letters)


def percent(share: float) -> str:
    """Whole percents, where 100% and 0% are said of nothing less and nothing more."""
    rounded = f"{share:.0%}"
    if rounded == "0%" and share > 0:
        return "<1%"
    return ">99%" if rounded == "100%" and share < 1 else rounded


def show_picture(axes: Axes, picture: Image.Image, words: str) -> None:
    """A picture in a thin frame, with words below."""
    axes.imshow(picture)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color="0.8", linewidth=0.5)
    axes.set_xlabel(plain(words), fontsize=7)


def wrapped(path: str, letters: int = 34) -> str:
    """A path in lines of so many letters, three at most: its end is what is kept."""
    most = 3 * letters - 2
    path = path if len(path) <= most else f"…{path[1 - most :]}"
    return "\n".join(textwrap.wrap(path, letters, break_on_hyphens=False))
