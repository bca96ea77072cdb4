"""The page of `training/browse.py`: a confusion matrix to click, and the images behind each of its cells.

The page is Gradio's. Pictures, heat maps and the exported list come by routes beside it: the browser asks for what it
shows when it shows it, the page names images by number only, and nothing is written. Its style and its few events lie
beside this file, in `mistakes_page.css` and `mistakes_page.js`.
"""

from __future__ import annotations

import io
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal

import gradio as gr
from fastapi import FastAPI, Form, Response
from PIL import Image
from starlette.middleware.trustedhost import TrustedHostMiddleware

from hub_utils.portable.http_door import door
from training.results.mistakes import Question, as_csv
from training.results.mistakes_html import Gallery

SHOWN = 12  # images at first, and with each "more"
SIDES = {"small": 160, "middle": 480, "large": 1600}  # pixels
ANY = -1
EVERY = 1.0  # seconds between two looks at how far the search for neighbours is
SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
MISSING = """<svg xmlns="http://www.w3.org/2000/svg" width="160" height="160" viewBox="0 0 160 160">
<rect width="160" height="160" fill="#888" fill-opacity=".2"/><text x="80" y="84" font-family="sans-serif"
font-size="13" fill="#888" text-anchor="middle">{}</text></svg>"""


def build_app(gallery: Gallery) -> FastAPI:
    """The page at `/`, what it shows below `/SECRET/`; only for browsers that ask for this very machine."""
    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])  # against DNS rebinding
    evidence, images = gallery.evidence, len(gallery.predictions.paths)

    @app.get(f"/{gallery.secret}/picture/{{size}}/{{number}}")
    def picture(size: Literal["small", "middle", "large"], number: int) -> Response:
        return _image(number, len(evidence.paths), lambda: evidence.picture(number, SIDES[size]))

    @app.get(f"/{gallery.secret}/map/{{number}}/{{index}}")
    def heat_map(number: int, index: int) -> Response:
        known = images if 0 <= index < len(gallery.predictions.classes) else 0
        return _image(number, known, lambda: evidence.heat_map(number, index))

    @app.post(f"/{gallery.secret}/mistakes.csv")
    def mistakes(numbers: Annotated[str, Form(pattern=r"^\d+(,\d+)*$")]) -> Response:
        chosen = [int(number) for number in numbers.split(",")]
        if not all(0 <= number < images for number in chosen):
            return Response(status_code=404)
        content = as_csv(gallery.predictions, chosen)
        how = {"Content-Disposition": 'attachment; filename="mistakes.csv"'}
        return Response(content, media_type="text/csv; charset=utf-8", headers=how)

    theme = gr.themes.Default(
        primary_hue="blue", font=SANS, font_mono=MONO
    )  # what is on the machine: others are fetched from Google
    css = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    return gr.mount_gradio_app(
        app, build_page(gallery), "/", server_name="127.0.0.1", footer_links=[], run_history=False, ssr_mode=False,
        **door(), theme=theme,
        head=f"<style>{css}</style>",  # what is given as `css` is rewritten, and :is(a, b) broken by it
    )  # fmt: skip


def _image(number: int, known: int, draw: Any) -> Response:
    """A JPEG; or a tile that says why there is none, since the page goes on."""
    if not 0 <= number < known:
        return Response(status_code=404)
    try:
        image: Image.Image = draw()
    except FileNotFoundError:
        return Response(MISSING.format("not there any more"), media_type="image/svg+xml")
    except Exception:  # PIL's decoders raise anything
        return Response(MISSING.format("cannot be read"), media_type="image/svg+xml")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return Response(file.getvalue(), media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})


