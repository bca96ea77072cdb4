"""Folders of images, as they are, become a list of examples and a list of what was skipped, with the reason.

Three layouts are understood: class folders; train, validation and test folders of class folders; and files whose class,
split or patient is in the path, by the recipe's pattern. Of several folders each is read by its
own layout. `datasets`' own image-folder loader is not used: it reads splits out of file names, so that one file called
`test_2.png` shrinks the data set to itself.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path

from tqdm.auto import tqdm

from hub_utils.portable.image_files import is_of_system
from training.data.cache import Cache, identity
from training.data.images import EXTENSIONS, FOREIGN, Facts, look
from training.recipe import Data, UserError

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
PACKED = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".rar", ".7z")
BATCH = 256  # images under way at once: memory stays flat however many there are
HANDFUL = 16  # images that a thread is given at once at most: with single ones they wait for each other
TABLES = (".csv", ".tsv", ".parquet")
MASK = re.compile(r"(?P<image>.+?)[_-](?:mask|seg|segmentation)(?:[_-]?\d+)?$", re.IGNORECASE)
MASK_FOLDER = re.compile(r"(^|/)masks?/", re.IGNORECASE)


@dataclass(frozen=True)
class Example:
    """One readable image: POSIX path below the folder (or revision/split/row), and what is known of it."""

    path: str
    label: str
    split: str | None = None
    group: str | None = None
    sha256: str = ""
    facts: Facts | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Skipped:
    """A file that is not trained on, and why; what stands before ": " in the reason is the kind of fault."""

    path: str
    reason: str


class TooFewClasses(UserError):
    """All images are of one class. They come along, for whoever wants to know about them all the same."""

    def __init__(self, message: str, examples: list[Example], skipped: list[Skipped]):
        super().__init__(message)
        self.examples = examples
        self.skipped = skipped


def read_folder(
    folder: Path, data: Data, progress: bool = True, roots: Sequence[Path] = ()
) -> tuple[list[Example], list[Skipped]]:
    """Every image below `folder` that can be trained on, in the order of their paths, and what was skipped.

    With several `roots`, which lie below `folder` and apart from each other, only those are looked into. Their class
    folders of one name are one class; one whose images mostly lie directly in it is itself a class; and if all are
    called after splits, they are the splits.

    Raises:
        UserError: there is no such folder, or no image in one, or no two classes in all of them.
    """
    roots = roots or (folder,)
    skipped: list[Skipped] = []
    found: dict[str, list[str]] = {}
    for root in roots:
        check_folder(root, data)
        below = relative(root, folder)
        found[below] = image_files(folder, skipped, below)
        if not found[below]:
            here = [each for each in skipped if not below or each.path.startswith(f"{below}/")]
            instead = f" ({summary(here)})" if here else ""
            raise UserError(
                f"no images in '{root}'{instead}; expected one folder a class, with files such as {root}/cat/1.jpg"
            )
    images = set(without_masks(sorted(path for paths in found.values() for path in paths), skipped))
    found = {below: [path for path in paths if path in images] for below, paths in found.items()}
    where = _quoted(roots)
    labelled = _label(found, data, folder, roots, skipped)
    hint = f"one folder a class, such as {roots[0]}/cat/1.jpg and {roots[0]}/dog/1.jpg"
    return usable(labelled, folder, skipped, progress, where, hint)


def usable(
    labelled: list[Example], folder: Path, skipped: list[Skipped], progress: bool, where: str, hint: str
) -> tuple[list[Example], list[Skipped]]:
    """The examples that can be opened, and all that was skipped, by path.

    Raises:
        UserError: none can, or those that can are all of one class.
    """
    examples = verify(labelled, folder, skipped, progress)
    if not examples:
        raise UserError(f"none of the {len(labelled)} images in {where} can be used: {summary(skipped)}")
    lost = {example.label for example in labelled} - {example.label for example in examples}
    skipped += [Skipped(label, "a class without a usable image") for label in lost]
    skipped.sort(key=lambda each: each.path)
    check_classes(examples, skipped, where, hint)
    return examples, skipped


def check_classes(examples: list[Example], skipped: list[Skipped], where: str, hint: str) -> None:
    """Refuse what is all of one class.

    Raises:
        TooFewClasses: so it is.
    """
    labels = {example.label for example in examples}
    if len(labels) < 2:
        message = f"only one class in {where}, '{labels.pop()}' ({len(examples)} images); a classifier needs two or "
        message += f"more: {hint}" + (f"; skipped: {summary(skipped)}" if skipped else "")
        raise TooFewClasses(message, examples, skipped)


def summary(skipped: list[Skipped]) -> str:
    """`3 × empty file (a/1.jpg, a/2.jpg, …); 1 × …`, the most frequent kind first."""
    kinds: dict[str, list[Skipped]] = {}
    for each in skipped:
        kinds.setdefault(each.reason.partition(": ")[0], []).append(each)
    lines = []
    for kind, alike in sorted(kinds.items(), key=lambda item: -len(item[1])):
        reason = alike[0].reason if len({each.reason for each in alike}) == 1 else kind
        names = ", ".join(each.path for each in alike[:3])
        lines.append(f"{len(alike)} × {reason} ({names}{', …' if len(alike) > 3 else ''})")
    return "; ".join(lines)


def split_of(name: str) -> str | None:
    """The split that a folder or a split of the Hub is called after: `Training`, `test_set`, `seg_test`, `val2`."""
    named = {SPLIT_FOLDERS[word] for word in re.findall("[a-z]+", name.lower()) if word in SPLIT_FOLDERS}
    return named.pop() if len(named) == 1 else None


def relative(root: Path, folder: Path) -> str:
    """The POSIX path of `root` below `folder`, empty for `folder` itself."""
    below = Path(os.path.relpath(os.path.abspath(root), os.path.abspath(folder))).as_posix()
    return "" if below == "." else below


def check_folder(folder: Path, data: Data) -> None:
    """Raise `UserError` for a folder that cannot be looked into."""
    try:
        os.scandir(folder).close()
        return
    except FileNotFoundError:
        what = "does not exist"
    except NotADirectoryError:
        what = "is not a folder"
    except OSError as error:
        what = f"cannot be opened ({error.strerror})"
    where = "; give the folder of your images with --data_dir"
    if data.homepage is not None:
        where = (
            f"; the images are published at {data.homepage} : unpack them and say --data_dir FOLDER, or try `digits`"
        )
    raise UserError(f"data folder '{folder}' {what}{where}")


def image_files(folder: Path, skipped: list[Skipped], below: str = "") -> list[str]:
    """Sorted POSIX paths, from `folder` on, of the files below `folder`/`below` that are images by name.

    Links are followed, unless they loop.
    """
    found = []

    def walk(inside: str, above: tuple[str, ...]) -> None:
        real = os.path.realpath(folder / inside)
        if real in above:
            skipped.append(Skipped(inside, "a link to a folder above it"))
            return
        try:
            entries = list(os.scandir(folder / inside))
        except OSError as error:
            skipped.append(Skipped(inside, f"cannot be opened: {error.strerror}"))
            return
        if inside != below and not entries:
            skipped.append(Skipped(inside, "an empty folder"))
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            reason = _not_an_image(entry)
            if reason:
                # Bytes that are no UTF-8 are surrogates here, which can neither be printed nor written.
                skipped.append(Skipped(path.encode(errors="backslashreplace").decode(), reason))
            elif not _is_plain(entry) and os.path.isdir(entry.path):
                walk(path, (*above, real))
            else:
                found.append(path)

    walk(below, ())
    return sorted(found)


def _not_an_image(entry: os.DirEntry) -> str | None:
    """Why nothing is to be looked for behind this name, or None. `entry.is_dir()` would raise for a link to itself."""
    if is_of_system(entry.name):
        return "hidden, or the operating system's own"
    if entry.name != entry.name.encode(errors="replace").decode():
        return "its name is not UTF-8: rename it"
    if not _is_plain(entry) and os.path.isdir(entry.path):
        return None
    if not _is_plain(entry) and not os.path.isfile(entry.path):
        return "a broken link" if entry.is_symlink() else "neither a file nor a folder"
    ending = os.path.splitext(entry.name)[1]
    if ending.lower() in TABLES:
        return "a table: if it tells the classes, give it with --data_dir"
    if ending.lower() in PACKED:
        return "an archive: give it, or the folder it unpacks to, with --data_dir"
    if ending.lower() in FOREIGN:
        return f"an image that Pillow cannot open: {ending}: export it as PNG or JPEG first"
    return None if ending.lower() in EXTENSIONS else f"not an image by its name: {ending or 'no ending'}"


def _is_plain(entry: os.DirEntry) -> bool:
    """Whether it is a file and no link, which the folder itself tells: nothing on the disk is looked up."""
    return entry.is_file(follow_symlinks=False)


def without_masks(paths: list[str], skipped: list[Skipped]) -> list[str]:
    """Drop `benign (1)_mask.png` beside `benign (1).png`, and `masks/a/1.png` beside `images/a/1.png`."""
    stems = {os.path.splitext(path)[0] for path in paths}
    kept = []
    for path in paths:
        stem = os.path.splitext(path)[0]
        named = MASK.fullmatch(stem)
        images = {named["image"] if named else stem, MASK_FOLDER.sub(r"\1images/", stem)} - {stem}
        if images & stems:
            skipped.append(Skipped(path, "a mask of the image beside it"))
        else:
            kept.append(path)
    return kept


@dataclass(frozen=True)
class _Folders:
    """What folders tell: the first below `depth` wrapping ones is the class or, `with_splits`, the split.

    `split` is what the root's own name says of all that is in it.
    """

    depth: int
    with_splits: bool = False
    split: str | None = None

    def place(self, path: str) -> tuple[str | None, str | None]:
        """Split and class of a path, None for what cannot be told."""
        folders = path.split("/")[self.depth : -1]
        split = self.split
        if self.with_splits and folders:
            split = split_of(folders[0])
            twice = len(folders) > 2 and folders[0] == folders[1]  # seg_train/seg_train/forest/1.jpg
            folders = folders[2:] if twice else folders[1:]
        return split, folders[0] if folders else None


def _layouts(roots: dict[str, list[str]]) -> dict[str, _Folders]:
    """How each root is arranged, by the paths that are in it."""
    splits = _root_splits(list(roots)) if len(roots) > 1 else {}
    layouts = {}
    for below, paths in roots.items():
        above = below.count("/") + 1 if below else 0
        folders = [path.split("/")[above:-1] for path in paths]
        if len(roots) > 1 and not splits and 2 * folders.count([]) > len(folders):
            layouts[below] = _Folders(above - 1)  # the root is a class
            continue
        depth = _wrapper_depth(folders)
        layouts[below] = _Folders(
            above + depth, _has_split_folders([names[depth:] for names in folders]), splits.get(below)
        )
    return layouts


def _root_splits(roots: list[str]) -> dict[str, str]:
    """The split of each root, if that is what their names say; nothing, if they say nothing of the kind."""
    splits = {below: split_of(below.rsplit("/", 1)[-1]) for below in roots}
    named = {below: split for below, split in splits.items() if split}
    if len(set(named.values())) < 2:
        return {}
    if len(named) < len(roots):
        raise UserError(
            f"--data_dir: by their names {_quoted(named)} are splits and {_quoted(sorted(splits.keys() - named))} is "
            "none; rename what is meant otherwise, or give the splits alone"
        )
    return named


def _quoted(names: Iterable[str | Path]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _label(
    found: dict[str, list[str]], data: Data, folder: Path, roots: Sequence[Path], skipped: list[Skipped]
) -> list[Example]:
    """Class, split and group of each path: by the recipe's pattern if it fits any, else by folders."""
    layouts = _layouts(found)
    paths = sorted(((path, layouts[below]) for below, paths in found.items() for path in paths), key=itemgetter(0))
    pattern = compiled(data.pattern) if data.pattern else None
    fits = pattern is not None and any(pattern.search(path) for path, _ in paths)
    examples = []
    for path, layout in paths:
        split, label = layout.place(path)
        told = {}
        if fits:
            match = pattern.search(path)
            if not match:
                skipped.append(Skipped(path, "its name does not fit the recipe's pattern"))
                continue
            told = {name: value for name, value in match.groupdict().items() if value}
            label = told.get("label", label)
            split = _named_split(told["split"], data, path) if "split" in told else split
        elif layout.with_splits and split is None:
            skipped.append(Skipped(path, "beside the train and test folders, in none of them"))
            continue
        label = class_name(label or "", data)
        if not label:
            skipped.append(Skipped(path, "in no class folder"))
            continue
        examples.append(Example(path, label, split, told.get("group")))
    if not examples:
        arrange = (
            f"put each class in a folder of its own, such as {roots[0]}/cat/1.jpg, or state `pattern` in a recipe if "
            "the file names tell the class"
        )
        raise UserError(
            f"{len(paths)} images in {_quoted(roots)}, but no class folders; {_tables(folder, skipped)}{arrange}"
        )
    return examples


