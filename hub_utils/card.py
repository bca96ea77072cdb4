"""The model card: RUN/README.md, written from what stands in the run folder and from nothing else.

The words are in `card_template.md`; here are the facts for it. To say more, add a place to the template and a function
that fills it. Whatever comes from a person or a file name goes through `as_text`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

TEMPLATE = Path(__file__).with_name("card_template.md")
SPLITS = ("train", "validation", "test")
MOST_CLASSES = 12  # more are folded away
ADDRESS = r"https?://[^\s<>()\[\]\"'`\\{}|]*[\w/]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(value: float) -> str:
    return f"{value:.3f}"


@dataclass(frozen=True)
class _Metric:
    """A figure of `test_results.json`: its name in the card, on the Hub, how it is written, and how to read it."""

    title: str
    hub_id: str
    write: Callable[[float], str] = _percent
    note: str = ""


METRICS = {
    "accuracy": _Metric("Accuracy", "accuracy"),
    "balanced_accuracy": _Metric("Balanced accuracy", "balanced_accuracy"),
    "macro_f1": _Metric("Macro F1", "f1"),
    "top_5_accuracy": _Metric("Top-5 accuracy", "top_5_accuracy"),
    "sensitivity": _Metric("Sensitivity", "sensitivity"),
    "specificity": _Metric("Specificity", "specificity"),
    "roc_auc": _Metric("ROC AUC", "roc_auc", _number),
    "average_precision": _Metric("Average precision", "average_precision", _number),
    "log_loss": _Metric("Log loss", "log_loss", _number, " in nats (lower is better)"),
    "brier_score": _Metric("Brier score", "brier_score", _number, " (lower is better)"),
    "expected_calibration_error": _Metric(
        "Expected calibration error", "expected_calibration_error", _number, " (lower is better)"
    ),
}
PLOTS = {
    "confusion": "Confusion matrix of the test images: a row for each true class, a column for each answer",
    "recall": "Recall of each class on the test images, sorted, with its interval",
    "discrimination": "ROC curve and precision-recall curve of the test images",
    "reliability": "Reliability diagram: how often the model is right, by how sure it is",
    "curves": "Loss and accuracy by epoch, on training and validation images",
}


def write_card(run: Path, repo_id: str | None = None) -> Path:
    """Write README.md into the run folder `run` and return its path; `repo_id` is where the model will be on the Hub.

    Raises:
        ValueError: the folder holds no trained run, a file of it is broken, or `repo_id` is none.
    """
    facts = _read(run, repo_id)
    card = ModelCard.from_template(_card_data(facts), template_path=str(TEMPLATE), **_places(facts))
    card.text = card.text.rstrip() + "\n"
    partial = run / ".README.md"
    card.save(partial)
    os.replace(partial, run / "README.md")
    return run / "README.md"


# What is read


@dataclass(frozen=True)
class _Facts:
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
    history: list[dict[str, str]]
    dataset: dict[str, Any]  # id, revision and configuration of a data set on the Hub
    images: Counter  # by split and class; empty for a stream
    groups: Counter  # images by the group they belong to, for the images that have one
    patients: int  # groups that the data themselves name
    conflicts: list[str]  # a cluster for each file that shows a picture of two classes

    @property
    def model(self) -> str:
        """Repo id, or the folder where a run lies by default."""
        return self.repo_id or f"runs/{self.run.name}"

    @property
    def medical(self) -> bool:
        return bool(self.recipe["card"].get("medical"))

    @property
    def test_images(self) -> int:
        return self.test["images"] if self.test else self.results["images"]["test"]


def _read(run: Path, repo_id: str | None) -> _Facts:
    if repo_id is not None:
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise ValueError(f"'{repo_id}' is no id of a repository on the Hub: {error}") from error
    for name in ("recipe.json", "config.json", "all_results.json"):
        if not (run / name).is_file():
            raise ValueError(f"'{run}' has no {name}: train it to its end first")
    ran_with, config = _json(run / "recipe.json"), _json(run / "config.json")
    data = _json(run / "local" / "data.json")
    rows = _csv(run / "local" / "splits.csv")
    paths = {row["path"] for name in ("splits.csv", "skipped.csv") for row in _csv(run / "local" / name)}
    groups = Counter(row["group"] for row in rows if row["group"])
    return _Facts(
        run=run,
        repo_id=repo_id,
        recipe=ran_with["recipe"],
        ran_with=ran_with,
        classes=_classes(config),
        config=config,
        processor=_json(run / "preprocessor_config.json"),
        results=_json(run / "all_results.json"),
        test=_evaluation(run),
        history=_csv(run / "log_history.csv"),
        dataset={key: data[key] for key in ("dataset", "revision", "config") if data.get(key)},
        images=Counter((row["split"], row["label"]) for row in rows),
        groups=groups,
        patients=len(groups.keys() - paths),  # what was only found to look alike is named by a path
        conflicts=[row["cluster"] for row in _csv(run / "local" / "conflicts.csv")],
    )


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
        return list(csv.DictReader(file))


def _classes(config: dict[str, Any]) -> list[str]:
    """In the order of the logits."""
    if "label_names" in config:  # timm's layout
        return config["label_names"]
    return [config["id2label"][str(index)] for index in range(len(config["id2label"]))]


def _evaluation(run: Path) -> dict[str, Any] | None:
    """`test_results.json`, unless it is missing or of other weights than those that lie there."""
    test = _json(run / "test_results.json") or None
    weights = run / "model.safetensors"
    if test and test.get("model_sha256") and weights.is_file():
        with weights.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == test["model_sha256"]
        return test if same else None
    return test


# How it is written


def as_text(value: Any) -> str:
    """Any string as one line of Markdown that shows it as it is."""
    line = re.sub(r"&(?=#?\w+;)", "&amp;", _one_line(value))
    line = re.sub(r"([\\`*{}\[\]<>#|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)  # an inner _ is one
    line = re.sub(r"^([-+=])", r"\\\1", line)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", line)


def as_prose(value: Any) -> str:
    """As `as_text`, with the addresses in it as links."""
    line, told = _one_line(value), ""
    for text, address in re.findall(rf"(.*?)({ADDRESS}|$)", line):
        told += " " * text.startswith(" ") + as_text(text) + " " * text.endswith(" ")
        told += f"<{address}>" if address else ""
    return told.strip()


def as_code(value: Any) -> str:
    """A string as inline code, whatever backticks are in it."""
    line = _one_line(value)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if "`" in (line[:1], line[-1:]) else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _one_line(value: Any) -> str:
    """Line ends and other white space as single blanks; what cannot be written or seen as a replacement character."""
    line = " ".join(str(value).split())
    return "".join("\ufffd" if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in line)


def _link(url: str) -> str | None:
    """A link, if it is the address of a page at all."""
    return f"<{url}>" if re.fullmatch(ADDRESS, url) else None


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], right: bool = True) -> str:
    """Columns after the first to the right, where they hold numbers."""
    rule = ["---"] + ["---:" if right else "---"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _folded(title: str, table: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n\n{table}\n\n</details>"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def _interval(estimate: dict[str, Any], write: Callable[[float], str] = _percent) -> str:
    low, high = (write(bound) for bound in estimate["interval"])
    return f"{low.removesuffix(' %')} to {high}"


def _cells(estimate: dict[str, Any], write: Callable[[float], str] = _percent) -> list[str]:
    """Value and interval; for what is undefined a dash and the reason."""
    if estimate["value"] is None:
        return ["–", f"not defined: {as_text(estimate['reason'])}"]
    return [write(estimate["value"]), _interval(estimate, write) if estimate.get("interval") else "–"]


def _cell(estimate: dict[str, Any]) -> str:
    """Value, and in brackets its interval."""
    value, interval = _cells(estimate)
    return f"{value} [{interval}]" if estimate.get("interval") else value


# The front matter


def _card_data(facts: _Facts) -> ModelCardData:
    timm = facts.config.get("model_type") == "timm_wrapper"
    dataset, base = facts.dataset.get("dataset"), facts.recipe["base_model"]
    metrics = [metric.hub_id for name, metric in METRICS.items() if name in ("accuracy", "macro_f1", "roc_auc")]
    results = _eval_results(facts)
    return ModelCardData(
        **_license(facts.recipe["card"].get("license") or "unknown"),
        library_name="timm" if timm else "transformers",  # with the tag the Hub offers both, as for timm's own models
        pipeline_tag="image-classification",
        tags=["image-classification", "vision"] + ["timm", "transformers"] * timm + ["onnx"] * _has_onnx(facts),
        base_model=base if _is_hub_id(base) else None,
        datasets=[dataset] if dataset else None,
        metrics=[each for each in metrics if each in {result.metric_type for result in results}] or None,
        model_name=facts.model.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )


def _license(license: str) -> dict[str, str]:
    """The Hub knows licences by short names; what cannot be one of them is `other`, with its name."""
    if re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        return {"license": license}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", license.lower()).strip("-.") or "other"}


def _eval_results(facts: _Facts) -> list[EvalResult]:
    estimates = facts.test["metrics"] if facts.test else {}
    dataset = facts.dataset.get("dataset")
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset or "imagefolder",
            dataset_name=dataset or " ".join(facts.recipe["title"].split()),
            dataset_config=facts.dataset.get("config"),
            dataset_split=facts.test["split"],
            dataset_revision=facts.dataset.get("revision"),
            metric_type=metric.hub_id,
            metric_name=metric.title,
            metric_value=round(estimates[name]["value"], 4),
            verified=False,
        )
        for name, metric in METRICS.items()
        if name in estimates and estimates[name]["value"] is not None
    ]


def _is_hub_id(base: Any) -> bool:
    """Whether it is OWNER/NAME: of a local folder a recipe says the name alone, in words."""
    try:
        validate_repo_id(base)
    except HFValidationError:
        return False
    return "/" in base


def _has_onnx(facts: _Facts) -> bool:
    return (facts.run / "onnx" / "model.onnx").is_file()


# The text


def _places(facts: _Facts) -> dict[str, Any]:
    """What the template asks for."""
    return {
        "title": _title(facts),
        "medical": facts.medical,
        "cannot_show": _cannot_show(facts),
        "summary": _summary(facts),
        "classes": [as_text(name) for name in facts.classes],
        "folded_classes": len(facts.classes) > MOST_CLASSES,
        "model": json.dumps(facts.model, ensure_ascii=False),
        **_loading(facts),
        **(_results(facts) if facts.test else _training_results(facts)),
        "calibration": _calibration(facts),
        "data": _data(facts),
        "split_table": _split_table(facts),
        "kept_together": _kept_together(facts),
        "citation": as_prose(facts.recipe["card"].get("citation") or ""),
        "limits": _limits(facts),
        "stage_table": _stage_table(facts),
        "value_table": _value_table(facts),
        "onnx_example": _onnx_example(facts),
        "plots": {name: _plot(facts, name) for name in PLOTS},
    }


def _title(facts: _Facts) -> str:
    """The recipe's; a folder of somebody's photos has none, and is called by what is in it."""
    if facts.recipe.get("name") != "folder":
        return as_text(facts.recipe["title"])
    if len(facts.classes) > 5:
        return f"Image classifier of {len(facts.classes)} classes"
    return f"Image classifier: {' · '.join(as_text(name) for name in facts.classes)}"


def _cannot_show(facts: _Facts) -> str:
    told = [as_prose(facts.recipe["card"].get("limits") or "")]
    if facts.patients:
        told.append(f"The images are of {_count(facts.patients, 'patient')}; nobody's stand in both training and test.")
    else:
        told.append(
            "The files do not say whose images they are: a patient's may stand in training and in test, which makes "
            "every figure below look better than it is."
        )
    return " ".join(each for each in told if each)


def _summary(facts: _Facts) -> str:
    made = f"{_base_model(facts)} {_count(facts.results['images']['train'], 'image')} from {_collection(facts)}."
    first = f"This model tells {_count(len(facts.classes), 'class', 'classes')} of images apart"
    first = f"{first}: it is {made}"
    tested = f"{_count(facts.test_images, 'test image')} kept apart from training"
    if not facts.test:
        accuracy = _percent(facts.results["test"]["accuracy"])
        return f"{first} Its evaluation is missing; by training's own measurement it is right on {accuracy} of {tested}."
    accuracy = facts.test["metrics"]["accuracy"]
    if accuracy["value"] is None:
        return f"{first} On the {tested} its accuracy is not defined: {as_text(accuracy['reason'])}."
    return (
        f"{first} It is right on **{_percent(accuracy['value'])}** of {tested} (95 % interval "
        f"{_interval(accuracy)}); what that figure leaves out stands under [limits](#limits-and-intended-use)."
    )


def _base_model(facts: _Facts) -> str:
    base = facts.recipe["base_model"]
    if isinstance(base, dict):
        return f"a small network ({as_text(base['model_type'])}) trained from random weights on"
    if _is_hub_id(base):
        return f"[{as_text(base)}](https://huggingface.co/{base}), fine-tuned on"
    return f"{as_text(base)}, fine-tuned on"


def _collection(facts: _Facts) -> str:
    dataset = facts.dataset.get("dataset")
    if dataset:
        return f"[{as_text(dataset)}](https://huggingface.co/datasets/{dataset})"
    homepage = facts.recipe["data"].get("homepage")
    if homepage and _link(homepage):
        return f"[{as_text(facts.recipe['title'])}]({homepage})"
    return as_text(facts.recipe["title"]) if homepage or facts.recipe["data"].get("source") else "a local folder"


def _eval_command(facts: _Facts) -> str:
    return f"python training/eval.py {shlex.quote(f'runs/{facts.run.name}')}".replace("`", "'")


def _loading(facts: _Facts) -> dict[str, str]:
    """What `pipeline` has to be told, and why."""
    module = next((each.split(".")[0] for each in facts.config.get("auto_map", {}).values()), None)
    if module is None:
        whose = "timm" if facts.config.get("model_type") == "timm_wrapper" else "transformers"
        return {"custom_arguments": "", "loading": f"The network is one of {whose}: no code of this repository is run."}
    pinned = ', revision="COMMIT"' if facts.repo_id else ""
    put = (
        "; put the full hash of the commit that you have read in place of `COMMIT`, so that nothing else is ever run"
        if facts.repo_id
        else ", or, from the Hub, with `revision=` the full hash of the commit that you have read"
    )
    return {
        "custom_arguments": f", trust_remote_code=True{pinned}",
        "loading": f"The head has hidden layers, for which transformers has no class: `trust_remote_code=True` runs "
        f"the one file {as_code(f'{module}.py')} that lies beside the weights. Read it first{put}.",
    }


def _training_results(facts: _Facts) -> dict[str, Any]:
    """What training measured on the saved model; not enough to rely on."""
    measured = [(split, facts.results[split]) for split in ("validation", "test")]
    rows = [[f"{s.capitalize()} images", _percent(r["accuracy"]), _percent(r["macro_f1"]), _number(r["loss"])] for s, r in measured]
    return {
        "evaluated": False,
        "measured": f"This run has not been evaluated yet: no intervals, no figures by class. `{_eval_command(facts)}` "
        "adds them. Until then, training's own measurement of the saved model:",
        "results_table": _table(["", "Accuracy", "Macro F1", "Log loss, in nats"], rows),
    }


def _results(facts: _Facts) -> dict[str, Any]:
    test = facts.test
    groups = test.get("groups", test["images"])
    apart = f" ({groups:,} if what belongs together counts once)" if groups < test["images"] else ""
    day = f" on {as_text(test['date'])[:10]}" if test.get("date") else ""
    where = {"test": "test images"}.get(test["split"], f"{as_text(test['split'])} images")
    return {
        "evaluated": True,
        "measured": f"Measured{day} on the {test['images']:,} {where}{apart}, with the model as it lies here, in fp32.",
        "results_table": _results_table(test),
        "intervals": _methods(test),
        "reading": " ".join(_reading(test)),
        "confusions": _confusions(test),
        "class_table": _class_table(test),
        "thresholds": _thresholds(test),
        "threshold_table": _threshold_table(test),
    }


def _results_table(test: dict[str, Any]) -> str:
    """Every metric, and below the accuracy what is reached without looking at what the pictures show."""
    rows = []
    for name, metric in METRICS.items():
        if name not in test["metrics"] or (name in ("sensitivity", "specificity") and test.get("operating_points")):
            continue
        rows.append([metric.title + metric.note, *_cells(test["metrics"][name], metric.write)])
        if name == "accuracy":
            rows[-1][1] = f"**{rows[-1][1]}**"
            rows += [[f"… {what}", *_cells(floor)] for what, floor in _floors(test)]
    return _table(["", "Value", "95 % interval"], rows)


def _floors(test: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    floors = test.get("floors", {})
    found = []
    if floors.get("majority"):
        says = floors["majority"].get("says")
        found.append((f"of always answering “{as_text(says)}”" if says else "of the commonest class", floors["majority"]))
    if floors.get("colour_neighbour"):
        found.append(("of the nearest training image by colour alone", floors["colour_neighbour"]))
    return [(what, floor) for what, floor in found if floor["value"] is not None]


def _methods(test: dict[str, Any]) -> str:
    by_method = defaultdict(list)
    for name, metric in METRICS.items():
        method = test["metrics"].get(name, {}).get("method")
        if method:
            by_method[method].append(metric.title[0].lower() + metric.title[1:] if name != "roc_auc" else metric.title)
    if not by_method:
        return "The intervals are 95 % intervals."
    *others, most = sorted(by_method, key=lambda method: len(by_method[method]))
    told = [f"{as_text(method)} for {_listed(by_method[method])}" for method in others]
    told.append(f"{as_text(most)} for {'the rest' if others else 'all'}")
    return f"Intervals: {', '.join(told)}."


def _reading(test: dict[str, Any]) -> list[str]:
    """What the accuracy is worth beside the floors, in sentences."""
    accuracy, floors = test["metrics"]["accuracy"], test.get("floors", {})
    told, beaten = [], []
    for name, words in (("majority", "always giving the same answer"), ("colour_neighbour", "colour alone")):
        floor = floors.get(name)
        if not floor or None in (floor["value"], accuracy["value"]):
            continue
        if floor["interval"][1] < accuracy["interval"][0]:
            beaten.append(f"{words} ({_percent(floor['value'])})")
        elif name == "majority":
            told.append(
                f"**The accuracy is not clearly above that of {words}** ({_percent(floor['value'])}): as far as it "
                "tells, the model may have learned nothing that helps."
            )
        else:
            does = "does" if floor["value"] >= accuracy["value"] else "may do"
            told.append(
                f"**Colour alone {does} as well**: the class of the training image with the nearest colours, without "
                f"any network, is right on {_percent(floor['value'])}, and the intervals overlap. On these images the "
                "accuracy does not show that the model sees more than colour."
            )
    if beaten:
        told.append(f"The accuracy is clearly above that of {_listed(beaten)}: the intervals do not overlap.")
    if test.get("missing"):
        told.append(f"Without a test image, so that nothing is known of them: {_names(test['missing'])}.")
    return told or ["There is nothing to compare these figures with: no floors were measured."]


def _names(names: Sequence[str], most: int = MOST_CLASSES) -> str:
    shown = [as_text(name) for name in names[:most]]
    return " · ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")


def _confusions(test: dict[str, Any]) -> str:
    """The pairs of classes that are most often taken for one another."""
    classes, counts = test["classes"], test["confusion"]
    pairs = [
        (count, i, j) for i, row in enumerate(counts) for j, count in enumerate(row) if i != j and count > 0
    ]  # fmt: skip
    wrong = sum(count for count, _, _ in pairs)
    if not pairs:
        return "No test image was taken for another class."
    most = [pair for pair in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])) if pair[0] > 1][:3]
    told = [
        f"{as_text(classes[i])} for {as_text(classes[j])} ({count} of {sum(counts[i])} images)" for count, i, j in most
    ]
    of = f"{wrong:,} of {test['images']:,} test images {'was' if wrong == 1 else 'were'} taken for another class"
    return f"{of}; most often {_listed(told)}." if told else f"{of}, no two of them in the same way."


def _class_table(test: dict[str, Any]) -> str:
    rows, reasons = [], defaultdict(list)
    for name in test["classes"]:
        figures = test["per_class"][name]
        cells = [_cell(figures[each]) for each in ("recall", "precision", "f1")]
        rows.append([as_text(name), f"{figures['support']:,}", *cells])
        for each in ("recall", "precision", "f1"):
            if figures[each]["value"] is None:
                reasons[each, figures[each]["reason"]].append(name)
    table = _table(["Class", "Test images", "Recall", "Precision", "F1"], rows)
    undefined = [
        f"{'F1' if each == 'f1' else each.capitalize()} of {_names(names)} is not defined: {as_text(reason)}."
        for (each, reason), names in reasons.items()
    ]
    if len(rows) > MOST_CLASSES:
        weakest = _weakest(test)
        table = (f"Lowest recall: {weakest}.\n\n" if weakest else "") + _folded("The figures of each class", table)
    return "\n\n".join([table, *([" ".join(undefined)] if undefined else [])])


def _weakest(test: dict[str, Any]) -> str:
    recalls = [(test["per_class"][name]["recall"]["value"], name) for name in test["classes"]]
    lowest = sorted((value, name) for value, name in recalls if value is not None and value < 1)[:5]
    return ", ".join(f"{as_text(name)} {_percent(value)}" for value, name in lowest)


def _thresholds(test: dict[str, Any]) -> str:
    positive = as_text(test.get("positive") or test["classes"][-1])
    return (
        f"“{positive}” is answered where its probability reaches the threshold. Sensitivity is the share of “{positive}” "
        "that is found, specificity the share of the others that is left alone. `pipeline` names the likelier class, "
        "which is the threshold 0.5; the other one was chosen on the validation images, to find 95 % there."
    )


def _threshold_table(test: dict[str, Any]) -> str | None:
    points = [point for point in (test.get("operating_points") or {}).values() if point]
    rows = [
        [
            "–" if point.get("threshold") is None else _number(point["threshold"]),
            *(_cell(point[each]) if each in point else "–" for each in ("sensitivity", "specificity")),
        ]
        for point in points
    ]
    reasons = {point[each]["reason"] for point in points for each in ("sensitivity", "specificity")
               if each in point and point[each]["value"] is None}  # fmt: skip
    reasons |= {point["reason"] for point in points if point.get("reason")}
    told = "".join(f"\n\nNot defined: {as_text(reason)}." for reason in sorted(reasons))
    return _table(["Threshold", "Sensitivity", "Specificity"], rows) + told if rows else None


def _calibration(facts: _Facts) -> str | None:
    """What the temperature did; nothing for a run that knows of none."""
    if "temperature" not in facts.results:
        return None
    temperature = facts.results["temperature"]
    if temperature is None:
        return "No temperature was fitted: the probabilities are the network's own."
    told = (
        f"After training, one number was fitted on the validation images, by which all logits are divided: a "
        f"temperature of {temperature:.3g}. It is part of the weights, so that the probabilities are calibrated "
        "wherever the model is used; the answers stay the same."
    )
    found = facts.results.get("calibration") or {}
    rows = [
        [f"{split.capitalize()} images", *(_number(found[split][when][value]) for value in ("loss", "expected_calibration_error")
         for when in ("before", "after"))]
        for split in ("validation", "test") if split in found
    ]  # fmt: skip
    head = ["", "Log loss before", "after", "Expected calibration error before", "after"]
    return f"{told}\n\n{_table(head, rows)}" if rows else told


def _data(facts: _Facts) -> str:
    data, card = facts.recipe["data"], facts.recipe["card"]
    told = []
    if facts.dataset:
        at = f" at revision {as_code(facts.dataset['revision'])}" if facts.dataset.get("revision") else ""
        config = f", configuration {as_code(facts.dataset['config'])}" if facts.dataset.get("config") else ""
        told.append(f"The images are the data set {_collection(facts)} on the Hub{config}{at}.")
    elif data.get("homepage") or data.get("source"):
        places = [_link(data["homepage"]) if data.get("homepage") else None, _source(data.get("source"))]
        places = list(dict.fromkeys(place for place in places if place))
        published = f", published at {_listed(places)}" if places else ""
        told.append(f"The images are those of {as_text(facts.recipe['title'])}{published}.")
    else:
        told.append("The images are from a local folder and are not published with the model.")
    if data.get("classes") not in (None, len(facts.classes)):
        told.append(f"The collection has {data['classes']} classes, of which this run knows {len(facts.classes)}.")
    told.append(_data_license(card.get("data_license")))
    license = card.get("license") or "unknown"
    told.append(
        "No licence has been chosen for the model." if license == "unknown" else f"The model is under {as_code(license)}."
    )
    return " ".join(told)


def _source(source: str | None) -> str | None:
    """A page for each kind of source that recipes have; anything else may be a place on somebody's disk."""
    kind, _, name = (source or "").partition(":")
    if kind == "kaggle":
        return _link(f"https://www.kaggle.com/datasets/{name}")
    if kind == "osf":
        return _link(f"https://osf.io/{name}/")
    return _link(source or "")


