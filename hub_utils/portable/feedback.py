"""What visitors say is wrong, with their explicit consent, into a private data set of the maintainers.

Off unless DEMO_FEEDBACK=NAMESPACE/DATASET and a token that may write there are set, and never for a model of patients'
images. The browser sends nothing before the box is ticked and the button pressed. What is kept is a JPEG of the pixels
alone, at most 1024 of them a side, what the model said, what the visitor said, and which model it was; in folders that
`datasets` loads as an imagefolder. It waits in a temporary folder for the next commit, minutes later.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import secrets
import threading
import time
from collections import deque
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import gradio as gr

from hub_utils.portable.answer_html import as_sentence
from hub_utils.portable.command import UserError
from hub_utils.portable.pictures import opened
from hub_utils.portable.served import Served, verdict
from hub_utils.portable.uploads import asked, forget, uploaded
from hub_utils.portable.whole import passing

if TYPE_CHECKING:
    from PIL import Image

EVERY = 5.0  # minutes between two commits
SIDE = 1024  # pixels that a kept picture has at most along a side
MOST_AN_HOUR = 60  # of all visitors together
MOST_KEPT = 1000  # of one process, about 200 MB
NONE = "none of these"
FORM = """<section class="feedback" hidden><details><summary>Is this wrong?</summary><form>
<label>It is <select required><option value="">choose …</option></select></label>
<label class="consent"><input type="checkbox"><span>I agree that this picture is sent to the people who maintain this
model, to improve it: the picture without its metadata (no place, no date, no camera), the model's answer, my choice,
and which model it was at which revision; nothing else. It goes to <b>{repo}</b>, a private data set on the Hugging
Face Hub that only they can read. To have it deleted, tell them{where} the number that you get here.</span></label>
<button type="submit" disabled>Send</button><p class="told" role="status"></p></form></details></section>"""

logger = logging.getLogger(__name__)


class Collection:
    """A private data set on the Hub that grows; opened when something is first kept.

    Raises:
        UserError: it cannot be written, or is public.
    """

    def __init__(self, repo_id: str, every: float = EVERY) -> None:
        from huggingface_hub import CommitScheduler

        from hub_utils.portable.hub import in_words
        from hub_utils.portable.patience import PAGES, be_patient

        be_patient(PAGES)

        collection = self

        class Scheduler(CommitScheduler):
            """Looks before each commit whether the data set still is private: `private=True` says nothing of one
            that is there already, and anybody who owns it may open it to the public at any time.
            """

            def push_to_hub(self) -> Any:
                try:
                    with in_words(repo_id, flag="DEMO_FEEDBACK="):
                        self._check_private()
                        done = super().push_to_hub()
                    collection.problem = None
                    return done
                except UserError as error:
                    collection.problem = error
                    raise

            def _check_private(self) -> None:
                if self.api.repo_info(self.repo_id, repo_type="dataset").private is not True:
                    raise UserError(f"the data set {repo_id} is public; feedback goes to a private one only")

        self.problem: UserError | None = None
        self.kept = 0
        self._temporary = passing("feedback")
        # A folder of its own for each process: `metadata.jsonl` of an earlier one is not to be written over.
        self.folder = Path(self._temporary.name, "data", secrets.token_hex(8))
        self.folder.mkdir(parents=True)
        try:
            with in_words(repo_id, flag="DEMO_FEEDBACK="):
                self._scheduler = Scheduler(
                    repo_id=repo_id, repo_type="dataset", folder_path=self._temporary.name, private=True, every=every
                )
                self._scheduler._check_private()
        except BaseException:
            if hasattr(self, "_scheduler"):
                self._scheduler.stop()
            self._temporary.cleanup()
            raise

    def keep(self, picture: Image.Image, facts: dict[str, Any]) -> str:
        """Keep a picture and what is said of it for the next commit; the number to ask for its deletion by.

        The picture itself is made smaller.

        Raises:
            UserError: there is no room for more, or the last commit failed.
        """
        if self.kept >= MOST_KEPT:
            raise UserError("enough was sent to this page already; thank you all the same")
        if self.problem:
            raise self.problem
        number = secrets.token_hex(8)
        picture.thumbnail((SIDE, SIDE))
        picture.info.clear()  # or Pillow writes colour profile and comment along
        with self._scheduler.lock:
            picture.save(self.folder / f"{number}.jpg", "JPEG", quality=92)
            with (self.folder / "metadata.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"file_name": f"{number}.jpg", **facts}, ensure_ascii=False) + "\n")
            self.kept += 1
        return number

    def push(self) -> None:
        """Commit now what waits.

        Raises:
            UserError: the Hub refuses.
        """
        self._scheduler.trigger().result()

    def close(self) -> None:
        """Commit what waits, as far as the Hub lets us, and forget it here."""
        try:
            self.push()
        except UserError as error:
            logger.error("feedback is lost: %s", error)
        finally:
            self._scheduler.stop()
            atexit.unregister(self._scheduler._push_to_hub)
            self._temporary.cleanup()


class _Door:
    """Opens the collection once, for all visitors, and lets so many through an hour."""

    def __init__(self, repo_id: str) -> None:
        self.repo_id = repo_id
        self._lock = threading.Lock()
        self._collection: Collection | None = None
        self._when: deque[float] = deque(maxlen=MOST_AN_HOUR)

    def keep(self, picture: Image.Image, facts: dict[str, Any]) -> str:
        with self._lock:
            if len(self._when) == MOST_AN_HOUR and time.monotonic() - self._when[0] < 3600:
                raise UserError("many people have sent something within this hour; try again later")
            self._collection = self._collection or Collection(self.repo_id)
            number = self._collection.keep(picture, facts)
            self._when.append(time.monotonic())
            return number

    def close(self) -> None:
        if self._collection:
            self._collection.close()


_DOORS: WeakKeyDictionary[Served, _Door] = WeakKeyDictionary()  # one for a model, however often its page is drawn


def configured(served: Served) -> str | None:
    """The data set that feedback goes to; None where there is to be none."""
    from huggingface_hub import get_token

    repo_id = os.environ.get("DEMO_FEEDBACK", "").strip()
    if not repo_id or served.card.get("medical") or not get_token():
        return None
    return repo_id


def feedback(served: Served) -> _Door | None:
    """Draw it, inside an open `gr.Blocks`, if it is configured; what keeps it, which a test closes."""
    repo_id = configured(served)
    if repo_id is None:
        return None
    door = _DOORS.setdefault(served, _Door(repo_id))
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    where = f" on https://huggingface.co/{served.public_name}" if not served.local else ""
    form = FORM.format(repo=escape(repo_id), where=escape(where))
    with gr.Column(elem_classes="feedback-column"):
        form_shown = gr.HTML(form, js_on_load=script, apply_default_css=False)
        told = gr.HTML(js_on_load=None, apply_default_css=False, elem_classes="feedback-told")

    def send(event: gr.EventData) -> str:
        data = asked(event)
        try:
            number = receive(served, door, data)
            words = f"Thank you. Its number is {number}."
        except UserError as error:
            words = as_sentence(f"it was not sent: {error}")
        return f'<p data-turn="{escape(str(data.get("turn"))[:40])}">{escape(words)}</p>'

    form_shown.send(send, None, told, api_visibility="private", show_progress="hidden", concurrency_limit=1)
    return door


def receive(served: Served, door: _Door, data: dict[str, Any]) -> str:
    """Take what the browser sent: {"consent": true, "label": …, "path": …}; the number that it is kept under.

    The upload is deleted, whatever comes of it.

    Raises:
        UserError: nothing was kept, and why.
    """
    path = uploaded(data.get("path"))
    try:
        if data.get("consent") is not True:
            raise UserError("you have not agreed to it")
        label = data.get("label")
        if label not in (*served.predictor().labels, NONE):
            raise UserError("choose what it is")
        with opened(path) as picture:
            said = verdict(served, *served.answer([picture]))
            answer = {"label": said["label"], "probability": round(said["probabilities"][said["label"]], 6)}
            facts = {"label": label, "answer": answer, "model": said["model"], "revision": said["revision"]}
            return door.keep(picture, facts)
    finally:
        forget(path)
