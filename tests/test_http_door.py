"""The door before gradio, by itself: who comes in, with how much, how slowly, how often; and what goes out."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest

from hub_utils.portable import http_door
from hub_utils.portable.http_door import Door

PAGES = SimpleNamespace(pages=[("", "Home", True), ("digits", "Digits", False)], auth=None, mcp_server=False)


async def _app(scope, receive, send):
    """As gradio's: it reads all of the body, and answers with as much of it."""
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    headers = [(b"content-type", scope.get("kind", b"text/html")), (b"content-disposition", b"inline")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(size).encode()})


def asked(method, path, *body, door=None, app=_app, blocks=PAGES, pause=0.0, **scope):
    """Status, headers and body of the answer; `pause` is before each piece of the body."""
    pieces, sent = list(body) or [b""], []

    async def receive():
        await asyncio.sleep(pause)
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    about = {"type": "http", "method": method, "path": path, "headers": [], "client": ("9.9.9.9", 1)}
    about |= {"app": SimpleNamespace(blocks=blocks)} | scope
    asyncio.run((door or Door(app))(about, receive, send))
    start, *rest = sent
    return start["status"], dict(start["headers"]), b"".join(each["body"] for each in rest).decode()


def status(*how, **more) -> int:
    return asked(*how, **more)[0]


NEEDED = ["/", "/digits", "/digits/", "/config", "/theme.css", "/assets/index-a_b.js", "/static/fonts/x.woff2"]
NEEDED += ["/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/heartbeat/a1-b", "/gradio_api/queue/data"]
NEEDED += ["/gradio_api/call/predict/0a1b", "/gradio_api/call/v2/predict/0a", "/gradio_api/file=/tmp/x/a b.png"]
NEEDED += ["/gradio_api/file=C:/Users/x/a.png", "/gradio_api/upload_progress", "/gradio_api/startup-events"]


@pytest.mark.parametrize("path", NEEDED)
@pytest.mark.parametrize("root", ["", "/proxy/7860"])
def test_what_a_page_needs_is_read(path, root):
    assert status("GET", path) == status("HEAD", root + path, root_path=root) == 200
    assert status("POST", path) == status("DELETE", path) == status("PUT", path) == 405


@pytest.mark.parametrize(
    "path", ["upload", "queue/join", "call/predict", "call/v2/predict", "run/halt", "cancel", "reset"]
)
def test_what_a_page_needs_is_written(path):
    assert asked("POST", f"/gradio_api/{path}", b"12", b"345")[2] == "5"
    code, headers, _ = asked("PUT", f"/gradio_api/{path}")
    assert code == 405 and b"POST" in headers[b"allow"]


SHUT = ["proxy=http://127.0.0.1:9/", "proxy=https://x.hf.space/", "stream/a", "stream/a/1/2/playlist.m3u8", "deep_link"]
SHUT += ["component_server", "component_server/", "process_recording", "vibe-edit/", "vibe-code", "undo-vibe-edit"]
SHUT += ["runs", "run-history/connect", "dev/reload", "custom_component/a/client/component/index.js", "token"]
SHUT += ["file=http://127.0.0.1:9/x.png", "file=HTTPS://x/y", "file=file:///etc/passwd", "file=//host/share/x.png"]
SHUT += ["file=\\\\host\\share\\x.png", "file/etc/passwd", "file=", "profiling/traces", "mcp/sse", "mcp", "api/predict"]
SHUT += ["call/predict/a/b", "call/../upload", "heartbeat/../x"]


@pytest.mark.parametrize(
    "path",
    [f"/gradio_api/{each}" for each in SHUT]
    + ["/monitoring", "/monitoring/summary", "/docs", "/openapi.json", "/login", "/logout", "/flowers", "/assets/../x"]
    + ["/x\ny", "/configs", "/static/..", "/svelte/../../secret", "/gradio_api/", "/static/a\\..\\b"],
)
def test_all_else_is_not_there(path):
    async def never(scope, receive, send):
        raise AssertionError("it came in")

    for method in ("GET", "POST", "HEAD", "PATCH"):
        assert status(method, path, app=never) == 404, (method, path)


def test_a_page_with_names_and_passwords_and_an_mcp_server_have_their_own():
    named, tools = SimpleNamespace(auth=[("a", "b")]), SimpleNamespace(mcp_server=True)
    assert status("POST", "/login", b"name", blocks=named) == status("GET", "/logout", blocks=named) == 200
    for method, path in (("POST", "/gradio_api/mcp/"), ("GET", "/gradio_api/mcp/sse"), ("DELETE", "/gradio_api/mcp")):
        assert status(method, path, blocks=tools) == 200 and status(method, path) == 404


