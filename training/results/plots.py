"""What `eval.py` draws: aggregates into `plots/`, and the surest mistakes, which show images, into `local/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from training.results.confusion import plot_confusion
from training.results.discrimination import plot_roc_and_precision_recall
from training.results.evidence import Evidence
from training.results.gallery import MOST, Mistake, plot_mistakes
from training.results.predictions import Predictions
from training.results.recall import plot_recall
from training.results.reliability import plot_reliability

PLOTS = ("confusion", "reliability", "discrimination", "recall")


def plot_results(results: Mapping[str, Any], test: Predictions, folder: Path, title: str) -> None:
    """Draw what `test_results.json` says of the test images; a plot for which there is nothing is not there."""
    confusion, reliability, discrimination, recall = (folder / f"{name}.png" for name in PLOTS)
    error = results["metrics"]["expected_calibration_error"]["value"]
    plot_confusion(results["confusion"], test.classes, confusion, title)
    plot_reliability(results["reliability"], reliability, title, error, results["groups"] < results["images"])
    points, looked_for = results.get("operating_points"), [test.labels, test.probabilities, test.classes]
    if results.get("positive") == test.classes[0]:  # the second is drawn
        looked_for = [1 - test.labels, test.probabilities[:, ::-1], test.classes[::-1]]
    plot_roc_and_precision_recall(*looked_for, discrimination, title, points)
    plot_recall(results["per_class"], recall, title)


def plot_surest_mistakes(
    classifier: Any, test: Predictions, read: Callable[[str], bytes], path: Path, title: str
) -> bool:
    """Draw the mistakes of highest probability with their heat maps; whether there are any."""
    wrong = np.flatnonzero(test.predicted != test.labels)
    surest = test.take(wrong[np.argsort(-test.probabilities[wrong].max(axis=1), kind="stable")][:MOST])
    evidence = Evidence(classifier, read, surest.paths, len(surest.paths))
    mistakes = []
    chosen = list(zip(surest.paths, surest.labels, surest.predicted, strict=True))
    for number, (name, label, index) in enumerate(tqdm(chosen, "Heat maps", unit=" images", leave=False, disable=None)):
        seen, map = evidence.look(number, index)
        confidence = float(surest.probabilities[number, index])
        mistakes.append(Mistake(name, seen, map, test.classes[label], test.classes[index], confidence))
    return plot_mistakes(mistakes, path, title)
