"""Scores of strangeness compared: which tells pictures of another kind from a run's own test images, and at what cost.

    python tests/benchmarks/strangeness.py --keep FOLDER runs/flowers runs/rocks runs/digits

Of each run every score is fitted on the features of its training images, its threshold on its validation images, as
`training/results/serving.py` does. Asked are its test images, the other runs' images, letters, the golden images,
noise, flat colours, and the test images as negatives. A cell is the area under the ROC curve against the test images,
and the share that lies above the threshold; of the test images only the latter. Features are kept in FOLDER.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from tqdm.auto import tqdm

from hub_utils.portable import strangeness as ours
from hub_utils.portable.golden import golden_images
from training.data.images import open_rgb
from training.data.splits import SPLITS, read_splits
from training.run_folder import RunFolder

OTHERS = 120  # images of another run
AXES = ours.AXES
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]  # features (n, width) and logits (n, classes) to (n,)


def images_of(run: RunFolder, split: str | None, most: int | None = None) -> Iterator[Image.Image]:
    """Those of a split, or `most` of all."""
    from training.data.source import load_source

    rows, read = [row for row in read_splits(run.splits) if split in (None, row.split)], load_source(run.data).reader()
    chosen = range(len(rows)) if most is None else np.random.default_rng(1).permutation(len(rows))[:most]
    return (open_rgb(read(rows[number].path)) for number in chosen)


def letters() -> Iterator[Image.Image]:
    """Black on white and small, as the digits are."""
    for number, letter in enumerate("ABCDEFGHKLMNPQRTUVWXYZabdefhkmnpqrtuvwxy"):
        image = Image.new("L", (64, 64), 255)
        font = ImageFont.load_default(40 + number % 4 * 5)
        ImageDraw.Draw(image).text((32, 32), letter, font=font, anchor="mm", fill=0)
        yield image.resize((8, 8), Image.Resampling.BOX).convert("RGB")


def asked_of(run: RunFolder, runs: list[RunFolder]) -> dict[str, Callable[[], Iterator[Image.Image]]]:
    """What a run's network is shown, by its name."""
    draw = np.random.default_rng(0)
    colours = ("black", "white", "grey", "red", "green", "blue", "yellow", "#222", "#ddd", "brown", "pink", "navy")
    return {
        **{split: lambda split=split: images_of(run, split) for split in SPLITS},
        **{each.path.name: lambda each=each: images_of(each, None, OTHERS) for each in runs if each != run},
        "letters": letters,
        "golden": lambda: (image.convert("RGB") for image in golden_images().values()),
        "noise": lambda: (Image.fromarray(draw.integers(0, 256, (224, 224, 3), np.uint8)) for _ in range(40)),
        "flat": lambda: (Image.new("RGB", (224, 224), colour) for colour in colours),
        "negatives": lambda: map(ImageOps.invert, images_of(run, "test")),
    }


def look(run: RunFolder, runs: list[RunFolder]) -> dict[str, np.ndarray]:
    """Features and logits of each group, as name/f and name/l, and the labels of training images as train/y."""
    import torch

    from hub_utils.portable.activation_maps import Features
    from hub_utils.portable.classifier import classes_of, load_classifier
    from training.data.transforms import Preprocessing

    classifier = load_classifier(run.path)
    network, preprocessing, found = Features(classifier.model), Preprocessing(classifier.image_processor), {}
    for name, images in asked_of(run, runs).items():
        logits, features = [], []
        for image in tqdm(images(), f"{run.path.name}: {name}", unit=" images", leave=False, disable=None):
            with torch.inference_mode():
                answer = network(preprocessing(image)[None])
            logits.append(answer[0].numpy())
            features.append(answer[1].numpy())
        found[f"{name}/l"], found[f"{name}/f"] = np.concatenate(logits), np.concatenate(features)
    names = classes_of(classifier)
    found["train/y"] = np.array([names.index(row.label) for row in read_splits(run.splits) if row.split == "train"])
    return found


