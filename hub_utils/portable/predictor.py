"""What a page asks: pictures in; probabilities, heat maps and strangeness out."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hub_utils.portable.classifier import told_apart
from hub_utils.portable.command import UserError
from hub_utils.portable.hub import in_words, without_token
from hub_utils.portable.network import Network, softmax
from hub_utils.portable.preprocessing import preprocessing_of
from hub_utils.portable.repo import set_patience

if TYPE_CHECKING:
    from PIL import Image

ONNX = "onnx/model.onnx"
FACTS = ("config.json", "preprocessor_config.json", "serving.json", "recipe.json", "test_results.json", "README.md")
FILES = (*FACTS, "plots/*.png", ONNX)  # what is downloaded of a repo
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")  # where it has no ONNX


@dataclass(frozen=True)
class Answer:
    """Of one picture.

    `probabilities`, float32 of shape (classes,), sum to 1. `maps`, float32 of shape (classes, h, w), say which places
    speak for a class (above 0) or against it; None of a model that has none. `strangeness` is how unlike the pictures
    it was trained on this one is to the model, in the units of its threshold; None where the model brings no measure.
    `seen` is the part of the picture that the network looked at: left, top, right and bottom as shares of its width
    and height; `maps` lie over that part.
    """

    probabilities: np.ndarray
    maps: np.ndarray | None
    strangeness: float | None
    seen: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


class Predictor(Protocol):
    """A model, ready to be asked, from several threads if need be.

    `labels` are the names of the classes, in the order of the probabilities; `folder` holds the model's files, as they
    lie in its repo; `revision` is the full commit, None for a folder on this machine; `runtime` says what computes, for
    people: "OpenVINO, bfloat16".
    """

    labels: list[str]
    folder: Path
    revision: str | None
    runtime: str

    def __call__(self, images: Sequence[Image.Image]) -> list[Answer]:
        """An answer an image; images are of mode RGB, turned as EXIF says."""
        ...


def load_predictor(model: str | Path, revision: str | None = None, full: bool = False) -> Predictor:
    """The model of a run folder, a folder in the Hub's layout, or a repo id.

    Its ONNX file is computed by OpenVINO, without torch or transformers; a model that has none, or none that is known
    what to show to, by transformers. With `full` all is computed in float32; else probabilities may be off by 0.01. Of
    a repo the files that are needed are downloaded, or found in the cache when the Hub is away; no code comes along.

    Raises:
        UserError: there is no such model, the Hub does not give it, or it cannot be loaded.
    """
    folder, commit = _files(model, revision)
    problem = None
    if (folder / ONNX).is_file():
        try:
            return _Onnx(folder, commit, full)
        except _Unknown as unknown:
            problem = str(unknown)
        except ImportError as error:
            problem = f"{error.name or 'OpenVINO'} is not installed"
        except RuntimeError as error:
            problem = f"{ONNX} cannot be read: {_short(error)}"
    return _by_transformers(model, folder, commit, problem)


def labels_of(config: dict[str, Any]) -> list[str] | None:
    """Names of the classes as config.json tells them, in the order of the logits; None if it does not."""
    if names := config.get("label_names"):  # timm's
        return told_apart([str(name) for name in names])
    known = config.get("id2label") or {}
    if sorted(known) != sorted(str(index) for index in range(len(known))) or len(known) < 2:
        return None
    return told_apart([str(known[str(index)]) for index in range(len(known))])


class _Unknown(Exception):
    """What a model's files say is not known here: transformers must be asked."""


class _Model:
    """What is asked of any model. Subclasses set `labels` and `runtime`, and compute `_outputs` and `_probabilities`."""

    labels: list[str]
    runtime: str

    def __init__(self, folder: Path, revision: str | None) -> None:
        self.folder, self.revision = folder, revision
        self._preprocessing = preprocessing_of(folder)
        self._statistics = _json(folder / "serving.json").get("strangeness") or {}

    def __call__(self, images: Sequence[Image.Image]) -> list[Answer]:
        return [self._answer(image) for image in images]

    def _answer(self, image: Image.Image) -> Answer:
        outputs = self._outputs(image)
        probabilities = self._probabilities(outputs["logits"]).astype(np.float32)
        strangeness = self._strangeness(outputs.get("features"))
        seen = self._preprocessing.seen(image.size) if self._preprocessing else (0.0, 0.0, 1.0, 1.0)
        return Answer(probabilities, outputs.get("maps"), strangeness, seen)

    def _json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; {} if there is none that is whole."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _short(error: Exception) -> str:
    """The end of what a library says, which is where OpenVINO says what is wrong, in one line of bearable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return without_token(lines[-1] if lines else type(error).__name__)[-300:]
