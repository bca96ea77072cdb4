"""The model card: what it says of a run, what it never says, and that no name breaks it."""

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from hub_utils.card import is_as_written, write_card
from hub_utils.portable.markdown import as_code, as_text
from training.fitting.network import base_model_facts
from training.recipe import Card, Recipe, load_recipe, recipe_names
from training.results.evaluation import evaluate_split
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
    "flowers_tuned": FLOWERS,
    "folder": ("Anna's cat", "dog"),
    "leukemia": CELLS,
    "rocks": ROCKS,
    "rocks_embedding": ROCKS,
    "rocks_tuned": ROCKS,
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
    write(
        {**facts, "git_commit": "5691ff4a4aaa4e09d37cc840baf5b1afa5f68ad4", "versions": VERSIONS},
        folder / "recipe.json",
    )
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
    before, after = (
        {"loss": loss, "expected_calibration_error": error} for loss, error in ((0.345, 0.06), (0.31, 0.03))
    )
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
    kind = {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.875, "resample": 2}
    kind |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    write({**kind, "size": {"shortest_edge": recipe.image_size or 224}}, folder / "preprocessor_config.json")
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
    """HTML, as the Hub makes it: tables and raw HTML are understood."""
    return MarkdownIt("commonmark").enable("table").render(markdown)


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
    assert sorted(CLASSES) == recipe_names() and len(CLASSES) == 11


# After a change of the words, write the file anew, read it, and keep it if it is good:
#   python -c "import sys; sys.path.insert(0, 'tests'); import test_card; test_card.write_golden()"
GOLDEN = ROOT / "tests" / "fixtures" / "cards" / "flowers.md"


SERVING = {
    "weights_sha256": "0" * 64,
    "not_sure": {
        **{"threshold": 0.6213, "split": "validation", "images": 50, "answered": 0.86, "accuracy_answered": 0.953},
        **{"accuracy_all": 0.9, "rule": "the lowest that …"},
    },
    "strangeness": {
        **{"method": "residual-1", "width": 2, "axes": "", "threshold": 0.70421, "split": "validation", "images": 50},
        **{"share_below": 0.98, "rule": "once in 50 …", "test": {"images": 100, "share_below": 0.985}},
    },
}


def golden_run(folder: Path) -> Path:
    plots = ("confusion", "curves", "discrimination", "recall", "reliability")
    write(SERVING, folder / "flowers" / "serving.json")
    return run_of(folder, "flowers", plots=plots, flags=[{}, {"num_train_epochs": 5.0, "learning_rate": 1e-4}])


def test_the_card_says_when_the_model_doubts_what_it_can(tmp_path):
    """Training alone knows no test images; of few images there is no threshold; a broken file is written anew."""
    alone = {name: value for name, value in SERVING["strangeness"].items() if name != "test"}
    run = run_of(tmp_path, "digits")
    write({**SERVING, "strangeness": alone}, run / "serving.json")
    assert "is said of 2.0 % of the validation images. `serving.json` holds both" in card_of(run)
    write({**SERVING, "strangeness": {"threshold": None, "reason": "too few"}}, run / "serving.json")
    card = card_of(run)
    assert "below 62.1 % is better called “not sure”" in card and "does not look like" not in card
    assert "`serving.json` holds the threshold and how it was chosen." in card
    none = SERVING["not_sure"] | {"answered": 0.0, "accuracy_answered": None}
    write({"not_sure": none, "strangeness": {"reason": "the head"}}, run / "serving.json")
    assert "0.0 % of the validation images have a higher one (of all answers 90.0 %)" in card_of(run)
    (run / "serving.json").write_text("{cut off")
    assert "serving.json" not in card_of(run)
    write(SERVING, run / "serving.json")
    (run / "model.safetensors").write_bytes(b"other weights")
    assert "serving.json" not in card_of(run)


def write_golden() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_bytes(write_card(golden_run(Path(folder)), "you/flowers").read_bytes())


def test_a_card_is_to_the_letter_what_a_reader_has_read_and_found_good(tmp_path):
    assert card_of(golden_run(tmp_path), "you/flowers") == GOLDEN.read_text(encoding="utf-8")


