"""Search values for a recipe's last stage: try some, compare them on validation, and train the best as a run.

accelerate launch -q training/search.py RECIPE [--trials N] [flags of train.py]
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from training import preemption, train
from training.command import Parser, run_command
from training.fitting.space import SPACE
from training.recipe import UserError

USAGE = "accelerate launch -q training/search.py RECIPE [--trials N] [flags of train.py]"
GOES_ON = "the same command goes on"
# Flags of train.py that are not for a search, and why.
NOT_HERE = {
    "resume": "a search goes on by itself: the same command without it",
    "accept_changed_data": "trials on other images could not be compared",
    "find_lr": "it is a training of another kind",
    "folds": "a search compares on the validation split",
    "checkpoint_repo": "trials keep no checkpoints",
}
EPILOG = """\
what is searched, of the last stage, from the weights that the stages before leave:
{space}
The first trial has the recipe's own values (or those of your flags), around which the others lie. Trials are compared
by the loss on the validation images that their model would be deployed with (of the epoch that the stage restores, and
after calibration), or by --metric_for_best_model. From half-way on, one that is behind most others at the same place is
ended early. The test images are looked at once, by the run of the values that were chosen: if more trials choose
others, once more, and the run and its card say so.

A search that was killed goes on with the same command; with a larger --trials, which counts all, it goes on longer.

what it writes into --output_dir:
  best/              a run folder as train.py and eval.py write it, of the values that were chosen
  trials.csv         a row a trial; plots/search.png
  search.db          the trials as Optuna keeps them, in SQLite
  trials/            what the trials learn from, and the stages before

examples:
  accelerate launch -q training/search.py digits --trials 10
  accelerate launch -q training/search.py flowers --data_dir flower_photos --trials 30 --output_dir runs/flowers-search
"""


def parser() -> Parser:
    """The flags of train.py, but for those of `NOT_HERE`, and the number of trials."""
    result = train.parser()
    space = "\n".join(f"  {each.title:<18}{each.describe()}" for each in SPACE)
    result.usage, result.description = USAGE, "Search values for a recipe's last stage, and train the best as a run."
    result.epilog = EPILOG.format(space=space)
    words = {"output_dir": "folder to write (default: runs/RECIPE-search)"}
    words |= {"overwrite": "replace the search that is in the folder", **dict.fromkeys(NOT_HERE, argparse.SUPPRESS)}
    for action in result._actions:
        action.help = words.get(action.dest, action.help)
    result.add_argument("--trials", type=int, default=20, metavar="N", help="trials in all (default: 20)")
    return result


def main(tokens: list[str]) -> int:
    """Run the command; the exit status."""
    for name, why in NOT_HERE.items():
        if any(token.partition("=")[0] == f"--{name}" for token in tokens):
            raise UserError(f"--{name} is not for a search: {why}")
    known, recipe, flags = train.understand(tokens, parser())
    path = Path(known.output_dir or Path("runs") / f"{recipe.name}-search")

    # Only now, with the command understood, the libraries that take seconds to import.
    from training.disk import writing
    from training.fitting.search import search
    from training.search_folder import SearchFolder

    preemption.unwind(GOES_ON)
    folder = SearchFolder(path)
    try:
        with writing(path, GOES_ON, "choose another --output_dir"):
            known.resume = folder.begun() and not known.overwrite  # it remembers where its images lie
            source = train.source_of(known, recipe, folder.trials)
            found = search(recipe, source, folder, known.trials, train.options_of(known), flags)
    except Exception as error:
        number = preemption.asked()
        if number is None:
            raise
        raise preemption.Stopped(number) from error
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"wrote      {path}: trials.csv, plots/search.png, search.db; the run is {folder.best.path}")
        print(f"next       {_demo(recipe.name, folder.best.path)}")
        print(f"           {_other_seed(tokens, found['flags'], Path('runs') / f'{recipe.name}-seed1')}")
    return 0


def _demo(name: str, run: Path) -> str:
    """The command that shows the run: on the recipe's own page, or on one that is made for it."""
    page = Path("spaces", name, "app.py")
    if (Path(__file__).parent.parent / page).is_file():
        return f"DEMO_MODEL={shlex.quote(str(run))} python {page.as_posix()}"
    return shlex.join(["python", "-m", "hub_utils.space", str(run)])


def _other_seed(tokens: list[str], chosen: list[str], run: Path) -> str:
    """The command that trains with the chosen values and other random numbers: what is left of luck in them."""
    same = train.without(tokens, ["--trials", "--output_dir", "--seed"], ["--overwrite"])
    return train.launch([*same, *chosen, "--seed", "1", "--output_dir", run.as_posix()])


if __name__ == "__main__":
    preemption.watch()
    sys.exit(run_command(main, GOES_ON))
