"""Time and memory of reading a folder, searching it for duplicates and dividing it, by the number of files.

python tests/benchmarks/intake.py [10000 30000 100000] [--json FILE]

Files are generated JPEGs of 64 × 64 pixels in 10 classes; every hundredth is another one saved again. Each size is read
in a process of its own, twice: with an empty cache, and again. Only on Linux, which tells the memory.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from arguments import json_file, positive
from machine import facts as machine_facts
from PIL import Image
from table import write_rows

SIDE = 64


def generate(folder: Path, files: int) -> None:
    """Write `files` pictures of smooth noise."""

    def write(number: int) -> None:
        again = number % 100 == 99
        draw = np.random.default_rng(number - 1 if again else number)
        noise = Image.fromarray(draw.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        picture = noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(folder / str(number // 100 % 10) / f"{number:06}.jpg", quality=60 if again else 90)

    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(files)))


def peak() -> float:
    """The most memory that this process had, in MB; `getrusage` begins with what its parent had."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def read(folder: Path) -> None:
    """Print, as JSON, seconds for reading, searching and dividing, the pairs found, and peak memory in MB."""
    from training.data.duplicates import find_duplicates
    from training.data.source import Folder
    from training.data.splits import make_splits
    from training.recipe import Data, Splits

    source = Folder(folder)
    base = peak()
    times = [time.perf_counter()]
    examples, _ = source.read(Data(), progress=False)
    times.append(time.perf_counter())
    found = find_duplicates(examples, source.reader(), progress=False)
    times.append(time.perf_counter())
    make_splits(examples, Splits(), found)
    times.append(time.perf_counter())
    most = peak()
    seconds = [after - before for before, after in itertools.pairwise(times)]
    facts = dict(zip(("reading", "duplicates", "splits"), seconds, strict=True))
    facts |= {"pairs": len(found), "megabytes": most - base, "ms_a_file": 1000 * sum(seconds) / len(examples)}
    print(json.dumps(facts))


def main() -> None:
    """Generate, and read in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=positive, nargs="*", default=[10_000, 30_000, 100_000])
    parser.add_argument("--json", type=json_file)
    known = parser.parse_args()
    print("| files | cache | reading, s | duplicates, s | splits, s | pairs | MB more than imports | ms a file |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    said = machine_facts() if known.json else {}
    for files in known.files:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "photos"
            generate(folder, files)
            for cache in ("empty", "filled"):
                result = subprocess.run(
                    [sys.executable, __file__, "--read", str(folder)],
                    env={**os.environ, "HF_HOME": temporary},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                rows.append({"files": files, "cache": cache, **json.loads(result.stdout)})
                line = "| {files:,} | {cache} | {reading:.1f} | {duplicates:.1f} | {splits:.1f} | {pairs:,} "
                print((line + "| {megabytes:.0f} | {ms_a_file:.2f} |").format(**rows[-1]), flush=True)
                if known.json:
                    write_rows(known.json, [], said, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        read(Path(sys.argv[2]))
    else:
        main()