def _tables(folder: Path, skipped: list[Skipped]) -> str:
    """The next step where tables lie among images without class folders; the outermost is likely the right one."""
    found = [each.path for each in skipped if each.path.lower().endswith(TABLES) and "hidden" not in each.reason]
    if not found:
        return ""
    found.sort(key=lambda path: (path.count("/"), path))
    others = f" (or {', '.join(found[1:4])})" if len(found) > 1 else ""
    return f"give the table instead: --data_dir {(folder / found[0]).as_posix()}{others}; or "


def class_name(found: str, data: Data) -> str:
    """What the recipe calls a class that is called so in the data; empty for none."""
    # A Mac writes ü as u and two dots, others as one letter: one class, not two.
    label = unicodedata.normalize("NFC", found).strip()
    return data.class_names.get(label, label)


def _wrapper_depth(folders: list[list[str]]) -> int:
    """How many folders hold nothing but one folder, as in `flower_photos/rose/1.jpg`: they are wrapping, not classes.

    A picture that lies about in them changes nothing, and the innermost folder is always a class.
    """
    depth = 0
    while len({names[depth] for names in folders if len(names) > depth}) == 1:
        if all(len(names) <= depth + 1 for names in folders):
            break
        depth += 1
    return depth


def _has_split_folders(folders: list[list[str]]) -> bool:
    """Whether the first level is train, test …; a class may well be called `test`, and trains are one as well."""
    splits = {split_of(names[0]) for names in folders if names}
    if None not in splits:
        return len(splits) > 1
    classes = {names[1] for names in folders if len(names) > 1 and split_of(names[0]) == "train"}
    return len(splits - {None, "train"}) > 0 and len(classes) > 1


