"""What `search.py` searches: three values of the last stage, and where it looks for each.

The learning rate matters most, and by factors. Of the other two, finer steps than these make no difference that the few
hundred images of a validation split could tell. The schedule, and what the stages before learn, stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.recipe import UserError

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

FACTOR = 10.0


@dataclass(frozen=True)
class Searched:
    """A `TrainingArguments` that is searched: any value within `FACTOR` of the recipe's, or one of `choices`."""

    name: str
    title: str
    choices: tuple[float, ...] = ()

    def describe(self) -> str:
        if not self.choices:
            return f"from a tenth of the recipe's to ten times as much, drawn by factors ({FACTOR:g} either way)"
        return f"{', '.join(f'{each:g}' for each in self.choices)}, or the recipe's"


SPACE = (
    Searched("learning_rate", "learning rate"),
    Searched("weight_decay", "weight decay", (0.0, 1e-4, 1e-3, 1e-2, 1e-1)),
    Searched("label_smoothing_factor", "label smoothing", (0.0, 0.05, 0.1, 0.2)),
)
Values = Mapping[str, float]


def own_values(args: Any) -> dict[str, float]:
    """Those that the recipe, or a flag, gives the stage.

    Raises:
        UserError: there is nothing around a learning rate of 0.
    """
    own = {each.name: float(getattr(args, each.name)) for each in SPACE}
    if own["learning_rate"] <= 0:
        raise UserError("--learning_rate 0: the search looks around it, by factors; a number above 0 is needed")
    return own


def suggest(trial: BaseTrial, own: Values) -> dict[str, float]:
    """The values of a trial of Optuna's, around `own`; asked again, the same."""
    drawn = {}
    for each in SPACE:
        mine = own[each.name]
        if each.choices:
            drawn[each.name] = trial.suggest_categorical(each.name, sorted({mine, *each.choices}))
        else:
            drawn[each.name] = trial.suggest_float(each.name, mine / FACTOR, mine * FACTOR, log=True)
    return as_typed(drawn, own)


def as_typed(drawn: Values, own: Values) -> dict[str, float]:
    """Values of so few digits that a person can type them; one of `own` stays as it is."""
    return {name: value if value == own[name] else float(f"{value:.3g}") for name, value in drawn.items()}


def as_flags(values: Values, stage: int) -> list[str]:
    """What gives these values to a stage, counted from 1, on the command line of train.py."""
    return [word for name, value in values.items() for word in (f"--stage{stage}.{name}", repr(value))]


def as_words(values: Values) -> str:
    return ", ".join(f"{each.title} {values[each.name]:g}" for each in SPACE)