def build_page(gallery: Gallery) -> gr.Blocks:
    """What stands at `/`."""
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    splits = [(f"{name} ({gallery.predictions.splits.count(name)})", name) for name in gallery.splits]
    classes = [("any", ANY), *((name, index) for index, name in enumerate(gallery.predictions.classes))]
    title, first = escape(gallery.title), gallery.splits[0]

    def has_mistakes(name: str) -> bool:
        return len(gallery.ask(Question(name, only_mistakes=True))) > 0

    with gr.Blocks(title=f"Mistakes: {gallery.title}", analytics_enabled=False) as page:
        asked = gr.State(Question(first, only_mistakes=has_mistakes(first)))
        shown, ticked, timer = gr.State(SHOWN), gr.State(frozenset()), gr.Timer(EVERY)
        _html(f"<h1>{title}: the mistakes</h1><p>Nothing that you do here changes the data set.</p>")
        split = gr.Radio(splits, value=first, label="Split", visible=len(splits) > 1)
        overview = _html(gallery.overview(first), script)
        with gr.Row(elem_id="filters"):
            label = gr.Dropdown(classes, value=ANY, label="Labelled", min_width=140)
            prediction = gr.Dropdown(classes, value=ANY, label="Taken for", min_width=140)
            mistakes = gr.Checkbox(has_mistakes(first), label="Only mistakes", min_width=140)
            suspects = gr.Checkbox(False, label="Only suspected label errors", min_width=140)
        notes = _html(gallery.notes())
        bar = _html(elem_id="bar")
        cards = _html(script=script)
        with gr.Row():
            more = gr.Button(visible=False)
            untick = gr.Button("Untick all", visible=False)

        # Every event gets all values and gives back those that it changes, both by component. What is asked is kept in
        # a state: the browser's own values may be older than a click that is still being answered.

        def show(now: dict) -> dict:
            left = len(gallery.ask(now[asked])) - now[shown]
            further = gr.Button(f"Show {min(left, SHOWN)} more of {left}", visible=left > 0)
            listed = {
                bar: gallery.bar(now[asked], now[ticked]),
                cards: gallery.cards(now[asked], now[shown], now[ticked]),
            }
            return {more: further, untick: gr.Button(visible=bool(now[ticked]))} | listed

        def ask(now: dict, changed: dict) -> dict:
            now = now | changed
            pair = [None if now[each] == ANY else now[each] for each in (label, prediction)]
            changed = changed | {asked: Question(now[split], *pair, now[mistakes], now[suspects]), shown: SHOWN}
            return changed | show(now | changed)

        def ask_filters(now: dict) -> dict:
            return ask(now, {})

        def ask_split(now: dict) -> dict:
            changed = {label: ANY, prediction: ANY, suspects: False, mistakes: has_mistakes(now[split])}
            return ask(now, changed) | {overview: gallery.overview(now[split])}

        def ask_cell(now: dict, event: gr.EventData) -> dict:
            row, column = int(event.label), int(event.prediction)
            wrong = has_mistakes(now[split]) if row == column == ANY else row != column
            return ask(now, {label: row, prediction: column, suspects: False, mistakes: wrong})

        def show_more(now: dict) -> dict:
            further = {shown: now[shown] + SHOWN}
            return further | show(now | further)

        def tick(now: dict, event: gr.EventData) -> dict:
            chosen = now[ticked] ^ {int(event.number)}
            return {ticked: chosen, bar: gallery.bar(now[asked], chosen), untick: gr.Button(visible=bool(chosen))}

        def untick_all(now: dict) -> dict:
            none = {ticked: frozenset()}
            return none | show(now | none)

        def look(now: dict) -> dict:
            searching = gallery.evidence.nearest is None and not gallery.evidence.failure
            waited = {notes: gallery.notes(), timer: gr.Timer(active=searching)}
            return waited if searching else waited | show(now)

        values = {split, label, prediction, mistakes, suspects, asked, shown, ticked}
        changing = [*values, overview, notes, timer, bar, cards, more, untick]
        # Clients may call these, people are not told. One at a time, in the order in which they came.
        how = {"inputs": values, "outputs": changing, "api_visibility": "undocumented", "show_progress": "hidden"}
        how |= {"concurrency_id": "page", "concurrency_limit": 1}
        every = how | {"trigger_mode": "multiple"}  # a click that comes while another is worked on must not be lost
        page.load(show, **how)
        gr.on([label.input, prediction.input, mistakes.input, suspects.input], ask_filters, **every)
        split.input(ask_split, **every)
        overview.cell(ask_cell, **every)
        more.click(show_more, **how)
        cards.tick(tick, **every)
        untick.click(untick_all, **how)
        timer.tick(look, **how)
    return page


def _html(value: str = "", script: str | None = None, **how: Any) -> gr.HTML:
    return gr.HTML(value, js_on_load=script, apply_default_css=False, **how)
