"""What of a run folder may go to the Hub: these names and nothing else, of a run that is whole."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hub_utils.portable.command import UserError
from hub_utils.portable.eight_bits import INT8, why_not_measured
from hub_utils.portable.facts import read_facts
from hub_utils.portable.golden import weights_sha256
from hub_utils.run_files import read_json

# What a command measured, and the plots that it drew of it; training itself draws the curves.
MEASURED = {
    "test_results.json": ("confusion", "recall", "discrimination", "reliability"),
    "rocks_similarity.json": ("rocks_similarity",),
}
MAY_GO = (
    ("config.json", "model.safetensors", "preprocessor_config.json", "modeling_*.py", "onnx/model.onnx")
    + (INT8,)
    + ("serving.json", "recipe.json", "log_history.csv", "all_results.json", "plots/curves.png", "README.md")
    + tuple(path for name, plots in MEASURED.items() for path in (name, *(f"plots/{plot}.png" for plot in plots)))
)
STAYS = {
    "local": "the data set's images, their paths and whose they are",
    "checkpoints": "the state of training",
}
PORTABLE = Path(__file__).with_name("portable")


@dataclass(frozen=True)
class Contents:
    """What is in the folder `run`: `files` may go, by their path in the repo; `stays` says why something does not."""

    run: Path
    files: dict[str, Path]
    stays: dict[str, str]
    weights_sha256: str
    unmeasured: str | None  # why there are no test results to go with it
    config: dict[str, Any]


def may_go(path: str) -> bool:
    """Whether a file of this path in a repo is one that a push puts there."""
    return any(fnmatchcase(path, name) for name in MAY_GO)


def contents_of(run: Path) -> Contents:
    """What of a run may go.

    Raises:
        UserError: it is no whole run, a file of it is broken or a link, or the model's code in it is not ours.
    """
    _check_trained(run)
    found = dict(sorted(_found(run)))
    for name, path in found.items():
        check_no_link(run, path)
        if fnmatchcase(name, "modeling_*.py"):
            check_ours(path)
    weights = weights_sha256(run)
    why = {name: _why_not(run / name, weights) for name in MEASURED}
    measured = {path: name for name, plots in MEASURED.items() for path in (name, *(f"plots/{p}.png" for p in plots))}
    left_out = {path: why[measured[path]] for path in found if why.get(measured.get(path))}
    if INT8 in found and (reason := _why_not_int8(run, weights)):
        left_out[INT8] = reason
    files = {name: path for name, path in found.items() if name not in left_out}
    stays = dict(sorted((_others(run, found) | left_out).items()))
    return Contents(run, files, stays, weights, why["test_results.json"], read_json(run / "config.json"))


def _check_trained(run: Path) -> None:
    if not run.is_dir():
        raise UserError(f"no run '{run}'; it is the folder that train.py wrote, runs/RECIPE if nothing was said")
    if (run / "folds.json").is_file():
        raise UserError(f"'{run}' holds a cross-validation; each of its folds is a run: {run / 'fold1'} for one")
    try:
        ours = {"recipe", "flags"} <= json.loads((run / "recipe.json").read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise UserError(f"'{run}' is no run that train.py wrote (no recipe.json of ours in it)")
    for name in ("model.safetensors", "config.json", "all_results.json"):
        if not (run / name).is_file():
            raise UserError(
                f"the run in '{run}' has not come to its end, or is not whole: it has no {name}; the command that "
                "began it, with --resume, goes on"
            )
    for name in ("config.json", "all_results.json"):
        read_json(run / name)
    check_whole(run / "model.safetensors")


def check_whole(weights: Path) -> None:
    """Raise `UserError` for a file of weights that is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="np"):
            pass
    except SafetensorError as error:
        raise UserError(
            f"'{weights}' is damaged ({error}); the command that began the run, with --resume, writes it again"
        ) from error


def _found(run: Path) -> Iterator[tuple[str, Path]]:
    for name in MAY_GO:
        for path in run.glob(name) if "*" in name else [run / name]:
            if path.is_file() or path.is_symlink():
                yield path.relative_to(run).as_posix(), path


def check_no_link(run: Path, path: Path) -> None:
    """What a link points to may be anything, and may have changed since it was looked at."""
    for each in (path, *path.parents):
        if each == run:
            break
        if each.is_symlink():
            name = each.relative_to(run).as_posix()
            raise UserError(f"'{each}' is a link, and only what lies in the run itself is pushed; put a copy as {name}")


def check_ours(module: Path) -> None:
    """Whoever loads the model runs this file: it has to be the one that is tested here."""
    ours = PORTABLE / module.name
    if not ours.is_file():
        raise UserError(f"'{module}' is no code of this project, and no other is pushed; take it out of the run")
    if module.read_bytes() != ours.read_bytes():
        raise UserError(
            f"'{module}' is not {Path('hub_utils', 'portable', module.name)} as it is here: it was changed, or is of "
            f"another version; put a copy of that in its place: {shlex.join(['cp', str(ours), str(module)])}"
        )


def _why_not(path: Path, weights: str) -> str | None:
    """Why results are none of the weights with this SHA-256; None if they are."""
    if not path.is_file():
        return f"there is no {path.name}"
    found = read_json(path).get("model_sha256")
    return None if found in (None, weights) else f"{path.name} is of other weights than these"


def _why_not_int8(run: Path, weights: str) -> str | None:
    """Why the file in 8 bits is none that was measured with the weights of this SHA-256; None if it is."""
    serving = read_facts(run / "serving.json")
    return why_not_measured(run / INT8, serving if serving.get("weights_sha256") == weights else {})


def _others(run: Path, found: dict[str, Path]) -> dict[str, str]:
    """What else lies there, and why it stays; of the folders that files go from, what is in them."""
    folders = {name.partition("/")[0] for name in MAY_GO if "/" in name}
    inside = [path for name in folders if (run / name).is_dir() for path in (run / name).iterdir()]
    names = [
        path.relative_to(run).as_posix() + "/" * path.is_dir()
        for path in (*run.iterdir(), *inside)
        if path.name not in folders
    ]
    others = [name for name in names if name not in found]
    return {name: STAYS.get(name.strip("/"), "not one of the files of a model") for name in others}
