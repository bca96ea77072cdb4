"""A data set of the Hub that is larger than memory or disk: read over the network while it is trained on, never stored.

Before training, one survey asks every row for its label (of Parquet files, that column alone is fetched). Where the
Hub has no validation or test split it also reads the images of the training split once, to hold a share of them out by
their content. What it finds is one byte a row, its split, and counts of classes: from these follow the length of an
epoch and which rows are whose, exactly and without talk between processes.

An epoch is all shards (row groups of Parquet; else files) in a new order, cut into one piece a process and loader
worker, all of the same number of images, so that a shard may be cut in two. `datasets.distributed` is not used: it
deals out whole shards, of unequal length, or has every process read everything. Each reader mixes its piece through a
buffer of encoded images. A view of an image depends on nothing but seed, epoch and row; the order also on the number of
processes and workers.

In `local/`, `data.json` holds repo, pinned revision, `streaming: true` and the survey; there is no `splits.csv`, whose
rows would need the images' hashes. Rows that turn out to be unreadable while training go into `skipped.csv`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import random
import sys
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info
from tqdm.auto import tqdm

from hub_utils.portable import harmless_csv
from training.data.images import look
from training.data.intake import Example, Skipped, check_classes, split_of, summary
from training.data.source import HubDataset, ask_patiently, columns
from training.data.splits import SPLITS, Row
from training.data.transforms import Preprocessing, Views, view
from training.recipe import Augmentation, Data, Splits, UserError, first_line
from training.run_folder import write_skipped

if TYPE_CHECKING:
    from datasets import Dataset
    from datasets import IterableDataset as Stream

    from training.data.pixels import Kept

SKIPPED = len(SPLITS)  # the split of a row that cannot be used
NO_LABEL = -100  # what cross entropy and Trainer leave out
BUFFER = 128 * 2**20  # bytes of encoded images that a process mixes
AHEAD = 16  # images that are fetched while others are decoded
SPARE = 64  # images from which the places of unreadable ones are filled
# The Hub's client repeats a request for 23 seconds; datasets repeats all of that, 20 times by default.
RETRIES = 4
BLOCK = 2**16  # bytes; fsspec's 5 MiB read-ahead would fetch most of a file for its label column


class StreamError(UserError):
    """The stream broke. From a loader worker torch raises it again, with a traceback written before the message."""

    def __init__(self, message: str):
        super().__init__(message.strip().splitlines()[-1].removeprefix(f"{__name__}.StreamError: "))


@dataclass(frozen=True)
class Survey:
    """What one look at every row found.

    `shards` are Hub split, number in it, and rows; `roles` a byte a row in their order, its index in `SPLITS`, or
    `SKIPPED`; `codes` the class of each label as it stands in the data; `counts` the images of each class.
    """

    image: str
    label: str
    classes: list[str]
    codes: dict[str, int]
    shards: list[list]
    roles: bytes = field(repr=False)
    counts: dict[str, list[int]]
    held_out: list[str]


@dataclass(frozen=True)
class Streamed(HubDataset):
    """A data set on the Hub of which nothing is stored; `surveyed` before it can be used."""

    survey: Survey | None = field(default=None, repr=False)

    def surveyed(self, data: Data, splits: Splits, progress: bool = True) -> tuple[Streamed, list[Skipped]]:
        """The same with its survey, and the rows that are known to be unusable.

        Raises:
            UserError: a column cannot be told, there are no two classes, or a split is empty.
        """
        found = self._stream()
        image, label = columns(next(iter(found.values())), self.repo_id)
        given = {split_of(name) for name in found}
        held_out = [name for name in SPLITS[1:] if name not in given]
        by_content = [name for name in found if held_out and split_of(name) in (None, "train")]
        parts = {name: found[name].select_columns([image, label]) for name in by_content}
        if len(parts) < len(found):
            labels = self._stream(label)
            parts |= {name: labels[name].select_columns([label]) for name in found if name not in parts}
        jobs = [(name, number) for name in found for number in range(parts[name].num_shards)]

        def count(job: tuple[str, int]) -> tuple[bytes, Counter, list[tuple[int, str]]]:
            name, number = job
            decide = partial(_by_content, held_out=held_out, splits=splits) if name in by_content else None
            with self._one_line():
                return _look(parts[name], number, image, label, SPLITS.index(split_of(name) or "train"), decide)

        what = "Reading images once" if by_content else "Counting labels"
        with ThreadPoolExecutor(8) as pool:
            bar = tqdm(
                pool.map(count, jobs), what, len(jobs), unit=" shards", leave=False, disable=not progress or None
            )
            looks = list(bar)
        names = getattr(next(iter(found.values())).features[label], "names", None)
        survey, skipped = self._summed(jobs, looks, image, label, _namer(names, data), held_out)
        self._check(survey, skipped)
        return replace(self, survey=survey), skipped

    def _summed(self, jobs, looks, image, label, name_of: Callable[[Any], str], held_out) -> tuple[Survey, list]:
        """The survey from what was found in each shard."""
        by_label = sum((counts for _, counts, _ in looks), Counter())
        names = {raw: name_of(raw) for _, raw in by_label}
        classes = sorted(set(names.values()))
        counts = {split: [0] * len(classes) for split in SPLITS}
        for (role, raw), count in by_label.items():
            counts[SPLITS[role]][classes.index(names[raw])] += count
        shards, skipped, before = [], [], Counter()
        for (split, number), (roles, _, faults) in zip(jobs, looks, strict=True):
            skipped += [Skipped(f"{self.revision}/{split}/{before[split] + row}", why) for row, why in faults]
            shards.append([split, number, len(roles)])
            before[split] += len(roles)
        codes = {str(raw): classes.index(name) for raw, name in names.items()}
        roles = b"".join(roles for roles, _, _ in looks)
        return Survey(image, label, classes, codes, shards, roles, counts, held_out), skipped

    def _check(self, survey: Survey, skipped: list[Skipped]) -> None:
        """Raise `UserError` for what cannot be trained on."""
        if not survey.classes:
            why = f": {summary(skipped)}" if skipped else ""
            raise UserError(f"data set '{self.repo_id}' has no image that can be used{why}; choose another --dataset")
        if len(survey.classes) == 1:
            alike = [Example("", survey.classes[0])] * sum(map(sum, survey.counts.values()))
            check_classes(alike, skipped, f"data set '{self.repo_id}'", "choose another --dataset")
        empty = [split for split in SPLITS if not any(survey.counts[split])]
        if empty:
            raise UserError(
                f"data set '{self.repo_id}' leaves nothing for {' and '.join(empty)}; its splits are "
                f"{', '.join(dict.fromkeys(split for split, _, _ in survey.shards))}: choose another --dataset"
            )

    def splits(self, report: Path | None = None) -> dict[str, StreamedSplit]:
        """Train, validation and test, which append to `report` what they cannot read."""
        parts = {
            name: part.select_columns([self.survey.image, self.survey.label]) for name, part in self._stream().items()
        }
        return {split: StreamedSplit(self, parts, split, report) for split in SPLITS}

    def sample(self) -> list[Row]:
        """At most 100 rows of each class and split: as many as `splits.warnings` can tell from more."""
        return [
            Row("", f"{split}/{name}/{number}", name, split, "")
            for split, counts in self.survey.counts.items()
            for name, count in zip(self.survey.classes, counts, strict=True)
            for number in range(min(count, 100))
        ]

    def split_of_row(self, path: str) -> str | None:
        """The split that the row of a path, revision/split/row, is counted to; None if it was skipped by the survey."""
        _, split, row = path.split("/")
        before = 0
        for name, _, rows in self.survey.shards:
            if name == split:
                break
            before += rows
        role = self.survey.roles[before + int(row)]
        return None if role == SKIPPED else SPLITS[role]

    def to_dict(self) -> dict[str, Any]:
        """What `local/data.json` says."""
        roles = base64.b64encode(zlib.compress(self.survey.roles)).decode()
        return {**super().to_dict(), "streaming": True, "survey": {**asdict(self.survey), "roles": roles}}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Streamed:
        """The opposite of `to_dict`."""
        survey = stored["survey"]
        roles = zlib.decompress(base64.b64decode(survey["roles"]))
        return cls(stored["dataset"], stored["revision"], stored.get("config"), Survey(**{**survey, "roles": roles}))

    def _stream(self, only: str | None = None) -> dict[str, Stream]:
        """Every split, images undecoded, a shard a row group where the format has any; `only` this column if it can."""
        from datasets import load_dataset_builder

        _set_retries()
        how: dict[str, Any] = {"streaming": True, "storage_options": {"hf": {"block_size": BLOCK}}}
        if only is not None:
            with self._one_line():
                builder = load_dataset_builder(self.repo_id, self.config, revision=self.revision)
            how |= {"columns": [only]} if hasattr(builder.config, "columns") else {}
        found = self._load(**how)
        with self._one_line():
            return {name: part.decode(False).reshard() for name, part in found.items()}

    def _one_line(self) -> _OneLine:
        return _OneLine(self.repo_id)


class _OneLine:
    """Makes one line of whatever the Hub's client, datasets or Arrow raise while they read."""

    def __init__(self, repo_id: str, rank: int = 0):
        self.repo_id = repo_id
        self.rank = rank

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        from datasets.exceptions import DatasetsError
        from huggingface_hub.errors import HTTPError

        # Arrow's errors are of these kinds as well.
        if not isinstance(error, (OSError, ValueError, RuntimeError, HTTPError, DatasetsError)):
            return
        cause = error.__cause__ or error
        message = (
            f"the stream of data set '{self.repo_id}' broke: {first_line(cause)}; is the network there? The same "
            "command with --resume goes on from the last checkpoint"
        )
        if self.rank:
            print(f"error: {message}", file=sys.stderr)  # the main process may be stopped before it fails itself
        raise StreamError(message) from error


