"""Images with their splits as the Parquet files of a Hub data set: the same bytes for the same images.

Within a split the order is that of the images' SHA-256, which says nothing of names or patients and mixes the classes:
a stream that reads the files in order meets all of them. Row groups are small, for they are the shards of a stream;
an image that is added later moves the others without changing them, so that the Hub's storage, which cuts by content,
takes in little more than that image.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from training.data.splits import SPLITS, Row
from training.data.strip import Stripped, strip
from training.recipe import UserError, first_line

if TYPE_CHECKING:
    import pyarrow
    from datasets import Features
    from pyarrow import parquet

GROUP_ROWS, GROUP_BYTES = 100, 16 * 2**20  # of a row group: whichever is reached first ends it
SHARD_BYTES = 400 * 2**20
AHEAD = 32  # images under way at once: memory stays flat however many there are


@dataclass(frozen=True)
class Written:
    """What was written: files by split, POSIX below the folder, bytes of images by split, and counts of images.

    `how` counts by the keys of `strip.HOW`, `found` by `strip.KINDS`.
    """

    names: list[str]
    files: dict[str, list[str]] = field(default_factory=dict)
    image_bytes: Counter = field(default_factory=Counter)
    how: Counter = field(default_factory=Counter)
    found: Counter = field(default_factory=Counter)


def features(names: Sequence[str]) -> Features:
    """Columns of the data set whose classes have these names."""
    from datasets import ClassLabel, Features, Image

    return Features(image=Image(), label=ClassLabel(names=list(names)))


def write_shards(rows: Sequence[Row], read: Callable[[str], bytes], folder: Path, progress: bool = True) -> Written:
    """Write data/SPLIT-NUMBER-of-COUNT.parquet below `folder`; `read` gives the bytes of a row's path.

    Raises:
        UserError: an image is gone, or has changed since it was looked at.
        OSError: there is no space left.
    """
    import transformers.image_utils  # noqa: F401  before the threads need it all at once

    written = Written(sorted({row.label for row in rows}))
    (folder / "data").mkdir()
    bar = tqdm(total=len(rows), desc="Removing metadata", unit=" images", leave=False, disable=not progress or None)
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for split in SPLITS:
            part = sorted((row for row in rows if row.split == split), key=lambda row: (row.sha256, row.path))
            partial = _write_split(_stripped(part, read, pool), split, folder, written, bar)
            written.files[split] = [f"data/{split}-{i:05}-of-{len(partial):05}.parquet" for i in range(len(partial))]
            for path, name in zip(partial, written.files[split], strict=True):
                os.replace(path, folder / name)
    return written


def _stripped(
    rows: Sequence[Row], read: Callable[[str], bytes], pool: ThreadPoolExecutor
) -> Iterator[tuple[str, Stripped]]:
    """Label and image of each row, in order."""

    def work(row: Row) -> tuple[str, Stripped]:
        try:
            content = read(row.path)
        except OSError as error:
            raise UserError(f"'{row.path}' cannot be opened any more: {error.strerror}; nothing was sent") from error
        if hashlib.sha256(content).hexdigest() != row.sha256:
            raise UserError(
                f"'{row.path}' has changed since it was looked at; nothing was sent, the same command again"
            )
        try:
            return row.label, strip(content)
        except Exception as error:  # `look` may have decoded a part only
            raise UserError(
                f"'{row.path}' cannot be read whole: {first_line(error)}; take it out of the folder; nothing was sent"
            ) from error

    waiting = iter(rows)
    while some := list(islice(waiting, AHEAD)):
        yield from pool.map(work, some)


def _write_split(
    images: Iterator[tuple[str, Stripped]], split: str, folder: Path, written: Written, bar: tqdm
) -> list[Path]:
    """Shards under names that do not yet say how many there are."""
    import pyarrow

    schema = features(written.names).arrow_schema
    codes = {name: code for code, name in enumerate(written.names)}
    partial: list[Path] = []
    writer = None
    with ExitStack() as stack:
        for group in _groups(_counted(images, split, written, bar)):
            if writer is None or partial[-1].stat().st_size >= SHARD_BYTES:
                stack.close()
                partial.append(folder / f"{split}-{len(partial)}")
                writer = stack.enter_context(_writer(partial[-1], schema))
            columns = {
                "image": [{"bytes": content, "path": None} for _, content in group],
                "label": [codes[label] for label, _ in group],
            }
            writer.write_table(pyarrow.table(columns, schema=schema))
    return partial


def _writer(path: Path, schema: pyarrow.Schema) -> parquet.ParquetWriter:
    """Images do not get smaller by another compression, and a column's statistics would repeat two of them."""
    from pyarrow import parquet

    how = {"compression": "NONE", "use_dictionary": False, "write_statistics": ["label"]}
    return parquet.ParquetWriter(path, schema, use_content_defined_chunking=True, **how)


def _counted(
    images: Iterator[tuple[str, Stripped]], split: str, written: Written, bar: tqdm
) -> Iterator[tuple[str, bytes]]:
    for label, image in images:
        written.image_bytes[split] += len(image.content)
        written.how[image.how] += 1
        written.found.update(image.found)
        bar.update()
        yield label, image.content


def _groups(images: Iterator[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Row groups."""
    group, held = [], 0
    for image in images:
        group.append(image)
        held += len(image[1])
        if len(group) == GROUP_ROWS or held >= GROUP_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group
