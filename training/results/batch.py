"""A table of what a model says of many images."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm.auto import tqdm

from hub_utils.portable import harmless_csv
from hub_utils.portable.classifier import classes_of, load_classifier, probabilities_of
from hub_utils.portable.prediction_table import header, row
from hub_utils.portable.whole import move, whole_path
from training.data.intake import Skipped, image_files, summary
from training.fitting import hardware
from training.hub import hub_answers, why_not_loaded
from training.recipe import UserError
from training.results.answers import answers

# What a folder holds beside its images.
NO_IMAGES = ("hidden, or the operating system's own", "not an image by its name", "a table", "an archive")
NO_IMAGES += ("an empty folder",)


def find_images(paths: Sequence[Path], skipped: list[Skipped]) -> list[tuple[Path, str]]:
    """Files as they are named, and of folders every file that is an image by its name, at any depth, sorted.

    With each stands the reason why it cannot be opened, where that is known already, or "". What is no image by its
    name was not asked for, and is appended to `skipped`.

    Raises:
        UserError: no path leads anywhere, or a folder has no image.
    """
    if not any(path.exists() for path in paths):
        raise UserError(f"no file or folder '{paths[0]}'")
    found = []
    for path in paths:
        if path.is_dir():
            passed_by: list[Skipped] = []
            inside = [(path / name, "") for name in image_files(path, passed_by)]
            # Of a hint, which is for training, only the fault itself.
            passed_by = [replace(each, reason=each.reason.partition(":")[0]) for each in passed_by]
            inside += [(path / each.path, each.reason) for each in passed_by if each.reason not in NO_IMAGES]
            skipped += [each for each in passed_by if each.reason in NO_IMAGES]
            if not inside:
                raise UserError(f"no images in '{path}'{f': {summary(passed_by)}' if passed_by else ''}")
            found += sorted(inside)
        elif path.is_file():
            found.append((path, ""))
        else:
            found.append((path, "neither a file nor a folder" if path.exists() else "no such file, or a broken link"))
    return found


def load_model(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """As `load_classifier`, on the fastest device there is, in exact fp32.

    Raises:
        UserError: it does not load, or is no image classifier.
    """
    from transformers.utils import logging

    hardware.compute_exactly()
    hardware.keep_freed_memory()
    folder = Path(name).expanduser()
    if folder.is_file():
        raise UserError(f"'{name}' is a file; MODEL is the folder that it lies in, with config.json beside it")
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1):
        raise UserError(f"no model '{name}'; MODEL is a run folder, one in the Hub's layout, or a repo id OWNER/NAME")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"no model in '{name}': it has no config.json; a run has one when its training has ended")
    how = {"trust_remote_code": True} if trust_remote_code else {}
    try:
        folder = folder if folder.is_dir() else _fetched(name, revision)
        logging.disable_progress_bar()  # of the weights; that of a download is welcome
        return load_classifier(folder, device=hardware.choose().device, **how)
    except Exception as error:  # transformers, the Hub's client, safetensors and torch each have their own
        raise UserError(why_not_loaded("model", "MODEL", name, error)) from error


def _fetched(repo_id: str, revision: str | None) -> Path:
    """The repo's model in the Hub's cache: no pickles, nothing of its subfolders."""
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.py"]
    away = not hub_answers(repo_id, revision)
    return Path(
        snapshot_download(
            repo_id, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"], local_files_only=away
        )
    )


def predict(classifier: Any, images: Sequence[tuple[Path, str]], output: Path) -> int:
    """Write a row for each of `find_images` to `output`, .csv or .jsonl, whole or not at all; how many have no answer.

    Raises:
        UserError: it cannot be written, or the model does not know classes, or it was interrupted, and the rows so far
            lie beside `output`.
    """
    classes = classes_of(classifier)
    rest = output.with_name(f"{output.name}.partial")
    bad = 0
    try:
        probabilities_of(classifier, np.zeros(len(classes)))
    except ValueError as error:
        raise UserError(f"{error}; MODEL is an image classifier") from error
    try:
        with _whole_or_kept(output, rest) as file:
            write = _json_lines(file, classes) if output.suffix == ".jsonl" else _csv(file, classes)
            found = answers(classifier, (path for path, reason in images if not reason), Path.read_bytes)
            for path, reason in tqdm(images, "Predicting", unit=" images", leave=False, disable=None):
                answer = reason or next(found)[1]
                if not isinstance(answer, str) and not np.isfinite(answer).all():
                    answer = "the model's answer is no finite number"
                refused = isinstance(answer, str)
                bad += refused
                shown = path.as_posix().encode(errors="backslashreplace").decode()
                write(shown, None if refused else probabilities_of(classifier, answer), answer if refused else "")
    except KeyboardInterrupt as error:
        raise UserError(f"interrupted; the rows so far are in '{rest}'") from error
    except OSError as error:
        why = "no space left" if error.errno == errno.ENOSPC else error.strerror
        raise UserError(f"'{output}' cannot be written ({why}); choose another --output") from error
    return bad


@contextmanager
def _whole_or_kept(output: Path, rest: Path) -> Iterator[IO[str]]:
    """A file that becomes `output` when it is whole; if somebody interrupts that, `rest`."""
    with whole_path(output) as part:
        try:
            with part.open("w", newline="", encoding="utf-8") as file:
                yield file
        except KeyboardInterrupt:
            move(part, rest)
            raise
    rest.unlink(missing_ok=True)  # of an earlier attempt


Write = Callable[[str, np.ndarray | None, str], None]


def _csv(file: IO[str], classes: Sequence[str]) -> Write:
    writer = harmless_csv.Writer(file)
    writer.writerow(header(classes))

    def write(path: str, probabilities: np.ndarray | None, error: str) -> None:
        writer.writerow(row(path, classes, probabilities, error))

    return write


def _json_lines(file: IO[str], classes: Sequence[str]) -> Write:
    def write(path: str, probabilities: np.ndarray | None, error: str) -> None:
        said: dict[str, Any] = {"path": path}
        if probabilities is None:
            said["error"] = error
        else:
            said["prediction"] = classes[probabilities.argmax()]
            values = (float(f"{each:.9g}") for each in probabilities)
            said["probabilities"] = dict(zip(classes, values, strict=True))
        file.write(json.dumps(said, ensure_ascii=False) + "\n")

    return write
