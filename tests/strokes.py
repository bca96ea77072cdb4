"""Digits as people draw them: strokes to be drawn by a mouse in a browser, or with PIL as the browser would."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Stroke = list[tuple[float, float]]  # points, in shares of a box 1 high; y goes down


def _arc(x: float, y: float, wide: float, high: float, start: float, end: float) -> Stroke:
    """Of an ellipse round (x, y), from one angle to another: in degrees, 0 on the right, 90 below."""
    angles = np.radians(np.linspace(start, end, 24))
    return [(x + wide * np.cos(each), y + high * np.sin(each)) for each in angles]


# The box is about 0.6 wide. The first of each digit is the one that has to be right; the others are as common.
DIGITS: dict[str, list[list[Stroke]]] = {
    "0": [[_arc(0.3, 0.5, 0.28, 0.48, -90, 270)], [_arc(0.3, 0.5, 0.4, 0.48, -70, 295)]],
    "1": [
        [[(0.1, 0.3), (0.35, 0.02), (0.35, 0.98)]],
        [[(0.3, 0.02), (0.3, 0.98)]],
        [[(0.15, 0.25), (0.35, 0.02), (0.35, 0.98)], [(0.1, 0.98), (0.6, 0.98)]],
    ],
    "2": [
        [[*_arc(0.3, 0.27, 0.26, 0.25, -170, 40), (0.04, 0.97), (0.6, 0.97)]],
        [[*_arc(0.3, 0.25, 0.24, 0.23, -150, 50), (0.1, 0.93), (0.2, 0.86), (0.4, 0.97), (0.62, 0.9)]],
    ],
    "3": [
        [[*_arc(0.27, 0.26, 0.25, 0.23, -150, 80), *_arc(0.27, 0.73, 0.29, 0.25, -80, 155)]],
        [[(0.05, 0.03), (0.55, 0.03), (0.27, 0.4), *_arc(0.25, 0.69, 0.3, 0.29, -80, 150)]],
    ],
    "4": [
        [[(0.3, 0.02), (0.03, 0.62), (0.6, 0.62)], [(0.42, 0.35), (0.42, 0.98)]],
        [[(0.45, 0.98), (0.45, 0.02), (0.03, 0.65), (0.62, 0.65)]],
        [[(0.08, 0.05), (0.06, 0.5), (0.55, 0.5)], [(0.52, 0.03), (0.5, 0.98)]],
    ],
    "5": [
        [[(0.12, 0.03), (0.08, 0.45), *_arc(0.26, 0.68, 0.3, 0.29, -130, 140)], [(0.12, 0.03), (0.55, 0.03)]],
        [[(0.58, 0.03), (0.12, 0.03), (0.1, 0.42), *_arc(0.28, 0.68, 0.28, 0.29, -110, 150)]],
    ],
    "6": [
        [[(0.42, 0.02), (0.2, 0.25), (0.06, 0.55), *_arc(0.29, 0.72, 0.24, 0.25, 180, -180)]],
        [[*_arc(0.42, 0.65, 0.38, 0.63, -80, -180), *_arc(0.3, 0.72, 0.26, 0.25, 180, -190)]],
    ],
    "7": [
        [[(0.03, 0.04), (0.58, 0.04), (0.2, 0.98)], [(0.12, 0.5), (0.58, 0.5)]],
        [[(0.03, 0.04), (0.58, 0.04), (0.22, 0.98)]],
    ],
    "8": [
        [[*_arc(0.3, 0.25, 0.2, 0.23, 60, -240), *_arc(0.3, 0.73, 0.26, 0.25, -100, 260)]],
        [[*_arc(0.3, 0.25, 0.22, 0.23, -20, -270), *_arc(0.3, 0.73, 0.27, 0.25, -90, 270),
          *_arc(0.3, 0.25, 0.22, 0.23, 90, -20)]],
    ],
    "9": [
        [[*_arc(0.3, 0.28, 0.24, 0.25, 0, -350), (0.54, 0.3), (0.5, 0.7), *_arc(0.27, 0.78, 0.22, 0.19, 0, 130)]],
        [[*_arc(0.3, 0.28, 0.25, 0.26, -20, -360), (0.55, 0.25), (0.5, 0.98)]],
    ],
}  # fmt: skip


def placed(
    strokes: Sequence[Stroke], left: float, top: float, height: float, slant: float = 0.0, wide: float = 1.0
) -> list[Stroke]:
    """The strokes where they are drawn: `height` as share of the canvas; `slant` is x to y, to the right above 0."""

    def move(x: float, y: float) -> tuple[float, float]:
        return left + height * (wide * x + slant * (0.5 - y)), top + height * y

    return [[move(*point) for point in stroke] for stroke in strokes]


def painted(strokes: Sequence[Stroke], pen: float, side: int = 280) -> Image.Image:
    """What the canvas holds after these strokes, in shares of it, `pen` too: black on white, with round ends."""
    fine = side * 3
    image = Image.new("L", (fine, fine), 255)
    draw, width = ImageDraw.Draw(image), max(1, round(pen * fine))
    for stroke in strokes:
        points = [(x * fine, y * fine) for x, y in stroke]
        draw.line(points, 0, width)
        for x, y in points:  # the joints and the ends
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), 0)
    return image.resize((side, side), Image.Resampling.BOX)


def variants(count: int, seed: int = 0) -> list[tuple[str, list[Stroke], float]]:
    """`count` drawings a digit: another style, size, place, slant, width and pen each, and a hand that trembles."""
    draw, found = np.random.default_rng(seed), []
    for digit, styles in DIGITS.items():
        for number in range(count):
            height = draw.uniform(0.3, 0.92)
            wide = draw.uniform(0.75, 1.25)
            room = 1 - height, max(0.02, 1 - height * wide * 0.7)
            place = draw.uniform(0.04, max(0.05, room[1])), draw.uniform(0.02, room[0])
            strokes = placed(styles[number % len(styles)], *place, height, draw.uniform(-0.15, 0.3), wide)
            shaken = [list(map(tuple, stroke + draw.normal(0, 0.006 * height, np.shape(stroke)))) for stroke in strokes]
            found.append((digit, shaken, draw.uniform(0.045, 0.08)))
    return found
