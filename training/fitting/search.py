"""A search: the recipe's last stage with one set of values after another, compared on validation; the best as a run.

What is chosen is trained once more, by `fit` as anybody would, and only that run is asked about the test images.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.utils.memory import clear_device_cache

from hub_utils.portable.modeling_backbone_with_head import BackboneWithHeadForImageClassification
from hub_utils.portable.whole import write_bytes
from training.data.source import Source
from training.fitting.fit import begin, fit
from training.fitting.job import Job, check_apart, check_space, make_job, with_pixels
from training.fitting.plan import Options, Plan, alone, on_main, prepare
from training.fitting.reading import read_before
from training.fitting.space import as_flags, as_words, own_values
from training.fitting.stage import run_stage
from training.fitting.study import Store, Trial, open_store, write_trials
from training.fitting.trial import TITLES, compared_by, run_trial
from training.recipe import Recipe, UserError
from training.results.measure import lines, measure
from training.results.search import plot_search
from training.run_folder import RunFolder, check_same, read_json, write_json
from training.run_lock import locked
from training.search_folder import SearchFolder


def search(
    recipe: Recipe,
    source: Source,
    folder: SearchFolder,
    trials: int,
    options: Options | None = None,
    flags: Sequence[str] = (),
) -> dict[str, Any]:
    """Make `trials` trials in all, and the run of the best; goes on with a search that is in the folder.

    Returns what the run's `recipe.json` says of the search, and under "flags" what gives a run the chosen values.
    Nothing is written before data, base model and flags have proved good.

    Raises:
        UserError: something that a user can put right.
    """
    options = options or Options()
    if trials < 1:
        raise UserError(f"--trials {trials}: at least 1 is needed; 20 is usual")
    plan = prepare(recipe, folder.trials, options, flags)
    on_main(plan.process, lambda: _check_alone(plan))
    with alone(plan, folder.path):
        return _search(plan, recipe, source, folder, trials, options, flags)


def _check_alone(plan: Plan) -> None:
    if plan.process.num_processes > 1:
        raise UserError(
            f"a search trains in one process, and not in {plan.process.num_processes}: accelerate launch "
            "--num_processes 1, or python training/search.py"
        )


def _search(
    plan: Plan,
    recipe: Recipe,
    source: Source,
    folder: SearchFolder,
    trials: int,
    options: Options,
    flags: Sequence[str],
) -> dict[str, Any]:
    """As `search`, when nobody else writes there."""
    check_apart(source, folder.path)
    store, job, network = _make_ready(plan, source, folder, options)
    options = replace(options, overwrite=False, look_again=False, feature_views=job.feature_views)
    history: list[dict[str, Any]] = []
    job = with_pixels(plan, job)
    for stage, args in zip(plan.recipe.stages[:-1], plan.stage_arguments[:-1], strict=True):
        network = run_stage(job, network, stage, args, history, goes_on=True)
    _make_trials(plan, job, network, store, folder, trials)
    del job, network

    done, best = store.trials(), store.best()
    title = f"{plan.recipe.title} ({plan.recipe.name})"
    title += f": {len(done)} trials of stage {plan.recipe.stages[-1].name}"
    plot_search(done, best, folder.plot, title, TITLES[store.result])
    if best is None:
        raise UserError(
            f"none of {len(done)} trials came to a result: the loss became no number; --overwrite with a smaller "
            "--learning_rate, around which is searched, starts anew"
        )
    plan.say(f"chosen     trial {best.number} of {len(done)}: {as_words(best.values)} · {_told(best, store)}")
    chosen = as_flags(best.values, len(plan.recipe.stages))
    facts = {"trials": len(done), "chosen": best.number, "compared_by": TITLES[store.result]}
    facts["looks"] = store.note_look(best)
    _train_best(recipe, source, folder, facts, options, [*flags, *chosen])
    with locked(folder.best.path, "measures"):
        results = measure(folder.best, say=plan.say)
    for line in lines(results):
        plan.say(line)
    return {**facts, "flags": chosen}


def _make_ready(
    plan: Plan, source: Source, folder: SearchFolder, options: Options
) -> tuple[Store, Job, BackboneWithHeadForImageClassification]:
    """The store of the trials, their job, and the network that the first stage begins with.

    Raises:
        UserError: as `search`.
    """
    own = own_values(plan.stage_arguments[-1])
    result, direction = compared_by(plan.stage_arguments[-1], options.calibrate)
    goes_on = folder.check_free(options.overwrite)
    if goes_on:
        check_same(folder.trials.recipe, plan.facts, folder.path, who="the search")
        store = open_store(folder.store, result, direction, own)
        read_before(plan.recipe, source, folder.trials, options, plan.say, accept="")
        stored = read_json(folder.trials.recipe).get("feature_views", 0)
        looked = replace(options, look_again=False, feature_views=stored)
        job, network, _ = make_job(plan, source, folder.trials, looked, goes_on)
        plan.say(f"going on   with the search in {folder.path}: {len(store.trials())} trials have come to a result")
        return store, job, network
    job, network, _ = make_job(plan, source, folder.trials, options)
    check_space(network, plan.recipe, folder.path, runs=2)
    if options.overwrite:
        folder.clear()
    folder.path.mkdir(parents=True, exist_ok=True)
    store = open_store(folder.store, result, direction, own)
    if store.trials():
        raise UserError(
            f"the search in '{folder.path}' is not whole any more, {folder.trials.path.name} is not what it was; put "
            "it back, or --overwrite starts anew"
        )
    begin(folder.trials, plan, job.reading)
    return store, job, network


def _make_trials(
    plan: Plan,
    job: Job,
    start: BackboneWithHeadForImageClassification,
    store: Store,
    folder: SearchFolder,
    trials: int,
) -> None:
    """Make as many as there are to be in all, a line each."""
    stage, args = plan.recipe.stages[-1], plan.stage_arguments[-1]
    first, began = len(store.trials()) + 1, time.perf_counter()
    write_trials(store.trials(), folder.table)
    if first <= trials:
        plan.say(f"searching  stage {stage.name}: trials {first} to {trials}, compared on the validation images")
    for number in range(first, trials + 1):
        silent = replace(job, say=lambda _: None)
        run_trial(silent, start, stage, args, store, f"trial {number}/{trials}", plan.recipe.seed)
        clear_device_cache(garbage_collection=True)
        done, best = store.trials(), store.best()
        write_trials(done, folder.table)
        left = (time.perf_counter() - began) / (number - first + 1) * (trials - number)
        so_far = "" if best is None else f" · best {best.result:.4f}, of trial {best.number}"
        plan.say(
            f"  trial {number}/{trials} · {as_words(done[-1].values)} · {_told(done[-1], store)}{so_far}"
            + (f" · {_duration(left)} left" if number < trials else "")
        )


def _told(trial: Trial, store: Store) -> str:
    """What came out of it."""
    if trial.result is None:
        return "the loss became no number"
    early = f", ended early after epoch {trial.epochs:g}" if trial.state == "ended early" else ""
    known = trial.validation_accuracy is not None and store.result != "accuracy"
    accuracy = f", accuracy {trial.validation_accuracy:.1%}" if known else ""
    return f"{TITLES[store.result]} {trial.result:.4f}{accuracy}{early}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _train_best(
    recipe: Recipe, source: Source, folder: SearchFolder, facts: dict[str, Any], options: Options, flags: Sequence[str]
) -> None:
    """The run of the chosen values, unless it is there; it says how they were found."""
    run = folder.best
    before = read_json(run.recipe).get("search", {}) if run.exists() and run.data.is_file() else {}
    if before.get("chosen") == facts["chosen"]:
        write_json({**read_json(run.recipe), "search": facts}, run.recipe)
    else:
        plan = prepare(recipe, run, options, flags)
        run.begin({**plan.facts, "search": facts})
        _copy_what_is_shared(folder.trials, run, [Path(args.output_dir).name for args in plan.stage_arguments[:-1]])
    fit(recipe, source, run, replace(options, resume=True), flags)


def _copy_what_is_shared(trials: RunFolder, run: RunFolder, stages: Sequence[str]) -> None:
    """What the trials have learned from, and the stages before the one that is searched."""
    for name in stages:
        shutil.copytree(trials.path / "checkpoints" / name, run.path / "checkpoints" / name)
    for path in (trials.splits, trials.skipped, trials.conflicts, trials.data):  # with the last, the run goes on
        if path.is_file():
            write_bytes(path.read_bytes(), run.path / path.relative_to(trials.path))
