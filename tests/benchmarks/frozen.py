"""A frozen stage, fifty epochs without augmentation, from stored features against computing them in every epoch.

python tests/benchmarks/frozen.py PHOTOS --base_model DIR [--images 360] [--rounds 3] [--slow_epochs 50] [--json FILE]

Both are `train.py` on the rocks' first stage; the slow way is `--feature_views 0`, measured in the first round alone.
Four of five images are trained on, one validates. The time is that of the stage: from its beginning, before any feature
is computed, to its last checkpoint. Stores are empty, but for one more run that finds what the first one kept. Before
that both ways train in fp32, for a few epochs, and what they log is compared.
"""

import argparse
import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from arguments import at_least, folder, is_small, json_file, positive
from contest import HERE, Contest, run, scratch
from table import Row, compared, lost

RECIPE = HERE / "frozen_recipe.py"
FAST, AGAIN, SLOW = "stored features", "stored features, a second run", "features in every epoch"
EXACT = 1e-4  # of losses in fp32


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("photos", type=folder, help="a folder of class folders")
    result.add_argument("--base_model", type=folder, required=True, help="ResNet-50 as a folder in Hub layout")
    result.add_argument("--images", type=at_least(5), default=360)
    result.add_argument("--epochs", type=positive, default=50)
    result.add_argument(
        "--slow_epochs", type=positive, help="fewer epochs of the slow way, the rest extrapolated, and said"
    )
    result.add_argument("--exact_epochs", type=at_least(0), default=3, help="epochs of the comparison in fp32; 0: none")
    result.add_argument("--rounds", type=positive, default=3)
    result.add_argument("--json", type=json_file)
    return result


def train(folder: Path, data: Path, base_model: Path, epochs: int, cache: str, flags: list[str]) -> dict[str, Any]:
    """A run in a process of its own: seconds of its stage, and the losses and accuracies that it logged."""
    result, output = folder / "result.json", folder / "run"
    shutil.rmtree(output, ignore_errors=True)
    words = [sys.executable, HERE / "steady.py", "stage", result, "-", "--", RECIPE, "--data_dir", data]
    words += ["--base_model", base_model, "--output_dir", output, "--num_train_epochs", epochs, *flags]
    whole = run(words, folder / cache, folder / "log")
    with (output / "log_history.csv").open(encoding="utf-8") as file:
        history = list(csv.DictReader(file))
    stage_seconds = json.loads(result.read_text(encoding="utf-8"))["stage_seconds"][0]
    losses = {name: [float(row[name]) for row in history] for name in ("train_loss", "validation_loss")}
    accuracy = float(history[-1]["validation_accuracy"])
    steps = int(history[-1]["step"])
    stored = any((folder / cache).glob("image-folder-to-demo/records/features-*"))
    return {
        "seconds": whole,
        "stage_seconds": stage_seconds,
        "steps": steps,
        "accuracy": accuracy,
        "stored": stored,
        **losses,
    }


def main() -> int:
    """Take turns, compare."""
    known = parser().parse_args()
    from machine import matrix_rates
    from photos import divide

    slow_epochs = known.slow_epochs or known.epochs
    counts = {"train": known.images * 4 // 5, "validation": known.images - known.images * 4 // 5, "test": 10}
    contest = Contest("frozen", known.json, matrix_rates(), is_small(known, parser(), "images", "epochs"))
    with scratch() as temporary:
        place, data = Path(temporary), Path(temporary) / "photos"
        base = known.base_model.resolve()
        divide(known.photos, data, counts)

        def fast(number: int) -> dict[str, Any]:
            return train(place, data, base, known.epochs, f"cache-{number}", [])

        def again(number: int) -> dict[str, Any]:
            return train(place, data, base, known.epochs, f"cache-{number}", [])

        def slow(number: int) -> dict[str, Any]:
            return train(place, data, base, slow_epochs, "cache-slow", ["--feature_views", "0"])

        def exactly(views: list[str]) -> Any:
            flags, cache = ["--bf16", "false", *views], "-".join(["cache-exact", *views])
            return lambda number: train(place, data, base, known.exact_epochs, cache, flags)

        if known.exact_epochs:
            contest.play({f"{FAST}, fp32": exactly([]), f"{SLOW}, fp32": exactly(["--feature_views", "0"])}, [1])
        contest.play({FAST: fast, AGAIN: again, SLOW: slow}, [1])
        contest.play({FAST: fast, AGAIN: again}, range(2, known.rounds + 1))
        return contest.finish(rows(contest, known, slow_epochs))


def rows(contest: Contest, known: argparse.Namespace, slow_epochs: int) -> list[Row]:
    """The stage's time with and without what is stored."""
    title = f"frozen stage, {known.epochs} epochs on {known.images} images"
    versus = "--feature_views 0, measured once"
    if slow_epochs != known.epochs:
        versus += f", {slow_epochs} epochs of it, extrapolated"
    exact = [f"{name}, fp32" for name in (FAST, SLOW)] if known.exact_epochs else []
    result = []
    for what, name, least in ((title, FAST, 20.0), (f"{title}, again", AGAIN, None)):
        asked = "" if least is None else f"≥ {least:g} ×"
        if why := contest.lost(name, SLOW, *exact):
            result.append(lost(what, "s", asked, why, versus))
            continue
        seconds = contest.median(name, "stage_seconds")
        other = contest.median(SLOW, "stage_seconds") * known.epochs / slow_epochs
        met = None if least is None else other / seconds >= least
        row = Row(what, seconds, other, "s", other / seconds, asked, met, "", versus)
        result.append(compared(row, checks(contest, name, known, slow_epochs), contest.small))
    return result


def checks(contest: Contest, name: str, known: argparse.Namespace, slow_epochs: int) -> dict[str, bool]:
    """Whether a run with stored features learned what the slow one did."""
    fast, slow = contest.measured[name][0], contest.measured[SLOW][0]
    steps = fast["steps"] * slow_epochs // known.epochs
    result = {
        f"{steps} steps": steps == slow["steps"],
        "one way with a store, one without": fast["stored"] and not slow["stored"],
    }
    if known.exact_epochs:
        exact = [contest.measured[f"{each}, fp32"][0] for each in (FAST, SLOW)]
        apart = max(
            abs(one - other)
            for figure in ("train_loss", "validation_loss")
            for one, other in zip(exact[0][figure], exact[1][figure], strict=True)
        )
        result[f"losses of {known.exact_epochs} epochs in fp32 differ by {apart:.1e}"] = apart <= EXACT
    ends = [each["validation_loss"][slow_epochs - 1] for each in (fast, slow)]
    near = abs(ends[0] - ends[1]) <= 0.1 * max(ends)
    return result | {f"validation loss after {slow_epochs} epochs {ends[0]:.3f} and {ends[1]:.3f}": near}


if __name__ == "__main__":
    sys.exit(main())
