"""Which of Trainer's checkpoints can be gone on from, and what they say of the stage they belong to.

Trainer writes a checkpoint in place, `trainer_state.json` last, and deletes old ones file by file: a process that is
killed leaves a folder that is only half there.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

PREFIX = "checkpoint-"
STATE = "trainer_state.json"


def newest_checkpoint(folder: Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest complete checkpoint below `folder`, and what is wrong with each newer one."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.is_dir() and step_of(path) is not None]
    broken = {}
    for path in sorted(found, key=step_of, reverse=True):
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
    return state_of(checkpoint)["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"]


def result_of(checkpoint: Path, restore_best: bool) -> Path:
    """The checkpoint whose weights a finished stage hands on: the best one if they are to be restored, else the last.

    Trainer remembers the best one by a path, which is wrong once the run folder has moved; its step is not.
    """
    best = checkpoint.parent / f"{PREFIX}{state_of(checkpoint)['best_global_step']}"
    return best if restore_best and best.is_dir() else checkpoint


def step_of(path: Path) -> int | None:
    number = path.name.removeprefix(PREFIX)
    return int(number) if number.isdigit() else None


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
    from safetensors import SafetensorError, safe_open

    try:
        is_finished(path)
    except (OSError, ValueError, LookupError, TypeError):
        return "was not written to its end"
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
            return f"has a {name} that is cut off"
    return None