def _data_license(license: str | None) -> str:
    return {
        "none stated": "The licence of the data is not stated by its publishers.",
        "unverified": "The licence of the data has not been verified.",
        "unknown": "The licence of the data is not recorded.",
    }.get(license or "unknown") or f"Licence of the data: {as_prose(license)}."


def _split_table(facts: _Facts) -> str:
    if not facts.images:
        totals = facts.results["images"]
        return _table(["", "Training", "Validation", "Test"], [["Images", *(f"{totals[s]:,}" for s in SPLITS)]])
    rows = [
        [as_text(label), *(f"{facts.images[split, label]:,}" for split in SPLITS)] for label in facts.classes
    ]  # fmt: skip
    totals = {split: sum(count for (each, _), count in facts.images.items() if each == split) for split in SPLITS}
    total = ["All", *(f"{totals[split]:,}" for split in SPLITS)]
    if len(rows) > MOST_CLASSES:
        few = _table(["", "Training", "Validation", "Test"], [total])
        return few + "\n\n" + _folded("Images of each class", _table(["Class", "Training", "Validation", "Test"], rows))
    return _table(["Class", "Training", "Validation", "Test"], [*rows, total])


def _kept_together(facts: _Facts) -> str:
    if not facts.images:
        return "The data set was streamed, with its own splits; it was not searched for copies, so these may share some."
    together = [count for count in facts.groups.values() if count > 1]
    told = [
        "The data's own splits are kept where there are any; otherwise the images were divided class by class, with "
        f"seed {facts.recipe['splits'].get('seed', 42)}."
    ]
    kinds = "Copies and near-duplicates" + (f", and all images of a {_group(facts)}," if facts.patients else "")
    if together:
        of = f", of {_count(facts.patients, _group(facts))}" if facts.patients else ""
        told.append(f"{kinds} stand in one split together: that concerns {sum(together):,} images{of}.")
    else:
        told.append("Copies and near-duplicates would stand in one split together; none were found.")
    if facts.conflicts:
        clusters = len(set(facts.conflicts))
        told.append(
            f"{len(facts.conflicts):,} files show {_count(clusters, 'picture')} under more than one class; they are in "
            "no validation or test split."
        )
    return " ".join(told)


