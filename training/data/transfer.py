"""One published file comes over HTTP: goes on where it stopped, tries again when cut off, and is checked at the end."""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import email.utils
import errno
import hashlib
import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from tqdm.auto import tqdm

from hub_utils.portable.whole import move, to_disk, write_json
from training.recipe import UserError, first_line

WAITS = (1, 2, 4, 8, 16)  # seconds before each new try; whatever was gained meanwhile starts them anew
PATIENCE = 120  # seconds that a server may ask us to wait
TIMEOUT = (15, 60)  # seconds to connect, and between two pieces of an answer
PIECE = 2**20  # bytes read at a time, at most: what has come is written, however slowly it comes
BUSY = (408, 425, 429, 500, 502, 503, 504)
LOGIN_PAGE = re.compile(r"log-?in|sign-?in|/accounts?\b|/auth|/sso|/cas\b|/oauth", re.IGNORECASE)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Remote:
    """A published file.

    `name` says which one it is, whatever its address is today; `url` answers with that address. `sums` are hexadecimal
    checksums by `hashlib`'s names. `login` is what to do when the source asks who we are, `by_hand` what else to do.
    """

    name: str
    url: Callable[[], str]
    by_hand: str
    login: str = ""
    size: int | None = None
    sums: Mapping[str, str] = field(default_factory=dict)


class Cut(Exception):
    """An answer that did not come to its end, or none at all: another try may do better."""

    def __init__(self, what: str, wait: float | None = None, reached: bool = True):
        super().__init__(what)
        self.wait, self.reached = wait, reached


class Connection:
    """The way to the servers of one download: session, retries, and an end for all threads at once."""

    def __init__(self, auth: Callable | None = None, waits: tuple[float, ...] = WAITS):
        self.waits, self.stop = waits, threading.Event()
        self.session = requests.Session()
        # As it is: a file that is compressed on its way has another length, and cannot be gone on with.
        self.session.headers.update({"User-Agent": "image-folder-to-demo/0.1", "Accept-Encoding": "identity"})
        self.session.auth = auth

    def patiently(self, remote: Remote, once: Callable[[], Result], gained: Callable[[], int] = lambda: 0) -> Result:
        """`once()`, tried again as long as that may help; `gained()` tells how far it came.

        Raises:
            UserError: it did not help.
        """
        waits, furthest, reached = iter(self.waits), gained(), False
        while True:
            try:
                return once()
            except Cut as cut:
                reached |= cut.reached
                if gained() > furthest:
                    waits, furthest = iter(self.waits), gained()
                wait = next(waits, None)
                # Who was never reached, will not be in half a minute.
                if wait is None or not reached:
                    raise UserError(f"{remote.name}: {cut}; the same command goes on where it stopped") from cut
                wait = max(wait, cut.wait or 0)
                if wait > PATIENCE:
                    raise UserError(f"{remote.name}: {cut}, and to come back in {wait:,.0f} s; do, it goes on") from cut
                tqdm.write(f"{remote.name}: {cut}; trying again in {wait:,.0f} s", file=sys.stderr)
                if self.stop.wait(wait):
                    raise UserError("stopped; the same command goes on where it stopped") from cut

    @contextlib.contextmanager
    def open(self, remote: Remote, headers: Mapping[str, str] | None = None):
        """The answer, once it is one that can be used (200, 206 or 416).

        Raises:
            Cut: another try may do better.
            UserError: no other try will.
        """
        try:
            with self.session.get(remote.url(), headers=headers, stream=True, timeout=TIMEOUT) as response:
                check_status(remote, response)
                yield response
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise explained(remote, error) from error

    def json(self, remote: Remote) -> Any:
        """What a page of an interface says."""

        def once() -> Any:
            with self.open(remote) as response:
                try:
                    return response.json()
                except requests.JSONDecodeError as error:
                    raise UserError(f"{remote.name} answers with something else than JSON; {remote.by_hand}") from error

        return self.patiently(remote, once)


def check_status(remote: Remote, response: requests.Response) -> None:
    """Raise what an answer's status, or the place it comes from, means to the user."""
    status = response.status_code
    page = "html" in response.headers.get("Content-Type", "")
    if status in (401, 403, 407) or (page and response.history and LOGIN_PAGE.search(urlsplit(response.url).path)):
        raise UserError(f"{remote.name} asks for a login (HTTP {status}); {remote.login or remote.by_hand}")
    if status in (404, 410):
        raise UserError(f"{remote.name} is not there any more (HTTP {status}); {remote.by_hand}")
    if status in BUSY:
        raise Cut(f"the server says that it is busy or broken (HTTP {status})", wait=_retry_after(response))
    if status not in (200, 206, 416):
        raise UserError(f"{remote.name}: the server answers HTTP {status} {response.reason or ''}; {remote.by_hand}")


