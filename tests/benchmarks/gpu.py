"""Images per second of training on a GPU from JPEGs, with and without the decode cache, against what bounds it.

python tests/benchmarks/gpu.py PHOTOS --base_model DIR [--images 768] [--batch 64] [--rounds 3] [--json FILE]

Contestants: ours with decoded images kept and without, the batches alone, the step alone on one batch that lies on the
device, and plain `Trainer` with default flags. Images per second are those of epochs after the first. Where there is no
GPU the same is measured on the CPU, and said: that only shows that the benchmark works.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from arguments import at_least, check_steps, folder, is_small, json_file, positive
from contest import HERE, Contest, scratch
from table import Row, compared, lost
from throughput import TOLERANCE, Ground

KEPT, FRESH, BATCHES, STEP = "ours", "ours, no decode cache", "our batches alone", "our step alone"
PLAIN = "plain Trainer"


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("photos", type=folder, help="a folder of class folders")
    result.add_argument("--base_model", type=folder, required=True, help="ResNet-50 as a folder in Hub layout")
    result.add_argument("--images", type=positive, default=768, help="to train on, in each epoch")
    result.add_argument("--epochs", type=at_least(2), default=4)
    result.add_argument("--batch", type=positive, default=64)
    result.add_argument("--rounds", type=positive, default=3)
    result.add_argument("--json", type=json_file)
    return result


def main() -> int:
    """Take turns, compare."""
    known = parser().parse_args()
    check_steps(known, parser())
    import torch
    from machine import matrix_rates

    small = is_small(known, parser(), "images", "batch")
    contest = Contest("gpu", known.json, matrix_rates(), small)
    with scratch() as temporary:
        recipe = HERE / "turned_recipe.py"
        ground = Ground(Path(temporary), known.photos, known.base_model, known.images, known.batch, recipe)
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
        return contest.finish(rows(contest, [*contestants], known.batch, torch.cuda.is_available()))


def rows(contest: Contest, names: list[str], batch: int, on_gpu: bool) -> list[Row]:
    """Each against the step alone, and ours against plain Trainer."""
    where = "" if on_gpu else " (on the CPU: no GPU here)"
    result = []
    for name in names:
        if name in (STEP, PLAIN):
            continue
        asked = "≥ 0.9 ×" if name == KEPT and on_gpu else ""
        if why := contest.lost(name, STEP):
            result.append(lost(f"{name}{where}", "images/s", asked, why, STEP))
            continue
        rates = [contest.median(each, "images_per_second") for each in (name, STEP)]
        losses = [each["loss"] for other in (name, STEP) for each in contest.measured[other]]
        told = f"loss of the first batch {min(losses):.4f} to {max(losses):.4f}"
        ratio = rates[0] / rates[1]
        row = Row(f"{name}{where}", *rates, "images/s", ratio, asked, ratio >= 0.9 if asked else None, "", STEP)
        result.append(compared(row, {told: max(losses) - min(losses) <= TOLERANCE * max(losses)}, contest.small))
    if why := contest.lost(KEPT, PLAIN):
        return [*result, lost(f"{KEPT}{where}", "images/s", "", why, PLAIN)]
    ours, plain = (contest.measured[name][0] for name in (KEPT, PLAIN))
    rates = [contest.median(name, "images_per_second") for name in (KEPT, PLAIN)]
    versus = f"{PLAIN}, which crops where ours turns"
    row = Row(f"{KEPT}{where}", *rates, "images/s", rates[0] / rates[1], "", None, "", versus)
    return [*result, compared(row, {f"{ours['steps']} steps of {batch} images": ours["steps"] == plain["steps"]})]


if __name__ == "__main__":
    sys.exit(main())
