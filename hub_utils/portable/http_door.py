"""What of gradio's server is open to the network: what a visitor of our pages needs, within limits, and nothing else.

gradio answers some seventy kinds of requests: it fetches addresses, stands proxy for other hosts, lends its clients a
folder for links, an editor, statistics. A page of ours needs twenty; the others are not there. It stands before gradio
as an ASGI middleware, see `door`, for `launch` and for `gr.mount_gradio_app`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from hub_utils.portable.crowd import pass_by
from hub_utils.portable.pictures import MB, MOST_BYTES
from hub_utils.portable.questions import NO_ROOM, Questions
from hub_utils.portable.upload_folder import has_room, received, uploading
from hub_utils.portable.uploads import MOST_UPLOAD

MOST_HEADERS = 32_000  # bytes of address and headers; a Space's own are 5,000
MOST_ASKED = MOST_BYTES * 4 // 3 + MB  # bytes: a picture may stand in the question itself, in base64
MOST_PARTS = 30_000  # commas and brackets of a question: a thousand files have ten each; they are read in 0.01 seconds
ESCAPES = 10  # backslashes that cost as much as one of them
PARTS = (b",", b"[", b"{")  # base64 has none of them
LONG_NUMBER = re.compile(rb"[0-9]{400}")  # which takes long to be read, and which nobody means
AGAIN = 5  # seconds after which may be asked again where there was no room
LARGE = MB  # bytes of a question that brings its picture along
MOST_LARGE = 200 * MB  # of all such questions that are being received or wait for an answer
STEP = 16 * MB  # bytes of an upload, after which is looked whether there is room for as many more
LITTLE = 20_000  # bytes, of what is no picture
MOST_SENT = MOST_UPLOAD + MB  # bytes of one request that uploads
SILENCE = 30.0  # seconds that whoever sends may pause
SLOWEST = 10_000  # bytes in a second, on average after the first `SILENCE`; a telephone at the edge of its net has 15
MOST_A_MINUTE = (
    6_000  # questions and uploads from one address: two hundred people behind it, a picture every four seconds
)
MOST_ADDRESSES = 100_000  # that are counted

PATH = r"[\w./@+~-]*"  # of files of gradio's own
NAME = r"[\w-]+"
READING = [
    r"/(config|theme\.css|robots\.txt|favicon\.ico|manifest\.json|pwa_icon(/\d+)?)?/?",
    rf"/(assets|static|svelte)/{PATH}",
    r"/gradio_api/(info|openapi\.json|startup-events|app_id|user|login_check|theme\.css|upload_progress)/?",
    r"/gradio_api/queue/(data|status)",
    rf"/gradio_api/heartbeat/{NAME}",
    rf"/gradio_api/call/(v2/)?{NAME}/{NAME}",
    # No address is fetched, and no server of Windows is asked. Whose file it is, gradio looks.
    r"/gradio_api/file=(?![A-Za-z][A-Za-z0-9+.-]+:|[\\/]{2})[^\0]+",
]
WRITING = {
    "/gradio_api/upload": MOST_SENT,
    "/gradio_api/queue/join": MOST_ASKED,
    rf"/gradio_api/call/(v2/)?{NAME}/?": MOST_ASKED,
    rf"/gradio_api/run/{NAME}/?": LITTLE,  # of the page's own buttons that do not wait in line
    "/gradio_api/(cancel|reset)/?": LITTLE,
}
LOGIN = r"/(login|logout)/?"  # of a page with `auth`
MCP = r"/gradio_api/mcp(/.*)?"
COUNTED = re.compile(r"/gradio_api/(upload|queue/join|call|run|mcp)\b")

# Scripts of gradio's stand in its pages and are made of text; none comes from elsewhere, and nothing goes elsewhere.
# Who may frame the page is not said: notebooks and the Hub do.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
SHOWN = re.compile(rb"image/(jpeg|png|gif|webp)\b")  # of files of visitors: what a browser takes for nothing but pixels
UPLOAD = "/gradio_api/upload"
MANY_PARTS = f"This question has more parts than {MOST_PARTS:,}, or too long a number. Ask for less at once."
MANY_LARGE = "This page is busy with large pictures. Try again in a moment."
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"content-security-policy", POLICY.encode()),
]
OF_A_FILE = [*HEADERS[:2], (b"content-security-policy", b"default-src 'none'; sandbox")]

logger = logging.getLogger(__name__)
BYTES = "hub_utils.bytes"  # of a scope: a function that says how many bytes came with the request
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
NAT64 = ipaddress.ip_network("64:ff9b::/96")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]


def door() -> dict[str, Any]:
    """The arguments that put it before gradio's app: of `launch`, and of `gr.mount_gradio_app`."""
    from starlette.middleware import Middleware

    return {"app_kwargs": {"middleware": [Middleware(Door), Middleware(Questions)]}}


