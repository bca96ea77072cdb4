"""The model behind a page: where it is, what its files say of it, and itself, loaded behind it or when asked."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from hub_utils.portable.command import UserError
from hub_utils.portable.facts import read_facts, told
from hub_utils.portable.medical import NOT_A_DEVICE

if TYPE_CHECKING:
    from PIL import Image

    from hub_utils.portable.network import Precision
    from hub_utils.portable.predictor import Answer, Predictor

ROOT = Path(__file__).parents[2]  # of the project, or of a Space, where this package lies beside app.py
LONGEST_WAIT = 30.0  # seconds between two attempts at a model that cannot be loaded
ADDRESS = re.compile(r"https?://[^/]+/([\w.-]+/[\w.-]+?)(?:/(?:tree|blob|commit)/([^/]+).*)?/?")  # of a model's page
FOLDERS = re.compile(r"(?<![\w:/.])(?:[A-Za-z]:)?[\\/](?:[^\s\\/'\",:;()]+[\\/])+")  # before the last of a path

logger = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a model is: a folder, or a repo id at a revision; `local` says which, and `public_name` is for all to see.

    Of a folder that is its name alone, since where it lies is nobody's business.
    """

    model: str
    revision: str | None
    local: bool
    public_name: str

    @classmethod
    def of(cls, model: str, revision: str | None) -> Place:
        folder = Path(model).expanduser().resolve()
        return cls(str(folder), revision, True, folder.name) if folder.is_dir() else cls(model, revision, False, model)


class Served:
    """One model of one page.

    `name` is the recipe's, as in runs/NAME and in the endpoints' words; `model` a folder or a repo id: without one it
    is where `where_is` says, which is asked anew until there is one; `alone` says whether it is the only one. What the
    page tells of a repo and what answers there are of one commit.
    """

    def __init__(
        self, name: str, model: str | Path | None = None, revision: str | None = None, alone: bool = True
    ) -> None:
        self.name, self._alone = name, alone
        self._asked_for = None if model is None else (str(model), revision)
        self._found: tuple[Place, Path] | None = None  # at which commit, and the folder of what its files say
        self._looking, self._one_at_a_time = threading.Lock(), threading.Lock()
        self._facts: dict[Path, dict[str, Any]] = {}
        self._named: tuple[dict[str, Any], list[str]] = {}, []
        self._predictor: Predictor | None = None
        self._asking: threading.Thread | None = None
        self._loading: threading.Thread | None = None
        self._failures, self._again = 0, 0.0
        self._unanswered, self._ask_again = 0, 0.0
        self.problem: UserError | None = None  # why it could not be loaded, last time

    @property
    def place(self) -> Place:
        """Where it is: once it was found there, for good, even if it vanishes; of a repo then at its full commit.

        Raises:
            UserError: there is no model.
        """
        return self._found[0] if self._found else Place.of(*(self._asked_for or where_is(self.name, self._alone)))

    @property
    def local(self) -> bool:
        """Whether it is a folder on this machine; raises as `place` does."""
        return self.place.local

    @property
    def public_name(self) -> str:
        """The repo id, or a folder's name; raises as `place` does."""
        return self.place.public_name

    @property
    def revision(self) -> str | None:
        """The full commit, of a repo whose files are known; before that, what was asked for."""
        return self.place.revision

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
            self._look(anew=self.problem is not None)
            self._predictor = load_predictor(self.place.model, self.place.revision, precision_of(os.environ))
        except Exception as error:
            self.problem = self.in_words("the model cannot be loaded", error)
            self._again = time.monotonic() + min(2.0 ** min(self._failures, 10), LONGEST_WAIT)
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
        with contextlib.suppress(UserError):  # which is `problem`, and in the log
            self.predictor()

    def answer(self, images: Sequence[Image.Image]) -> list[Answer]:
        """An answer an image; images are of mode RGB, turned as EXIF says.

        Raises:
            UserError: as `predictor` does; or it cannot answer this.
        """
        predictor = self.predictor()
        try:
            return predictor(images)
        except UserError:
            raise
        except Exception as error:
            raise self.in_words("the model cannot answer this", error) from error

    @property
    def folder(self) -> Path:
        """Where the files lie that say something of the model: predictor.py's `FACTS`.

        Raises:
            UserError: there is no model, or the Hub cannot be asked for them.
        """
        return (self._found or self._look())[1]

    def _look(self, anew: bool = False) -> tuple[Place, Path]:
        """Find the model; `anew` where it was found already: whoever owns it may have mended it by another commit."""
        from hub_utils.portable.predictor import FACTS, find_model

        with self._looking:
            if self._found is None or anew:
                place = Place.of(*(self._asked_for or where_is(self.name, self._alone)))
                folder, commit = find_model(place.model, place.revision, FACTS)
                self._found = place._replace(revision=commit), folder
            return self._found

    def fact(self, file: str) -> dict[str, Any]:
        """What a JSON file of the model says, as serving.json does; {} if there is none that is whole.

        Raises:
            UserError: as `folder` does.
        """
        path = self.folder / file
        if path not in self._facts:
            self._facts[path] = read_facts(path)
        return self._facts[path]

    def in_words(self, what: str, error: Exception) -> UserError:
        """What went wrong as a sentence that anybody may read, for an error that is none as "`what`: …"."""
        words = isinstance(error, UserError)
        logger.warning("%s: %s", self.name, error, exc_info=None if words else error)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return UserError(self.public(first if words else f"{what}: {first[:300]}"))

    def public(self, text: str) -> str:
        """`text` without what it tells of this machine: the model by its name, and of paths only their end."""
        with contextlib.suppress(UserError):
            place = self.place
            ours = [str(self._found[1])] if self._found else []
            for path in (*ours, place.model):
                text = text.replace(path, place.public_name)
        return FOLDERS.sub("…/", text)

    @property
    def known(self) -> bool:
        """Whether `folder` is there, and `fact` answers at once."""
        return self._found is not None

    def ask_for_facts(self) -> threading.Thread:
        """The thread in which `folder` is asked for, and which shows nothing if that fails: `start` tries again.

        After a failure it is the same for a while, however many ask: a Hub that is away is not asked by each of them.
        """
        waits = self._asking and (self._asking.is_alive() or time.monotonic() < self._ask_again)
        if not waits:
            self._asking = threading.Thread(target=self._ask, name=f"facts of {self.name}", daemon=True)
            self._asking.start()
        return self._asking

    def _ask(self) -> None:
        try:
            _ = self.folder
            return
        except UserError:  # which `start` meets as well
            pass
        except Exception:
            logger.warning("what is known of %s cannot be read", self.name, exc_info=True)
        self._ask_again = time.monotonic() + min(2.0 ** min(self._unanswered, 10), LONGEST_WAIT)
        self._unanswered += 1

    @property
    def title(self) -> str:
        """What people call it; the recipe's title, or the model's own name."""
        if not self.known:
            return self.name.replace("_", " ").capitalize()
        return told(self.fact("recipe.json"), "recipe", "title", of=str) or self.public_name.rsplit("/", 1)[-1]

    @property
    def classes(self) -> list[str]:
        """Names of the classes as the model's files say them; [] if they do not."""
        from hub_utils.portable.predictor import labels_of

        config = self.fact("config.json")
        if self._named[0] is not config:  # it is asked for at every load of the page, and may hold thousands
            self._named = config, labels_of(config) or []
        return self._named[1]

    @property
    def card(self) -> dict[str, Any]:
        """What the recipe says for the model card: limits, licences, citation, medical; {} of a stranger's model."""
        return told(self.fact("recipe.json"), "recipe", "card", of=dict) or {}


