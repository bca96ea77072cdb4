"""Cross-validation: every image is tested once, by a network that has not seen it; a run folder a fold, and a summary.

The folds are made ready together, with their splits, before the first is trained. Each is then a run like any other,
and a cross-validation that was interrupted goes on as runs do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from accelerate.utils.memory import clear_device_cache

from training.data.source import Source
from training.data.splits import FOLDS_LEAVE, conflicts, make_folds
from training.data.suspects import suspects
from training.fitting.fit import begin, fit
from training.fitting.job import check_apart, check_space
from training.fitting.network import build_network
from training.fitting.plan import Options, Plan, alone, on_main, prepare
from training.fitting.reading import Reading, find, left_out_lines, read_before
from training.recipe import Recipe, UserError
from training.results.folds import plot_folds
from training.results.metrics import mean_interval, wilson_interval
from training.results.serving import positive_classes
from training.run_folder import FoldsFolder, check_same, read_json, write_json

METRICS = {"accuracy": 1.0, "macro_f1": 1.0, "loss": float("inf")}  # and how high each can be
CAVEAT = (
    "Each fold learns from images that the others are tested on: they are not independent, and so the interval over "
    "folds is approximate, and rather too narrow."
)
GROUPED = " Nor are images of one group (patient), so that the interval over all images is too narrow as well."


def fit_folds(
    recipe: Recipe,
    source: Source,
    run: FoldsFolder,
    folds: int,
    options: Options | None = None,
    flags: Sequence[str] = (),
) -> dict:
    """Train `recipe` once for each of `folds` parts of the images, tested on that part; return what `folds.json` says.

    Nothing is written before data, base model and flags have proved good.

    Raises:
        UserError: something that a user can put right.
    """
    if folds < 2:
        raise UserError(f"--folds {folds}: at least 2 are needed; 5 and 10 are usual")
    options = options or Options()
    plan = prepare(recipe, run.fold(1), options, flags)
    with alone(plan, run.path):
        return _fit_folds(plan, recipe, source, run, folds, options, flags)


def _fit_folds(
    plan: Plan, recipe: Recipe, source: Source, run: FoldsFolder, folds: int, options: Options, flags: Sequence[str]
) -> dict:
    """As `fit_folds`, when nobody else writes there."""
    check_apart(source, run.path)
    finished = on_main(plan.process, lambda: _make_ready(plan, source, run, folds, options))
    for number in range(1, folds + 1):
        plan.say(f"\nfold {number} of {folds}" + (": finished before" if number in finished else ""))
        if number not in finished:
            looked = replace(options, resume=True, overwrite=False, look_again=False)
            fit(recipe, source, run.fold(number), looked, flags)
            clear_device_cache(garbage_collection=True)
    if not plan.process.is_main_process:
        return {}

    stored = run.stored()
    summary = {**stored, **summarise([read_json(run.fold(number).results) for number in range(1, folds + 1)])}
    summary["caveat"] = CAVEAT + GROUPED * stored.get("grouped", False)
    plot_folds(summary, run.plot, f"{recipe.title} ({recipe.name}): {folds} folds")
    write_json(summary, run.summary)
    for line in table(summary):
        plan.say(line)
    return summary


def _make_ready(plan: Plan, source: Source, run: FoldsFolder, folds: int, options: Options) -> set[int]:
    """A run folder for each fold, with its splits, from which training goes on; the numbers of those that are finished.

    Raises:
        UserError: as `fit_folds`.
    """
    if run.check_free(folds, options.resume, options.overwrite):
        for fold in run.begun():
            check_same(fold.recipe, plan.facts)
        # Others cannot be accepted: the folds divide those that they began with.
        read_before(plan.recipe, source, run.fold(1), options, plan.say, accept="")
        return {number for number, fold in enumerate(run.begun(), 1) if fold.results.is_file()}
    if options.resume:
        plan.say(f"nothing to resume in {run.path}: starting afresh")
    plan.say(f"{plan.recipe.title} ({plan.recipe.name}), cross-validated")
    found = find(plan.recipe, source, options.thorough)
    parts, left_out = make_folds(found.examples, folds, plan.recipe.splits, found.duplicates)
    torn, skipped = conflicts(found.examples, found.duplicates), [*found.skipped, *left_out]
    sizes = [sum(row.split == "test" for row in rows) for rows in parts]
    images = {"tested": sum(sizes), "only_trained_on": len(parts[0]) - sum(sizes), "left_out": len(skipped)}
    plan.say(f"folds      {len(parts[0]):,} images, of which are tested {' + '.join(map(str, sizes))}")
    own = sum(each.reason == FOLDS_LEAVE for each in skipped)
    if own:
        plan.say(f"           the data's own test split ({own:,} images) is used for nothing here")
    for line in left_out_lines(Reading(found.source, [], skipped, torn, found.duplicates, suspects(found.examples))):
        plan.say(line)
    labels = sorted({row.label for row in parts[0]})
    positive_classes(asdict(plan.recipe.card), labels)
    network, _ = build_network(plan.recipe, labels)
    check_space(network, plan.recipe, run.path, folds)
    facts = {"folds": folds, "seed": plan.recipe.splits.seed}
    run.begin(facts)
    for number, rows in enumerate(parts, 1):
        begin(run.fold(number), plan, Reading(found.source, rows, skipped, torn))
    reasons = Counter(each.reason.partition(": ")[0] for each in skipped)
    grouped = any(example.group for example in found.examples)
    write_json({**facts, "images": images, "grouped": grouped, "reasons": dict(reasons.most_common())}, run.summary)
    return set()


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What the folds' `all_results.json` say together: each metric by fold, its mean over the folds with the standard
    deviation and interval, and the accuracy over all images.
    """
    tested = [each["images"]["test"] for each in results]
    right = sum(round(each["test"]["accuracy"] * images) for each, images in zip(results, tested, strict=True))
    return {
        "results": [
            {"run": f"fold{number}", "tested": images, "seconds": each["seconds"]}
            | {name: each["test"][name] for name in METRICS}
            for number, (each, images) in enumerate(zip(results, tested, strict=True), 1)
        ],
        **{name: mean_interval([each["test"][name] for each in results], highest) for name, highest in METRICS.items()},
        "pooled_accuracy": {
            "right": right,
            "tested": sum(tested),
            "accuracy": right / sum(tested),
            "interval": wilson_interval(right, sum(tested)),
        },
    }


