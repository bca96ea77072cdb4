"""A recipe's images come from where they are published, to become a folder of images: whole, or not at all.

While it works, everything lies in `<folder>.part` beside the folder to be, where the next try finds it. Three kinds of
sources: an archive at an `https://` address, `kaggle:OWNER/NAME`, `osf:NODE`; and `sklearn:digits`, which is embedded.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import requests
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from hub_utils.portable.whole import move, sweep, temporary, write_text
from training.data.archives import NeedsProgram, NoPlace, check_writable, safe_parts, unpack
from training.data.embedded import write_digits
from training.data.intake import read_folder, summary
from training.data.transfer import WAITS, Connection, Remote, cannot_write, check_status, explained, transfer
from training.recipe import Recipe, UserError, first_line

OSF_API = "https://api.osf.io/v2"  # OSF_API_ENDPOINT names another
NOTE = "source.txt"  # what is being fetched
SEVERAL = 4  # files at a time, where a source has many small ones: more is not polite
KINDS = "https://…, kaggle:OWNER/NAME, osf:NODE or sklearn:digits"


def fetch(recipe: Recipe, folder: Path, progress: bool = True, waits: tuple[float, ...] = WAITS) -> None:
    """Make `folder` of what the recipe's source holds; the folder must be empty or not there yet.

    `waits`: seconds before each new try after a cut.

    Raises:
        UserError: the source does not give what it should, in whatever way, or the disk does not take it.
    """
    data, work = recipe.data, _work(folder)
    where = f"download it by hand ({data.homepage})" if data.homepage else "check the address, or get it in another way"
    by_hand = f"{where}, unpack it and say --data_dir FOLDER"
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"--data_dir: '{folder}' is there and is no folder; name another place, or remove it")
    try:
        with _alone(folder):
            if data.source == "sklearn:digits":
                _make_room(folder)
                write_digits(folder)
                return
            _keep_work_on(work, f"{data.source} {' | '.join(data.parts)}")
            images = work / "images"
            if not images.is_dir():
                _get(data.source, data.parts, work, images, by_hand, progress, waits)
            _make_room(folder)
            move(images, folder)
            _remove(work)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _get(
    source: str, parts: Sequence[str], work: Path, images: Path, by_hand: str, progress: bool, waits: tuple[float, ...]
) -> None:
    """Fill `images`; it appears when it is whole."""
    kind, _, place = source.partition(":")
    if kind == "osf":
        connection = Connection(_osf_auth(), waits)
        files = osf_files(connection, place, parts, by_hand, progress)
        _fetch_files(connection, files, work / "files", progress)
        move(work / "files", images)
        return
    connection = Connection(waits=waits)
    if kind in ("http", "https"):
        remote = Remote(source, lambda: source, by_hand)
        name = re.sub(r"[^\w.-]", "_", PurePosixPath(urlsplit(source).path).name) or "archive"
    elif kind == "kaggle":
        remote = kaggle_archive(connection, place, by_hand)
        name = "archive.zip"
    else:
        raise UserError(f"source '{source}' is of no kind that is known; there are {KINDS}")
    archive = work / name
    with _bar(f"Downloading {source}", progress) as bar:
        # Images hardly shrink in an archive: beside it there must be room for as much again.
        transfer(connection, remote, archive, bar, copies=1 if parts else 2)
    try:
        unpack(archive, images, progress, only=parts)
    except NoPlace:
        raise
    except NeedsProgram as error:
        raise UserError(f"{error} (it is kept; remove it, and the same command fetches it anew)") from error
    except UserError as error:
        archive.unlink()
        raise UserError(f"{error} (it came from {source} and is removed; {by_hand})") from error
    archive.unlink()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two that download into one folder would write into each other's files."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lock")
    check_writable(path)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another process downloads into '{folder}' at this moment; wait for its end") from error
    try:
        yield
    finally:
        lock.release()


def _keep_work_on(work: Path, source: str) -> None:
    """What an earlier try fetched stays if it is of the same source; else it goes."""
    note = work / NOTE
    if work.exists() and (not note.exists() or note.read_text(encoding="utf-8") != source):
        shutil.rmtree(work)
    write_text(source, note)


def tidy(folder: Path) -> None:
    """Remove what somebody who was killed left beside a folder that is whole."""
    sweep(folder.parent)
    work = _work(folder)
    if (work / NOTE).is_file():
        with _alone(folder):
            _remove(work)


def _work(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.part")


def _remove(work: Path) -> None:
    """First it gets a name by which whoever comes later knows that it is to go."""
    with contextlib.suppress(OSError), temporary(work) as old:
        move(work, old)


def _make_room(folder: Path) -> None:
    """An empty folder may be there; Windows moves nothing onto it."""
    if folder.is_dir():
        folder.rmdir()


def _bar(what: str, progress: bool, total: int | None = None) -> tqdm:
    return tqdm(
        desc=what, total=total, unit="B", unit_scale=True, unit_divisor=1000, leave=False, disable=not progress or None
    )


def _fetch_files(connection: Connection, files: dict[str, Remote], folder: Path, progress: bool) -> None:
    """Several at a time; the first error, or Ctrl-C, ends them all."""
    total = sum(remote.size or 0 for remote in files.values())
    with _bar(f"Downloading {len(files)} files", progress, total) as bar, ThreadPoolExecutor(SEVERAL) as pool:
        tasks = [pool.submit(transfer, connection, remote, folder / path, bar) for path, remote in files.items()]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            connection.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


# OSF: https://developer.osf.io, version 2


def _osf_auth() -> Callable | None:
    """OSF_TOKEN, for OSF alone: files lie on other servers, which it does not concern."""
    token = os.environ.get("OSF_TOKEN")
    home = urlsplit(_osf_api()).hostname

    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        host = urlsplit(request.url).hostname or ""
        if host in (home, "osf.io") or host.endswith(".osf.io"):
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    return sign if token else None


def _osf_api() -> str:
    return os.environ.get("OSF_API_ENDPOINT", OSF_API).rstrip("/")


def osf_files(
    connection: Connection, node: str, parts: Sequence[str], by_hand: str, progress: bool = True
) -> dict[str, Remote]:
    """The files of a project on OSF by path; with `parts`, only those in folders that are called so.

    Raises:
        UserError: there is no such project, it is private, a part is missing, or a name leads out.
    """
    login = (
        "its owner can make it public; or set OSF_TOKEN to a token of https://osf.io/settings/tokens that may read it"
    )
    if os.environ.get("OSF_TOKEN"):
        login = "the token in OSF_TOKEN does not let you in: make another at https://osf.io/settings/tokens"
    if not re.fullmatch(r"\w+", node):
        raise UserError(f"source 'osf:{node}' names no project; after the colon stands what its address ends with")
    name, files, seen = f"osf:{node}", {}, set()
    folders = [("", f"{_osf_api()}/nodes/{node}/files/osfstorage/?page[size]=100")]
    with tqdm(desc=f"Listing {name}", unit=" files", leave=False, disable=not progress or None) as bar:
        while folders:
            inside, page = folders.pop()
            while page:
                answer = connection.json(Remote(name, lambda page=page: page, by_hand, login))
                for entry in _osf_entries(answer, name, by_hand):
                    path = inside + entry["attributes"]["name"]
                    if entry["attributes"]["kind"] == "folder":
                        seen.add(entry["attributes"]["name"])
                        folders.append((f"{path}/", entry["relationships"]["files"]["links"]["related"]["href"]))
                    elif not parts or set(path.split("/")[:-1]) & set(parts):
                        files[_safe(path, name)] = _osf_file(entry, f"{name}, '{path}'", by_hand, login)
                        bar.update()
                page = (answer.get("links") or {}).get("next")
    missing = [part for part in parts if part not in seen]
    if missing or not files:
        what = f"no folder '{missing[0]}', which the recipe wants" if missing else "no files"
        raise UserError(f"{name} holds {what}; {by_hand}")
    return files


def _osf_entries(answer: dict, name: str, by_hand: str) -> list[dict]:
    try:
        for entry in answer["data"]:
            attributes = entry["attributes"]
            _ = attributes["name"], attributes["kind"]
        return answer["data"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{name} answers with something else than a list of files; {by_hand}") from error


def _osf_file(entry: dict, name: str, by_hand: str, login: str) -> Remote:
    attributes = entry["attributes"]
    hashes = (attributes.get("extra") or {}).get("hashes") or {}
    sums = {kind: hashes[kind] for kind in ("sha256", "md5") if hashes.get(kind)}
    return Remote(name, lambda: entry["links"]["download"], by_hand, login, attributes.get("size"), sums)


def _safe(path: str, name: str) -> str:
    try:
        return "/".join(safe_parts(path.replace("\\", "/")))
    except ValueError as error:
        raise UserError(f"{name}: the file {path!r} {error}; tell its owner") from error


# Kaggle


def kaggle_archive(connection: Connection, handle: str, by_hand: str) -> Remote:
    """A data set on Kaggle, which comes as one zip.

    `kagglehub` signs in, if it finds a key, and finds version and address. The bytes are then ours to fetch: it would
    unpack whatever comes, stop at the first cut, and append without asking whether the file is still the same.

    Raises:
        UserError: there is no such data set, or it is not for everybody.
    """
    if not re.fullmatch(r"[\w-]+/[\w.-]+", handle):
        raise UserError(f"source 'kaggle:{handle}' names no data set of Kaggle; one is called OWNER/NAME")
    try:
        from kagglehub.clients import build_kaggle_client
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest, ApiGetDatasetRequest
    except ImportError as error:
        raise UserError(f"kaggle:{handle} needs kagglehub; pip install kagglehub") from error
    name, (owner, slug) = f"kaggle:{handle}", handle.split("/")
    login = (
        "set KAGGLE_API_TOKEN to a token of https://www.kaggle.com/settings (or KAGGLE_USERNAME and KAGGLE_KEY), and "
        f"accept the data set's terms, if it has some, at https://www.kaggle.com/datasets/{handle}"
    )
    asked = Remote(name, lambda: "", by_hand, login)

    def ask(question: Callable):
        try:
            with build_kaggle_client() as client:
                return question(client.datasets.dataset_api_client)
        except requests.HTTPError as error:
            if error.response is None:
                raise explained(asked, error) from error
            check_status(asked, error.response)
            raise UserError(f"{name}: {first_line(error)}; {by_hand}") from error
        except requests.RequestException as error:
            raise explained(asked, error) from error
        except ValueError as error:  # of a kaggle.json that is none
            raise UserError(f"{name}: {first_line(error)}; {login}") from error

    about = ApiGetDatasetRequest()
    about.owner_slug, about.dataset_slug = owner, slug
    version = connection.patiently(asked, lambda: ask(lambda api: api.get_dataset(about).current_version_number))
    download = ApiDownloadDatasetRequest()
    download.owner_slug, download.dataset_slug, download.dataset_version_number = owner, slug, version

    def address() -> str:
        """Signed and good for some minutes: asked for anew at each try."""
        response = ask(lambda api: api.download_dataset(download))
        response.close()
        return response.url

    return Remote(f"{name}, version {version}", address, by_hand, login)


# What came of it


def count(recipe: Recipe, folder: Path, progress: bool = True) -> list[str]:
    """What the folder holds for this recipe, in lines for the user.

    Raises:
        UserError: it is not what the recipe is about.
    """
    examples, skipped = read_folder(folder, recipe.data, progress)
    counts = Counter(example.label for example in examples)
    if recipe.data.classes not in (None, len(counts)):
        raise UserError(
            f"'{folder}' holds {len(examples)} images of {len(counts)} classes, and {recipe.name} has "
            f"{recipe.data.classes}; remove it to download it anew, or say --data_dir FOLDER for another place"
        )
    each = ", ".join(f"{label} {number}" for label, number in sorted(counts.items()))
    if len(counts) > 12:
        each = f"{min(counts.values())} to {max(counts.values())} each"
    lines = [f"found      {len(examples)} images of {len(counts)} classes: {each}"]
    return lines + ([f"skipped    {summary(skipped)}"] if skipped else [])