class _Refused(Exception):
    """What is not done for whoever asks: an HTTP status, a sentence, and headers."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


class Door:
    """ASGI middleware of a gradio app; `most` and `silence` are the limits above, for tests."""

    def __init__(self, app: Callable, most: int = MOST_A_MINUTE, silence: float = SILENCE) -> None:
        self._app, self._rate, self._silence, self._large = app, _Rate(most), silence, _Large()

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return
        answer, body = _Answer(scope, send), None
        try:
            most, length = self._let_in(scope)
            is_upload = scope["method"] == "POST" and _path(scope) == UPLOAD
            if is_upload and not await asyncio.to_thread(has_room, length or STEP):
                await _pass_by(receive, self._silence)
                raise _Refused(503, NO_ROOM, **{"retry-after": str(AGAIN)})
            with uploading(is_upload), self._large.question() as large:
                body = _Body(receive, most, self._silence, answer, None if is_upload else large)
                scope[BYTES] = lambda: body.size
                await self._app(scope, body, answer)
        except _Refused as refusal:
            if body is not None:
                await body.pass_by()
            await answer.refuse(refusal)
        except ClientDisconnect:
            pass  # who would be told?
        except Exception as error:
            # Of an event that there is not, gradio finds so when its answer has begun.
            if answer.refusal is None and not isinstance(error.__cause__, HTTPException):
                logger.exception("a request that cannot be answered")
            elif answer.refusal is not None:
                await body.pass_by()
            await answer.refuse(answer.refusal or _Refused(500, "That cannot be answered. Try again."), error)

    def _let_in(self, scope: Scope) -> tuple[int, int]:
        """How many bytes may come along, and how many are said to; 0 if nothing is said.

        Raises:
            _Refused: it is too much, or nothing that a page needs.
        """
        size = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
        if size + sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADERS:
            raise _Refused(431, "The address or the headers of this request are too long.")
        path, method = _path(scope), scope["method"]
        most = _most(path, method, scope)
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            raise _Refused(413, f"This is too large: {most / MB:,.2f} MB are the limit.", connection="close")
        if COUNTED.match(path) and method == "POST":
            self._rate.count(_client(scope, headers))
        return most, int(length)


def _path(scope: Scope) -> str:
    """As gradio's routes are called, wherever a proxy or another app has mounted it."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


def _most(path: str, method: str, scope: Scope) -> int:
    blocks = getattr(scope.get("app"), "blocks", None)
    reading, writing = _may_read(path, blocks), [most for known, most in WRITING.items() if re.fullmatch(known, path)]
    if getattr(blocks, "auth", None) is not None and re.fullmatch(LOGIN, path):
        return LITTLE
    if getattr(blocks, "mcp_server", False) and re.fullmatch(MCP, path):
        if method in ("GET", "HEAD", "POST", "DELETE"):
            return MOST_ASKED
    elif reading and method in ("GET", "HEAD"):
        return 0
    elif writing and method == "POST":
        return writing[0]
    elif not reading and not writing:
        raise _Refused(404, "There is nothing here.")
    allowed = ["GET, HEAD"] * reading + ["POST"] * bool(writing)
    raise _Refused(405, "This cannot be done here.", allow=", ".join(allowed))


def _may_read(path: str, blocks: Any) -> bool:
    if ".." in path.split("/") or "\\" in path.partition("file=")[0]:
        return False
    pages = {f"/{page[0]}" for page in getattr(blocks, "pages", None) or ()}
    return path.rstrip("/") in pages or any(re.fullmatch(known, path) for known in READING)


def _client(scope: Scope, headers: dict[bytes, bytes]) -> str:
    """Who asks, as an address, of IPv6 a network; "" where that is not known.

    What stands before a Space says who asked it, behind what the visitor may have made up. Elsewhere a header is just a
    header: whoever sits behind a proxy of their own says so to uvicorn (FORWARDED_ALLOW_IPS).
    """
    said = [(scope.get("client") or [""])[0]]
    if os.environ.get("SPACE_ID"):
        said = [*headers.get(b"x-forwarded-for", b"").decode("latin-1").split(","), *said]
    for each in reversed(said):
        try:
            address = _unwrapped(ipaddress.ip_address(each.strip()))
        except ValueError:
            continue
        if not address.is_private and not address.is_loopback:
            return str(ipaddress.ip_network(f"{address}/64", strict=False)) if address.version == 6 else str(address)
    return ""


def _unwrapped(address: Address) -> Address:
    """The address of IPv4 that stands in one of IPv6, as servers for both, and networks without IPv4, write it."""
    if address.version == 4:
        return address
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else address.ipv4_mapped or address


class _Large:
    """The bytes of questions that bring their pictures along, while they are received."""

    def __init__(self) -> None:
        self._bytes = 0

    @contextmanager
    def question(self) -> Iterator[Callable[[int], bool]]:
        """What is to be told how many bytes of a question are here by now; false where that is too much."""
        held = 0

        def is_much(size: int) -> bool:
            nonlocal held
            if size > LARGE:
                self._bytes, held = self._bytes + size - held, size
            return self._bytes > MOST_LARGE

        try:
            yield is_much
        finally:
            self._bytes -= held


