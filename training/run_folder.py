"""The run folder: what lies where in it, and the little that is written beside the model.

The layout is a contract: see the README. Nothing below `local/` or `checkpoints/` is ever uploaded with the model.
"""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from training.data.intake import Skipped
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
    def curves(self) -> Path:
        return self.path / "plots" / "curves.png"

    @property
    def splits(self) -> Path:
        return self.path / "local" / "splits.csv"

    @property
    def skipped(self) -> Path:
        return self.path / "local" / "skipped.csv"

    @property
    def data(self) -> Path:
        return self.path / "local" / "data.json"

    def stage(self, number: int, name: str) -> Path:
        """Folder of Trainer's checkpoints of a stage, counted from 1."""
        return self.path / "checkpoints" / f"{number}-{name}"

    def exists(self) -> bool:
        """Whether training has begun here."""
        return self.recipe.is_file()

    def check_free(self, resume: bool, overwrite: bool) -> bool:
        """Whether there is a run to go on with; refuse to mix this run with anything that is there already.

        Raises:
            UserError: the folder holds a run and neither flag was given, or holds something that is no run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"'{self.path}' is a file; --output_dir needs a folder")
        if self.exists():
            if not (resume or overwrite):
                raise UserError(f"'{self.path}' holds a run already; --resume goes on, --overwrite replaces it")
            return resume and not overwrite
        if self.path.is_dir() and any(self.path.iterdir()):
            raise UserError(f"'{self.path}' is not empty and no run of ours; choose another --output_dir")
        return False

    def begin(self, facts: dict[str, Any], overwrite: bool) -> None:
        """Make the folder; of an old run, only with `overwrite`, everything is removed."""
        if overwrite and self.exists():
            for path in self.path.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (self.path / "local").mkdir(parents=True, exist_ok=True)
        write_json(facts, self.recipe)


def write_json(content: Any, path: Path) -> None:
    """Write indented JSON under a temporary name and move it, so that the file is whole or not there."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def write_skipped(skipped: list[Skipped], path: Path) -> None:
    """Write `skipped.csv`: path and reason of each file that is not trained on."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "reason"))
        writer.writerows((each.path, each.reason) for each in skipped)


def recipe_facts(recipe: Recipe, base_model: Any, stage_flags: list[dict[str, Any]]) -> dict[str, Any]:
    """What `recipe.json` says: the recipe as run, without local paths, and what it ran with."""
    values = {field.name: _plain(getattr(recipe, field.name)) for field in dataclasses.fields(recipe)}
    return {
        "recipe": {**values, "base_model": base_model},
        "flags": [{name: _without_path(value) for name, value in flags.items()} for flags in stage_flags],
        "git_commit": _git_commit(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def check_same(stored: Path, facts: dict[str, Any]) -> None:
    """Refuse to go on with a run under another recipe or other flags than it began with.

    Raises:
        UserError: they differ; says in what.
    """
    before = json.loads(stored.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(facts))
    differ = [name for name in now["recipe"] if before["recipe"].get(name) != now["recipe"][name]]
    if before["flags"] != now["flags"]:
        differ.append("flags")
    if differ:
        shown = differ[0]
        was, now_is = (facts.get(shown) or facts["recipe"][shown] for facts in (before, now))
        raise UserError(
            f"the run in '{stored.parent}' began with another {' and '.join(differ)} ({shown}: {was} then, {now_is} "
            "now); --resume wants the command that began it, --overwrite starts anew"
        )


def _plain(value: Any) -> Any:
    """Dataclasses as dicts that keep the name of their class, for values where it matters which class it is."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _without_path(value: Any) -> Any:
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