def explained(remote: Remote, error: Exception) -> Exception:
    """What went wrong between here and the server: a `Cut` if another try may do better, else a `UserError`."""
    host = urlsplit(error.request.url).netloc if getattr(error, "request", None) is not None else "the server"
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE" in str(error).upper():
        return UserError(
            f"{remote.name}: {host} has no certificate that is trusted here; if your network replaces them, "
            f"REQUESTS_CA_BUNDLE=FILE names its own ({_inner(error)})"
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return Cut(f"the proxy cannot be used, see HTTPS_PROXY ({_inner(error)})", reached=False)
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Cut(f"{host} does not answer; is the network there? HTTPS_PROXY names a proxy", reached=False)
    if isinstance(error, requests.exceptions.ConnectionError) and "Max retries" in str(error):
        hint = "is the network there? HTTPS_PROXY names a proxy"
        return Cut(f"{host} cannot be reached ({_inner(error)}); {hint}", reached=False)
    if isinstance(error, (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError)):
        return Cut(f"nothing came for {TIMEOUT[1]} s")
    if isinstance(error, (ValueError, requests.TooManyRedirects, requests.exceptions.InvalidHeader)):
        return UserError(f"{remote.name} cannot be asked for ({first_line(error)}); {remote.by_hand}")
    return Cut("the connection was cut")


def _inner(error: Exception) -> str:
    """The reason in an error of requests, without the objects that it is wrapped in."""
    text = first_line(error)
    said = re.search(r"\[Errno [^]]+\] ([^)\"']+)", text) or re.search(r": ([^:]+?)[)\"']*$", text)
    return said[1] if said else type(error).__name__


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that a server asks us to wait, said as a number or as a date."""
    said = response.headers.get("Retry-After", "")
    if said.isdigit():
        return float(said)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    return None


@dataclass(frozen=True)
class Version:
    """What tells one version of a file from another, as the server's headers say it."""

    name: str
    etag: str | None
    modified: str | None
    size: int | None
    sums: Mapping[str, str]

    @property
    def condition(self) -> str | None:
        """For `If-Range`, which takes no weak tags (RFC 9110, 13.1.5)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def differs(self, other: Version) -> bool:
        """Whether two answers are about different versions, as far as both tell."""
        pairs = [(self.etag, other.etag), (self.modified, other.modified), (self.size, other.size)]
        return any(one != two for one, two in pairs if one is not None and two is not None)


def transfer(connection: Connection, remote: Remote, target: Path, bar: tqdm, copies: int = 1) -> None:
    """Fetch a file to `target`, where an earlier try may have left it, or a part of it as `target`.part.

    `copies`: how often its bytes must find room on the disk. The bar counts bytes.

    Raises:
        UserError: the source or the disk does not let us, or what came is not what the source said.
    """
    if target.exists():
        bar.update(target.stat().st_size)
        return
    part = _Part(remote, target, bar, copies)
    try:
        connection.patiently(remote, lambda: part.go_on(connection), part.have)
        part.finish()
    except OSError as error:
        raise cannot_write(target, error) from error


def cannot_write(path: Path, error: OSError) -> UserError:
    """What the system said about a place on the disk, in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"no space left in '{path.parent}'; free some, then the same command goes on where it stopped")
    where = error.filename or path
    return UserError(f"'{where}' cannot be written ({error.strerror}); choose another --data_dir")


