"""Contestants take turns, each in a process of its own; what they measured is kept after every one."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from machine import ROOT, facts
from table import Row, print_rows, write_rows

ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "-q"]
HERE = Path(__file__).parent
SKIPPED = 77  # the exit status of what cannot be run here, as automake and Meson have it
Contestant = Callable[[int], dict[str, Any]]  # the number of the round, from 1 → what was measured, by name


class Failed(Exception):
    """A contestant's process failed; the message is the end of what it said, and its last line the reason."""


class Contest:
    """The measurements of one benchmark, in memory and, if there is a `path`, in a JSON file.

    `small` says that too little is measured to judge anything by it.
    """

    def __init__(self, name: str, path: Path | None, extra: Mapping[str, Any] | None = None, small: bool = False):
        self.name = name
        self.path = path
        self.facts = {**facts(), **(extra or {})}
        self.small = small
        self.measured: dict[str, list[dict[str, Any]]] = {}
        self.failed: dict[str, str] = {}

    def play(self, contestants: Mapping[str, Contestant], rounds: Iterable[int]) -> None:
        """In each round every contestant once, in turn; one that fails is left out from then on, and why is kept."""
        left = [(number, name) for number in rounds for name in contestants if name not in self.failed]
        while left:
            number, name = left.pop(0)
            self.say(f"round {number} · {name} …")
            began = time.perf_counter()
            try:
                measured = contestants[name](number)
            except (Exception, SystemExit) as error:
                said = str(error) if isinstance(error, Failed | SystemExit) else traceback.format_exc()
                self.failed[name] = (said.strip() or "it said nothing").splitlines()[-1]
                left = [each for each in left if each[1] != name]
                self.say(f"round {number} · {name} failed:\n{said.strip()}")
                self.keep()
                continue
            whole = time.perf_counter() - began
            self.measured.setdefault(name, []).append({**measured, "contest_seconds": round(whole, 2)})
            self.keep()
            known = [self.measured[other][-1]["contest_seconds"] for _, other in left if other in self.measured]
            remaining = f", about {sum(known) / 60:.1f} min to go" if known and len(known) == len(left) else ""
            self.say(f"round {number} · {name}: {whole:.1f} s{remaining}")

    def lost(self, *names: str) -> str | None:
        """Why these cannot be compared, or None if they can: a contestant that failed once is not compared."""
        return "; ".join(f"{name}: {self.failed[name]}" for name in names if name in self.failed) or None

    def all(self, name: str, figure: str) -> list[float]:
        """Every measurement of that figure."""
        return [each[figure] for each in self.measured[name]]

    def median(self, name: str, figure: str) -> float:
        return statistics.median(self.all(name, figure))

    def keep(self, rows: Sequence[Row] = ()) -> None:
        """Write what there is so far."""
        if self.path is not None:
            failed = {"failed": self.failed} if self.failed else {}
            write_rows(self.path, rows, self.facts | failed, self.measured)

    def finish(self, rows: Sequence[Row]) -> int:
        """Print and write the result; the exit status is 1 if somebody failed or computed something else."""
        self.keep(rows)
        print_rows(rows)
        return int(bool(self.failed) or not all(row.comparable for row in rows))

    def say(self, text: str) -> None:
        print(f"{self.name} · {text}", file=sys.stderr, flush=True)


def run(words: Sequence[Any], cache: Path, log: Path, **env: str) -> float:
    """Seconds of a whole process, beginning with its caches in `cache` and no network; what it says goes to `log`.

    Raises:
        Failed: it failed.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(cache), "PYTHONPATH": paths}
    command = [str(word) for word in words]
    with log.open("w", encoding="utf-8") as file:
        began = time.perf_counter()
        finished = subprocess.run(
            command, cwd=ROOT, env={**inherited, **offline, **env}, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
        seconds = time.perf_counter() - began
    if finished.returncode != 0:
        tail = log.read_text(encoding="utf-8", errors="replace")[-3000:].strip()
        reason = (tail or "it said nothing").splitlines()[-1]
        raise Failed(f"{tail}\n{' '.join(command)}\nstatus {finished.returncode}: {reason}")
    return seconds


def skip(why: str) -> NoReturn:
    """End: there is nothing here to be measured against."""
    print(f"skipped: {why}", file=sys.stderr)
    sys.exit(SKIPPED)


def scratch() -> tempfile.TemporaryDirectory:
    """A temporary folder for photographs, runs and logs; TMPDIR says where."""
    return tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True)
