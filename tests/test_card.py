"""The model card: what it says of a run, what it never says, and that no name breaks it."""

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from hub_utils.card import as_code, as_text, write_card
from training.fitting.network import base_model_facts
from training.recipe import Card, Recipe, load_recipe, recipe_names
from training.results.metrics import wilson_interval
from training.run_folder import recipe_facts

FLOWERS = ("daisy", "dandelion", "rose", "sunflower", "tulip")
CELLS = ("Benign", "[Malignant] Pre-B", "[Malignant] Pro-B", "[Malignant] early Pre-B")
ROCKS = tuple(f"Rock {number}" for number in range(30))
DOGS = tuple(f"Breed_{number}" for number in range(120))
CLASSES = {
    "breast_cancer": ("benign", "malignant"),
    "digits": tuple("0123456789"),
    "dog_breeds": DOGS,
    "flowers": FLOWERS,
    "flowers_densenet": FLOWERS,
    "folder": ("Anna's cat", "dog"),
    "leukemia": CELLS,
    "rocks": ROCKS,
    "rocks_embedding": ROCKS,
}
VERSIONS = {"torch": "2.15.0", "transformers": "5.23.0", "timm": None}
NEVER = re.compile(r"\{\{|\{%|\b(None|nan|NaN|null|undefined)\b|(?i:more information needed)|/tmp|/home/|C:\\")