def _group(facts: _Facts) -> str:
    return "patient" if facts.medical else "group"


def _limits(facts: _Facts) -> list[str]:
    limits = facts.recipe["card"].get("limits")
    if facts.medical:
        meant = "Meant for teaching and for the study of methods, on images like these. See [above](#not-a-medical-device)."
    else:
        meant = (
            "Meant for demonstrations, teaching, and a first sorting that a person looks through, on pictures like "
            "those it was trained on."
        )
    return [
        *([as_prose(limits)] if limits and not facts.medical else []),
        meant,
        "Not meant for decisions about people, their health, their safety or their rights, nor for anything where a "
        "wrong answer does harm that nobody would notice.",
        f"It answers with one of its {len(facts.classes)} classes whatever the picture shows, and can be sure of itself "
        "and wrong.",
        "The test images are of the same collection as the training images. Of other cameras, places and times the "
        "intervals say nothing; expect less there.",
    ]


# Training


def _stage_table(facts: _Facts) -> str:
    head = ["Stage", "Trains", "Epochs", "Batch", "Optimiser", "Learning rate", "Keeps the weights of"]
    flags = [*facts.ran_with.get("flags", []), *({} for _ in facts.recipe["stages"])]
    rows = [
        _stage_row(facts, stage, {**stage["arguments"], **given})
        for stage, given in zip(facts.recipe["stages"], flags, strict=False)
    ]
    return _table(head, rows, right=False)