class _Part:
    """What has come of a file, and beside it what it belongs to: so nothing is fetched twice, and nothing mixed."""

    def __init__(self, remote: Remote, target: Path, bar: tqdm, copies: int):
        self.remote, self.target, self.bar, self.copies = remote, target, bar, copies
        self.path, self.facts = (target.with_name(target.name + ending) for ending in (".part", ".part.json"))
        self.shown = 0
        target.parent.mkdir(parents=True, exist_ok=True)

    def have(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> Version | None:
        """Of which version there is a part that can be gone on with."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            version = Version(**json.loads(self.facts.read_text(encoding="utf-8")))
            # Without a tag or date nobody knows whether the rest is of the same file, unless a checksum tells at last.
            if self.have() and version.name == self.remote.name and (version.condition or version.sums):
                return version
        return None

    def go_on(self, connection: Connection) -> None:
        """Fetch what is missing, from where it stopped if server and file allow."""
        version, have = self.version(), self.have()
        self.show(have if version else 0)
        if version and version.size == have:
            return
        headers = {}
        if version:
            headers["Range"] = f"bytes={have}-"
            if version.condition:
                headers["If-Range"] = version.condition
        with connection.open(self.remote, headers) as response:
            now = self.described(response)
            goes_on = response.status_code == 206 and version is not None and not version.differs(now)
            if goes_on and response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                self.append(connection, response, version)
                return
            if have:
                why = "it cannot be told what the part that is here belongs to"
                if version:
                    why = "the file has changed" if version.differs(now) else "the server cannot go on in the middle"
                tqdm.write(f"{self.remote.name}: {why}; starts anew", file=sys.stderr)
            self.drop()
            if response.status_code != 200:
                raise Cut(f"the server sent another part than asked for (HTTP {response.status_code})")
            refuse_page(self.remote, response)
            write_json(dataclasses.asdict(now), self.facts)
            self.append(connection, response, now)

    def described(self, response: requests.Response) -> Version:
        """The version that an answer is about."""
        headers = response.headers
        size = re.search(r"/(\d+)$", headers.get("Content-Range", ""))
        if response.status_code == 200:
            size = re.fullmatch(r"(\d+)", headers.get("Content-Length", ""))
        sums = {**header_sums(headers, response.status_code == 200), **self.remote.sums}
        return Version(
            self.remote.name, headers.get("ETag"), headers.get("Last-Modified"), int(size[1]) if size else None, sums
        )

    def append(self, connection: Connection, response: requests.Response, version: Version) -> None:
        """Write the rest as it comes."""
        if version.size is not None:
            self.check_space(version.size)
            self.bar.total = self.bar.total or version.size
        with open(self.path, "ab") as file:
            # The bytes as sent: a server that takes .tgz for a page that is compressed on its way must not unpack it.
            while piece := response.raw.read1(PIECE, decode_content=False):
                file.write(piece)
                self.show(self.shown + len(piece))
                if connection.stop.is_set():
                    raise UserError("stopped; the same command goes on where it stopped")
        if version.size is not None and self.have() != version.size:
            raise Cut(f"the connection was cut at {self.have():,} of {version.size:,} bytes")

    def check_space(self, size: int) -> None:
        need, free = size * self.copies - self.have(), shutil.disk_usage(self.target.parent).free
        if need > free:
            raise UserError(
                f"{self.remote.name} needs {need / 1e9:,.1f} GB in '{self.target.parent}', where {free / 1e9:,.1f} GB "
                "are free; free some, or choose another --data_dir"
            )

    def finish(self) -> None:
        """Check what came against what the source says of it; only then it has its name."""
        version = self.version() or Version(self.remote.name, None, None, None, self.remote.sums)
        for kind, said in version.sums.items():
            with open(self.path, "rb") as file:
                came = hashlib.file_digest(file, lambda kind=kind: hashlib.new(kind, usedforsecurity=False)).hexdigest()
            if came != said.lower():
                self.drop()
                raise UserError(
                    f"{self.remote.name} came with the {kind} sum {came}, and the source says {said}; it is removed, "
                    "the same command fetches it again"
                )
        to_disk(self.path)
        move(self.path, self.target)
        self.facts.unlink(missing_ok=True)

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.facts.unlink(missing_ok=True)
        self.show(0)

    def show(self, have: int) -> None:
        with self.bar.get_lock():
            self.bar.update(have - self.shown)
        self.shown = have


def refuse_page(remote: Remote, response: requests.Response) -> None:
    """A file that is not there is often answered with a page and status 200."""
    if "html" in response.headers.get("Content-Type", ""):
        raise UserError(f"{remote.name} answers with a web page in place of a file; {remote.by_hand}")


def header_sums(headers: Mapping[str, str], whole: bool) -> dict[str, str]:
    """Hexadecimal checksums of the file out of an answer's headers, by `hashlib`'s names.

    `x-goog-hash` is Google's, `Digest` of RFC 3230, `Repr-Digest` of RFC 9530; `Content-MD5` is about the bytes of this
    answer, so it counts only if they are the `whole` file.
    """
    said = [part.strip().partition("=") for part in headers.get("x-goog-hash", "").split(",")]
    said += [part.strip().partition("=") for part in headers.get("Digest", "").split(",")]
    said += [part.strip().partition("=") for part in headers.get("Repr-Digest", "").split(",")]
    if whole:
        said.append(("md5", "=", headers.get("Content-MD5", "")))
    sizes = {"md5": 16, "sha-256": 32, "sha-512": 64}
    sums = {}
    for kind, _, value in said:
        with contextlib.suppress(binascii.Error):
            content = base64.b64decode(value.strip(": "), validate=True)
            if len(content) == sizes.get(kind.lower()):
                sums[kind.lower().replace("-", "")] = content.hex()
    return sums
