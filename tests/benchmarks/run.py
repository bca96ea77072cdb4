"""All benchmarks, or those that are named, one after the other: one table, and a JSON file with every measurement.

python tests/benchmarks/run.py [NAMES…] --photos DIR --base_model DIR [--run RUN] [--keras_python PYTHON]
                               [--others_python PYTHON] [--rounds 3] [--json reports/benchmarks.json] [--quick]

Without names: those of the project's goals. DIR of photographs holds class folders; the base model is ResNet-50 as a
folder in Hub layout. What each found stands in the JSON file as soon as it is done, and what it measured so far in the
folder FILE.parts, after each round: an interruption loses the round it comes in and no more. That folder is emptied at
the start, and with it the run that `fine_tuning` left for `inference`. What cannot be run is left out with a word.
`--quick` takes few photographs and one round: it shows that all works, its figures mean nothing, and nothing is judged.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arguments import folder, json_file, positive
from contest import HERE, SKIPPED
from table import Row, print_rows, write_rows


@dataclass(frozen=True)
class Benchmark:
    """A file beside this one: what it is given, what to add to be quick, and its minutes on two cores in three rounds.

    A word in braces stands for a flag of this command; without a value for it, the benchmark cannot be run.
    """

    words: str
    quick: str
    minutes: float
    optional: str = ""  # left out if there is no value for what it names


GROUND = "{photos} --base_model {base_model} --rounds {rounds}"
BENCHMARKS = {
    "startup": Benchmark("--rounds {rounds}", "--rounds 1", 1),
    "fine_tuning": Benchmark(f"{GROUND} --keep {{kept}}", "--rounds 1 --images 50", 25),
    "throughput": Benchmark(GROUND, "--rounds 1 --images 24 --batch 8 --epochs 2 --workers 0", 14),
    "frozen": Benchmark(GROUND, "--rounds 1 --images 60 --epochs 4", 15),
    "against_keras": Benchmark(f"{GROUND} --keras_python {{keras_python}}", "--rounds 1 --images 40 --epochs 2", 18),
    "inference": Benchmark("{run} --rounds {rounds}", "--rounds 1 --pictures 5", 5),
    "report": Benchmark("{photos} --rounds {rounds}", "--rounds 1 --images 200", 10, "--others_python {others_python}"),
    "gpu": Benchmark(GROUND, "--rounds 1 --images 16 --batch 8 --epochs 2", 15),
    "scale": Benchmark("", "100 200 --sources folder", 60),
    "intake": Benchmark("", "200", 10),
}
GOALS = ("startup", "fine_tuning", "throughput", "frozen", "against_keras", "inference", "report")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog=f"NAMES: {', '.join(BENCHMARKS)}; without any: {', '.join(GOALS)}",
    )
    result.add_argument("names", nargs="*", metavar="NAMES", help="which to run, in this order")
    result.add_argument("--photos", type=folder, help="a folder of class folders of photographs")
    result.add_argument("--base_model", type=folder, help="ResNet-50 as a folder in Hub layout")
    result.add_argument("--run", type=folder, help="a run for `inference` (default: the one that fine_tuning made)")
    result.add_argument("--keras_python", type=Path, help="a Python with keras and tensorflow, for `against_keras`")
    result.add_argument("--others_python", type=Path, help="a Python with fastai or ultralytics, for `report`")
    result.add_argument("--rounds", type=positive, default=3, help="how often each contestant is measured")
    result.add_argument(
        "--json", type=json_file, metavar="FILE", help="default: reports/benchmarks[-NAMES][-quick].json"
    )
    result.add_argument("--quick", action="store_true", help="few photographs, one round: does it work?")
    return result


def words_of(benchmark: Benchmark, values: Mapping[str, Any], quick: bool) -> list[str]:
    """The arguments of a benchmark.

    Raises:
        KeyError: there is no value for one of them; its name.
    """
    words = [word.format_map(values) for word in benchmark.words.split()]
    with suppress(KeyError):
        words += [word.format_map(values) for word in benchmark.optional.split()]
    return words + (benchmark.quick.split() if quick else [])


def default_file(names: Sequence[str], quick: bool) -> str:
    """Where the result goes: what was only tried overwrites nothing that was measured."""
    return f"reports/{'-'.join(['benchmarks', *names, *['quick'] * quick])}.json"


def values_of(known: argparse.Namespace, kept: Path) -> dict[str, Any]:
    """What there is to be put in for the words in braces, by name."""
    made = kept / "run" if (kept / "run" / "config.json").is_file() else None
    given = {**vars(known), "kept": kept, "run": known.run or made}
    return {
        name: value.absolute() if isinstance(value, Path) else value
        for name, value in given.items()
        if value is not None
    }


def part(path: Path) -> tuple[list[Row], Any, Any]:
    """Rows, facts and measurements of what a benchmark wrote, or wrote so far."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [Row(**row) for row in content.get("rows", [])], content.get("facts"), content.get("measurements")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return [], None, f"nothing in the common form: {error}"


def main() -> int:
    """Run each in a process of its own; the exit status is 0 if all could be run, whatever they found."""
    known = parser().parse_args()
    names = list(dict.fromkeys(known.names)) or list(GOALS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"error: no benchmark '{unknown[0]}'; there are {', '.join(BENCHMARKS)}")
    os.environ.pop("OMP_NUM_THREADS", None)  # some libraries heed it and others do not
    if known.json is None:
        known.json = json_file(default_file(known.names, known.quick))
    from machine import facts, matrix_rates

    parts = known.json.with_name(f"{known.json.name}.parts")
    for flag in ("photos", "base_model", "run"):
        if (path := getattr(known, flag)) and path.resolve().is_relative_to(parts.resolve()):
            sys.exit(f"error: --{flag} '{path}' lies in {parts}, which is emptied first; name another --json FILE")
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    rows: list[Row] = []
    measured: dict[str, Any] = {}
    machine = facts() | matrix_rates() | {"command": sys.argv[1:]}
    minutes = sum(BENCHMARKS[name].minutes for name in names) * known.rounds / 3
    say(f"{', '.join(names)}: {'minutes' if known.quick else f'about {minutes:.0f} min on two cores'}")
    interrupted = False
    for number, name in enumerate(names, 1):
        began, path = time.perf_counter(), parts / f"{name}.json"
        try:
            words = words_of(BENCHMARKS[name], values_of(known, parts), known.quick)
            say(f"{number} of {len(names)} · {name}")
            command = [sys.executable, str(HERE / f"{name}.py"), *words, "--json", str(path.absolute())]
            status: int | str = subprocess.run(command, check=False).returncode
            status = "skipped, it says why above" if status == SKIPPED else status
        except KeyError as error:
            status = f"skipped: --{error.args[0]} is needed"
        except KeyboardInterrupt:
            status, interrupted = "interrupted", True
        found, its_facts, its_measurements = part(path)
        rows += found
        seconds = round(time.perf_counter() - began, 1)
        measured[name] = {
            "status": status, "seconds": seconds, "facts": its_facts, "measurements": its_measurements,
        }  # fmt: skip
        write_rows(known.json, rows, machine, measured)
        say(f"{name} took {seconds:.0f} s" if status == 0 else f"{name}: {_told(status)}")
        if interrupted:
            break
    print_rows(rows)
    failed = [name for name, each in measured.items() if each["status"] != 0]
    print(f"\nwrote {known.json}" + (f"; not measured whole, or not the same: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


def _told(status: int | str) -> str:
    return status if isinstance(status, str) else f"status {status}, it says why above; what it measured is kept"


def say(text: str) -> None:
    print(f"benchmarks · {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
