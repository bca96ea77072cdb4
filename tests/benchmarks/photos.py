"""Photographs for a benchmark: some of a folder's, divided once for all contestants."""

import random
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path


def photographs(folders: Sequence[Path]) -> list[Path]:
    """All image files below these folders, in order: those that training takes too."""
    from hub_utils.portable.image_files import EXTENSIONS

    return sorted(path for each in folders for path in each.rglob("*") if path.suffix.lower() in EXTENSIONS)


def divide(photos: Path, folder: Path, counts: Mapping[str, int]) -> None:
    """Copy so many photographs of each split (train, validation, test) to `folder`/split/class/name.

    `photos` holds class folders. The classes come in equal shares, as far as they go. Whatever resembles another
    photograph is left out, so that every contestant uses all of what it is given, and nothing stands in two classes.

    Raises:
        SystemExit: there are too few.
    """
    from training.data.duplicates import find_duplicates
    from training.data.source import Folder
    from training.recipe import Data

    source = Folder(photos)
    examples, _ = source.read(Data(), progress=False)
    paths = {each.path: each.sha256 for each in examples}
    pairs = find_duplicates(examples, source.reader(), progress=False)
    alike = {path for pair in pairs for path in (pair.first, pair.second)}
    by_class: dict[str, list[str]] = defaultdict(list)
    for example in sorted(examples, key=lambda each: each.path):
        if example.path not in alike:
            by_class[example.label].append(example.path)
    for members in by_class.values():
        random.Random(0).shuffle(members)
    order = [
        (label, members[place])
        for place in range(max(map(len, by_class.values()), default=0))
        for label, members in sorted(by_class.items())
        if place < len(members)
    ]
    wanted = sum(counts.values())
    if len(order) < wanted:
        raise SystemExit(f"error: {photos} has {len(order)} of {len(paths)} photographs to use; {wanted} are needed")
    for split, count in counts.items():
        for label, path in (order.pop(0) for _ in range(count)):
            target = folder / split / label / Path(path).name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photos / path, target)


def listing(folder: Path) -> dict[str, list[str]]:
    """Of each split the files, class/name, in alphabetical order."""
    return {
        split.name: sorted(path.relative_to(split).as_posix() for path in split.rglob("*.*"))
        for split in sorted(folder.iterdir())
    }
