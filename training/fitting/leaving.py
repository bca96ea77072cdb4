"""Training leaves between two steps, or two batches of an evaluation, when a signal asks; all processes at once.

Where an evaluation or a checkpoint is due, that comes first. An evaluation may take long: left in the middle, it is
caught up on when the run goes on.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from training import preemption
from training.fitting import checkpoints
from training.preemption import Stopped

if TYPE_CHECKING:
    from training.fitting.trainer import StageTrainer


class Leaving(TrainerCallback):
    """Asks after each step, and leaves with a checkpoint by raising `Stopped`."""

    def __init__(self, trainer: StageTrainer):
        self.trainer = weakref.proxy(trainer)  # in a circle its loaders would not end in order: five seconds a worker

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.catch_up()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.epoch_over = False

    def on_epoch_end(self, args, state, control, **kwargs):
        self.trainer.epoch_over = True

    def on_step_end(self, args, state, control, **kwargs):
        due = control.should_log or control.should_evaluate or control.should_save
        if not due and not epoch_ends(state, control):
            self._leave(args, state, control)

    def on_prediction_step(self, args, state, control, **kwargs):
        if control.should_evaluate:
            self._leave(args, state, control, evaluated=False)

    def on_save(self, args, state, control, **kwargs):
        self._leave(args, state, control, save=False)

    def _leave(self, args, state, control, save: bool = True, evaluated: bool = True) -> None:
        number = asked_of_any()
        if number is None:
            return
        if save:
            self.trainer.save(evaluated)
        self.trainer.callback_handler.on_train_end(args, state, control)  # bars and logs are closed
        where = Path(args.output_dir) / f"{checkpoints.PREFIX}{state.global_step}"
        raise Stopped(number, f"a checkpoint of step {state.global_step} is in {where}")


def epoch_ends(state, control) -> bool:
    """Whether the step that has been made is the last of its epoch."""
    return state.epoch % 1 == 0 or control.should_training_stop


def asked_of_any() -> int | None:
    """The signal that asks to leave, whichever process it came to: the same answer for all.

    Several processes talk about it after each step. That costs a GPU nothing more: Trainer looks at each step's loss.
    """
    number, process = preemption.asked(), PartialState()
    if process.num_processes == 1:
        return number
    told = torch.tensor(number or 0, device=process.device)
    torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
    return told.item() or None


def train(trainer: StageTrainer, checkpoint: Path | None) -> None:
    """Train a stage to its end, from a checkpoint if there is one.

    Raises:
        Stopped: a signal asked to leave.
    """
    with preemption.patiently():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        number = asked_of_any()  # since the last checkpoint
    if number is not None:
        raise Stopped(number)
