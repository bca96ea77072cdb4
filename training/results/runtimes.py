"""What pages compute a run with, held against its exact answers: half the bits where it has any doubt, and 8 bits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from hub_utils.export import check_convolutions, save_int8, serving_facts
from hub_utils.portable.command import UserError as TooNarrow  # is all that it says of a picture
from hub_utils.portable.eight_bits import without_it
from hub_utils.portable.medical import is_medical
from hub_utils.portable.network import OFTEN, TOLERANCE, Network, softmax
from hub_utils.portable.preprocessing import Preprocessing, preprocessing_of
from hub_utils.portable.units import in_bytes, in_milliseconds
from training.data.images import open_rgb
from training.recipe import UserError, first_line
from training.results.predictions import Predictions
from training.results.serving import drawn
from training.run_folder import RunFolder, sha256

ASKED = 500  # validation images, by lot: as many as show what half the bits change
CALIBRATED = 128  # training images, by lot
TIMED = 50  # images
CLEAR = 0.01  # an answer whose two best probabilities are further apart should never become another

Shown = Callable[[str, Sequence[str]], Iterable[tuple[str, bytes]]]  # of a split and paths: paths and encoded images


def check_int8(run: RunFolder) -> None:
    """Refuse before all the work what cannot be made.

    Raises:
        UserError: the model is medical, there is no ONNX file that can be read, pages do not ask it, or it has few
            convolutions.
    """
    if is_medical(run.path):
        raise UserError(f"--int8: '{run.path}' is a medical model, which is computed in float32 alone; leave it out")
    if not run.onnx.is_file():
        raise UserError(f"--int8: '{run.path}' has no onnx/model.onnx to be made smaller; leave it out")
    if preprocessing_of(run.path) is None:
        raise UserError(
            f"--int8: '{run.path}' prepares pictures as only transformers can, so that its ONNX file is not asked; "
            "leave it out"
        )
    try:
        check_convolutions(run.path)
    except Exception as error:  # of a file that is broken protobuf has its own
        raise _not_in_8_bits(error) from error


def half_the_bits(run: RunFolder, shown: Shown, validation: Predictions) -> dict[str, Any]:
    """`precision` for serving.json: what this machine's kind of half floats changes of validation images, and whether
    they are `taken`; of other kinds it says what was found elsewhere. {} of what is computed in float32 everywhere.

    They are not where a clear answer changes, where a probability does by more than `TOLERANCE`, or where so many
    pictures have to be asked twice that float32 takes no longer.
    """
    prepare = preprocessing_of(run.path)
    if prepare is None or not run.onnx.is_file() or not validation.paths or is_medical(run.path):
        return {}
    others = serving_facts(run.path).get("precision")
    known = others if isinstance(others, dict) else {}
    network = Network(run.onnx, _shape(prepare))
    if network.precision == "float32":
        return {"precision": known} if known else {}
    chosen = validation.take(drawn(len(validation.paths), ASKED))
    found, exact = _answers(chosen, shown, prepare, lambda pixels: network(pixels)["logits"], "Half the bits")
    if not exact.paths:
        return {}
    facts = {"split": "validation", "images": len(found), **_differences(found, exact.probabilities)}
    facts["asked_twice"] = network.doubted / len(found)
    good = not facts["changed"] and facts["largest_difference"] <= TOLERANCE and facts["asked_twice"] <= OFTEN
    return {"precision": {**known, network.precision: {"taken": network.precision if good else "float32", **facts}}}


def make_int8(run: RunFolder, contents: Iterable[bytes]) -> None:
    """Write onnx/model_int8.onnx, by encoded training images.

    Raises:
        UserError: that cannot be done with this network.
    """
    prepare = preprocessing_of(run.path)

    def pictures() -> Iterator[np.ndarray]:
        for content in tqdm(contents, "Ranges for 8 bits", CALIBRATED, unit=" images", leave=False, disable=None):
            with suppress(TooNarrow):
                yield prepare(open_rgb(content))

    try:
        save_int8(run.path, pictures())
    except UserError:  # of a stream that broke
        raise
    except Exception as error:  # the quantiser's are of many kinds
        raise _not_in_8_bits(error) from error


def _not_in_8_bits(error: Exception) -> UserError:
    return UserError(f"--int8: this network cannot be computed in 8 bits ({first_line(error)}); leave it out")


def eight_bits(run: RunFolder, shown: Shown, predictions: Predictions, half: Mapping[str, Any]) -> dict[str, Any]:
    """`int8` for serving.json and test_results.json: what onnx/model_int8.onnx costs; {} without it.

    Of each split accuracy, log loss in nats, clear answers that change, and the largest difference of a probability,
    beside float32; `bytes` are the files', `sha256` that of the one in 8 bits. `milliseconds` are the network's own for
    one picture, the median of the first `TIMED`, which all are asked about in turn: 8 bits, what answers without them
    by `half`, the `precision` of serving.json, and float32.
    """
    prepare = preprocessing_of(run.path)
    if prepare is None or not run.int8.is_file() or not run.onnx.is_file() or is_medical(run.path):
        return {}
    shape = _shape(prepare)
    small, now, exact = (
        Network(run.int8, shape, "int8"),
        Network(run.onnx, shape, "auto", half),
        Network(run.onnx, shape, "float32"),
    )
    networks = {each.precision: each for each in (small, now, exact)}
    times: dict[str, list[float]] = {name: [] for name in networks}

    def ask(pixels: np.ndarray) -> np.ndarray:
        if len(times["int8"]) == TIMED:
            return small(pixels)["logits"]
        logits = {}
        for name, network in networks.items():
            began = time.perf_counter()
            logits[name] = network(pixels)["logits"]
            times[name].append(time.perf_counter() - began)
        return logits["int8"]

    facts: dict[str, Any] = {"sha256": sha256(run.int8)}
    facts["bytes"] = _both(run.int8.stat().st_size, run.onnx.stat().st_size)
    for split in ("validation", "test"):
        found, exact = _answers(predictions.of(split), shown, prepare, ask, f"8 bits, {split}")
        if exact.paths:
            facts[split] = _cost(found, exact)
    if "test" not in facts:
        return {}
    # The first one finds nothing ready.
    middle = {name: 1e3 * statistics.median(each[1:] or each) for name, each in times.items()}
    return {"int8": {**facts, "milliseconds": middle}}


def _cost(found: np.ndarray, exact: Predictions) -> dict[str, Any]:
    both = replace(exact, probabilities=found), exact
    return {
        "images": len(found),
        "accuracy": _both(*(float((each.predicted == each.labels).mean()) for each in both)),
        "log_loss": _both(*(float(each.losses.mean()) for each in both)),
        **_differences(found, exact.probabilities),
    }


def _both(int8: float, float32: float) -> dict[str, float]:
    return {"int8": int8, "float32": float32}


def _differences(found: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """Of probabilities (images, classes): the largest difference, and how many clear answers are others."""
    best = np.sort(exact, axis=1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > CLEAR
    others = found.argmax(axis=1) != exact.argmax(axis=1)
    return {"largest_difference": float(np.abs(found - exact).max()), "changed": int((clear & others).sum())}


def _answers(
    exact: Predictions, shown: Shown, prepare: Preprocessing, ask: Callable[[np.ndarray], np.ndarray], what: str
) -> tuple[np.ndarray, Predictions]:
    """Probabilities (images, classes), and what there is of `exact`, which is of one split, in the same order.

    What a page refuses to answer, for it is too narrow, is left out.
    """
    found: dict[str, np.ndarray] = {}
    images = shown(exact.splits[0], exact.paths) if exact.paths else ()
    for path, content in tqdm(images, what, len(exact.paths), unit=" images", leave=False, disable=None):
        with suppress(TooNarrow):
            found[path] = softmax(ask(prepare(open_rgb(content))))
    there = exact.take([number for number, path in enumerate(exact.paths) if path in found])
    return np.array([found[path] for path in there.paths]), there


def _shape(prepare: Preprocessing) -> tuple[int, int, int]:
    width, height = prepare.cropped
    return 3, height, width


def as_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """What was found, for a person to read."""
    for kind, half in facts.get("precision", {}).items():
        yield (
            f"{kind:<10} {'taken' if half['taken'] == kind else 'not taken'}: of {half['images']:,} validation images "
            f"{half['changed']} clear answers change, no probability by more than {half['largest_difference']:.4f}; "
            f"{half['asked_twice']:.0%} are asked twice"
        )
    if int8 := facts.get("int8"):
        speed, test = int8["milliseconds"], int8["test"]
        yield (
            f"int8       {in_milliseconds(speed['int8'])} a picture for {without_it(speed)}; "
            f"{in_bytes(int8['bytes']['int8'])} for {in_bytes(int8['bytes']['float32'])}; test accuracy "
            f"{test['accuracy']['int8']:.1%} for {test['accuracy']['float32']:.1%}, log loss "
            f"{test['log_loss']['int8']:.3f} for {test['log_loss']['float32']:.3f}; {test['changed']} of "
            f"{test['images']:,} clear answers change"
        )
