"""How the loopback Hub reads requests and answers them: routes, refusals, and the faults that tests ask for."""

import io
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from math import ceil
from pathlib import Path
from urllib.parse import parse_qs, unquote

from loopback_faults import NoAnswerError, flipped

ROUTES: list[tuple[re.Pattern, Callable]] = []
REPO = r"(?P<repo_id>[^/]+(?:/[^/]+)?)"
REVISION = r"(?P<revision>[^/]+)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{REPO}"


class HubError(Exception):
    """A refusal. The clients choose their exception by the headers, hardly by the status."""

    def __init__(self, status: int, message: str, body: Mapping | None = None, **headers: str):
        super().__init__(message)
        self.status = status
        self.body = body or {"error": message}
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def route(methods: str, path: str) -> Callable:
    """Let the decorated method answer; it gets the named parts of the path, decoded."""

    def register(answer: Callable) -> Callable:
        ROUTES.append((re.compile(f"(?:{methods}) {path}"), answer))
        return answer

    return register


class Answering(BaseHTTPRequestHandler):
    """One connection. `body` is what was sent along, `query` what stood behind the question mark."""

    protocol_version = "HTTP/1.1"  # the clients keep their connections
    disable_nagle_algorithm = True  # head and body are two writes: they would wait 40 ms for each other

    def __init__(self, hub, *connection):
        self.hub = hub
        super().__init__(*connection)

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client may leave in the middle of a file, and so may we
            super().handle()

    def do_GET(self) -> None:
        self.hub.requests.append((self.command, self.path))
        # Read even what nobody wants, or it would be taken for the next request.
        self.body = self.read_body()
        self.fault = self.hub.faults.meet(f"{self.command} {self.path}")
        path, _, query = self.path.partition("?")
        try:
            self.answer(path, query)
        except HubError as error:
            self.send_json(error.body, error.status, error.headers)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def answer(self, path: str, query: str) -> None:
        self.query = parse_qs(query)
        if isinstance(self.fault and self.fault.how, int):
            raise HubError(self.fault.how, "a fault that the test asked for", **self.fault.headers)
        if self.met("loop"):
            raise HubError(307, "here again", Location=self.path)
        if self.met("empty"):
            return self.send_json({})
        if self.met("portal"):
            return self.send_bytes(b"<html>Log in</html>", 200, {"Content-Type": "text/html"})
        if self.met("corrupt") and self.command == "PUT":
            self.body, self.fault = flipped(self.body), None
        for pattern, answer in ROUTES:
            if match := pattern.fullmatch(f"{self.command} {path}"):
                # Decoded only now: one part, a revision say, may hold a slash.
                parts = {name: part and unquote(part) for name, part in match.groupdict().items()}
                return answer(self, **parts)
        raise HubError(404, f"The loopback Hub has no {self.command} {path}")

    def met(self, how: str) -> bool:
        return self.fault is not None and self.fault.how == how

    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    def send_json(self, answer: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(answer, default=str).encode()  # front matter may hold dates
        self.send_bytes(body, status, {"Content-Type": "application/json"} | (headers or {}))

    def send_bytes(self, body: bytes, status: int, headers: Mapping[str, str]) -> None:
        self.send_head(status, len(body), headers)
        self.send_body(io.BytesIO(body), 0, len(body))

    def send_file(self, path: Path, headers: dict[str, str]) -> None:
        """The file, or the part of it that is asked for."""
        size = path.stat().st_size
        status, start, stop = 200, 0, size
        # The one form of Range that the clients send; any other may be ignored.
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(asked[1]), min(int(asked[2] or size) + 1, size)
            if start >= stop:
                raise HubError(416, "Range not satisfiable", Content_Range=f"bytes */{size}")
            status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{size}"
        self.send_head(status, stop - start, {"Accept-Ranges": "bytes"} | headers)
        with path.open("rb") as file:
            self.send_body(file, start, stop - start)

    def send_head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        if self.met("lose"):  # all is done by now, but for the answer
            raise NoAnswerError("lost")
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_body(self, file: io.BufferedIOBase, start: int, count: int) -> None:
        if self.command == "HEAD" or count == 0:
            return
        if self.met("cut"):
            file.seek(start)
            self.wfile.write(file.read(count // 2))
            raise NoAnswerError("cut")
        if self.met("slow"):
            file.seek(start)
            for _ in range(10):
                self.wfile.write(file.read(ceil(count / 10)))
                self.hub.faults.recovered.wait(self.fault.seconds / 10)
        elif self.met("corrupt") or isinstance(file, io.BytesIO):
            file.seek(start)
            content = file.read(count)
            self.wfile.write(flipped(content) if self.met("corrupt") else content)
        else:
            self.connection.sendfile(file, start, count)

    def log_message(self, *message) -> None:
        """Silent: `LoopbackHub.requests` is the log."""
