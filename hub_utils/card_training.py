"""The card's training values, as run."""

from __future__ import annotations

from typing import Any

from hub_utils.card_facts import Facts
from hub_utils.portable.markdown import as_code, as_table, as_text


def stage_table(facts: Facts) -> str:
    head = ["Stage", "Trains", "Epochs", "Batch", "Optimiser", "Learning rate", "Keeps the weights of"]
    return as_table(head, [_stage_row(facts, *stage) for stage in facts.stages], right=False)


TRAINABLE = {
    "head": "the new layers",
    "all": "all layers",
    "last_stage": "the new layers and the base model's last stage, or all of a base model that has none",
}


def _stage_row(facts: Facts, stage: dict[str, Any], arguments: dict[str, Any]) -> list[str]:
    history = [row for row in facts.history if row["stage"] == stage["name"]]
    ran = f"{max((float(row['epoch']) for row in history), default=0):g}"
    most = arguments.get("num_train_epochs", 3)  # Trainer's own, where the recipe says nothing
    kept = "the last epoch"
    if history and (stage.get("restore_best") or stage.get("early_stopping_patience") is not None):
        best = min(history, key=lambda row: float(row["validation_loss"]))
        kept = f"epoch {float(best['epoch']):g}, of the lowest validation loss"
    return [
        as_text(stage["name"]),
        TRAINABLE[stage["trainable"]],
        ran if "max_steps" in arguments or ran == f"{most:g}" else f"{ran} of {most:g}",
        str(_batch(facts, stage, arguments)),
        _optimiser(arguments),
        _learning_rate(stage, arguments),
        kept,
    ]


def _batch(facts: Facts, stage: dict[str, Any], arguments: dict[str, Any]) -> int:
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


def value_table(facts: Facts) -> str:
    recipe, results, test = facts.recipe, facts.results, facts.test or {}
    versions = facts.ran_with.get("versions") or {}
    commit = facts.ran_with.get("git_commit")
    smoothing = {arguments.get("label_smoothing_factor") for _, arguments in facts.stages} - {None, 0}
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
    return as_table(["Value", "As run"], [[name, value] for name, value in values.items() if value], right=False)


def _image_size(facts: Facts) -> str:
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