def compiled(pattern: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"the recipe's pattern '{pattern}' is no regular expression: {error}") from error


def _named_split(found: str, data: Data, path: str) -> str:
    """What the recipe, or else everybody, calls by the name that the pattern found."""
    split = SPLIT_FOLDERS.get(data.split_names.get(found, found).lower())
    if split is None:
        raise UserError(
            f"the recipe's pattern finds the split '{found}' in '{path}'; allowed are train, validation and test: say "
            "in `split_names` which one it is"
        )
    return split


def verify(examples: list[Example], folder: Path, skipped: list[Skipped], progress: bool) -> list[Example]:
    """Decode every image once, in parallel: what is corrupt must show now, not in the middle of an epoch."""
    readable = []
    bar = tqdm(total=len(examples), desc="Reading images", unit=" images", leave=False, disable=not progress or None)
    with bar, Cache.open() as cache, ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL and hashlib let go of the lock
        parts = (examples[start : start + BATCH] for start in range(0, len(examples), BATCH))
        begun = (_begin(part, folder, cache, pool) for part in parts)
        for looks in _one_ahead(begun):  # so that nobody waits while a batch is remembered
            for example, found in _finish(looks, cache):
                reason = found if isinstance(found, str) else found.reason
                if reason:
                    skipped.append(Skipped(example.path, reason))
                else:
                    readable.append(replace(example, sha256=found.sha256, facts=found))
                bar.update()
    return readable


