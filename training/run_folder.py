"""The run folder: what lies where in it, and the little that is written beside the model.

The layout is a contract: see the README. Nothing below `local/` or `checkpoints/` is ever uploaded with the model.
"""

import csv
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hub_utils.portable import harmless_csv
from hub_utils.portable.whole import is_part, replaced, write_json
from training.data.intake import Skipped
from training.disk import writing
from training.recipe import Recipe, UserError

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "datasets",
    "accelerate",
    "huggingface_hub",
    "numpy",
    "pillow",
)


# What a run and the commands that read it write; nothing else in the folder is ours to remove.
WRITTEN = frozenset(
    ("config.json", "model.safetensors", "preprocessor_config.json", "onnx", "serving.json", "recipe.json", "plots")
    + ("log_history.csv", "all_results.json", "test_results.json", "rocks_similarity.json", "README.md")
    + ("local", "checkpoints")
)
GO_ON = ("the same command with --resume goes on", "choose another --output_dir")  # when a folder can be written again
SEARCH_STORE, SEARCH_BEST = "search.db", "best"  # in the folder of a search; see `SearchFolder`
# What may change when a run goes on, for it changes no result; a seed stands in the recipe too.
FREE_FACTS = {"title", "card"}
FREE_FLAGS = re.compile(
    r"dataloader_(?!drop_last).*|log.*|report_to|project|run_name|disable_tqdm|per_device_eval_.*|use_cpu|ddp_.*|seed"
)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.json"

    @property
    def history(self) -> Path:
        return self.path / "log_history.csv"

    @property
    def results(self) -> Path:
        return self.path / "all_results.json"

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def onnx(self) -> Path:
        return self.path / "onnx" / "model.onnx"

    @property
    def int8(self) -> Path:
        return self.path / "onnx" / "model_int8.onnx"

    @property
    def test_results(self) -> Path:
        return self.path / "test_results.json"

    @property
    def card(self) -> Path:
        return self.path / "README.md"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def predictions(self) -> Path:
        return self.path / "local" / "predictions.csv"

    @property
    def mistakes(self) -> Path:
        return self.path / "local" / "mistakes.png"

    @property
    def splits(self) -> Path:
        return self.path / "local" / "splits.csv"

    @property
    def skipped(self) -> Path:
        return self.path / "local" / "skipped.csv"

    @property
    def conflicts(self) -> Path:
        return self.path / "local" / "conflicts.csv"

    @property
    def data(self) -> Path:
        return self.path / "local" / "data.json"

    @property
    def checkpoint_repo(self) -> Path:
        return self.path / "local" / "checkpoint_repo.json"

    def stage(self, number: int, name: str) -> Path:
        """Folder of Trainer's checkpoints of a stage, counted from 1."""
        return self.path / "checkpoints" / f"{number}-{name}"

    def exists(self) -> bool:
        """Whether training has begun here; a `recipe.json` of somebody else is no run."""
        try:
            return {"recipe", "flags"} <= json.loads(self.recipe.read_text(encoding="utf-8")).keys()
        except (OSError, ValueError, AttributeError):
            return False

    def check_trained(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            UserError: there is no run here, or it has no weights yet.
        """
        if not self.path.is_dir():
            raise UserError(
                f"no run '{self.path}'; it is the folder that train.py wrote, runs/RECIPE if nothing was said"
            )
        folds = FoldsFolder(self.path).stored()
        if folds:
            raise UserError(
                f"'{self.path}' holds a cross-validation; each of its folds is a run: {self.path / 'fold1'} for one"
            )
        if (self.path / SEARCH_STORE).is_file():
            raise UserError(f"'{self.path}' holds a search; the run that it chose is {self.path / SEARCH_BEST}")
        if self.recipe.is_file():
            read_json(self.recipe)  # which says so if it is damaged
        if not self.exists():
            raise UserError(
                f"'{self.path}' is no run that train.py wrote (no recipe.json of ours in it); for any other model, "
                f"python training/predict.py {self.path} IMAGES"
            )
        lost = [path.name for path in (self.weights, self.path / "config.json", self.results) if not path.is_file()]
        if lost:
            raise UserError(
                f"the run in '{self.path}' has not come to its end, or is not whole: it has no {lost[0]}; the command "
                "that began it, with --resume, goes on"
            )

    def check_free(self, resume: bool, overwrite: bool) -> bool:
        """Whether there is a run to go on with; refuse to mix this run with anything that is there already.

        Raises:
            UserError: the folder holds a run and neither flag was given, or holds something that is no run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"'{self.path}' is a file; --output_dir needs a folder")
        folds = FoldsFolder(self.path).stored()
        if folds:
            raise UserError(
                f"'{self.path}' holds a cross-validation; --folds {folds['folds']} --resume goes on with it, a single "
                "run needs another --output_dir"
            )
        if self.exists():
            if not (resume or overwrite):
                raise UserError(f"'{self.path}' holds a run already; --resume goes on, --overwrite replaces it")
            # data.json is the last that is written before training: without it there is nothing to go on from.
            return resume and not overwrite and self.data.is_file()
        if self.path.is_dir() and any(not path.name.startswith(".") for path in self.path.iterdir()):
            raise UserError(f"'{self.path}' is not empty and no run of ours; choose another --output_dir")
        return False

    def begin(self, facts: dict[str, Any]) -> None:
        """Make the folder; of an old run, everything that a run writes is removed, and nothing else.

        Raises:
            UserError: the folder cannot be written.
        """
        with writing(self.path, *GO_ON):
            self.clear()
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(facts, self.recipe)
            self.splits.parent.mkdir(exist_ok=True)

    def clear(self) -> None:
        """Remove everything that a run writes, if there is a run, and nothing else."""
        if self.exists():
            # recipe.json last: it says whose folder this is.
            for path in sorted(self.path.iterdir(), key=lambda path: path == self.recipe):
                if path.name in WRITTEN or path.match("modeling_*.py") or is_part(path):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@dataclass(frozen=True)