# What is said first, and what of what


def test_a_medical_card_warns_before_it_says_anything_else(tmp_path):
    for name in ("leukemia", "breast_cancer"):
        text = body(card_of(run_of(tmp_path, name)))
        first = text.split("#")[3]
        assert first.startswith(" Not a medical device")
        assert "must not be used to diagnose" in first and "approval of the authority in charge" in first
        assert as_text(load_recipe(name).card.limits) in first and text.count(load_recipe(name).card.limits) == 1
    assert "[Not a medical device]" not in card_of(run_of(tmp_path, "flowers"))
    assert "medical device" not in card_of(run_of(tmp_path, "flowers"))


def test_whose_images_they_are_is_said_only_where_the_files_say_it(tmp_path):
    assert "This run used a part of them, the images of 6 patients; nobody's stand in both" in card_of(
        run_of(tmp_path, "breast_cancer")
    )
    assert "The files do not say whose images they are" in card_of(run_of(tmp_path, "leukemia"))
    few = Card(license="mit", limits="6 patients of one laboratory.", medical=True)
    whole = card_of(run_of(tmp_path / "whole", "breast_cancer", recipe={"card": few}))
    assert "This run used the images of 6 patients; nobody's stand in both" in whole


def test_a_group_named_after_a_left_out_copy_is_no_patient(tmp_path):
    run = run_of(tmp_path, "leukemia")
    rows = [("a/1.jpg", "0", "Benign", "train", "a/0.jpg"), ("a/2.jpg", "0", "Benign", "train", "a/0.jpg")]
    write_rows(("path", "sha256", "label", "split", "group"), rows, run / "local" / "splits.csv")
    write_rows(("path", "reason"), [("a/0.jpg", "a near-duplicate")], run / "local" / "skipped.csv")
    assert "The files do not say whose images they are" in card_of(run)


@pytest.mark.parametrize(
    ("colour", "told"),
    [
        (0.98, "**Colour alone does as well**"),
        (1.0, "**Colour alone does better than the model**"),
        (0.91, "**Colour alone does as well**"),
        (0.84, "**Colour alone may do as well**"),
        (0.80, "**Colour alone may do as well**"),  # below the interval of the accuracy, with its own in it
        (
            0.30,
            "The accuracy is clearly above that of always giving the same answer (20.0 %) and colour alone (30.0 %)",
        ),
    ],
)
def test_the_accuracy_is_read_beside_the_floors(colour, told, tmp_path):
    card = card_of(run_of(tmp_path, "flowers", colour=colour))
    assert told in card
    assert f"| … of the nearest training image by colour alone | {colour:.1%}".replace("%", " %") in card
    apart = colour in (0.30, 1.0)
    assert ("the intervals overlap" not in card) == apart


def test_one_answer_whose_interval_reaches_into_that_of_the_accuracy_is_not_beaten(tmp_path):
    test = evaluation(("benign", "malignant"), [[60, 0], [10, 30]])  # 90 %, from 82.6 %
    test["floors"]["majority"] |= {"value": 0.80, "interval": [0.711, 0.867]}
    card = card_of(run_of(tmp_path, "breast_cancer", test=test))
    assert "**The accuracy is not clearly above that of always giving the same answer** (80.0 %)" in card


def test_an_accuracy_that_one_answer_reaches_too_is_said_to_show_nothing(tmp_path):
    test = evaluation(("benign", "malignant"), [[36, 0], [3, 1]])
    card = card_of(run_of(tmp_path, "breast_cancer", test=test))
    assert "**The accuracy is not clearly above that of always giving the same answer** (90.0 %)" in card
    assert "clearly above that of colour alone (50.0 %)" in card


def test_floors_that_were_not_measured_are_not_missed_in_silence(tmp_path):
    test = evaluation(FLOWERS, counts_for(FLOWERS)) | {"floors": {}}
    assert "no floors were measured" in card_of(run_of(tmp_path, "flowers", test=test))


