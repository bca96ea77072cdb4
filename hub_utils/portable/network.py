"""An ONNX file, computed by OpenVINO: in little memory, and in few bits where that cannot matter."""

from __future__ import annotations

import mmap
import tempfile
import threading
from pathlib import Path

import numpy as np

# What half the bits may change of a probability. They change a logit against another by 0.23 at most for 320 pictures
# and two ResNet-50s, and by how much depends on the picture: no mixture of bits that is cheap is safe everywhere.
TOLERANCE = 0.01
BOUND = 0.25
MARGIN = 1.5  # of what has been seen of it
OFTEN = 0.6  # a share; bfloat16 takes 0.4 of float32's time, and from here on asking twice takes longer than float32


class Network:
    """The outputs of an ONNX file by their names, for one picture at a time, from any thread.

    Half the bits take less than half the time, where the machine multiplies them (bfloat16 on servers, float16 on ARM),
    and are good for what is certain. To first order a class of probability p changes by p (1 - p) times what its logit
    changes against the others': where that could be more than `TOLERANCE`, the picture is asked again in float32, and
    where most pictures are, they are asked in float32 at once. What was asked twice tells whether `BOUND` is too small
    for this model.

    Pictures are not put together to batches: on a CPU those are 5 % faster, and take memory.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], full: bool = False):
        """`shape` is a picture's: (3, height, width). With `full` all is computed in float32.

        Raises:
            RuntimeError: OpenVINO cannot read the file, or it does not take such pictures.
        """
        import openvino

        self._lock = threading.Lock()
        self._bound, self._twice = BOUND, 0.0
        core = openvino.Core()
        self._core = core  # it owns the plugins that compiled
        model, constants = _mapped(core, path)
        self._constants = constants  # mapped for as long as they are known of
        if len(model.inputs) != 1 or "logits" not in {name for output in model.outputs for name in output.names}:
            raise RuntimeError("it is no image classifier's: it takes more than pixels, or gives no logits")
        model.reshape([1, *shape])
        quick = None if full else _Compiled(core, model)
        if quick and quick.precision == "f32":
            self._quick, self._full = None, quick
        else:
            self._quick, self._full = quick, _Compiled(core, model, INFERENCE_PRECISION_HINT="f32")
        self.precision = {"bf16": "bfloat16", "f16": "float16"}[quick.precision] if self._quick else "float32"
        if constants:
            constants.madvise(mmap.MADV_DONTNEED)  # what was compiled has copies of its own

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by their names, without the batch's axis, of a picture: float32, (3, height, width)."""
        with self._lock:
            if self._quick is None:
                return self._full(pixels)
            if self._twice > OFTEN:
                outputs = self._full(pixels)
                self._note(self._risk(outputs) > TOLERANCE)
                return outputs
            outputs = self._quick(pixels)
            again = self._risk(outputs) > TOLERANCE
            self._note(again)
            return self._ask_again(pixels, outputs) if again else outputs

    def _risk(self, outputs: dict[str, np.ndarray]) -> float:
        """What half the bits may have changed of the likeliest classes' probabilities."""
        return float(self._bound * _doubt(outputs).max())

    def _note(self, again: bool) -> None:
        """`_twice` is the share of pictures to be asked twice, of the last twenty or so."""
        self._twice += 0.05 * (again - self._twice)

    def _ask_again(self, pixels: np.ndarray, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        exact = self._full(pixels)
        changed = np.abs(softmax(exact["logits"]) - softmax(outputs["logits"])).max() / _doubt(outputs).max()
        self._bound = max(self._bound, MARGIN * changed)
        return exact


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64, of logits (…, classes)."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _doubt(outputs: dict[str, np.ndarray]) -> np.ndarray:
    """p (1 - p) of each class: the most that a change of its logit by a little changes p, for each unit of it."""
    p = softmax(outputs["logits"])
    return p * (1 - p)


class _Compiled:
    """A network that computes, for batches of one."""

    def __init__(self, core, model, **hints: str):
        compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY", **hints})
        self.precision: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self._names = [output.any_name for output in compiled.outputs]
        self._request = compiled.create_infer_request()

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        self._request.infer({0: pixels[None]}, share_inputs=True)
        tensors = (self._request.get_output_tensor(index) for index in range(len(self._names)))
        return {name: tensor.data[0].copy() for name, tensor in zip(self._names, tensors, strict=True)}


def _mapped(core, path: Path):
    """OpenVINO's model of an ONNX file, and the map of the file that its constants lie in, None if they are in memory.

    They stay beside what is compiled for as long as that lives, and are as large. In a file of their own, which is
    mapped and may be deleted, they need no memory once they have been read.
    """
    import openvino

    model = core.read_model(path)
    if not hasattr(mmap, "MADV_DONTNEED"):  # Windows
        return model, None
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder, "model.xml"), compress_to_fp16=False)
        with Path(folder, "model.bin").open("r+b") as file:  # OpenVINO takes no memory that is for reading only
            constants = mmap.mmap(file.fileno(), 0)
        weights = openvino.Tensor(np.frombuffer(constants, np.uint8), shared_memory=True)
        return core.read_model(Path(folder, "model.xml").read_bytes(), weights), constants
