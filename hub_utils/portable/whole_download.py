"""Files that come from the Hub are what the Hub says they are: they are hashed on their way into the cache.

The Hub's client asks for a file's hash before each download, and names the file in its cache after it, but compares
sizes alone. What came damaged is fetched once more, whole; what came damaged twice never gets into the cache.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import httpx2

HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")  # git's, of a small file; SHA-256 of a large one


class DamagedError(OSError):
    """A file came twice with another content than the Hub says."""


class Downloads:
    """What is being downloaded: in each thread one file, of which the Hub has been asked just before."""

    def __init__(self) -> None:
        self._here = threading.local()

    def prepare(self, request: httpx2.Request) -> None:
        """Of a file that came damaged, no part is asked for but the whole."""
        file = self._file(request)
        if file is not None and file.damaged:
            request.headers.pop("Range", None)

    def watch(self, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        """The answer; of one to HEAD the hash is noted, and what then comes of the file is compared with it."""
        if request.method == "HEAD":
            self._here.file = _File.of(request, response)
        elif file := self._file(request):
            file.watch(response)
        return response

    def _file(self, request: httpx2.Request) -> _File | None:
        file = getattr(self._here, "file", None)
        return file if request.method == "GET" and file and str(request.url) in file.addresses else None


class _File:
    """What the Hub says of a file, and what has come of it."""

    def __init__(self, name: str, addresses: set[str], expected: str, size: int):
        self.name, self.addresses, self.expected, self.size = name, addresses, expected, size
        self.damaged = 0
        self._begin()

    @classmethod
    def of(cls, request: httpx2.Request, response: httpx2.Response) -> _File | None:
        told = response.headers
        expected = told.get("X-Linked-Etag") or told.get("ETag") or ""
        expected = expected.removeprefix("W/").strip('"')
        size = told.get("X-Linked-Size") or told.get("Content-Length") or ""
        if response.status_code >= 400 or not HASH.fullmatch(expected) or not size.isdigit():
            return None
        addresses = {str(request.url), str(response.url)}
        if "Location" in told:
            addresses.add(str(response.url.join(told["Location"])))
        return cls(unquote(request.url.path.rpartition("/")[2]), addresses, expected, int(size))

    def _begin(self) -> None:
        self._come = 0
        self._hash: Any = hashlib.sha256() if len(self.expected) == 64 else hashlib.sha1(b"blob %d\0" % self.size)

    def watch(self, response: httpx2.Response) -> None:
        """Let the body be compared while it is read, if it is the whole file or what was missing of it."""
        if response.status_code == 200:
            self._begin()
        elif response.headers.get("Content-Range", "").partition("-")[0] != f"bytes {self._come}":
            return
        chunks = response.iter_bytes
        response.iter_bytes = lambda chunk_size=None: self._compared(chunks(chunk_size))  # type: ignore[method-assign]

    def _compared(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks; the last one is held back until all is known to be right, for then the client stops listening.

        Raises:
            RemoteProtocolError: it came damaged; the client asks for what is missing, and will get all of it.
            DamagedError: for the second time.
        """
        held = b""
        for chunk in chunks:
            if held:
                self._take(held)
                yield held
            held = chunk
        self._take(held)
        if self._come == self.size and self._hash.hexdigest() != self.expected:
            self.damaged += 1
            if self.damaged == 1:
                raise httpx2.RemoteProtocolError(f"{self.name} came damaged")
            raise DamagedError(f"{self.name} came damaged, twice")
        if held:
            yield held

    def _take(self, chunk: bytes) -> None:
        self._come += len(chunk)
        self._hash.update(chunk)