def test_no_request_is_larger_than_what_it_is_for(monkeypatch):
    monkeypatch.setattr(http_door, "WRITING", {"/a": 10})
    assert asked("POST", "/a", b"12345", b"67890")[2] == "10"
    code, headers, said = asked("POST", "/a", b"12345", b"678901")
    assert code == 413 and headers[b"connection"] == b"close" and "are the limit" in said
    for length in (b"11", b"-1", b"x", b"1" * 50):
        assert status("POST", "/a", headers=[(b"content-length", length)]) == 413
    assert (
        status("GET", "/", headers=[(b"cookie", b"x" * 40_000)])
        == status("GET", "/", query_string=b"x" * 40_000)
        == 431
    )
    assert status("GET", "/", headers=[(b"cookie", b"x" * 9_000)]) == 200


ASK = "/gradio_api/call/predict"
FILE = {"path": "/tmp/gradio/" + "0f" * 32 + "/花.png", "url": None, "size": 9, "orig_name": "花" * 20 + ".png"}
FILE |= {"mime_type": "image/png", "is_stream": False, "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize(
    "body", [b"[]," * 15_001, b"," * 30_001, b'{"a":1},' * 15_001, b"\\n" * 300_001, b"[" + b"1" * 4000 + b"]"]
)
def test_a_question_of_many_parts_is_refused_as_it_comes_and_an_upload_of_them_is_not(body):
    half = len(body) // 2
    code, headers, said = asked("POST", ASK, body[:half], body[half:])
    assert code == 413 and headers[b"connection"] == b"close" and "more parts than 30,000" in said
    assert status("POST", "/gradio_api/upload", body) == 200


def test_who_is_refused_may_send_the_rest_and_hears_why():
    """Otherwise the connection breaks before the sentence is there."""
    pieces, sent = [b"[]," * 20_000, *[b"x"] * 9, b""], []

    async def receive():
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message):
        assert not pieces
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": ASK, "headers": [], "client": None}
    asyncio.run(Door(_app)(scope | {"app": SimpleNamespace(blocks=PAGES)}, receive, send))
    assert sent[0]["status"] == 413


def test_what_is_let_in_is_read_at_once():
    """A thousand files with names of East Asia, and a large picture in base64; and the worst that still comes in."""
    picture = b'{"data": [{"url": "data:image/png;base64,' + b"iVBORw0KGgo1+/" * 2_000_000 + b'"}]}'
    for body in (json.dumps({"data": [[FILE] * 1000]}).encode(), picture, b"[" + b"[]," * 14_998 + b"1]"):
        start = time.process_time()
        json.loads(body)
        assert time.process_time() - start < 1  # 0.01 to 0.1
        assert status("POST", ASK, *(body[at : at + 65_536] for at in range(0, len(body), 65_536))) == 200


def test_large_questions_are_few_at_once_and_small_ones_are_not_counted(monkeypatch):
    monkeypatch.setattr(http_door, "LARGE", 10)
    monkeypatch.setattr(http_door, "MOST_LARGE", 25)
    door = Door(_app)

    async def together(size: int) -> list[int]:
        codes = []

        async def send(message):
            codes.append(message["status"]) if "status" in message else None

        async def one():
            pieces = [b"x" * size, b""]

            async def receive():
                await asyncio.sleep(0)
                return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

            scope = {"type": "http", "method": "POST", "path": ASK, "headers": [], "client": None}
            await door(scope | {"app": SimpleNamespace(blocks=PAGES)}, receive, send)

        await asyncio.gather(*(one() for _ in range(4)))
        return sorted(codes)

    assert asyncio.run(together(9)) == [200] * 4
    assert 503 in (codes := asyncio.run(together(12))) and 200 in codes
    assert status("POST", ASK, b"x" * 20, door=door) == 200  # afterwards there is room again
    code, headers, said = asked("POST", ASK, b"x" * 30, door=door)
    assert code == 503 and b"retry-after" in headers and "busy" in said


def test_an_upload_finds_room_or_is_told_that_there_is_none(monkeypatch):
    monkeypatch.setattr(http_door, "STEP", 10)
    wanted = []
    monkeypatch.setattr(http_door, "has_room", lambda size: wanted.append(size) or len(wanted) < 3)
    code, headers, said = asked("POST", "/gradio_api/upload", b"x" * 9, b"x" * 9, b"x" * 9)
    assert wanted == [10, 10, 10] and code == 503 and b"retry-after" in headers and "no room" in said
    code, _, said = asked("POST", "/gradio_api/upload", b"x" * 7, headers=[(b"content-length", b"7")])
    assert wanted[3:] == [7] and code == 503 and "no room" in said


