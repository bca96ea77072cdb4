"""Many pictures at once, as files or zips: how far it is, a table with a row a file, and a CSV to take away.

One bad file has its reason in its row, and the others go on. Pictures are opened and asked about in a few threads, one
a picture: on a CPU the network gains nothing from batches, and no more than a handful of pictures are in memory. The
browser sorts; what was uploaded is deleted once it is answered.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from hub_utils.portable import harmless_csv
from hub_utils.portable.answer_html import as_sentence, busy_html, percent, problem_html
from hub_utils.portable.command import UserError
from hub_utils.portable.many_uploads import Sent, Uploads, too_many
from hub_utils.portable.markdown import counted
from hub_utils.portable.pictures import MOST_BYTES, opened
from hub_utils.portable.prediction_table import header, row
from hub_utils.portable.served import Served, verdict
from hub_utils.portable.upload_folder import answered
from hub_utils.portable.uploads import (
    LONG_NAME,
    MOST_PICTURES,
    MOST_UPLOAD,
    Files,
    asked,
    forget,
    limits_in_words,
    told_to_clients,
    uploaded_or_why,
)
from hub_utils.portable.waiting import why_stop

WORKERS = min(4, os.cpu_count() or 1)
LONGEST = 600  # seconds that one visitor's pictures may take: others wait meanwhile
EVERY = 0.3  # seconds between two words of how far it is
THUMBNAIL, MOST_THUMBNAIL = (
    80,
    2200,
)  # pixels, for fine screens twice what is seen; bytes, which are a third more in HTML
MARKS, WORDS = ("sure", "familiar"), {True: "true", False: "false"}  # columns of the table, and what stands in them
LATE = f"Not looked at: {LONGEST // 60} minutes were over. Give fewer at once."
STOPPED = "Not looked at: you stopped before."
STAGE = """<div class="stage many-stage" data-most="{most}" data-limit="{limit}" data-zip="{zip}">
<div class="view"><div class="empty"><svg viewBox="0 0 48 48" aria-hidden="true">
  <rect x="13" y="5" width="30" height="23" rx="3"/><path d="M9 12v17a4 4 0 0 0 4 4h24M4 19v17a5 5 0 0 0 5 5h22"/>
  <path d="m14 25 8-7 6 5 6-6 8 8"/></svg>
  <p><b>Drop pictures here,</b> or a folder or zip of them</p></div>
  <div class="running" hidden><p class="how-far"></p>
    <progress max="1" aria-label="How far it is"></progress></div></div>
<div class="doors"><button type="button" class="choose">Choose pictures or a zip</button>
  <button type="button" class="halt" hidden>Stop</button></div>
<input type="file" multiple accept="image/*,.zip,.heic,.tif,.tiff" tabindex="-1" aria-hidden="true" hidden>
<p class="fine">{fine}</p><p class="aloud" role="status" aria-live="polite"></p></div>"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Looked:
    """What became of one file: `said` as /predict has it, with all `probabilities` and a thumbnail; or a `problem`."""

    name: str
    problem: str = ""
    said: dict[str, Any] | None = None
    probabilities: np.ndarray | None = None
    thumbnail: str = ""

    @property
    def as_json(self) -> dict[str, Any]:
        return {"file": self.name, **(self.said or {"error": self.problem})}


def look_at(served: Served, uploads: Uploads, stopped: Callable[[], str] = str) -> Iterator[Looked]:
    """What the model says of each upload, in their order; once `stopped` says why, of those that follow just that.

    Raises:
        UserError: the model cannot be loaded.
    """
    served.predictor()
    waiting, sent, begun = deque(), iter(uploads), 0
    until, why = time.monotonic() + LONGEST, ""
    with ThreadPoolExecutor(WORKERS) as pool:
        while begun < uploads.count:
            why = stopped() or (LATE if time.monotonic() > until else "")
            if why:
                break
            waiting.append(pool.submit(_look, served, next(sent)))
            begun += 1
            if len(waiting) >= 2 * WORKERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    for name in uploads.names[begun:]:
        yield Looked(name, why)


def _look(served: Served, sent: Sent) -> Looked:
    try:
        if sent.problem:
            raise UserError(sent.problem)
        start = time.perf_counter()
        with opened(sent.content, sent.name) as image:
            (answer,) = served.answer([image])
            said = verdict(served, answer, 1000 * (time.perf_counter() - start))
            thumbnail = _thumbnail(image)
    except UserError as error:
        return Looked(sent.name, as_sentence(str(error)))
    except Exception:  # the others shall not suffer
        logger.exception("no answer to an upload")
        return Looked(sent.name, "The model has no answer to this picture.")
    return Looked(sent.name, "", said, answer.probabilities, thumbnail)


