"""Images per second of steady training, and the training step alone as a share of the matrix rate.

python tests/benchmarks/throughput.py PHOTOS --base_model DIR [--images 192] [--rounds 3] [--json FILE]

Ours is `train.py` itself with a watch in it; the other is a hand-written loop around timm's ResNet-50 in bf16,
channels-last, with fused AdamW and the best number of loader workers, tried first. Both crop and flip, in batches of
32. Images per second are those of epochs after the first, from the first step's end to the last one's.
"""

import argparse
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

from arguments import at_least, check_steps, folder, is_small, json_file, positive, resnet_50
from contest import HERE, Contest, run, scratch
from table import Row, compared, lost

RECIPE = HERE / "plain_recipe.py"
OURS, STEP, LOOP = "ours", "our step alone", "timm loop, {} workers"
TOLERANCE = 0.02  # of a loss, between two orders of the same sums in bf16


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("photos", type=folder, help="a folder of class folders")
    result.add_argument("--base_model", type=resnet_50, required=True, help="ResNet-50 as a folder in Hub layout")
    result.add_argument("--images", type=positive, default=192, help="to train on, in each epoch")
    result.add_argument("--epochs", type=at_least(2), default=3)
    result.add_argument("--batch", type=positive, default=32)
    result.add_argument("--rounds", type=positive, default=3)
    result.add_argument(
        "--workers", type=at_least(0), nargs="+", default=[0, 1, 2], help="loader workers to try in the loop"
    )
    result.add_argument("--json", type=json_file)
    return result


