"""Where the images lie: folders on disk, a table of files, or a data set on the Hub.

All become `datasets` with explicit features.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from hub_utils.portable.hub import UNREADABLE, no_hub, why
from training.data.archives import is_archive, unpacked
from training.data.embedded import write_digits
from training.data.images import Facts, look
from training.data.intake import Example, Skipped, check_classes, read_folder, split_of, summary, verify
from training.data.splits import SPLITS, Row
from training.data.table import GROUP_COLUMNS, LABEL_COLUMNS, Table, is_table, open_table
from training.recipe import Data, Recipe, UserError, first_line

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


@dataclass(frozen=True)
class Folder:
    """Images below a folder; paths in `splits.csv` are relative to it.

    Only `roots`, if there are any, are looked into; or, if there is a table, only what that names is taken.
    """

    data_dir: Path
    roots: tuple[Path, ...] = field(default=(), repr=False)
    table: Table | None = field(default=None, repr=False)

    def read(self, data: Data, progress: bool = True) -> tuple[list[Example], list[Skipped]]:
        """See `read_folder` and `Table.read`."""
        if self.table is not None:
            return self.table.read(data, progress)
        return read_folder(self.data_dir, data, progress, self.roots)

    def as_datasets(self, rows: list[Row]) -> DatasetDict:
        """`image` (Image), `label` (ClassLabel), `path` and `sha256` (strings) for each split, in the order of `rows`.

        Raises:
            UserError: an image is gone.
        """
        from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

        self.check_there(rows)
        names = sorted({row.label for row in rows})
        features = Features(image=Image(), label=ClassLabel(names=names), path=Value("string"), sha256=Value("string"))
        parts = {split: [row for row in rows if row.split == split] for split in SPLITS}
        return DatasetDict(
            {
                split: Dataset.from_dict(
                    {
                        "image": [str(self.data_dir / row.path) for row in part],
                        "label": [names.index(row.label) for row in part],
                        "path": [row.path for row in part],
                        "sha256": [row.sha256 for row in part],
                    },
                    features=features,
                )
                for split, part in parts.items()
            }
        )

    def check_there(self, rows: Sequence[Row]) -> None:
        """Raise `UserError` if an image is gone."""
        gone = [row.path for row in rows if not (self.data_dir / row.path).is_file()]
        if gone:
            top = gone[0].split("/")[0]
            hint = "" if (self.data_dir / top).exists() else f" (there is no '{top}' in it)"
            raise UserError(
                f"{len(gone)} of the run's {len(rows)} images {'is' if len(gone) == 1 else 'are'} not in "
                f"'{self.data_dir}' any more, '{gone[0]}' for one{hint}; give their folder as it was with --data_dir, "
                "or train anew with --overwrite"
            )

    def reader(self) -> Callable[[str], bytes]:
        """What gives the encoded bytes of an image by its path."""
        return lambda path: (self.data_dir / path).read_bytes()

    def facts(self, rows: Sequence[Row], progress: bool = True) -> dict[str, Facts]:
        """What is in each row's image, by path; those that cannot be read are missing."""
        examples = [Example(row.path, row.label) for row in rows]
        return {each.path: each.facts for each in verify(examples, self.data_dir, [], progress)}

    def to_dict(self) -> dict[str, str]:
        """What `local/data.json` says."""
        return {"data_dir": str(self.data_dir.resolve())}

    def given(self) -> list[str]:
        """The paths by which `open_local` finds the same images again."""
        paths = [self.table.path] if self.table is not None else self.roots or [self.data_dir]
        return [str(path.resolve()) for path in paths]


