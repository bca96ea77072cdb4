"""Fine-tune a Hub-hosted image classifier on a folder of images.

accelerate launch -q training/train.py RECIPE [flags]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from training import preemption
from training.command import Parser, run_command
from training.recipe import Recipe, UserError, load_recipe, recipe_names

if TYPE_CHECKING:
    from training.data.source import Source
    from training.fitting.plan import Options
    from training.run_folder import RunFolder

USAGE = "accelerate launch -q training/train.py RECIPE [flags]"
EPILOG = """\
what --data_dir takes (names may hold spaces; what cannot be used is skipped, with the reason, and listed):
  my_photos                    one folder a class: my_photos/cat/1.jpg
  my_photos                    split folders of class folders: my_photos/train/cat/1.jpg, my_photos/test/cat/2.jpg
  my_photos                    nested: the first folders that differ are the classes, whatever wraps them and whatever
                               lies deeper: download/my_photos/cat/2021/may/1.jpg is a cat
  cats dogs                    several folders: each a class; or class folders in each, merged by name; or train test
  my_photos.zip                an archive of any of these: .zip, .tar, .tar.gz and the like
  labels.csv                   a table (.csv, .tsv, .parquet): a column of paths, one of labels, and if you like one of
                               splits (train, validation, test) and one of groups (patients, say) that stay together
In place of --data_dir, a data set on the Hub:
  --dataset OWNER/NAME         downloaded whole; with --streaming read while training, however large it is, and not
                               searched for copies

Any flag of transformers' TrainingArguments works too, for every stage or, with --stage1. --stage2. …, for one:
  --num_train_epochs 3  --learning_rate 1e-4  --per_device_train_batch_size 8  --gradient_accumulation_steps 2
  --stage2.learning_rate 1e-5  --bf16 false  --use_cpu  --dataloader_num_workers 4  --seed 1  --report_to tensorboard
  https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments lists them all.

examples:
  accelerate launch -q training/train.py digits
  accelerate launch -q training/train.py flowers --data_dir flower_photos
  accelerate launch -q training/train.py folder --data_dir my_photos --output_dir runs/mine
  accelerate launch -q training/train.py folder --data_dir my_photos --folds 5 --output_dir runs/folds
  accelerate launch -q training/train.py folder --data_dir labels.csv
  accelerate launch -q training/train.py folder --data_dir my_photos --find_lr
  accelerate launch -q training/train.py flowers --data_dir flower_photos --resume
  accelerate launch -q training/train.py flowers --data_dir flower_photos --checkpoint_repo
  accelerate launch -q training/train.py flowers --data_dir flower_photos --resume you/flowers-checkpoints
  torchrun --nproc_per_node 2 training/train.py digits --use_cpu