def _stage_row(facts: _Facts, stage: dict[str, Any], arguments: dict[str, Any]) -> list[str]:
    history = [row for row in facts.history if row["stage"] == stage["name"]]
    ran = f"{max((float(row['epoch']) for row in history), default=0):g}"
    most = arguments.get("num_train_epochs", 3)  # Trainer's own, where the recipe says nothing
    kept = "the last epoch"
    if history and (stage.get("restore_best") or stage.get("early_stopping_patience") is not None):
        best = min(history, key=lambda row: float(row["validation_loss"]))
        kept = f"epoch {float(best['epoch']):g}, of the lowest validation loss"
    return [
        as_text(stage["name"]),
        "the new layers" if stage["trainable"] == "head" else "all layers",
        ran if "max_steps" in arguments or ran == f"{most:g}" else f"{ran} of {most:g}",
        str(_batch(facts, stage, arguments)),
        _optimiser(arguments),
        _learning_rate(stage, arguments),
        kept,
    ]


def _batch(facts: _Facts, stage: dict[str, Any], arguments: dict[str, Any]) -> int:
    """Images a step, over all processes."""
    if "per_device_train_batch_size" not in arguments:
        return stage["batch_size"]
    accumulation = arguments.get("gradient_accumulation_steps", 1)
    return arguments["per_device_train_batch_size"] * accumulation * facts.results.get("processes", 1)