def _thumbnail(image: Image.Image) -> str:
    """A data URI of a few hundred bytes, at most `MOST_THUMBNAIL` and a third."""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    for quality in (60, 30, 5):
        small = io.BytesIO()
        image.save(small, "WEBP", quality=quality)
        if small.tell() <= MOST_THUMBNAIL:
            return f"data:image/webp;base64,{base64.b64encode(small.getvalue()).decode()}"
    return ""


def as_csv(labels: Sequence[str], looked: Sequence[Looked]) -> bytes:
    """The table that `training/predict.py` writes, and whether the model is `sure`, and the picture `familiar` to it.

    Names of files are a stranger's, and are no formulas in it.
    """
    text = io.StringIO(newline="")
    writer = harmless_csv.Writer(text)
    writer.writerow([*header(labels), *MARKS])
    for each in looked:
        cells = row(each.name, labels, each.probabilities, each.problem)
        marks = [WORDS.get((each.said or {}).get(mark), "") for mark in MARKS]
        writer.writerow([*cells, *marks])
    return text.getvalue().encode(errors="backslashreplace")


def many_endpoint(served: Served, api_name: str = "predict_many") -> None:
    """The API's way to the same answers; inside an open `gr.Blocks`."""

    def predict_many(files: list[tuple[str, Path | str]], progress: Any = gr.Progress()) -> tuple[list[dict], str]:  # noqa: B008
        """Says what each of many pictures shows.

        Parameters:
            files: image files, and zips of them.
        Returns:
            answers: an object a file, in their order: "file", its name (ZIP/NAME in a zip), and what /predict says of
            it, or "error", a sentence. table: a CSV file with path, prediction, p_CLASS for each class, error, sure and
            familiar.
        """
        try:
            with told_to_clients(), Uploads(files) as uploads:
                answers = look_at(served, uploads, why_stop())
                looked = list(progress.tqdm(answers, total=uploads.count, desc="Looking", unit="pictures"))
                return [each.as_json for each in looked], _kept(as_csv(served.predictor().labels, looked))
        finally:
            for path in (path for _, path in files if isinstance(path, Path)):
                answered(path)

    files = Files(file_count="multiple", visible=False, label="files")
    answers, table = gr.JSON(visible=False, label="answers"), gr.File(visible=False, label="table")
    files.upload(predict_many, files, [answers, table], api_name=api_name, concurrency_limit=1)


def _kept(content: bytes) -> str:
    """A file of this content where gradio serves it from, until the folder is swept."""
    path = Path(get_upload_folder(), secrets.token_hex(16), "predictions.csv")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return str(path)


def many_pictures(served: Served) -> None:
    """Draw it, inside an open `gr.Blocks`."""
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    fine = f"{limits_in_words(many=True)} It may take up to {LONGEST // 60} minutes. Uploads are deleted once answered."
    limits = {"most": MOST_PICTURES, "limit": MOST_BYTES, "zip": MOST_UPLOAD}
    stopped: set[tuple[str, str]] = set()
    with gr.Column(elem_classes="many-pictures"):
        how = {"apply_default_css": False}
        stage = gr.HTML(STAGE.format(fine=escape(fine), **limits), js_on_load=script, **how)
        how_far = gr.HTML(js_on_load=None, elem_classes="told-how-far", **how)
        table = gr.DownloadButton("Download the table (CSV)", visible=False, elem_classes="take-away")
        shown = gr.HTML(js_on_load=None, **how)

    def look(event: gr.EventData, request: gr.Request) -> Iterator[dict]:
        told = asked(event)
        turn = str(told.get("turn", ""))[:40]
        mine = (str(request.session_hash), turn)
        files = _uploaded(told.get("files"))
        left = why_stop()
        try:
            yield {shown: "", table: gr.DownloadButton(visible=False)}
            if isinstance(count := told.get("count"), int) and count > MOST_PICTURES:
                raise UserError(too_many(count))  # none of them was sent
            with Uploads(files) as uploads:
                looked, last, began = [], 0.0, time.monotonic()
                for each in look_at(served, uploads, lambda: STOPPED if mine in stopped else left()):
                    looked.append(each)
                    if time.monotonic() - last > EVERY:
                        last = time.monotonic()
                        yield {how_far: _how_far(len(looked), uploads.count, turn)}
                drawn = results_html(looked, uploads.passed_by, time.monotonic() - began, turn)
            kept = _kept(as_csv(served.predictor().labels, looked))
            yield {shown: drawn, table: gr.DownloadButton(value=kept, visible=True), how_far: ""}
        except UserError as error:
            yield {shown: problem_html(str(error), turn), table: gr.DownloadButton(visible=False), how_far: ""}
        finally:
            stopped.discard(mine)
            for path in (path for _, path in files if isinstance(path, Path)):
                forget(path)

    def halt(event: gr.EventData, request: gr.Request) -> None:
        if len(stopped) < 10_000:
            stopped.add((str(request.session_hash), str(asked(event).get("turn", ""))[:40]))

    look.when_busy = lambda sentence, turn: [busy_html(sentence, turn), {"__type__": "update", "visible": False}, ""]
    private = {"api_visibility": "private", "show_progress": "hidden"}
    stage.pictures(look, None, [shown, table, how_far], concurrency_limit=1, trigger_mode="multiple", **private)
    stage.halt(halt, None, None, queue=False, trigger_mode="multiple", **private)