def test_the_most_confused_pairs_are_named_in_words(tmp_path):
    confusion = [[18, 2, 0, 0, 0], [0, 20, 0, 0, 0], [0, 0, 15, 0, 5], [0, 0, 0, 19, 1], [0, 0, 3, 0, 17]]
    card = card_of(run_of(tmp_path, "flowers", test=evaluation(FLOWERS, confusion)))
    assert (
        "11 of 100 test images were taken for another class; most often rose for tulip (5 of 20 images), tulip for "
        "rose (3 of 20 images) and daisy for dandelion (2 of 20 images)."
    ) in card


def test_without_mistakes_there_is_no_most_confused_pair(tmp_path):
    test = evaluation(FLOWERS, [[20 * (i == j) for j in range(5)] for i in range(5)])
    assert "No test image was taken for another class." in card_of(run_of(tmp_path, "flowers", test=test))


def test_what_is_undefined_is_given_with_its_reason_and_nowhere_as_a_number(tmp_path):
    confusion = [[20, 0, 0, 0, 0], [0, 19, 1, 0, 0], [0, 0, 20, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 20]]
    test = evaluation(FLOWERS, confusion) | {"missing": ["sunflower"]}
    test["metrics"]["macro_f1"] = {"value": None, "interval": None, "reason": "a class without a test image"}
    card = card_of(run_of(tmp_path, "flowers", test=test))
    assert "| Macro F1 | – | not defined: a class without a test image |" in card
    assert "| sunflower | 0 | – | – | – |" in card
    assert "Recall of sunflower is not defined: no test image of this class." in card
    assert "Without a test image, so that nothing is known of them: sunflower." in card
    assert "f1" not in [result.metric_type for result in ModelCard(card).data.eval_results]
    assert not NEVER.search(card)


def test_two_classes_have_their_thresholds(tmp_path):
    card = card_of(run_of(tmp_path, "breast_cancer"))
    assert "“malignant” is answered where its probability reaches the threshold." in card
    assert "| 0.310 | 95.0 % [76.4 to 99.1 %] | 65.0 % [43.3 to 81.9 %] |" in card
    test = evaluation(("benign", "malignant"), [[20, 0], [20, 0]])
    undefined = {"value": None, "interval": None, "reason": "no malignant image in validation"}
    point = {"threshold": None, "sensitivity": undefined, "specificity": undefined}
    test["operating_points"]["at_95_sensitivity"] = point
    card = card_of(run_of(tmp_path / "other", "breast_cancer", test=test))
    assert "| – | – | – |" in card and "Not defined: no malignant image in validation." in card
    assert "### Thresholds" not in card_of(run_of(tmp_path, "flowers"))


@pytest.mark.parametrize(
    ("threshold", "written"),
    [(0.00043, "0.000430"), (0.99957, "0.999570"), (0.31, "0.310"), (0.5, "0.500"), (4.3e-9, "4.3e-09"),
     (1 - 4.3e-9, "1 − 4.3e-09"), (0.0, "0"), (1.0, "1")],
)  # fmt: skip
def test_a_threshold_near_nothing_or_all_keeps_its_digits(threshold, written, tmp_path):
    test = evaluation(("benign", "malignant"), [[16, 4], [3, 17]])
    test["operating_points"]["at_95_sensitivity"]["threshold"] = threshold
    assert f"\n| {written} | 95.0 %" in card_of(run_of(tmp_path, "breast_cancer", test=test))


def test_the_hub_is_told_which_threshold_which_mean_and_which_form(tmp_path):
    results = ModelCard(card_of(run_of(tmp_path, "breast_cancer"))).data.eval_results
    told = {result.metric_type: result.metric_args for result in results if result.metric_args}
    half = {"threshold": 0.5}
    assert told == {
        "f1": {"average": "macro"}, "brier_score": {"scale_by_half": True}, "sensitivity": half, "specificity": half,
    }  # fmt: skip


def test_methods_are_told_of_figures_by_their_names(tmp_path):
    test = evaluation(FLOWERS, counts_for(FLOWERS))
    test["metrics"]["log_loss"]["method"] = test["metrics"]["brier_score"]["method"] = "studentised"
    assert "log loss and Brier score: studentised" in card_of(run_of(tmp_path, "flowers", test=test))


