"""The benchmark of inference: what it counts by itself, and that it judges nothing that is not comparable."""

import sys

import numpy as np
import pytest
from conftest import ROOT
from onnx import TensorProto, helper, numpy_helper, save

sys.path.append(str(ROOT / "tests" / "benchmarks"))  # as it is for a script of that folder

import inference


def test_operations_are_counted_by_hand(tmp_path):
    """A convolution of 3 × 3 on two channels, 4 filters of 5 × 5 places, and a matrix of 100 × 3."""
    arrays = {"filters": (4, 2, 3, 3), "matrix": (100, 3)}
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in arrays.items()]
    nodes = [
        helper.make_node("Conv", ["pixel_values", "filters"], ["map"], kernel_shape=[3, 3]),
        helper.make_node("Flatten", ["map"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
    ]
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 2, 7, 7])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "counted", [pixels], [logits], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "model.onnx")
    assert inference.flops(tmp_path / "model.onnx") == 2 * (4 * 25 * 18 + 100 * 3)


def measured(**changes) -> dict:
    """Three photographs in two rounds; the limit of the network is 10 ms."""
    seconds = {inference.PIPELINE: [0.08] * 6, inference.OURS: [0.02] * 6, inference.NETWORK: [0.011, 0.011, 0.5] * 2}
    answers = {name: [[0.9, 0.1], [0.4, 0.6], [0.501, 0.499]] for name in seconds}
    rates = [{"float32": 1e9, "bfloat16": 2e9}] * 2
    return {"seconds": seconds, "answers": answers, "rates": rates, "others": 0.02, "precision": "bfloat16"} | changes


def judged(found: dict) -> list[bool | None]:
    return [row.met for row in inference.rows(found, operations=int(2e7))]


def test_ratios_are_of_medians_and_judged_where_all_answer_alike():
    ours, network = inference.rows(measured(), operations=int(2e7))
    assert (ours.ratio, network.ratio) == (pytest.approx(4), pytest.approx(1.1))
    assert (ours.met, network.met) == (True, True)
    slow = measured(precision="float32")  # whose limit is 20 ms
    assert inference.rows(slow, operations=int(2e7))[1].ratio == pytest.approx(0.55)


def test_who_answers_something_else_has_not_met_it_and_on_a_busy_machine_nobody_has_or_has_not():
    other = measured()
    other["answers"][inference.OURS] = [[0.9, 0.1], [0.6, 0.4], [0.4, 0.6]]
    assert judged(other) == [False, True]
    assert inference.rows(other, operations=int(2e7))[0].same.startswith("NOT THE SAME: 1 clear")
    assert judged(measured(others=0.5)) == [None, None]
    assert "others took 50% of the machine" in inference.rows(measured(others=0.5), operations=int(2e7))[0].same
