"""An ONNX file, computed by OpenVINO: in little memory, and in few bits where that cannot matter."""

from __future__ import annotations

import math
import mmap
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hub_utils.portable.facts import told
from hub_utils.portable.memory import give_back
from hub_utils.portable.whole import passing

if TYPE_CHECKING:
    import openvino

Precision = Literal["auto", "float32", "int8"]
HALF = {"bf16": "bfloat16", "f16": "float16"}
# What half the bits may change of a probability. They change a logit against another by 0.23 at most for 320 pictures
# and two ResNet-50s, and by how much depends on the picture: no mixture of bits is as cheap and safe everywhere.
TOLERANCE = 0.01
BOUND = 0.25
MARGIN = 1.5  # of what has been seen of it
OFTEN = 0.6  # a share; bfloat16 takes 0.4 of float32's time, and from here on asking twice takes longer than float32
LARGE = 4e6  # weights; a smaller network is not worth sharing a part of


class Network:
    """The outputs of an ONNX file by their names, for one picture at a time, from any thread.

    Half the bits take less than half the time, where the machine multiplies them (bfloat16 on servers, float16 on ARM),
    and are good for what is certain. To first order a class of probability p changes by p (1 - p) times what its logit
    changes against the others': where that could be more than `TOLERANCE`, the picture is asked again in float32, and
    where most pictures are, they are asked in float32 at once. What was asked twice tells whether `BOUND` is too small
    for this model.

    Errors that are made late have few layers to grow in, and the last layers have most of the weights: of a large
    network the part behind the middle of its weights is there once, in half the bits, for both, and 60 MB of memory are
    saved. What that leaves of the differences is 0.0064 for the same pictures; it grows with the logits (0.013 where
    they were made twice as large), and asking again does not mend it. float32 throughout does, and is what is
    taken where that was found on validation images.

    Pictures are not put together to batches: on a CPU those are 5 % faster, and take memory.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        precision: Precision = "auto",
        measured: Mapping[str, Any] = MappingProxyType({}),
    ):
        """`shape` is a picture's: (3, height, width).

        `precision`: "float32" throughout; "int8" of a file whose layers are in 8 bits, the others in float32; "auto" as
        said above, unless `measured`, by the kind of half floats that the machine multiplies, says that on validation
        images float32 was `taken`.

        Raises:
            RuntimeError: OpenVINO cannot read the file, or it does not take such pictures.
        """
        _tell_nobody()
        import openvino

        self._lock = threading.Lock()
        self._bound, self._twice = BOUND, 0.0
        self.doubted = 0  # pictures of which half the bits may have changed the answer
        core = self._core = openvino.Core()  # it owns the plugin, which compiles
        model, self._constants = _mapped(core, path)
        self._names = [output.any_name for output in model.outputs]
        if len(model.inputs) != 1 or "logits" not in self._names:
            raise RuntimeError("it is no image classifier's: it takes more than pixels, or gives no logits")
        model.reshape([1, *shape])
        half = HALF.get(core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name())
        if precision != "auto" or told(measured, half or "", "taken", of=str) == "float32":
            half = None
        self.precision = half or ("int8" if precision == "int8" else "float32")
        front, rest = _cut(model) if half else (model, None)
        self._quick = _Compiled(core, front) if half else None
        self._full = _Compiled(core, front, INFERENCE_PRECISION_HINT="f32")
        self._rest = _Compiled(core, rest) if rest else None
        if self._constants:
            self._constants.madvise(mmap.MADV_DONTNEED)  # what was compiled has copies of its own
        del model, front, rest
        give_back()

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by their names, without the batch's axis, of a picture: float32, (3, height, width)."""
        with self._lock:
            if self._quick is None:
                return self._ask(self._full, pixels)
            if self._twice > OFTEN:
                outputs = self._ask(self._full, pixels)
                self._note(self._matters(outputs))
                return outputs
            outputs = self._ask(self._quick, pixels)
            again = self._matters(outputs)
            self._note(again)
            return self._ask_again(pixels, outputs) if again else outputs

    def _ask(self, front: _Compiled, pixels: np.ndarray) -> dict[str, np.ndarray]:
        outputs = front(pixels)
        if self._rest:
            outputs = self._rest(outputs[0])
        return dict(zip(self._names, outputs, strict=True))

    def _matters(self, outputs: dict[str, np.ndarray]) -> bool:
        """Whether half the bits may have changed a probability by more than `TOLERANCE`."""
        return bool(self._bound * _doubt(outputs) > TOLERANCE)

    def _note(self, again: bool) -> None:
        """`_twice` is the share of pictures to be asked twice, of the last twenty or so."""
        self.doubted += again
        self._twice += 0.05 * (again - self._twice)

    def _ask_again(self, pixels: np.ndarray, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        exact = self._ask(self._full, pixels)
        changed = np.abs(softmax(exact["logits"]) - softmax(outputs["logits"])).max()
        self._bound = max(self._bound, MARGIN * float(changed / _doubt(outputs)))
        return exact


def _tell_nobody() -> None:
    """OpenVINO reports to its maker that it is imported, unless what reports is not there."""
    sys.modules.setdefault("openvino_telemetry", None)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64, of logits (…, classes)."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _doubt(outputs: dict[str, np.ndarray]) -> float:
    """The largest p (1 - p) of the classes: how much a probability changes with its logit."""
    p = softmax(outputs["logits"])
    return float((p * (1 - p)).max())


class _Compiled:
    """A network, or a part of one, that computes: for batches of one."""

    def __init__(self, core: openvino.Core, model: openvino.Model, **hints: str):
        # A thread that is bound to a core waits there for whoever else computes: the server, and pictures being opened.
        how = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False, **hints}
        compiled = core.compile_model(model, "CPU", how)
        self._count = len(compiled.outputs)
        self._request = compiled.create_infer_request()

    def __call__(self, taken: np.ndarray) -> list[np.ndarray]:
        """The outputs, for an input that has, like them, no batch's axis."""
        self._request.infer({0: taken[None]}, share_inputs=True)
        return [self._request.get_output_tensor(index).data[0].copy() for index in range(self._count)]