def test_many_classes_are_folded_away(tmp_path):
    card = card_of(run_of(tmp_path, "dog_breeds"))
    assert card.count("<details>") == card.count("</details>") == 3
    assert "Lowest recall: Breed_0 80.0 %, Breed_1 85.0 %" in card
    html = rendered(body(card))
    assert html.count("<table>") == 7 and html.count("<details>") == 3
    assert "photographs are part of ImageNet" in card
    assert card_of(run_of(tmp_path, "digits")).count("<details>") == 0


def test_calibration_is_told_with_both_sides(tmp_path):
    run = run_of(tmp_path, "flowers")
    assert "| Test images | 0.345 | 0.310 | 0.060 | 0.030 |" in card_of(run)
    results = json.loads((run / "all_results.json").read_text())
    write(results | {"temperature": None}, run / "all_results.json")
    assert "No temperature was fitted: the probabilities are the network's own." in card_of(run)
    write({k: v for k, v in results.items() if k not in ("temperature", "calibration")}, run / "all_results.json")
    assert "### Calibration" not in card_of(run)


def test_a_temperature_of_one_is_told_as_what_it_is(tmp_path):
    run = run_of(tmp_path, "flowers")
    assert "a temperature of 1.31" in card_of(run) and "calibrated" not in card_of(run)
    results = json.loads((run / "all_results.json").read_text())
    same = {when: {"loss": 0.345, "expected_calibration_error": 0.06} for when in ("before", "after")}
    calibration = {split: same for split in ("validation", "test")}
    write(results | {"temperature": 1.0, "calibration": calibration}, run / "all_results.json")
    card = card_of(run)
    assert "They ask for none" in card and "The weights are as trained." in card
    assert "calibrated" not in card and "temperature of" not in card and "fitted" not in card
    assert "|  | Log loss | Expected calibration error |" in card and "| Test images | 0.345 | 0.060 |" in card


# Before and after evaluation


def test_a_run_that_was_not_evaluated_says_so_and_how_to_do_it(tmp_path):
    run = run_of(tmp_path, "flowers", test=None, plots=("curves", "reliability"))
    card = card_of(run)
    assert "This run has not been evaluated yet" in card and "`python training/eval.py runs/flowers` adds them" in card
    assert "training's own measurement" in card and "| Test images | 90.0 % | 89.9 % | 0.312 |" in card
    assert "model-index" not in front(card) and "metrics" not in front(card) and "model_name" not in front(card)
    assert "plots/curves.png" in card and "plots/reliability.png" not in card


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize(
    ("looks", "told"),
    [
        (1, "test images. These were looked at once, for the values that were chosen."),
        (3, "test images. But these were looked at 3 times, each for another choice, since the search went on"),
    ],
)
def test_values_that_were_searched_are_said_to_be_chosen_among_so_many(test, looks, told, tmp_path):
    run = run_of(tmp_path, "flowers", **({} if test else {"test": None}))
    assert "trial" not in card_of(run)
    search = {"trials": 20, "chosen": 7, "compared_by": "calibrated validation loss", "looks": looks}
    write(json.loads((run / "recipe.json").read_text()) | {"search": search}, run / "recipe.json")
    card = card_of(run)
    assert "chosen among 20 trials by the calibrated validation loss, without a look at the test images." in card
    assert told in card and not re.search(r"\n\n\n| \n", card)


def test_figures_of_other_weights_are_not_shown(tmp_path):
    run = run_of(tmp_path, "flowers")
    (run / "model.safetensors").write_bytes(b"weights")
    measured = json.loads((run / "test_results.json").read_text())
    write(measured | {"model_sha256": hashlib.sha256(b"weights").hexdigest()}, run / "test_results.json")
    assert "**90.0 %**" in card_of(run)
    (run / "model.safetensors").write_bytes(b"trained on")
    assert "has not been evaluated yet" in card_of(run)


def test_the_card_is_written_whole_over_an_older_one(tmp_path):
    run = run_of(tmp_path, "flowers")
    (run / "README.md").write_text("older")
    assert write_card(run) == run / "README.md"
    assert (run / "README.md").read_text(encoding="utf-8").startswith("---\n")
    assert not list(run.glob(".README*"))


