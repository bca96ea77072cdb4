"""An answer as people see it: the label, a bar for every class that matters, all others one click away."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from hub_utils.portable.facts import told
from hub_utils.portable.markdown import LONG, counted, one_line, short
from hub_utils.portable.served import Served, verdict

if TYPE_CHECKING:
    from hub_utils.portable.predictor import Answer

MATTERS = 0.01  # a class below that is not drawn as a bar: one could not see it
BARS = 5
LISTED = 100  # classes one click away; ImageNet's 21,841 would be megabytes for each picture
LIKELIEST = '<p class="likeliest">Likeliest class</p>'
NEVER_UNSURE = "This model brings no measure of when it is unsure."
# Drawn here rather than written with emoji, which look different on each machine and are read out by their names.
ICON = '<svg viewBox="0 0 24 24" aria-hidden="true" class="icon"><path d="{}"/></svg>'
UNSURE = ICON.format("M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 17.5v.5M12 2a10 10 0 1 0 0 20 10 10 0 1 0 0-20")
STRANGE = ICON.format("M12 3 2 21h20L12 3zM12 10v5M12 17.5v.5")
BROKEN = ICON.format("M12 7v6M12 16.5v.5M12 2a10 10 0 1 0 0 20 10 10 0 1 0 0-20")


def answer_html(served: Served, answer: Answer, milliseconds: float, turn: str = "") -> str:
    """An `Answer` of `served`, drawn.

    The heat maps go along for the browser to draw: `data-maps` holds a byte for each place of each class that is
    listed, the likeliest first, `data-shape` their height and width, `data-seen` where in the picture they lie. `turn`
    comes back as `data-turn`: which question this is the answer to.
    """
    said = verdict(served, answer, milliseconds)
    shares = list(said["probabilities"].items())
    label, best = shares[0]
    runtime = served.public(served.predictor().runtime)  # why an ONNX file was not asked stands in it
    notes = _notes(served, said)
    drawn = answer.maps is not None  # a bar is a button where there is a heat map to see
    aloud = one_line(" ".join([first for first, _, _ in notes] + [f"{short(label)}, {percent(best)}"]))
    remarks = "".join(
        f'<p class="note">{icon}<span><b>{first}</b> {escape(more)}</span></p>' for first, more, icon in notes
    )
    return (
        f'<section class="answer" data-turn="{escape(turn)}" data-said="{escape(aloud)}"{_maps(answer)}>'
        f"{LIKELIEST if _has_line(served) else ''}"
        f'<h2 class="{"doubtful" if notes else "sure"}">{_headline(label)}<b>{escape(percent(best))}</b></h2>{remarks}'
        f"{_bars(shares, drawn)}"
        f'<p class="facts">{milliseconds:,.0f} ms by {escape(runtime)} · {model_html(served)}'
        f"{'' if doubts(served) else f'<br>{NEVER_UNSURE}'}</p>"
        "</section>"
    )


def problem_html(sentence: str, turn: str = "") -> str:
    """A sentence in the place of an answer."""
    said = escape(as_sentence(sentence))
    return (
        f'<section class="answer problem" data-turn="{escape(turn)}" data-said="{said}">'
        f'<p class="note">{BROKEN}<span>{said}</span></p></section>'
    )


def busy_html(sentence: str, turn: str = "") -> str:
    """The same of a page that is busy: the browser asks again by itself, a few times, and then takes that word away."""
    drawn = problem_html(sentence, turn).replace("</span>", " <i>This page tries again by itself.</i></span>")
    return drawn.replace('class="answer problem"', 'class="answer problem" data-busy', 1)


def percent(share: float, digits: int = 0) -> str:
    """A share, never rounded to nothing or to all: "93 %", "<1 %", ">99 %"; with digits=1 "93.1 %", "<0.1 %"."""
    step = 10.0**-digits
    if 0 < share * 100 < step / 2:
        return f"<{step:.{digits}f} %"
    if 100 - step / 2 <= share * 100 < 100:
        return f">{100 - step:.{digits}f} %"
    return f"{share * 100:.{digits}f} %"


def as_sentence(text: str) -> str:
    """One line that starts with a capital, unless with a name, and ends with a stop."""
    line = one_line(text)
    capital = line[:1].upper() if line.split(" ")[0].isalpha() else line[:1]
    return f"{capital}{line[1:]}" + "." * (not line.endswith((".", "!", "?", "…")))


def _headline(label: str) -> str:
    """The label in large type; of ImageNet's lists of synonyms the first, the others smaller."""
    first, comma, others = label.partition(", ")
    size = "long" if len(first) > 16 else "short"
    words = f"{escape(one_line(first))}<small>{escape(one_line(comma + others))}</small>"
    return f'<span class="{size}"{title_of(label)}>{words}</span>'


