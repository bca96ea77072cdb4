"""Training stops as soon as its loss is no finite number, and no checkpoint of such weights is ever written.

To look at a loss the host waits for the GPU, so the step at which it first went wrong is kept there, and looked at now
and then: every few steps, and before anything is made of it.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather
from transformers import TrainerCallback

from training.fitting.checkpoints import newest_checkpoint
from training.recipe import UserError

EVERY = 50  # steps between two looks, where a look costs something
NEVER = 2**31 - 1


class NotFinite(UserError):
    """The loss, or the network, is no number any more."""


class Finite(TrainerCallback):
    """What a stage's trainer shows its losses and weights to; all processes stop together.

    Trainer's own `logging_nan_inf_filter` leaves such losses out of what it logs: it must be off.
    """

    def __init__(self, stage: str):
        self.stage = stage
        self.first: torch.Tensor | None = None  # step at which a loss was first wrong in this process, or NEVER

    def saw(self, loss: torch.Tensor, step: int) -> None:
        """Take note of the loss of a step, counted from 1, without waiting for it."""
        wrong = torch.where(loss.detach().isfinite().all(), NEVER, step)
        self.first = wrong if self.first is None else torch.minimum(self.first, wrong)

    def check_weights(self, model: torch.nn.Module, args, state) -> None:
        """Refuse to save what is no network any more.

        Raises:
            NotFinite: a weight or a statistic is no finite number.
        """
        self._check_losses(args, state)
        values = [each for each in model.state_dict().values() if each.is_floating_point()]
        wrong = ~torch.stack([each.isfinite().all() for each in values]).all()
        if gather(wrong.reshape(1)).any():
            self._stop("some weights are no finite numbers", state.global_step, args, state)

    def on_step_end(self, args, state, control, **kwargs):
        alone_on_cpu = args.device.type == "cpu" and PartialState().num_processes == 1
        if alone_on_cpu or state.global_step % EVERY == 0:
            self._check_losses(args, state)

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" in logs:
            self._check_losses(args, state)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        loss = metrics.get("eval_loss", 0.0)
        if not math.isfinite(loss):
            self._stop(f"the validation loss is {loss}", state.global_step, args, state)

    def _check_losses(self, args, state) -> None:
        if self.first is None:
            return
        first = int(gather(self.first.reshape(1)).min())
        if first != NEVER:
            self._stop("the loss is no finite number any more", first, args, state)

    def _stop(self, what: str, step: int, args, state) -> None:
        epoch = math.ceil(step * state.num_train_epochs / max(state.max_steps, 1))
        folder = Path(args.output_dir)
        kept = newest_checkpoint(folder)[0]
        half = "".join(f" or --{name} false" for name in ("bf16", "fp16") if getattr(args, name))
        raise NotFinite(
            f"stage {self.stage}, epoch {epoch}, step {step}: {what}; "
            + (f"the last good checkpoint is {kept}; " if kept else f"{_of_stages_before(folder)}; ")
            + f"begin anew with --overwrite and a --learning_rate smaller than {args.learning_rate:g}{half}, and if "
            "that does not help, see what training/data_report.py says of the images"
        )


def _of_stages_before(folder: Path) -> str:
    """What there is though a stage, whose checkpoints would be in `folder`, has none: other stages lie beside it."""
    before = [each for each in sorted(folder.parent.glob("*-*")) if each != folder and newest_checkpoint(each)[0]]
    if not before:
        return "no checkpoint was written yet"
    return f"of this stage no checkpoint was written yet; those before it are kept in {', '.join(map(str, before))}"
