"""The model card: RUN/README.md, written from what stands in the run folder and from nothing else.

The words are in `card_template.md`, the facts for them here and in `card_*.py`. To say more, add a place to the
template and a function that fills it. Whatever comes from a person or a file name goes through `markdown.as_text`.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hub_utils.card_facts import SPLITS, Facts, read_run
from hub_utils.card_results import (
    METRICS,
    as_interval,
    as_percent,
    calibration_section,
    doubt,
    eight_bits,
    results_section,
    training_section,
)
from hub_utils.card_training import stage_table, value_table
from hub_utils.portable.markdown import (
    MOST,
    as_code,
    as_link,
    as_list,
    as_prose,
    as_table,
    as_text,
    counted,
    folded,
    one_line,
)
from hub_utils.portable.medical import NOT_A_DEVICE
from hub_utils.portable.whole import write_text

TEMPLATE = Path(__file__).with_name("card_template.md")
# The last line, unseen where Markdown is drawn: a card that somebody has changed does not fit to it any more.
SEAL = "\n<!-- written by a program, and changed by nobody while the SHA-256 of all above is {} -->\n"
PLOTS = {
    "confusion": "Confusion matrix of the test images: a row for each true class, a column for each answer",
    "recall": "Recall of each class on the test images, sorted, with its interval",
    "discrimination": "ROC and precision-recall curves of the test images",
    "reliability": "Reliability diagram: how often the model is right, by how sure it is",
    "curves": "Loss and accuracy by epoch, on training and validation images",
}


def write_card(run: Path, repo_id: str | None = None) -> Path:
    """Write README.md into the run folder `run` and return its path; otherwise as `card_text`."""
    write_text(card_text(run, repo_id), run / "README.md")
    return run / "README.md"


def card_text(run: Path, repo_id: str | None = None) -> str:
    """The card of the run folder `run`, which is not touched; `repo_id` is where the model will be on the Hub.

    Raises:
        ValueError: the folder holds no trained run, a file of it is broken, or `repo_id` is none.
    """
    facts = read_run(run, repo_id)
    card = ModelCard.from_template(_card_data(facts), template_path=str(TEMPLATE), **_places(facts))
    card.text = card.text.rstrip() + "\n"
    text = str(card)
    return text + SEAL.format(_digest(text))


def is_as_written(text: str) -> bool:
    """Whether a card is as `card_text` made it, of whatever run, name and version, and nobody has changed it since."""
    body, seal, rest = text.replace("\r\n", "\n").rpartition(SEAL.partition("{}")[0])
    return bool(seal) and rest.strip() == SEAL.format(_digest(body)).removeprefix(seal).strip()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _card_data(facts: Facts) -> ModelCardData:
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


def _eval_results(facts: Facts) -> list[EvalResult]:
    estimates = facts.test["metrics"] if facts.test else {}
    dataset = facts.dataset.get("dataset")
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset or "imagefolder",
            dataset_name=dataset or one_line(facts.recipe["title"]),
            dataset_config=facts.dataset.get("config"),
            dataset_split=facts.test["split"],
            dataset_revision=facts.dataset.get("revision"),
            metric_type=metric.hub_id,
            metric_args=metric.args,
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


def _has_onnx(facts: Facts) -> bool:
    return (facts.run / "onnx" / "model.onnx").is_file()


def _places(facts: Facts) -> dict[str, Any]:
    """What the template asks for."""
    return {
        "title": _title(facts),
        "medical": facts.medical,
        "not_a_device": NOT_A_DEVICE,
        "cannot_show": _cannot_show(facts),
        "summary": _summary(facts),
        "classes": [as_text(name) for name in facts.classes],
        "folded_classes": len(facts.classes) > MOST,
        "model": json.dumps(facts.model, ensure_ascii=False),
        **_loading(facts),
        **(results_section(facts) if facts.test else training_section(facts)),
        "calibration": calibration_section(facts),
        "data": _data(facts),
        "split_table": _split_table(facts),
        "kept_together": _kept_together(facts),
        "citation": as_prose(facts.recipe["card"].get("citation") or ""),
        "limits": _limits(facts),
        "stage_table": stage_table(facts),
        "value_table": value_table(facts),
        "onnx_example": _onnx_example(facts),
        "eight_bits": eight_bits(facts),
        "plots": {name: _plot(facts, name) for name in PLOTS},
    }


def _title(facts: Facts) -> str:
    """The recipe's; a folder of somebody's photos has none, and is called by what is in it."""
    if facts.recipe.get("name") != "folder":
        return as_text(facts.recipe["title"])
    if len(facts.classes) > 5:
        return f"Image classifier of {len(facts.classes)} classes"
    return f"Image classifier: {' · '.join(as_text(name) for name in facts.classes)}"


def _cannot_show(facts: Facts) -> str:
    limits = facts.recipe["card"].get("limits") or ""
    told = [as_prose(limits)]
    if facts.patients:
        collected = re.search(r"(\d+) patients", limits)
        part = "a part of them, " if collected and facts.patients < int(collected[1]) else ""
        told.append(
            f"This run used {part}the images of {counted(facts.patients, 'patient')}; nobody's stand in both training "
            "and test."
        )
    else:
        told.append(
            "The files do not say whose images they are: those of one patient may stand in training and in test, and "
            "every figure below may look better than it is."
        )
    return " ".join(each for each in told if each)


def _summary(facts: Facts) -> str:
    made = f"{_base_model(facts)} {counted(facts.results['images']['train'], 'image')} from {_collection(facts)}."
    first = f"This model tells {counted(len(facts.classes), 'class', 'classes')} of images apart"
    first = f"{first}: it is {made}"
    tested = f"{counted(facts.test_images, 'test image')} kept apart from training"
    if not facts.test:
        accuracy = as_percent(facts.results["test"]["accuracy"])
        return (
            f"{first} Its evaluation is missing; by training's own measurement it is right on {accuracy} of {tested}."
        )
    accuracy = facts.test["metrics"]["accuracy"]
    if accuracy["value"] is None:
        return f"{first} On the {tested} its accuracy is not defined: {as_text(accuracy['reason'])}."
    return (
        f"{first} It is right on **{as_percent(accuracy['value'])}** of {tested} (95 % interval "
        f"{as_interval(accuracy)}); what that figure leaves out stands under [limits](#limits-and-intended-use)."
    )


def _base_model(facts: Facts) -> str:
    base = facts.recipe["base_model"]
    if isinstance(base, dict):
        return f"a {as_code(base['model_type'])} trained from random weights on"
    if _is_hub_id(base):
        return f"[{as_text(base)}](https://huggingface.co/{base}), fine-tuned on"
    return f"{as_text(base)}, fine-tuned on"


def _collection(facts: Facts) -> str:
    dataset = facts.dataset.get("dataset")
    if dataset:
        return f"[{as_text(dataset)}](https://huggingface.co/datasets/{dataset})"
    homepage = facts.recipe["data"].get("homepage")
    if homepage and as_link(homepage):
        return f"[{as_text(facts.recipe['title'])}]({homepage})"
    return as_text(facts.recipe["title"]) if homepage or facts.recipe["data"].get("source") else "a local folder"


def _loading(facts: Facts) -> dict[str, str]:
    """What `pipeline` has to be told, and why."""
    place = "" if facts.repo_id else f"Put the path of this folder in place of {as_code(facts.model)}, here and below. "
    module = next((each.split(".")[0] for each in facts.config.get("auto_map", {}).values()), None)
    if module is None:
        whose = "timm" if facts.config.get("model_type") == "timm_wrapper" else "transformers"
        loading = f"{place}The network is one of {whose}: no code of this repository is run."
        return {"custom_arguments": "", "loading": loading}
    pinned = ', revision="COMMIT"' if facts.repo_id else ""
    put = "in place of `COMMIT`" if facts.repo_id else "as `revision=` when you load it from the Hub"
    return {
        "custom_arguments": f", trust_remote_code=True{pinned}",
        "loading": f"{place}The head has hidden layers, for which transformers has no class: `trust_remote_code=True` "
        f"runs the one file {as_code(f'{module}.py')} that lies beside the weights. Read it first, and put the full "
        f"hash of the commit that you have read {put}, so that nothing else is ever run.",
    }


def _data(facts: Facts) -> str:
    data, card = facts.recipe["data"], facts.recipe["card"]
    told = []
    used = f"This run used {counted(sum(facts.results['images'].values()), 'image')}"
    if facts.dataset:
        at = f" at revision {as_code(facts.dataset['revision'])}" if facts.dataset.get("revision") else ""
        config = f", configuration {as_code(facts.dataset['config'])}" if facts.dataset.get("config") else ""
        told.append(f"{used} of the data set {_collection(facts)} on the Hub{config}{at}.")
    elif data.get("homepage") or data.get("source"):
        places = [as_link(data["homepage"]) if data.get("homepage") else None, _source(data.get("source"))]
        places = list(dict.fromkeys(place for place in places if place))
        published = f", published at {as_list(places)}" if places else ""
        told.append(f"{used} of {as_text(facts.recipe['title'])}{published}.")
    else:
        told.append(f"{used} from a local folder; they are not published with the model.")
    if data.get("classes") not in (None, len(facts.classes)):
        told.append(f"The recipe is made for {data['classes']} classes, this run has {len(facts.classes)}.")
    told.append(_data_license(card.get("data_license")))
    license = card.get("license") or "unknown"
    told.append(
        "No licence has been chosen for the model."
        if license == "unknown"
        else f"The model is under {as_code(license)}."
    )
    return " ".join(told)


def _source(source: str | None) -> str | None:
    """A page for each kind of source that recipes have; anything else may be a place on somebody's disk."""
    kind, _, name = (source or "").partition(":")
    if kind == "kaggle":
        return as_link(f"https://www.kaggle.com/datasets/{name}")
    if kind == "osf":
        return as_link(f"https://osf.io/{name}/")
    return as_link(source or "")


