"""The head of a page: what it does, and how it stands with its model."""

from __future__ import annotations

from html import escape

from hub_utils.portable.answer_html import BROKEN, as_sentence
from hub_utils.portable.markdown import as_list, counted, one_line
from hub_utils.portable.served import Served

NAMED = 12  # classes in the first sentence


def head_html(served: Served, door: str | None = None) -> str:
    """The title, a sentence, and the state of the model; `door` is the address of the page that this one lies behind."""
    back = f'<nav><a href="{escape(door)}">← All demos</a></nav>' if door else ""
    return (
        f'<header class="head">{back}<h1>{escape(one_line(served.title))}</h1>{_lede(served)}'
        f'<div class="state" role="status">{state_html(served)}</div></header>'
    )


def _lede(served: Served) -> str:
    if not served.known or not (classes := served.classes):
        return ""
    if len(classes) <= NAMED:
        return f'<p class="lede">Tells {escape(as_list([one_line(name) for name in classes]))} apart.</p>'
    return f'<p class="lede">Tells {counted(len(classes), "class", "classes")} apart.</p>'


def state_html(served: Served) -> str:
    """Nothing when all is well."""
    if served.ready:
        return ""
    if served.problem is None:
        return '<p class="loading">The model is being loaded; the first answer waits for it.</p>'
    return (
        f'<div class="note broken">{BROKEN}<span><b>There is no model to ask.</b> '
        f"{escape(as_sentence(str(served.problem)))} <i>This page tries again by itself.</i></span></div>"
    )
