"""A model's mistakes in HTML: the confusion matrix, the images with all that speaks for and against them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from functools import cached_property
from html import escape

import numpy as np

from training.results import style
from training.results.evidence import Evidence
from training.results.mistakes import Question, asked, confused_pairs, confusion, label_suspects
from training.results.predictions import Predictions

PAIRS = 30
LARGE, NUMBERED = 12, 40  # classes up to which cells are large, and up to which they say their number


@dataclass(frozen=True)
class Gallery:
    """What the page shows. `labels` are the class names of all of the evidence's images, examined or trained on.

    `secret` stands in the address of every picture: other pages in the same browser cannot guess it, and what the
    browser keeps is never taken for a picture of another run. All other text is escaped.
    """

    title: str
    predictions: Predictions
    evidence: Evidence
    labels: list[str]
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(9))

    @cached_property
    def splits(self) -> list[str]:
        """The test split first: the other one was looked at in training."""
        return sorted(set(self.predictions.splits))

    @property
    def suspects(self) -> np.ndarray:
        """Images whose label may be wrong, bool (images,); none as long as neighbours are looked for."""
        ready = self.evidence.nearest is not None
        return self._suspects if ready else np.zeros(len(self.predictions.paths), bool)

    @cached_property
    def _suspects(self) -> np.ndarray:
        index = {name: number for number, name in enumerate(self.predictions.classes)}
        codes = np.array([*(index.get(label, -1) for label in self.labels), -1])  # a number of -1 finds the last
        return label_suspects(self.predictions, codes[self.evidence.nearest[0]])

    def ask(self, question: Question) -> np.ndarray:
        """See `asked`."""
        return asked(self.predictions, question, self.suspects)

    def _name(self, index: int) -> str:
        return escape(self.predictions.classes[index])

    def overview(self, split: str) -> str:
        """The confusion matrix and the most confused pairs. Places in the table say which cell it is."""
        matrix = confusion(self.predictions, split)
        images, mistakes = int(matrix.sum()), int(matrix.sum() - np.trace(matrix))
        size = "large" if len(matrix) <= LARGE else "middle" if len(matrix) <= NUMBERED else "small"
        heads = "".join(
            f'<th scope="col" aria-label="{count(total)} taken for {name}"><span>{name}</span></th>'
            for name, total in zip(map(escape, self.predictions.classes), matrix.sum(axis=0).tolist(), strict=True)
        )
        rows = "".join(self._row(matrix[label], label) for label in range(len(matrix)))
        wrong = f"{mistakes} wrong ({percent(mistakes / images)})." if mistakes else "none of them wrong."
        return f"""<p class="told"><b>{count(images)}</b> in the {escape(split)} split, {wrong}</p>
<div class="both"><div class="frame"><table role="grid" class="confusion {size}"
aria-label="Confusion matrix of the {escape(split)} split: a row a label, a column a prediction"><thead><tr>
<th tabindex="0" aria-label="all images">label ↓<br>prediction →</th>{heads}</tr></thead>
<tbody>{rows}</tbody></table></div>{self._pairs(matrix)}</div>
<p class="readout" aria-hidden="true">Click a cell, a class or a pair to see its images.</p>"""

    def _row(self, row: np.ndarray, label: int) -> str:
        name, total = self._name(label), int(row.sum())
        cells = [f'<th scope="row" aria-label="{count(total)} labelled {name}"><span>{name}</span></th>']
        for said, images in enumerate(row.tolist()):
            kind = "right" if label == said else "wrong"
            share = images / max(total, 1)
            what = f"{count(images)} labelled {name}, taken for {self._name(said)}: {percent(share)} of its label"
            told = f'class="{kind}" style="--share:{share:.2f}" aria-label="{what}"'
            cells.append(f"<td {told}>{images}</td>" if images else "<td></td>")
        return f"<tr>{''.join(cells)}</tr>"

    def _pairs(self, matrix: np.ndarray) -> str:
        items = "".join(
            f'<li><button type="button" data-label="{label}" data-prediction="{said}"><span><b>{self._name(label)}</b> '
            f"taken for <b>{self._name(said)}</b></span> <i>{images} of {matrix[label].sum()}</i></button></li>"
            for label, said, images in confused_pairs(matrix, PAIRS)
        )
        if not items:
            return '<section class="pairs"><h2>No mistake</h2><p>The least certain answers are below.</p></section>'
        return f'<section class="pairs"><h2>Most confused</h2><ol>{items}</ol></section>'

    def bar(self, question: Question, ticked: frozenset[int]) -> str:
        """What is shown, and the button that exports what is ticked or, if nothing is, all of it."""
        numbers = self.ask(question)
        chosen = sorted(ticked) if ticked else numbers.tolist()
        label = f"Export list ({len(ticked)} ticked)" if ticked else f"Export list ({len(numbers)})"
        told = f'<h2 role="status">{self._told(question, len(numbers))}</h2>'
        form = f"""<form method="post" action="{self.secret}/mistakes.csv"><input type="hidden" name="numbers"