def _optimiser(arguments: dict[str, Any]) -> str:
    name, decay = str(arguments.get("optim", "adamw_torch")), arguments.get("weight_decay", 0.0)
    if not name.startswith("adamw"):
        return as_code(name)
    values = [f"weight decay {decay:g}"] if decay else []
    values += [f"ε {arguments['adam_epsilon']:g}"] if "adam_epsilon" in arguments else []
    return ", ".join(["AdamW" if decay else "Adam", *values])


def _learning_rate(stage: dict[str, Any], arguments: dict[str, Any]) -> str:
    rate, kind = f"{arguments.get('learning_rate', 5e-5):g}", arguments.get("lr_scheduler_type", "linear")
    warmup, decay = arguments.get("warmup_steps", 0), stage.get("decay")
    if decay and "lr_scheduler_type" not in arguments:
        return f"{rate} × {decay['rate']:g}^(step / {decay['steps']})"
    how = {"reduce_lr_on_plateau": "lowered on a plateau of the validation loss", "linear": "linear to 0"}
    schedule = how.get(kind) or as_text(str(kind).replace("_", " "))
    values = arguments.get("lr_scheduler_kwargs") or {}
    if kind == "reduce_lr_on_plateau" and "factor" in values:
        schedule += f" (× {values['factor']:g} after {values.get('patience', 10) + 1} epochs without progress)"
    first = f", the first {100 * warmup:g} % of the steps" if 0 < warmup < 1 else f", the first {warmup:g} steps"
    return f"{rate}, {schedule}" + (f"{first} rising" if warmup else "")