class FoldsFolder:
    """Paths of a cross-validation: a run folder a fold, and what they say together."""

    path: Path

    @property
    def summary(self) -> Path:
        return self.path / "folds.json"

    @property
    def plot(self) -> Path:
        return self.path / "plots" / "folds.png"

    def fold(self, number: int) -> RunFolder:
        """The run that tests fold `number`, counted from 1."""
        return RunFolder(self.path / f"fold{number}")

    def stored(self) -> dict[str, Any]:
        """What `folds.json` says; nothing if no cross-validation of ours has begun here."""
        try:
            content = json.loads(self.summary.read_text(encoding="utf-8"))
            return content if {"folds", "seed"} <= content.keys() else {}
        except (OSError, ValueError, AttributeError):
            return {}

    def begun(self) -> list[RunFolder]:
        """The runs that belong to what has begun here."""
        return [self.fold(number) for number in range(1, self.stored().get("folds", 0) + 1)]

    def check_free(self, folds: int, resume: bool, overwrite: bool) -> bool:
        """Whether there are folds to go on with; as `RunFolder.check_free`.

        Raises:
            UserError: neither flag was given for what is there, or it is of another number of folds, or something else.
        """
        stored = self.stored()
        if not stored:
            if RunFolder(self.path).exists():
                raise UserError(f"'{self.path}' holds a single run; --folds {folds} needs another --output_dir")
            return RunFolder(self.path).check_free(resume, overwrite)
        if not (resume or overwrite):
            raise UserError(
                f"'{self.path}' holds a cross-validation already; --resume goes on, --overwrite replaces it"
            )
        if overwrite or "images" not in stored:  # they are counted when all folds are ready for training
            return False
        if stored["folds"] != folds:
            raise UserError(
                f"the cross-validation in '{self.path}' began with {stored['folds']} folds; --resume wants --folds "
                f"{stored['folds']}, --overwrite starts anew"
            )
        lost = [fold.path for fold in self.begun() if not (fold.exists() and fold.data.is_file())]
        if lost:
            raise UserError(f"'{lost[0]}' is not whole any more; --overwrite starts the cross-validation anew")
        return True

    def begin(self, facts: dict[str, Any]) -> None:
        """Make the folder; of an old cross-validation, everything that it wrote is removed, and nothing else.

        Raises:
            UserError: the folder cannot be written.
        """
        with writing(self.path, *GO_ON):
            for fold in self.begun():
                fold.clear()
                if fold.path.is_dir() and not any(fold.path.iterdir()):
                    fold.path.rmdir()
            self.plot.unlink(missing_ok=True)
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(facts, self.summary)