@pytest.mark.parametrize("missing", ["recipe.json", "config.json", "all_results.json"])
def test_a_folder_that_holds_no_trained_run_is_refused_in_one_line(missing, tmp_path):
    run = run_of(tmp_path, "flowers")
    (run / missing).unlink()
    with pytest.raises(ValueError, match=f"has no {missing}: train it to its end first"):
        write_card(run)
    assert not (run / "README.md").exists()


def test_a_broken_file_is_named(tmp_path):
    run = run_of(tmp_path, "flowers")
    (run / "test_results.json").write_text("{")
    with pytest.raises(ValueError, match=r"test_results.json' cannot be read"):
        write_card(run)


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "you/my model", "--you/x"])
def test_what_is_no_repository_is_refused(repo_id, tmp_path):
    with pytest.raises(ValueError, match="is no id of a repository"):
        write_card(run_of(tmp_path, "flowers"), repo_id)


# How it is used


def test_the_name_of_a_local_run_is_said_to_stand_for_its_path(tmp_path):
    for name in ("flowers", "breast_cancer"):  # with code of its own and without
        run = run_of(tmp_path, name)
        assert f"Put the path of this folder in place of `runs/{name}`" in card_of(run)
        assert "Put the path" not in card_of(run, f"you/{name}")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("digits", ""), ("breast_cancer", ""), ("flowers", ', trust_remote_code=True, revision="COMMIT"')],
)
def test_the_lines_that_use_it_trust_no_code_but_that_of_a_custom_head(name, arguments, tmp_path):
    card = card_of(run_of(tmp_path, name), "you/model")
    assert f'print(pipeline("image-classification", model="you/model"{arguments})("photo.jpg"))' in card
    assert ("modeling_backbone_with_head.py" in card) == bool(arguments)
    assert ("no code of this repository is run" in card) != bool(arguments)
    for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        compile(code, name, "exec")


def test_timm_networks_are_found_under_timm_and_under_transformers(tmp_path):
    data = ModelCard(card_of(run_of(tmp_path, "breast_cancer"))).data
    assert data.library_name == "timm" and {"timm", "transformers"} <= set(data.tags)
    assert ModelCard(card_of(run_of(tmp_path, "flowers"))).data.library_name == "transformers"


def test_the_onnx_graph_is_named_only_where_there_is_one(tmp_path):
    run = run_of(tmp_path, "digits")
    assert "onnx" not in card_of(run)
    pytest.importorskip("hub_utils.onnx_example")
    (run / "onnx").mkdir()
    (run / "onnx" / "model.onnx").write_bytes(b"graph")
    card = card_of(run, "you/digits")
    assert "onnx" in front(card)["tags"] and "torch and transformers are not needed" in card
    code = [code for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "onnxruntime" in code]
    assert len(code) == 1 and "you/digits" in code[0] and not NEVER.search(card.replace(code[0], ""))


# Data


def test_a_data_set_of_the_hub_is_named_with_its_revision(tmp_path):
    data = {"dataset": "you/photos", "revision": "5503434d", "config": "small"}
    run = run_of(tmp_path, "folder", data=data)
    card = card_of(run)
    assert "data set [you/photos](https://huggingface.co/datasets/you/photos) on the Hub" in card
    assert "configuration `small` at revision `5503434d`" in card
    found = ModelCard(card).data
    assert found.datasets == ["you/photos"]
    result = found.eval_results[0]
    assert (result.dataset_type, result.dataset_name, result.dataset_config) == ("you/photos", "you/photos", "small")
    assert (result.dataset_split, result.dataset_revision, result.verified) == ("test", "5503434d", False)


def with_paths(run: Path, places: dict[str, str]) -> Path:
    """The run with three images a split, below a folder for each."""
    rows = [
        (f"{places[split]}{split[0]}{number}.jpg", "0", FLOWERS[number], split, "")
        for split in places
        for number in range(3)
    ]
    write_rows(("path", "sha256", "label", "split", "group"), rows, run / "local" / "splits.csv")
    return run


