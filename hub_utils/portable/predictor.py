"""What a page asks: pictures in; probabilities, heat maps and strangeness out."""

from __future__ import annotations

import importlib.util
import re
import textwrap
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args

import numpy as np

from hub_utils.portable.command import UserError
from hub_utils.portable.eight_bits import INT8, why_not_measured
from hub_utils.portable.facts import read_facts, told, told_apart
from hub_utils.portable.hub import in_words
from hub_utils.portable.image_files import NARROWEST
from hub_utils.portable.medical import is_medical
from hub_utils.portable.network import Network, Precision, softmax
from hub_utils.portable.preprocessing import preprocessing_of
from hub_utils.portable.tokens import without_token

if TYPE_CHECKING:
    from PIL import Image

ONNX = "onnx/model.onnx"
FACTS = ("config.json", "preprocessor_config.json", "serving.json", "recipe.json", "test_results.json", "README.md")
FACTS += ("plots/*.png",)
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")  # where it has no ONNX

_LOADING = threading.Lock()  # of all models: what transformers imports when first asked, two threads get in halves


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


def load_predictor(model: str | Path, revision: str | None = None, precision: Precision = "auto") -> Predictor:
    """The model of a run folder, a folder in the Hub's layout, or a repo id.

    Its ONNX file is computed by OpenVINO, without torch or transformers; a model that has none, or none that is known
    what to show to, by transformers. Of a repo the files that are needed are downloaded, or found in the cache when the
    Hub is away; no code comes along.

    `precision`: "float32" is exact; with "auto" probabilities may be off by 0.01, unless that was too much for the
    validation images; with "int8" another file answers, which `eval.py --int8` made, as well as serving.json says. A
    medical model is computed in float32 alone: where health is the matter the time that fewer bits save is no gain.

    Raises:
        UserError: there is no such model, the Hub does not give it, or it cannot be loaded, or not in that precision.
    """
    if precision not in get_args(Precision):
        raise UserError(f"there is no precision '{precision}'; {', '.join(get_args(Precision))} are there")
    onnx = INT8 if precision == "int8" else ONNX
    folder, commit = find_model(model, revision, (*FACTS, onnx))
    if not (folder / "config.json").is_file():
        raise UserError(f"'{model}' has no config.json: it is no model that transformers saved, nor a run of training")
    if is_medical(folder):
        if precision == "int8":
            raise UserError(
                f"{model}: a medical model is computed in float32 alone, and '{precision}' was asked for; leave out "
                "DEMO_PRECISION, or `precision`"
            )
        precision = "float32"
    problem = None
    if (folder / onnx).is_file():
        try:
            return _Onnx(folder, commit, precision)
        except _Unknown as unknown:
            problem = str(unknown)
        except ImportError as error:
            problem = f"{error.name or 'OpenVINO'} is not installed"
        except RuntimeError as error:
            problem = f"{onnx} cannot be used: {_last_line(error)}"
    if precision == "int8":
        raise UserError(f"{model}: {problem or f'it has no {INT8}, which python training/eval.py RUN --int8 makes'}")
    return _by_transformers(model, folder, commit, problem)


def labels_of(config: dict[str, Any]) -> list[str] | None:
    """Names of the classes as config.json tells them, in the order of the logits; None if it does not."""
    if names := told(config, "label_names", of=list):  # timm's
        return told_apart([str(name) for name in names])
    known = told(config, "id2label", of=dict) or {}
    if sorted(known) != sorted(str(index) for index in range(len(known))) or len(known) < 2:
        return None
    return told_apart([str(known[str(index)]) for index in range(len(known))])


class _Unknown(Exception):
    """What a model's files say is not known here: transformers must be asked."""


