"""Fine-tuning, the whole process: ours against plain `Trainer` with default flags in the flow of transformers' example.

python tests/benchmarks/fine_tuning.py PHOTOS --base_model DIR [--images 500] [--rounds 3] [--json FILE]

Both are started by `accelerate launch -q` in a process of their own with empty caches, get the same photographs in the
same splits (8 of 10 to train, 1 to validate, 1 to test), start from the same weights, train two epochs in batches of 8
at 5e-5, evaluate and save after each, and end with a saved model measured on validation and test; ours with an ONNX
file, statistics for serving and all else it always does. `accelerate launch` leaves one thread on a CPU: the plain one
is given as many as there are cores. Within each a watch counts the images that are evaluated, and before the first step
the loss of one batch is taken, which shows that they start from the same weights.
"""

import argparse
import csv
import json
import math
import shutil
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

from arguments import at_least, folder, is_small, json_file, positive
from contest import ACCELERATE, HERE, Contest, run, scratch
from table import Row, compared, lost

RECIPE, PROBE = HERE / "plain_recipe.py", "probe.pt"
OURS, PLAIN = "ours", "plain Trainer, a thread a core"
TOLERANCE = 1e-3  # of a loss in fp32, between two orders of the same sums


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("photos", type=folder, help="a folder of class folders")
    result.add_argument("--base_model", type=folder, required=True, help="ResNet-50 as a folder in Hub layout")
    result.add_argument("--images", type=at_least(18), default=500)
    result.add_argument("--rounds", type=positive, default=3)
    result.add_argument("--keep", type=Path, help="leave our last run in this folder, with its photographs beside it")
    result.add_argument("--json", type=json_file)
    return result


def shares(images: int) -> dict[str, int]:
    """How many to train, validate and test; what is trained on fills batches of 8."""
    held_out = max(5, images // 10)
    return {"train": (images - 2 * held_out) // 8 * 8, "validation": held_out, "test": held_out}


def ours(place: Path, data: Path, base_model: Path, number: int) -> dict[str, Any]:
    """One process of ours, and what its run folder says."""
    output, result = place / f"ours-{number}", place / f"ours-{number}.json"
    words = [*ACCELERATE, HERE / "steady.py", "whole", result, place / PROBE, "--", RECIPE, "--data_dir", data]
    words += ["--base_model", base_model, "--output_dir", output, "--seed", 41 + number]
    seconds = run(words, place / f"cache-ours-{number}", place / f"ours-{number}.log")
    watched = json.loads(result.read_text(encoding="utf-8"))
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
        "evaluated": watched["evaluated"],
        "loss": watched["loss"],
        "files": {split: sorted(_below(split, paths)) for split in ("train", "validation", "test")},
        "architecture": results["model_class"],
        "parameters": results["parameters"],
        "hardware": results["hardware"],
    }


def _below(split: str, paths: list[str]) -> list[str]:
    return [path.removeprefix(f"{split}/") for path in paths if path.startswith(f"{split}/")]


def plain(place: Path, data: Path, base_model: Path, labels: list[str], threads: int, number: int) -> dict[str, Any]:
    """One process of plain Trainer, from the weights that ours starts from in this round."""
    from start import save_start

    name = f"plain-{number}"
    start = place / f"start-{number}"
    if not start.is_dir():
        save_start(RECIPE, base_model, labels, 41 + number, start)
    words = [*ACCELERATE, HERE / "plain_trainer.py", data, start, place / name, place / f"{name}.json"]
    words += ["--seed", 41 + number, "--probe", place / PROBE]
    seconds = run(words, place / f"cache-{name}", place / f"{name}.log", OMP_NUM_THREADS=str(threads))
    found = {"seconds": seconds, **json.loads((place / f"{name}.json").read_text(encoding="utf-8"))}
    for each in (place / name, place / f"cache-{name}"):
        shutil.rmtree(each)
    return found


def rows(contest: Contest, counts: dict[str, int]) -> list[Row]:
    """Ours against the other."""
    title = f"fine-tuning, {sum(counts.values())} photos × 2 epochs"
    parts = (("the whole process", "seconds", 2.5), ("the epochs alone", "epochs_seconds", 3.0))
    if why := contest.lost(OURS, PLAIN):
        return [lost(f"{title}: {what}", "s", f"≥ {least:g} ×", why, PLAIN) for what, _, least in parts]
    pairs = [contest.measured[name] for name in (OURS, PLAIN)]
    held_out = counts["validation"] + counts["test"]
    accuracies = [[_accuracy(each, counts) for each in measured] for measured in pairs]
    means = [statistics.mean(each) for each in accuracies]
    noise = 2 * math.sqrt(sum(max(mean * (1 - mean), 0.05) / held_out for mean in means))
    first = pairs[0][0]

    def alike(figure: str) -> bool:
        """In every round."""
        return all(each[figure] == first[figure] for measured in pairs for each in measured)

    losses = [[each["loss"] for each in measured] for measured in pairs]
    near = all(abs(one - other) <= TOLERANCE * one for one, other in zip(*losses, strict=True))
    checks = {
        f"the same {sum(counts.values())} images in the same splits": alike("files"),
        f"the same weights to start from, by the first batch's loss {losses[0][0]:.4f} and {losses[1][0]:.4f}": near,
        f"{first['steps']} steps": alike("steps"),
        f"{sum(first['evaluated'])} images evaluated": alike("evaluated"),
        f"{first['architecture']}, {first['parameters']:,} weights": alike("architecture") and alike("parameters"),
        f"accuracy on {held_out} held out {means[0]:.3f} and {means[1]:.3f}": means[0] >= means[1] - noise,
    }  # fmt: skip
    result = []
    for what, figure, least in parts:
        seconds = [contest.median(name, figure) for name in (OURS, PLAIN)]
        ratio = seconds[1] / seconds[0]
        row = Row(f"{title}: {what}", *seconds, "s", ratio, f"≥ {least:g} ×", ratio >= least, "", PLAIN)
        result.append(compared(row, checks, contest.small))
    return result


def _accuracy(measured: dict[str, Any], counts: dict[str, int]) -> float:
    right = sum(measured["accuracy"][split] * counts[split] for split in ("validation", "test"))
    return right / (counts["validation"] + counts["test"])


def main() -> int:
    """Divide, take turns, compare."""
    known = parser().parse_args()
    from machine import matrix_rates
    from photos import divide, listing
    from start import save_probe, save_start

    counts = shares(known.images)
    contest = Contest("fine_tuning", known.json, matrix_rates(), is_small(known, parser(), "images"))
    with scratch() as temporary:
        place, data = Path(temporary), Path(temporary) / "photos"
        divide(known.photos, data, counts)
        labels = sorted({name.split("/")[0] for name in listing(data)["train"]})
        cores = min(contest.facts["cores"] or 1, contest.facts["usable_cores"] or 1)
        base = known.base_model.resolve()
        save_probe(save_start(RECIPE, base, labels, 42, place / "start-1"), data, 8, place / PROBE)
        contestants = {
            OURS: partial(ours, place, data, base),
            PLAIN: partial(plain, place, data, base, labels, cores),
        }
        contest.play(contestants, range(1, known.rounds + 1))
        if known.keep is not None and OURS in contest.measured:
            keep(place / f"ours-{len(contest.measured[OURS])}", data, known.keep)
        return contest.finish(rows(contest, counts))


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
    sys.exit(main())
