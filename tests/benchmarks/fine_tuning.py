"""Fine-tuning, the whole process: ours against plain `Trainer` with default flags in the flow of transformers' example.

python tests/benchmarks/fine_tuning.py PHOTOS --base_model DIR [--images 500] [--rounds 3] [--json FILE]

Both are started by `accelerate launch -q` in a process of their own with empty caches, get the same photographs in the
same splits (8 of 10 to train, 1 to validate, 1 to test), start from the same weights, train two epochs in batches of 8
at 5e-5, evaluate and save after each, and end with a saved model measured on validation and test; ours with an ONNX
file, statistics for serving and all else it always does. `accelerate launch` leaves one thread on a CPU: the plain one
is given as many as there are cores.
"""

import argparse
import csv
import json
import math
import shutil
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from contest import ACCELERATE, HERE, Contest, run, scratch
from machine import ROOT
from table import Row, judged

RECIPE = HERE / "plain_recipe.py"
OURS, PLAIN = "ours", "plain Trainer, a thread a core"


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("photos", type=Path, help="a folder of class folders")
    result.add_argument("--base_model", type=Path, required=True, help="ResNet-50 as a folder in Hub layout")
    result.add_argument("--images", type=int, default=500)
    result.add_argument("--rounds", type=int, default=3)
    result.add_argument("--keep", type=Path, help="leave our last run in this folder, with its photographs beside it")
    result.add_argument("--json", type=Path)
    return result


def shares(images: int) -> dict[str, int]:
    """How many to train, validate and test; what is trained on fills batches of 8."""
    held_out = max(5, images // 10)
    return {"train": (images - 2 * held_out) // 8 * 8, "validation": held_out, "test": held_out}


def ours(folder: Path, data: Path, base_model: Path, number: int) -> dict[str, Any]:
    """One process of ours, and what its run folder says."""
    output = folder / f"ours-{number}"
    words = [*ACCELERATE, ROOT / "training" / "train.py", RECIPE, "--data_dir", data, "--base_model", base_model]
    words += ["--output_dir", output, "--seed", 41 + number]
    seconds = run(words, folder / f"cache-ours-{number}", folder / f"ours-{number}.log")
    results = json.loads((output / "all_results.json").read_text(encoding="utf-8"))
    with (output / "log_history.csv").open(encoding="utf-8") as file:
        history = list(csv.DictReader(file))
    with (output / "local" / "splits.csv").open(encoding="utf-8") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    return {
        "seconds": seconds,
        "epochs_seconds": sum(float(row["seconds"]) for row in history),
        "steps": int(history[-1]["step"]),
        "accuracy": {split: results[split]["accuracy"] for split in ("validation", "test")},
        "evaluated": [results["images"][split] for split in (*["validation"] * (len(history) + 1), "test")],
        "files": {split: sorted(_below(split, paths)) for split in ("train", "validation", "test")},
        "architecture": results["model_class"],
        "parameters": results["parameters"],
        "hardware": results["hardware"],
    }


def _below(split: str, paths: list[str]) -> list[str]:
    return [path.removeprefix(f"{split}/") for path in paths if path.startswith(f"{split}/")]


def plain(folder: Path, data: Path, base_model: Path, labels: list[str], threads: int, number: int) -> dict[str, Any]:
    """One process of plain Trainer, from the weights that ours starts from in this round."""
    from start import save_start

    name = f"plain-{number}"
    start = folder / f"start-{number}"
    if not start.is_dir():
        save_start(RECIPE, base_model, labels, 41 + number, start)
    words = [*ACCELERATE, HERE / "plain_trainer.py", data, start, folder / name, folder / f"{name}.json"]
    words += ["--seed", 41 + number]
    seconds = run(words, folder / f"cache-{name}", folder / f"{name}.log", OMP_NUM_THREADS=str(threads))
    found = {"seconds": seconds, **json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))}
    for each in (folder / name, folder / f"cache-{name}"):
        shutil.rmtree(each)
    return found


def rows(contest: Contest, counts: dict[str, int]) -> list[Row]:
    """Ours against the other."""
    pairs = [contest.measured[name] for name in (OURS, PLAIN)]
    held_out = counts["validation"] + counts["test"]
    accuracies = [[_accuracy(each, counts) for each in measured] for measured in pairs]
    means = [statistics.mean(each) for each in accuracies]
    noise = 2 * math.sqrt(sum(max(mean * (1 - mean), 0.05) / held_out for mean in means))
    first = pairs[0][0]

    def alike(figure: str) -> bool:
        """In every round."""
        return all(each[figure] == first[figure] for measured in pairs for each in measured)

    checks = {
        f"the same {sum(counts.values())} images in the same splits": alike("files"),
        f"{first['steps']} steps": alike("steps"),
        f"{sum(first['evaluated'])} images evaluated": alike("evaluated"),
        f"{first['architecture']}, {first['parameters']:,} weights": alike("architecture") and alike("parameters"),
        f"accuracy on {held_out} held out {means[0]:.3f} and {means[1]:.3f}": means[0] >= means[1] - noise,
    }  # fmt: skip
    same, told = judged(checks)
    result = []
    epochs = "the epochs alone"
    for what, figure, least in (("the whole process", "seconds", 2.5), (epochs, "epochs_seconds", 3.0)):
        seconds = [contest.median(name, figure) for name in (OURS, PLAIN)]
        ratio = seconds[1] / seconds[0]
        asked = f"≥ {least:g} ×"
        title = f"fine-tuning, {sum(counts.values())} photos × 2 epochs: {what}"
        result.append(Row(title, *seconds, "s", ratio, asked, same and ratio >= least, told, PLAIN))
    return result


def _accuracy(measured: dict[str, Any], counts: dict[str, int]) -> float:
    right = sum(measured["accuracy"][split] * counts[split] for split in ("validation", "test"))
    return right / (counts["validation"] + counts["test"])


def main() -> None:
    """Divide, take turns, compare."""
    known = parser().parse_args()
    from machine import matrix_rates
    from photos import divide, listing

    counts = shares(known.images)
    contest = Contest("fine_tuning", known.json, matrix_rates())
    with scratch() as temporary:
        folder, data = Path(temporary), Path(temporary) / "photos"
        divide(known.photos, data, counts)
        labels = sorted({name.split("/")[0] for name in listing(data)["train"]})
        cores = min(contest.facts["cores"] or 1, contest.facts["usable_cores"] or 1)
        base = known.base_model.resolve()
        contestants = {
            OURS: partial(ours, folder, data, base),
            PLAIN: partial(plain, folder, data, base, labels, cores),
        }
        contest.play(contestants, range(1, known.rounds + 1))
        if known.keep is not None:
            keep(folder / f"ours-{known.rounds}", data, known.keep)
        contest.finish(rows(contest, counts))


def keep(run_folder: Path, data: Path, target: Path) -> None:
    """Move a run and its photographs to `target`/run and `target`/photos, where the run is told to find them."""
    target.mkdir(parents=True, exist_ok=True)
    for source, name in ((run_folder, "run"), (data, "photos")):
        shutil.rmtree(target / name, ignore_errors=True)
        shutil.move(source, target / name)
    where = target / "run" / "local" / "data.json"
    text = where.read_text(encoding="utf-8")
    moved = json.dumps(str((target / "photos").resolve()))[1:-1]
    where.write_text(text.replace(json.dumps(str(data.resolve()))[1:-1], moved), encoding="utf-8")


if __name__ == "__main__":
    main()
