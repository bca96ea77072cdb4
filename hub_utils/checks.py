"""What is checked of a model: each check says what it saw, or raises `Failed` with the reason and the next step."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

TOLERANCE = 1e-4  # of a probability: how far an answer may be from the stored one
FRONT_MATTER = ("license", "library_name", "pipeline_tag", "tags")
# Loading one of these may run what its author put in; a model needs none of them.
UNSAFE = {".bin", ".ckpt", ".h5", ".joblib", ".keras", ".msgpack", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}


class Failed(Exception):
    """A check that did not pass: why, and what helps."""


@dataclass
class Model:
    """What is looked at: a repo at one commit, or a folder."""

    name: str  # for `pipeline`: a repo id, or a folder's absolute path
    commit: str | None  # of a repo
    files: dict[str, int]  # size by path
    fetch: Callable[[str], Path]  # a file of it, by path
    weights: Callable[[], Path]  # the folder whose model.safetensors the visitor was given

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.json("config.json")

    @cached_property
    def serving(self) -> dict[str, Any]:
        if "serving.json" not in self.files:
            raise Failed(
                "no serving.json, and so no golden answers to compare with; training writes it, and so does "
                "`python -m hub_utils.push RUN`"
            )
        return self.json("serving.json")

    def json(self, name: str) -> dict[str, Any]:
        if name not in self.files:
            raise Failed(f"no {name}")
        try:
            values = json.loads(self.fetch(name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise Failed(f"{name} is no JSON ({error})") from error
        if not isinstance(values, dict):
            raise Failed(f"{name} is no JSON object")
        return values


def files(model: Model) -> str:
    """Safetensors, and nothing that may run when it is loaded."""
    safe = [name for name in model.files if "/" not in name and name.endswith(".safetensors")]
    unsafe = [name for name in model.files if PurePosixPath(name).suffix.lower() in UNSAFE]
    if unsafe:
        raise Failed(f"{_some(unsafe)}: such files may run code when they are loaded; take them out of the repo")
    if not safe:
        raise Failed("no model.safetensors")
    return f"{len(model.files)}, the weights {' and '.join(safe[:2])}"


def pipeline(answer: dict[str, Any]) -> str:
    """Plain `pipeline` loads it."""
    if "error" in answer:
        raise Failed(answer["error"])
    return answer["class"]


def loaded(answer: dict[str, Any]) -> dict[str, Any]:
    """The visitor's answer, if there is one."""
    if "error" in answer:
        raise Failed("not asked, for it does not load")
    return answer


def weights(answer: dict[str, Any]) -> str:
    """Every weight found, and none left over: transformers itself draws by lot what it does not find."""
    for what, names in (("missing", answer["missing"]), ("left over", answer["unexpected"])):
        if names:
            raise Failed(f"{len(names)} {what}: {_some(names)}; save the model anew")
    return f"{answer['weights']:,} found, none left over"


def labels(model: Model, answer: dict[str, Any]) -> str:
    """A name for each answer, no two alike."""
    names = answer["labels"]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Failed(f"two classes have one name: {_some(twice)}")
    if any(re.fullmatch(r"LABEL_\d+", name) for name in names):
        raise Failed(f"no names, but {_some(names)}; `id2label` of config.json has them")
    if len(names) != answer["logits"]:
        raise Failed(f"{len(names)} names for {answer['logits']} answers")
    try:
        stored = {len(image["probabilities"]) for image in _stored(model)}
    except Failed:  # which is told of serving.json
        stored = {len(names)}
    if stored != {len(names)}:
        raise Failed(f"{len(names)} names, and serving.json has {_some(map(str, stored))} probabilities")
    return f"{len(names)}: {_some(names)}"


def preprocessing(answer: dict[str, Any]) -> str:
    """Pictures of any size become what the network takes, and the processor says how."""
    shapes = {tuple(shape) for shape in answer["shapes"]}
    if len(shapes) > 1:
        raise Failed(f"{answer['processor']} makes pictures of several shapes: {_some(map(str, sorted(shapes)))}")
    unsaid = [name for name in ("size", "mean", "std") if not answer[name]]
    if unsaid:
        raise Failed(f"{answer['processor']} does not say its {' and '.join(unsaid)}")
    (shape,) = shapes
    wanted = {"the ONNX file": answer.get("onnx_shape", [])[1:], "config.json": _pair(answer["image_size"])}
    for who, size in wanted.items():
        if [side for side in size if isinstance(side, int)] not in ([], list(shape[1:])):
            raise Failed(f"pictures become {shape[2]} × {shape[1]} pixels, and {who} wants {size[1]} × {size[0]}")
    colours = " ".join(f"{each:g}" for each in answer["mean"]), " ".join(f"{each:g}" for each in answer["std"])
    return f"{shape[2]} × {shape[1]} pixels, mean {colours[0]}, deviation {colours[1]}"


