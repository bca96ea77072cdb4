"""What stands before and beside a medical model's answer: a notice, and what each threshold would cost.

Both are the browser's: nothing is asked of the server. What the page hides until the notice is read carries the class
`behind-notice`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from hub_utils.portable.facts import estimate, told
from hub_utils.portable.markdown import counted, one_line
from hub_utils.portable.medical import NOT_A_DEVICE
from hub_utils.portable.parts import drawn
from hub_utils.portable.served import Served

SIDE, MARGIN = 100, 8  # of the drawn curve, in its own units: 100 for 100 images
EVAL = "`python training/eval.py RUN` measures it"
RARE = "Of other images it says nothing, and where {called} ones are rare, most of those called {called} are none."
NOTICE = """<section class="medical-notice" aria-labelledby="medical-{name}">
<div class="whole"><h2 id="medical-{name}" tabindex="-1">Not a medical device</h2>
<p class="strong">{told}</p>{limits}
<p>Give it no picture that tells who somebody is.</p>
<button type="button" class="understood-button">I have understood</button></div>
<p class="short" hidden><b>Not a medical device.</b> A study of image classification.
<button type="button" class="again">Read the notice again</button></p></section>"""
SLIDER = """<section class="operating" data-points="{points}" data-names="{names}"
aria-labelledby="operating-{name}">
<h3 id="operating-{name}">Where should the line be?</h3>
<p class="soft">A picture is called <b>{called}</b> from this probability on. A lower line finds more and calls more
wrongly.</p>
<div class="two"><div>
<label for="line-{name}">Called {called} from <output></output> on
<input id="line-{name}" type="range" min="0" max="{last}" step="1" value="{start}"></label>
<p class="found"></p><p class="alarms"></p><p class="this" role="status"></p></div>
<svg viewBox="-20 -{margin} {width} {height}" role="img" aria-label="{alt}">{curve}</svg></div>
<p class="soft fine">{measured}</p></section>"""


def medical_notice(served: Served) -> None:
    """Draw it, inside an open `gr.Blocks`, before what is `behind-notice`; once for each load of the page."""
    limits = one_line(told(served.card, "limits", of=str) or "")
    text = NOTICE.format(
        name=escape(served.name), told=escape(NOT_A_DEVICE), limits=f"<p>{escape(limits)}</p>" if limits else ""
    )
    gr.HTML(text, js_on_load=_script("notice"), apply_default_css=False)


def operating_slider(served: Served) -> None:
    """Draw it, inside an open `gr.Blocks`: sensitivity and specificity at every threshold, of serving.json's curve."""
    slider = drawn("The threshold slider", lambda: operating_html(served))
    gr.HTML(slider, js_on_load=_script("operating") if "data-points" in slider else None, apply_default_css=False)


def operating_html(served: Served) -> str:
    """The slider, or why there is none."""
    curve = told(served.fact("serving.json"), "operating_curve", of=dict) or {}
    points = [each for each in told(curve, "points", of=list) or () if _is_whole(each)]
    if points:
        return slider_html(served.name, curve, points)
    why = told(curve, "reason", of=str) or f"this model brings no operating curve; {EVAL}"
    return f'<p class="operating soft">No threshold can be chosen: {escape(why)}.</p>'


def slider_html(name: str, curve: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> str:
    """The slider at the threshold next to a half, of `points` that have both figures."""
    names = {side: " or ".join(curve[side]) for side in ("positive", "negative")}
    called, other = (escape(each) for each in names.values())
    numbers = [
        [each["threshold"], *(_three(each, figure) for figure in ("sensitivity", "specificity"))] for each in points
    ]
    start = min(range(len(points)), key=lambda at: abs(points[at]["threshold"] - 0.5))
    images, groups = (told(curve, key, of=int) for key in ("images", "groups"))
    of = f" of {counted(groups, 'patient or group', 'patients or groups')}" if groups and groups != images else ""
    split = one_line(told(curve, "split", of=str) or "test")
    whole = counted(images, "image") if images is not None else "images"
    measured = f"Measured on {whole}{of} that training did not see ({escape(split)})"
    return SLIDER.format(
        name=escape(name), called=called, points=escape(json.dumps(numbers)), last=len(points) - 1, start=start,
        names=escape(json.dumps([curve["positive"], *names.values()])),
        curve=_curve(numbers), margin=MARGIN, width=SIDE + 28, height=SIDE + 2 * MARGIN + 12,
        alt=f"Of 100 {called} ones, how many are found, against how many of 100 {other} ones are called {called}",
        measured=f"{measured}; in brackets 95 % intervals. {RARE.format(called=called)}",
    )  # fmt: skip


def _is_whole(point: Any) -> bool:
    figures = estimate(point, "sensitivity"), estimate(point, "specificity")
    return told(point, "threshold", of=float) is not None and None not in figures


def _three(point: Mapping[str, Any], figure: str) -> list[float | None]:
    """Value, and the ends of its interval if it has one."""
    value, interval = estimate(point, figure)
    return [each if each is None else round(each, 4) for each in (value, *(interval or (None, None)))]


def _curve(numbers: Sequence[Sequence[Any]]) -> str:
    """Found of 100, upwards, against called wrongly of 100, to the right; `circle` is what the script moves."""
    places = " ".join(
        f"{100 - 100 * specificity[0]:.1f},{100 - 100 * found[0]:.1f}" for _, found, specificity in numbers
    )
    ticks = "".join(
        f'<text x="-3" y="{102 - at}" class="up">{at}</text><text x="{at}" y="107">{at}</text>' for at in (0, 100)
    )
    return (
        f'<path class="frame-line" d="M0 0V100H100M0 50H100M50 0V100"/><polyline points="{places}"/>'
        f'<circle r="3.4"/>{ticks}'
        '<text x="50" y="107">called so wrongly, of 100</text>'
        '<text transform="translate(-4 50) rotate(-90)">found, of 100</text>'
    )


def _script(name: str) -> str:
    return Path(__file__).with_name(f"{name}.js").read_text(encoding="utf-8")