OWN, DRAWN = "The data's own splits are kept.", "The images were divided class by class, with seed 42."
TAKEN = "The data's own test split is kept; the validation images were taken out of those for training class by class"
UNTOLD = "Unless a table or the names of the files say otherwise, the images were divided class by class, with seed 42."


@pytest.mark.parametrize(
    ("train", "validation", "test", "told"),
    [
        ("Training/rose/", "valid/rose/", "seg_test/rose/", OWN),
        ("train/rose/", "train/rose/", "test/rose/", TAKEN),
        ("rose/", "rose/", "rose/", UNTOLD),
        ("my_test/rose/", "my_test/rose/", "my_test/rose/", UNTOLD),
    ],
)
def test_whose_splits_they_are_is_told_by_the_folders(train, validation, test, told, tmp_path):
    run = with_paths(run_of(tmp_path, "flowers"), {"train": train, "validation": validation, "test": test})
    assert told in card_of(run)


@pytest.mark.parametrize(
    ("validation", "test", "told"), [("validation", "test", OWN), ("train", "test", TAKEN), ("train", "train", DRAWN)]
)
def test_whose_splits_they_are_is_known_of_a_data_set_of_the_hub(validation, test, told, tmp_path):
    run = run_of(tmp_path, "folder", data={"dataset": "you/photos", "revision": "5503434d"})
    places = {"train": "5503434d/train/", "validation": f"5503434d/{validation}/", "test": f"5503434d/{test}/"}
    assert told in card_of(with_paths(run, places))


def test_a_split_that_the_pattern_of_the_recipe_finds_is_the_data_s_own(tmp_path):
    run = run_of(tmp_path, "rocks")
    places = {"train": "I_Gneiss_0", "validation": "I_Gneiss_1", "test": "I_Gneiss_01_120"}
    rows = [(f"a/{name}.jpg", "0", "Rock 1", split, "") for split, name in places.items()]
    write_rows(("path", "sha256", "label", "split", "group"), rows, run / "local" / "splits.csv")
    assert TAKEN in card_of(run)


@pytest.mark.parametrize(
    ("held_out", "told"),
    [
        ([], "streamed, with its own splits; it was"),
        (["validation"], "own training and test splits; the validation images were taken out of those for training"),
        (["validation", "test"], "own training split; the validation and test images were taken out of those"),
    ],
)
def test_a_stream_says_which_splits_are_its_own(held_out, told, tmp_path):
    data = {"dataset": "you/photos", "revision": "55", "streaming": True, "survey": {"held_out": held_out}}
    run = run_of(tmp_path, "folder", data=data)
    (run / "local" / "splits.csv").unlink()
    assert told in card_of(run)


def test_a_stream_has_no_splits_file_and_says_that_nothing_was_compared(tmp_path):
    run = run_of(tmp_path, "folder", data={"dataset": "you/photos", "revision": "5503434d", "streaming": True})
    (run / "local" / "splits.csv").unlink()
    card = card_of(run)
    assert "| All | 120 | 20 | 40 |" in card and "was not searched for copies" in card


def test_only_a_base_model_of_the_hub_is_named_in_the_front_matter(tmp_path):
    assert front(card_of(run_of(tmp_path, "flowers")))["base_model"] == "microsoft/resnet-50"
    assert "base_model" not in front(card_of(run_of(tmp_path, "digits")))
    run = run_of(tmp_path / "b", "flowers", recipe={"base_model": "resnet-50 (a local folder)"})
    assert "base_model" not in front(card_of(run)) and "resnet-50 (a local folder)" in card_of(run)


@pytest.mark.parametrize(
    ("license", "told"),
    [
        ("none stated", "The licence of the data is not stated by its publishers."),
        ("unverified", "The licence of the data has not been verified."),
        ("unknown", "The licence of the data is not recorded."),
        ("CC BY 4.0, see https://a.example/l_1.", "Licence of the data: CC BY 4.0, see <https://a.example/l_1>."),
    ],
)
def test_what_is_known_of_the_licence_of_the_data_is_said_as_a_fact(license, told, tmp_path):
    run = run_of(tmp_path, "flowers", recipe={"card": Card(license="mit", data_license=license)})
    assert told in card_of(run) and "The model is under `mit`." in card_of(run)


