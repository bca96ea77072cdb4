"""The card's results: every figure with its interval, beside what is reached without looking at what pictures show."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hub_utils.card_facts import Facts
from hub_utils.portable.eight_bits import INT8, why_not_measured, without_it
from hub_utils.portable.markdown import MOST, as_code, as_list, as_table, as_text, counted, folded, names_of
from hub_utils.portable.units import in_bytes, in_milliseconds


def as_percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def as_number(value: float) -> str:
    return f"{value:.3f}"


def as_threshold(value: float) -> str:
    """Three digits of what it is away from 0 and from 1: of .00043 or .99957 three decimals would leave nothing."""
    away = min(value, 1 - value)
    if away < 1e-6:
        return f"{value:.3g}" if value < 0.5 else f"1 − {away:.3g}" if away > 0 else "1"
    return f"{value:.{2 - math.floor(math.log10(away))}f}"


@dataclass(frozen=True)
class _Metric:
    """A figure of `test_results.json`: its name in the card, on the Hub, how it is written, and how to read it."""

    title: str
    hub_id: str
    write: Callable[[float], str] = as_percent
    note: str = ""
    args: dict[str, Any] | None = None  # what the Hub is told beside the name


METRICS = {
    "accuracy": _Metric("Accuracy", "accuracy"),
    "balanced_accuracy": _Metric("Balanced accuracy", "balanced_accuracy"),
    "macro_f1": _Metric("Macro F1", "f1", args={"average": "macro"}),
    "top_5_accuracy": _Metric("Top-5 accuracy", "top_5_accuracy"),
    "sensitivity": _Metric("Sensitivity", "sensitivity", args={"threshold": 0.5}),
    "specificity": _Metric("Specificity", "specificity", args={"threshold": 0.5}),
    "roc_auc": _Metric("ROC AUC", "roc_auc", as_number),
    "average_precision": _Metric("Average precision", "average_precision", as_number),
    "log_loss": _Metric("Log loss", "log_loss", as_number, " in nats (lower is better)"),
    "brier_score": _Metric(
        "Brier score",
        "brier_score",
        as_number,
        ", half the squared distance, from 0 to 1 (lower is better)",
        {"scale_by_half": True},
    ),
    "expected_calibration_error": _Metric(
        "Expected calibration error", "expected_calibration_error", as_number, " (lower is better)"
    ),
}


def training_section(facts: Facts) -> dict[str, Any]:
    """What training measured on the saved model; not enough to rely on."""
    measured = [(split, facts.results[split]) for split in ("validation", "test")]
    rows = [
        [f"{s.capitalize()} images", as_percent(r["accuracy"]), as_percent(r["macro_f1"]), as_number(r["loss"])]
        for s, r in measured
    ]
    return {
        "evaluated": False,
        "chosen": _chosen(facts),
        "measured": f"This run has not been evaluated yet: no intervals, no figures by class. "
        f"{as_code(facts.eval_command)} adds them. Until then, training's own measurement of the saved model:",
        "results_table": as_table(["", "Accuracy", "Macro F1", "Log loss, in nats"], rows),
    }


def results_section(facts: Facts) -> dict[str, Any]:
    test = facts.test
    groups = test.get("groups", test["images"])
    apart = f" ({groups:,} if what belongs together counts once)" if groups < test["images"] else ""
    day = f" on {as_text(test['date'])[:10]}" if test.get("date") else ""
    return {
        "evaluated": True,
        "chosen": _chosen(facts),
        "measured": f"Measured{day} on the {test['images']:,} {as_text(test['split'])} images{apart}, with the model "
        "as it lies here, in fp32.",
        "results_table": _results_table(test),
        "intervals": _methods(test),
        "reading": " ".join(_reading(test)),
        "confusions": _confusions(test),
        "class_table": _class_table(test),
        "thresholds": _thresholds(test),
        "threshold_table": _threshold_table(test),
    }


def _chosen(facts: Facts) -> str:
    """How the values were found, if by a search: among how many, and how often the test images were looked at."""
    search = facts.ran_with.get("search")
    if not search:
        return ""
    chosen = (
        f"The values of the last stage were chosen among {counted(search['trials'], 'trial')} by the "
        f"{as_text(search['compared_by'])}, without a look at the test images."
    )
    if search["looks"] == 1:
        return f"{chosen} These were looked at once, for the values that were chosen."
    return (
        f"{chosen} But these were looked at {search['looks']} times, each for another choice, since the search went on "
        "afterwards: who stops where they look best reads a figure that is too good."
    )


def _results_table(test: dict[str, Any]) -> str:
    """Every metric, and below the accuracy what is reached without looking at what the pictures show."""
    rows = []
    for name, metric in _shown(test).items():
        rows.append([metric.title + metric.note, *_cells(test["metrics"][name], metric.write)])
        if name == "accuracy":
            rows[-1][1] = f"**{rows[-1][1]}**"
            rows += [[f"… {what}", *_cells(floor)] for what, floor in _floors(test)]
    return as_table(["", "Value", "95 % interval"], rows)


def _floors(test: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    floors = test.get("floors", {})
    found = []
    if floors.get("majority"):
        says = floors["majority"].get("says")
        found.append(
            (f"of always answering “{as_text(says)}”" if says else "of the commonest class", floors["majority"])
        )
    if floors.get("colour_neighbour"):
        found.append(("of the nearest training image by colour alone", floors["colour_neighbour"]))
    return [(what, floor) for what, floor in found if floor["value"] is not None]


def _methods(test: dict[str, Any]) -> str:
    """How the intervals of the table were made."""
    by_method = defaultdict(list)
    for name, metric in _shown(test).items():
        method = test["metrics"][name].get("method")
        if method:
            proper = name in ("roc_auc", "brier_score")
            by_method[method].append(metric.title if proper else metric.title[0].lower() + metric.title[1:])
    if not by_method:
        return "The intervals are 95 % intervals."
    *others, most = sorted(by_method, key=lambda method: len(by_method[method]))
    told = [f"{as_list(by_method[method])}: {as_text(method)}" for method in others]
    told.append(f"the rest: {as_text(most)}" if others else as_text(most))
    return f"How the intervals were made – {'; '.join(told)}."


def _shown(test: dict[str, Any]) -> dict[str, _Metric]:
    """The metrics of the table; two of them stand with their thresholds instead."""
    elsewhere = ("sensitivity", "specificity") if test.get("operating_points") else ()
    return {name: metric for name, metric in METRICS.items() if name in test["metrics"] and name not in elsewhere}


def _reading(test: dict[str, Any]) -> list[str]:
    """What the accuracy is worth beside the floors, in sentences."""
    accuracy, floors = test["metrics"]["accuracy"], test.get("floors", {})
    told, beaten = [], []
    for name, words in (("majority", "always giving the same answer"), ("colour_neighbour", "colour alone")):
        floor = floors.get(name)
        if not floor or None in (floor["value"], accuracy["value"]):
            continue
        by_colour = (
            "the class of the training image with the nearest colours, without any network, is right on "
            f"{as_percent(floor['value'])}"
        )
        if floor["interval"][1] < accuracy["interval"][0]:
            beaten.append(f"{words} ({as_percent(floor['value'])})")
        elif name == "majority":
            told.append(
                f"**The accuracy is not clearly above that of {words}** ({as_percent(floor['value'])}): as far as it "
                "tells, the model may have learned nothing that helps."
            )
        elif floor["interval"][0] > accuracy["interval"][1]:
            told.append(
                f"**Colour alone does better than the model**: {by_colour}; the intervals do not overlap. "
                "On these images such a look-up serves better."
            )
        else:
            does = "does" if floor["value"] >= accuracy["value"] else "may do"
            told.append(
                f"**Colour alone {does} as well**: {by_colour}, and the intervals overlap. On these images the "
                "accuracy does not show that the model sees more than colour."
            )
    if beaten:
        told.append(f"The accuracy is clearly above that of {as_list(beaten)}: the intervals do not overlap.")
    if test.get("missing"):
        told.append(f"Without a test image, so that nothing is known of them: {names_of(test['missing'])}.")
    return told or ["There is nothing to compare these figures with: no floors were measured."]


def _confusions(test: dict[str, Any]) -> str:
    """The pairs of classes that are most often taken for one another."""
    classes, counts = test["classes"], test["confusion"]
    pairs = [(count, i, j) for i, row in enumerate(counts) for j, count in enumerate(row) if i != j and count > 0]
    wrong = sum(count for count, _, _ in pairs)
    if not pairs:
        return "No test image was taken for another class."
    most = [pair for pair in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])) if pair[0] > 1][:3]
    told = [
        f"{as_text(classes[i])} for {as_text(classes[j])} ({count} of {sum(counts[i])} images)" for count, i, j in most
    ]
    of = f"{wrong:,} of {test['images']:,} test images {'was' if wrong == 1 else 'were'} taken for another class"
    return f"{of}; most often {as_list(told)}." if told else f"{of}, no two of them in the same way."


def _class_table(test: dict[str, Any]) -> str:
    rows, reasons = [], defaultdict(list)
    for name in test["classes"]:
        figures = test["per_class"][name]
        cells = [_cell(figures[each]) for each in ("recall", "precision", "f1")]
        rows.append([as_text(name), f"{figures['support']:,}", *cells])
        for each in ("recall", "precision", "f1"):
            if figures[each]["value"] is None:
                reasons[each, figures[each]["reason"]].append(name)
    table = as_table(["Class", "Test images", "Recall", "Precision", "F1"], rows)
    undefined = [
        f"{'F1' if each == 'f1' else each.capitalize()} of {names_of(names)} is not defined: {as_text(reason)}."
        for (each, reason), names in reasons.items()
    ]
    if len(rows) > MOST:
        weakest = _weakest(test)
        table = (f"Lowest recall: {weakest}.\n\n" if weakest else "") + folded("The figures of each class", table)
    return "\n\n".join([table, *([" ".join(undefined)] if undefined else [])])


def _weakest(test: dict[str, Any]) -> str:
    recalls = [(test["per_class"][name]["recall"]["value"], name) for name in test["classes"]]
    lowest = sorted((value, name) for value, name in recalls if value is not None and value < 1)[:5]
    return ", ".join(f"{as_text(name)} {as_percent(value)}" for value, name in lowest)


def _thresholds(test: dict[str, Any]) -> str:
    positive = as_text(test.get("positive") or test["classes"][-1])
    return (
        f"“{positive}” is answered where its probability reaches the threshold. Sensitivity is the share of "
        f"“{positive}” that is found, specificity the share of the others that is left alone. `pipeline` names the "
        "likelier class, which is the threshold 0.5; the other one was chosen on the validation images, to find 95 % "
        "there."
    )


def _threshold_table(test: dict[str, Any]) -> str | None:
    points = [point for point in (test.get("operating_points") or {}).values() if point]
    rows = [
        [
            "–" if point.get("threshold") is None else as_threshold(point["threshold"]),
            *(_cell(point[each]) if each in point else "–" for each in ("sensitivity", "specificity")),
        ]
        for point in points
    ]
    reasons = {point[each]["reason"] for point in points for each in ("sensitivity", "specificity")
               if each in point and point[each]["value"] is None}  # fmt: skip
    reasons |= {point["reason"] for point in points if point.get("reason")}
    told = "".join(f"\n\nNot defined: {as_text(reason)}." for reason in sorted(reasons))
    return as_table(["Threshold", "Sensitivity", "Specificity"], rows) + told if rows else None


def calibration_section(facts: Facts) -> str | None:
    """What the temperature did; nothing for a run that knows of none."""
    if "temperature" not in facts.results:
        return None
    temperature = facts.results["temperature"]
    if temperature is None:
        return "No temperature was fitted: the probabilities are the network's own."
    if temperature == 1:
        told = (
            "After training, a temperature, by which all logits are divided, was looked for on the validation images. "
            "They ask for none: any would gain less on them than one number gains by chance. The weights are as "
            "trained."
        )
        whens, head = ("after",), ["", "Log loss", "Expected calibration error"]
    else:
        told = (
            "After training, one number was fitted on the validation images, by which all logits are divided: a "
            f"temperature of {temperature:.3g}. It is part of the weights, wherever the model is used; the answers "
            "stay the same."
        )
        whens = ("before", "after")
        head = ["", "Log loss before", "after", "Expected calibration error before", "after"]
    found = facts.results.get("calibration") or {}
    told += " What the probabilities are worth, the test images say:" if "test" in found else ""
    places = [(when, value) for value in ("loss", "expected_calibration_error") for when in whens]
    rows = [
        [f"{split.capitalize()} images", *(as_number(found[split][when][value]) for when, value in places)]
        for split in found
    ]
    return f"{told}\n\n{as_table(head, rows)}" if rows else told


def doubt(facts: Facts) -> str | None:
    """What the model itself has against an answer; nothing for a run that knows of no threshold."""
    unsure, strange = (facts.serving.get(name) or {} for name in ("not_sure", "strangeness"))
    told = []
    if unsure.get("threshold") is not None:
        right = unsure["accuracy_answered"]
        right = "" if right is None else f", and {as_percent(right)} of these answers are right"
        told.append(
            f"An answer with a probability below {as_percent(unsure['threshold'])} is better called “not sure”: "
            f"{as_percent(unsure['answered'])} of the {as_text(unsure['split'])} images have a higher one{right} "
            f"(of all answers {as_percent(unsure['accuracy_all'])})."
        )
    if strange.get("threshold") is not None:
        split, share = strange["split"], strange["share_below"]
        if strange.get("test"):
            split, share = "test", strange["test"]["share_below"]
        told.append(
            "A picture whose features lie far from those of the training images does not look like what the model was "
            f"trained on: with the threshold {strange['threshold']:.3g} that is said of {as_percent(1 - share)} of the "
            f"{as_text(split)} images."
        )
    where = "`serving.json` holds the threshold and how it was chosen."
    if len(told) == 2:
        where = "`serving.json` holds both thresholds and how they were chosen."
    return " ".join([*told, where]) if told else None


def as_interval(estimate: dict[str, Any], write: Callable[[float], str] = as_percent) -> str:
    low, high = (write(bound) for bound in estimate["interval"])
    return f"{low.removesuffix(' %')} to {high}"


def _cells(estimate: dict[str, Any], write: Callable[[float], str] = as_percent) -> list[str]:
    """Value and interval; for what is undefined a dash and the reason."""
    if estimate["value"] is None:
        return ["–", f"not defined: {as_text(estimate['reason'])}"]
    return [write(estimate["value"]), as_interval(estimate, write) if estimate.get("interval") else "–"]


def _cell(estimate: dict[str, Any]) -> str:
    """Value, and in brackets its interval."""
    value, interval = _cells(estimate)
    return f"{value} [{interval}]" if estimate.get("interval") else value


def eight_bits(facts: Facts) -> str:
    """What onnx/model_int8.onnx costs and saves; "" where there is none, none is used, or another was measured."""
    known, file = (facts.test or {}).get("int8"), facts.run / INT8
    if not known or facts.medical or not file.is_file():
        return ""
    if why_not_measured(file, facts.serving) or why_not_measured(file, facts.test):
        return ""
    test, milliseconds, size = known["test"], known["milliseconds"], known["bytes"]
    right, loss = test["accuracy"], test["log_loss"]
    return (
        f"`onnx/model_int8.onnx` is the same network with convolutions in 8 bits: {in_bytes(size['int8'])} instead of "
        f"{in_bytes(size['float32'])}, and where it was measured {in_milliseconds(milliseconds['int8'])} a picture "
        f"instead of {without_it(milliseconds)}. It is right on {as_percent(right['int8'])} of the "
        f"{counted(test['images'], 'test image')} instead of {as_percent(right['float32'])}, with a log loss of "
        f"{as_number(loss['int8'])} instead of {as_number(loss['float32'])}; {test['changed']} of the "
        f"answers that were clear are others, and a probability differs by up to {test['largest_difference']:.2f}."
    )
