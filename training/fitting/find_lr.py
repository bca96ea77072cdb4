"""`--find_lr`: a learning-rate range test of each stage, in place of a training (L. N. Smith, "Cyclical learning rates
for training neural networks", 2017, arXiv:1506.01186).

While the rate grows from step to step, evenly in its logarithm, the loss stands still, falls, and blows up. Each stage
is tested as it would be trained, by its own trainer, but for its schedule, and from the weights that the stages before
leave when they are trained as they stand in the recipe. All that is trained here is thrown away.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

from hub_utils.portable.modeling_backbone_with_head import BackboneWithHeadForImageClassification
from hub_utils.portable.whole import passing, write_json
from training.data.source import Source
from training.fitting import leaving
from training.fitting.job import Job, check_apart, check_space, make_job, with_pixels
from training.fitting.plan import Options, Plan, alone, on_main, prepare
from training.fitting.progress import Progress
from training.fitting.stage import make_trainer, run_stage, what_is_trained
from training.preemption import Stopped
from training.recipe import ExponentialDecay, Recipe, Stage, UserError
from training.results.lr_range import Curve, curve_facts, has_blown_up, plot_lr_range, write_curves
from training.run_folder import FoldsFolder, RunFolder
from training.whole import whole_folder

LOWEST, HIGHEST = 1e-6, 10.0  # from where no base model moves, to where none that we tried has not blown up
STEPS = 100  # of the optimiser: fourteen for each power of ten; all of a ResNet-50 takes 5 to 8 min on two CPU cores
WRITTEN = CSV, JSON, PLOT = "lr_range.csv", "lr_range.json", "plots/lr_range.png"


def find_lr(
    recipe: Recipe, source: Source, folder: Path, options: Options | None = None, flags: Sequence[str] = ()
) -> dict[str, Any]:
    """Test each stage of `recipe` on the images of `source`, write what was found into `folder`, and return what
    `lr_range.json` says: of each stage the suggestion and why, and the flags to try next.

    Raises:
        UserError: something that a user can put right; nothing is written then.
        Stopped: a signal asked to leave; nothing is left behind.
    """
    options = options or Options()
    plan = prepare(recipe, RunFolder(folder), options, flags)
    with alone(plan, folder):
        check_apart(source, folder)
        on_main(plan.process, lambda: check_free(folder))
        try:
            with _passing_run(plan, folder) as run:
                curves = _test_stages(plan, source, run, options)
        except Stopped as stopped:
            raise Stopped(stopped.number) from None  # its checkpoint has gone
        facts = {**plan.facts, "hardware": str(plan.machine), "processes": plan.process.num_processes}
        facts |= {"stages": [curve_facts(curve) for curve in curves], "next": _next_flags(plan, curves)}
        if plan.process.is_main_process:
            with whole_folder(folder) as part:
                write_curves(curves, part / CSV)
                write_json(facts, part / JSON)
                plot_lr_range(curves, part / PLOT, f"{plan.recipe.title} ({plan.recipe.name}): learning rates")
        plan.process.wait_for_everyone()
    return facts


def check_free(folder: Path) -> None:
    """Refuse a place that is neither free nor that of a former test, which gives way.

    Raises:
        UserError: it holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"'{folder}' is a file; --output_dir needs a folder")
    own = "--find_lr writes into a folder of its own: leave out --output_dir, or choose one that is not there"
    if RunFolder(folder).exists() or FoldsFolder(folder).stored():
        raise UserError(f"'{folder}' holds a run; {own}")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    others = sorted(name for name in found.difference(WRITTEN) if not Path(name).name.startswith("."))
    if others:
        raise UserError(f"'{folder}' holds '{others[0]}', which is nothing of a former test; {own}")


@contextmanager
def _passing_run(plan: Plan, folder: Path) -> Iterator[RunFolder]:
    """Where earlier stages keep their checkpoints until all is over: beside `folder`, for the disk of /tmp is small."""

    def made() -> RunFolder:
        folder.parent.mkdir(parents=True, exist_ok=True)
        run = RunFolder(Path(stack.enter_context(passing(f".{folder.name}", str(folder.parent)))))
        run.skipped.parent.mkdir()  # a stream tells what it cannot read
        return run

    with ExitStack() as stack:
        yield on_main(plan.process, made)