def _pair(size: Any) -> list[int]:
    """Height and width of what a config says, which may be nothing, or one number for both."""
    return [size, size] if isinstance(size, int) else list(size or [])


def card(model: Model) -> str:
    """What the Hub reads of README.md."""
    from huggingface_hub import ModelCard

    if "README.md" not in model.files:
        raise Failed("no README.md; `python training/eval.py RUN` writes it")
    try:
        facts = ModelCard(
            model.fetch("README.md").read_text(encoding="utf-8"), ignore_metadata_errors=True
        ).data.to_dict()
    except Exception as error:  # of the YAML parser, or of what its values are
        raise Failed(f"README.md's front matter cannot be read ({str(error).splitlines()[0]})") from error
    missing = [name for name in FRONT_MATTER if not facts.get(name)]
    if missing:
        raise Failed(f"README.md's front matter does not say {', '.join(missing)}")
    return ", ".join(str(facts[name]) for name in FRONT_MATTER[:3])


def serving(model: Model) -> str:
    """Whose weights the stored answers are of."""
    from hub_utils.portable.golden import FORMULA, weights_sha256

    told = model.serving.get("weights_sha256")
    if "model.safetensors" not in model.files:
        raise Failed("no model.safetensors to which it could belong")
    found = weights_sha256(model.weights())
    if told != found:
        raise Failed(
            f"it is of other weights ({str(told)[:8]}…, these are {found[:8]}…); `hub_utils.push` makes it anew"
        )
    return f"of these weights ({found[:8]}…), {len(_stored(model))} golden images of the formula {FORMULA}"


def _stored(model: Model) -> list[dict[str, Any]]:
    """The golden images with their probabilities, as serving.json has them."""
    from hub_utils.portable.golden import FORMULA, SIZES

    golden = model.serving.get("golden")
    try:
        formula, images = golden["formula"], golden["images"]
        names = [image["name"] for image in images if all(float(each) <= 1 for each in image["probabilities"])]
    except (KeyError, TypeError, ValueError) as error:
        raise Failed("serving.json has no golden answers; `hub_utils.push` makes it anew") from error
    if formula != FORMULA or names != list(SIZES):
        raise Failed(
            f"its golden images are of '{formula}', here they are '{FORMULA}': another version of this project"
        )
    return images


def golden(model: Model, found: list[list[float]]) -> str:
    """How far the probabilities `found` of the golden images are from the stored ones."""
    stored = _stored(model)
    differences = {}
    for image, probabilities in zip(stored, found, strict=True):
        if len(image["probabilities"]) != len(probabilities):
            raise Failed(f"{len(probabilities)} probabilities, stored are {len(image['probabilities'])}")
        pairs = zip(image["probabilities"], probabilities, strict=True)
        differences[image["name"]] = max(abs(one - other) for one, other in pairs)
    worst = max(differences, key=lambda name: (differences[name] != differences[name], differences[name]))  # NaN first
    if not differences[worst] <= TOLERANCE:
        raise Failed(
            f"they differ by {differences[worst]:.1e} ('{worst}'), more than {TOLERANCE:g}: it does not answer as when "
            "it was saved"
        )
    return f"{len(differences)} images, largest difference {differences[worst]:.1e}"


def has_no_onnx(model: Model) -> bool:
    """Whether training found that this network cannot be written as ONNX, and said so."""
    if "onnx/model.onnx" in model.files or "all_results.json" not in model.files:
        return False
    try:
        return model.json("all_results.json").get("onnx_difference", "not tried") is None
    except Failed:
        return False


def of_onnx(model: Model, answer: dict[str, Any]) -> list[list[float]]:
    if "onnx/model.onnx" not in model.files:
        raise Failed("no onnx/model.onnx; the train.py command that began the run writes it, with --resume")
    if "onnx_error" in answer:
        raise Failed(answer["onnx_error"])
    return answer["onnx_probabilities"]


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
