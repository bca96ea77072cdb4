"""What is checked of a model: each check says what it saw, or raises `Failed` with the reason and the next step."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from hub_utils.portable.eight_bits import ANEW as ANEW_INT8
from hub_utils.portable.eight_bits import INT8, why_not_measured

TOLERANCE = 1e-4  # of a probability: how far an answer may be from the stored one
FRONT_MATTER = ("license", "library_name", "pipeline_tag", "tags")
# Loading one of these may run what its author put in; a model needs none of them.
UNSAFE = {".bin", ".ckpt", ".h5", ".joblib", ".keras", ".msgpack", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
ANEW = "take it out of the run, and `python -m hub_utils.push RUN` writes it anew"  # serving.json
ONNX = {"onnx": "onnx/model.onnx", "int8": INT8}


class Failed(Exception):
    """A check that did not pass: why, and what helps."""


class NotAsked(Exception):
    """A check that another's failure leaves nothing to look at: which one."""


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
        path = self.fetch(name)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
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
        raise NotAsked("not asked: it does not load")
    return answer


def weights(answer: dict[str, Any]) -> str:
    """Every weight found, and none left over: transformers itself draws by lot what it does not find."""
    for what, names in (("missing", answer["missing"]), ("left over", answer["unexpected"])):
        if names:
            raise Failed(f"{len(names)} {what}: {_some(names)}; save the model anew")
    return f"{answer['weights']:,} found, none left over"


def labels(model: Model, answer: dict[str, Any]) -> str:
    """A name for each answer, no two alike, in the order in which training had them."""
    names = answer["labels"]
    empty = [index for index, name in enumerate(names) if not isinstance(name, str) or not name.strip()]
    if empty:
        raise Failed(f"class {empty[0]} has no name; `id2label` of config.json has them")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Failed(f"two classes have one name: {_some(twice)}")
    if any(re.fullmatch(r"LABEL_\d+", name) for name in names):
        raise Failed(f"no names, but {_some(names)}; `id2label` of config.json has them")
    if len(names) != answer["logits"]:
        raise Failed(f"{len(names)} names for {answer['logits']} answers")
    _check_back(names, model.config.get("label2id"))
    try:
        stored = _stored(model)
    except Failed:  # which is told of serving.json
        return f"{len(names)}: {_some(names)}"
    counts = {len(image["probabilities"]) for image in stored}
    if counts != {len(names)}:
        raise Failed(f"{len(names)} names, and serving.json has {_some(map(str, counts))} probabilities")
    _check_order(names, model.serving["golden"].get("labels"))
    return f"{len(names)}: {_some(names)}"


def _check_back(names: list[str], numbers: Any) -> None:
    """Whether config.json's label2id, if it has one, says the same as its id2label."""
    if not numbers:
        return
    if not isinstance(numbers, dict):
        raise Failed("label2id of config.json is no number for each name")
    for index, name in enumerate(names):
        if str(numbers.get(name)) != str(index):
            told = numbers.get(name, "nothing")
            raise Failed(f"config.json contradicts itself: '{name}' is {index} in id2label, and {told} in label2id")


def _check_order(names: list[str], stored: Any) -> None:
    """Whether the classes are called as when the golden answers were stored: swapped names are wrong answers."""
    if not isinstance(stored, list):
        raise Failed(f"serving.json has no `labels` to compare them with: it is older; {ANEW}")
    if len(stored) != len(names):
        raise Failed(f"{len(names)} names, and serving.json has {len(stored)}; {ANEW}")
    for index, (name, before) in enumerate(zip(names, stored, strict=True)):
        if name != before:
            raise Failed(f"class {index} is called '{name}', and was '{before}' when the golden answers were stored")


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
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    if "README.md" not in model.files:
        raise Failed("no README.md; `python training/eval.py RUN` writes it")
    path = model.fetch("README.md")
    try:
        facts = metadata_load(path) or {}
    except (YAMLError, ValueError) as error:
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

    match model.serving.get("golden"):
        case {"formula": formula, "images": [*images]} if images:
            names = [_name_of_answer(image) for image in images]
        case _:
            raise Failed(f"serving.json has no golden answers; {ANEW}")
    if formula != FORMULA or names != list(SIZES):
        raise Failed(
            f"its golden images are of '{formula}', here they are '{FORMULA}': another version of this project"
        )
    return images


def _name_of_answer(image: Any) -> str:
    """Name of a golden image in serving.json, whose answer is a list of probabilities."""
    match image:
        case {"name": str(name), "probabilities": [*values]} if values:
            wrong = [each for each in values if type(each) not in (int, float) or not 0 <= each <= 1]
            if wrong:
                value = _short(json.dumps(wrong[0]))
                raise Failed(
                    f"serving.json has {value} for a probability of '{name}', not a number from 0 to 1; {ANEW}"
                )
            return name
    raise Failed(f"serving.json has no name and list of probabilities in {_short(json.dumps(image))}; {ANEW}")


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def golden(model: Model, found: list[list[float]]) -> str:
    """How far the probabilities `found` of the golden images are from the stored ones."""
    try:
        stored = _stored(model)
    except Failed as error:
        raise NotAsked("not asked: see serving.json") from error
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


def gave_up_onnx(results: dict[str, Any]) -> bool:
    """Whether all_results.json says that training tried to write the network as ONNX, and could not."""
    return results.get("onnx_difference", "not tried") is None


def has_no_onnx(model: Model) -> bool:
    """Whether training found that this network cannot be written as ONNX, and said so."""
    if "onnx/model.onnx" in model.files or "all_results.json" not in model.files:
        return False
    try:
        return gave_up_onnx(model.json("all_results.json"))
    except Failed:
        return False


def of_onnx(model: Model, answer: dict[str, Any]) -> list[list[float]]:
    if "onnx/model.onnx" not in model.files:
        raise Failed("no onnx/model.onnx; the train.py command that began the run writes it, with --resume")
    if "onnx_error" in answer:
        raise Failed(answer["onnx_error"])
    return answer["onnx_probabilities"]


def int8(model: Model, answer: dict[str, Any]) -> str:
    """Whether the file is the one that was measured, and how far its answers are from the stored ones.

    They may be far: golden images are like no others.
    """
    try:
        stored = [each["probabilities"] for each in _stored(model)]
    except Failed as error:
        raise NotAsked("not asked: see serving.json") from error
    if why := why_not_measured(model.fetch(INT8), model.serving):
        raise Failed(why)
    if "int8_error" in answer:
        raise Failed(answer["int8_error"])
    pairs = list(zip(stored, answer["int8_probabilities"], strict=True))
    if any(len(one) != len(other) for one, other in pairs):
        raise Failed(f"{len(pairs[0][1])} probabilities, stored are {len(pairs[0][0])}")
    largest = max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))
    if not all(0 <= each <= 1 for _, other in pairs for each in other):
        raise Failed(f"its answers are no probabilities; {ANEW_INT8}")
    alike = sum(one.index(max(one)) == other.index(max(other)) for one, other in pairs)
    return f"{alike} of {len(pairs)} likeliest classes alike, largest difference {largest:.1e}"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
