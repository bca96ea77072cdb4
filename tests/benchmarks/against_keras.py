"""Epochs of the flowers' network with its original head, against Keras 3 with the original's own code.

python tests/benchmarks/against_keras.py PHOTOS --base_model DIR --keras_python PYTHON [--images 400] [--json FILE]

PYTHON is that of an environment with keras, tensorflow and pillow (`tensorflow-cpu` on a CPU). Both train all layers in
batches of 32, with an evaluation after each epoch; ours also augments and writes a checkpoint an epoch. First epochs do
not count, for Keras compiles in them. Keras starts from random weights, since its own cannot always be fetched: speed
is compared and nothing else.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from arguments import at_least, folder, is_small, json_file, positive
from contest import ACCELERATE, HERE, Contest, run, scratch, skip
from machine import ROOT
from table import Row, compared, lost

RECIPE = HERE / "flowers_recipe.py"
OURS, KERAS = "ours", "Keras"
# What Keras counts and `parameters` does not: BatchNorm's statistics, and biases that Keras' convolutions have.
STATISTICS, BIASES = 53_120, 26_560


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("photos", type=folder, help="a folder of class folders")
    result.add_argument("--base_model", type=folder, required=True, help="ResNet-50 as a folder in Hub layout")
    result.add_argument("--keras_python", type=Path, required=True, help="a Python with keras and tensorflow")
    result.add_argument("--images", type=positive, default=400, help="to train on; a fifth as many more validate")
    result.add_argument("--epochs", type=at_least(2), default=3)
    result.add_argument("--rounds", type=positive, default=3)
    result.add_argument("--json", type=json_file)
    return result


def missing(python: Path) -> str | None:
    """Why there is no Keras to be asked, or None."""
    try:
        asked = [str(python), "-c", "import keras, tensorflow, PIL"]
        finished = subprocess.run(asked, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return None if finished.returncode == 0 else finished.stderr.strip().splitlines()[-1]


def ours(folder: Path, data: Path, base_model: Path, epochs: int, number: int) -> dict[str, Any]:
    output = folder / f"ours-{number}"
    words = [*ACCELERATE, ROOT / "training" / "train.py", RECIPE, "--data_dir", data, "--base_model", base_model]
    words += ["--output_dir", output, "--num_train_epochs", epochs]
    run(words, folder / f"cache-{number}", folder / f"ours-{number}.log")
    with (output / "log_history.csv").open(encoding="utf-8") as file:
        history = list(csv.DictReader(file))
    results = json.loads((output / "all_results.json").read_text(encoding="utf-8"))
    return {
        "epoch_seconds": [float(row["seconds"]) for row in history],
        "steps": int(history[-1]["step"]),
        "images": {split: results["images"][split] for split in ("train", "validation")},
        "parameters": results["parameters"],
    }


def keras(folder: Path, data: Path, python: Path, epochs: int, number: int) -> dict[str, Any]:
    result = folder / "keras.json"
    words = [python, HERE / "original_in_keras.py", data, result, "--epochs", epochs]
    run(words, folder / "cache-keras", folder / "keras.log", TF_CPP_MIN_LOG_LEVEL="2")
    return json.loads(result.read_text(encoding="utf-8"))


def main() -> int:
    """Take turns, compare."""
    known = parser().parse_args()
    why = missing(known.keras_python)
    if why is not None:
        skip(f"{known.keras_python} has no Keras ({why})")
    from machine import matrix_rates
    from photos import divide

    held_out = max(5, known.images // 5)
    contest = Contest("against_keras", known.json, matrix_rates(), is_small(known, parser(), "images"))
    with scratch() as temporary:
        place, data = Path(temporary), Path(temporary) / "photos"
        divide(known.photos, data, {"train": known.images, "validation": held_out, "test": 10})
        contestants = {
            OURS: partial(ours, place, data, known.base_model.resolve(), known.epochs),
            KERAS: partial(keras, place, data, known.keras_python.absolute(), known.epochs),
        }
        contest.play(contestants, range(1, known.rounds + 1))
        return contest.finish([row(contest)])


def row(contest: Contest) -> Row:
    """Later epochs of ours against Keras'."""
    title, asked = "an epoch of the flowers' network", "≥ 2 ×"
    if why := contest.lost(OURS, KERAS):
        return lost(title, "s", asked, why, KERAS)
    one, other = contest.measured[OURS][0], contest.measured[KERAS][0]
    counted = one["parameters"] + STATISTICS + BIASES
    checks = {
        f"{one['images']['train']} + {one['images']['validation']} images": one["images"] == other["images"],
        f"{one['steps']} steps": one["steps"] == other["steps"],
        f"{other['parameters']:,} weights as Keras counts": counted == other["parameters"],
    }
    seconds = [
        statistics.median(each for measured in contest.measured[name] for each in measured["epoch_seconds"][1:])
        for name in (OURS, KERAS)
    ]
    ratio = seconds[1] / seconds[0]
    versions = other["versions"]
    versus = f"Keras {versions['keras']} on TensorFlow {versions['tensorflow']}, random weights, no augmentation"
    return compared(Row(title, *seconds, "s", ratio, asked, ratio >= 2, "", versus), checks, contest.small)


if __name__ == "__main__":
    sys.exit(main())
