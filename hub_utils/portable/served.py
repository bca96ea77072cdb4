"""The model behind a page: where it is, what its files say of it, and itself, loaded when first asked."""

from __future__ import annotations

import json
import os
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_utils.portable.command import UserError

if TYPE_CHECKING:
    from hub_utils.portable.predictor import Predictor

ROOT = Path(__file__).parents[2]  # of the project, or of a Space, where this package lies beside app.py
FACTS = ("README.md", "*.json", "plots/*.png")  # what a page reads of a model, besides the model


class Served:
    """One model of one page.

    `name` is the recipe's, as in runs/NAME and in the endpoints' words; `model` a folder or a repo id.
    """

    def __init__(self, name: str, model: str | Path, revision: str | None = None) -> None:
        self.name, self.model, self.revision = name, str(model), revision
        self._lock = threading.Lock()
        self._predictor: Predictor | None = None

    def predictor(self) -> Predictor:
        """The model itself; loaded once.

        Raises:
            UserError: it cannot be loaded now: why, and what to do. Ask again: the next call tries again.
        """
        from hub_utils.portable.predictor import load_predictor

        with self._lock:
            if self._predictor is None:
                self._predictor = load_predictor(self.model, self.revision)
            return self._predictor

    @cached_property
    def folder(self) -> Path:
        """Where the files of `FACTS` lie.

        Raises:
            UserError: the Hub cannot be asked for them.
        """
        if Path(self.model).is_dir():
            return Path(self.model)
        from huggingface_hub import snapshot_download

        from hub_utils.portable.hub import in_words

        with in_words(self.model):
            return Path(snapshot_download(self.model, revision=self.revision, allow_patterns=list(FACTS)))

    def fact(self, file: str) -> dict[str, Any]:
        """What a JSON file of the model says, as serving.json does; {} if there is none that is whole."""
        try:
            found = json.loads((self.folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def where_is(name: str) -> Served:
    """DEMO_MODEL if it is set; else runs/NAME if it is there; else what the publisher wrote into model.json.

    Raises:
        UserError: there is none of them.
    """
    if model := os.environ.get("DEMO_MODEL"):
        return Served(name, model)
    for run in (Path("runs", name), ROOT / "runs" / name):
        if (run / "config.json").is_file():
            return Served(name, run)
    written = ROOT / "model.json"
    if written.is_file():
        known = json.loads(written.read_text(encoding="utf-8"))
        if name in known:
            return Served(name, known[name]["model"], known[name].get("revision"))
    raise UserError(
        f"there is no model yet: train one, accelerate launch -q training/train.py {name}, or name one, "
        "DEMO_MODEL=RUN_OR_REPO_ID"
    )
