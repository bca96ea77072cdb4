"""How many may be on a page at once: uploads that it could not answer in time, connections that say nothing.

A question begins with its upload. Under a crowd's load it is there that time is lost, long before the line for answers,
so it is there that the page says it is busy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

FEW = 16  # at once: the page is not busy, however long each takes
MOST = 60  # of a crowd that came this second, when nobody knows yet how fast it is answered
LONGEST = 2.0  # seconds that an upload may have to wait, for the answer is waited for as well
WINDOW = 5.0  # seconds of which the speed is measured, while there is a crowd
HEAD = 20.0  # seconds in which a connection must have asked something
MOST_UNREAD = 20_000_000  # bytes of an upload that are passed by, so that whoever sends it hears the answer
SPARE = 100  # open files that are kept for everything but connections


class Crowd:
    """Counts who is here, and who leaves with what they came for, and says so when it would take too long."""

    def __init__(self, under_way: Callable[[], int]) -> None:
        self._under_way, self._uploads = under_way, 0
        self._left = 0
        self._since: float | None = None  # when the crowd came

    def __len__(self) -> int:
        return self._uploads + self._under_way()

    @contextmanager
    def uploading(self) -> Iterator[None]:
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1
            self.left()

    def left(self) -> None:
        """Somebody was answered, or has uploaded a file."""
        self._left += 1

    def wait(self, now: float | None = None) -> float:
        """Seconds that whoever comes now will have to wait: how many there are, by how many leave in a second."""
        now = time.monotonic() if now is None else now
        if len(self) <= FEW:
            self._since, self._left = None, 0
            return 0.0
        if self._since is None:
            self._since, self._left = now, 0
        past = now - self._since
        if past < 1.0:
            return 0.0 if len(self) < MOST else float("inf")
        expected = len(self) * past / max(self._left, 1)
        if past > WINDOW:  # what is long ago counts half
            self._since, self._left = now - past / 2, self._left // 2
        return expected


class AtTheDoor:
    """ASGI: lets uploads in while the page's `line`, waiting.py's, says nothing against it."""

    def __init__(self, app: Any, line: Callable[[], Any]) -> None:
        self.app, self.line = app, line
        most_files()  # may be open from the first visitor on

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith("/upload"):
            return await self.app(scope, receive, send)
        if sentence := self.line().why_no_upload():
            await pass_by(receive)
            return await refuse(send, sentence)
        with self.line().crowd.uploading():
            await self.app(scope, receive, send)


async def pass_by(receive: Any, most: int = MOST_UNREAD) -> None:
    """Read what is sent: a connection that is closed before loses the answer on the way, too."""
    size = 0
    while size < most:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            return


async def refuse(send: Any, sentence: str, again: int = 2) -> None:
    """Answer 503 with a sentence, as gradio says what is wrong, and in how many seconds to ask `again`."""
    body = json.dumps({"detail": sentence}).encode()
    headers = {"content-type": "application/json", "retry-after": str(again), "content-length": str(len(body))}
    told = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 503, "headers": told})
    await send({"type": "http.response.body", "body": body})


def most_files() -> int:
    """How many files this process may have open, connections among them; the most that the system allows it."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return 8192
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else hard
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Silent:
    """Connections that ask nothing, or nothing whole: uvicorn waits for them for ever, a byte a minute."""

    def __init__(self) -> None:
        self._since: dict[Any, float] = {}

    def hang_up(self, server: Any, now: float | None = None) -> None:
        """Close those of uvicorn's `server` that have been so for `HEAD` seconds; to be called in its loop, often.

        New ones find as many places as there are files to open.
        """
        now = time.monotonic() if now is None else now
        if server.config.limit_concurrency is None:
            server.config.limit_concurrency = most_files() - SPARE
        here = [each for each in server.server_state.connections if _says_nothing(each)]
        self._since = {each: self._since.get(each, now) for each in here}
        for each, since in self._since.items():
            if now - since > HEAD:
                each.transport.abort()


def _says_nothing(connection: Any) -> bool:
    if not hasattr(connection, "cycle"):  # it is no HTTP any more
        return False
    return connection.cycle is None or connection.cycle.response_complete