def precision_of(environment: Mapping[str, str]) -> Precision:
    """What DEMO_PRECISION says there, in whatever case; "auto" without it.

    Raises:
        UserError: it says something else than there is.
    """
    from hub_utils.portable.network import Precision

    said = environment.get("DEMO_PRECISION", "").strip()
    if (precision := said.lower() or "auto") not in get_args(Precision):
        raise UserError(f"DEMO_PRECISION is '{said}'; {', '.join(get_args(Precision))} are allowed, or leave it out")
    return precision


def where_is(name: str, alone: bool = True) -> tuple[str, str | None]:
    """Model and revision: DEMO_MODEL if it is set; else runs/NAME if it is there; else what model.json says.

    The publisher writes model.json beside app.py. Of several models, none of which is `alone`, DEMO_MODEL is none.

    Raises:
        UserError: there is none of them, or model.json says something else.
    """
    if alone and (said := os.environ.get("DEMO_MODEL", "").strip()):
        return _as_said(said)
    for run in (Path("runs", name), ROOT / "runs" / name):
        if (run / "config.json").is_file():
            return str(run), None
    if (written := ROOT / "model.json").is_file():
        known = read_facts(written)
        model = told(known, name, "model", of=str)
        if not known or (name in known and not model):
            raise UserError(
                f'model.json beside app.py does not say where {name} is: {{"{name}": {{"model": "OWNER/NAME", '
                '"revision": "COMMIT"}}, in JSON; python -m hub_utils.space writes it'
            )
        if model:
            return model, told(known, name, "revision", of=str)
    raise UserError(
        f"there is no model yet: train one, accelerate launch -q training/train.py {name}"
        + (", or name one, DEMO_MODEL=RUN_OR_REPO_ID" if alone else "")
    )


def _as_said(said: str) -> tuple[str, str | None]:
    """Model and revision of what people write: a folder, OWNER/NAME, OWNER/NAME@REVISION, or its page's address."""
    if Path(said).expanduser().is_dir():
        return said, None
    if page := ADDRESS.fullmatch(said):
        return page[1], page[2]
    model, _, revision = said.partition("@")
    return model, revision or None


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
    threshold = told(serving, "not_sure", "threshold", of=float)
    strangest = told(serving, "strangeness", "threshold", of=float)
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
