"""What a run folder says, read from its files: the facts of a model card."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hub_utils.portable import harmless_csv
from hub_utils.portable.golden import weights_sha256
from hub_utils.portable.markdown import one_line

SPLITS = ("train", "validation", "test")
SPLIT_WORDS = {"validation": {"val", "valid", "validation", "dev"}, "test": {"test", "testing"}}  # as data are read


@dataclass(frozen=True)
class Facts:
    """What the files of a run say; `test` is None until the weights that lie there have been evaluated."""

    run: Path
    repo_id: str | None
    recipe: dict[str, Any]
    ran_with: dict[str, Any]  # recipe.json beside the recipe itself: flags, commit, versions
    classes: list[str]
    config: dict[str, Any]
    processor: dict[str, Any]
    results: dict[str, Any]
    test: dict[str, Any] | None
    serving: dict[str, Any]  # serving.json, if it is of the weights that lie there
    history: list[dict[str, str]]
    dataset: dict[str, Any]  # id, revision and configuration of a data set on the Hub
    images: Counter  # by split and class; empty for a stream
    groups: Counter  # images by the group they belong to, for the images that have one
    patients: int  # groups that the data themselves name
    conflicts: list[str]  # a cluster for each file that shows a picture of two classes
    drawn: list[str] | None  # splits that the data did not bring; None where that cannot be told

    @property
    def model(self) -> str:
        """Repo id, or the folder where a run lies by default."""
        return self.repo_id or one_line(f"runs/{self.run.name}")

    @property
    def eval_command(self) -> str:
        return f"python training/eval.py {shlex.quote(f'runs/{one_line(self.run.name)}')}"

    @property
    def medical(self) -> bool:
        return bool(self.recipe["card"].get("medical"))

    @property
    def stages(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Each stage of the recipe and its `TrainingArguments`, flags included."""
        flags = self.ran_with.get("flags") or [{} for _ in self.recipe["stages"]]
        return [(s, {**s["arguments"], **given}) for s, given in zip(self.recipe["stages"], flags, strict=True)]

    @property
    def test_images(self) -> int:
        return self.test["images"] if self.test else self.results["images"]["test"]


def read_run(run: Path, repo_id: str | None) -> Facts:
    """What lies in the folder `run`, which may be on its way to `repo_id`.

    Raises:
        ValueError: it is no trained run, a file of it is broken, or `repo_id` is none.
    """
    if repo_id is not None:
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise ValueError(f"'{repo_id}' is no id of a repository on the Hub: {error}") from error
    for name in ("recipe.json", "config.json", "all_results.json"):
        if not (run / name).is_file():
            raise ValueError(f"'{run}' has no {name}: train it to its end first")
    ran_with, config = _json(run / "recipe.json"), _json(run / "config.json")
    if not {"recipe", "flags"} <= ran_with.keys():
        raise ValueError(f"'{run / 'recipe.json'}' is no recipe of a run")
    data = _json(run / "local" / "data.json")
    rows = _csv(run / "local" / "splits.csv")
    paths = {row["path"] for name in ("splits.csv", "skipped.csv") for row in _csv(run / "local" / name)}
    groups = Counter(row["group"] for row in rows if row["group"])
    return Facts(
        run=run,
        repo_id=repo_id,
        recipe=ran_with["recipe"],
        ran_with=ran_with,
        classes=_classes(config),
        config=config,
        processor=_json(run / "preprocessor_config.json"),
        results=_json(run / "all_results.json"),
        test=_evaluation(run),
        serving=_serving(run),
        history=_csv(run / "log_history.csv"),
        dataset={key: data[key] for key in ("dataset", "revision", "config") if data.get(key)},
        images=Counter((row["split"], row["label"]) for row in rows),
        groups=groups,
        patients=len(groups.keys() - paths),  # what was only found to look alike is named by a path
        conflicts=[row["cluster"] for row in _csv(run / "local" / "conflicts.csv")],
        drawn=_drawn(data, rows, ran_with["recipe"]["data"]),
    )


def _drawn(data: dict[str, Any], rows: list[dict[str, str]], reading: dict[str, Any]) -> list[str] | None:
    """Splits that were divided off the data's own training images, or off all of them.

    The data brought a split if all its images, and none of those trained on, lie below a folder (or a split of the Hub)
    of that name, or are named after it. Where no path tells, a table may have.
    """
    if "survey" in data:
        return data["survey"]["held_out"]
    named = {split: [_named_splits(row["path"], reading) for row in rows if row["split"] == split] for split in SPLITS}
    own = [
        split
        for split in SPLIT_WORDS
        if named[split]
        and all(split in each for each in named[split])
        and not any(split in each for each in named["train"])
    ]
    sure = own or (data.get("dataset") and not data.get("streaming"))
    return [split for split in SPLIT_WORDS if split not in own] if sure else None


def _named_splits(path: str, reading: dict[str, Any]) -> set[str]:
    """Those that the folders of a path are called after, and the one that the recipe's pattern finds in it."""
    words = set(re.findall("[a-z]+", path.rpartition("/")[0].lower()))
    match = re.search(reading.get("pattern") or "$", path)
    found = match.groupdict().get("split") if match else None
    words |= {(reading.get("split_names") or {}).get(found, found).lower()} if found else set()
    return {split for split, called in SPLIT_WORDS.items() if words & called}


def _json(path: Path) -> dict[str, Any]:
    """What a file says; nothing if it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise ValueError(f"'{path}' cannot be read: {error}") from error


def _csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(harmless_csv.read_dicts(file))


def _classes(config: dict[str, Any]) -> list[str]:
    """In the order of the logits."""
    if "label_names" in config:  # timm's layout
        return config["label_names"]
    return [config["id2label"][str(index)] for index in range(len(config["id2label"]))]


def _serving(run: Path) -> dict[str, Any]:
    """Nothing if it is missing, broken or of other weights: a push then writes it anew."""
    try:
        serving = _json(run / "serving.json")
    except ValueError:
        return {}
    weights = run / "model.safetensors"
    return {} if weights.is_file() and serving.get("weights_sha256") != weights_sha256(run) else serving


def _evaluation(run: Path) -> dict[str, Any] | None:
    """`test_results.json`, unless it is missing or of other weights than those that lie there."""
    test = _json(run / "test_results.json") or None
    if test and test.get("model_sha256") and (run / "model.safetensors").is_file():
        return test if weights_sha256(run) == test["model_sha256"] else None
    return test
