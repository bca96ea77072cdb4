"""The page that all Spaces share: one model's, `build_demo`, or several behind one door, `build_suite`.

    from hub_utils.portable.demo import build_demo

    demo = build_demo("flowers")  # runs/flowers if it is there, else the repo that the publisher wrote beside app.py

    if __name__ == "__main__":
        demo.launch()

It comes up at once, with a model or without: the model is loaded behind it, and what is missing is said in the page,
which tries again by itself. Its parts know nothing of each other; what they ask stands in served.py.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi.middleware import Middleware

from hub_utils.portable.about import about
from hub_utils.portable.crowd import AtTheDoor
from hub_utils.portable.drawing import drawing
from hub_utils.portable.ending import wait_and_end
from hub_utils.portable.facts import told
from hub_utils.portable.feedback import feedback
from hub_utils.portable.http_door import door
from hub_utils.portable.many_pictures import many_endpoint, many_pictures
from hub_utils.portable.one_picture import endpoint, one_picture
from hub_utils.portable.operating import medical_notice, operating_slider
from hub_utils.portable.parts import drawn
from hub_utils.portable.served import Served
from hub_utils.portable.state_html import door_html, head_html
from hub_utils.portable.tokens import keep_tokens_quiet
from hub_utils.portable.upload_folder import settle
from hub_utils.portable.uploads import MOST_UPLOAD
from hub_utils.portable.waiting import Line

PATIENCE = (
    3.0  # seconds that the page waits for what the Hub knows of the model; it comes up without, and adds it later
)
EVERY = 1.0  # seconds between two looks at whether the model is there
SESSIONS = 1000  # visitors of whom gradio remembers what they see, 30 kB each; whoever asks the API is one as well
KINDS = (".jpg", ".jpeg", ".png", ".webp")  # of examples: what every browser shows
UNFORESEEN = "That cannot be answered. Try again; or if a program asks, see “Use via API” at the foot of the page."
SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

logger = logging.getLogger(__name__)


def build_demo(name: str) -> Page:
    """The page of one model; `name` is a recipe's, and where its model is says `where_is`."""
    served = Served(name)
    served.ask_for_facts().join(PATIENCE)
    served.start()
    page = Page(served.title)
    with page:
        draw(page, served, "", examples())
    return page


def build_suite(names: Sequence[str]) -> Page:
    """A front page with a card for each name, and behind it a page for each, at /NAME, with endpoints /predict_NAME and
    /predict_many_NAME.

    A model is loaded when its page is opened, or its endpoint asked, for the first time.
    """
    several = [Served(name, alone=False) for name in names]
    until = time.monotonic() + PATIENCE
    for thread in [served.ask_for_facts() for served in several]:
        thread.join(max(until - time.monotonic(), 0))
    page = Page("Image classifiers")
    with page:
        gr.Navbar(visible=False)  # the cards are the way in
        front = gr.HTML(door_html(several), js_on_load=None, apply_default_css=False)

        def look() -> str:
            for served in several:
                served.known or served.ask_for_facts()
            return door_html(several)

        page.load(look, None, front, **QUIETLY)
    for served in several:
        with page.route(served.title, f"/{served.name}", show_in_navbar=False):
            gr.Navbar(visible=False)
            draw(page, served, f"_{served.name}", examples(served.name), door="./")
    return page


class Page(gr.Blocks):
    """Blocks that bring their looks along: gradio takes these when it launches, and an app.py says `launch()` only."""

    def __init__(self, title: str) -> None:
        settle(self)
        keep_tokens_quiet()
        super().__init__(title=title, analytics_enabled=False)
        self.queue(api_open=False)  # nobody passes by those who wait

    def queue(self, *args: Any, **how: Any) -> Page:
        """As gradio's, with an end; and no endpoint has a way past it."""
        super().queue(*args, **{"api_open": False} | how)
        self._queue = Line(self._queue)
        return self

    def block_thread(self) -> None:
        """As gradio's; and whoever is being answered when the process is told to end gets the answer."""
        wait_and_end(self._queue, lambda: self.is_running, lambda: self.close(verbose=False))

    async def process_api(self, *args: Any, **how: Any) -> Any:
        """As gradio's, which tells strangers of its own insides, and of paths of this machine."""
        try:
            return await super().process_api(*args, **how)
        except gr.Error:
            raise
        except Exception as error:
            logger.exception("a request that cannot be answered")
            raise gr.Error(UNFORESEEN, print_exception=False) from error

    def launch(self, *args: Any, **how: Any) -> Any:
        """As gradio's; GRADIO_MCP_SERVER=True in the environment makes the endpoints tools of an MCP server as well."""
        wanted = how.get("mcp_server", os.environ.get("GRADIO_MCP_SERVER", "").lower() == "true")
        if wanted and importlib.util.find_spec("mcp") is None:
            sys.exit("error: the MCP server is switched on, and not installed: pip install 'gradio[mcp]'")
        how = {"state_session_capacity": SESSIONS} | looks() | how
        door = Middleware(AtTheDoor, line=lambda: self._queue)
        how["app_kwargs"] = {**(how.get("app_kwargs") or {})}
        how["app_kwargs"]["middleware"] = [door, *how["app_kwargs"].get("middleware", ())]
        return super().launch(*args, **how)