def title_of(*names: str) -> str:
    """The HTML attribute with all of the names, if one of them is so long that it is cut where it stands."""
    return f' title="{escape(one_line(", ".join(names)))}"' if any(len(name) > LONG for name in names) else ""


def _bars(shares: Sequence[tuple[str, float]], drawn: bool) -> str:
    """Bars of the classes that matter, and a list of all if those are not all; the list of all is `every`.

    Of one class that matters the headline has said it all: its bar has no words.
    """
    mattering = len(shares) if len(shares) <= 2 else sum(share >= MATTERS for _, share in shares[:BARS])
    whole = mattering == len(shares)
    rows = [_bar(number, *each, drawn) for number, each in enumerate(shares[:LISTED])]
    bars = f'<ol class="bars{" every" if whole else ""}" aria-label="The likeliest classes">{{}}</ol>'
    alone = f'<div class="alone" style="--share:{shares[0][1]:.4f}" aria-hidden="true"></div>'
    above = bars.format("".join(rows[:mattering])) if mattering > 1 or whole else alone
    if whole:
        return above
    more = len(shares) - len(rows)
    title = f"The likeliest {LISTED} classes" if more else f"All {counted(len(shares), 'class', 'classes')}"
    others = f'<p class="soft">and {more:,} more</p>' if more else ""
    return f'{above}<details><summary>{title}</summary><ol class="rest every">{"".join(rows)}</ol>{others}</details>'


def doubts(served: Served) -> bool:
    """Whether the model brings a threshold below which it is not sure."""
    return told(served.fact("serving.json"), "not_sure", "threshold", of=float) is not None


def _has_line(served: Served) -> bool:
    """Whether the page has a slider that says what a picture is called: the headline must not seem to say otherwise."""
    return bool(told(served.fact("serving.json"), "operating_curve", "points", of=list))


def _bar(number: int, label: str, share: float, drawn: bool) -> str:
    tag, pressed = ("button", "true" if number == 0 else "false") if drawn else ("div", None)
    how = f' type="button" data-class="{number}" aria-pressed="{pressed}"' if drawn else ""
    return (
        f'<li><{tag}{how} style="--share:{share:.4f}"><span{title_of(label)}>{escape(label)}</span> '
        f"<b>{escape(percent(share, 1))}</b></{tag}></li>"
    )


def _notes(served: Served, said: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What keeps the answer from being one: a sentence, more of it, an icon."""
    notes, serving = [], served.fact("serving.json")
    if said["familiar"] is False:
        below = told(serving, "strangeness", "share_below", of=float)
        usual = f"{percent(below)} of the pictures I was tried on look more familiar to me. " if below else ""
        more = f"{usual}I can only answer with one of my classes, and this may be none of them."
        notes.append(("This does not look like what I was trained on.", more, STRANGE))
    if not said["sure"]:
        keys = ("threshold", "accuracy_answered", "accuracy_all")
        at, kept, every = (told(serving, "not_sure", key, of=float) for key in keys)
        why = f"Below {percent(at)} I would rather not say."
        if kept and every and percent(kept) != percent(every):
            why += f" From there on {percent(kept)} of my answers were right; of all, {percent(every)}."
        notes.append(("Not sure.", f"{short(said['label'])} comes closest. {why}", UNSURE))
    return notes


def _maps(answer: Answer) -> str:
    if answer.maps is None:
        return ""
    order = (-answer.probabilities).argsort(kind="stable")[:LISTED]
    maps = np.maximum(answer.maps[order], 0)
    # Each by its own maximum: what speaks for an unlikely class is to be seen as well.
    highest = maps.max(axis=(1, 2), keepdims=True)
    levels = np.round(255 * maps / np.where(highest > 0, highest, 1)).astype(np.uint8)
    text = base64.b64encode(levels.tobytes()).decode()
    shape = ",".join(str(side) for side in maps.shape[1:])
    return f'data-maps="{text}" data-shape="{shape}" data-seen="{",".join(f"{share:.5f}" for share in answer.seen)}"'


def model_html(served: Served) -> str:
    """Which model at which revision: a link to the very commit, if it is on the Hub."""
    name = escape(one_line(served.public_name))
    if served.local:
        return f"{name}, a folder on this machine"
    at = f" at {escape(served.revision[:7])}" if served.revision else ""
    page = f"https://huggingface.co/{name}/tree/{escape(served.revision or 'main')}"
    return f'<a href="{page}" target="_blank" rel="noopener">{name}{at}</a>'
