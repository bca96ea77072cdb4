"""What a person sees while training runs: a bar and one line an epoch; and `log_history.csv`, a row an evaluation."""

import csv
import time
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from hub_utils.portable.whole import replaced

COLUMNS = (
    "stage",
    "epoch",
    "step",
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "validation_macro_f1",
    "seconds",
)


def history_rows(stage: str, log_history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `log_history.csv` from Trainer's log: each evaluation with the training values logged before it."""
    rows, train = [], {}
    for entry in log_history:
        if "loss" in entry:
            train = entry
        elif "eval_loss" in entry:
            rows.append(
                {
                    "stage": stage,
                    "epoch": round(entry["epoch"], 4),
                    "step": entry["step"],
                    "learning_rate": train.get("learning_rate"),
                    "train_loss": train.get("loss"),
                    "train_accuracy": train.get("accuracy"),
                    "validation_loss": entry["eval_loss"],
                    "validation_accuracy": entry["eval_accuracy"],
                    "validation_macro_f1": entry["eval_macro_f1"],
                    "seconds": round(entry["seconds"], 2) if "seconds" in entry else None,
                }
            )
    return rows


def write_history(rows: list[dict[str, Any]], path: Path) -> None:
    """Write `log_history.csv` whole, so that a reader never sees half a row."""
    with replaced(path) as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


class Bar(TrainerCallback):
    """One bar for a stage's steps."""

    def __init__(self, stage: str):
        self.stage = stage
        self.bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc=f"  {self.stage}",
                unit=" steps",
                leave=False,
                disable=args.disable_tqdm or None,  # None: no bar where nobody looks, as in a log file
            )

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class Progress(Bar):
    """The bar; after each evaluation one line, and the history so far."""

    def __init__(self, stage: str, earlier: list[dict[str, Any]], path: Path):
        super().__init__(stage)
        self.earlier = earlier
        self.path = path
        self.since = time.perf_counter()

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        now = time.perf_counter()
        state.log_history[-1]["seconds"] = now - self.since
        self.since = now
        if not state.is_world_process_zero:
            return
        rows = history_rows(self.stage, state.log_history)
        write_history([*self.earlier, *rows], self.path)
        tqdm.write(self._line(rows[-1], args.num_train_epochs))

    def _line(self, row: dict[str, Any], epochs: float) -> str:
        train = (
            ""
            if row["train_loss"] is None
            else f"train loss {row['train_loss']:.3f}, accuracy {row['train_accuracy']:.1%} · "
        )
        rate = "" if row["learning_rate"] is None else f"lr {row['learning_rate']:.1e} · "
        return (
            f"  {self.stage} {row['epoch']:g}/{epochs:g} · {train}validation loss {row['validation_loss']:.3f}, "
            f"accuracy {row['validation_accuracy']:.1%} · {rate}{row['seconds']:.0f} s"
        )