@pytest.mark.parametrize(
    ("license", "front_matter"),
    [
        ("mit", {"license": "mit"}),
        ("unknown", {"license": "unknown"}),
        ("My own: ask me!", {"license": "other", "license_name": "my-own-ask-me"}),
        ("- !!python/object", {"license": "other", "license_name": "python-object"}),
    ],
)
def test_the_licence_of_the_model_is_one_that_the_hub_knows_or_other(license, front_matter, tmp_path):
    found = front(card_of(run_of(tmp_path, "flowers", recipe={"card": Card(license=license)})))
    assert {name: found[name] for name in found if name.startswith("license")} == front_matter


def test_pictures_in_two_classes_are_counted_and_never_named(tmp_path):
    run = run_of(tmp_path, "flowers")
    rows = [("a/x1.jpg", f"{label}/x1.jpg", label) for label in ("rose", "tulip")]
    write_rows(("cluster", "path", "label"), rows, run / "local" / "conflicts.csv")
    card = card_of(run)
    assert "2 files show 1 picture under more than one class; they are in no validation or test split." in card
    assert "x1" not in card


def test_the_number_of_classes_that_the_collection_has_is_told_where_the_run_has_another(tmp_path):
    test = evaluation(FLOWERS[:3], counts_for(FLOWERS[:3]))
    run = made_run(tmp_path / "run", load_recipe("flowers"), FLOWERS[:3], test)
    assert "The recipe is made for 5 classes, this run has 3." in card_of(run)


@pytest.mark.parametrize("source", ["/data/secret.zip", "C:\\secret.zip", "file:///secret", "secret"])
def test_a_source_that_is_a_place_on_a_disk_is_not_told(source, tmp_path):
    recipe = load_recipe("flowers")
    run = run_of(tmp_path, "flowers", recipe={"data": replace(recipe.data, source=source, homepage=None)})
    assert "secret" not in card_of(run)


# Training


