"""Which checkpoints can be gone on from, and what they say of the stage they belong to.

Trainer writes a checkpoint in place, each process a file of its own. So it begins with an empty seal, and is complete
once its seal tells size and SHA-256 of every file that a run goes on from: whatever is killed, cut off or changed on
the way is noticed. Checkpoints from before there were seals have none, and are looked at file by file.
"""

import json
import os
import re
import shutil
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.run_folder import sha256, write_json

PREFIX = "checkpoint-"
STATE = "trainer_state.json"
SEAL = "checkpoint.json"
# What a run goes on from; Trainer writes more beside it.
PARTS = r"model\.safetensors|(?:optimizer|scheduler|scaler)\.pt|rng_state(?:_\d+)?\.pth|trainer_state\.json"


@dataclass(frozen=True)
class Underway:
    """What Trainer forgets at a checkpoint in the middle of an epoch; a row of `loss` and `seen` is a process.

    `loss` and `seen`, images right and images in all, are sums since the log of step `logged`. Not `evaluated` is a
    checkpoint that was left in the middle of its evaluation; `epoch_over` tells of which: that of a step, which the end
    of an epoch may follow, or that of the epoch.
    """

    loss: list[float]
    seen: list[list[int]]
    logged: int
    learning_rate: float | None
    evaluated: bool
    epoch_over: bool


def begin(checkpoint: Path) -> None:
    """Make place for a checkpoint, which counts for nothing until it is sealed."""
    if os.path.lexists(checkpoint):
        remove(checkpoint)  # not written over: its files may have other names too, and be on their way to the Hub
    checkpoint.mkdir(parents=True)
    write_json({}, checkpoint / SEAL)


def seal(checkpoint: Path, underway: Underway) -> None:
    """Say that a checkpoint is complete, and what it is made of."""
    parts = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(checkpoint.iterdir())
        if re.fullmatch(PARTS, path.name)
    }
    write_json({"parts": parts, "underway": asdict(underway)}, checkpoint / SEAL)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint, or what is called like one; what is left of it if that fails halfway is none."""
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        checkpoint.unlink(missing_ok=True)
        return
    (checkpoint / STATE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def rotate(folder: Path, limit: int | None, best: int | None) -> None:
    """Delete the oldest checkpoints until `limit` are left, but neither the newest nor the one of step `best`."""
    found = sorted(_all(folder), key=step_of)
    protected = {path for path in found if path == found[-1] or step_of(path) == best}
    spare = [path for path in found if path not in protected]
    for path in spare[: max(0, len(found) - max(limit or len(found), len(protected)))]:
        remove(path)


def newest_checkpoint(folder: Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest complete checkpoint below `folder`, and what is wrong with each newer one."""
    broken = {}
    for path in sorted(_called_so(folder), key=step_of, reverse=True):
        reason = _what_is_broken(path) or _is_best_broken(path)
        if reason is None:
            return path, broken
        broken[path] = reason
    return None, broken


def state_of(checkpoint: Path) -> dict[str, Any]:
    """Trainer's state in a checkpoint."""
    return json.loads((checkpoint / STATE).read_text(encoding="utf-8"))


def is_finished(checkpoint: Path) -> bool:
    """Whether training had decided to stop, by its length or early, when this checkpoint was written."""
    underway = underway_of(checkpoint)
    if underway is not None and not underway.evaluated:
        return False
    return state_of(checkpoint)["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"]


def underway_of(checkpoint: Path) -> Underway | None:
    """What was under way at a checkpoint; None of one from before that was kept."""
    if not (checkpoint / SEAL).is_file():
        return None
    return Underway(**json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))["underway"])


def result_of(checkpoint: Path, restore_best: bool) -> Path:
    """The checkpoint whose weights a finished stage hands on: the best one if they are to be restored, else the last.

    Trainer remembers the best one by a path, which is wrong once the run folder has moved; its step is not.
    """
    best = checkpoint.parent / f"{PREFIX}{state_of(checkpoint)['best_global_step']}"
    return best if restore_best and best.is_dir() else checkpoint


def step_of(path: Path) -> int | None:
    number = path.name.removeprefix(PREFIX)
    return int(number) if number.isdigit() else None


def _all(folder: Path) -> list[Path]:
    return [path for path in _called_so(folder) if path.is_dir()]


def _called_so(folder: Path) -> list[Path]:
    """With files and links that lead nowhere, where a checkpoint may want to be."""
    return [path for path in folder.glob(f"{PREFIX}*") if step_of(path) is not None]


def _is_best_broken(path: Path) -> str | None:
    """Whether the best checkpoint, to which the stage would go back at its end, is gone or broken."""
    step = state_of(path).get("best_global_step")
    best = path.parent / f"{PREFIX}{step}"
    if step is None or best == path:
        return None
    reason = _what_is_broken(best)
    return f"has a best checkpoint before it, {best.name}, which {reason}" if reason else None


def _what_is_broken(path: Path) -> str | None:
    """Why a checkpoint cannot be gone on from, or None."""
    if os.path.lexists(path) and not path.is_dir():
        return "is no folder"
    try:
        is_finished(path)
        parts = None
        if (path / SEAL).is_file():
            parts = json.loads((path / SEAL).read_text(encoding="utf-8"))["parts"]
            told = {name: (part["bytes"], part["sha256"]) for name, part in parts.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return "was not written to its end"
    return _what_looks_broken(path) if parts is None else _what_differs(path, told)


def _what_differs(path: Path, parts: dict[str, tuple[int, str]]) -> str | None:
    """Which file is not as the seal says."""
    for name, (size, digest) in parts.items():
        what = "weights" if name == "model.safetensors" else _one(name)
        try:
            if (path / name).stat().st_size != size:
                return f"has {what} that {'are' if what == 'weights' else 'is'} cut off"
            if sha256(path / name) != digest:
                return f"has {what} that {'have' if what == 'weights' else 'has'} changed since"
        except OSError as error:
            return f"has {what} that cannot be read ({error.strerror})"
    return None


def _what_looks_broken(path: Path) -> str | None:
    """As far as can be told without a seal."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path / "model.safetensors", "pt"):  # checks that the file has the size its header promises
            pass
    except (OSError, SafetensorError):
        return "has weights that are cut off"
    states = [each.name for each in path.glob("rng_state*.pth")]  # one a process
    for name in ("optimizer.pt", "scheduler.pt", *states):
        try:
            with zipfile.ZipFile(path / name) as archive:
                if archive.testzip() is not None:
                    return f"has a corrupt {name}"
        except (OSError, zipfile.BadZipFile):
            return f"has {_one(name)} that is cut off"
    return None


def _one(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
