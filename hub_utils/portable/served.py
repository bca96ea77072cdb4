"""The model behind a page: where it is, what its files say of it, and itself, loaded behind it or when asked."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_utils.portable.command import UserError
from hub_utils.portable.medical import NOT_A_DEVICE

if TYPE_CHECKING:
    from PIL import Image

    from hub_utils.portable.predictor import Answer, Predictor

ROOT = Path(__file__).parents[2]  # of the project, or of a Space, where this package lies beside app.py
LONGEST_WAIT = 30.0  # seconds between two attempts at a model that cannot be loaded

logger = logging.getLogger(__name__)


class Served:
    """One model of one page.

    `name` is the recipe's, as in runs/NAME and in the endpoints' words; `model` a folder or a repo id: without one it
    is where `where_is` says, which is asked anew until there is one.
    """

    def __init__(self, name: str, model: str | Path | None = None, revision: str | None = None) -> None:
        self.name = name
        self._place = None if model is None else (str(model), revision)
        self._one_at_a_time = threading.Lock()
        self._facts: dict[str, dict[str, Any]] = {}
        self._predictor: Predictor | None = None
        self._loading: threading.Thread | None = None
        self._failures, self._again = 0, 0.0
        self.problem: UserError | None = None  # why it could not be loaded, last time

    @property
    def place(self) -> tuple[str, str | None]:
        """The folder or repo id, and the revision that was asked for.

        Raises:
            UserError: there is no model.
        """
        if self._place is None:
            self._place = where_is(self.name)
        return self._place

    @property
    def model(self) -> str:
        """The folder or repo id; raises as `place` does."""
        return self.place[0]

    @property
    def public_name(self) -> str:
        """The repo id; of a folder only the name, since where it lies is nobody's business."""
        return Path(self.model).resolve().name if Path(self.model).is_dir() else self.model

    @property
    def revision(self) -> str | None:
        """The full commit, of a repo whose model is loaded; before that, what was asked for."""
        return self._predictor.revision if self._predictor else self.place[1]

    @property
    def ready(self) -> bool:
        return self._predictor is not None

    def predictor(self) -> Predictor:
        """The model itself; loaded once, and whoever asks meanwhile waits.

        Raises:
            UserError: it cannot be loaded: why, and what to do. Ask again: after a while the next call tries again.
        """
        with self._one_at_a_time:
            if self._predictor is None:
                self._load()
            return self._predictor

    def _load(self) -> None:
        from hub_utils.portable.predictor import load_predictor

        if self.problem and time.monotonic() < self._again:
            raise self.problem
        try:
            _ = self.folder
            self._predictor = load_predictor(*self.place)
        except Exception as error:
            self.problem = error if isinstance(error, UserError) else _in_words(self.name, error)
            self._again = time.monotonic() + min(2.0**self._failures, LONGEST_WAIT)
            self._failures += 1
            raise self.problem from error
        self.problem = None

    def start(self) -> None:
        """Load in the background, unless that is done, under way, or failed a moment ago."""
        if self.ready or (self._loading and self._loading.is_alive()):
            return
        if self.problem and time.monotonic() < self._again:
            return
        self._loading = threading.Thread(target=self._quietly, name=f"loading {self.name}", daemon=True)
        self._loading.start()

    def _quietly(self) -> None:
        try:
            self.predictor()
        except UserError as error:
            logger.warning("%s: %s", self.name, error)

    def answer(self, images: Sequence[Image.Image]) -> list[Answer]:
        """An answer an image; images are of mode RGB, turned as EXIF says. Raises as `predictor` does."""
        return self.predictor()(images)

    @cached_property
    def folder(self) -> Path:
        """Where the files lie that say something of the model: predictor.py's `FACTS`.

        Raises:
            UserError: there is no model, or the Hub cannot be asked for them.
        """
        model, revision = self.place
        if Path(model).is_dir():
            return Path(model)
        from huggingface_hub import snapshot_download

        from hub_utils.portable.hub import in_words
        from hub_utils.portable.predictor import FACTS

        with in_words(model):
            return Path(snapshot_download(model, revision=revision, allow_patterns=list(FACTS)))

    def fact(self, file: str) -> dict[str, Any]:
        """What a JSON file of the model says, as serving.json does; {} if there is none that is whole.

        Raises:
            UserError: as `folder` does.
        """
        if file not in self._facts:
            try:
                found = json.loads((self.folder / file).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                found = {}
            self._facts[file] = found if isinstance(found, dict) else {}
        return self._facts[file]

    @property
    def known(self) -> bool:
        """Whether `folder` is there, and `fact` answers at once."""
        return "folder" in self.__dict__

    def ask_for_facts(self) -> threading.Thread:
        """A thread in which `folder` is asked for, and which says nothing if that fails: `start` tries again."""

        def ask() -> None:
            with contextlib.suppress(UserError):
                _ = self.folder

        thread = threading.Thread(target=ask, name=f"facts of {self.name}", daemon=True)
        thread.start()
        return thread

    @property
    def title(self) -> str:
        """What people call it; the recipe's title, or the model's own name."""
        found = self.fact("recipe.json").get("recipe", {}).get("title") if self.known else None
        if found or self.known:
            return found or self.public_name.rsplit("/", 1)[-1]
        return self.name.replace("_", " ").title()

    @property
    def classes(self) -> list[str]:
        """Names of the classes as the model's files say them; [] if they do not."""
        from hub_utils.portable.predictor import labels_of

        return labels_of(self.fact("config.json")) or []

    @property
    def card(self) -> dict[str, Any]:
        """What the recipe says for the model card: limits, licences, citation, medical; {} of a stranger's model."""
        return self.fact("recipe.json").get("recipe", {}).get("card", {})


def where_is(name: str) -> tuple[str, str | None]:
    """Model and revision: DEMO_MODEL if it is set; else runs/NAME if it is there; else what model.json says.

    The publisher writes model.json beside app.py.

    Raises:
        UserError: there is none of them.
    """
    if model := os.environ.get("DEMO_MODEL"):
        return model, None
    for run in (Path("runs", name), ROOT / "runs" / name):
        if (run / "config.json").is_file():
            return str(run), None
    written = ROOT / "model.json"
    if written.is_file():
        known = json.loads(written.read_text(encoding="utf-8"))
        if name in known:
            return known[name]["model"], known[name].get("revision")
    raise UserError(
        f"there is no model yet: train one, accelerate launch -q training/train.py {name}, or name one, "
        "DEMO_MODEL=RUN_OR_REPO_ID"
    )


def _in_words(name: str, error: Exception) -> UserError:
    logger.error("%s cannot be loaded", name, exc_info=error)
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"the model cannot be loaded: {first[:300]}")


