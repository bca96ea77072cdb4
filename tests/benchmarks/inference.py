"""One picture at a time: our predictor against `pipeline`, and what computes its network against the matrix rate.

python tests/benchmarks/inference.py RUN [--rounds 5] [--pictures 20] [--json FILE]

RUN is a run with an ONNX file whose images are a folder on this machine; photographs of its test split are shown. All
contestants are in one process, which asks them about the same photograph in turn, each after a short rest, in which the
threads of the one before come to theirs. The matrix rate is measured in each round, and how much of the machine others
took meanwhile: from a tenth on nothing is judged.
"""

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from arguments import folder, is_small, json_file, positive
from machine import facts, matrix_rate
from table import Row, compared, print_rows, write_rows

REST = 0.02  # seconds
PIPELINE = "pipeline"
OURS = "our predictor"
OURS_INT8 = "our predictor, int8"
NETWORK = "our network"  # from here on without files and preprocessing
CALM = 0.1  # of the machine, for others; what is measured while they take more is not judged
CLEAR = 0.01  # two best probabilities further apart than this are a clear answer

Ask = Callable[[Path, np.ndarray], np.ndarray]  # of a photograph, and of its pixels as prepared, (3, height, width)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("run", type=folder)
    result.add_argument("--rounds", type=positive, default=5)
    result.add_argument("--pictures", type=positive, default=20)
    result.add_argument("--json", type=json_file)
    return result


def whole(run: Path, labels: list[str]) -> dict[str, Ask]:
    """Who is given a file: probabilities in the order of `labels`."""
    from transformers import pipeline

    from hub_utils.portable.image_files import open_rgb
    from hub_utils.portable.predictor import INT8, load_predictor

    plain = pipeline("image-classification", model=str(run), trust_remote_code=any(run.glob("modeling_*.py")))

    def asked(photo: Path, _: np.ndarray) -> np.ndarray:
        scores = {each["label"]: each["score"] for each in plain(str(photo), top_k=len(labels))}
        return np.array([scores[name] for name in labels])

    def answers(precision: str) -> Ask:
        predictor = load_predictor(run, precision=precision)
        return lambda photo, _: predictor([open_rgb(photo)])[0].probabilities

    found = {PIPELINE: asked, OURS: answers("auto")}
    return found | ({OURS_INT8: answers("int8")} if (run / INT8).is_file() else {})