def _data_license(license: str | None) -> str:
    return {
        "none stated": "The licence of the data is not stated by its publishers.",
        "unverified": "The licence of the data has not been verified.",
        "unknown": "The licence of the data is not recorded.",
    }.get(license or "unknown") or f"Licence of the data: {as_prose(license)}."


def _split_table(facts: Facts) -> str:
    head = ["Class", "Training", "Validation", "Test"]
    if not facts.images:
        return as_table(["", *head[1:]], [["All", *(f"{facts.results['images'][split]:,}" for split in SPLITS)]])
    rows = [[as_text(label), *(f"{facts.images[split, label]:,}" for split in SPLITS)] for label in facts.classes]
    totals = {split: sum(count for (each, _), count in facts.images.items() if each == split) for split in SPLITS}
    total = ["All", *(f"{totals[split]:,}" for split in SPLITS)]
    if len(rows) > MOST:
        return as_table(["", *head[1:]], [total]) + "\n\n" + folded("Images of each class", as_table(head, rows))
    return as_table(head, [*rows, total])


def _kept_together(facts: Facts) -> str:
    if not facts.images:
        return f"{_streamed(facts)}; it was not searched for copies, so its splits may share some."
    together = [count for count in facts.groups.values() if count > 1]
    told = [_divided(facts)]
    kinds = "Copies and near-duplicates" + (f", and all images of a {_group(facts)}," if facts.patients else "")
    if together:
        of = f", of {counted(facts.patients, _group(facts))}" if facts.patients else ""
        told.append(f"{kinds} stand in one split together: that concerns {sum(together):,} images{of}.")
    else:
        told.append("Copies and near-duplicates would stand in one split together; none were found.")
    if facts.conflicts:
        clusters = len(set(facts.conflicts))
        told.append(
            f"{len(facts.conflicts):,} files show {counted(clusters, 'picture')} under more than one class; they are "
            "in no validation or test split."
        )
    return " ".join(told)


