"""A canvas to draw a digit on, and what a drawing becomes so that it looks as scikit-learn's digits do."""

from __future__ import annotations

import base64
import io
import time
from dataclasses import replace
from html import escape
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from hub_utils.portable.answer_html import answer_html, busy_html, problem_html
from hub_utils.portable.command import UserError
from hub_utils.portable.served import Served
from hub_utils.portable.uploads import asked

LEAST = 0.1  # of the canvas: what is smaller than that both ways is a dot
SIDE = 560  # pixels of the canvas
LARGEST = 500_000  # characters of a drawing that is sent; a canvas full of scribble takes a tenth
FIELD = f"""<div class="field"><canvas width="{SIDE}" height="{SIDE}" role="img"
aria-label="Field to draw a digit in, with mouse, pen or finger"></canvas>
<p class="hint">Draw a digit, 0 to 9,<br>with mouse, pen or finger</p>
<div class="doors"><button type="button" class="undo">Undo</button>
<button type="button" class="clear">Clear</button></div>
<p class="aloud" role="status"></p></div>"""
WAITING = """<section class="answer waiting" data-turn="{}"><h2>Which digit?</h2>
<p>Draw one, and the answer stands here after each stroke.</p></section>"""


def drawing(served: Served) -> None:
    """Draw it, inside an open `gr.Blocks`: the field, what the model sees of it, and the answer after each stroke."""
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    with gr.Row(elem_classes="one-picture drawing"):
        with gr.Column(elem_classes="stage-column"):
            field = gr.HTML(FIELD, js_on_load=script, apply_default_css=False)
            small = gr.HTML(js_on_load=None, apply_default_css=False)
        panel = gr.HTML(WAITING.format(""), js_on_load=None, apply_default_css=False, elem_classes="answer-column")

    def look(event: gr.EventData) -> tuple[str, str]:
        told = asked(event)
        sent, turn = str(told.get("png", "")), str(told.get("turn", ""))[:40]
        if not sent:
            return "", WAITING.format(escape(turn))
        try:
            served.predictor()  # whoever comes first waits for the model; that is not the answer's time
            start = time.perf_counter()
            image = as_data(received(sent))
            (answer,) = served.answer([image.convert("RGB")])
        except UserError as error:
            return "", problem_html(str(error), turn)
        milliseconds = 1000 * (time.perf_counter() - start)
        # Without its maps: 8 × 8 squares are too few to show places on.
        return seen(image), answer_html(served, replace(answer, maps=None), milliseconds, turn)

    look.when_busy = lambda sentence, turn: ["", busy_html(sentence, turn)]
    # Every stroke in its turn: "always_last" would ask about the earlier drawing again, events' data are not kept.
    field.drawn(
        look, None, [small, panel], concurrency_limit=1, trigger_mode="multiple", show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip


def as_data(drawing: Image.Image) -> Image.Image:
    """The 8 × 8 image, of mode L, that scikit-learn's digits would hold of a drawing, dark on light.

    They were normalised by NIST's form-based recognition system (NISTIR 5469, 1994, second-generation normalisation):
    the ink's box is stretched to 20 × 32 in the middle of 32 × 32, whatever its proportions were; strokes that are
    too thick or too thin are eroded or dilated; rows are moved so that the left edge stands upright. The ink is then
    counted in blocks of 4 × 4. The data show all of it: ink in every first and last row, none in the outermost
    columns, 256 to 412 inked pixels of 1,024 in 19 images of 20.

    Raises:
        UserError: there is no ink, or a dot of it.
    """
    return _paper(_counted(_upright(_of_common_weight(_stretched(_ink(drawing))))))


def received(png: str) -> Image.Image:
    """The drawing that a browser sent, a PNG in base64.

    Raises:
        UserError: it is none.
    """
    try:
        if len(png) > LARGEST:
            raise ValueError
        drawing = Image.open(io.BytesIO(base64.b64decode(png, validate=True)), formats=["PNG"])
        if max(drawing.size) > 2 * SIDE:
            raise ValueError
        drawing.load()
    except Exception:  # Pillow's decoder raises anything from SyntaxError to struct.error
        raise UserError("what came is no drawing: reload the page and draw again") from None
    return drawing


def seen(image: Image.Image) -> str:
    """What the model is shown, large enough for people."""
    file = io.BytesIO()
    image.save(file, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    size = f"{image.width} × {image.height}"
    return (
        f'<figure class="seen"><img src="{source}" alt="The drawing in {size} grey squares">'
        f"<figcaption>What the model sees: your strokes, made {size} as the data are</figcaption></figure>"
    )


def _ink(drawing: Image.Image) -> np.ndarray:
    """Where there is ink: bool, cropped to it."""
    paper = Image.new("RGBA", drawing.size, "white")
    paper.alpha_composite(drawing.convert("RGBA"))
    ink = np.asarray(paper.convert("L")) < 128
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not rows.size:
        raise UserError("nothing is drawn yet: draw a digit from 0 to 9")
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if max(box.shape) < LEAST * max(ink.shape):
        raise UserError("that is too small to read: draw one digit that fills the field")
    return box


def _stretched(ink: np.ndarray) -> np.ndarray:
    narrow = Image.fromarray(ink.astype(np.uint8) * 255).resize((20, 32), Image.Resampling.BOX)
    return np.pad(np.asarray(narrow) >= 128, ((0, 0), (6, 6)))


def _of_common_weight(ink: np.ndarray) -> np.ndarray:
    count = ink.sum()
    for fewest in (412, 560):
        if count > fewest:
            ink = ~_grown(~ink, outside=True)
    for most in (256, 108):
        if count < most:
            ink = _grown(ink, outside=False)
    return ink


def _grown(pixels: np.ndarray, outside: bool) -> np.ndarray:
    """True where a pixel or one of its four neighbours is."""
    wider = np.pad(pixels, 1, constant_values=outside)
    return pixels | wider[:-2, 1:-1] | wider[2:, 1:-1] | wider[1:-1, :-2] | wider[1:-1, 2:]


def _upright(ink: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(ink.any(1))
    top, bottom = rows[0] + 2, rows[-1] - 2  # a stroke's very end says little
    if bottom <= top or not ink[top].any() or not ink[bottom].any():
        return ink
    slope = (int(ink[top].argmax()) - int(ink[bottom].argmax())) / (bottom - top)
    shifts = [round((row - len(ink) // 2) * slope) for row in range(len(ink))]
    wider = np.pad(ink, ((0, 0), (32, 32)))
    return np.stack([np.roll(row, shift)[32:-32] for row, shift in zip(wider, shifts, strict=True)])


def _counted(ink: np.ndarray) -> np.ndarray:
    return ink.reshape(8, 4, 8, 4).sum((1, 3))


def _paper(counts: np.ndarray) -> Image.Image:
    """As `training/data/embedded.py` writes them: 0 is white, 16 black."""
    return Image.fromarray((255 - counts * 255 / 16).round().astype(np.uint8))