def networks(run: Path, shape: tuple[int, int, int]) -> dict[str, Ask]:
    """Who is given pixels."""
    import onnxruntime
    import openvino
    import torch

    from hub_utils.portable.classifier import load_classifier
    from hub_utils.portable.network import softmax
    from hub_utils.portable.predictor import INT8, ONNX, load_predictor

    def of_openvino(name: str, precision: str) -> Ask:
        core = openvino.Core()
        model = core.read_model(run / name)
        model.reshape([1, *shape])
        compiled = core.compile_model(
            model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        )
        return lambda _, pixels: softmax(compiled({"pixel_values": pixels[None]})["logits"][0])

    def of_ours(precision: str) -> Ask:
        network = load_predictor(run, precision=precision)._network
        ask = network._quick or network._full  # once: whether it is asked again is no matter of the network's speed
        return lambda _, pixels: softmax(network._ask(ask, pixels)["logits"])

    session = onnxruntime.InferenceSession(run / ONNX, providers=["CPUExecutionProvider"])
    half = load_classifier(run).model.to(torch.bfloat16)  # channels-last already

    def of_torch(_: Path, pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            given = torch.from_numpy(pixels)[None].to(torch.bfloat16, memory_format=torch.channels_last)
            return softmax(half(given).logits.float().numpy()[0])

    found = {
        NETWORK: of_ours("auto"),
        "ONNX Runtime, float32": lambda _, pixels: softmax(
            session.run(["logits"], {"pixel_values": pixels[None]})[0][0]
        ),
        "OpenVINO, float32": of_openvino(ONNX, "f32"),
        "OpenVINO, bfloat16": of_openvino(ONNX, "bf16"),
        "torch, bfloat16, channels-last": of_torch,
    }
    return found | ({"our network, int8": of_ours("int8")} if (run / INT8).is_file() else {})


def flops(path: Path) -> int:
    """Of an ONNX file, for one picture: two for each product of its convolutions and matrices."""
    import onnx

    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {each.name: list(each.dims) for each in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        shapes[value.name] = [max(1, dim.dim_value) for dim in value.type.tensor_type.shape.dim]
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            products = math.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            turned = any(each.name == "transA" and each.i for each in node.attribute)
            products = shapes[node.input[0]][-2 if turned else -1]
        else:
            continue
        total += 2 * math.prod(shapes[node.output[0]]) * products
    return total


def play(
    contestants: dict[str, Ask],
    shown: list[tuple[Path, np.ndarray]],
    rounds: int,
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """By contestant `seconds` of each question and `answers` to each photograph; and of each round the matrix rates.

    After each round `keep` is given what there is so far.
    """
    import torch
    from tqdm.auto import tqdm

    names, seconds = list(contestants), {name: [] for name in contestants}
    answers: dict[str, list[np.ndarray]] = {}
    for name, ask in contestants.items():
        answers[name] = [ask(*each) for each in shown]  # which warms it up as well
    rates: list[dict[str, float]] = []
    told = {name: np.array(each).tolist() for name, each in answers.items()}
    found = {"seconds": seconds, "answers": told, "rates": rates}
    for number in tqdm(range(rounds), "Rounds", disable=None):
        rates.append({kind: matrix_rate(getattr(torch, kind), seconds=0.5) for kind in ("float32", "bfloat16")})
        for place, each in enumerate(shown):
            first = (number + place) % len(names)
            for name in names[first:] + names[:first]:
                time.sleep(REST)
                began = time.perf_counter()
                contestants[name](*each)
                seconds[name].append(time.perf_counter() - began)
        keep(found)
    return found


@contextmanager
def share_of_others(found: dict[str, Any]) -> Iterator[None]:
    """Sets `others`: what other processes took of all cores' time."""
    own, began, before = psutil.Process(), time.perf_counter(), _busy()
    own_before = sum(own.cpu_times()[:2])
    yield
    taken = _busy() - before - (sum(own.cpu_times()[:2]) - own_before)
    found["others"] = max(0.0, taken / (time.perf_counter() - began) / psutil.cpu_count())


def _busy() -> float:
    times = psutil.cpu_times()
    return times.user + times.system + sum(getattr(times, name, 0) for name in ("nice", "irq", "softirq", "steal"))


def differences(measured: dict[str, Any]) -> dict[str, tuple[int, float]]:
    """By contestant: clear answers that are others than `pipeline`'s, and the largest difference of a probability."""
    exact = np.array(measured["answers"][PIPELINE])
    best = np.sort(exact, axis=1)
    clear = best[:, -1] - best[:, -2] > CLEAR
    found = {name: np.array(each) for name, each in measured["answers"].items()}
    return {
        name: (int((clear & (each.argmax(axis=1) != exact.argmax(axis=1))).sum()), float(np.abs(each - exact).max()))
        for name, each in found.items()
    }


def rows(measured: dict[str, Any], operations: int, small: bool = False) -> list[Row]:
    """Each contestant beside `pipeline`, or beside the time that the matrix rate leaves its network."""
    apart, calm = differences(measured), measured["others"] <= CALM
    result = []
    for name, seconds in measured["seconds"].items():
        if name == PIPELINE:
            continue
        others, largest = apart[name]
        told = f"{others} clear answers are others, largest difference {largest:.1e}"
        busy = "" if calm else f"; others took {measured['others']:.0%} of the machine"
        near = 1e-3 if "float32" in name else 0.01 if name == OURS else math.inf
        checks = {told + busy: "int8" in name or (others == 0 and largest < near)}
        if name in (OURS, OURS_INT8):
            other, versus, least = statistics.median(measured["seconds"][PIPELINE]), PIPELINE, 3.5
            ratio = other / statistics.median(seconds)
            title, asked, met = f"one picture: {name}", f"≥ {least:g} ×", ratio >= least
        else:
            kind = measured["precision"] if name == NETWORK else "float32" if "float32" in name else "bfloat16"
            limits = [operations / each[kind] for each in measured["rates"]]
            turns = [float(np.median(turn)) for turn in np.array_split(seconds, len(limits))]
            ratio = statistics.median(turn / limit for turn, limit in zip(turns, limits, strict=True))
            other, versus, most = statistics.median(limits), f"{kind} rate", 1.25
            title, asked, met = f"the network: {name}", f"≤ {most:g} ×", ratio <= most
        if name not in (OURS, NETWORK):
            asked, met = "", None
        elif not calm:
            met = None
        row = Row(title, 1e3 * statistics.median(seconds), 1e3 * other, "ms", ratio, asked, met, "", versus)
        result.append(compared(row, checks, small))
    return result


def main() -> int:
    """Load everybody, take turns, compare."""
    os.environ.pop("OMP_NUM_THREADS", None)  # torch would heed it and OpenVINO would not
    known = parser().parse_args()
    run = known.run.resolve()
    if not (run / "local" / "data.json").is_file():
        sys.exit(f"error: '{run}' is no run of train.py")
    import torch
    from serving import test_photos

    from hub_utils.portable.image_files import open_rgb
    from hub_utils.portable.predictor import ONNX, load_predictor
    from hub_utils.portable.preprocessing import preprocessing_of

    said = facts() | {"threads": torch.get_num_threads()}
    prepare = preprocessing_of(run)
    shown = [(photo, prepare(open_rgb(photo))) for photo in test_photos(run, known.pictures)]
    shape = shown[0][1].shape
    predictor = load_predictor(run)
    contestants = whole(run, predictor.labels) | networks(run, shape)
    load: dict[str, float] = {}

    def keep(found: dict[str, Any]) -> None:
        if known.json:
            write_rows(known.json, [], said, found)

    with share_of_others(load):
        measured = play(contestants, shown, known.rounds, keep)
    measured |= load | {"precision": predictor.runtime.rpartition(" ")[2]}
    operations = flops(run / ONNX)
    found = rows(measured, operations, is_small(known, parser(), "pictures"))
    print_rows(found)
    print(f"\n{operations / 1e9:.2f} GFLOP a picture of {shape[2]} × {shape[1]} pixels\n")
    print("| | median | p90 | smallest | ms |\n|---|---|---|---|---|")
    for name, seconds in measured["seconds"].items():
        values = [statistics.median(seconds), np.quantile(seconds, 0.9), min(seconds)]
        print(f"| {name} | {' | '.join(f'{1e3 * each:.1f}' for each in values)} | |")
    print(
        "\nmatrix rates, GFLOP/s: "
        + ", ".join(f"{r['float32'] / 1e9:.0f} and {r['bfloat16'] / 1e9:.0f}" for r in measured["rates"])
    )
    print(f"others took {load['others']:.0%} of the machine")
    if known.json:
        write_rows(known.json, found, said | load | {"flops": operations}, measured)
    return int(not all(row.comparable for row in found))


if __name__ == "__main__":
    sys.exit(main())
