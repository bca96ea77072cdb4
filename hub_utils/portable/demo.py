"""The page that all Spaces share: one model's, `build_demo`, or several behind one door, `build_suite`.

    from hub_utils.portable.demo import build_demo

    demo = build_demo("flowers")  # runs/flowers if it is there, else the repo that the publisher wrote beside app.py

    if __name__ == "__main__":
        demo.launch()

It comes up at once, with a model or without: the model is loaded behind it, and what is missing is said in the page,
which tries again by itself. Its parts know nothing of each other; what they ask stands in served.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from hub_utils.portable.about import about
from hub_utils.portable.one_picture import endpoint, one_picture
from hub_utils.portable.served import Served
from hub_utils.portable.state_html import head_html
from hub_utils.portable.uploads import MOST_UPLOAD

PATIENCE = 3.0  # seconds that the page waits for what the Hub knows of the model; it comes up without, and adds it later
EVERY = 1.0  # seconds between two looks at whether the model is there
EMPTIED = (60, 600)  # seconds: how often, and older than what, files are deleted that came by the API
SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


class Page(gr.Blocks):
    """Blocks that bring their looks along: gradio takes these when it launches, and an app.py says `launch()` only."""

    def __init__(self, title: str) -> None:
        super().__init__(title=title, analytics_enabled=False, delete_cache=EMPTIED)

    def launch(self, *args: Any, **how: Any) -> Any:
        return super().launch(*args, **(looks() | how))


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
        "show_error": True,
        "max_file_size": MOST_UPLOAD,
    }


def build_demo(name: str) -> Page:
    """The page of one model; `name` is a recipe's, and where its model is says `where_is`."""
    served = Served(name)
    served.ask_for_facts().join(PATIENCE)
    served.start()
    with Page(f"{served.title} · demo") as page:
        draw(page, served, "predict")
    return page


def draw(page: Page, served: Served, api_name: str, door: str | None = None) -> None:
    """One model's page, inside it. What hangs on facts of the model that are not known yet is drawn when they are."""
    known = gr.State(served.known)
    head = gr.HTML(head_html(served, door), apply_default_css=False)
    timer = gr.Timer(EVERY)
    endpoint(served, api_name)

    def later(part: Callable[[], None]) -> None:
        if served.known:
            part()
        else:
            gr.render(triggers=[known.change])(lambda: part() if served.known else None)

    with gr.Column(visible=served.known) as body:
        with gr.Tabs():
            with gr.Tab("One picture"):
                one_picture(served, examples())
            with gr.Tab("About"):
                later(lambda: about(served))

    def look() -> tuple[str, gr.Column, gr.Timer, bool]:
        served.start()
        return head_html(served, door), gr.Column(visible=served.known), gr.Timer(active=not served.ready), served.known

    how = {"outputs": [head, body, timer, known], "api_visibility": "private", "show_progress": "hidden"}
    gr.on([page.load, timer.tick], look, concurrency_limit=None, **how)


def build_suite(names: Sequence[str]) -> Page:
    """A front page with a card for each name, and behind it a page for each; a model is loaded when first asked for."""
    raise NotImplementedError


def examples() -> list[Path]:
    """The pictures in examples/ beside app.py, in the order of their names."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    folder = Path(main).parent / "examples" if main else Path("examples")
    kinds = (".jpg", ".jpeg", ".png", ".webp")
    return sorted(each for each in folder.glob("*") if each.suffix.lower() in kinds)
