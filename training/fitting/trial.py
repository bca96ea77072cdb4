"""One trial of a search: the last stage with other values, from the same weights; nothing of it is kept but its result.

A trial trains as the run that its values would give, to the last bit on a CPU, and is judged as that run would be
deployed: by the weights that the stage would hand on, those of the epoch that it restores or of the last one, and by
their loss on the validation images once the temperature has been fitted to these.
"""

from __future__ import annotations

import gc
import math
import time
from copy import copy, deepcopy
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from training import preemption
from training.fitting.finite import NotFinite
from training.fitting.leaving import Leaving
from training.fitting.progress import Bar
from training.fitting.space import SPACE, suggest
from training.fitting.stage import make_trainer
from training.fitting.trainer import StageTrainer, cross_entropy
from training.results.calibration import fit_temperature
from training.results.metrics import classification_metrics, compute_metrics

if TYPE_CHECKING:
    from hub_utils.portable.modeling_backbone_with_head import BackboneWithHeadForImageClassification
    from training.fitting.job import Job
    from training.fitting.study import Store
    from training.recipe import Stage

CALIBRATED = "calibrated_loss"
# What trials are compared by, in words.
TITLES = {CALIBRATED: "calibrated validation loss", "loss": "validation loss"}
TITLES |= {"accuracy": "validation accuracy", "macro_f1": "validation macro F1"}
WHOLE = 1000  # a trial in parts, which trials of several lengths have in common: Optuna compares them where they are


class Leave(TrainerCallback):
    """Leaves between two steps when a signal asks; without a checkpoint, for the trial will be made again."""

    def on_step_end(self, args, state, control, **kwargs):
        number = preemption.asked()
        if number is not None:
            raise preemption.Stopped(number)

    on_prediction_step = on_step_end


class TrialTrainer(StageTrainer):
    """`StageTrainer` for `hyperparameter_search`, of one trial: it obeys the values that come after it was made, tells
    what the weights are worth that it would hand on, and writes no checkpoint.
    """

    def __init__(self, stage: Stage, progress: Bar, class_weights: Any, *, args: Any, **kwargs: Any):
        self.restores = args.load_best_model_at_end
        self.class_weights = class_weights
        args = copy(args)
        args.save_strategy, args.load_best_model_at_end = SaveStrategy.NO, False
        args.report_to = []  # trackers see the run of the best alone
        for each in SPACE:
            setattr(args, each.name, float(getattr(args, each.name)))  # Trainer would make 0.1 an int if 0 was there
        super().__init__(stage, progress, class_weights, args=args, **kwargs)
        self.remove_callback(Leaving)
        self.add_callback(Leave)
        self.compute_metrics = with_calibrated_loss
        self.model_init = lambda: kwargs["model"]  # it is fresh, for one trainer is one trial
        self.handed_on: dict[str, float] | None = None
        self.began = time.perf_counter()

    def _hp_search_setup(self, trial: Any) -> None:
        """As Trainer's, which sets the values; and the loss, which has taken its own when it was made."""
        super()._hp_search_setup(trial)
        self.compute_loss_func = cross_entropy(self.class_weights, self.args.label_smoothing_factor)

    def _report_to_hp_search(self, trial: Any, step: int, metrics: dict[str, float]) -> None:
        """As Trainer's, of the weights that would be handed on if there were no more epochs."""
        if step == 0:  # of --eval_on_start, which no stage hands on
            return
        if self.handed_on is None or not self.restores or self._is_better(metrics):
            self.handed_on = metrics
        facts = {
            "epochs": round(self.state.epoch, 4),
            "validation_loss": self.handed_on["eval_loss"],
            "validation_accuracy": self.handed_on["eval_accuracy"],
            "seconds": round(time.perf_counter() - self.began, 1),
        }
        for name, value in facts.items():
            trial.set_user_attr(name, value)
        super()._report_to_hp_search(trial, WHOLE * step // self.state.max_steps, self.handed_on)

    def _is_better(self, metrics: dict[str, float]) -> bool:
        name = f"eval_{self.args.metric_for_best_model.removeprefix('eval_')}"
        now, best = metrics[name], self.handed_on[name]
        return now > best if self.args.greater_is_better else now < best

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; a loss that is no number is a result too, the worst."""
        try:
            return super().train(*args, **kwargs)
        except NotFinite:
            self.callback_handler.on_train_end(self.args, self.state, self.control)  # the bar is closed
            self.objective = -math.inf if self.args.greater_is_better else math.inf
        return None


def run_trial(
    job: Job,
    start: BackboneWithHeadForImageClassification,
    stage: Stage,
    args: Any,
    store: Store,
    title: str,
    seed: int,
) -> None:
    """Train `stage` from the weights of `start`, which stay as they are, with the values of the store's next trial.

    `title` is for the bar, `seed` the recipe's.

    Raises:
        Stopped: a signal asked to leave; the trial has come to no result.
    """
    trainer = make_trainer(job, deepcopy(start), stage, args, Bar(title), kind=TrialTrainer)
    with preemption.patiently():
        trainer.hyperparameter_search(
            hp_space=partial(suggest, own=store.own),
            compute_objective=itemgetter(f"eval_{store.result}"),
            n_trials=1,
            backend="optuna",
            **store.next_trial(seed),
        )
        number = preemption.asked()  # since the last step
    trainer.accelerator.free_memory()
    del trainer
    gc.collect()
    if number is not None:
        raise preemption.Stopped(number)


def compared_by(args: Any, calibrate: bool) -> tuple[str, str]:
    """The metric that trials are compared by, and Optuna's word for its direction.

    It is what the stage watches, if that is no loss: of losses, the one that the run would be deployed with.
    """
    watched = args.metric_for_best_model.removeprefix("eval_") if args.load_best_model_at_end else "loss"
    if watched == "loss":
        return (CALIBRATED if calibrate else "loss"), "minimize"
    return watched, "maximize" if args.greater_is_better else "minimize"


def with_calibrated_loss(prediction: Any) -> dict[str, float]:
    """As `compute_metrics`, and the loss that is left once the temperature is fitted: smoothed labels make a network
    unsure, which the temperature takes back.
    """
    metrics = compute_metrics(prediction)
    counted = prediction.label_ids >= 0
    logits, labels = prediction.predictions[counted], prediction.label_ids[counted]
    if not math.isfinite(metrics["loss"]):
        return {**metrics, CALIBRATED: metrics["loss"]}
    calibrated = classification_metrics(logits / fit_temperature(logits, labels), labels)
    return {**metrics, CALIBRATED: calibrated["loss"]}