class _Model:
    """What all models do alike. Subclasses set `labels` and `runtime`, and bring `_outputs` and `_probabilities`."""

    labels: list[str]
    runtime: str

    def __init__(self, folder: Path, revision: str | None) -> None:
        self.folder, self.revision = folder, revision
        self._preprocessing = preprocessing_of(folder)
        self._serving = read_facts(folder / "serving.json")
        self._statistics = told(self._serving, "strangeness", of=dict) or {}

    def __call__(self, images: Sequence[Image.Image]) -> list[Answer]:
        return [self._answer(image) for image in images]

    def _answer(self, image: Image.Image) -> Answer:
        seen = self._seen(image.size)  # which refuses what would become too large
        outputs = self._outputs(image)
        probabilities = self._probabilities(outputs["logits"]).astype(np.float32)
        strangeness = self._strangeness(outputs.get("features"))
        return Answer(probabilities, outputs.get("maps"), strangeness, seen)

    def _seen(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        if self._preprocessing:
            return self._preprocessing.seen(size)
        if max(size) > NARROWEST * min(size):
            raise UserError(f"a picture of {size[0]:,} × {size[1]:,} pixels is too narrow: cut a part out of it")
        return 0.0, 0.0, 1.0, 1.0

    def _strangeness(self, features: np.ndarray | None) -> float | None:
        """How strange a picture is by its features (width,); None where they or the statistics are missing."""
        if features is None or "reason" in self._statistics or not self._statistics:
            return None
        from hub_utils.portable.strangeness import strangeness

        return float(strangeness(features[None], self._statistics)[0])

    def _try_out(self) -> None:
        """Ask about a grey picture: what is broken is known now, and the first who asks does not wait longer.

        Raises:
            RuntimeError: the answer is none.
        """
        from PIL import Image

        grey = Image.new("RGB", (64, 64), "grey")
        try:
            answer = self._answer(grey)
        except (ValueError, KeyError, TypeError):  # statistics that another version of ours made, or nobody did
            self._statistics = {}
            answer = self._answer(grey)
        given, named = len(answer.probabilities), len(self.labels)
        if given != named:
            raise RuntimeError(f"it answers with {given} numbers, and config.json names {named} classes")
        if not np.isfinite(answer.probabilities).all():
            raise RuntimeError("it answers with what is no number")

    def _outputs(self, image: Image.Image) -> dict[str, np.ndarray]:
        """`logits` (classes,) and, of a model that has them, `maps` (classes, h, w) and `features` (width,)."""
        raise NotImplementedError

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class _Onnx(_Model):
    """A model that brings an ONNX file."""

    def __init__(self, folder: Path, revision: str | None, precision: Precision) -> None:
        """
        Raises:
            _Unknown: its classes or its image processor are others than are known here.
            ImportError: OpenVINO is not installed.
            RuntimeError: OpenVINO cannot read it, or it answers with nothing that is a choice of its classes, or it is
                in 8 bits and not the file that was measured.
        """
        super().__init__(folder, revision)
        config = read_facts(folder / "config.json")
        if config.get("problem_type") not in (None, "single_label_classification"):
            raise _Unknown(f"its answers are no choice of one class: {config['problem_type']}")
        if (labels := labels_of(config)) is None:
            raise _Unknown("config.json names no classes")
        if self._preprocessing is None:
            raise _Unknown("it prepares pictures as only transformers can")
        self.labels = labels
        width, height = self._preprocessing.cropped
        if precision == "int8" and (why := why_not_measured(folder / INT8, self._serving)):
            raise RuntimeError(why)
        file, measured = INT8 if precision == "int8" else ONNX, told(self._serving, "precision", of=dict) or {}
        self._network = Network(folder / file, (3, height, width), precision, measured)
        self.runtime = f"OpenVINO, {self._network.precision}"
        self._try_out()

    def _outputs(self, image: Image.Image) -> dict[str, np.ndarray]:
        return self._network(self._preprocessing(image))

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        return softmax(logits)


class _Transformers(_Model):
    """Any image classifier, as transformers loads it."""

    def __init__(self, folder: Path, revision: str | None, runtime: str) -> None:
        """Raises what transformers raises."""
        from hub_utils.portable.activation_maps import ActivationMaps
        from hub_utils.portable.classifier import classes_of, load_classifier

        super().__init__(folder, revision)
        self._lock = threading.Lock()
        self._classifier = load_classifier(folder)
        self.labels, self.runtime = classes_of(self._classifier), runtime
        try:
            self._network, self._names = ActivationMaps(self._classifier.model), ("logits", "maps", "features")
        except ValueError:  # most kinds of networks have none
            self._network, self._names = self._classifier.model, ("logits",)
        self._try_out()

    def _outputs(self, image: Image.Image) -> dict[str, np.ndarray]:
        import torch

        pixels = self._classifier.preprocess(image)["pixel_values"]
        with self._lock, torch.inference_mode():
            found = self._network(pixels)
        found = found if isinstance(found, tuple) else (found.logits,)
        return {name: each[0].float().numpy() for name, each in zip(self._names, found, strict=False)}

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        from hub_utils.portable.classifier import probabilities_of

        return probabilities_of(self._classifier, logits)


def _by_transformers(model: str | Path, folder: Path, commit: str | None, problem: str | None) -> _Transformers:
    """`problem`: why its ONNX file is not asked, if it has one.

    Raises:
        UserError: transformers is not installed, or there are no weights that it can load.
    """
    why = f"{problem}; " if problem else ""
    if not importlib.util.find_spec("transformers") or not importlib.util.find_spec("torch"):
        raise UserError(
            f"{model}: {why or f'it has no {ONNX}; '}then transformers must compute it, and is not installed: "
            "pip install transformers torch torchvision timm"
        )
    if commit:
        _download(str(model), commit, WEIGHTS)
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{model}: {why}there are no weights in safetensors; other files of weights can run code. save_pretrained "
            "of transformers writes safetensors"
        )
    try:
        with _LOADING:
            return _Transformers(folder, commit, f"transformers ({problem})" if problem else "transformers")
    except Exception as error:  # whatever a stranger's model makes of the libraries
        raise UserError(f"{model}: {why}transformers cannot load it: {_what_transformers_says(error)}") from error