def read_json(path: Path) -> dict[str, Any]:
    """What a file of ours says.

    Raises:
        UserError: it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"'{path}' cannot be read ({reason}); start anew with --overwrite") from error


def sha256(path: Path) -> str:
    """Of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_skipped(skipped: list[Skipped], path: Path) -> None:
    """Write `skipped.csv`: path and reason of each file that is not trained on."""
    with replaced(path) as file:
        writer = harmless_csv.Writer(file)
        writer.writerow(("path", "reason"))
        writer.writerows((each.path, each.reason) for each in skipped)


def stored_skipped(path: Path) -> list[Skipped]:
    """What `skipped.csv` lists; nothing where it is gone or broken: no figure hangs on it."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [Skipped(line["path"], line["reason"]) for line in harmless_csv.read_dicts(file)]
    except (OSError, ValueError, LookupError, csv.Error):
        return []


def recipe_facts(recipe: Recipe, base_model: Any, stage_flags: list[dict[str, Any]]) -> dict[str, Any]:
    """What `recipe.json` says: the recipe as run, without local paths, and what it ran with."""
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    return {
        "recipe": _plain({**values, "base_model": base_model}),
        "flags": _plain(stage_flags),
        **session(),
    }


def session() -> dict[str, Any]:
    """What this is computed with: the project's commit and the libraries' versions."""
    return {"git_commit": _git_commit(), "versions": {name: _version(name) for name in PACKAGES}}


def check_same(
    stored: Path,
    facts: dict[str, Any],
    where: str | None = None,
    anew: str = "--overwrite starts anew",
    who: str = "--resume",
) -> None:
    """Refuse to go on with a run under another recipe or other flags than it began with.

    `where` names the run if it is not the folder of `stored`; `who` goes on with it, and `anew` ends the sentence.

    Raises:
        UserError: they differ; says in what.
    """
    before = json.loads(stored.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(facts))
    recipe = [each for each in _differences(before["recipe"], now["recipe"]) if each[0].split(".")[0] not in FREE_FACTS]
    # Runs from before a stage had views have one number for all stages, below.
    recipe = [(name, was, now_is) for name, was, now_is in recipe if not (name.endswith(".views") and was is None)]
    flags = []
    for number, both in enumerate(zip(before["flags"], now["flags"], strict=False), 1):
        was, now_is = ({k: v for k, v in values.items() if not FREE_FLAGS.fullmatch(k)} for values in both)
        flags += _differences(was, now_is, f"--stage{number}")
    asked, views = now.get("feature_views"), before.get("feature_views", 0)  # before there was the choice
    if asked not in (None, views):
        flags.append(("--feature_views", "the recipe's" if views is None else views, asked))
    if recipe or flags:
        what = " and ".join(["another recipe"] * bool(recipe) + ["other flags"] * bool(flags))
        told = ", ".join(
            f"{name}: {_short(was)} then, {_short(now_is)} now" for name, was, now_is in (recipe + flags)[:3]
        )
        raise UserError(
            f"the run in '{where or stored.parent}' began with {what} ({told}); {who} wants the command that began "
            f"it, {anew}"
        )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name and both values of whatever differs, as deep as it can be named; what is in a list counts from 1."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        before, now = (dict(enumerate(values, 1)) for values in (before, now))
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before | now:
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield name, before, now


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _plain(value: Any) -> Any:
    """Dataclasses as dicts that keep the name of their class, where it matters; of local paths the name alone."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return Path(value).name if isinstance(value, str) and os.path.exists(value) else value


def _git_commit() -> str | None:
    """This project's commit, with "-dirty" if files differ from it; None where there is no git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
