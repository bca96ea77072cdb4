"""A table of image files and their labels: columns are found by their usual names, files by looking.

Paths are relative to the table's own folder, or absolute, or the end of a path that only one file below that folder
has: a name without its folder, and without its ending (HAM10000's `image_id` is ISIC_0024306). Of an absolute path that
is not there, as another machine wrote it, the file that ends most like it.
"""

import filecmp
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path

from tqdm.auto import tqdm

from training.data.images import EXTENSIONS
from training.data.intake import (
    TABLES,
    Example,
    Skipped,
    class_name,
    compiled,
    image_files,
    split_of,
    summary,
    usable,
    without_masks,
)
from training.data.sheet import Sheet, read_sheet
from training.recipe import Data, UserError

# Columns are known by these names, whatever their capitals; the first of each wins over all others.
PATH_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "fname", "image", "image_path", "image_file"),
    *("image_filename", "image_name", "image_id", "images", "img", "img_path", "img_name", "img_id", "id", "id_code"),
)
LABEL_COLUMNS = (
    *("label", "labels", "class", "class_label", "class_name", "category", "target", "cls", "fine_label", "label_name"),
    *("species", "breed", "diagnosis", "dx", "disease", "pathology", "variety"),
)
SPLIT_COLUMNS = ("split", "splits", "set", "subset", "partition", "data_split", "dataset_split", "phase", "fold")
GROUP_COLUMNS = (
    *("group", "group_id", "patient", "patient_id", "patientid", "subject", "subject_id", "subjectid", "case"),
    *("case_id", "lesion", "lesion_id", "individual", "individual_id", "animal_id", "specimen_id"),
)
ABSOLUTE = re.compile("/|[A-Za-z]:/")
SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
MOST_MEASURES = 20  # so many different broken numbers are still grades; more are measurements


@dataclass(frozen=True)
class Table:
    """What a table says, with its files found; `rows` keep labels and splits as they are written there."""

    path: Path
    data_dir: Path
    rows: list[Example] = field(repr=False)
    skipped: list[Skipped] = field(repr=False)
    told: str

    def read(self, data: Data, progress: bool = True) -> tuple[list[Example], list[Skipped]]:
        """Every image of the table that can be trained on, in the order of their paths, and what was skipped.

        Raises:
            UserError: a split is unknown, or there are no two classes of readable images.
        """
        pattern = compiled(data.pattern) if data.pattern else None
        examples = [
            replace(
                row,
                label=class_name(row.label, data),
                split=self._split(row.split, data),
                group=row.group or _group_in(row.path, pattern),
            )
            for row in self.rows
        ]
        if {example.split for example in examples} <= {"train", None}:
            examples = [replace(example, split=None) for example in examples]
        hint = "does its column of labels hold classes?"
        return usable(examples, self.data_dir, list(self.skipped), progress, f"table '{self.path}'", hint)

    def _split(self, found: str | None, data: Data) -> str | None:
        split = split_of(data.split_names.get(found, found)) if found else None
        if found and split is None:
            raise UserError(
                f"table '{self.path}' says the split '{found}'; allowed are train, validation and test: say in the "
                "recipe's `split_names` which one it is, or rename the column if it is not about splits"
            )
        return split


def _group_in(path: str, pattern: re.Pattern | None) -> str | None:
    """The patient in a file's name, where the recipe knows how it is told and the table says nothing of it."""
    match = pattern.search(path) if pattern else None
    return match.groupdict().get("group") if match else None


def is_table(path: Path) -> bool:
    """Whether a path is to be read as a table, there or not.

    Raises:
        UserError: it is a spreadsheet, which is not read.
    """
    ending = path.suffix.lower()
    if ending in SPREADSHEETS and not path.is_dir():
        raise UserError(f"'{path}' is a spreadsheet; save it as CSV UTF-8 (Save As) and give that with --data_dir")
    return ending in TABLES and not path.is_dir()