def verdict(served: Served, answer: Answer, milliseconds: float | None = None) -> dict[str, Any]:
    """What /predict says of one picture, ready for JSON; of a medical model with a `notice` that it is no device.

    `sure`: the highest probability reaches the model's own threshold; true where it brings none. `familiar`: the
    picture is no stranger than the threshold; null where there is no measure. `probabilities` has every class, the
    likeliest first.
    """
    predictor, serving = served.predictor(), served.fact("serving.json")
    order = (-answer.probabilities).argsort(kind="stable")
    probabilities = {predictor.labels[index]: round(float(answer.probabilities[index]), 6) for index in order}
    label = predictor.labels[order[0]]
    threshold = serving.get("not_sure", {}).get("threshold")
    strangest = serving.get("strangeness", {}).get("threshold")
    known = answer.strangeness is not None and strangest is not None
    said = {
        "label": label,
        "sure": threshold is None or probabilities[label] >= threshold,
        "familiar": float(answer.strangeness) <= strangest if known else None,
        "probabilities": probabilities,
        "strangeness": None if answer.strangeness is None else float(answer.strangeness),
        "milliseconds": None if milliseconds is None else round(milliseconds, 1),
        "model": served.public_name,
        "revision": served.revision,
    }
    return said | {"notice": NOT_A_DEVICE} if served.card.get("medical") else said