def test_training_values_are_those_of_the_run_flags_included(tmp_path):
    flags = [{"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, {"num_train_epochs": 5.0}]
    card = card_of(run_of(tmp_path, "rocks", flags=flags))
    assert "| head | the new layers | 5 | 8 | Adam, ε 1e-07 | 0.001, constant | the last epoch |" in card
    plateau = "0.0001, lowered on a plateau of the validation loss (× 0.5 after 8 epochs without progress)"
    assert f"| all | all layers | 5 | 32 | Adam, ε 1e-07 | {plateau} | epoch 3, of the lowest validation loss |" in card
    assert "rotation up to 20°, shear up to 10°, zoom up to 20 %, horizontal flips, vertical flips" in card
    assert "0.0001 × 0.96^(step / 40)" in card_of(run_of(tmp_path, "leukemia"))
    folder = card_of(run_of(tmp_path, "folder"))
    assert "AdamW, weight decay 0.05 | 0.0001, cosine, the first 10 % of the steps rising" in folder
    assert "| Label smoothing | 0.1 |" in folder


# Names of all kinds

HOSTILE = [
    "---",
    "---\nlicense: mit\n---",
    "{{ card_data }}{% for x in y %}",
    "a\r\n\n# Heading\n- item",
    "<script>alert(1)</script>",
    "</details> & &amp; <!-- ",
    "| a | b |",
    "*bold* _em_ __init__ ~~gone~~ `code` ``` $$x$$",
    "[link](http://evil.example) ![img](x.png)",
    "*a: &a [*a, *a] !!python/object:os.system",
    "1. one",
    "# one",
    "yes",
    "\u202eevil\x00\x1b[31m",
    "Gänse‍blümchen 🌼 玫瑰",
    "\\",
    "\"quoted\" 'single'",
]


def seen(name: str) -> str:
    """What a reader should see of it."""
    return re.sub("[\x00\x1b\u202e]", "\ufffd", " ".join(name.split()))


def tags(card: str) -> list[str]:
    """Every tag of the page in order, without the links that addresses become."""
    return [tag for tag in re.findall(r"</?\w+", rendered(body(card))) if tag not in ("<a", "</a")]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_as_it_is_and_breaks_nothing(name, tmp_path):
    classes = (name, f"{name} too", "plain")
    card_facts = Card(license="mit", data_license=name, citation=name, limits=name)
    recipe = replace(load_recipe("flowers"), title=name, card=card_facts, name="own")
    test = evaluation(classes, counts_for(classes)) | {"missing": [name]}
    run = made_run(tmp_path / "run", recipe, classes, test)
    card = card_of(run, "you/model")
    facts = Card(license="mit", data_license="Harmless", citation="Harmless", limits="Harmless")
    like = ("Harmless", "Harmless too", "plain")
    test = evaluation(like, counts_for(like)) | {"missing": ["Harmless"]}
    other = card_of(
        made_run(tmp_path / "other", replace(recipe, title="Harmless", card=facts), like, test), "you/model"
    )
    assert tags(card) == tags(other)
    shown = MarkdownIt().renderInline(as_text(name))
    links = 3 if "http" in name else 0  # licence, citation and limits, where addresses become links
    assert rendered(body(card)).count(shown) >= rendered(body(other)).count("Harmless") - links > 12
    assert [line for line in card.split("\n") if line == "---"] == ["---", "---"]
    data = ModelCard.load(run / "README.md").data
    assert data.license == "mit" and data.model_name == "model" and data.eval_results[0].metric_value == 0.85
    assert data.eval_results[0].dataset_name == seen(name)
    assert yaml.safe_load(data.to_yaml()) == front(card) == data.to_dict()


@pytest.mark.parametrize("name", HOSTILE)
def test_text_and_code_render_to_the_very_letters(name):
    def shown(markdown: str) -> str:
        inline = MarkdownIt().parse(markdown)
        assert [token.type for token in inline] == ["paragraph_open", "inline", "paragraph_close"]
        return "".join(token.content for token in inline[1].children)

    assert shown(as_text(name)) == seen(name)
    assert shown(as_code(name)) == seen(name)
    assert {token.type for token in MarkdownIt().parse(as_text(name))[1].children} <= {"text", "text_special"}


def test_nothing_of_the_environment_gets_into_a_card(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_notInAnyCard")
    monkeypatch.setenv("USER", "somebody-in-particular")
    card = card_of(run_of(tmp_path, "flowers"))
    assert "hf_" not in card and "somebody" not in card


def test_a_cookbook_is_no_run(tmp_path):
    run = run_of(tmp_path, "flowers")
    write({"flour": "500 g"}, run / "recipe.json")
    with pytest.raises(ValueError, match="is no recipe of a run"):
        write_card(run)


def test_an_evaluation_as_it_comes_makes_a_card(tmp_path):
    """Probabilities, not a table made up here: two images a patient, one class of three never seen."""
    labels = np.random.default_rng(0).integers(0, 2, 60)
    for classes in (["benign", "malignant"], ["a", "b", "never seen"]):
        shares = np.random.default_rng(1).dirichlet(np.ones(len(classes)), 60) + np.eye(len(classes))[labels]
        figures = evaluate_split(labels, shares / 2, classes, [str(number // 2) for number in range(60)])
        test = {**figures, "split": "test", "classes": classes, "missing": classes[2:], "floors": {}}
        name = "breast_cancer" if len(classes) == 2 else "flowers"
        card = card_of(made_run(tmp_path / name, load_recipe(name), classes, test))
        assert "60 test images (30 if what belongs together counts once)" in card and not NEVER.search(card)
        assert ("### Thresholds" in card) == (len(classes) == 2)
        assert ("| never seen | 0 | – | – | – |" in card) == (len(classes) == 3)


def test_a_card_that_nobody_has_changed_is_known_by_its_seal(tmp_path):
    text = card_of(golden_run(tmp_path), "you/flowers")
    assert is_as_written(text) and is_as_written(text.replace("\n", "\r\n"))
    for changed in (text.replace("# ", "#  ", 1), text + "more\n", text.rpartition("<!--")[0], "", "# My page\n"):
        assert not is_as_written(changed)