def open_table(path: Path, progress: bool = True) -> Table:
    """A .csv, .tsv or .parquet file with its columns understood and its files found; no image is opened.

    Raises:
        UserError: it cannot be read, its columns cannot be told, or none of its files is there.
    """
    sheet = read_sheet(path)
    files = _Files(Path(os.path.abspath(path)).parent)
    name, found = _paths(path, sheet, files, progress)
    labels, label_from = _labels(path, sheet)
    split, group = _splits(path, sheet), _groups(path, sheet)
    rows, skipped = [], [Skipped(f"{path.name}, row {row}", "more values than columns") for row in sheet.too_long]
    for index, (place, reason) in enumerate(found):
        written = sheet.columns[name][index]
        row = f"{path.name}, row {sheet.numbers[index]}" + (f": {' '.join(written.split())}" if written else "")
        if place is None:
            skipped.append(Skipped(row, reason))
        elif not labels[index]:
            skipped.append(Skipped(row, "no label"))
        else:
            splits, groups = (sheet.columns[column][index] if column else "" for column in (split, group))
            rows.append((row, Example(place, labels[index], splits or None, groups or None)))
    if all(place is None for place, _ in found):
        raise _nothing_there(path, sheet, name, found, files.folder)
    data_dir = _common_parent([place for place, _ in found if place is not None])
    told = f"{path}: path from '{name}', label from {label_from}"
    told += "".join(f", {what} from '{column}'" for what, column in (("split", split), ("group", group)) if column)
    cut = len(os.path.join(data_dir, ""))
    relative = [(row, replace(each, path=each.path[cut:].replace(os.sep, "/"))) for row, each in rows]
    skipped += _unnamed(data_dir, {place[cut:].replace(os.sep, "/") for place, _ in found if place}, files.folder)
    examples = _once(relative, skipped)
    if not examples:
        raise UserError(f"none of the {len(found)} rows of table '{path}' can be used: {summary(skipped)}")
    return Table(path, Path(data_dir), examples, skipped, f"{told}; {sheet.how}" if sheet.how else told)


class _Files:
    """Finds the files that a table names."""

    def __init__(self, folder: Path):
        self.folder = folder

    def find(self, written: str) -> tuple[str | None, str]:
        """The absolute path of a file, or None and the reason."""
        if not written:
            return None, "no path"
        slashed = written.replace("\\", "/")  # tables are written on Windows, too
        direct = os.path.normpath(os.path.join(self.folder, slashed))
        ending = os.path.splitext(direct)[1]
        if os.path.isfile(direct) and ending.lower() in EXTENSIONS:
            return direct, ""
        if "://" in written:
            return None, "an address, not a file: download it first"
        tail = "/" + unicodedata.normalize("NFC", slashed).removeprefix("./").lstrip("/")
        by_key = self._by_name if ending.lower() in EXTENSIONS else self._by_stem
        named = by_key.get(tail.rsplit("/", 1)[1], [])
        fitting = [path for path, key in named if key.endswith(tail)]
        if not fitting and ABSOLUTE.match(slashed):  # on another machine: /content/drive/MyDrive/photos/cat/1.jpg
            shared = {path: _shared_end(key, tail) for path, key in named}
            fitting = [path for path in shared if shared[path] == max(shared.values())]
        if len(fitting) == 1:
            return os.path.join(self.folder, *fitting[0].split("/")), ""
        if fitting and self._are_copies(fitting):
            return os.path.join(self.folder, *fitting[0].split("/")), ""
        if fitting:
            return None, f"several files fit: '{fitting[0]}' and '{fitting[1]}'; write the folder into the table"
        if os.path.isdir(direct):
            return None, "a folder, not a file"
        return None, f"not an image by its name: {ending or 'no ending'}" if os.path.isfile(direct) else "no such file"

    def _are_copies(self, paths: list[str]) -> bool:
        """Whether it does not matter which is meant: HAM10000 comes with its folders twice, in capitals and without."""
        first, *others = (self.folder / path for path in paths)
        return all(filecmp.cmp(first, other, shallow=False) for other in others)

    @cached_property
    def _below(self) -> list[tuple[str, str]]:
        """All images below the folder: the path, and what a table may call it. Looked for only if needed."""
        return [(path, "/" + unicodedata.normalize("NFC", path)) for path in image_files(self.folder, [])]

    @cached_property
    def _by_name(self) -> dict[str, list[tuple[str, str]]]:
        return _by_last(self._below)

    @cached_property
    def _by_stem(self) -> dict[str, list[tuple[str, str]]]:
        """Masks often are called as their image is, and are not meant."""
        images = set(without_masks([path for path, _ in self._below], []))
        return _by_last((path, os.path.splitext(key)[0]) for path, key in self._below if path in images)