def _value_table(facts: _Facts) -> str:
    recipe, results, test = facts.recipe, facts.results, facts.test or {}
    versions = facts.ran_with.get("versions") or {}
    commit = facts.ran_with.get("git_commit")
    smoothing = {
        {**stage["arguments"], **given}.get("label_smoothing_factor")
        for stage, given in zip(recipe["stages"], facts.ran_with.get("flags", []), strict=False)
    } - {None, 0}
    values = {
        "Image size": _image_size(facts),
        "Head while training": " → ".join(_layer(layer) for layer in recipe["head"]),
        "Augmentation": _augmentation(recipe.get("augmentation") or {}),
        "Class weights": as_text(recipe.get("class_weights") or "equal"),
        "Label smoothing": ", ".join(f"{each:g}" for each in sorted(smoothing)),
        "Seed": str(recipe.get("seed", "")),
        "Parameters": f"{results['parameters']:,}" if "parameters" in results else "",
        "Saved as": as_code(results["model_class"]) if "model_class" in results else "",
        "Training time": _duration(results["seconds"]) if "seconds" in results else "",
        "Hardware": as_text(results.get("hardware", "")),
        "Versions": ", ".join(f"{as_text(name)} {as_text(number)}" for name, number in versions.items() if number),
        "Commit of the code": _commit(commit) if commit else "",
        "SHA-256 of the weights": as_code(test["model_sha256"]) if test.get("model_sha256") else "",
    }
    return _table(["Value", "As run"], [[name, value] for name, value in values.items() if value], right=False)


