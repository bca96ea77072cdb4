"""One picture at a time: our predictor against `pipeline`, and what computes its network against the matrix rate.

python tests/benchmarks/inference.py RUN [--rounds 5] [--pictures 20] [--json FILE]

RUN is a run with an ONNX file whose images are a folder on this machine; photographs of its test split are shown. All
contestants are in one process, which asks them about the same photograph in turn, each after a short rest, in which the
threads of the one before come to theirs. The matrix rate is measured in each round.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import facts, matrix_rate
from table import Row, judged, print_rows, write_rows

REST = 0.02  # seconds
PIPELINE = "pipeline"
OURS = "our predictor"
OURS_INT8 = "our predictor, int8"
NETWORK = "our network"  # from here on without files and preprocessing
CLEAR = 0.01  # two best probabilities further apart than this are a clear answer

Ask = Callable[[Path, np.ndarray], np.ndarray]  # of a photograph, and of its pixels as prepared, (3, height, width)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("run", type=Path)
    result.add_argument("--rounds", type=int, default=5)
    result.add_argument("--pictures", type=int, default=20)
    result.add_argument("--json", type=Path)
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
    from hub_utils.portable.network import Network, softmax
    from hub_utils.portable.predictor import INT8, ONNX

    def of_openvino(name: str, precision: str) -> Ask:
        core = openvino.Core()
        model = core.read_model(run / name)
        model.reshape([1, *shape])
        compiled = core.compile_model(
            model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        )
        return lambda _, pixels: softmax(compiled({"pixel_values": pixels[None]})["logits"][0])

    def of_ours(name: str, precision: str) -> Ask:
        network = Network(run / name, shape, precision)
        ask = network._quick or network._full  # once: whether it is asked again is no matter of the network's speed
        return lambda _, pixels: softmax(network._ask(ask, pixels)["logits"])

    session = onnxruntime.InferenceSession(run / ONNX, providers=["CPUExecutionProvider"])
    half = load_classifier(run).model.to(torch.bfloat16)  # channels-last already

    def of_torch(_: Path, pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            given = torch.from_numpy(pixels)[None].to(torch.bfloat16, memory_format=torch.channels_last)
            return softmax(half(given).logits.float().numpy()[0])

    found = {
        NETWORK: of_ours(ONNX, "auto"),
        "ONNX Runtime, float32": lambda _, pixels: softmax(
            session.run(["logits"], {"pixel_values": pixels[None]})[0][0]
        ),
        "OpenVINO, float32": of_openvino(ONNX, "f32"),
        "OpenVINO, bfloat16": of_openvino(ONNX, "bf16"),
        "torch, bfloat16, channels-last": of_torch,
    }
    return found | ({"our network, int8": of_ours(INT8, "int8")} if (run / INT8).is_file() else {})


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


def play(contestants: dict[str, Ask], shown: list[tuple[Path, np.ndarray]], rounds: int) -> dict[str, Any]:
    """By contestant `seconds` of each question and `answers` to each photograph; and of each round the matrix rates."""
    import torch
    from tqdm.auto import tqdm

    names, seconds = list(contestants), {name: [] for name in contestants}
    answers: dict[str, list[np.ndarray]] = {}
    for name, ask in contestants.items():
        answers[name] = [ask(*each) for each in shown]  # which warms it up as well
    rates: list[dict[str, float]] = []
    for number in tqdm(range(rounds), "Rounds", disable=None):
        rates.append({kind: matrix_rate(getattr(torch, kind), seconds=0.5) for kind in ("float32", "bfloat16")})
        for place, each in enumerate(shown):
            first = (number + place) % len(names)
            for name in names[first:] + names[:first]:
                time.sleep(REST)
                began = time.perf_counter()
                contestants[name](*each)
                seconds[name].append(time.perf_counter() - began)
    return {
        "seconds": seconds,
        "answers": {name: np.array(each).tolist() for name, each in answers.items()},
        "rates": rates,
    }


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


def rows(measured: dict[str, Any], operations: int, rounds: int) -> list[Row]:
    """Each contestant beside `pipeline`, or beside the time that the matrix rate leaves its network."""
    apart = differences(measured)
    middle = {name: statistics.median(each) for name, each in measured["seconds"].items()}
    result = []
    for name, seconds in middle.items():
        if name == PIPELINE:
            continue
        others, largest = apart[name]
        exact = "float32" in name
        near = 1e-3 if exact else 0.01 if name == OURS else math.inf
        told = f"no clear answer is another, largest difference {largest:.1e}"
        same, told = judged({told: others == 0 and largest < near} if "int8" not in name else {
            f"{others} clear answers are others, largest difference {largest:.1e}": True
        })  # fmt: skip
        given_file = name in (OURS, OURS_INT8)
        other = middle[PIPELINE]
        if given_file:
            ratio = other / seconds
            asked, met = ("≥ 3.5 ×", same and ratio >= 3.5) if name == OURS else ("", None)
            result.append(
                Row(f"one picture: {name}", 1e3 * seconds, 1e3 * other, "ms", ratio, asked, met, told, PIPELINE)
            )
            continue
        kind = "float32" if exact else "bfloat16"
        limits = [operations / each[kind] for each in measured["rates"]]
        turns = np.array_split(measured["seconds"][name], rounds)
        ratio = statistics.median(float(np.median(turn)) / limit for turn, limit in zip(turns, limits, strict=True))
        asked, met = ("≤ 1.25 ×", same and ratio <= 1.25) if name == NETWORK else ("", None)
        limit = 1e3 * statistics.median(limits)
        result.append(Row(f"the network: {name}", 1e3 * seconds, limit, "ms", ratio, asked, met, told, f"{kind} rate"))
    return result


def main() -> None:
    """Load everybody, take turns, compare."""
    known = parser().parse_args()
    run = known.run.resolve()
    from serving import test_photos

    from hub_utils.portable.image_files import open_rgb
    from hub_utils.portable.predictor import ONNX, load_predictor
    from hub_utils.portable.preprocessing import preprocessing_of

    said = facts()
    prepare = preprocessing_of(run)
    shown = [(photo, prepare(open_rgb(photo))) for photo in test_photos(run, known.pictures)]
    shape = shown[0][1].shape
    contestants = whole(run, load_predictor(run).labels) | networks(run, shape)
    measured = play(contestants, shown, known.rounds)
    operations = flops(run / ONNX)
    found = rows(measured, operations, known.rounds)
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
    if known.json:
        write_rows(known.json, found, said | {"flops": operations}, measured)


if __name__ == "__main__":
    main()
