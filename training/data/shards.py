"""Images with their splits as the Parquet files of a Hub data set: the same bytes for the same images.

Within a split the order is that of the images' SHA-256, which says nothing of names or patients and mixes the classes:
a stream that reads the files in order meets all of them. Row groups are small, for they are the shards of a stream;
an image that is added later moves the others without changing them, so that the Hub's storage, which cuts by content,
takes in little more than that image. Groups (patients) that the data name become numbers, by first appearance in this
order: which images belong together is told, and nothing of whom they belong to.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from training.data.splits import SPLITS, Row
from training.data.strip import Stripped, strip
from training.data.survey import Survey
from training.recipe import UserError, first_line

if TYPE_CHECKING:
    import pyarrow
    from datasets import Features
    from pyarrow import parquet

GROUP_ROWS, GROUP_BYTES = 100, 16 * 2**20  # of a row group: whichever is reached first ends it
SHARD_BYTES = 400 * 2**20
# Under way at once, whichever is reached first: each pixel takes some 20 bytes, so memory stays below two or three GB.
AHEAD, PIXELS = 32, 100 * 10**6


@dataclass(frozen=True)
class Written:
    """What was written: files by split, POSIX below the folder, bytes of images by split, and counts of images.

    `how` counts by the keys of `strip.HOW`, `found` by `strip.KINDS`; `groups` is how many the data name.
    """

    names: list[str]
    groups: int = 0
    files: dict[str, list[str]] = field(default_factory=dict)
    image_bytes: Counter = field(default_factory=Counter)
    how: Counter = field(default_factory=Counter)
    found: Counter = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Entry:
    """An image as it is written; `group` is the name of its group, or None."""

    label: str
    group: str | None
    image: Stripped


def features(written: Written) -> Features:
    """Columns of the data set: `group`, where an image may have none, only if there are any."""
    from datasets import ClassLabel, Features, Image, Value

    grouped = {"group": Value("int32")} if written.groups else {}
    return Features(image=Image(), label=ClassLabel(names=written.names), **grouped)


def write_shards(survey: Survey, folder: Path, progress: bool = True) -> Written:
    """Write data/SPLIT-NUMBER-of-COUNT.parquet below `folder`: the images that are trained on, in their splits.

    Raises:
        UserError: an image is gone, or has changed since it was looked at.
        OSError: there is no space left.
    """
    import transformers.image_utils  # noqa: F401  before the threads need it all at once

    parts = {split: [row for row in survey.rows if row.split == split] for split in SPLITS}
    for part in parts.values():
        part.sort(key=lambda row: (row.sha256, row.path))
    named = (survey.by_path[row.path].group for part in parts.values() for row in part)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(filter(None, named)))}
    written = Written(sorted({row.label for row in survey.rows}), len(numbers))
    (folder / "data").mkdir()
    bar = tqdm(
        total=len(survey.rows), desc="Removing metadata", unit=" images", leave=False, disable=not progress or None
    )
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for split, part in parts.items():
            partial = _write_split(_stripped(survey, part, pool), numbers, split, folder, written, bar)
            written.files[split] = [f"data/{split}-{i:05}-of-{len(partial):05}.parquet" for i in range(len(partial))]
            for path, name in zip(partial, written.files[split], strict=True):
                os.replace(path, folder / name)
    return written


def _stripped(survey: Survey, rows: Sequence[Row], pool: ThreadPoolExecutor) -> Iterator[_Entry]:
    """Each row as it is written, in order."""
    read = survey.source.reader()

    def work(row: Row) -> _Entry:
        try:
            content = read(row.path)
        except OSError as error:
            raise UserError(f"'{row.path}' cannot be opened any more: {error.strerror}; nothing was sent") from error
        if hashlib.sha256(content).hexdigest() != row.sha256:
            raise UserError(
                f"'{row.path}' has changed since it was looked at; nothing was sent, the same command again"
            )
        try:
            return _Entry(row.label, survey.by_path[row.path].group, strip(content))
        except Exception as error:  # `look` may have decoded a part only
            raise UserError(
                f"'{row.path}' cannot be read whole: {first_line(error)}; take it out of the folder; nothing was sent"
            ) from error

    waiting, pixels = deque(), 0
    for row in rows:
        facts = survey.by_path[row.path].facts
        size = facts.width * facts.height
        while waiting and (len(waiting) == AHEAD or pixels + size > PIXELS):
            done, its_size = waiting.popleft()
            yield done.result()
            pixels -= its_size
        waiting.append((pool.submit(work, row), size))
        pixels += size
    while waiting:
        yield waiting.popleft()[0].result()


def _write_split(
    entries: Iterator[_Entry], numbers: Mapping[str, int], split: str, folder: Path, written: Written, bar: tqdm
) -> list[Path]:
    """Shards under names that do not yet say how many there are."""
    import pyarrow

    schema = features(written).arrow_schema
    codes = {name: code for code, name in enumerate(written.names)}
    partial: list[Path] = []
    writer = None
    with ExitStack() as stack:
        for group in _row_groups(_counted(entries, split, written, bar)):
            if writer is None or partial[-1].stat().st_size >= SHARD_BYTES:
                stack.close()
                partial.append(folder / f"{split}-{len(partial)}")
                writer = stack.enter_context(_writer(partial[-1], schema))
            columns = {
                "image": [{"bytes": each.image.content, "path": None} for each in group],
                "label": [codes[each.label] for each in group],
                "group": [numbers.get(each.group) for each in group],
            }
            writer.write_table(pyarrow.table({name: columns[name] for name in schema.names}, schema=schema))
    return partial


def _writer(path: Path, schema: pyarrow.Schema) -> parquet.ParquetWriter:
    """Images do not get smaller by another compression, and a column's statistics would repeat two of them."""
    from pyarrow import parquet

    how = {"compression": "NONE", "use_dictionary": False, "write_statistics": ["label"]}
    return parquet.ParquetWriter(path, schema, use_content_defined_chunking=True, **how)


def _counted(entries: Iterator[_Entry], split: str, written: Written, bar: tqdm) -> Iterator[_Entry]:
    for entry in entries:
        written.image_bytes[split] += len(entry.image.content)
        written.how[entry.image.how] += 1
        written.found.update(entry.image.found)
        bar.update()
        yield entry


def _row_groups(entries: Iterator[_Entry]) -> Iterator[list[_Entry]]:
    group, held = [], 0
    for entry in entries:
        group.append(entry)
        held += len(entry.image.content)
        if len(group) == GROUP_ROWS or held >= GROUP_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group
