"""What a model's own files say of it: how well it does, on what, where it fails, and under which licence."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from hub_utils.portable.answer_html import NEVER_UNSURE, as_sentence, doubts, model_html, percent
from hub_utils.portable.card_html import card_html
from hub_utils.portable.facts import Estimate, estimate, told
from hub_utils.portable.markdown import ADDRESS, counted, one_line
from hub_utils.portable.parts import drawn
from hub_utils.portable.served import Served

MOST_CELLS = 40  # classes in a confusion matrix; of more, the pairs that are confused most are named
PAIRS = 12
LISTED = 1000  # classes in the table of all
FLOORS = {  # what the same test images give without a network
    "majority": "always the same answer",
    "colour_neighbour": "colour alone",
}
FRONT_MATTER = re.compile(r"\A---\s*\n.*?\n---\s*(?:\n|\Z)", re.DOTALL)


def about(served: Served) -> None:
    """Draw it, inside an open `gr.Blocks`."""
    gr.HTML(f'<div class="about">{about_html(served)}</div>', js_on_load=None, apply_default_css=False)
    if card := drawn("The model card", lambda: card_html(card_text(served))):
        with gr.Accordion("The model card, in full", open=False):
            gr.HTML(card, js_on_load=None, elem_classes="card-text")


def about_html(served: Served) -> str:
    """Results, confusions, classes, limits and origin; whatever of it the model's files tell."""
    test = served.fact("test_results.json")
    parts: dict[str, Callable[[], str]] = {
        "How well it does": lambda: _results(test),
        "Where it goes wrong": lambda: _confusions(test),
        "Classes": lambda: _classes(served, test),
        "Limits": lambda: _limits(served),
        "Origin": lambda: _origin(served, test),
    }
    told_of = [drawn(f"“{title}”", part) for title, part in parts.items()]
    return "".join(f"<section>{part}</section>" for part in told_of if part)


