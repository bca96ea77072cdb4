"""How long every command takes to say how it is used.

python tests/benchmarks/startup.py [--rounds 5] [--json FILE]
"""

import argparse
import os
import re
import subprocess
import sys
import time
from functools import partial
from typing import Any

from arguments import is_small, json_file, positive
from contest import Contest
from machine import ROOT
from table import Row, compared

PYTHON = "python itself"


def commands() -> dict[str, list[str]]:
    """Every file of ours that can be run, as it is typed."""
    found = {}
    for folder, as_module in (("training", False), ("hub_utils", True)):
        for path in sorted((ROOT / folder).glob("*.py")):
            if re.search(r"^    sys\.exit\(\s*run_command\(", path.read_text(encoding="utf-8"), re.MULTILINE):
                name = f"{folder}.{path.stem}"
                words = ["-m", name] if as_module else [f"{folder}/{path.name}"]
                found[" ".join(["python", *words])] = [*words, "--help"]
    return found


def timed(words: list[str], number: int) -> dict[str, Any]:
    """Seconds of a process, its exit status and whether it said how it is used."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    began = time.perf_counter()
    finished = subprocess.run([sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "status": finished.returncode, "usage": "usage:" in finished.stdout.lower()}


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--rounds", type=positive, default=5)
    result.add_argument("--json", type=json_file)
    return result


def main() -> int:
    """Ask every command in turn; the row is of the slowest."""
    known = parser().parse_args()
    contest = Contest("startup", known.json, small=is_small(known, parser()))
    found = commands()
    contest.play(
        {PYTHON: partial(timed, ["-c", ""]), **{name: partial(timed, words) for name, words in found.items()}},
        range(1, known.rounds + 1),
    )
    medians = {name: contest.median(name, "seconds") for name in found}
    slowest = max(medians, key=medians.__getitem__)
    answered = all(each["status"] == 0 and each["usage"] for name in found for each in contest.measured[name])
    bare = contest.median(PYTHON, "seconds")
    title = f"--help of the slowest of {len(found)} commands, {slowest}"
    row = Row(title, medians[slowest], bare, "s", medians[slowest], "< 1 s", medians[slowest] < 1, "", PYTHON)
    return contest.finish(
        [compared(row, {f"all {len(found)} commands say how they are used": answered}, contest.small)]
    )


if __name__ == "__main__":
    sys.exit(main())
