"""What a model's own files say of it: how well it does, on what, where it fails, and under which licence."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import gradio as gr

from hub_utils.portable.answer_html import as_sentence, model_html, percent
from hub_utils.portable.markdown import ADDRESS, counted, one_line
from hub_utils.portable.served import Served

MOST_CELLS = 40  # classes in a confusion matrix; of more, the pairs that are confused most are named
PAIRS = 12
FLOORS = {  # what the same test images give without a network
    "majority": "always the same answer",
    "colour_neighbour": "colour alone",
}
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]*)[^)]*\)|<img\b[^>]*>", re.IGNORECASE)
FRONT_MATTER = re.compile(r"\A---\s*\n.*?\n---\s*\n", re.DOTALL)


def about(served: Served) -> None:
    """Draw it, inside an open `gr.Blocks`."""
    gr.HTML(f'<div class="about">{about_html(served)}</div>', js_on_load=None, apply_default_css=False)
    if card := card_text(served):
        with gr.Accordion("The model card, in full", open=False):
            gr.Markdown(card, sanitize_html=True, latex_delimiters=[], elem_classes="card-text")


def about_html(served: Served) -> str:
    """Results, confusions, classes, limits and origin; whatever of it the model's files tell."""
    test = served.fact("test_results.json")
    parts = [_results(test), _confusions(test), _classes(served, test), _limits(served), _origin(served, test)]
    return "".join(f"<section>{part}</section>" for part in parts if part)