class _Rate:
    """How much each address asked for within the running minute."""

    def __init__(self, most: int) -> None:
        self._most, self._minute, self._counts = most, 0, Counter[str]()

    def count(self, client: str) -> None:
        """One more. An address of this machine or its own network is a proxy, or at home here: it is not counted.

        Raises:
            _Refused: that is too much.
        """
        now = time.time()
        if int(now // 60) != self._minute or len(self._counts) > MOST_ADDRESSES:
            self._minute, self._counts = int(now // 60), Counter()
        if not client:
            return
        self._counts[client] += 1
        if self._counts[client] > self._most:
            wait = 60 - int(now % 60)
            sentence = f"Too much was asked from your address. Try again in {wait} seconds."
            raise _Refused(429, sentence, **{"retry-after": str(wait)})


class _Body:
    """What is received of a request, up to a size, and not at a crawl; then whether whoever asked is gone, as ever."""

    def __init__(
        self, receive: Callable, most: int, silence: float, answer: _Answer, is_much: Callable[[int], bool] | None
    ) -> None:
        """`is_much` of a question says whether so many bytes are too much now; None of an upload."""
        self._receive, self._most, self._silence, self._answer = receive, most, silence, answer
        self._is_much, self.size, self._whole, self._waited, self._parts = is_much, 0, False, 0.0, 0.0

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        left, start = self._silence + self.size / SLOWEST - self._waited, time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.1, min(left, self._silence)))
        except TimeoutError:
            raise self._answer.not_done(408, "This came too slowly, and was given up. Try again.") from None
        self._waited += time.monotonic() - start  # for them: that we are slow is not their fault
        body = message.get("body", b"")
        self.size += len(body)
        self._whole = not message.get("more_body", False)
        if self.size > self._most:
            raise self._answer.not_done(413, f"This is too large: {self._most / MB:,.2f} MB are the limit.")
        await (self._check_question(body) if self._is_much else self._check_upload(len(body)))
        return message

    async def _check_question(self, body: bytes) -> None:
        """gradio reads it in one go, while nobody else is answered: it must be simple, however large."""
        parts = sum(map(body.count, PARTS)) + body.count(b"\\") / ESCAPES
        self._parts += parts
        if self._parts > MOST_PARTS or (parts and LONG_NUMBER.search(body)):
            raise self._answer.not_done(413, MANY_PARTS)
        if self._is_much(self.size):
            raise self._answer.not_done(503, MANY_LARGE)

    async def _check_upload(self, more: int) -> None:
        received(more)
        if self.size // STEP > (self.size - more) // STEP and not await asyncio.to_thread(has_room, STEP):
            raise self._answer.not_done(503, NO_ROOM)

    async def pass_by(self) -> None:
        """To be called once it was refused, and nothing is kept of it any more."""
        if not self._whole and self._answer.refusal is not None and self._answer.refusal.status != 408:
            await _pass_by(self._receive, self._silence)


async def _pass_by(receive: Callable, silence: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(pass_by(receive, MOST_ASKED), silence)


class _Answer:
    """What is sent: with our headers; in place of gradio's words ours, if the request was refused on the way."""

    def __init__(self, scope: Scope, send: Callable) -> None:
        self._send, self._begun, self._stream, self.refusal = send, False, False, None
        self._file = _path(scope).startswith("/gradio_api/file=")

    def not_done(self, status: int, sentence: str) -> _Refused:
        """To be raised; whatever gradio makes of it."""
        again = {"retry-after": str(AGAIN)} if status == 503 else {}
        self.refusal = _Refused(status, sentence, connection="close", **again)
        return self.refusal

    async def __call__(self, message: Message) -> None:
        if self.refusal is not None and not self._begun:
            raise self.refusal
        if message["type"] == "http.response.start":
            self._begun = True
            message["headers"] = self._headed(list(message.get("headers", ())))
        await self._send(message)

    def _headed(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
        self._stream = kind.startswith(b"text/event-stream")
        if self._file and not SHOWN.match(kind):
            replaced = {b"content-type": b"application/octet-stream"}
            headers = [(name, replaced.get(name.lower(), value)) for name, value in headers]
            if not any(name.lower() == b"content-disposition" and b"attachment" in value for name, value in headers):
                headers = [each for each in headers if each[0].lower() != b"content-disposition"]
                headers.append((b"content-disposition", b"attachment"))
        ours = OF_A_FILE if self._file else HEADERS
        names = {name for name, _ in ours}
        return [each for each in headers if each[0].lower() not in names] + ours

    async def refuse(self, refusal: _Refused, error: Exception | None = None) -> None:
        """As gradio's clients read it. A stream of events that has begun is ended; any other answer is broken off."""
        if self._begun and self._stream:
            await self._send({"type": "http.response.body", "body": b""})
            return
        if self._begun:
            raise error or refusal
        self.refusal, content = None, json.dumps({"detail": str(refusal), "error": str(refusal)}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(content))} | refusal.headers
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": refusal.status, "headers": encoded})
        await self({"type": "http.response.body", "body": content})