def table(summary: dict[str, Any]) -> list[str]:
    """The summary for a person to read."""
    lines = ["", f"{'fold':<14}{'images':>8}{'accuracy':>18}{'macro F1':>18}{'loss':>18}"]
    for number, each in enumerate(summary["results"], 1):
        scores = f"{each['accuracy']:>18.2%}{each['macro_f1']:>18.2%}{each['loss']:>18.4f}"
        lines.append(f"{number:<14}{each['tested']:>8}{scores}")
    accuracy, f1, loss = (summary[name] for name in METRICS)
    for title, key in (("mean", "mean"), ("deviation", "standard_deviation")):
        lines.append(f"{title:<22}{accuracy[key]:>18.2%}{f1[key]:>18.2%}{loss[key]:>18.4f}")
    scores = "".join(f"{f'{low:.1%} to {high:.1%}':>18}" for low, high in (accuracy["interval"], f1["interval"]))
    lines.append(f"{'95 % interval':<22}{scores}{'{:.3f} to {:.3f}'.format(*loss['interval']):>18}")
    pooled = summary["pooled_accuracy"]
    return [
        *lines,
        f"{'all together':<14}{pooled['tested']:>8}{pooled['accuracy']:>18.2%}, 95 % Wilson interval "
        + "{:.1%} to {:.1%}".format(*pooled["interval"]),
        summary["caveat"],
    ]