@dataclass(frozen=True)
class HubDataset:
    """A data set on the Hub, or one configuration of it; paths in `splits.csv` are revision/split/row."""

    repo_id: str
    revision: str | None = None
    config: str | None = None

    def read(self, data: Data, progress: bool = True) -> tuple[list[Example], list[Skipped]]:
        """Every readable row, in order, with its class name, the Hub's own split, and its group if it has any."""
        found = self._load()
        examples: list[Example] = []
        skipped: list[Skipped] = []
        for split, part in found.items():
            for result in self._read_split(split, part, data, progress):
                (skipped if isinstance(result, Skipped) else examples).append(result)
        if not examples:
            why = f": {summary(skipped)}" if skipped else ""
            raise UserError(f"data set '{self.repo_id}' has no image that can be used{why}; choose another --dataset")
        check_classes(examples, skipped, f"data set '{self.repo_id}'", "choose another --dataset")
        if {example.split for example in examples} <= {"train", None}:
            examples = [replace(example, split=None) for example in examples]
        return examples, skipped

    def _read_split(self, split: str, part: Dataset, data: Data, progress: bool) -> Iterator[Example | Skipped]:
        from datasets import Image

        image, label = columns(part, self.repo_id)
        group = group_column(part)
        names = getattr(part.features[label], "names", None)
        chosen = [image, label, *([group] if group else [])]
        encoded = part.cast_column(image, Image(decode=False)).select_columns(chosen)
        rows = tqdm(encoded, f"Reading {split}", unit=" images", leave=False, disable=not progress or None)
        for index, row in enumerate(rows):
            path = f"{self.revision}/{split}/{index}"
            if row[label] in (None, -1, ""):
                yield Skipped(path, "no label")
                continue
            try:
                facts = look(_content(row[image]))
                reason = facts.reason
            except OSError as error:
                reason = f"cannot be opened: {error.strerror}"
            if reason:
                yield Skipped(path, reason)
            else:
                name = names[row[label]] if names else str(row[label])
                whose = row[group] if group else None
                whose = None if whose in (None, -1, "") else str(whose)
                yield Example(path, data.class_names.get(name, name), split_of(split), whose, facts.sha256, facts)

    def pinned(self) -> HubDataset:
        """The same data set at the commit that it has now, so that a run that goes on sees the same images.

        Raises:
            UserError: there is no such data set for this user, or the Hub cannot be reached.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

        from hub_utils.portable.patience import BUSY, be_patient

        be_patient()
        try:
            return replace(self, revision=HfApi().dataset_info(self.repo_id, revision=self.revision).sha)
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in BUSY:
                raise UserError(f"data set '{self.repo_id}': {why(error, reading=True)}; try again later") from error
            raise UserError(
                f"no data set '{self.repo_id}' on the Hub for you (HTTP {status}); is the name right? A private one "
                "needs `hf auth login` or HF_TOKEN"
            ) from error
        except HFValidationError as error:
            raise UserError(f"--dataset '{self.repo_id}': a data set of the Hub is called OWNER/NAME") from error
        except (HTTPError, OSError, ValueError, *UNREADABLE) as error:  # the first of the client's own connections
            if reason := no_hub(error):
                raise UserError(f"data set '{self.repo_id}': {reason}") from error
            raise UserError(
                f"data set '{self.repo_id}': {first_line(error)}; is the network there? HF_ENDPOINT names another "
                "Hub, --data_dir FOLDER needs none"
            ) from error

    def as_datasets(self, rows: list[Row]) -> DatasetDict:
        """As `Folder.as_datasets`; the images stay in the Hub's own files, in the cache."""
        from datasets import ClassLabel, DatasetDict, Image, concatenate_datasets

        names = sorted({row.label for row in rows})
        found = self._load()
        result = {}
        for split in SPLITS:
            parts = []
            for origin, part in found.items():
                chosen = [row for row in rows if row.split == split and row.path.split("/")[1] == origin]
                if not chosen:
                    continue
                image, _ = columns(part, self.repo_id)
                picked: Dataset = part.select([int(row.path.rsplit("/", 1)[1]) for row in chosen])
                picked = picked.select_columns([image])
                picked = picked if image == "image" else picked.rename_column(image, "image")
                picked = picked.cast_column("image", Image())
                picked = picked.add_column("label", [names.index(row.label) for row in chosen])
                picked = picked.add_column("path", [row.path for row in chosen])
                picked = picked.add_column("sha256", [row.sha256 for row in chosen])
                parts.append(picked.cast_column("label", ClassLabel(names=names)))
            result[split] = concatenate_datasets(parts)
        return DatasetDict(result)

    def reader(self) -> Callable[[str], bytes]:
        """As `Folder.reader`."""
        from datasets import Image

        encoded = {}
        for split, part in self._load().items():
            image, _ = columns(part, self.repo_id)
            encoded[split] = part.cast_column(image, Image(decode=False)).select_columns([image])[image]

        def read(path: str) -> bytes:
            _, split, row = path.rsplit("/", 2)
            return _content(encoded[split][int(row)])

        return read

    def facts(self, rows: Sequence[Row], progress: bool = True) -> dict[str, Facts]:
        """As `Folder.facts`."""
        read = self.reader()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(lambda row: look(read(row.path)), rows)
            bar = tqdm(found, "Reading images", len(rows), unit=" images", leave=False, disable=not progress or None)
            return {row.path: facts for row, facts in zip(rows, bar, strict=True) if not facts.reason}

    def to_dict(self) -> dict[str, str | None]:
        """What `local/data.json` says."""
        config = {} if self.config is None else {"config": self.config}
        return {"dataset": self.repo_id, "revision": self.revision, **config}

    def _load(self, **how: Any) -> Mapping[str, Dataset]:
        """Every split of it; `how` goes to `load_dataset`."""
        from datasets import get_dataset_config_names, load_dataset
        from datasets.exceptions import DatasetsError
        from huggingface_hub.errors import HTTPError

        ask_patiently()
        try:
            if self.config is None:
                names = get_dataset_config_names(self.repo_id, revision=self.revision)
                if len(names) > 1 and "default" not in names:
                    raise UserError(
                        f"data set '{self.repo_id}' has several configurations, {', '.join(names)}; choose one, as in "
                        f"--dataset {self.repo_id}:{names[0]}"
                    )
            return load_dataset(self.repo_id, self.config, revision=self.revision, **how)
        except (DatasetsError, HTTPError, OSError, ValueError, RuntimeError, *UNREADABLE) as error:
            if isinstance(error, UNREADABLE) and not no_hub(error):
                raise
            reason = no_hub(error) or why(error, reading=True) or first_line(error)
            raise UserError(
                f"data set '{self.repo_id}' cannot be loaded: {reason}; choose another --dataset, or download it as a "
                "folder of images and give that with --data_dir"
            ) from error