def card_text(served: Served) -> str:
    """README.md as a page may show it: no front matter, and no pictures, which would be fetched from elsewhere."""
    try:
        text = (served.folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return IMAGE.sub(lambda found: f"*{found[1]}*" if found[1] else "", FRONT_MATTER.sub("", text)).strip()


def accuracy_of(test: dict[str, Any]) -> dict[str, Any] | None:
    """{"value": share, "interval": [low, high]} of test_results.json, if it is there."""
    found = test.get("metrics", {}).get("accuracy")
    return found if isinstance(found, dict) and isinstance(found.get("value"), int | float) else None


def range_html(estimate: dict[str, Any]) -> str:
    """The interval in words."""
    if not estimate.get("interval"):
        return ""
    low, high = estimate["interval"]
    return f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"


def _results(test: dict[str, Any]) -> str:
    accuracy = accuracy_of(test)
    if accuracy is None:
        return "<h2>How well it does</h2><p>Nobody wrote down how well this model does: it brings no test results.</p>"
    rows = [_scale("this model", accuracy, "model")]
    rows += [_scale(FLOORS[name], found) for name, found in test.get("floors", {}).items() if name in FLOORS]
    figures = [
        (name, test["metrics"].get(key))
        for key, name in (("balanced_accuracy", "Balanced accuracy"), ("macro_f1", "Macro F1"), ("auroc", "AUROC"))
    ]
    more = "".join(
        f"<li><b>{escape(percent(found['value'], 1))}</b> {name} <i>{range_html(found)}</i></li>"
        for name, found in figures
        if found and found.get("value") is not None
    )
    images, split = test.get("images", 0), escape(str(test.get("split", "test")))
    return (
        f'<h2>How well it does</h2><p class="headline"><b>{escape(percent(accuracy["value"], 1))}</b> '
        f"of {images:,} {split} pictures right <i>{range_html(accuracy)}</i></p>"
        f'<ul class="scales">{"".join(rows)}</ul><ul class="figures">{more}</ul>'
    )


def _scale(name: str, estimate: dict[str, Any], kind: str = "floor") -> str:
    """A line from 0 to 100 %, the figure a dot on it, its interval a bar."""
    low, high = estimate.get("interval") or [estimate["value"]] * 2
    return (
        f'<li class="{kind}"><span>{name}</span><span class="scale" aria-hidden="true" '
        f'style="--low:{low:.4f};--high:{high:.4f};--at:{estimate["value"]:.4f}"><i></i><b></b></span>'
        f"<span>{escape(percent(estimate['value']))}</span></li>"
    )


def _confusions(test: dict[str, Any]) -> str:
    classes, matrix = test.get("classes"), test.get("confusion")
    if not classes or not matrix or len(matrix) != len(classes):
        return ""
    pairs = [
        (count, label, taken)
        for label, row in enumerate(matrix)
        for taken, count in enumerate(row)
        if count and taken != label
    ]
    worst = sorted(pairs, key=lambda pair: -pair[0])[:PAIRS]
    listed = "".join(
        f"<li>{escape(one_line(classes[label]))} taken for <b>{escape(one_line(classes[taken]))}</b> "
        f"<i>{counted(count, 'time')} of {sum(matrix[label])}</i></li>"
        for count, label, taken in worst
    )
    if not pairs:
        return "<h2>Where it goes wrong</h2><p>On the test pictures, nowhere.</p>"
    drawn = _matrix(classes, matrix) if len(classes) <= MOST_CELLS else ""
    folded = f'<summary>The most frequent mistakes</summary><ol class="pairs">{listed}</ol>'
    return f"<h2>Where it goes wrong</h2>{drawn}<details{'' if drawn else ' open'}>{folded}</details>"


def _matrix(classes: list[str], matrix: list[list[int]]) -> str:
    names = [escape(one_line(name)) for name in classes]
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
    classes, per_class = test.get("classes") or served.classes, test.get("per_class", {})
    if not classes:
        return ""
    rows = "".join(_class(one_line(name), per_class.get(name, {})) for name in classes)
    head = '<tr><th scope="col">Class</th><th scope="col">Found</th><th scope="col">Right when named</th></tr>'
    table = f"<table>{head * bool(per_class)}{rows}</table>"
    told = " Found: of its test pictures, how many were recognised." if per_class else ""
    title = f"All {counted(len(classes), 'class', 'classes')}.{told}"
    return f"<h2>Classes</h2><details><summary>{title}</summary>{table}</details>"


def _class(name: str, found: dict[str, Any]) -> str:
    def figure(key: str) -> str:
        estimate = found.get(key) or {}
        value = estimate.get("value")
        low, high = estimate.get("interval") or (None, None)
        interval = f" <i>{100 * low:.0f} to {100 * high:.0f}</i>" if low is not None else ""
        return f"<td>{'–' if value is None else escape(percent(value))}{interval}</td>"

    return f'<tr><th scope="row">{escape(name)}</th>{figure("recall") + figure("precision") if found else ""}</tr>'


def _limits(served: Served) -> str:
    limits = served.card.get("limits")
    known = f"<li>{escape(as_sentence(limits))}</li>" if limits else ""
    any_model = (
        "<li>It answers with one of its classes whatever the picture shows, and can be sure of itself and wrong.</li>"
        "<li>It is not meant for decisions about people, their health, their safety or their rights.</li>"
    )
    return f"<h2>Limits</h2><ul>{known}{any_model}</ul>"


def _origin(served: Served, test: dict[str, Any]) -> str:
    recipe, card = served.fact("recipe.json"), served.card
    base = recipe.get("recipe", {}).get("base_model")
    facts = [
        ("Model", model_html(served)),
        ("Fine-tuned from", escape(one_line(base or ""))),
        ("Data", _linked(recipe.get("recipe", {}).get("data", {}).get("homepage") or "")),
        ("Licence", escape(one_line(card.get("license") or ""))),
        ("Licence of the data", escape(one_line(card.get("data_license") or ""))),
        ("Please cite", _linked(card.get("citation") or "")),
        ("Measured", escape(str(test.get("date") or ""))[:10]),
        ("Commit of the code", escape(str(recipe.get("git_commit") or ""))[:12]),
    ]
    rows = "".join(f"<dt>{name}</dt><dd>{what}</dd>" for name, what in facts if what)
    return f"<h2>Origin</h2><dl>{rows}</dl>"


def _linked(text: str) -> str:
    """Text with the addresses in it as links."""
    line, told, end = one_line(text), "", 0
    for found in re.finditer(ADDRESS, line):
        address = escape(found[0])
        told += f'{escape(line[end : found.start()])}<a href="{address}" target="_blank" rel="noopener">{address}</a>'
        end = found.end()
    return told + escape(line[end:])