def card_text(served: Served) -> str:
    """README.md without its front matter; "" if there is none."""
    try:
        text = (served.folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return FRONT_MATTER.sub("", text).strip()


def range_html(found: Estimate) -> str:
    """The interval in words."""
    if not found.interval:
        return ""
    low, high = found.interval
    return f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"


def images_of(test: dict[str, Any]) -> str:
    """How many pictures it was measured on, as "150 test pictures"; without a number where none is told."""
    count, split = told(test, "images", of=int), one_line(told(test, "split", of=str) or "test")
    return f"{split} pictures" if count is None else counted(count, f"{split} picture")


def _results(test: dict[str, Any]) -> str:
    accuracy = estimate(test, "metrics", "accuracy")
    if accuracy is None:
        return "<h2>How well it does</h2><p>Nobody wrote down how well this model does: it brings no test results.</p>"
    floors = [(called, estimate(test, "floors", name)) for name, called in FLOORS.items()]
    rows = [_scale("this model", accuracy, "model")] + [_scale(name, floor) for name, floor in floors if floor]
    figures = [
        (name, estimate(test, "metrics", key))
        for key, name in (("balanced_accuracy", "Balanced accuracy"), ("macro_f1", "Macro F1"), ("auroc", "AUROC"))
    ]
    more = "".join(
        f"<li><b>{escape(percent(found.value, 1))}</b> {name} <i>{range_html(found)}</i></li>"
        for name, found in figures
        if found
    )
    return (
        f'<h2>How well it does</h2><p class="headline"><b>{escape(percent(accuracy.value, 1))}</b> '
        f"of {escape(images_of(test))} right <i>{range_html(accuracy)}</i></p>"
        f'<ul class="scales">{"".join(rows)}</ul><ul class="figures">{more}</ul>'
    )


def _scale(name: str, found: Estimate, kind: str = "floor") -> str:
    """A line from 0 to 100 %, the figure a dot on it, its interval a bar."""
    low, high = found.interval or (found.value, found.value)
    return (
        f'<li class="{kind}"><span>{name}</span><span class="scale" aria-hidden="true" '
        f'style="--low:{low:.4f};--high:{high:.4f};--at:{found.value:.4f}"><i></i><b></b></span>'
        f"<span>{escape(percent(found.value))}</span></li>"
    )


def _classes_of(test: dict[str, Any]) -> list[str]:
    return [one_line(name) for name in told(test, "classes", of=list) or ()]


def _confusions(test: dict[str, Any]) -> str:
    classes, matrix = _classes_of(test), told(test, "confusion", of=list)
    if not classes or not matrix or any(len(each) != len(classes) for each in (matrix, *matrix)):
        return ""
    pairs = [
        (count, label, taken)
        for label, row in enumerate(matrix)
        for taken, count in enumerate(row)
        if count and taken != label
    ]
    worst = sorted(pairs, key=lambda pair: -pair[0])[:PAIRS]
    listed = "".join(
        f"<li>{escape(classes[label])} taken for <b>{escape(classes[taken])}</b> "
        f"<i>{counted(count, 'time')} of {sum(matrix[label])}</i></li>"
        for count, label, taken in worst
    )
    if not pairs:
        return "<h2>Where it goes wrong</h2><p>On the test pictures, nowhere.</p>"
    table = _matrix(classes, matrix) if len(classes) <= MOST_CELLS else ""
    folded = f'<summary>The most frequent mistakes</summary><ol class="pairs">{listed}</ol>'
    return f"<h2>Where it goes wrong</h2>{table}<details{'' if table else ' open'}>{folded}</details>"


def _matrix(classes: list[str], matrix: list[list[int]]) -> str:
    names = [escape(name) for name in classes]
    head = "".join(f'<th scope="col"><span title="{name}">{name}</span></th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row"><span title="{names[label]}">{names[label]}</span></th>'
        + "".join(_cell(count, sum(row), label == taken) for taken, count in enumerate(row))
        + "</tr>"
        for label, row in enumerate(matrix)
    )
    size = "large" if len(names) <= 12 else "small"
    return (
        "<p>A row for each true class, a column for each answer; what is right lies on the diagonal.</p>"
        f'<div class="matrix {size}" role="region" tabindex="0" aria-label="Confusion matrix"><table>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(count: int, of: int, right: bool) -> str:
    if not count:
        return "<td></td>"
    return f'<td class="{"right" if right else "wrong"}" style="--share:{count / max(of, 1):.3f}">{count}</td>'


def _classes(served: Served, test: dict[str, Any]) -> str:
    classes, per_class = _classes_of(test) or served.classes, told(test, "per_class", of=dict)
    if not classes:
        return ""
    rows = "".join(_class(one_line(name), per_class) for name in classes[:LISTED])
    head = '<tr><th scope="col">Class</th><th scope="col">Found</th><th scope="col">Right when named</th></tr>'
    table = f"<table>{head * bool(per_class)}{rows}</table>"
    if len(classes) > LISTED:
        table += f"<p>and {len(classes) - LISTED:,} more</p>"
    found = " Found: of its test pictures, how many were recognised." if per_class else ""
    title = f"All {counted(len(classes), 'class', 'classes')}.{found}"
    return f"<h2>Classes</h2><details><summary>{title}</summary>{table}</details>"


def _class(name: str, per_class: dict[str, Any] | None) -> str:
    def figure(key: str) -> str:
        found = estimate(per_class, name, key)
        if found is None:
            return "<td>–</td>"
        interval = f" <i>{100 * found.interval[0]:.0f} to {100 * found.interval[1]:.0f}</i>" if found.interval else ""
        return f"<td>{escape(percent(found.value))}{interval}</td>"

    return f'<tr><th scope="row">{escape(name)}</th>{figure("recall") + figure("precision") if per_class else ""}</tr>'


def _limits(served: Served) -> str:
    limits = told(served.card, "limits", of=str)
    known = f"<li>{escape(as_sentence(limits))}</li>" if limits else ""
    known += "" if doubts(served) else f"<li>{NEVER_UNSURE}</li>"
    any_model = (
        "<li>It answers with one of its classes whatever the picture shows, and can be sure of itself and wrong.</li>"
        "<li>It is not meant for decisions about people, their health, their safety or their rights.</li>"
    )
    return f"<h2>Limits</h2><ul>{known}{any_model}</ul>"


def _origin(served: Served, test: dict[str, Any]) -> str:
    recipe = served.fact("recipe.json")

    def said(facts: dict[str, Any], *keys: str) -> str:
        return one_line(told(facts, *keys, of=str) or "")

    facts = [
        ("Model", model_html(served)),
        ("Fine-tuned from", escape(said(recipe, "recipe", "base_model"))),
        ("Data", _linked(said(recipe, "recipe", "data", "homepage"))),
        ("Licence", escape(said(served.card, "license"))),
        ("Licence of the data", escape(said(served.card, "data_license"))),
        ("Please cite", _linked(said(served.card, "citation"))),
        ("Measured", escape(said(test, "date")[:10])),
        ("Commit of the code", escape(said(recipe, "git_commit")[:12])),
    ]
    rows = "".join(f"<dt>{name}</dt><dd>{what}</dd>" for name, what in facts if what)
    return f"<h2>Origin</h2><dl>{rows}</dl>"


def _linked(text: str) -> str:
    """Text with the addresses in it as links."""
    line, linked, end = one_line(text), "", 0
    for found in re.finditer(ADDRESS, line):
        address = escape(found[0])
        linked += f'{escape(line[end : found.start()])}<a href="{address}" target="_blank" rel="noopener">{address}</a>'
        end = found.end()
    return linked + escape(line[end:])