def ask_patiently() -> None:
    """Let `datasets` ask the Hub as everything here does, and tell nobody else what was asked for."""
    from datasets import config

    from hub_utils.portable.patience import be_patient

    be_patient()
    config.HF_UPDATE_DOWNLOAD_COUNTS = False


Source = Folder | HubDataset


def open_images(recipe: Recipe, typed: Sequence[str] | None, progress: bool = True) -> Folder:
    """What `--data_dir` names, or else data/RECIPE; the digits are written there if need be. No image is opened.

    Raises:
        UserError: as `open_local`.
    """
    if typed:
        return open_local([Path(path) for path in typed], progress)
    folder = Path("data") / recipe.name
    if recipe.data.source == "sklearn:digits" and not folder.exists():
        write_digits(folder)
    return Folder(folder)


def open_local(paths: list[Path], progress: bool = True) -> Folder:
    """A folder, several that are read as one, a table of files, or an archive, which is unpacked below `data/` first.

    Raises:
        UserError: what is there does not go together, or the table cannot be understood, or the archive is not whole.
    """
    paths = [_unpacked(path, progress) if path.is_file() and is_archive(path) else path for path in paths]
    tables = [path for path in paths if is_table(path)]
    if tables and len(paths) > 1:
        raise UserError(f"--data_dir: the table '{tables[0]}' stands alone; write all images into one table")
    if tables:
        table = open_table(tables[0], progress)
        return Folder(table.data_dir, table=table)
    if len(paths) == 1:
        return Folder(paths[0])
    _check_apart(paths)
    try:
        above = os.path.commonpath([os.path.abspath(path) for path in paths])
    except ValueError as error:
        told = ", ".join(f"'{path}'" for path in paths)
        raise UserError(f"--data_dir: {told} lie on several drives; put them on one") from error
    return Folder(Path(above), tuple(paths))


def _unpacked(archive: Path, progress: bool) -> Path:
    folder = unpacked(archive, Path("data"))
    if progress:
        print(f"unpacked   {archive} to {folder}")
    return folder


def _check_apart(paths: list[Path]) -> None:
    """Raise `UserError` for a folder that is given twice, under two names perhaps, or with one that it lies in."""
    seen: dict[tuple[int, int], Path] = {}
    for path in (path for path in paths if path.exists()):
        if _identity(path) in seen:
            raise UserError(f"--data_dir: '{seen[_identity(path)]}' and '{path}' are one folder; give it once")
        seen[_identity(path)] = path
    for path in seen.values():
        for above in path.resolve().parents:
            if _identity(above) in seen:
                raise UserError(f"--data_dir: '{path}' lies inside '{seen[_identity(above)]}'; give one of them")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def load_source(path: Path) -> Source:
    """The source that `local/data.json` remembers.

    Raises:
        UserError: the file is missing or not one of ours.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if "data_dir" in stored:
            return Folder(Path(stored["data_dir"]))
        if stored.get("streaming"):
            from training.data.streaming import Streamed  # which is built on this module

            return Streamed.from_dict(stored)
        return HubDataset(stored["dataset"], stored["revision"], stored.get("config"))
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"'{path}', which says where the images lie, cannot be read ({reason}); train anew with --overwrite"
        ) from error


def columns(part: Dataset, repo_id: str) -> tuple[str, str]:
    """Names of the image and the label column: by type first, then by the usual names.

    Raises:
        UserError: one of them cannot be told.
    """
    from datasets import ClassLabel, Image, Value

    features = part.features
    has = f"it has {', '.join(features)}"
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    if not images:
        raise UserError(f"data set '{repo_id}' has no column of images; {has}")
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    plain = [name for name, feature in features.items() if isinstance(feature, Value) and _is_discrete(feature.dtype)]
    usual = [name for kind in (classes, plain) for wanted in LABEL_COLUMNS for name in kind if name.lower() == wanted]
    if usual or len(classes) == 1:
        return images[0], (usual or classes)[0]
    if classes:
        raise UserError(
            f"data set '{repo_id}' has several columns of labels, {', '.join(classes)}; rename the one that is meant "
            "to 'label'"
        )
    raise UserError(
        f"data set '{repo_id}' has no column of labels; {has}, and looked for were a ClassLabel or "
        f"{', '.join(LABEL_COLUMNS)}"
    )


def group_column(part: Dataset) -> str | None:
    """The column of patients and the like, which numbers or names them; the first of the usual names that is there."""
    from datasets import Value

    plain = [name for name, kind in part.features.items() if isinstance(kind, Value) and _is_discrete(kind.dtype)]
    return next((name for wanted in GROUP_COLUMNS for name in plain if name.lower() == wanted), None)


def _is_discrete(dtype: str) -> bool:
    return dtype.startswith(("int", "uint")) or "string" in dtype


def _content(image: Mapping | None) -> bytes:
    """The encoded bytes of an undecoded `Image` value, which stand in the row or in a file of the cache."""
    if image is None:
        return b""
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
