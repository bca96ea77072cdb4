"""How near a network's space of rocks is to people's: Procrustes, and what chance alone would reach.

People's space is built from their judgements of similarity (Nosofsky et al. 2018, Behavior Research Methods 50:530).
Procrustes finds *some* likeness between any two clouds of points, so that no figure here stands without its null.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from training.data.intake import check_folder, image_files
from training.data.splits import Row
from training.disk import writing
from training.recipe import Data, UserError
from training.results.style import BLUE, ORANGE, SKY, VERMILION, new_figure, open_axes, plain, save
from training.run_folder import RunFolder, read_json, sha256, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIMENSIONS = ("lightness", "grain size", "roughness", "shininess", "organisation", "chromaticity", "shape", "hue")
WIDTH = len(DIMENSIONS)
SETS = ("360", "120")  # called after the rocks in them; the authors' two spaces, of a file each
DRAWS = 1_000  # p values then have three digits, in a second
HELD_OUT = 90  # of the 360 rocks, on which the authors' network was tested


@dataclass(frozen=True)
class Reference:
    """A published figure: disparity, mean r and its 95th percentile, None where nothing is known."""

    name: str
    set: str
    disparity: float | None
    mean_r: float | None
    percentile_95: float | None = None


# "The original" is the student project behind the recipe: 128 units, compared in its training and validation rocks. All
# others were computed from the authors' own files: a random embedding is of 8 normal values a rock; their network was
# trained on the human space itself, with 90 of the 360 rocks held out; and a joint space of all 480 rocks, held against
# these two, is a rough ceiling.
REFERENCES = (
    Reference("random embedding", "360", 0.985, 0.123, 0.142),
    Reference("the original", "360", None, 0.312),
    Reference("authors' network, 90 held out", "360", 0.177, 0.893),
    Reference("people, all 480 rocks at once", "360", 0.122, 0.921),
    Reference("random embedding", "120", 0.953, 0.216, 0.250),
    Reference("the original", "120", None, 0.442),
    Reference("authors' network", "120", 0.400, 0.740),
    Reference("people, all 480 rocks at once", "120", 0.254, 0.835),
)


@dataclass(frozen=True)
class Similarity:
    """`disparity`: the sum of squares that Procrustes leaves, from 0 to 1. `r`: Pearson's, (8,), one a dimension."""

    disparity: float
    r: np.ndarray

    @property
    def mean_r(self) -> float:
        return float(self.r.mean())

    def figures(self) -> np.ndarray:
        """Disparity, mean r, and the eight r: (10,)."""
        return np.array([self.disparity, self.mean_r, *self.r])


def compare(human: np.ndarray, network: np.ndarray) -> Similarity:
    """Turn, mirror, scale and shift the network's points onto people's (rocks, 8) as well as it goes; see `Similarity`.

    An r is NaN where all rocks have one value.

    Raises:
        ValueError: the shapes differ, or all points of one side are the same.
    """
    from scipy.spatial import procrustes

    fixed, fitted, disparity = procrustes(human, network)  # both centred, of a sum of squares of 1 at most
    squares = (fixed**2).sum(axis=0) * (fitted**2).sum(axis=0)
    squares[squares < 1e-24] = np.nan  # rounding errors would correlate, too
    return Similarity(float(disparity), (fixed * fitted).sum(axis=0) / np.sqrt(squares))


def to_width(embedding: np.ndarray) -> tuple[np.ndarray, float]:
    """(rocks, width) as (rocks, 8), and the share of the variance that is left.

    Wider, it becomes its first 8 principal components, of these rocks alone; narrower, it is filled up with zeros, for
    Procrustes wants equal widths.
    """
    if embedding.shape[1] > WIDTH:
        centred = embedding - embedding.mean(axis=0)
        left, singular, _ = np.linalg.svd(centred, full_matrices=False)
        kept = float((singular[:WIDTH] ** 2).sum() / (singular**2).sum())
        embedding = left[:, :WIDTH] * singular[:WIDTH]
    else:
        kept = 1.0
    return np.pad(embedding, ((0, 0), (0, WIDTH - embedding.shape[1]))), kept


