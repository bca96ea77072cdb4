"""What a page asks: pictures in; probabilities, heat maps and strangeness out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


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


def load_predictor(model: str | Path, revision: str | None = None, **how: Any) -> Predictor:
    """The model of a run folder, a folder in the Hub's layout, or a repo id."""
    return _Pipeline(model, revision, **how)


class _Pipeline:
    """Any image classifier, as transformers loads it."""

    def __init__(self, model: str | Path, revision: str | None = None, **how: Any) -> None:
        from hub_utils.portable.classifier import classes_of, load_classifier

        self._classifier = load_classifier(model, revision, **how)
        self.labels = classes_of(self._classifier)
        self.folder, self.revision = Path(model), revision
        self.runtime = "transformers"

    def __call__(self, images: Sequence[Image.Image]) -> list[Answer]:
        from hub_utils.portable.classifier import logits_of, probabilities_of

        logits = np.stack(list(logits_of(self._classifier, images)))
        return [Answer(each.astype(np.float32), None, None) for each in probabilities_of(self._classifier, logits)]