def test_who_sends_too_slowly_is_given_up_even_where_gradio_catches_that():
    async def catches(scope, receive, send):
        try:
            await _app(scope, receive, send)
        except Exception:
            await send({"type": "http.response.start", "status": 400, "headers": []})

    for app in (_app, catches):
        code, headers, said = asked("POST", "/gradio_api/upload", *[b"x"] * 9, door=Door(app, silence=0.3), pause=0.11)
        assert code == 408 and headers[b"connection"] == b"close" and "too slowly" in said
    assert status("POST", "/gradio_api/upload", *[b"x" * 50_000] * 9, door=Door(_app, silence=0.3), pause=0.11) == 200


def test_a_classroom_comes_in_behind_one_address_and_a_flood_does_not(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    door = Door(_app)
    monkeypatch.setattr(http_door.time, "time", lambda: 1000.0)
    for _ in range(http_door.MOST_A_MINUTE):
        assert status("POST", "/gradio_api/queue/join", door=door) == 200
    code, headers, said = asked("POST", "/gradio_api/queue/join", door=door)
    assert code == 429 and int(headers[b"retry-after"]) == 20 and "in 20 seconds" in said
    assert status("GET", "/", door=door) == 200  # to look is no question
    assert status("POST", "/gradio_api/queue/join", door=door, client=("8.8.8.8", 1)) == 200
    monkeypatch.setattr(http_door.time, "time", lambda: 1060.0)
    assert status("POST", "/gradio_api/queue/join", door=door) == 200
    assert http_door.MOST_A_MINUTE / 200 >= 2 * 15  # an upload and a question each, 15 pictures a minute


@pytest.mark.parametrize(
    ("space", "client", "forwarded", "counted"),
    [
        (False, "9.9.9.9", "1.1.1.1", "9.9.9.9"),  # a header is anybody's
        (False, "127.0.0.1", "1.1.1.1", ""),
        (False, "10.0.0.7", None, ""),
        (True, "10.0.0.7", "1.1.1.1", "1.1.1.1"),
        (True, "10.0.0.7", "6.6.6.6, 1.1.1.1", "1.1.1.1"),  # what the visitor says comes first
        (True, "10.0.0.7", "1.1.1.1, 10.1.2.3", "1.1.1.1"),
        (True, "10.0.0.7", "nonsense, \xff", ""),
        (True, "2a00:1450::1", None, "2a00:1450::/64"),
        (True, None, None, ""),
        (False, "::ffff:9.9.9.9", None, "9.9.9.9"),  # as a server for both writes those of IPv4
        (False, "64:ff9b::909:909", None, "9.9.9.9"),
        (False, "::ffff:10.0.0.7", None, ""),
    ],
)
def test_who_asks_is_told_by_the_connection_and_on_a_space_by_its_proxy(space, client, forwarded, counted, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "a/b") if space else monkeypatch.delenv("SPACE_ID", raising=False)
    headers = {b"x-forwarded-for": forwarded.encode("latin-1")} if forwarded else {}
    assert http_door._client({"client": (client, 1) if client else None}, headers) == counted


def test_addresses_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(http_door, "MOST_ADDRESSES", 5)
    rate = http_door._Rate(10)
    for number in range(100):
        rate.count(str(number))
    assert len(rate._counts) <= 6


def test_what_goes_out_is_taken_for_nothing_else():
    _, headers, _ = asked("GET", "/")
    assert headers[b"x-content-type-options"] == b"nosniff" and headers[b"referrer-policy"] == b"same-origin"
    assert b"connect-src 'self'" in headers[b"content-security-policy"] and headers[b"content-type"] == b"text/html"
    for kind in (b"text/html", b"image/svg+xml", b"application/pdf", b"text/plain"):
        _, headers, _ = asked("GET", "/gradio_api/file=/x", kind=kind)
        assert headers[b"content-type"] == b"application/octet-stream"
        assert headers[b"content-disposition"] == b"attachment" and b"sandbox" in headers[b"content-security-policy"]
    _, headers, _ = asked("GET", "/gradio_api/file=/x.png", kind=b"image/png")
    assert headers[b"content-type"] == b"image/png" and headers[b"content-disposition"] == b"inline"


def test_what_nobody_foresaw_is_a_sentence_and_in_the_log_alone(caplog):
    async def broken(scope, receive, send):
        raise OSError("/home/somebody/secret")

    code, _, said = asked("GET", "/", app=broken)
    assert (
        code == 500
        and said == '{"detail": "That cannot be answered. Try again.", "error": "That cannot be answered. Try again."}'
    )
    assert "secret" in caplog.text

    async def begun(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise OSError("later")

    with pytest.raises(OSError, match="later"):
        asked("GET", "/", app=begun)


def test_nothing_but_http_comes_in():
    sent, came = [], []

    async def app(scope, receive, send):
        came.append(scope["type"])

    async def send(message):
        sent.append(message)

    for kind in ("websocket", "lifespan"):
        asyncio.run(Door(app)({"type": kind}, None, send))
    assert came == ["lifespan"] and sent == [{"type": "websocket.close", "code": 1008}]