"""


def parser() -> Parser:
    """The flags that are ours; everything else goes to `TrainingArguments`."""
    result = Parser(
        usage=USAGE,
        description="Fine-tune an image classifier on a folder of images; the result is a folder that "
        'pipeline("image-classification", model=FOLDER) loads.',
        epilog=EPILOG,
    )
    result.add_argument("recipe", metavar="RECIPE", help=f"one of {', '.join(recipe_names())}; or your own .py file")
    images = result.add_mutually_exclusive_group()
    images.add_argument(
        "--data_dir",
        metavar="PATH",
        nargs="+",
        action="extend",
        help="folders of the images, an archive or a table, see below (default: data/RECIPE)",
    )
    images.add_argument(
        "--dataset", metavar="REPO_ID", help="a data set on the Hub instead; of several configurations, REPO_ID:CONFIG"
    )
    result.add_argument(
        "--streaming", action="store_true", help="read --dataset while training, for one larger than disk or memory"
    )
    result.add_argument(
        "--base_model", metavar="ID_OR_DIR", help="fine-tune this one instead of the recipe's base model"
    )
    result.add_argument("--output_dir", metavar="RUN", help="folder to write (default: runs/RECIPE)")
    result.add_argument(
        "--thorough",
        action="store_true",
        help="also keep crops, mirrored and overlapping views of a picture on one side; takes longer the first time",
    )
    result.add_argument(
        "--folds", type=int, metavar="K", help="cross-validate: K runs, each tested on another K-th of the images"
    )
    result.add_argument(
        "--find_lr",
        action="store_true",
        help="in place of training: let each stage's learning rate grow until the loss blows up, draw the loss against "
        "it and suggest a rate; takes minutes, writes runs/RECIPE-find_lr",
    )
    existing = result.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="REPO_ID",
        help="go on with a run that was interrupted; with REPO_ID on any machine, from --checkpoint_repo",
    )
    existing.add_argument("--overwrite", action="store_true", help="replace the run that is in the folder")
    result.add_argument(
        "--accept_changed_data",
        action="store_true",
        help="with --resume: go on though images have changed or are gone since; new ones are not added",
    )
    result.add_argument(
        "--checkpoint_repo",
        nargs="?",
        const="",
        metavar="NAME",
        help="also keep checkpoints in a private repo on the Hub, NAME-checkpoints (default: as the run folder)",
    )
    result.add_argument("--class_weights", choices=["balanced"], help="weigh rare classes more")
    result.add_argument(
        "--no_calibrate", action="store_true", help="leave probabilities as training made them, mostly too sure"
    )
    result.add_argument(
        "--feature_views",
        type=int,
        metavar="N",
        help="where the head alone is trained: of how many views of each image features are kept, if the recipe "
        "augments (default: what the recipe says, mostly 3); 0 computes them anew in each epoch",
    )
    result.add_argument(
        "--pixel_cache",
        type=_gigabytes,
        metavar="GB",
        help="disk for decoded images and stored features, which later epochs and runs read; 0: none (default: 16, at "
        "most a quarter of what is free; for medical recipes 0)",
    )
    result.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: the cores there are)")
    result.add_argument(
        "--channels_last", type=_yes_or_no, metavar="true|false", help="memory layout (default: by hardware)"
    )
    return result


def understand(tokens: list[str], command: Parser | None = None) -> tuple[argparse.Namespace, Recipe, list[str]]:
    """What the command line says: our flags, the recipe as they change it, and the flags for `TrainingArguments`.

    `command` is the parser of another command that takes these flags too.

    Raises:
        UserError: there is no such recipe, or the flags do not go together.
    """
    command = command or parser()
    if tokens and tokens[0].startswith("-") and tokens[0] not in ("-h", "--help"):
        raise UserError(f"RECIPE comes first: {command.usage}")
    known, flags = command.parse_known_args(tokens)
    if known.thorough and known.streaming:
        raise UserError("--thorough with --streaming: in a stream nothing is compared; leave out one of them")
    if known.pixel_cache is not None and known.streaming:
        raise UserError("--pixel_cache with --streaming: of a stream nothing is stored; leave out one of them")
    if known.folds is not None and known.streaming:
        raise UserError("--folds with --streaming: a streamed data set keeps the Hub's splits; leave out one of them")
    if known.streaming and not (known.dataset or known.resume):
        raise UserError("--streaming reads a data set of the Hub: say which one with --dataset REPO_ID")
    resume_from = _resume_from(known)
    if known.accept_changed_data and known.resume is not True:
        raise UserError("--accept_changed_data goes with --resume, of a run that is in its folder on this machine")
    if known.accept_changed_data and known.folds is not None:
        raise UserError("--accept_changed_data with --folds: folds divide the images that they began with; --overwrite")
    if known.accept_changed_data and known.checkpoint_repo is not None:
        raise UserError("--accept_changed_data with --checkpoint_repo: the repo knows the images as they were")
    if known.folds is not None and (resume_from, known.checkpoint_repo) != (None, None):
        raise UserError("--folds keeps its checkpoints on this machine; leave out --checkpoint_repo, and REPO_ID")
    if resume_from is not None and known.checkpoint_repo is not None:
        raise UserError(f"--resume {resume_from} saves checkpoints there as well; leave out --checkpoint_repo")
    if known.find_lr:
        _check_alone(known)
    recipe = load_recipe(known.recipe)
    changes = {"base_model": known.base_model, "class_weights": known.class_weights}
    recipe = dataclasses.replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    return known, recipe, flags


def _check_alone(known: argparse.Namespace) -> None:
    """Refuse what --find_lr has no run for.

    Raises:
        UserError: there is such a flag.
    """
    others = {"--resume": known.resume is not False, "--folds": known.folds, "--checkpoint_repo": known.checkpoint_repo}
    for flag, value in others.items():
        if value is not False and value is not None:
            raise UserError(f"{flag} with --find_lr, which leaves no run and no checkpoints; leave out one of them")


def main(tokens: list[str]) -> int:
    """Run the command; the exit status."""
    known, recipe, flags = understand(tokens)
    run = Path(known.output_dir or Path("runs") / (f"{recipe.name}-find_lr" if known.find_lr else recipe.name))

    # Only now, with the command understood, the libraries that take seconds to import.
    from training.disk import writing
    from training.fitting.find_lr import find_lr
    from training.fitting.fit import fit
    from training.fitting.folds import fit_folds
    from training.run_folder import GO_ON, FoldsFolder, RunFolder

    preemption.unwind(preemption.BEGINS_ANEW if known.find_lr else preemption.GOES_ON)
    options = options_of(known)
    one = RunFolder(run) if known.folds is None else FoldsFolder(run).fold(1)
    source = source_of(known, recipe, one)
    own = shlex.join(["python", "training/eval.py", str(run)])
    try:
        with writing(run, "the same command again" if known.find_lr else GO_ON[0], GO_ON[1]):
            if known.find_lr:
                own = _with_flags(tokens, find_lr(recipe, source, run, options, flags)["next"])
            elif known.folds is None:
                fit(recipe, source, one, options, flags)
            else:
                fit_folds(recipe, source, FoldsFolder(run), known.folds, options, flags)
                own = _single_run(tokens, run)
    except Exception as error:
        number = preemption.asked()
        if number is None:
            raise
        raise preemption.Stopped(number) from error  # a library made something else of it, or lost whom it talked to
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"wrote      {run}")
        if known.folds is None and not known.find_lr:
            print(f"use        python -c {_use(one)}")
        print(f"next       {own}")
    return 0


def _resume_from(known: argparse.Namespace) -> str | None:
    """The checkpoint repo to go on from, if --resume names one."""
    return known.resume if isinstance(known.resume, str) else None


def options_of(known: argparse.Namespace) -> Options:
    """Our flags as training takes them."""
    from training.fitting.plan import Options

    return Options(
        resume=known.resume is not False,
        resume_from=_resume_from(known),
        checkpoint_repo=known.checkpoint_repo,
        overwrite=known.overwrite,
        accept_changed_data=known.accept_changed_data,
        threads=known.threads,
        channels_last=known.channels_last,
        thorough=known.thorough,
        calibrate=not known.no_calibrate,
        feature_views=known.feature_views,
        pixel_cache=known.pixel_cache,
    )


def source_of(known: argparse.Namespace, recipe: Recipe, run: RunFolder) -> Source:
    """Where the command says that the images are; a run that goes on remembers it."""
    from training.data.source import HubDataset, load_source, open_images

    if known.dataset:
        kind = HubDataset
        if known.streaming:
            from training.data.streaming import Streamed as kind
        repo_id, _, config = known.dataset.partition(":")
        return kind(repo_id, config=config or None)
    stored = None
    if known.resume and known.data_dir is None and run.data.is_file():
        stored = load_source(run.data)
    elif isinstance(known.resume, str) and known.data_dir is None:
        from training.fitting.checkpoint_restore import stored_source

        stored = stored_source(known.resume, run)
    if known.streaming and not getattr(stored, "survey", None):
        raise UserError("--streaming reads a data set of the Hub: say which one with --dataset REPO_ID")
    return stored or open_images(recipe, known.data_dir, progress=int(os.environ.get("RANK", 0)) == 0)


def _use(run: RunFolder) -> str:
    """A line of Python, quoted for a shell, that shows an image of the test split to the model."""
    from training.data.source import Folder, load_source
    from training.data.splits import read_splits

    source, image = load_source(run.data), "IMAGE.jpg"
    if isinstance(source, Folder):
        image = source.data_dir / next(row.path for row in read_splits(run.splits) if row.split == "test")
        image = (image.relative_to(Path.cwd()) if image.is_relative_to(Path.cwd()) else image).as_posix()
    remote = ", trust_remote_code=True" if any(run.path.glob("modeling_*.py")) else ""
    classify = f"pipeline('image-classification', model={run.path.as_posix()!r}{remote})"
    code = f"from transformers import pipeline; print({classify}({image!r}))"
    # In double quotes, which Windows' shells understand too, if nothing in it means something to a shell.
    return shlex.quote(code) if set(code) & set('"$`\\!') else f'"{code}"'


def _single_run(tokens: list[str], run: Path) -> str:
    """The same command without folds: a model to use, of which the folds have said how good it will be."""
    same = without(tokens, ["--folds", "--output_dir"], ["--resume", "--overwrite"])
    return launch([*same, "--output_dir", f"{run.as_posix()}-1"])


def _with_flags(tokens: list[str], flags: list[str]) -> str:
    """The command that comes after --find_lr: a training with what was found, or another test."""
    instead = [flag for flag in flags if flag.startswith("--") and flag != "--find_lr"]
    if "--find_lr" not in flags:
        instead.append("--output_dir")
    return launch([*without(tokens, instead, ["--find_lr"]), *flags])


def without(tokens: list[str], with_value: list[str], alone: list[str]) -> list[str]:
    """The command line without these flags."""
    left_out = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in with_value:
        left_out.add_argument(flag)
    for flag in alone:
        left_out.add_argument(flag, action="store_true")
    return left_out.parse_known_args(tokens)[1]


def launch(words: list[str]) -> str:
    """The command that trains with them."""
    return shlex.join(["accelerate", "launch", "-q", "training/train.py", *words])


def _yes_or_no(word: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{word}' is neither true nor false")
    return word.lower() == "true"


def _gigabytes(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = -1
    if not 0 <= number < 1e9:
        raise argparse.ArgumentTypeError(f"'{word}' is no number of gigabytes, such as 16; 0 is none")
    return number


if __name__ == "__main__":
    preemption.watch()
    sys.exit(run_command(main, preemption.GOES_ON))