def _mapped(core: openvino.Core, path: Path) -> tuple[openvino.Model, mmap.mmap | None]:
    """OpenVINO's model of an ONNX file, and the map of the file that its constants lie in, None if they are in memory.

    They stay beside what is compiled for as long as that lives, and are as large. In a file of their own, which is
    mapped and may be deleted, they need no memory once they have been read.
    """
    import openvino

    model = core.read_model(path)
    if not hasattr(mmap, "MADV_DONTNEED"):  # Windows
        return model, None
    with passing("network") as folder:
        openvino.save_model(model, Path(folder, "model.xml"), compress_to_fp16=False)
        with Path(folder, "model.bin").open("r+b") as file:  # OpenVINO takes no memory that is for reading only
            constants = mmap.mmap(file.fileno(), 0)
        weights = openvino.Tensor(np.frombuffer(constants, np.uint8), shared_memory=True)
        return core.read_model(Path(folder, "model.xml").read_bytes(), weights), constants


def _cut(model: openvino.Model) -> tuple[openvino.Model, openvino.Model | None]:
    """The network before and behind the last place before the middle of its weights that all goes through as one
    tensor; (`model`, None) where there is none, or the weights are few.
    """
    from openvino import Model, Type, opset13

    steps = _steps(model)
    total = sum(weights for _, weights in steps)
    place, before = None, 0
    waiting: dict[str, int] = {}  # by the names of steps: how many of those that take what they made are still to come
    for node, weights in steps:
        name, before = node.get_friendly_name(), before + weights
        if before > total / 2 or total < LARGE:
            break
        for taken in node.inputs():
            source = taken.get_source_output().get_node().get_friendly_name()
            if source in waiting:
                waiting[source] -= 1
        waiting[name] = sum(len(made.get_target_inputs()) for made in node.outputs())
        if [each for each, count in waiting.items() if count] == [name] and len(node.outputs()) == 1:
            place = node.output(0)
    if place is None:
        return model, None
    joint = opset13.parameter(place.get_partial_shape(), Type.f32)
    behind = place.get_target_inputs()
    front = Model([opset13.result(place)], model.get_parameters(), "front")
    for each in behind:
        each.replace_source_output(joint.output(0))
    return front, Model(model.get_results(), [joint], "rest")


def _steps(model: openvino.Model) -> list[tuple[openvino.Node, int]]:
    """What is computed from the picture, in order, and how many weights each step takes."""
    steps, names = [], set()
    for node in model.get_ordered_ops():
        sources = [taken.get_source_output() for taken in node.inputs()]
        fixed = [source for source in sources if source.get_node().get_friendly_name() not in names]
        if node.get_type_name() == "Parameter" or len(fixed) < len(sources):
            names.add(node.get_friendly_name())
            steps.append((node, sum(math.prod(source.get_shape()) for source in fixed)))
    return steps
