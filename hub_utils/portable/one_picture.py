"""One picture in, dropped, pasted, taken or chosen; the answer beside it, with no button to press.

The browser draws: it shows the picture before it is sent, and lays the heat maps, which come with the answer, over it.
Each picture is sent under a name drawn by lot, read once, and deleted.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from PIL import Image

from hub_utils.portable.answer_html import answer_html, busy_html, problem_html
from hub_utils.portable.command import UserError
from hub_utils.portable.pictures import MOST_BYTES, opened
from hub_utils.portable.served import Served, verdict
from hub_utils.portable.upload_folder import answered
from hub_utils.portable.uploads import Picture, asked, forget, limits_in_words, told_to_clients, uploaded_or_why

# Pictures, each in a thread: while one is opened, another is in the network. Not gradio's batches: with them one bad
# picture fails all that were batched with it, and on a CPU the network gains nothing from them.
AT_ONCE = 2
THUMBNAIL = 144  # pixels, twice what is seen: for fine screens
NO_CAMERA = {  # by the name of the browser's error
    "NotAllowedError": "the camera may not be used: allow it for this page in the browser, or choose a picture",
    "NotFoundError": "there is no camera here: choose a picture instead",
    "NotReadableError": "the camera is in use elsewhere: close that first, or choose a picture",
    "ended": "the camera is gone: connect it again, or choose a picture",
}
STAGE = """<div class="stage" data-limit="{limit}">
<div class="view">
  <div class="frame" hidden><img alt="Your picture"><video playsinline muted hidden></video>
    <canvas aria-hidden="true"></canvas></div>
  <p class="unseen" hidden>Your browser cannot show this kind of file.</p>
  <div class="empty"><svg viewBox="0 0 48 48" aria-hidden="true"><rect x="5" y="9" width="38" height="30" rx="4"/>
    <circle cx="16" cy="19" r="3.5"/><path d="m6 35 11-10 8 7 8-9 9 10"/></svg>
    <p><b>Drop a picture here</b> or paste one</p></div>
</div>
<div class="doors"><button type="button" class="choose">Choose a picture</button>
  <button type="button" class="camera">Use the camera</button>
  <button type="button" class="take" hidden>Take this one</button>
  <button type="button" class="stop" hidden>Stop</button></div>
<label class="heat" hidden><span>What speaks for <b></b></span>
  <input type="range" min="0" max="100" value="60" aria-label="How strongly the heat map covers the picture"></label>
{examples}
<p class="fine">{fine}</p>
<input type="file" accept="image/*" tabindex="-1" aria-hidden="true" hidden>
<p class="aloud" role="status" aria-live="polite"></p></div>"""
WAITING = """<section class="answer waiting" data-turn="{}"><h2>What is it?</h2>
<p>Give a picture, and the answer stands here.</p></section>"""


def endpoint(served: Served, api_name: str) -> None:
    """The API's way to the same answer, without a page's drawing; inside an open `gr.Blocks`."""

    def predict(picture: Path | bytes) -> dict[str, Any]:
        """Says what a picture shows.

        Parameters:
            picture: an image file: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF.
        Returns:
            label: the likeliest class; sure: whether its probability reaches the model's own threshold; familiar:
            whether the picture looks like those that the model was trained on, null if it cannot tell; probabilities:
            calibrated, of all classes, the likeliest first; strangeness; milliseconds; model; revision, its commit;
            notice, of a medical model: what it must not be used for.
        """
        try:
            with told_to_clients():
                return verdict(served, *_look(served, picture))
        finally:
            if isinstance(picture, Path):
                answered(picture)

    picture, answer = Picture(visible=False, label="picture"), gr.JSON(visible=False, label="answer")
    picture.upload(predict, picture, answer, api_name=api_name, concurrency_limit=AT_ONCE)


def one_picture(served: Served, examples: Sequence[Path]) -> None:
    """Draw it, inside an open `gr.Blocks`; `examples` are files that may be shown to anybody."""
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    fine = escape(f"{limits_in_words()} Pictures are deleted once they are answered: none is stored.")
    with gr.Row(elem_classes="one-picture"):
        stage = gr.HTML(
            STAGE.format(limit=MOST_BYTES, examples=_examples(examples), fine=fine),
            js_on_load=script, apply_default_css=False, elem_classes="stage-column",
        )  # fmt: skip
        shown = gr.HTML(WAITING.format(""), js_on_load=None, apply_default_css=False, elem_classes="answer-column")

    def look(event: gr.EventData) -> str:
        told = asked(event)
        turn = str(told.get("turn", ""))[:40]
        if (camera := told.get("camera")) == "stopped":
            return WAITING.format(escape(turn))
        try:
            if camera:
                raise UserError(NO_CAMERA.get(str(camera), "the camera does not work here: choose a picture instead"))
            return answer_html(served, *_look_and_forget(served, told), turn)
        except UserError as error:
            return problem_html(str(error), turn)

    look.when_busy = lambda sentence, turn: [busy_html(sentence, turn)]
    stage.picture(
        look, None, shown, concurrency_limit=AT_ONCE, trigger_mode="multiple", show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip


def _look(served: Served, given: Path | bytes) -> tuple[Any, float]:
    """An `Answer`, and how many milliseconds it took from the file on."""
    served.predictor()  # whoever comes first waits for the model; that is not the answer's time
    start = time.perf_counter()
    with opened(given) as picture:
        (answer,) = served.answer([picture])
    return answer, 1000 * (time.perf_counter() - start)


def _look_and_forget(served: Served, told: dict[str, Any]) -> tuple[Any, float]:
    path = uploaded_or_why(told.get("path"), told.get("size"))
    if isinstance(path, str):
        raise UserError(path)
    try:
        return _look(served, path)
    finally:
        forget(path)


def _examples(files: Sequence[Path]) -> str:
    """A row of thumbnails; the browser fetches the file itself when one is chosen, and sends it as any other."""
    if not files:
        return ""
    gr.set_static_paths(sorted({file.parent.resolve() for file in files}))
    buttons = "".join(_example(file.resolve()) for file in files)
    return f'<div class="examples" role="group" aria-label="Examples">{buttons}</div>'


def _example(file: Path) -> str:
    with Image.open(file) as image:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        small = io.BytesIO()
        image.convert("RGB").save(small, "WEBP", quality=80)
    name = escape(file.stem.replace("_", " ").replace("-", " "))
    where = escape(quote(file.as_posix()))
    source = base64.b64encode(small.getvalue()).decode()
    return (
        f'<button type="button" data-example="{where}" aria-label="Example: {name}" title="{name}">'
        f'<img src="data:image/webp;base64,{source}" alt=""></button>'
    )