def scores(features: np.ndarray, labels: np.ndarray) -> dict[str, Score]:
    """Each score by its name, from what training images have."""
    from scipy.special import logsumexp

    statistics = ours.fit(features)
    unit = ours._directions
    directions, raw = unit(features), features.astype(np.float64)
    means = unit(np.stack([directions[labels == number].mean(axis=0) for number in np.unique(labels)]))
    return {
        "largest probability": lambda _, logits: logsumexp(logits, axis=1) - logits.max(axis=1),
        "largest logit": lambda _, logits: -logits.max(axis=1),
        "energy": lambda _, logits: -logsumexp(logits, axis=1),
        "nearest class mean, cosine": lambda each, _: 1 - (unit(each) @ means.T).max(axis=1),
        "1st neighbour, cosine": lambda each, _: 1 - (unit(each) @ directions.T).max(axis=1),
        "5th neighbour, cosine": lambda each, _: 1 - np.sort(unit(each) @ directions.T, axis=1)[:, -5],
        f"Mahalanobis, {AXES} axes": mahalanobis(raw, labels),
        f"Mahalanobis, {AXES} axes, length 1": mahalanobis(directions, labels, unit),
        f"residual of {AXES} axes": residual(raw),
        f"residual of {AXES} axes, length 1 (ours)": lambda each, _: ours.strangeness(each, statistics),
    }


def mahalanobis(rows: np.ndarray, labels: np.ndarray, scale: Callable = np.asarray) -> Score:
    """Of the nearest class mean on principal axes, with the classes' common covariance, a tenth of it spread evenly."""
    centre = rows.mean(axis=0)
    axes = np.linalg.svd(rows - centre, full_matrices=False)[2][:AXES]
    inside, classes = (rows - centre) @ axes.T, np.unique(labels)
    means = np.stack([inside[labels == number].mean(axis=0) for number in classes])
    apart = inside - means[np.searchsorted(classes, labels)]
    covariance = apart.T @ apart / len(apart)
    inverse = np.linalg.inv(0.9 * covariance + 0.1 * np.trace(covariance) / len(axes) * np.eye(len(axes)))

    def score(each: np.ndarray, _: np.ndarray) -> np.ndarray:
        offsets = ((scale(each) - centre) @ axes.T)[:, None] - means
        return np.einsum("ncd,de,nce->nc", offsets, inverse, offsets).min(axis=1)

    return score


def residual(rows: np.ndarray) -> Score:
    """Length of what lies outside of the principal axes, as in ViM."""
    centre = rows.mean(axis=0)
    axes = np.linalg.svd(rows - centre, full_matrices=False)[2][:AXES]

    def score(each: np.ndarray, _: np.ndarray) -> np.ndarray:
        offsets = each - centre
        return np.sqrt(np.maximum((offsets**2).sum(axis=1) - ((offsets @ axes.T) ** 2).sum(axis=1), 0))

    return score


def table(found: dict[str, np.ndarray]) -> Iterator[str]:
    """Lines of Markdown: a row for each score."""
    from sklearn.metrics import roc_auc_score

    from training.results.serving import drawn, familiar

    groups = {name.removesuffix("/f"): found[name].astype(np.float64) for name in found if name.endswith("/f")}
    foreign = [name for name in groups if name not in SPLITS]
    yield f"| | test | {' | '.join(foreign)} |"
    yield f"| --- |{' ---: |' * (len(foreign) + 1)}"
    chosen = drawn(len(groups["train"]))
    for title, score in scores(found["train/f"][chosen], found["train/y"][chosen]).items():
        values = {name: score(rows, found[f"{name}/l"].astype(np.float64)) for name, rows in groups.items()}
        threshold, own = familiar({}, values["validation"])["threshold"], values["test"]
        cells = [f"{(own > threshold).mean():.1%}"] if threshold is not None else ["–"]
        for name in foreign:
            truth = np.repeat([0, 1], [len(own), len(values[name])])
            area = roc_auc_score(truth, np.concatenate([own, values[name]]))
            above = f", {(values[name] > threshold).mean():.0%}" if threshold is not None else ""
            cells.append(f"{area:.3f}{above}")
        yield f"| {title} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--keep", type=Path, required=True, metavar="FOLDER")
    known = parser.parse_args()
    from training.results.serving import FITTED

    known.keep.mkdir(parents=True, exist_ok=True)
    runs = [RunFolder(path) for path in known.runs]
    for run in runs:
        kept = known.keep / f"{run.path.name}.npz"
        if not kept.is_file():
            np.savez(kept, **look(run, runs))
        with np.load(kept) as stored:
            found = dict(stored)
        count, width = found["train/f"].shape
        print(f"\n{run.path.name}: {min(count, FITTED)} training images, {width} features\n")
        print("\n".join(table(found)))


if __name__ == "__main__":
    sys.exit(main())