def _streamed(facts: Facts) -> str:
    own = "The data set was streamed, with its own"
    if facts.drawn is None:
        return "The data set was streamed"
    if not facts.drawn:
        return f"{own} splits"
    kept = next((f" and {split}" for split in SPLITS[1:] if split not in facts.drawn), "")
    return (
        f"{own} training{kept} split{'s' * bool(kept)}; the {as_list(facts.drawn)} images were taken out of those for "
        f"training by lot, with seed {_seed(facts)}"
    )


def _divided(facts: Facts) -> str:
    """Whose splits they are."""
    how = f"class by class, with seed {_seed(facts)}"
    if facts.drawn is None:
        return f"Unless a table or the names of the files say otherwise, the images were divided {how}."
    if not facts.drawn:
        return "The data's own splits are kept."
    if len(facts.drawn) == 2:
        return f"The images were divided {how}."
    (drawn,) = facts.drawn
    kept = "test" if drawn == "validation" else "validation"
    return f"The data's own {kept} split is kept; the {drawn} images were taken out of those for training {how}."


def _seed(facts: Facts) -> int:
    return facts.recipe["splits"].get("seed", 42)


def _group(facts: Facts) -> str:
    return "patient" if facts.medical else "group"


def _limits(facts: Facts) -> list[str]:
    limits = facts.recipe["card"].get("limits")
    if facts.medical:
        meant = (
            "Meant for teaching and for the study of methods, on images like these. See [above](#not-a-medical-device)."
        )
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
        f"It answers with one of its {len(facts.classes)} classes whatever the picture shows, and can be sure of "
        "itself and wrong.",
        *([doubt(facts)] if doubt(facts) else []),
        "The test images are of the same collection as the training images. Of other cameras, places and times the "
        "intervals say nothing; expect less there.",
    ]


def _plot(facts: Facts, name: str) -> str:
    """An image with its alternative text, between empty lines; nothing if these weights have no such plot."""
    there = (facts.run / "plots" / f"{name}.png").is_file() and (facts.test or name == "curves")
    return f"\n![{PLOTS[name]}](plots/{name}.png)\n" if there else ""


def _onnx_example(facts: Facts) -> str | None:
    if not _has_onnx(facts):
        return None
    from hub_utils.onnx_example import onnx_example  # it tries the lines out, with transformers

    return onnx_example(facts.run, facts.repo_id or Path(facts.model)).strip()
