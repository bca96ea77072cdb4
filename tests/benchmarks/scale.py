"""Time and memory of a whole training run by the number of images: both of a folder and of a stream from the Hub.

python tests/benchmarks/scale.py [1000 10000 100000] [--sources folder stream] [--json FILE]

Pictures of 64 × 64 pixels are generated (as in `intake.py`) and trained on for one epoch by a network of 6,000
parameters, so that what is measured is all else. Time is linear and memory flat where ten times as many images take ten
times as long, less what starting takes, and the same memory. A stream comes from a Hub on this machine.

`reading` goes from the command to the network, imports with it, `start` to the first step, `epoch` to the end of its
evaluation, `deploy` is the rest. Memory is
the most that the process and its children had for themselves at once; files that are mapped or cached are not in it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from arguments import json_file, positive
from intake import generate
from machine import facts
from table import write_rows

ROOT = Path(__file__).parents[2]
SHARD = 5_000  # images in a Parquet file
RECIPE = """
from training.recipe import FromConfig, Linear, Recipe, Stage
sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
stage = Stage(name="all", batch_size=64, arguments={"num_train_epochs": 1, "learning_rate": 1e-3})
recipe = Recipe(title="Scale", base_model=FromConfig("resnet", sizes, image_size=32), head=(Linear(),), stages=(stage,))
"""
# The line of train.py that a part ends with.
PARTS = {"reading": "network", "start": "stage ", "epoch": "  all 1/1", "deploy": "wrote "}
PARQUET = """
import sys
from pathlib import Path
from datasets import ClassLabel, Dataset, Features, Image
paths, (folder, size) = sorted(Path(sys.argv[1]).rglob("*.jpg")), (Path(sys.argv[2]), int(sys.argv[3]))
paths.sort(key=lambda path: path.name)
features = Features(image=Image(), label=ClassLabel(names=[str(label) for label in range(10)]))
shards = [paths[start : start + size] for start in range(0, len(paths), size)]
for number, shard in enumerate(shards):
    columns = {"image": [str(path) for path in shard], "label": [path.parent.name for path in shard]}
    table = Dataset.from_dict(columns, features=features)
    table.to_parquet(folder / f"train-{number:05}-of-{len(shards):05}.parquet", batch_size=1000)
"""


def train(words: list[str], environment: dict[str, str], folder: Path) -> dict[str, float]:
    """Seconds of each part and of all, and the most memory, in MB, of training in a process of its own."""
    recipe = folder / "tiny.py"
    recipe.write_text(RECIPE, encoding="utf-8")
    command = [sys.executable, "training/train.py", str(recipe), *words, "--output_dir", str(folder / "run")]
    began, ends = time.perf_counter(), {}
    environment = {**environment, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
        )
        with watched(process.pid) as most:
            for line in process.stdout:
                for part, start in PARTS.items():
                    if line.startswith(start):
                        ends.setdefault(part, time.perf_counter() - began)
            if process.wait() != 0 or len(ends) < len(PARTS):
                errors.seek(0)
                raise RuntimeError(f"{' '.join(command)} failed:\n{errors.read()}")
    times = itertools.pairwise([0, *ends.values()])
    seconds = {part: after - before for part, (before, after) in zip(ends, times, strict=True)}
    return {**seconds, "all": time.perf_counter() - began, "memory": most[0] / 1e6, "disk": size(folder / "run") / 1e6}


@contextlib.contextmanager
def watched(pid: int) -> Iterator[list[float]]:
    """The most bytes, in a list of one, that a process and its children have for themselves until the block ends."""
    most, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            most[0] = max(most[0], memory(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def memory(pid: int) -> float:
    """Bytes now; where the system does not tell what is shared (Linux does), all that is resident."""
    total = 0
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(pid)
        for process in (top, *top.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                known = process.memory_info()
                total += known.rss - getattr(known, "shared", 0)
    return total


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def hub_of(photos: Path, home: Path) -> Iterator[dict[str, str]]:
    """The environment in which `alice/photos` holds the photos, in Parquet files."""
    sys.path.insert(0, str(ROOT / "tests"))
    from loopback_hub import LoopbackHub

    shards = home / "shards"
    shards.mkdir()
    subprocess.run(
        [sys.executable, "-c", PARQUET, str(photos), str(shards), str(SHARD)], check=True, capture_output=True
    )
    with LoopbackHub() as hub:
        hub.add("alice/photos", {f"data/{path.name}": path for path in shards.iterdir()}, repo_type="dataset")
        yield hub.environment(home / "hub")


def measure(images: int, source: str) -> dict[str, float]:
    """Generate and train, with empty caches."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        generate(home / "photos", images)
        if source == "folder":
            return train(["--data_dir", str(home / "photos")], {**os.environ, "HF_HOME": str(home / "cache")}, home)
        with hub_of(home / "photos", home) as environment:
            return train(["--dataset", "alice/photos", "--streaming"], environment, home)


def growth(images: list[int], values: list[float]) -> float | None:
    """By what a value is multiplied where images are multiplied by ten: the slope of logarithms, by least squares."""
    if len(images) < 2:
        return None
    from numpy import log10, polyfit

    return float(10 ** polyfit(log10(images), log10(values), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=positive, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--sources", nargs="+", choices=("folder", "stream"), default=["folder", "stream"])
    parser.add_argument("--json", type=json_file)
    known = parser.parse_args()
    columns = [*PARTS, "all", "memory", "disk"]
    print(f"| | images | {', s | '.join(columns[:-2])}, s | memory, MB | run folder, MB | ms an image more |")
    print(f"|{'---|' * (len(columns) + 3)}")
    found: dict[str, Any] = {}
    said = facts() if known.json else {}

    def keep() -> None:
        if known.json:
            write_rows(known.json, [], said, found)

    for source in known.sources:
        rows = found[source] = []
        for images in known.images:
            rows.append({"images": images, **measure(images, source)})
            keep()
            more = math.nan
            if len(rows) > 1:  # what starting takes is in both
                more = 1000 * (rows[-1]["all"] - rows[-2]["all"]) / (images - rows[-2]["images"])
            cells = [f"{rows[-1][column]:,.1f}" for column in columns]
            print(f"| {source} | {images:,} | {' | '.join(cells)} | {more:.2f} |", flush=True)
        ratios = {column: growth(known.images, [row[column] for row in rows]) for column in columns}
        if len(rows) > 1:
            cells = [f"× {ratio:.2f}" for ratio in ratios.values()]
            print(f"| {source} | × 10 | {' | '.join(cells)} | |", flush=True)
        found[f"{source}, by ten"] = ratios
        keep()


if __name__ == "__main__":
    main()
