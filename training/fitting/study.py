"""The store of a search, an SQLite file of Optuna's: opened, gone on with, and read as a table.

A trial's values hang on nothing but the recipe's seed and the trials before it that have come to a result. So one that
was cut off is drawn again, and a search that goes on tries what an unbroken one would have tried.
"""

from __future__ import annotations

import csv
import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_utils.portable.whole import replaced
from training.fitting.space import SPACE, Values, as_typed
from training.recipe import UserError, first_line

if TYPE_CHECKING:
    import optuna

NAME = "search"
AT_RANDOM = 5  # trials before Optuna's TPE draws by what the others came to, and before any is ended early
HALF_WAY = 500  # thousandths of a trial, from which on it may be ended early: high rates are slow to show what they do
STATES = {"COMPLETE": "finished", "PRUNED": "ended early"}
DIVERGED = "diverged"
FACTS = ("epochs", "validation_loss", "validation_accuracy", "seconds")
COLUMNS = ("number", "state", *(each.name for each in SPACE), "result", *FACTS)


@dataclass(frozen=True)
class Trial:
    """A trial that has come to a result, counted from 1; `result` is None where the loss became no number."""

    number: int
    state: str
    values: Values
    result: float | None
    epochs: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    seconds: float | None = None

    def as_row(self) -> dict[str, Any]:
        facts = {name: getattr(self, name) for name in COLUMNS if name not in self.values}
        return {**{name: "" if value is None else value for name, value in facts.items()}, **self.values}


@dataclass(frozen=True)
class Store:
    """Where the trials of one search are kept; they are compared by the metric `result`, and look around `own`."""

    storage: optuna.storages.RDBStorage
    result: str
    direction: str
    own: Values

    @property
    def study(self) -> optuna.Study:
        import optuna

        return optuna.create_study(storage=self.storage, study_name=NAME, direction=self.direction, load_if_exists=True)

    def trials(self) -> list[Trial]:
        """Those that have come to a result, in their order; what was cut off is not among them."""
        done = [each for each in self.study.get_trials(deepcopy=False) if each.state.name in STATES]
        return [self._trial(number, each) for number, each in enumerate(done, 1)]

    def _trial(self, number: int, frozen: optuna.trial.FrozenTrial) -> Trial:
        diverged = frozen.value is None or not math.isfinite(frozen.value)
        return Trial(
            number,
            DIVERGED if diverged else STATES[frozen.state.name],
            as_typed(frozen.params, self.own),
            None if diverged else frozen.value,
            **{name: frozen.user_attrs.get(name) for name in FACTS},
        )

    def best(self) -> Trial | None:
        """The finished trial with the best result, the first of equals; None if there is none."""
        finished = [each for each in self.trials() if each.state == STATES["COMPLETE"]]
        sign = 1 if self.direction == "minimize" else -1
        return min(finished, key=lambda each: sign * each.result, default=None)

    def next_trial(self, seed: int) -> dict[str, Any]:
        """What `hyperparameter_search` is to be told of Optuna for the next trial.

        The first one has the recipe's own values, so that what is chosen is never worse than they are on validation.
        """
        import optuna

        study, number = self.study, len(self.trials())
        for each in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(each.number, state=optuna.trial.TrialState.FAIL)  # it was killed: we hold the lock
        if number == 0 and not study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)):
            study.enqueue_trial(dict(self.own))
        return {
            "storage": self.storage,
            "study_name": NAME,
            "direction": self.direction,
            "load_if_exists": True,
            "sampler": optuna.samplers.TPESampler(n_startup_trials=AT_RANDOM, seed=(seed * 1009 + number) % 2**32),
            "pruner": optuna.pruners.MedianPruner(n_startup_trials=AT_RANDOM, n_warmup_steps=HALF_WAY),
        }

    def note_look(self, trial: Trial) -> int:
        """Note that the model of a trial's values is about to see the test split; how many such models there were."""
        study = self.study
        looks = list(study.user_attrs.get("looks", []))
        if trial.number not in looks:
            looks.append(trial.number)
            study.set_user_attr("looks", looks)
        return len(looks)


def open_store(path: Path, result: str, direction: str, own: Values) -> Store:
    """The store in the file `path`, which need not be there; `result` and `direction` as `compared_by` has them.

    Raises:
        UserError: Optuna is not installed; the file holds something else, is broken, or is of a search that compared
            by something else.
    """
    try:
        import optuna
        from sqlalchemy.engine import URL
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise UserError(f"a search needs optuna ({first_line(error)}): pip install 'optuna>=5,<6'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    anew = "put back what was there, or --overwrite starts anew"
    wrong = _what_is_wrong(path)
    if wrong is not None:
        raise UserError(f"'{path}' is no store of a search ({wrong}); {anew}")
    url = URL.create("sqlite", database=str(path)).render_as_string().replace("{", "{{").replace("}", "}}")
    try:
        store = Store(optuna.storages.RDBStorage(url), result, direction, own)
        study = store.study
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
        raise UserError(f"'{path}' cannot be used ({first_line(error)}); {anew}") from error
    before = study.user_attrs.get("result", result)
    if before != result:
        raise UserError(
            f"the search in '{path.parent}' compares by {before}, this command by {result}; give the command that "
            "began it, or another --output_dir, or --overwrite, which starts anew"
        )
    study.set_user_attr("result", result)
    return store


def _what_is_wrong(path: Path) -> str | None:
    """Why it is no store of Optuna's, or None; nothing is written but by SQLite, which undoes what a kill cut off."""
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            health = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        return first_line(error)
    if health != "ok":
        return first_line(ValueError(health))
    ours = not tables or tables & {"studies", "version_info"}  # none where it was killed before there was any
    return None if ours else "another program's tables are in it"


def write_trials(trials: Sequence[Trial], path: Path) -> None:
    """Write `trials.csv`: a row a trial that has come to a result."""
    with replaced(path) as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(each.as_row() for each in trials)