class Ground:
    """What all stand on: photographs, the weights to start from, a batch to prove it, and a folder to write to."""

    def __init__(self, folder: Path, photos: Path, base_model: Path, images: int, batch: int, recipe: Path = RECIPE):
        from photos import divide, listing
        from start import save_probe, save_start

        self.folder, self.base_model, self.batch, self.recipe = folder, base_model.resolve(), batch, recipe
        self.data, self.start, self.probe = folder / "photos", folder / "start", folder / "probe.pt"
        divide(photos, self.data, {"train": max(batch, images // batch * batch), "validation": 10, "test": 10})
        labels = {name.split("/")[0] for name in listing(self.data)["train"]}
        save_probe(save_start(recipe, self.base_model, sorted(labels), 42, self.start), self.data, batch, self.probe)

    def ours(self, mode: str, epochs: int, flags: list[str], number: int) -> dict[str, Any]:
        """`steady.py` in a process of its own."""
        result, output = self.folder / "result.json", self.folder / "run"
        words = [sys.executable, HERE / "steady.py", mode, result, self.probe, "--", self.recipe]
        words += ["--data_dir", self.data, "--base_model", self.base_model, "--output_dir", output, "--overwrite"]
        words += ["--seed", 42, "--per_device_train_batch_size", self.batch, "--num_train_epochs", epochs, *flags]
        return self._run(words, result, output)

    def loop(self, workers: int, epochs: int, number: int) -> dict[str, Any]:
        """`timm_loop.py` in a process of its own."""
        result = self.folder / "result.json"
        words = [sys.executable, HERE / "timm_loop.py", self.data, self.start, result, self.probe]
        words += ["--workers", workers, "--epochs", epochs, "--batch", self.batch]
        return self._run(words, result, self.folder / "run")

    def plain(self, epochs: int, number: int) -> dict[str, Any]:
        """`plain_trainer.py` in a process of its own, without evaluations."""
        result, output = self.folder / "result.json", self.folder / "plain"
        words = [sys.executable, HERE / "plain_trainer.py", self.data, self.start, output, result]
        words += ["--epochs", epochs, "--batch", self.batch, "--no_evaluation"]
        return self._run(words, result, output)

    def _run(self, words: list[Any], result: Path, output: Path) -> dict[str, Any]:
        cache = self.folder / "cache"
        for each in (output, cache):
            shutil.rmtree(each, ignore_errors=True)
        seconds = run(words, cache, self.folder / "log")
        return {"seconds": seconds, **json.loads(result.read_text(encoding="utf-8"))}


def main() -> int:
    """Take turns, compare."""
    known = parser().parse_args()
    check_steps(known, parser())
    from machine import matrix_rates

    small = is_small(known, parser(), "images", "batch")
    contest = Contest("throughput", known.json, matrix_rates(), small)
    with scratch() as temporary:
        ground = Ground(Path(temporary), known.photos, known.base_model, known.images, known.batch)
        loops = {LOOP.format(workers): partial(ground.loop, workers, known.epochs) for workers in known.workers}
        contestants = {
            OURS: partial(ground.ours, "train", known.epochs, []),
            **loops,
            STEP: partial(ground.ours, "step", 1, []),
        }
        contest.play(contestants, [1])
        able = [name for name in loops if name not in contest.failed] or [*loops][:1]
        best = max(able, key=lambda name: contest.median(name, "images_per_second")) if len(able) > 1 else able[0]
        contest.play({name: contestants[name] for name in (OURS, best, STEP)}, range(2, known.rounds + 1))
        return contest.finish(rows(contest, best, known.batch))


def rows(contest: Contest, best: str, batch: int) -> list[Row]:
    """Ours against the best loop, and our step against the matrix rate of the same moment."""
    return [training(contest, best, batch), step(contest, batch)]


def training(contest: Contest, best: str, batch: int) -> Row:
    title, asked = f"images per second of training, batches of {batch}", "≥ 0.95 ×"
    if why := contest.lost(OURS, best):
        return lost(title, "images/s", asked, why, best)
    ours, loop = (contest.measured[name][0] for name in (OURS, best))
    every = [each for name in (OURS, best) for each in contest.measured[name]]
    apart = max(abs(each["loss"] - ours["loss"]) for each in every)
    checks = {
        f"loss of the first batch {ours['loss']:.4f} and {loop['loss']:.4f}": apart <= TOLERANCE * ours["loss"],
        f"{ours['steps']} steps of {batch} images": all(each["steps"] == ours["steps"] for each in every),
        f"{ours['threads']} threads": all(each["threads"] == ours["threads"] for each in every),
    }
    rates = [contest.median(name, "images_per_second") for name in (OURS, best)]
    ratio = rates[0] / rates[1]
    return compared(Row(title, *rates, "images/s", ratio, asked, ratio >= 0.95, "", best), checks, contest.small)


def step(contest: Contest, batch: int) -> Row:
    title, asked = "the training step alone, of the matrix rate", "≥ 0.6 of it"
    if why := contest.lost(STEP, OURS):
        return lost(title, "GFLOP/s", asked, why)
    ours, alone = (contest.measured[name][0] for name in (OURS, STEP))
    share, middle = _middle(contest.measured[STEP])
    apart = abs(alone["loss"] - ours["loss"])
    checks = {
        "the same network as in training, by its loss": apart <= TOLERANCE * ours["loss"],
        f"{middle['flops'] / batch / 1e9:.1f} GFLOP an image, forward and backward": middle["flops"] > 0,
    }
    reached = middle["flops"] / middle["step_seconds"] / 1e9
    limit = middle["matrix_rate"] / 1e9
    versus = "the best square product, measured right after"
    return compared(
        Row(title, reached, limit, "GFLOP/s", share, asked, share >= 0.6, "", versus), checks, contest.small
    )


def _middle(measured: list[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    """The median (of two, the lower) share of the matrix rate, and the measurement that it is of."""

    def share(each: dict[str, Any]) -> float:
        return each["flops"] / each["step_seconds"] / each["matrix_rate"]

    middle = sorted(measured, key=share)[(len(measured) - 1) // 2]
    return share(middle), middle


if __name__ == "__main__":
    sys.exit(main())
