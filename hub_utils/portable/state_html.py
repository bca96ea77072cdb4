"""What stands above a page, and on the door to several: what a model does, and how it stands with it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape

from hub_utils.portable.about import images_of, range_html
from hub_utils.portable.answer_html import BROKEN, as_sentence, percent, title_of
from hub_utils.portable.facts import estimate
from hub_utils.portable.markdown import as_list, counted, one_line, short
from hub_utils.portable.parts import drawn
from hub_utils.portable.served import Served

NAMED = 12  # classes in the first sentence


def head_html(served: Served, door: str | None = None) -> str:
    """The title, a sentence, and the state of the model; `door` is the address of the page before it."""
    back = f'<nav><a href="{escape(door)}">← All demos</a></nav>' if door else ""
    lede = drawn("What it tells apart", lambda: _lede(served))
    return (
        f'<header class="head">{back}<h1{title_of(served.title)}>{escape(short(one_line(served.title)))}</h1>{lede}'
        f'<div class="state" role="status">{state_html(served)}</div></header>'
    )


def _lede(served: Served) -> str:
    if not served.known or not (classes := served.classes):
        return ""
    if len(classes) <= NAMED:
        names = as_list([short(one_line(name)) for name in classes])
        return f'<p class="lede"{title_of(*classes)}>Tells {escape(names)} apart.</p>'
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


def door_html(several: Sequence[Served]) -> str:
    """A card for each model: what it tells apart, how well, and the way to its page."""
    cards = "".join(drawn(f"The card of {served.name}", partial(_card, served)) for served in several)
    return (
        '<header class="head"><h1>What is in the picture?</h1>'
        f'<p class="lede">{counted(len(several), "image classifier")} to try, each with its own page.</p></header>'
        f'<ul class="cards">{cards}</ul>'
    )


def _card(served: Served) -> str:
    test = served.fact("test_results.json") if served.known else {}
    accuracy = estimate(test, "metrics", "accuracy")
    if not served.known:
        results = "<p>Not trained yet.</p>"
    elif accuracy is None:
        results = "<p>Brings no test results.</p>"
    else:
        figure = f"<b>{escape(percent(accuracy.value, 1))}</b> of {escape(images_of(test))} right"
        results = f'<p class="figure">{figure}<i>{range_html(accuracy)}</i></p>'
    medical = "<p><i>For study, not for diagnosis.</i></p>" if served.known and served.card.get("medical") else ""
    return (
        f'<li><a href="{escape(served.name)}"><h2>{escape(short(one_line(served.title)))}</h2>{_lede(served)}{results}'
        f"{medical}</a></li>"
    )