def _by_last(keys: Iterable[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """Grouped by what follows the last slash: no look-up compares with all files."""
    groups = defaultdict(list)
    for path, key in keys:
        groups[key.rsplit("/", 1)[1]].append((path, key))
    return groups


def _shared_end(one: str, other: str) -> int:
    """How many folders and names two paths have in common, from the last on."""
    pairs = zip(reversed(one.split("/")), reversed(other.split("/")), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _named(sheet: Sheet, usual: tuple[str, ...]) -> list[str]:
    """The columns that are called by one of these names, in the order of the names."""
    return [name for wanted in usual for name in sheet.columns if _plain(name) == wanted]


def _plain(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_")


def _decided(names: list[str], usual: tuple[str, ...]) -> bool:
    """Whether one column has the very name that wins over all others."""
    return [_plain(name) for name in names].count(usual[0]) == 1


def _paths(path: Path, sheet: Sheet, files: _Files, progress: bool) -> tuple[str, list[tuple[str | None, str]]]:
    """The column of paths, and for each row the file or the reason; of several columns the one that names files."""
    names = _named(sheet, PATH_COLUMNS)
    if not names:
        first = [*sheet.columns]
        if any(map(_has_ending, first)):
            raise UserError(f"table '{path}' has no header: it begins with {', '.join(first)}; put path,label above it")
        raise UserError(
            f"table '{path}' has no column of paths; it has {', '.join(first)}; rename the one that is meant to 'path' "
            f"(known are {', '.join(PATH_COLUMNS)})"
        )
    if _decided(names, PATH_COLUMNS):
        names = names[:1]
    found = {}
    for name in names:
        bar = tqdm(sheet.columns[name], "Finding files", unit=" files", leave=False, disable=not progress or None)
        found[name] = [files.find(written) for written in bar]
    there = [name for name in names if any(place for place, _ in found[name])] or names[:1]
    # An id may be a row's number as well as a file's name; an ending leaves no doubt.
    sure = [name for name in there if any(_has_ending(written) for written in sheet.columns[name])] or there
    if any(found[name] != found[sure[0]] for name in sure):
        raise UserError(
            f"table '{path}' has several columns that name files, {', '.join(sure)}; rename the one that is meant to "
            "'path'"
        )
    return sure[0], found[sure[0]]


def _has_ending(written: str) -> bool:
    return os.path.splitext(written)[1].lower() in EXTENSIONS


def _labels(path: Path, sheet: Sheet) -> tuple[list[str], str]:
    """The label of each row, and where it stands."""
    names = _named(sheet, LABEL_COLUMNS)
    if not names:
        return _one_hot(path, sheet)
    meant = [name for name in names if _alike(sheet.columns[name], sheet.columns[names[0]])]
    if len(meant) < len(names) and not _decided(names, LABEL_COLUMNS):
        raise UserError(
            f"table '{path}' has several columns of labels, {', '.join(names)}; rename the one that is meant to 'label'"
        )
    # Of a number and a name for the same class, the name.
    chosen = next((name for name in meant if not all(map(_is_number, set(sheet.columns[name])))), meant[0])
    labels = sheet.columns[chosen]
    distinct = set(labels) - {""}
    broken = {label for label in distinct if _is_number(label) and not _number(label).is_integer()}
    if all(map(_is_number, distinct)) and len(broken) > min(MOST_MEASURES, len(labels) // 2):
        raise UserError(
            f"table '{path}': '{chosen}' is a number ({', '.join(sorted(broken)[:3])}, …), not a class; divide it into "
            "classes, such as small and large, or rename the column of classes to 'label'"
        )
    if all(map(_is_number, distinct)) and not broken:
        labels = [label if label.isdigit() or not label else str(int(_number(label))) for label in labels]  # 1.0 is 1
    return labels, f"'{chosen}'"


def _alike(one: list[str], other: list[str]) -> bool:
    """Whether two columns divide the rows alike: one value here for one value there."""
    return len(set(zip(one, other, strict=True))) == len(set(one)) == len(set(other))


def _one_hot(path: Path, sheet: Sheet) -> tuple[list[str], str]:
    """The label of each row where each class has a column of its own, of 0 and 1, as in the ISIC challenges."""
    known = {name for usual in (PATH_COLUMNS, SPLIT_COLUMNS, GROUP_COLUMNS) for name in _named(sheet, usual)}
    flags = {
        name: [_number(value) == 1 for value in values]
        for name, values in sheet.columns.items()
        if name not in known and all(_is_number(value) and _number(value) in (0, 1) for value in set(values))
    }
    marked = list(zip(*flags.values(), strict=True)) if len(flags) > 1 else []
    if marked and all(sum(row) == 1 for row in marked):
        names = list(flags)
        return [names[row.index(True)] for row in marked], f"the one of {len(names)} columns that is 1"
    why = ""
    if marked:
        row = next(index for index, row in enumerate(marked) if sum(row) != 1)
        why = f" (of {', '.join(flags)}, not one is 1 in row {sheet.numbers[row]}, but {sum(marked[row])})"
    raise UserError(
        f"table '{path}' has no column of labels; it has {', '.join(sheet.columns)}{why}; rename the one that is meant "
        f"to 'label' (known are {', '.join(LABEL_COLUMNS)})"
    )


def _splits(path: Path, sheet: Sheet) -> str | None:
    """The column of splits; `fold` is one only if it says train and test, for it mostly numbers cross-validation."""
    names = _named(sheet, SPLIT_COLUMNS)
    names = [name for name in names if _plain(name) != "fold" or all(map(split_of, set(sheet.columns[name])))]
    if not names or _decided(names, SPLIT_COLUMNS):
        return names[0] if names else None
    if not all(_alike(sheet.columns[name], sheet.columns[names[0]]) for name in names):
        raise UserError(
            f"table '{path}' has several columns of splits, {', '.join(names)}; rename the one that is meant to 'split'"
        )
    return names[0]


def _groups(path: Path, sheet: Sheet) -> str | None:
    """The column of patients and the like; of several the one that holds the others, as patients hold lesions."""
    names = _named(sheet, GROUP_COLUMNS)
    if _decided(names, GROUP_COLUMNS):
        return names[0]
    for name in names:
        if all(_within(sheet.columns[other], sheet.columns[name]) for other in names):
            return name
    if names:
        raise UserError(
            f"table '{path}' has several columns of groups, {', '.join(names)}, and none holds the others; rename the "
            "one that must not be divided between training and test to 'group'"
        )
    return None


def _within(parts: list[str], wholes: list[str]) -> bool:
    """Whether each part belongs to one whole only."""
    pairs = {(part, whole) for part, whole in zip(parts, wholes, strict=True) if part}
    return len(pairs) == len({part for part, _ in pairs})


def _once(rows: list[tuple[str, Example]], skipped: list[Skipped]) -> list[Example]:
    """Each file once, by path; none of which the table says two things."""
    by_path = defaultdict(list)
    for row, example in rows:
        by_path[example.path].append((row, example))
    examples = []
    for path, alike in sorted(by_path.items()):
        first = alike[0][1]
        if len(alike) == 1:
            examples.append(first)
            continue
        for what in ("label", "split", "group"):
            values = list(dict.fromkeys(str(getattr(example, what) or "none") for _, example in alike))
            if len(values) > 1:
                skipped.append(Skipped(path, f"two {what}s in the table: {' and '.join(repr(v) for v in values)}"))
                break
        else:
            examples.append(first)
            skipped += [Skipped(row, "a file that the table has already") for row, _ in alike[1:]]
    return examples


def _common_parent(places: list[str]) -> str:
    try:
        return os.path.commonpath({os.path.dirname(place) for place in places})
    except ValueError as error:
        raise UserError(
            f"the images lie on several drives ('{places[0]}' on one); put them on one, for paths are told from one "
            "folder"
        ) from error


def _unnamed(data_dir: str, named: set[str], folder: Path) -> list[Skipped]:
    """Images that lie among the table's and are not in it.

    Where the table names files far from itself their common parent may be a whole disk: then only beside them.
    """
    if Path(data_dir).is_relative_to(folder):
        there = image_files(Path(data_dir), [])
    else:
        there = []
        for below in {os.path.dirname(path) for path in named}:
            names = (entry.name for entry in os.scandir(os.path.join(data_dir, below)) if entry.is_file())
            images = (name for name in names if os.path.splitext(name)[1].lower() in EXTENSIONS)
            there += [f"{below}/{name}" if below else name for name in images]
    return [Skipped(path, "not in the table") for path in sorted(set(there) - named)]


def _nothing_there(path: Path, sheet: Sheet, name: str, found: list[tuple[str | None, str]], folder: Path) -> UserError:
    """What to say if no file was found: where it was looked for, or what was wrong with all of them."""
    reasons = {reason for _, reason in found}
    if reasons != {"no such file"}:
        skipped = [Skipped(written, reason) for written, (_, reason) in zip(sheet.columns[name], found, strict=True)]
        return UserError(f"none of the {len(found)} rows of table '{path}' can be used: {summary(skipped)}")
    return UserError(
        f"none of the {len(found)} files that table '{path}' names in '{name}' is there, '{sheet.columns[name][0]}' "
        f"for one, looked for in and below '{folder}'; put the table into the folder that its paths start from"
    )


def _is_number(value: str) -> bool:
    try:
        _number(value)
    except ValueError:
        return False
    return True


def _number(value: str) -> float:
    """Also with a decimal comma, and the words that pandas writes for 0 and 1."""
    return float({"true": "1", "false": "0"}.get(value.lower(), value.replace(",", ".")))
