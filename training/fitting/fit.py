"""The main job: a recipe and its images become a run folder."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from training.data.intake import summary
from training.data.source import Source
from training.data.splits import SPLITS
from training.data.streaming import Streamed, read_skipped
from training.fitting import checkpoint_repo
from training.fitting.checkpoint_repo import CheckpointRepo
from training.fitting.checkpoint_restore import restore
from training.fitting.deploy import deploy
from training.fitting.job import Job, check_apart, check_space, make_job, with_pixels
from training.fitting.plan import Options, Plan, alone, on_main, prepare
from training.fitting.progress import write_history
from training.fitting.reading import Reading, read_again, write_reading
from training.fitting.stage import run_stage
from training.recipe import Recipe
from training.results.curves import plot_curves
from training.run_folder import RunFolder, check_same, read_json, write_json


def fit(
    recipe: Recipe, source: Source, run: RunFolder, options: Options | None = None, flags: Sequence[str] = ()
) -> dict:
    """Train `recipe` on the images of `source` into `run`, and return what `all_results.json` says.

    Nothing is written before data, base model and flags have proved good.

    Raises:
        UserError: something that a user can put right.
    """
    options = options or Options()
    plan = prepare(recipe, run, options, flags)
    with alone(plan, run.path):
        return _fit(plan, source, run, options)


def _fit(plan: Plan, source: Source, run: RunFolder, options: Options) -> dict:
    """As `fit`, when nobody else writes into the run."""
    began = time.perf_counter()
    recipe, process, say = plan.recipe, plan.process, plan.say

    check_apart(source, run.path)
    goes_on, repo = on_main(process, lambda: _place(plan, source, run, options))
    job, network, processor = make_job(plan, source, run, options, goes_on)
    if not goes_on:
        on_main(process, lambda: check_space(network, recipe, run.path, aside=0 if repo is None else 2))
    on_main(process, lambda: _begin(run, plan, job.reading, repo, goes_on))
    process.wait_for_everyone()
    begun = on_main(process, lambda: read_json(run.recipe))
    feature_views = begun.get("feature_views", 0)  # old runs have none

    history: list[dict[str, Any]] = []
    with checkpoint_repo.saving(repo, run, say) as saver:
        job = with_pixels(plan, replace(job, feature_views=feature_views, saver=saver))
        for stage, args in zip(recipe.stages, plan.stage_arguments, strict=True):
            network = run_stage(job, network, stage, args, history, goes_on)
        if not process.is_main_process:
            return {}

        write_history(history, run.history)
        plot_curves(history, run.plots / "curves.png", f"{recipe.title} ({recipe.name})")
        results = {
            **deploy(network.eval(), processor, job.datasets, run.path, args, say, options.calibrate),
            "seconds": round(sum(row["seconds"] or 0 for row in history), 1),
            "hardware": str(plan.machine),
            "processes": process.num_processes,
            "images": _counted(job),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            **{name: begun[name] for name in ("search",) if name in begun},  # how the values were found, if by trials
        }
        write_json(results, run.results)  # before the Hub is waited for
    say(
        f"time       {results['seconds'] / 60:.1f} min of training, {(time.perf_counter() - began) / 60:.1f} min in all"
    )
    return results


def _counted(job: Job) -> dict[str, int]:
    """How many images of each split were seen; of a stream, what could not be read is known only now, and said."""
    images, source = {split: len(job.datasets[split]) for split in SPLITS}, job.reading.source
    if not isinstance(source, Streamed):
        return images
    found = read_skipped(job.run.skipped)
    if found:
        job.say(f"skipped    {len(found)} images in all ({job.run.skipped}): {summary(found)}")
    lost = Counter(source.split_of_row(each.path) for each in found)
    return {split: count - lost[split] for split, count in images.items()}


def begin(run: RunFolder, plan: Plan, reading: Reading) -> None:
    """Write what a run begins with, and from which it can go on."""
    run.begin(plan.facts)
    write_reading(run, reading)


def _place(plan: Plan, source: Source, run: RunFolder, options: Options) -> tuple[bool, CheckpointRepo | None]:
    """Whether there is a run to go on with, here or brought here from the Hub, and where its checkpoints go.

    Raises:
        UserError: neither the folder nor the Hub has a place for this run.
    """
    goes_on = run.check_free(options.resume, options.overwrite)
    if options.resume_from is not None:
        repo = checkpoint_repo.find_repo(options.resume_from, run, goes_on)
        if goes_on:
            check_same(run.recipe, plan.facts)
            return True, repo
        plan.say(f"resuming   from {repo.url}")
        stages = [Path(args.output_dir).name for args in plan.stage_arguments]
        look = partial(read_again, plan.recipe, source, options.thorough)
        restore(repo, run, plan.facts, stages, source, look)
        return True, repo
    if options.resume and not goes_on:
        plan.say(f"nothing to resume in {run.path}: starting afresh")
    if goes_on:
        check_same(run.recipe, plan.facts)
    if options.checkpoint_repo is None:
        mine = checkpoint_repo.own(run) if goes_on else {}
        if mine:
            plan.say(
                f"warning    checkpoints stay on this machine now: {mine['repo_id']} takes them by --checkpoint_repo"
            )
        return goes_on, None
    repo = checkpoint_repo.open_repo(options.checkpoint_repo, run, goes_on)
    plan.say(f"checkpoints go to {repo.url} (private); on any machine --resume {repo.repo_id} goes on")
    return goes_on, repo


def _begin(run: RunFolder, plan: Plan, reading: Reading, repo: CheckpointRepo | None, goes_on: bool) -> None:
    """As `begin`, unless the run goes on; on the Hub first, which may still refuse."""
    with TemporaryDirectory() as folder:
        if repo is not None:
            first = run if goes_on else RunFolder(Path(folder))
            if not goes_on:
                begin(first, plan, reading)
            repo.begin(first)
    if not goes_on:
        begin(run, plan, reading)
    elif reading.accepted is not None:
        write_reading(run, reading)
    if repo is not None:
        repo.claim(run)
