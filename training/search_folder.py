"""The folder of a search: what lies where in it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from training.recipe import UserError
from training.run_folder import SEARCH_BEST, SEARCH_STORE, RunFolder


@dataclass(frozen=True)
class SearchFolder:
    """Paths of a search."""

    path: Path

    @property
    def store(self) -> Path:
        return self.path / SEARCH_STORE

    @property
    def table(self) -> Path:
        return self.path / "trials.csv"

    @property
    def plot(self) -> Path:
        return self.path / "plots" / "search.png"

    @property
    def trials(self) -> RunFolder:
        """A run that never ends: what it learns from, its recipe, and the stages before the one that is searched."""
        return RunFolder(self.path / "trials")

    @property
    def best(self) -> RunFolder:
        """The run that the values which were chosen give."""
        return RunFolder(self.path / SEARCH_BEST)

    def begun(self) -> bool:
        """Whether trials may have been made; data.json is the last that is written before the first of them."""
        return self.trials.exists() and self.trials.data.is_file()

    def check_free(self, overwrite: bool) -> bool:
        """Whether there is a search to go on with; refuse to mix this one with anything that is there already.

        Raises:
            UserError: the folder holds something else, or not all of a search.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"'{self.path}' is a file; --output_dir needs a folder")
        if self.store.is_file():
            return self.begun() and not overwrite
        if self.begun():
            if overwrite:
                return False
            raise UserError(
                f"the search in '{self.path}' is not whole any more, {self.store.name} is gone; put it back, or "
                "--overwrite starts anew"
            )
        if self.path.is_dir() and any(not path.name.startswith(".") for path in self.path.iterdir()):
            what = "holds a run" if RunFolder(self.path).exists() else "is not empty and no search of ours"
            raise UserError(f"'{self.path}' {what}; a search wants a folder of its own, choose another --output_dir")
        return False

    def clear(self) -> None:
        """Remove everything that a search writes, and nothing else; the store last: it says whose folder this is."""
        for run in (self.best, self.trials):
            run.clear()
            with suppress(OSError):  # not there, or not empty: then somebody keeps something of theirs in it
                run.path.rmdir()
        for path in (self.plot, self.table, *self.path.glob(f"{self.store.name}-*"), self.store):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.plot.parent.rmdir()
