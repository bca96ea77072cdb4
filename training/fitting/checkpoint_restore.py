"""A run whose disk is gone comes back from its checkpoint repo: what was downloaded, on images that are the same.

The Hub is trusted with nothing that could run: only files of known names are taken, each is held against the checksum
that the Hub gives, and every state is read once with `weights_only` before Trainer does.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_pt_utils import safe_globals

from hub_utils.portable import harmless_csv
from hub_utils.portable.hub import in_words
from hub_utils.portable.repo import is_same
from training.data.source import Folder, HubDataset, Source, load_source
from training.data.splits import SPLITS, Row
from training.fitting import checkpoint_repo, checkpoints
from training.fitting.checkpoint_repo import DATA, FLAG, HISTORY, RECIPE, RUN, STATE, CheckpointRepo
from training.recipe import UserError, first_line
from training.run_folder import RunFolder, check_same, write_json
from training.whole import whole_folder

ANEW = "without --resume it starts anew"


def stored_source(asked: str, run: RunFolder) -> Source | None:
    """The data set on the Hub from which the run of a checkpoint repo learns; None if it learns from local images.

    Raises:
        UserError: there is no such repo, or the Hub cannot be asked.
    """
    from huggingface_hub import HfApi

    repo = checkpoint_repo.find_repo(asked, run, goes_on=False)
    if DATA not in repo.images:
        return None
    with in_words(repo.repo_id, UserError, flag=FLAG):
        return _on_the_hub(Path(HfApi().hf_hub_download(repo.repo_id, DATA, revision=repo.commit)), repo)


def restore(
    repo: CheckpointRepo,
    run: RunFolder,
    facts: dict[str, Any],
    stages: Sequence[str],
    source: Source,
    read_again: Callable[[RunFolder, Sequence[Row]], None],
) -> None:
    """Make the run folder as it was with the newest checkpoint, or nothing at all.

    `facts` are what `recipe.json` would say of the command that goes on, `stages` the names of its stages' folders;
    `read_again` looks at the images of a local `source` and writes what is below `local/`, by the rows that it gets,
    of which content, label and split are known.

    Raises:
        UserError: the run began with another command or on other images, or what is on the Hub is damaged or unsafe.
    """
    if run.path.is_dir() and any(run.path.iterdir()):
        raise UserError(f"'{run.path}' is not empty; --resume {repo.repo_id} needs another --output_dir")
    with whole_folder(run.path) as folder:
        copy, down = RunFolder(folder), folder / "down"
        _download(repo, {RUN, RECIPE, HISTORY, *repo.images}, down)
        if not RunFolder(down).exists():
            raise UserError(f"'{repo.repo_id}' has no {RECIPE} of a run; it is not whole, {ANEW}")
        check_same(down / RECIPE, facts, repo.repo_id, ANEW)
        copy.splits.parent.mkdir()
        _place_images(repo, copy, down, source, read_again)
        for name in (RECIPE, HISTORY):
            if (down / name).is_file():
                (down / name).rename(folder / name)
        _download(repo, _newest(repo, stages, down), down)
        if (down / "checkpoints").is_dir():
            _check_checkpoints(repo, down / "checkpoints")
            (down / "checkpoints").rename(folder / "checkpoints")
        shutil.rmtree(down)
        repo.claim(copy)


def _place_images(
    repo: CheckpointRepo,
    copy: RunFolder,
    down: Path,
    source: Source,
    read_again: Callable[[RunFolder, Sequence[Row]], None],
) -> None:
    """Write what is below `local/`: as it was, of a data set on the Hub; of local images by looking at them again."""
    if DATA not in repo.images:
        if not isinstance(source, Folder):
            raise UserError(f"the run in '{repo.repo_id}' began with a folder of images; give it with --data_dir")
        read_again(copy, _rows(repo, down))
        return
    stored = _on_the_hub(down / DATA, repo)
    if not isinstance(source, HubDataset) or (source.repo_id, source.config) != (stored.repo_id, stored.config):
        raise UserError(
            f"the run in '{repo.repo_id}' began with data set '{stored.repo_id}'; leave out --data_dir and --dataset"
        )
    for name in repo.images:
        (down / name).rename(copy.data.with_name(name))


def _on_the_hub(path: Path, repo: CheckpointRepo) -> HubDataset:
    stored = load_source(path)
    if not isinstance(stored, HubDataset):
        raise UserError(f"'{repo.repo_id}': its {DATA} names no data set on the Hub; {ANEW}")
    return stored


def _rows(repo: CheckpointRepo, down: Path) -> list[Row]:
    """Content, label and split of each image that the run began with."""
    try:
        with (down / checkpoint_repo.SPLITS).open(newline="", encoding="utf-8") as file:
            rows = [Row("", each["sha256"], each["label"], each["split"], "") for each in harmless_csv.read_dicts(file)]
        if {row.split for row in rows} != {*SPLITS}:
            raise ValueError(f"it needs rows of {', '.join(SPLITS)}, and of no other split")
        return rows
    except (OSError, ValueError, LookupError, csv.Error) as error:
        raise UserError(
            f"'{repo.repo_id}': its {checkpoint_repo.SPLITS} cannot be read ({first_line(error)}); {ANEW}"
        ) from error


def _newest(repo: CheckpointRepo, stages: Sequence[str], down: Path) -> set[str]:
    """Names of all files of the newest checkpoint of each stage and of the best one that it points to."""
    folders: dict[str, dict[int, str]] = {stage: {} for stage in stages}
    for name in repo.files:
        found = STATE.fullmatch(name)
        if found and found["stage"] in folders:
            folders[found["stage"]][int(found["step"])] = name.rpartition("/")[0]
    newest = [steps[max(steps)] for steps in folders.values() if steps]
    _download(repo, {f"{folder}/{checkpoints.STATE}" for folder in newest}, down)
    needed = set(newest)
    for folder in newest:
        try:
            best = checkpoints.state_of(down / folder).get("best_global_step")
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"'{repo.repo_id}': {folder} is damaged ({first_line(error)}); {ANEW}") from error
        needed.add(f"{folder.rpartition('-')[0]}-{best}")
    return {name for name in repo.files if STATE.fullmatch(name) and name.rpartition("/")[0] in needed}


def _download(repo: CheckpointRepo, names: Collection[str], folder: Path) -> None:
    """Those of the files that are in the repo, at its commit, with a progress bar, each as the Hub says it is.

    Raises:
        UserError: the Hub cannot be reached, or a file came damaged.
    """
    from huggingface_hub import HfApi

    wanted = sorted(name for name in names if name in repo.files and not (folder / name).exists())
    if not wanted:
        return
    with in_words(repo.repo_id, UserError, "nothing was written", FLAG):
        HfApi().snapshot_download(repo.repo_id, revision=repo.commit, allow_patterns=wanted, local_dir=folder)
    for name in wanted:
        path = folder / name
        if not path.is_file() or path.is_symlink():
            raise UserError(f"'{repo.repo_id}': {name} did not come; the same command again")
        if not is_same(path, repo.files[name]):
            raise UserError(f"'{repo.repo_id}': {name} came damaged; the same command downloads it again")


def _check_checkpoints(repo: CheckpointRepo, folder: Path) -> None:
    """Refuse what Trainer could not go on from, or what would run code when it is opened.

    Raises:
        UserError: so it is.
    """
    for path in sorted(folder.rglob("*.pt*")):
        try:
            with safe_globals():
                torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch knows many kinds
            raise UserError(
                f"'{repo.repo_id}': {path.relative_to(folder.parent).as_posix()} holds something else than numbers, or "
                f"is damaged, and was not opened; who can write to this repo? {ANEW[0].upper()}{ANEW[1:]}"
            ) from error
    for state in folder.rglob(checkpoints.STATE):
        # Trainer would read weights wherever this points; ours say nothing, and find the best ones by their step.
        content = json.loads(state.read_text(encoding="utf-8"))
        if content.get("best_model_checkpoint") is not None:
            write_json({**content, "best_model_checkpoint": None}, state)
    for stage in folder.iterdir():
        broken = checkpoints.newest_checkpoint(stage)[1]
        for path, reason in broken.items():
            raise UserError(f"'{repo.repo_id}': {stage.name}/{path.name} {reason}; {ANEW}")