def _uploaded(files: Any) -> list[tuple[str, Path | str]]:
    """Names as the browser tells them, each with its file, or why there is none."""
    found = []
    for each in files if isinstance(files, list) else ():
        if isinstance(each, dict):
            name = str(each.get("name"))[-LONG_NAME:]
            most = MOST_UPLOAD if name.lower().endswith(".zip") else MOST_BYTES
            found.append(
                (name, STOPPED if each.get("stopped") else uploaded_or_why(each.get("path"), each.get("size"), most))
            )
    return found


def _how_far(done: int, of: int, turn: str) -> str:
    return f'<p data-turn="{escape(turn)}" data-done="{done}" data-of="{of}">{done:,} of {of:,} pictures</p>'


def results_html(looked: Sequence[Looked], passed_by: int, seconds: float, turn: str = "") -> str:
    """The table, with what there is to say of all of it above."""
    good = [each.said for each in looked if each.said]
    notes = _summary(looked, good, passed_by, seconds)
    counts = Counter(said["label"] for said in good).most_common()
    tags = "".join(f"<li>{escape(label)} <b>{number:,}</b></li>" for label, number in counts)
    rows = "".join(_row(number, each) for number, each in enumerate(looked))
    return (
        f'<section class="many-results" data-turn="{escape(turn)}" data-said="{escape(notes)}">'
        f'<p class="summary">{escape(notes)}</p><ul class="counts" aria-label="How often each class">{tags}</ul>'
        '<label class="order">Order <select><option value="at">as given</option>'
        '<option value="sure">least sure first</option><option value="label">by class</option>'
        '<option value="name">by name</option></select></label>'
        '<table><thead><tr><td></td><th scope="col">File</th><th scope="col">Class</th>'
        '<th scope="col">Probability</th><th scope="col">Remarks</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></section>"
    )


def _summary(looked: Sequence[Looked], good: Sequence[dict[str, Any]], passed_by: int, seconds: float) -> str:
    told = [f"{len(good):,} of {counted(len(looked), 'picture')} answered in {seconds:,.1f} seconds."]
    if unsure := sum(not said["sure"] for said in good):
        told.append(f"Not sure of {unsure:,}.")
    if strange := sum(said["familiar"] is False for said in good):
        told.append(f"{strange:,} {'look' if strange > 1 else 'looks'} unlike the training pictures.")
    if passed_by:
        told.append(f"{counted(passed_by, 'file')} in zips {'are' if passed_by > 1 else 'is'} no picture by name.")
    return " ".join(told)


def _row(number: int, looked: Looked) -> str:
    name = escape(looked.name.encode(errors="replace").decode())
    if looked.said is None:
        return (
            f'<tr class="bad" data-at="{number}" data-sure="2"><td class="small"></td><th scope="row">{name}</th>'
            f'<td colspan="3" class="why">{escape(looked.problem)}</td></tr>'
        )
    said, remarks = looked.said, []
    if not said["sure"]:
        remarks.append("not sure")
    if said["familiar"] is False:
        remarks.append("unlike the training pictures")
    share = said["probabilities"][said["label"]]
    small = f'<img src="{looked.thumbnail}" alt="" loading="lazy" decoding="async">' if looked.thumbnail else ""
    marks = "".join(f"<span>{each}</span>" for each in remarks)
    return (
        f'<tr data-at="{number}" data-sure="{share:.5f}"><td class="small">{small}</td><th scope="row">{name}</th>'
        f'<td class="label">{escape(said["label"])}</td><td class="share">{escape(percent(share, 1))}</td>'
        f'<td class="marks">{marks}</td></tr>'
    )