def _test_stages(plan: Plan, source: Source, run: RunFolder, options: Options) -> list[Curve]:
    """A curve for each stage; all but the last are trained as well, for the one after them."""
    job, network, _ = make_job(plan, source, run, options)
    earlier = replace(plan.recipe, stages=plan.recipe.stages[:-1]) if len(plan.recipe.stages) > 1 else None
    if earlier is not None:
        on_main(plan.process, lambda: check_space(network, earlier, run.path))
    job = with_pixels(plan, job)
    curves: list[Curve] = []
    history: list[dict[str, Any]] = []
    for number, (stage, args) in enumerate(zip(plan.recipe.stages, plan.stage_arguments, strict=True), 1):
        args = copy(args)
        args.output_dir = str(run.stage(number, stage.name))
        curve = _range_test(job, deepcopy(network), stage, args)
        says = "no suggestion" if curve.suggested is None else f"suggested  {curve.suggested:.1e}"
        job.say(f"{says} (recipe {curve.learning_rate:.1e}): {curve.why}")
        curves.append(curve)
        if number < len(plan.recipe.stages):
            network = _trained(job, network, stage, args, history, number, curve)
    return curves


class RangeTest(TrainerCallback):
    """Takes down rate and loss of each step, which Trainer logs alike in all processes, and ends training when it has
    seen enough.
    """

    def __init__(self):
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" not in logs:
            return
        if math.isfinite(logs["loss"]):
            self.rates.append(logs["learning_rate"])
            self.losses.append(logs["loss"])
        control.should_training_stop |= not math.isfinite(logs["loss"]) or has_blown_up(self.losses)


def _range_test(job: Job, network: BackboneWithHeadForImageClassification, stage: Stage, args: Any) -> Curve:
    """The curve of a stage that begins with `network`, which is spoilt."""
    own_rate, args = args.learning_rate, copy(args)
    args.learning_rate, args.max_steps = LOWEST, STEPS
    args.lr_scheduler_type, args.lr_scheduler_kwargs = SchedulerType.CONSTANT, None
    args.eval_strategy, args.eval_on_start, args.load_best_model_at_end = IntervalStrategy.NO, False, False
    args.save_strategy = SaveStrategy.NO
    args.logging_strategy, args.logging_steps, args.report_to = IntervalStrategy.STEPS, 1, []
    growth = ExponentialDecay(HIGHEST / LOWEST, STEPS - 1)
    tested = replace(stage, decay=growth, early_stopping_patience=None)
    trained = what_is_trained(job, network, stage, args)
    job.say(f"test       {stage.name}: trains {trained}; {STEPS} steps, rates to {HIGHEST:g}")
    trainer = make_trainer(job, network, tested, args, Progress(stage.name, [], job.run.history))
    trainer.remove_callback(trainer.finite)  # a loss that is no number is what the test looks for
    test = RangeTest()
    trainer.add_callback(test)
    leaving.train(trainer, None)
    trainer.accelerator.free_memory()
    del trainer
    gc.collect()
    return Curve(stage.name, own_rate, test.rates, test.losses)


def _trained(
    job: Job,
    network: BackboneWithHeadForImageClassification,
    stage: Stage,
    args: Any,
    history: list[dict[str, Any]],
    number: int,
    curve: Curve,
) -> BackboneWithHeadForImageClassification:
    """The network that a stage leaves to the next.

    Raises:
        UserError: at its own rate it comes to no end.
    """
    try:
        return run_stage(job, network, stage, args, history, goes_on=False)
    except UserError as error:  # which says what to do with a run
        rate = curve.learning_rate / 10 if curve.suggested is None else curve.suggested
        raise UserError(
            f"{str(error).partition(';')[0]}; so the next stage cannot be tested: try --stage{number}.learning_rate "
            f"{rate:g}"
        ) from error


def _next_flags(plan: Plan, curves: Sequence[Curve]) -> list[str]:
    """Flags that train with what was found; if that is nothing, that test in larger batches, whose losses vary less."""
    found = [(number, curve.suggested) for number, curve in enumerate(curves, 1) if curve.suggested is not None]
    if found:
        return [word for number, rate in found for word in (f"--stage{number}.learning_rate", f"{rate:g}")]
    batch = 2 * max(args.per_device_train_batch_size for args in plan.stage_arguments)
    return ["--find_lr", "--per_device_train_batch_size", str(batch)]
