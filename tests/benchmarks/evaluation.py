"""`eval.py`, whole, against a plain `pipeline` loop over the same photographs.

python tests/benchmarks/evaluation.py RUN [--images 1000] [--rounds 3]

RUN is a run whose images are a folder on this machine. In a copy of it nearly all of them become the test split, which
`eval.py` then measures: figures, floors, intervals, plots, heat maps of the surest mistakes and model card included.
The contestants take turns; what they say of each image is compared.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from training.data.splits import read_splits, write_splits
from training.run_folder import RunFolder


def all_for_testing(run: RunFolder, folder: Path, images: int) -> tuple[RunFolder, list[Path]]:
    """A copy of the run in which every image is for testing but ten, and the files to be tested."""
    from training.data.source import load_source

    copy = RunFolder(folder / "run")
    shutil.copytree(run.path, copy.path, ignore=shutil.ignore_patterns("checkpoints", "predictions.csv"))
    rows = read_splits(run.splits)
    kept = rows[:: max(1, len(rows) // images)][:images]
    kept = [replace(row, split="test") for row in kept]
    for number, split in enumerate(["train", "validation"] * 5):
        place = number * len(kept) // 10
        kept[place] = replace(kept[place], split=split)
    write_splits(kept, copy.splits)
    source = load_source(run.data)
    return copy, [source.data_dir / row.path for row in kept if row.split == "test"]


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    known = parser.parse_args(words)
    from transformers import pipeline
    from transformers.utils import logging

    from hub_utils.portable.classifier import classes_of, load_classifier
    from training.results.measure import measure
    from training.results.predictions import read_predictions

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        run, files = all_for_testing(RunFolder(known.run), Path(folder), known.images)
        names = classes_of(load_classifier(run.path))
        plain = pipeline(
            "image-classification", model=str(run.path), trust_remote_code=any(run.path.glob("modeling_*.py"))
        )

        def loop(batch_size: int) -> np.ndarray:
            found = plain([str(file) for file in files], batch_size=batch_size, top_k=len(names))
            return np.array(
                [[{each["label"]: each["score"] for each in said}[name] for name in names] for said in found]
            )

        def evaluation() -> np.ndarray:
            measure(run, say=lambda _: None)
            return read_predictions(run.predictions).of("test").probabilities

        contestants = {
            "pipeline, one by one": lambda: loop(1),
            "pipeline, batches of 32": lambda: loop(32),
            "eval.py, whole": evaluation,
        }
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        said: dict[str, np.ndarray] = {}
        for _ in range(known.rounds):
            for name, contestant in contestants.items():
                began = time.perf_counter()
                said[name] = contestant()
                seconds[name].append(time.perf_counter() - began)
    first = statistics.median(seconds["pipeline, one by one"])
    expected = said["pipeline, one by one"]
    print(f"{len(files)} photographs, {known.rounds} rounds, medians")
    for name, times in seconds.items():
        middle = statistics.median(times)
        apart = np.abs(said[name] - expected).max()
        print(f"{name:<26}{middle:8.1f} s  {first / middle:5.2f} × as fast  probabilities differ by {apart:.1e}")


if __name__ == "__main__":
    main(sys.argv[1:])