def find_model(model: str | Path, revision: str | None, patterns: Sequence[str]) -> tuple[Path, str | None]:
    """The folder of a model's files, and the full commit if it is a repo's; of that what `patterns` name is there.

    Raises:
        UserError: there is no such folder and no such repo, or the Hub does not give it.
    """
    folder, commit = Path(model).expanduser(), None
    if folder.is_dir() and revision:
        raise UserError(f"'{model}' is a folder, and has no revision '{revision}'; leave it out")
    if not folder.is_dir():
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(model)):
            raise UserError(f"there is no folder '{model}', and no repo on the Hub can be called so")
        folder = _download(str(model), revision, patterns)
        commit = folder.name
    return folder, commit


def _download(repo_id: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of a repo's files in the cache, which is called like the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    from hub_utils.portable.patience import PAGES, AwayError, be_patient
    from hub_utils.portable.whole_download import DamagedError

    be_patient(PAGES)
    how = {"revision": revision, "allow_patterns": list(patterns)}
    with in_words(f"'{repo_id}'", flag="DEMO_MODEL", reading=True):
        try:
            return Path(snapshot_download(repo_id, **how))
        except HfHubHTTPError:
            raise
        except (HTTPError, AwayError, DamagedError):
            # The client looks into the cache if the Hub was never there, not if it breaks off.
            with suppress(OSError, ValueError):
                return Path(snapshot_download(repo_id, **how, local_files_only=True))
            raise


def _last_line(error: Exception) -> str:
    """What OpenVINO says is wrong, in one line of bearable length: it says so last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return without_token(lines[-1] if lines else type(error).__name__)[-300:]


def _what_transformers_says(error: Exception) -> str:
    """In one line of bearable length: it says what is wrong first, and then what one could type, or a long list."""
    if "trust_remote_code" in str(error):
        return "it needs code of its own, and none that comes with a model is run here"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return without_token(textwrap.shorten(lines[0] if lines else type(error).__name__, 300, placeholder=" …"))