@dataclass(frozen=True)
class _Look:
    """An example, its file, and what is known of that, or who is finding it out, and the place in that answer."""

    example: Example
    path: str
    known: Facts | None
    news: tuple[Future, int] | None


def _begin(examples: Sequence[Example], folder: Path, cache: Cache, pool: ThreadPoolExecutor) -> list[_Look]:
    """Only what the cache does not know is read."""
    paths = _real_paths(folder, [example.path for example in examples])
    known = cache.facts([(path, _identity(path)) for path in paths])
    unknown = [path for path, facts in zip(paths, known, strict=True) if facts is None]
    size = min(HANDFUL, 1 + len(unknown) // (2 * (os.cpu_count() or 1)))
    news = {}
    for start in range(0, len(unknown), size):
        handful = unknown[start : start + size]
        future = pool.submit(_see_all, handful)
        news |= {path: (future, place) for place, path in enumerate(handful)}
    return [_Look(*each, news.get(each[1])) for each in zip(examples, paths, known, strict=True)]


def _finish(looks: list[_Look], cache: Cache) -> Iterator[tuple[Example, Facts | str]]:
    """Each example with what is in its file, or why it cannot be opened."""
    remembered = []
    for each in looks:
        found = each.known or each.news[0].result()[each.news[1]]
        if isinstance(found, tuple):
            remembered.append((each.path, *found))
            found = found[1]
        yield each.example, found
    cache.put_facts(remembered)


def _one_ahead(parts: Iterator) -> Iterator:
    """The same, each with the one after it begun already."""
    before = next(parts, None)
    while before is not None:
        after = next(parts, None)
        yield before
        before = after


def _real_paths(folder: Path, paths: Sequence[str]) -> list[str]:
    """Absolute, without links; of files in one folder, that folder is looked up once."""
    real = {above: os.path.realpath(folder / above) for above in {os.path.dirname(path) for path in paths}}
    found = [os.path.join(real[os.path.dirname(path)], os.path.basename(path)) for path in paths]
    return [os.path.realpath(path) if os.path.islink(path) else path for path in found]


def _identity(path: str) -> str:
    try:
        return identity(os.stat(path))
    except OSError:
        return ""


def _see_all(paths: Sequence[str]) -> list[tuple[str, Facts] | str]:
    return [_see(path) for path in paths]


def _see(path: str) -> tuple[str, Facts] | str:
    """Identity and facts of a file, or why it cannot be opened."""
    try:
        with open(path, "rb") as file:
            return identity(os.fstat(file.fileno())), look(file.read())
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
