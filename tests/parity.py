"""Everything that answers for a run, asked about its test split: how far the answers are apart.

python tests/parity.py RUN
"""

import csv
import io
import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import onnxruntime
from scipy.special import softmax
from tqdm.auto import tqdm
from transformers import pipeline

from hub_utils.onnx_example import onnx_example
from hub_utils.portable.classifier import classes_of, load_classifier
from hub_utils.portable.predictor import load_predictor
from training.data.images import open_rgb
from training.data.source import load_source
from training.data.splits import read_splits
from training.data.streaming import views
from training.data.transforms import Preprocessing
from training.fitting.deploy import answers
from training.predict import main as predict
from training.results.measure import measure
from training.results.predictions import MARK, read_predictions
from training.run_folder import RunFolder


def answers_of(run: RunFolder) -> dict[str, np.ndarray]:
    """By who answers: probabilities (images, classes) of the test split, in the order of `splits.csv`."""
    source = load_source(run.data)
    rows = [row for row in read_splits(run.splits) if row.split == "test"]
    files = [str(source.data_dir / row.path) for row in rows]
    classes = classes_of(load_classifier(run.path))
    measure(run, say=lambda _: None)
    test = read_predictions(run.predictions).of("test")
    assert test.paths == [row.path for row in rows] and test.classes == classes
    return {
        "training's evaluation": _training(run, source, rows),
        "eval.py": test.probabilities,
        "predict.py": _predict(run, files, classes),
        "pipeline": _pipeline(run, files, classes),
        "ONNX": _onnx(run, files),
        "predictor": _predictor(run, files),
        "predictor, full precision": _predictor(run, files, precision="float32"),
        "ONNX, the card's lines": np.array([_card(run, file) for file in tqdm(files, "ONNX", disable=None)]),
    }


def _training(run, source, rows) -> np.ndarray:
    from torch.utils.data import DataLoader

    classifier = load_classifier(run.path)
    test = views(source.as_datasets(rows)["test"], Preprocessing(classifier.image_processor), 32)
    logits, _ = answers(classifier.model, DataLoader(test, 32), "test")
    return softmax(logits.astype(np.float64), axis=1)


def _predict(run, files, classes) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        assert predict([str(run.path), *files, "--output", f"{folder}/table.csv"]) == 0
        with open(f"{folder}/table.csv", newline="", encoding="utf-8") as file:
            return np.array([[float(line[MARK + name]) for name in classes] for line in csv.DictReader(file)])


def _pipeline(run, files, classes) -> np.ndarray:
    brings_code = any(run.path.glob("modeling_*.py"))
    plain = pipeline("image-classification", model=str(run.path), trust_remote_code=brings_code)
    said = [{each["label"]: each["score"] for each in plain(file, top_k=len(classes))} for file in files]
    return np.array([[scores[name] for name in classes] for scores in said])


def _onnx(run, files) -> np.ndarray:
    """On the pixels that the saved image processor makes."""
    classifier = load_classifier(run.path)
    session = onnxruntime.InferenceSession(run.path / "onnx" / "model.onnx")
    pixels = (classifier.preprocess(open_rgb(file))["pixel_values"].numpy() for file in files)
    logits = [session.run(["logits"], {"pixel_values": each})[0][0] for each in pixels]
    return softmax(np.array(logits, dtype=np.float64), axis=1)


def _predictor(run, files, **how) -> np.ndarray:
    ask = load_predictor(run.path, **how)
    return np.array([ask([open_rgb(file)])[0].probabilities for file in files], dtype=np.float64)


def _card(run, file: str) -> np.ndarray:
    """As the model card's lines compute it, with PIL's pixels: torchvision rounds a colour here and there otherwise."""
    lines = onnx_example(run.path, run.path).replace('"photo.jpg"', json.dumps(file))
    names: dict = {}
    with redirect_stdout(io.StringIO()):
        exec(lines, names)
    return names["scores"]


def allowed(name: str) -> float:
    """How far who answers may be from `eval.py`'s probabilities: pages compute with half the bits what is certain."""
    return 1e-2 if name == "predictor" else 1e-3


def largest_differences(answers: dict[str, np.ndarray]) -> dict[str, tuple[int, float]]:
    """By who answers: images with another likeliest class than `eval.py` says, and the largest difference to it."""
    expected = answers["eval.py"]
    return {
        name: (int((found.argmax(axis=1) != expected.argmax(axis=1)).sum()), float(np.abs(found - expected).max()))
        for name, found in answers.items()
    }


if __name__ == "__main__":
    asked = answers_of(RunFolder(Path(sys.argv[1])))
    print(f"{len(asked['eval.py'])} test images")
    for name, (other, difference) in largest_differences(asked).items():
        print(f"{name:<26}{other} other classes, probabilities differ by {difference:.1e} at most")
