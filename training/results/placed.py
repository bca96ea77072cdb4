"""What a measurement leaves in a run folder: all of it is written beside, and then takes the place of an earlier one.

Whoever is killed before has changed nothing. Whoever is killed while things change places leaves a run that is not
measured: the figures and the card go before all else, and come after it, the card as the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hub_utils.card import write_card
from hub_utils.portable.whole import move, temporary, write_json
from training.recipe import UserError
from training.results.plots import PLOTS
from training.run_folder import RunFolder


@contextmanager
def beside(run: RunFolder) -> Iterator[RunFolder]:
    """A folder in that of the run, laid out as it is, to write plots and what is below `local/` into."""
    with temporary(run.path / "measured") as folder:
        yield RunFolder(folder)


def clear(run: RunFolder) -> None:
    """Remove an earlier measurement; its figures and the card never stand beside what they do not tell of."""
    drawn = (run.plots / f"{name}.png" for name in PLOTS)
    for path in (run.test_results, run.card, run.predictions, run.mistakes, *drawn):
        path.unlink(missing_ok=True)


def place(results: Mapping[str, Any], new: RunFolder, run: RunFolder) -> None:
    """Move what was written into `new` to where it belongs, and write `test_results.json` and the card.

    Raises:
        UserError: there can be no card.
    """
    for path in (*new.plots.iterdir(), *new.predictions.parent.iterdir()):
        target = run.path / path.relative_to(new.path)
        target.parent.mkdir(exist_ok=True)
        move(path, target)
    write_json(results, run.test_results)
    try:
        write_card(run.path)
    except ValueError as error:
        raise UserError(f"no model card: {error}") from error