@dataclass(frozen=True)
class StreamedSplit:
    """The rows of one split, wherever the Hub has them; its length includes what will turn out to be unreadable."""

    source: Streamed
    parts: dict[str, Stream]
    split: str
    report: Path | None = None

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def counts(self) -> list[int]:
        """Images of each class."""
        return self.source.survey.counts[self.split]


class StreamedViews(IterableDataset):
    """What `Views` are, of a `StreamedSplit`: the piece of one of several processes, and of each of its loader workers.

    With an augmentation an epoch is mixed, each process is given equally many images, and the few that are left over,
    fewer than processes, wait for another epoch. Without one all images come in order. Either way all processes have
    the same number of batches of the same size; where images are missing (unreadable ones, the last of an uneven
    evaluation) earlier ones are repeated with the label -100, which counts neither for the loss nor for a metric.
    """

    def __init__(
        self,
        rows: StreamedSplit,
        preprocessing: Preprocessing | None,
        batch_size: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        process: tuple[int, int] = (0, 1),
        unfinished: bool = False,
    ):
        self.rows = rows
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self.unfinished = unfinished
        self.rank, processes = process
        if augmentation is None:
            self.length = -(-len(rows) // processes)
        else:
            self.length = len(rows) // processes
            self.length -= self.length % batch_size == 1 < batch_size  # BatchNorm takes no statistics of one image
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that outlive an epoch
        self._good = bytearray(len(rows.source.survey.roles))  # rows that this reader has inspected
        self._reported: set[int] = set()
        sizes = np.array([size for _, _, size in rows.source.survey.shards])
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        mine = np.frombuffer(rows.source.survey.roles, np.uint8) == SPLITS.index(rows.split)
        self._members = np.add.reduceat(np.append(mine, False), self._starts[:-1], dtype=np.int64) * (sizes > 0)

    def __len__(self) -> int:
        """Images a process and epoch, those that fill gaps included."""
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer at the start of each epoch."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        _set_retries()
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        first = self.rank * self.length + sum(self._share(each, workers) for each in range(number))
        length = self._share(number, workers)
        epoch = int(self._epoch)
        rows = self._rows(first, min(first + length, len(self.rows)), epoch)
        if self.augmentation is not None:
            rows = _mixed(rows, random.Random(f"{self.seed} {epoch} {first}"), BUFFER // workers)
        spare: deque[tuple[int, bytes]] = deque(maxlen=SPARE)
        for index, label, content in self._fetched(rows):
            shown = self._view(index, content, epoch)
            if shown is not None:
                spare.append((index, content))
                length -= 1
                yield {**shown, "labels": label}
        for number in range(length):
            yield {**self._gap(spare, number, epoch), "labels": NO_LABEL}

    def _share(self, worker: int, workers: int) -> int:
        """Images of a worker: DataLoader takes a batch from each in turn, and only the last batch may be short."""
        batches = -(-self.length // self.batch_size)
        short = batches * self.batch_size - self.length if (batches - 1) % workers == worker else 0
        return max(0, len(range(worker, batches, workers)) * self.batch_size - short)

    def _rows(self, first: int, last: int, epoch: int) -> Iterator[tuple[int, int, Mapping | None]]:
        """Row, class and undecoded image of the `first` to `last` of the split's rows, in the order of the epoch."""
        survey = self.rows.source.survey
        order = np.arange(len(survey.shards))
        if self.augmentation is not None:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        role = SPLITS.index(self.rows.split)
        for shard in order:
            from_, to = max(first, 0), min(last, self._members[shard])
            first, last = first - self._members[shard], last - self._members[shard]
            if from_ >= to:
                continue
            start, stop = self._starts[shard], self._starts[shard + 1]
            here = np.flatnonzero(np.frombuffer(survey.roles[start:stop], np.uint8) == role)[from_:to]
            split, number, _ = survey.shards[shard]
            wanted = frozenset(here.tolist())
            for row, values in enumerate(_shard(self.rows.parts[split], number)):
                if row in wanted:
                    yield int(start) + row, survey.codes[str(values[survey.label])], values[survey.image]
                if row == here[-1]:
                    break

    def _fetched(self, rows: Iterable[tuple[int, int, Mapping | None]]) -> Iterator[tuple[int, int, bytes | None]]:
        with _OneLine(self.rows.source.repo_id, self.rank):
            yield from _ahead(lambda row: (row[0], row[1], _content(row[2])), rows)

    def _view(self, index: int, content: bytes | None, epoch: int) -> dict[str, torch.Tensor] | None:
        """The view of a row, or None, once it is reported, if there is none."""
        reason = "the file is gone" if content is None else None
        if reason is None and not self._good[index]:
            reason = look(content).reason
        if reason is None:
            try:
                shown = self._shown(content, (self.seed, epoch, index))
                self._good[index] = 1
                return shown
            except Exception as error:  # `look` may have decoded a part only
                reason = f"cannot be read: {first_line(error)}"
        self._report(index, reason)
        return None

    def _report(self, index: int, reason: str) -> None:
        """Append a row to the list of skipped ones, once a reader."""
        if self.rows.report is None or index in self._reported:
            return
        self._reported.add(index)
        with FileLock(f"{self.rows.report}.lock"), self.rows.report.open("a", newline="", encoding="utf-8") as file:
            harmless_csv.Writer(file).writerow((self.path_of(index), reason))

    def path_of(self, index: int) -> str:
        """revision/split/row of the row that is number `index` of all."""
        shards = self.rows.source.survey.shards
        split = shards[int(np.searchsorted(self._starts, index, "right")) - 1][0]
        before = next(start for start, shard in zip(self._starts, shards, strict=False) if shard[0] == split)
        return f"{self.rows.source.revision}/{split}/{index - before}"

    def encoded(self) -> Iterator[tuple[str, int, bytes | None]]:
        """Path, class and encoded bytes of every image; None for one that is gone.

        In order, or with an augmentation, of which nothing else is done here, in that of an epoch.
        """
        rows = self._rows(0, len(self.rows), 0)
        if self.augmentation is not None:
            rows = _mixed(rows, random.Random(self.seed), BUFFER)
        for index, label, content in self._fetched(rows):
            yield self.path_of(index), label, content

    def _gap(self, spare: deque[tuple[int, bytes]], number: int, epoch: int) -> dict[str, torch.Tensor]:
        """A view for a place that has no image; a grey one if none could be read at all."""
        if not spare:
            return self._shown(_grey(), (0, 0, 0))
        index, content = spare[number % len(spare)]
        return self._shown(content, (self.seed, epoch, index))

    def _shown(self, content: bytes, key: tuple[int, int, int]) -> dict[str, torch.Tensor]:
        return view(content, self.preprocessing, self.augmentation, key, self.unfinished)


def views(
    rows: Dataset | StreamedSplit,
    preprocessing: Preprocessing,
    batch_size: int,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    process: tuple[int, int] = (0, 1),
    unfinished: bool = False,
    kept: Kept | None = None,
) -> Views | StreamedViews:
    """Views of a split, stored or streamed; `process` is which of how many, for a streamed one, of which none are kept.

    `unfinished` ones need `Preprocessing.finish`: see `view`.
    """
    if isinstance(rows, StreamedSplit):
        return StreamedViews(rows, preprocessing, batch_size, augmentation, seed, process, unfinished)
    return Views(rows, preprocessing, augmentation, seed, unfinished, kept)


def read_skipped(path: Path) -> list[Skipped]:
    """What readers have appended to `skipped.csv`, each row once, and the file put in order.

    Several readers, and epochs, report the same row.
    """
    with FileLock(f"{path}.lock") as lock:
        with path.open(newline="", encoding="utf-8") as file:
            skipped = list({line["path"]: Skipped(**line) for line in harmless_csv.read_dicts(file)}.values())
        skipped.sort(key=lambda each: (len(each.path), each.path))
        write_skipped(skipped, path)
    Path(lock.lock_file).unlink(missing_ok=True)
    return skipped


def _namer(names: list[str] | None, data: Data) -> Callable[[Any], str]:
    """What a label is called: by the Hub's names, if it has any, and then by the recipe's."""

    def name_of(raw: Any) -> str:
        name = names[raw] if names else str(raw)
        return data.class_names.get(name, name)

    return name_of


def _look(
    part: Stream, number: int, image: str, label: str, role: int, decide: Callable[[bytes], int] | None
) -> tuple[bytes, Counter, list[tuple[int, str]]]:
    """Role of each row of a shard, counts of (role, label), and row and reason of what cannot be used."""

    def judge(values: Mapping) -> tuple[Any, int, str | None]:
        raw = values[label]
        if raw in (None, -1, ""):
            return raw, SKIPPED, "no label"
        if decide is None:
            return raw, role, None
        content = _content(values[image])
        reason = "the file is gone" if content is None else look(content).reason
        return raw, SKIPPED if reason else decide(content), reason

    roles, counts, faults = bytearray(), Counter(), []
    for row, (raw, its_role, reason) in enumerate(_ahead(judge, _shard(part, number))):
        roles.append(its_role)
        if reason:
            faults.append((row, reason))
        else:
            counts[its_role, raw] += 1
    return bytes(roles), counts, faults


def _by_content(content: bytes, held_out: list[str], splits: Splits) -> int:
    """The split of an image of the training split, by its bytes and the recipe's seed: equal images, one split."""
    digest = hashlib.sha256(f"{splits.seed}".encode() + hashlib.sha256(content).digest()).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    for name in held_out:
        place -= getattr(splits, name)
        if place < 0:
            return SPLITS.index(name)
    return SPLITS.index("train")


def _shard(part: Stream, number: int) -> Iterator[dict[str, Any]]:
    """Rows of one shard. `iter` is used because a plain loop over a stream in a loader worker would shard it again."""
    for batch in part.shard(part.num_shards, number).iter(batch_size=32):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _content(image: Mapping | None) -> bytes | None:
    """The encoded bytes of an undecoded `Image` value, in the row or in a file of the Hub; None: no file."""
    from datasets.utils.file_utils import xopen

    if image is None:
        return b""
    if image["bytes"] is not None:
        return image["bytes"]
    try:
        with xopen(image["path"], "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _ahead(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """`map` in threads and in order, at most `AHEAD` items ahead; an executor's own map takes in all items at once."""
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _mixed(rows: Iterable[tuple], draw: random.Random, budget: int) -> Iterator[tuple]:
    """Rows in another order, through a buffer of `budget` bytes."""

    def size(row: tuple) -> int:
        return 500 + len((row[2] or {}).get("bytes") or b"")  # a row without bytes holds a path

    buffer, held = [], 0
    for row in rows:
        buffer.append(row)
        held += size(row)
        while held > budget:
            chosen = draw.randrange(len(buffer))
            buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
            held -= size(buffer[-1])
            yield buffer.pop()
    draw.shuffle(buffer)
    while buffer:
        yield buffer.pop()


def _grey() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(file, "PNG")
    return file.getvalue()


def _set_retries() -> None:
    """In this process, which may be a loader worker that was spawned: about two minutes, then an error."""
    from datasets import config

    ask_patiently()
    config.STREAMING_READ_MAX_RETRIES = config.STREAMING_OPEN_MAX_RETRIES = RETRIES
