"""A command that has proved good, before anything is read or written: what recipe, flags and machine make together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers.utils import logging as transformers_logging

from training.fitting import hardware
from training.fitting.flags import make_arguments, parse_flags, with_flags
from training.fitting.network import base_model_facts
from training.recipe import BatchNorm, Recipe, Stage, UserError
from training.run_folder import RunFolder, recipe_facts
from training.run_lock import locked


@dataclass(frozen=True)
class Options:
    """What the command line says beside the recipe and `TrainingArguments`."""

    resume: bool = False
    resume_from: str | None = None  # a checkpoint repo
    checkpoint_repo: str | None = None  # where to keep checkpoints; "" for a repo called as the run folder
    overwrite: bool = False
    look_again: bool = True  # whether the images of a run that goes on are still the same
    accept_changed_data: bool = False  # though they are not
    threads: int | None = None
    channels_last: bool | None = None
    thorough: bool = False
    calibrate: bool = True
    feature_views: int | None = None  # as the run that goes on, or each `Stage.views`; 0: anew in each epoch
    pixel_cache: float | None = None  # GB of disk for decoded images; None for the usual bound


@dataclass(frozen=True)
class Plan:
    """See the module."""

    recipe: Recipe  # as the flags change it
    facts: dict[str, Any]
    stage_arguments: list[Any]
    machine: hardware.Hardware
    process: PartialState
    say: Callable[[str], None]


def prepare(recipe: Recipe, run: RunFolder, options: Options, flags: Sequence[str]) -> Plan:
    """What the recipe, the flags and the machine make of a run together.

    Raises:
        UserError: they do not go together.
    """
    transformers_logging.disable_progress_bar()
    stage_flags = parse_flags(list(flags), recipe)
    recipe = with_flags(recipe, stage_flags)
    machine = _choose_hardware(stage_flags, options)
    stage_arguments = [
        make_arguments(argument_values(recipe, number, stage, machine, run, stage_flags[number - 1]))
        for number, stage in enumerate(recipe.stages, 1)
    ]
    if (options.feature_views or 0) < 0:
        raise UserError(f"--feature_views {options.feature_views}: 0 or more; 0 computes features anew in each epoch")
    facts = recipe_facts(recipe, base_model_facts(recipe), stage_flags) | {"feature_views": options.feature_views}
    process = PartialState()  # after TrainingArguments, which say whether it is on the CPU
    return Plan(recipe, facts, stage_arguments, machine, process, print if process.is_main_process else _silent)


@contextmanager
def alone(plan: Plan, folder: Path) -> Iterator[None]:
    """Keep others from writing into `folder`; the main process holds the lock for all.

    Raises:
        UserError: somebody does already.
    """
    with ExitStack() as stack:
        on_main(plan.process, lambda: stack.enter_context(locked(folder, "trains into", plan.say)))
        yield


def on_main(process: PartialState, work: Callable[[], Any]) -> Any:
    """The result of `work`, done by the main process alone and given to the others; so is its failure."""
    outcome: list[Any] = [None, None]
    if process.is_main_process:
        try:
            outcome[0] = work()
        except UserError as error:
            if process.num_processes == 1:
                raise
            outcome[1] = str(error)
    if process.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    return outcome[0]


def _silent(_: str) -> None:
    """What the other processes say."""


def _choose_hardware(stage_flags: list[dict[str, Any]], options: Options) -> hardware.Hardware:
    """One choice for all stages."""
    first = stage_flags[0]
    half = first.get("bf16", False if first.get("fp16") else None)
    machine = hardware.choose(
        use_cpu=first.get("use_cpu", False),
        bf16=half,
        channels_last=options.channels_last,
        threads=options.threads,
        workers=first.get("dataloader_num_workers"),
    )
    torch.set_num_threads(machine.threads)  # accelerate launch leaves one thread on a CPU
    if machine.device == "cpu":
        hardware.keep_freed_memory()
    return machine


def argument_values(
    recipe: Recipe, number: int, stage: Stage, machine: hardware.Hardware, run: RunFolder, flags: dict[str, Any]
) -> dict[str, Any]:
    """`TrainingArguments` of a stage: the house's, the machine's, the recipe's, and over all of them the flags."""
    accumulation = flags.get("gradient_accumulation_steps", stage.arguments.get("gradient_accumulation_steps", 1))
    devices = machine.processes
    if machine.device == "cuda" and devices == 1:
        devices = max(1, torch.cuda.device_count())
    batch = max(1, stage.batch_size // (devices * accumulation))
    values = {
        "output_dir": str(run.stage(number, stage.name)),
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": 32,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "logging_nan_inf_filter": False,  # it would hide what `Finite` looks for
        "save_total_limit": 2,
        "load_best_model_at_end": stage.restore_best or stage.early_stopping_patience is not None,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "restore_callback_states_from_checkpoint": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "log_level": "error",
        "report_to": "none",
        "project": recipe.name,
        "run_name": f"{run.path.name}-{number}-{stage.name}",
        "seed": recipe.seed,
        "max_grad_norm": 0.0,  # Keras clips nothing
        "bf16": machine.bf16,
        "use_cpu": machine.device == "cpu",
        "dataloader_num_workers": machine.workers,
        "dataloader_persistent_workers": flags.get("dataloader_num_workers", machine.workers) > 0,
        "dataloader_pin_memory": machine.device == "cuda",
        "ddp_find_unused_parameters": False,  # what is frozen is known before the model is wrapped
        **stage.arguments,
        **flags,
    }
    if values["per_device_train_batch_size"] == 1 and BatchNorm() in recipe.head:
        raise UserError(
            f"stage {number} of recipe {recipe.name}: BatchNorm in the head cannot learn from batches of one image; "
            f"{stage.batch_size} divided by {devices} processes and {accumulation} accumulation steps is too small"
        )
    return values
