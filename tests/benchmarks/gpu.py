"""Images per second of training on a GPU from JPEGs, with and without the decode cache, against what bounds it.

python tests/benchmarks/gpu.py PHOTOS --base_model DIR [--images 768] [--batch 64] [--rounds 3] [--json FILE]

Contestants: ours with decoded images kept and without, the batches alone, the step alone on one batch that lies on the
device, and plain `Trainer` with default flags. Images per second are those of epochs after the first. Where there is no
GPU the same is measured on the CPU, and said: that only shows that the benchmark works.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path

from contest import HERE, Contest, scratch
from table import Row, judged
from throughput import TOLERANCE, Ground

KEPT, FRESH, BATCHES, STEP = "ours", "ours, no decode cache", "our batches alone", "our step alone"
PLAIN = "plain Trainer"


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("photos", type=Path, help="a folder of class folders")
    result.add_argument("--base_model", type=Path, required=True, help="ResNet-50 as a folder in Hub layout")
    result.add_argument("--images", type=int, default=768, help="to train on, in each epoch")
    result.add_argument("--epochs", type=int, default=4)
    result.add_argument("--batch", type=int, default=64)
    result.add_argument("--rounds", type=int, default=3)
    result.add_argument("--json", type=Path)
    return result


def main() -> None:
    """Take turns, compare."""
    known = parser().parse_args()
    import torch
    from machine import matrix_rates

    contest = Contest("gpu", known.json, matrix_rates())
    with scratch() as temporary:
        folder = Path(temporary)
        recipe = HERE / "turned_recipe.py"
        ground = Ground(folder, known.photos, known.base_model, known.images, known.batch, recipe)
        none = ["--pixel_cache", "0"]
        contestants = {
            KEPT: partial(ground.ours, "train", known.epochs, []),
            FRESH: partial(ground.ours, "train", known.epochs, none),
            BATCHES: partial(ground.ours, "loader", known.epochs, []),
            f"{BATCHES}, no decode cache": partial(ground.ours, "loader", known.epochs, none),
            STEP: partial(ground.ours, "step", 1, []),
            PLAIN: partial(ground.plain, known.epochs),
        }
        contest.play(contestants, range(1, known.rounds + 1))
        contest.finish(rows(contest, known.batch, torch.cuda.is_available()))


def rows(contest: Contest, batch: int, on_gpu: bool) -> list[Row]:
    """Each against the step alone, and ours against plain Trainer."""
    rates = {name: statistics.median(contest.all(name, "images_per_second")) for name in contest.measured}
    ours, plain = contest.measured[KEPT][0], contest.measured[PLAIN][0]
    losses = [each["loss"] for name in contest.measured if name != PLAIN for each in contest.measured[name]]
    same, told = judged(
        {
            f"loss of the first batch {min(losses):.4f} to {max(losses):.4f}": (
                max(losses) - min(losses) <= TOLERANCE * max(losses)
            ),
            f"{ours['steps']} steps of {batch} images": ours["steps"] == plain["steps"],
        }
    )
    where = "" if on_gpu else " (on the CPU: no GPU here)"
    result = []
    for name, rate in rates.items():
        if name in (STEP, PLAIN):
            continue
        ratio, asked = rate / rates[STEP], name == KEPT and on_gpu
        met = same and ratio >= 0.9 if asked else None
        goal = "≥ 0.9 ×" if asked else ""
        result.append(Row(f"{name}{where}", rate, rates[STEP], "images/s", ratio, goal, met, told, STEP))
    ratio = rates[KEPT] / rates[PLAIN]
    return [*result, Row(f"{KEPT}{where}", rates[KEPT], rates[PLAIN], "images/s", ratio, "", None, told, PLAIN)]


if __name__ == "__main__":
    main()