def beside_chance(human: np.ndarray, embedding: np.ndarray, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """Each figure of an embedding (rocks, any width) with two null distributions, as `rocks_similarity.json` has it.

    `random`: normal values, as many a rock as the embedding has, 8 at most. `permuted`: the embedding itself, its rocks
    shuffled. Each with mean, 95th percentile (of the disparity the 5th: less is better) and p = (1 + draws that are at
    least as good) / (1 + draws) (Phipson and Smyth 2010, https://doi.org/10.2202/1544-6115.1585). What is undefined
    is None.

    Raises:
        ValueError: the rocks are not as many, or the embedding says the same of all.
    """
    network, kept = to_width(embedding)
    draw = np.random.default_rng(seed)
    width = min(WIDTH, embedding.shape[1])
    observed = compare(human, network).figures()
    nulls = {
        "random": _null(human, draws, lambda: to_width(draw.standard_normal((len(human), width)))[0]),
        "permuted": _null(human, draws, lambda: draw.permutation(network)),
    }
    names = ("disparity", "mean_r", *DIMENSIONS)
    figures = {
        name: {"value": _number(observed[place])}
        | {null: _against(observed[place], found[:, place], name == "disparity") for null, found in nulls.items()}
        for place, name in enumerate(names)
    }
    return {
        "rocks": len(human),
        "width": embedding.shape[1],
        "variance_kept": kept,
        "disparity": figures["disparity"],
        "mean_r": figures["mean_r"],
        "r": {name: figures[name] for name in DIMENSIONS},
    }


def _null(human: np.ndarray, draws: int, embedding: Callable[[], np.ndarray]) -> np.ndarray:
    """The figures of so many embeddings by chance: (draws, 10)."""
    return np.array([compare(human, embedding()).figures() for _ in range(draws)])


def _against(value: float, null: np.ndarray, less_is_better: bool) -> dict[str, float | None]:
    reached = ~(null > value) if less_is_better else ~(null < value)  # a draw that is undefined counts against us
    percentile = 5 if less_is_better else 95
    return {
        "mean": _number(null.mean()),
        f"percentile_{percentile}": _number(np.percentile(null, percentile)),
        "p": None if np.isnan(value) else float((1 + reached.sum()) / (1 + len(null))),
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def compare_sets(human: Mapping[str, np.ndarray], embeddings: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """`beside_chance` for each set of rocks.

    Raises:
        UserError: an embedding says the same of all rocks.
    """
    found = {}
    for name in tqdm(human, "Drawing by chance", unit=" sets", leave=False, disable=None):
        if (np.ptp(embeddings[name], axis=0) == 0).all():
            raise UserError(f"the layer says the same of all {len(human[name])} rocks; choose another --layer")
        found[name] = beside_chance(human[name], embeddings[name])
    return found


# What people say, and where the pictures are


def read_human(folder: Path) -> dict[str, np.ndarray]:
    """People's space of each set, (rocks, 8), a row a rock in the order of the file names.

    Raises:
        UserError: a file is missing or holds something else.
    """
    return {name: _read_points(folder / f"mds_{name}.txt") for name in SETS}


def _read_points(path: Path) -> np.ndarray:
    """Rows of eight numbers, no column of which is all the same.

    Raises:
        UserError: the file is missing or holds something else.
    """
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        wrong = next((number for number, row in enumerate(rows, 1) if len(row) != WIDTH), None)
        if wrong is not None:
            raise ValueError(f"row {wrong} has {len(rows[wrong - 1])}")
        points = np.array(rows, dtype=np.float64)
    except OSError as error:
        files = " and ".join(f"mds_{name}.txt" for name in SETS)
        raise UserError(
            f"'{path}' cannot be read ({error.strerror}); --human wants the folder of the authors' {files}"
        ) from error
    except ValueError as error:
        raise UserError(
            f"'{path}' is no table of {WIDTH} numbers a row ({', '.join(DIMENSIONS)}), a row a rock: {error}"
        ) from error
    if len(rows) < 2 or not np.isfinite(points).all() or (np.ptp(points, axis=0) == 0).any():
        raise UserError(f"'{path}': in each of the {WIDTH} columns, rocks must have different, finite places")
    return points


def find_rocks(folder: Path, data: Data, human: Mapping[str, np.ndarray]) -> dict[str, list[tuple[Path, str]]]:
    """Image files and their classes, by set, in the order of the file names, which is that of people's rows.

    All files count, also those that a run left out as copies. That names are sorted whole, with the I, M or S before
    the class, was held against the pictures: their own lightness and people's then go together (r = .92 and .89).

    Raises:
        UserError: the folder is not there, or has not as many rocks as people judged.
    """
    check_folder(folder, data)
    pattern = re.compile(data.pattern)
    found: dict[str, list[tuple[Path, str]]] = {name: [] for name in SETS}
    for path in image_files(folder, []):
        if told := pattern.search(path):
            found[told["split"] or "360"].append((folder / path, told["label"]))
    if not any(found.values()):
        raise UserError(
            f"no image in '{folder}' is called as the rocks are, I_Andesite_01.jpg; RUN is one of the recipe `rocks`, "
            f"--data_dir the folder that holds {' and '.join(data.parts)}"
        )
    for name, rocks in found.items():
        if len(rocks) != len(human[name]):
            raise UserError(
                f"'{folder}' holds {len(rocks)} images of the {name} rocks, mds_{name}.txt {len(human[name])} rows; "
                f"give the folder that holds {' and '.join(data.parts)}, whole and once, with --data_dir"
            )
        rocks.sort(key=lambda rock: rock[0].name)
    return found


def in_splits(paths: Iterable[Path], rows: Sequence[Row]) -> dict[str, int]:
    """How many of the rocks the run has in which split; none if it knows its images by other names."""
    splits = {PurePosixPath(row.path).name: row.split for row in rows}
    return dict(Counter(splits[path.name] for path in paths if path.name in splits))


# What is known: the check of this code against published figures


def check_published(folder: Path, human: Mapping[str, np.ndarray]) -> list[tuple[Reference, Similarity, float | None]]:
    """Each published row that can be computed from the files in `folder`, with what it gives here.

    Of a random embedding the last is the 95th percentile of the mean r. The authors' network's rows come from their
    `cnn_test.txt`, 90 of the 360 rocks in the order of scikit-learn's stratified split, and `cnn_120.txt`.

    Raises:
        UserError: a file holds something else, or people's files are not the published ones.
    """
    published = {(each.name, each.set): each for each in REFERENCES}
    found = []
    for name in SETS:
        if len(human[name]) != int(name):
            raise UserError(f"mds_{name}.txt has {len(human[name])} rows; the published figures are of {name} rocks")
        chance = _random(human[name])
        mean = Similarity(float(chance[:, 0].mean()), chance[:, 2:].mean(axis=0))
        found.append((published["random embedding", name], mean, float(np.percentile(chance[:, 1], 95))))
    for name, set_, file, rows in (
        ("authors' network, 90 held out", "360", "cnn_test.txt", _held_out()),
        ("authors' network", "120", "cnn_120.txt", np.arange(120)),
    ):
        if (folder / file).is_file():
            network = _read_points(folder / file)
            if len(network) != len(rows):
                raise UserError(f"'{folder / file}' has {len(network)} rows; expected {len(rows)}, as published")
            found.append((published[name, set_], compare(human[set_][rows], network), None))
    return found


def _random(human: np.ndarray, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return _null(human, DRAWS, lambda: draw.standard_normal(human.shape))


def _held_out() -> np.ndarray:
    """Rows of the 360 that the authors' `cnn_test.txt` holds: twelve rocks a class, of which three are tested."""
    from sklearn.model_selection import train_test_split

    classes = np.repeat(np.arange(30), 12)
    return train_test_split(np.arange(360), test_size=HELD_OUT, stratify=classes, random_state=0)[1]


# What is written, and what a person reads


def write_similarity(run: RunFolder, layer: str, found: Mapping[str, Any]) -> Path:
    """Write the plot, then `rocks_similarity.json`, whose path it gives: aggregates, with no image of the data set.

    Raises:
        UserError: the run folder cannot be written.
    """
    title = f"{read_json(run.recipe)['recipe']['title']}: layer {layer} and people's space of rocks"
    content = {
        "layer": layer,
        "model_sha256": sha256(run.weights),
        "draws": DRAWS,
        "sets": found,
        "published": [asdict(each) for each in REFERENCES],
    }
    path = run.path / "rocks_similarity.json"
    with writing(run.path, "the same command again", "compare a copy elsewhere"):
        path.unlink(missing_ok=True)  # never an old one beside a new plot
        plot_similarity(found, run.path / "plots" / "rocks_similarity.png", title)
        write_json(content, path)
    return path


def width_line(found: Mapping[str, Mapping[str, Any]]) -> str:
    """How the layer came to the eight dimensions of people's space."""
    width = next(iter(found.values()))["width"]
    if width <= WIDTH:
        return f"{width} wide, " + ("as it is" if width == WIDTH else f"filled up with zeros to {WIDTH}")
    kept = " and ".join(f"{part['variance_kept']:.0%} (the {name})" for name, part in found.items())
    return f"{width} wide, of which {WIDTH} principal components hold {kept} of the variance"


def table(name: str, found: Mapping[str, Any]) -> list[str]:
    """A set's part of `rocks_similarity.json` in lines: each figure beside chance, then the published ones."""
    lines = [_rocks(found)]
    lines.append(f"{'':<15}{'value':>7}  {'random (95 %)':>16}  {'permuted (95 %)':>16}  {'p':>6}")
    for label, figure in _figures(found):
        chance = [
            f"{_told(null['mean'])} ({_told(_percentile(null))})" for null in (figure["random"], figure["permuted"])
        ]
        lines.append(
            f"{label:<15}{_told(figure['value']):>7}  {chance[0]:>16}  {chance[1]:>16}  {_told(_p(figure)):>6}"
        )
    lines.append(f"{'published':<33}{'disparity':>9}  {'mean r':>16}")
    for each in (each for each in REFERENCES if each.set == name):
        mean_r = _told(each.mean_r) + (f" ({_told(each.percentile_95)})" if each.percentile_95 else "")
        lines.append(f"  {each.name:<31}{_told(each.disparity):>9}  {mean_r:>16}")
    return lines


def plot_similarity(found: Mapping[str, Mapping[str, Any]], path: Path, title: str) -> None:
    """Mean r and the eight r of each set, over what chance reaches in 95 of 100 cases; with the published means."""
    figure = new_figure(9, 4.6)
    every = figure.subplots(1, len(found), sharey=True)
    for axes, (name, part) in zip(every, found.items(), strict=True):
        _plot_set(axes, name, part)
    every[0].set_yticks(range(WIDTH + 1), ["mean", *DIMENSIONS])
    every[0].set_ylim(WIDTH + 0.6, -0.9)
    handles, labels = every[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(plain(title), fontsize=11)
    save(figure, path)


# Markers tell the published figures apart in print; they are known by what their names begin with.
MARKS = {
    "the original": ("s", ORANGE),
    "authors' network": ("^", VERMILION),
    "people, all 480 rocks at once": ("D", SKY),
}


def _plot_set(axes: Axes, name: str, part: Mapping[str, Any]) -> None:
    rows = [part["mean_r"], *part["r"].values()]
    for place, row in enumerate(rows):
        bound = max(_percentile(row[null]) or 0 for null in ("random", "permuted"))
        label = "chance, up to its 95th percentile" if place == 0 else None
        axes.barh(place, bound, 0.8, color="0.85", label=label, zorder=1)
    values = [np.nan if row["value"] is None else row["value"] for row in rows]
    axes.plot(values, range(len(rows)), "o", color=BLUE, markersize=7, label="this network", zorder=4)
    for start, (marker, colour) in MARKS.items():
        for each in REFERENCES:
            if each.set == name and each.name.startswith(start):
                axes.plot(
                    each.mean_r, 0, marker, color=colour, markersize=7, label=start, zorder=3, mec="black", mew=0.5
                )
    axes.axhline(0.5, color="0.6", linewidth=0.8)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_xlim(min(0, *values) - 0.03, 1.02)
    axes.set_xlabel("Pearson's r after Procrustes")
    disparity, chance = part["disparity"]["value"], part["disparity"]["random"]["mean"]
    axes.set_title(f"{_rocks(part)}\ndisparity {disparity:.2f}, chance {chance:.2f}", fontsize=9)
    open_axes(axes)


def _rocks(part: Mapping[str, Any]) -> str:
    """How many rocks there are, and how many of them the network has learned."""
    known = part["splits"]
    return f"{part['rocks']} rocks" + (f", {known.get('train', 'none')} of them trained on" if known else "")


def _figures(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [("disparity", found["disparity"]), ("mean r", found["mean_r"]), *found["r"].items()]


def _percentile(null: Mapping[str, Any]) -> float | None:
    return next(value for key, value in null.items() if key.startswith("percentile"))


def _p(figure: Mapping[str, Any]) -> float | None:
    """The larger p of the two null distributions."""
    values = [figure[null]["p"] for null in ("random", "permuted")]
    return None if None in values else max(values)


def _told(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