def write(content: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def write_rows(head: Sequence[str], rows: Sequence[Sequence], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


def share(right: int, total: int, reason: str = "nothing to divide by") -> dict[str, Any]:
    """An estimate as `test_results.json` has it."""
    if total == 0:
        return {"value": None, "interval": None, "reason": reason}
    return {"value": right / total, "interval": wilson_interval(right, total), "method": "Wilson"}


def estimate(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "interval": [low, high], "method": "bootstrap over groups"}


def counts_for(classes: Sequence[str], each: int = 20) -> list[list[int]]:
    """A confusion matrix: of every class some are taken for the next one, and fewer of later classes."""
    size = len(classes)
    matrix = [[0] * size for _ in classes]
    for index in range(size):
        wrong = max(0, 4 - index)
        matrix[index][index] = each - wrong
        matrix[index][(index + 1) % size] += wrong
    return matrix


def evaluation(classes: Sequence[str], confusion: list[list[int]], colour: float = 0.5) -> dict[str, Any]:
    """`test_results.json` of that confusion matrix; what does not follow from it is made up."""
    size = range(len(classes))
    images, right = sum(map(sum, confusion)), sum(confusion[i][i] for i in size)
    metrics = {
        "accuracy": share(right, images),
        "balanced_accuracy": estimate(0.9, 0.86, 0.93),
        "macro_f1": estimate(0.8989, 0.855, 0.931),
        "log_loss": estimate(0.3123, 0.24, 0.39),
        "brier_score": estimate(0.151, 0.11, 0.19),
        "expected_calibration_error": estimate(0.0312, 0.02, 0.07),
    }
    result = {
        "split": "test",
        "classes": list(classes),
        "missing": [],
        "images": images,
        "groups": images - 4,
        "metrics": metrics,
        "operating_points": None,
        "per_class": {
            name: {
                "precision": share(confusion[i][i], sum(row[i] for row in confusion), "no image was given this class"),
                "recall": share(confusion[i][i], sum(confusion[i]), "no test image of this class"),
                "f1": share(2 * confusion[i][i], sum(confusion[i]) + sum(row[i] for row in confusion)),
                "support": sum(confusion[i]),
            }
            for i, name in enumerate(classes)
        },
        "confusion": confusion,
        "reliability": [],
        "floors": {
            "majority": {**share(sum(confusion[0]), images), "says": classes[0]},
            "colour_neighbour": share(round(colour * images), images),
        },
        "temperature": 1.31,
        "model_class": "ResNetForImageClassification",
        "commit": "589fb31a4aaa4e09d37cc840baf5b1afa5f68ad4",
        "versions": VERSIONS,
        "hardware": "cpu · fp32 · 2 threads",
        "seconds": 4.2,
        "date": "2026-11-20T10:11:12+00:00",
    }
    if len(classes) > 10:
        metrics["top_5_accuracy"] = share(images - 1, images)
    if len(classes) == 2:
        metrics |= {
            "roc_auc": estimate(0.957, 0.91, 0.99),
            "average_precision": estimate(0.961, 0.92, 0.99),
            "sensitivity": share(confusion[1][1], sum(confusion[1])),
            "specificity": share(confusion[0][0], sum(confusion[0])),
        }
        result["positive"] = classes[1]
        result["operating_points"] = {
            "at_half": {"threshold": 0.5, "sensitivity": share(17, 20), "specificity": share(16, 20)},
            "at_95_sensitivity": {"threshold": 0.31, "sensitivity": share(19, 20), "specificity": share(13, 20)},
        }
    return result


def made_run(
    folder: Path,
    recipe: Recipe,
    classes: Sequence[str],
    test: dict[str, Any] | None,
    *,
    flags: list[dict[str, Any]] | None = None,
    data: dict[str, Any] | None = None,
    plots: Sequence[str] = ("curves",),
    patients: bool = False,
) -> Path:
    """A run folder as training and evaluation leave it, without the weights."""
    flags = flags or [{} for _ in recipe.stages]
    facts = recipe_facts(recipe, base_model_facts(recipe), flags)
    write({**facts, "git_commit": "5691ff4a4aaa4e09d37cc840baf5b1afa5f68ad4", "versions": VERSIONS}, folder / "recipe.json")
    write_config(folder, recipe, list(classes))
    rows = [
        (f"{name}/{split}-{number}.jpg", "0" * 64, name, split, f"P{index}-{split}" if patients else "")
        for index, name in enumerate(classes)
        for split, count in (("train", 60), ("validation", 10), ("test", 20))
        for number in range(count)
    ]
    if not patients:
        first = rows[0][0]
        rows[:2] = [(*row[:4], first) for row in rows[:2]]
    write_rows(("path", "sha256", "label", "split", "group"), rows, folder / "local" / "splits.csv")
    write_rows(("path", "reason"), [], folder / "local" / "skipped.csv")
    write(data or {"data_dir": "/tmp/secret/photos"}, folder / "local" / "data.json")
    head = ("stage", "epoch", "validation_loss", "validation_accuracy")
    history = [
        (stage.name, f"{epoch}.0", abs(epoch - 3) / 10 + 0.4, 0.8)
        for stage in recipe.stages
        for epoch in range(1, 6 if stage.arguments["num_train_epochs"] >= 5 else 3)
    ]
    write_rows(head, history, folder / "log_history.csv")
    before, after = ({"loss": loss, "expected_calibration_error": error} for loss, error in ((0.345, 0.06), (0.31, 0.03)))
    results = {
        "model_class": "ResNetForImageClassification",
        "validation": {"accuracy": 0.91, "macro_f1": 0.908, "loss": 0.3},
        "test": {"accuracy": 0.9, "macro_f1": 0.8989, "loss": 0.3123},
        "seconds": 692.5,
        "hardware": "cpu · bf16 · channels-last · 2 threads · 0 loader workers",
        "processes": 1,
        "images": {split: count * len(classes) for split, count in (("train", 60), ("validation", 10), ("test", 20))},
        "parameters": 24_074_053,
        "temperature": 1.31,
        "calibration": {split: {"before": before, "after": after} for split in ("validation", "test")},
    }
    write(results, folder / "all_results.json")
    if test is not None:
        write(test, folder / "test_results.json")
    for name in plots:
        (folder / "plots").mkdir(exist_ok=True)
        (folder / "plots" / f"{name}.png").write_bytes(b"\x89PNG")
    return folder


def write_config(folder: Path, recipe: Recipe, classes: list[str]) -> None:
    """What the deployable of that recipe says of itself: timm's own, the custom class or transformers' own."""
    hidden = sum(type(layer).__name__ == "Linear" for layer in recipe.head) > 1
    if str(recipe.base_model).startswith("timm/") and not hidden:
        config = {"model_type": "timm_wrapper", "label_names": classes, "pretrained_cfg": {"input_size": [3, 224, 224]}}
        return write(config, folder / "config.json")
    names = {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}
    custom = "modeling_backbone_with_head.BackboneWithHead"
    auto_map = {"AutoConfig": f"{custom}Config", "AutoModelForImageClassification": f"{custom}ForImageClassification"}
    write({"model_type": "resnet", **names, **({"auto_map": auto_map} if hidden else {})}, folder / "config.json")
    write({"size": {"shortest_edge": recipe.image_size or 224}}, folder / "preprocessor_config.json")
    return None


def run_of(folder: Path, name: str, **changes: Any) -> Path:
    """A run of one of the recipes, evaluated."""
    classes = CLASSES[name]
    test = evaluation(classes, counts_for(classes), changes.pop("colour", 0.5))
    recipe = replace(load_recipe(name), **changes.pop("recipe", {}))
    patients = name == "breast_cancer"
    return made_run(folder / name, recipe, classes, changes.pop("test", test), patients=patients, **changes)


def card_of(run: Path, repo_id: str | None = None) -> str:
    return write_card(run, repo_id).read_text(encoding="utf-8")


def body(card: str) -> str:
    return card.split("\n---\n", 1)[1]


def front(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("\n---\n", 1)[0])


def rendered(markdown: str) -> str:
    return MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(markdown)


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^(#+ .*)$", re.sub(r"```.*?```", "CODE", text, flags=re.DOTALL), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# Every recipe


@pytest.mark.parametrize("evaluated", [True, False])
@pytest.mark.parametrize("name", recipe_names())
def test_the_card_of_every_recipe_is_whole(name, evaluated, tmp_path):
    run = run_of(tmp_path, name, **({} if evaluated else {"test": None}))
    for repo_id in (None, "you/model"):
        card = card_of(run, repo_id)
        assert not NEVER.search(card)
        assert str(tmp_path) not in card and "secret" not in card and "P0-train" not in card
        assert not re.search(r"(?<![\w.:/)])/[a-z]+/", re.sub(r"https?://\S+", "", card))  # no absolute path
        assert not re.search(r"\n\n\n| \n|\(\)|: \.|\*\*\*\*", card)
        empty = [title for title, text in sections(body(card)).items() if not text.strip()]
        assert [title for title in empty if not title.startswith("# ")] == []
        assert front(card)["pipeline_tag"] == "image-classification"


def test_there_is_a_case_for_every_recipe():
    assert sorted(CLASSES) == recipe_names() and len(CLASSES) == 9


# cp RUN/README.md tests/fixtures/cards/flowers.md, of the run that this test makes, writes the file anew:
#   python -c "import sys; sys.path.insert(0, 'tests'); import test_card; test_card.write_golden()"
GOLDEN = ROOT / "tests" / "fixtures" / "cards" / "flowers.md"


def golden_run(folder: Path) -> Path:
    plots = ("confusion", "curves", "discrimination", "recall", "reliability")
    return run_of(folder, "flowers", plots=plots, flags=[{}, {"num_train_epochs": 5.0, "learning_rate": 1e-4}])


def write_golden() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_bytes(write_card(golden_run(Path(folder)), "you/flowers").read_bytes())


def test_a_card_is_to_the_letter_what_a_reader_has_read_and_found_good(tmp_path):
    assert card_of(golden_run(tmp_path), "you/flowers") == GOLDEN.read_text(encoding="utf-8")