def looks() -> dict[str, Any]:
    """What `launch` and `gr.mount_gradio_app` take besides the page."""
    css = "".join(each.read_text(encoding="utf-8") for each in sorted(Path(__file__).parent.glob("*.css")))
    return {
        # What is on the machine: gradio's own fonts are fetched from Google.
        "theme": gr.themes.Base(primary_hue="teal", neutral_hue="stone", font=SANS, font_mono=MONO),
        "head": f"<style>{css}</style>",  # what is given as `css` is rewritten, and :is(a, b) broken by it
        "footer_links": ["api"],
        "run_history": False,
        "ssr_mode": False,
        "show_error": False,  # but those that are meant for visitors
        "max_file_size": MOST_UPLOAD,
        **door(),
    }


# Of pages behind a door gradio names the door alone.
TITLE = (
    """const name = () => (document.title = element.querySelector("h1").textContent); name(); watch("value", name);"""
)
QUIETLY = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}


def draw(page: Page, served: Served, suffix: str, shown: Sequence[Path], door: str | None = None) -> None:
    """One model's page, inside it. What hangs on facts of the model that are not known yet is drawn when they are."""
    known = gr.State(served.known)
    head = gr.HTML(head_html(served, door), js_on_load=TITLE, apply_default_css=False)
    timer = gr.Timer(EVERY)
    endpoint(served, f"predict{suffix}")
    many_endpoint(served, f"predict_many{suffix}")

    def whole(what: str, part: Callable[[Served], Any]) -> None:
        if isinstance(problem := drawn(what, lambda: part(served)), str):
            gr.HTML(problem, apply_default_css=False)

    def later(what: str, part: Callable[[Served], Any]) -> None:
        if served.known:
            whole(what, part)
        else:
            gr.render(triggers=[known.change])(lambda: whole(what, part) if served.known else None)

    later("The notice", notice)
    with gr.Column(**_body(served)) as body, gr.Tabs():
        if served.name == "digits":
            with gr.Tab("Draw"):
                drawing(served)
        with gr.Tab("One picture"):
            one_picture(served, shown)
            later("The threshold slider", thresholds)
            later("The form for feedback", feedback)
        with gr.Tab("Many pictures"):
            many_pictures(served)
        with gr.Tab("About"):
            later("What is known of the model", about)

    def look() -> tuple[str, gr.Column, gr.Timer, bool]:
        served.start()
        return head_html(served, door), gr.Column(**_body(served)), gr.Timer(active=not served.ready), served.known

    gr.on([page.load, timer.tick], look, None, [head, body, timer, known], **QUIETLY)


def _body(served: Served) -> dict[str, Any]:
    """Of a medical model nothing can be given before its notice was read."""
    medical = served.known and served.card.get("medical")
    return {"visible": served.known, "elem_classes": ["behind-notice"] if medical else []}


def notice(served: Served) -> None:
    if served.card.get("medical"):
        medical_notice(served)


def thresholds(served: Served) -> None:
    if served.card.get("medical") or told(served.fact("serving.json"), "operating_curve", "points", of=list):
        operating_slider(served)


def examples(name: str = "") -> list[Path]:
    """The pictures in examples/, or examples/NAME/, beside app.py, in the order of their names."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    folder = (Path(main).parent if main else Path()) / "examples" / name
    return sorted(each for each in folder.glob("*") if each.suffix.lower() in KINDS)


def _suit_zero_gpu() -> None:
    """ZeroGPU starts a Space only if a function asks for its GPU. Ours need none: the one that asks is never called.

    Its package is called `spaces`; from the root of the project that is a folder of ours, without any GPU.
    """
    try:
        import spaces
    except ImportError:
        return
    if hasattr(spaces, "GPU"):
        spaces.GPU(lambda: None)


_suit_zero_gpu()
