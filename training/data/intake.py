"""A folder of images, as it is, becomes a list of examples and a list of what was skipped, with the reason.

Three layouts are understood: class folders; train, validation and test folders of class folders; and files whose class,
split or patient is in the path, by the recipe's pattern. `datasets`' own image-folder loader is not used: it reads
splits out of file names, so that one file called `test_2.png` shrinks the data set to itself.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from training.data.images import EXTENSIONS, inspect, sha256
from training.recipe import Data, UserError

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"}
MASK = re.compile(r"(?P<image>.+?)[_-](?:mask|seg|segmentation)(?:[_-]?\d+)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Example:
    """One readable image: POSIX path below the folder (or revision/split/row), and what is known of it."""

    path: str
    label: str
    split: str | None = None
    group: str | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Skipped:
    """A file that is not trained on, and why."""

    path: str
    reason: str


def read_folder(folder: Path, data: Data, progress: bool = True) -> tuple[list[Example], list[Skipped]]:
    """Every image below `folder` that can be trained on, in the order of their paths, and what was skipped.

    Raises:
        UserError: there is no such folder, or nothing in it can be told apart into classes.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"data folder '{folder}' {what}{_where_to_get(data)}")
    skipped: list[Skipped] = []
    paths = sorted(_image_files(folder, skipped))
    if not paths:
        other = f" ({len(skipped)} other files)" if skipped else ""
        raise UserError(
            f"no images in '{folder}'{other}; expected one folder a class, with files such as {folder}/cat/1.jpg"
        )
    found = _without_masks(paths, skipped)
    labelled = _label(found, data, folder, skipped)
    examples = _verify(labelled, folder, skipped, progress)
    if not examples:
        raise UserError(f"none of the {len(paths)} images in '{folder}' can be used: {summary(skipped)}")
    return examples, sorted(skipped, key=lambda each: each.path)


def summary(skipped: list[Skipped]) -> str:
    """`3 × empty file (a/1.jpg, a/2.jpg, …); 1 × …`, the most frequent reason first."""
    reasons = Counter(each.reason for each in skipped)
    lines = []
    for reason, count in reasons.most_common():
        names = [each.path for each in skipped if each.reason == reason]
        lines.append(f"{count} × {reason} ({', '.join(names[:3])}{', …' if count > 3 else ''})")
    return "; ".join(lines)


def _where_to_get(data: Data) -> str:
    """The next step for someone who has no data yet."""
    if data.homepage is None:
        return "; give the folder of your images with --data_dir"
    return f"; the images are published at {data.homepage} : unpack them and say --data_dir FOLDER, or try `digits`"


def _image_files(folder: Path, skipped: list[Skipped]) -> Iterator[str]:
    """POSIX paths of the files that are images by name; links are followed, unless they loop."""

    def walk(directory: Path, above: tuple[str, ...]) -> Iterator[str]:
        real = os.path.realpath(directory)
        if real in above:
            skipped.append(Skipped(directory.relative_to(folder).as_posix(), "a link to a folder above it"))
            return
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as error:
            skipped.append(Skipped(directory.relative_to(folder).as_posix(), f"cannot be opened: {error.strerror}"))
            return
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FILES:
                continue
            path = Path(entry.path).relative_to(folder).as_posix()
            if entry.is_dir():
                yield from walk(Path(entry.path), (*above, real))
            elif PurePosixPath(path).suffix.lower() in EXTENSIONS:
                yield path
            else:
                skipped.append(Skipped(path, f"not an image ({PurePosixPath(path).suffix or 'no ending'})"))

    return walk(folder, ())


def _without_masks(paths: list[str], skipped: list[Skipped]) -> list[str]:
    """Drop `benign (1)_mask.png` where `benign (1).png` lies beside it."""
    stems = {str(PurePosixPath(path).with_suffix("")) for path in paths}
    kept = []
    for path in paths:
        match = MASK.fullmatch(str(PurePosixPath(path).with_suffix("")))
        if match and match["image"] in stems:
            skipped.append(Skipped(path, "a mask of the image beside it"))
        else:
            kept.append(path)
    return kept


def _label(paths: list[str], data: Data, folder: Path, skipped: list[Skipped]) -> list[Example]:
    """Class, split and group of each path: by the recipe's pattern if it fits any, else by folders."""
    parts = {path: PurePosixPath(path).parts for path in paths}
    depth = _wrapper_depth(list(parts.values()))
    parts = {path: names[depth:] for path, names in parts.items()}
    with_splits = _has_split_folders(list(parts.values()))
    by_pattern = data.pattern and any(re.search(data.pattern, path) for path in paths)
    examples = []
    for path in paths:
        names = parts[path]
        split = SPLIT_FOLDERS[names[0].lower()] if with_splits else None
        label, group = None, None
        if by_pattern:
            match = re.search(data.pattern, path)
            if not match:
                skipped.append(Skipped(path, "its name does not fit the recipe's pattern"))
                continue
            known = match.groupdict()
            label, group = known["label"], known.get("group")
            if known.get("split"):
                split = data.split_names.get(known["split"], known["split"])
        else:
            classes = names[1:-1] if with_splits else names[:-1]
            if not classes:
                skipped.append(Skipped(path, "in no class folder"))
                continue
            label = classes[0]
        # A Mac writes ü as u and two dots, others as one letter: one class, not two.
        label = unicodedata.normalize("NFC", label).strip()
        examples.append(Example(path, data.class_names.get(label, label), split, group))
    if not examples:
        raise UserError(
            f"{len(paths)} images in '{folder}', but no class folders; put each class in a folder of its own, such as "
            f"{folder}/cat/1.jpg, or state `pattern` in a recipe if the file names tell the class"
        )
    return examples


def _wrapper_depth(paths: list[tuple[str, ...]]) -> int:
    """How many leading folders all paths share, as in `flower_photos/rose/1.jpg`: they are wrapping, not classes."""
    folders = [names[:-1] for names in paths]
    shared = 0
    while len({names[shared : shared + 1] for names in folders}) == 1 and len(folders[0]) > shared:
        shared += 1
    deepest = max(len(names) for names in folders)
    # If nothing is left below what is shared, its last folder is the only class, which is said later.
    return shared if deepest > shared else max(shared - 1, 0)


def _has_split_folders(paths: list[tuple[str, ...]]) -> bool:
    """Whether the first level is train, test …, with classes below; a class may well be called `test`."""
    first = {names[0].lower() for names in paths if len(names) > 1}
    inner = any(len(names) > 2 and SPLIT_FOLDERS.get(names[0].lower()) == "train" for names in paths)
    return inner and all(len(names) > 1 for names in paths) and first <= SPLIT_FOLDERS.keys()


def _verify(examples: list[Example], folder: Path, skipped: list[Skipped], progress: bool) -> list[Example]:
    """Decode every image once, in parallel: what is corrupt must show now, not in the middle of an epoch."""

    def check(example: Example) -> Example | Skipped:
        try:
            content = (folder / example.path).read_bytes()
        except OSError as error:
            return Skipped(example.path, f"cannot be opened: {error.strerror}")
        reason = inspect(content)
        if reason:
            return Skipped(example.path, reason)
        return Example(example.path, example.label, example.split, example.group, sha256(content))

    readable = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL and hashlib let go of the interpreter lock
        checked = pool.map(check, examples)
        bar = tqdm(checked, "Reading images", len(examples), unit=" images", leave=False, disable=not progress or None)
        for result in bar:
            (skipped if isinstance(result, Skipped) else readable).append(result)
    return readable
