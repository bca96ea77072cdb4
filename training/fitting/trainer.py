"""One stage on `transformers.Trainer`: what Trainer lacks is added at the places it has for that, and nothing else."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import broadcast
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Sampler
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from training.data.streaming import StreamedViews
from training.data.transforms import Views
from training.fitting import checkpoints
from training.fitting.checkpoints import Underway
from training.fitting.finite import Finite
from training.fitting.leaving import Leaving, epoch_ends
from training.fitting.progress import Progress
from training.recipe import Stage
from training.results.metrics import compute_metrics


class EpochSampler(Sampler):
    """Pairs (epoch, row) in an order that depends on nothing but seed and epoch, for `Views`."""

    def __init__(self, length: int, seed: int, drawn: int | None = None):
        self.length = length
        self.seed = seed
        self.drawn = length if drawn is None else drawn
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.drawn

    def __iter__(self) -> Iterator[tuple[int, int]]:
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        for index in torch.randperm(self.length, generator=draw)[: self.drawn].tolist():
            yield self.epoch, index


class StageTrainer(Trainer):
    """`Trainer` with our order of images, continuous decay, accuracy while training, and checkpoints that are sealed
    and forget nothing.
    """

    def __init__(self, stage: Stage, progress: Progress, class_weights: torch.Tensor | None, **kwargs: Any):
        args: TrainingArguments = kwargs["args"]
        if args.lr_scheduler_type == "reduce_lr_on_plateau":
            direction = "max" if args.greater_is_better else "min"
            args.lr_scheduler_kwargs = {"mode": direction, **(args.lr_scheduler_kwargs or {})}
        self.finite = Finite(stage.name)
        callbacks: list[Any] = [self.finite, progress]  # what is no number is neither shown nor kept
        if stage.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(stage.early_stopping_patience))
        super().__init__(
            compute_loss_func=cross_entropy(class_weights, args.label_smoothing_factor),
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            **kwargs,
        )
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.stage = stage
        self.add_callback(Leaving(self))
        self.epoch_over = False
        self._kept, args.save_total_limit = args.save_total_limit, None  # old checkpoints go when the new one is sealed
        self._order: EpochSampler | None = None
        self._underway: Underway | None = None  # at the checkpoint from which training goes on
        self._resumed: str | None = None
        self._evaluated = True
        self._learning_rate: float | None = None
        self._seen = torch.zeros(2, device=args.device)  # images right, images seen, since the last log
        self._eval_stream: DataLoader | None = None

    def _get_train_sampler(self, train_dataset: Views | None = None) -> EpochSampler:
        """Every image once an epoch; but if one alone were left for the last batch, of which BatchNorm cannot take
        statistics, it waits for another epoch.
        """
        images = len(train_dataset or self.train_dataset)
        alone = images % self.args.train_batch_size == 1 and self.args.train_batch_size > 1
        self._order = EpochSampler(images, self.args.seed, images - alone)
        return self._order

    def get_train_dataloader(self) -> DataLoader:
        """As Trainer's; of a stream, whose pieces for each process are cut already, without cutting it once more."""
        if not isinstance(self.train_dataset, StreamedViews):
            return self._apart(super().get_train_dataloader())
        return self._apart(self._streaming(self.train_dataset))

    def get_eval_dataloader(self, eval_dataset: Views | StreamedViews | None = None) -> DataLoader:
        """As `get_train_dataloader`; kept for the next evaluation, with its workers."""
        if not isinstance(self.eval_dataset, StreamedViews):
            return self._apart(super().get_eval_dataloader(eval_dataset))
        if self._eval_stream is None:
            self._eval_stream = self._apart(self._streaming(self.eval_dataset))
        return self._eval_stream

    def _apart(self, loader: DataLoader) -> DataLoader:
        """The same, which draws the seeds of its workers from numbers of its own: how often it does so depends on the
        workers, and on when a run goes on, and Dropout must not.
        """
        inner = getattr(loader, "base_dataloader", loader)  # accelerate's asks the one within it
        inner.generator = torch.Generator().manual_seed(self.args.seed)
        if getattr(inner.worker_init_fn, "func", None) is not _undisturbed:  # one that was kept has it already
            inner.worker_init_fn = partial(_undisturbed, inner.worker_init_fn)
        return loader

    def _streaming(self, views: StreamedViews) -> DataLoader:
        return DataLoaderShard(
            views,
            device=self.args.device,
            batch_size=views.batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            _drop_last=True,  # for accelerate's books alone: it would cut what is gathered to one process's share
        )

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """As Trainer's; from a checkpoint in the middle of an epoch too as if there had been no end."""
        self._resumed = resume_from_checkpoint
        if resume_from_checkpoint is not None:
            self._underway = checkpoints.underway_of(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def catch_up(self) -> None:
        """Before the first step: take up the sums since the last log, and do what was due after the checkpoint."""
        underway = self._underway
        if underway is None:
            return
        process = PartialState()
        if len(underway.loss) == process.num_processes:
            loss, seen = (each[process.process_index] for each in (underway.loss, underway.seen))
        else:  # of another number of processes: in sum the same
            loss = sum(underway.loss) / len(underway.loss)
            seen = [sum(column) if process.is_main_process else 0 for column in zip(*underway.seen, strict=True)]
        self._tr_loss += loss
        self._seen += torch.tensor(seen, device=self._seen.device)
        self._globalstep_last_logged = underway.logged
        self._learning_rate, self.epoch_over = underway.learning_rate, underway.epoch_over
        self.control.should_training_stop = self.state.global_step >= self.state.max_steps
        self._load_rng_state(self._resumed)  # now, for this checkpoint may be written anew
        if underway.evaluated:
            self.control.should_save = False  # that was this checkpoint
        else:  # what is due stands in the checkpoint's control
            self._do_what_is_due()
        if not underway.epoch_over and epoch_ends(self.state, self.control):
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
            self._do_what_is_due()

    def _do_what_is_due(self) -> None:
        self._maybe_log_save_evaluate(
            self._tr_loss, None, self.model_wrapped, None, self.state.epoch, None, time.time(), self._learning_rate
        )

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._learning_rate = kwargs.get("learning_rate", self._learning_rate)
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _run_epoch(self, **kwargs: Any) -> None:
        """As Trainer's, unless what was caught up on has ended the stage. In the middle of an epoch accelerate does not
        tell the sampler of several processes which it is.
        """
        if self.control.should_training_stop:
            return
        if self._order is not None:
            self._order.set_epoch(kwargs["epoch"])
        super()._run_epoch(**kwargs)

    def save(self, evaluated: bool = True) -> None:
        """Write a checkpoint now; not `evaluated`, from the middle of an evaluation."""
        self._evaluated = evaluated
        self._save_checkpoint(self.model, None)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """As Trainer's, of weights that are numbers; sealed when each process has written its part; only then older
        ones go.
        """
        self.finite.check_weights(self.accelerator.unwrap_model(self.model), self.args, self.state)
        folder = Path(self.args.output_dir)
        checkpoint = folder / f"{checkpoints.PREFIX}{self.state.global_step}"
        if self.args.should_save:
            checkpoints.begin(checkpoint)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        underway = self._what_is_underway()
        self.state.best_model_checkpoint = None  # a path of this machine; the step is enough
        if self.args.should_save:
            self.state.save_to_json(str(checkpoint / checkpoints.STATE))
            checkpoints.seal(checkpoint, underway)
            checkpoints.rotate(folder, self._kept, self.state.best_global_step)
        self.accelerator.wait_for_everyone()

    def _what_is_underway(self) -> Underway:
        loss, seen = self.accelerator.gather((self._tr_loss.reshape(1), self._seen.reshape(1, 2)))
        return Underway(
            loss=loss.tolist(),
            seen=seen.int().tolist(),
            logged=self._globalstep_last_logged,
            learning_rate=self._learning_rate,
            evaluated=self._evaluated,
            epoch_over=self.epoch_over,
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As Trainer's; every process with the first one's BatchNorm statistics, which are those that are saved."""
        for buffer in self.model.buffers():
            broadcast(buffer)
        return super().evaluate(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As Trainer's; views, which come as bytes, are varied and normalised here, on the device."""
        inputs = super()._prepare_inputs(inputs)
        if not isinstance(self.train_dataset, (Views, StreamedViews)):
            return inputs
        return self.train_dataset.preprocessing.finish(inputs)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Trainer's schedules, and lr · rate^(step / steps), which it has not."""
        decay = self.stage.decay
        if decay is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: decay.rate ** (step / decay.steps))
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As Trainer's; counts right answers on the way."""
        labels = inputs["labels"]
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self.finite.saw(loss, self.state.global_step + 1)
            right = (outputs.logits.detach().argmax(dim=1) == labels).sum()
            self._seen += torch.stack([right, (labels >= 0).sum()])  # in a stream -100 fills a gap
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's, with the accuracy on the (augmented) training images since the last log, over all processes."""
        if "loss" in logs:
            right, seen = self.accelerator.reduce(self._seen, reduction="sum").tolist()
            logs["accuracy"] = right / max(seen, 1)
            self._seen.zero_()
        super().log(logs, start_time)


def _undisturbed(then: Callable[[int], None] | None, worker: int) -> None:
    """A loader's worker is in a group of its own: a signal to the group of its process, which asks that one to leave,
    does not reach it, and it ends with its process, or when it is told to.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    if then is not None:
        then(worker)


def cross_entropy(class_weights: torch.Tensor | None, smoothing: float) -> Callable[..., torch.Tensor]:
    """The mean of weight × loss over all images of a step, across processes and accumulation, as Keras takes it."""

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
        logits = outputs.logits.float()
        weight = None if class_weights is None else class_weights.to(logits.device)
        total = functional.cross_entropy(logits, labels, weight, label_smoothing=smoothing, reduction="sum")
        count = len(labels) if num_items_in_batch is None else num_items_in_batch
        return total / max(count, 1)  # 0 where a step of a stream has gaps alone

    return loss


def balanced_weights(counts: Sequence[int]) -> torch.Tensor:
    """Weight n / (k · nᵢ) of each of k classes with nᵢ of n images, as in scikit-learn; its mean over images is 1."""
    return sum(counts) / (len(counts) * torch.tensor(counts).clamp(min=1))