def _image_size(facts: _Facts) -> str:
    sides = (facts.config.get("pretrained_cfg") or {}).get("input_size")
    size = facts.processor.get("crop_size") or facts.processor.get("size") or {}
    if sides:
        height, width = sides[1:]
    elif isinstance(size, dict) and size:
        height = size.get("height") or size.get("shortest_edge")
        width = size.get("width") or size.get("shortest_edge")
    else:
        height = width = facts.recipe.get("image_size")
    return f"{height} × {width} pixels" if height and width else ""


def _layer(layer: dict[str, Any]) -> str:
    if layer["type"] == "Linear":
        return f"Linear {layer.get('features') or '(classes)'}"
    return f"Dropout {layer['rate']:g}" if layer["type"] == "Dropout" else as_text(layer["type"])


def _augmentation(values: dict[str, Any]) -> str:
    told = [f"{name} up to {values[name]:g}°" for name in ("rotation", "shear") if values.get(name)]
    shares = ("zoom", "shift", "brightness", "contrast", "saturation")
    told += [f"{name} up to {100 * values[name]:g} %" for name in shares if values.get(name)]
    told += [f"crops of {100 * values['crop']:g} % of the area or more"] if values.get("crop", 1) < 1 else []
    told += [f"{name} flips" for name in ("horizontal", "vertical") if values.get(f"{name}_flip")]
    return ", ".join(told) or "none"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _commit(described: str) -> str:
    commit = described.removesuffix("-dirty")
    return as_code(commit) + (", with changes that were not committed" if commit != described else "")


def _plot(facts: _Facts, name: str) -> str:
    """An image with its alternative text, set apart by empty lines; an empty line if there is no such plot."""
    there = (facts.run / "plots" / f"{name}.png").is_file()
    return f"\n![{PLOTS[name]}](plots/{name}.png)\n" if there else ""


def _onnx_example(facts: _Facts) -> str | None:
    if not _has_onnx(facts):
        return None
    try:
        from hub_utils.onnx_example import onnx_example
    except ImportError:
        return None
    return onnx_example(facts.run, facts.model).strip()