value="{",".join(map(str, chosen))}"><button type="submit">{label}</button></form>"""
        return f'<div class="bar">{told}{form if chosen else ""}</div>'

    def _told(self, question: Question, images: int) -> str:
        kind = "suspected label error" if question.only_suspects else "mistake" if question.only_mistakes else "image"
        words = [count(images, kind)]
        if question.label is not None:
            words.append(f"labelled {self._name(question.label)}")
        if question.prediction is not None:
            words.append(f"taken for {self._name(question.prediction)}")
        return ", ".join([*words, *["largest loss first"] * (images > 1)])

    def cards(self, question: Question, shown: int, ticked: frozenset[int]) -> str:
        """The first `shown` images, largest loss first."""
        numbers = self.ask(question)[:shown].tolist()
        return f'<div class="cards">{"".join(self._card(number, number in ticked) for number in numbers)}</div>'

    def _card(self, number: int, ticked: bool) -> str:
        predictions = self.predictions
        label, said = int(predictions.labels[number]), int(predictions.predicted[number])
        path, suspect = escape(predictions.paths[number]), bool(self.suspects[number])
        note = f"<p>Is the label wrong? All nearest training images are of {self._name(said)}, too.</p>" * suspect
        views = [self._picture(number, "middle", f"{path}, labelled {self._name(label)}", "the picture")]
        if self.evidence.why_no_maps is None:
            for index in dict.fromkeys((said, label)):
                name, source = self._name(index), f"{self.secret}/map/{number}/{index}"
                image = f'<img loading="lazy" src="{source}" alt="Heat map: what speaks for {name}">'
                views.append(f"<figure>{image}<figcaption>speaks for {name}</figcaption></figure>")
        return f"""<article class="card{" suspect" * suspect}"><label><input type="checkbox" data-number="{number}"
{"checked" * ticked}><span>{path}</span></label><p class="verdict">{self._verdict(number, label, said)}</p>{note}
<div class="views">{"".join(views)}</div>{self._near(number)}</article>"""

    def _verdict(self, number: int, label: int, said: int) -> str:
        row = self.predictions.probabilities[number]
        loss = f"<i>loss {self.predictions.losses[number]:.2f}</i>"
        if label != said:
            says = f"says <b>{self._name(said)}</b> {percent(row[said])}"
            return f"labelled <b>{self._name(label)}</b> {percent(row[label])} → {says} {loss}"
        second = int(np.argsort(-row, kind="stable")[1])
        then = f"then {self._name(second)} {percent(row[second])}"
        return f"rightly <b>{self._name(said)}</b> {percent(row[said])}, {then} {loss}"

    def _near(self, number: int) -> str:
        if self.evidence.nearest is None:
            return ""
        numbers, cosines = (part[number].tolist() for part in self.evidence.nearest)
        own = self.labels[number]
        figures = "".join(
            self._picture(
                other,
                "small",
                f"training image {escape(self.evidence.paths[other])}, labelled {escape(self.labels[other])}",
                f"{'<b>' * (self.labels[other] != own)}{escape(self.labels[other])}</b> {cosine:.2f}",
            )
            for other, cosine in zip(numbers, cosines, strict=True)
            if other >= 0
        )
        return f'<h3>Nearest training images, by cosine</h3><div class="near">{figures}</div>' if figures else ""

    def _picture(self, number: int, size: str, alt: str, caption: str) -> str:
        pictures = f"{self.secret}/picture"
        image = f'<img loading="lazy" src="{pictures}/{size}/{number}" alt="{alt}">'
        link = f'<a href="{pictures}/large/{number}" target="_blank" title="{alt}: open it large">{image}</a>'
        return f"<figure>{link}<figcaption>{caption}</figcaption></figure>"

    def notes(self) -> str:
        """How far the search for neighbours has come, and what cannot be shown; empty if there is nothing to say."""
        evidence, notes = self.evidence, []
        if evidence.why_no_maps:
            notes.append(f"No heat maps: {escape(evidence.why_no_maps)}.")
        if evidence.failure:
            notes.append(f"No nearest training images: {escape(evidence.failure)}.")
        elif evidence.nearest is None:
            bar = f'<progress max="{len(evidence.paths)}" value="{evidence.done}"></progress>'
            notes.append(
                f"Looking for the nearest training images {bar} {evidence.done:,} of {len(evidence.paths):,}. They and "
                "suspected label errors appear here when all images are through; everything else works."
            )
        return "".join(f'<p class="note">{note}</p>' for note in notes)


def percent(share: float) -> str:
    """As `style.percent`, in HTML, where the sign stands apart from the number."""
    return escape(style.percent(share)).replace("%", "&nbsp;%")


def count(number: int, what: str = "image") -> str:
    """`2 images`."""
    return f"{number or 'no'} {what}{'s' * (number != 1)}"
