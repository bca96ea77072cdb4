"""What hypothesis makes up: damaged pictures for the door of uploads, and questions for a page that are none.

pytest tests/test_fuzz.py            # the same few hundred each time
pytest tests/test_fuzz.py -m slow    # thousands, others each time; what fails is printed as it can be repeated
"""

import base64
import http.client
import json
import os
import re
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from types import SimpleNamespace

import pytest
from bad_pictures import after_header, chunk, encoded, originals, picture
from bad_zips import zipped
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_bad_files import INSIDES, Visitor, answers_a_good_picture, plain

from hub_utils.portable.command import UserError
from hub_utils.portable.demo import build_demo
from hub_utils.portable.drawing import received
from hub_utils.portable.many_uploads import Uploads
from hub_utils.portable.pictures import opened
from hub_utils.portable.uploads import asked
from training.data.images import look

LONGEST = 10.0  # seconds
RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
PATIENT = int(os.environ.get("FUZZ_EXAMPLES", "3000"))


def quick(count: int) -> Callable:
    return settings(max_examples=count, derandomize=True, **RELAXED)


def thorough() -> Callable:
    return settings(max_examples=PATIENT, print_blob=True, **RELAXED)


SOUND = list(originals().values())
LENGTHS = st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])


@st.composite
def damaged(draw: Callable, sound: list[bytes] = SOUND) -> bytes:
    """A sound file with bits turned, pieces cut, moved, doubled or taken from another, and numbers that lie."""
    content = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(content) - 1)) | st.integers(0, min(200, max(0, len(content) - 1))))
        length = draw(st.integers(0, 64))
        match draw(st.sampled_from(["bit", "byte", "number", "cut", "delete", "double", "splice", "move"])):
            case "bit" if content:
                content[at] ^= 1 << draw(st.integers(0, 7))
            case "byte" if content:
                content[at] = draw(st.integers(0, 255))
            case "number":
                order, size = draw(st.sampled_from(["big", "little"])), draw(st.sampled_from([2, 4]))
                content[at : at + size] = (draw(LENGTHS) & (256**size - 1)).to_bytes(size, order)
            case "cut":
                del content[at:]
            case "delete":
                del content[at : at + length]
            case "double":
                content[at:at] = content[at : at + length] * draw(st.integers(1, 50))
            case "splice":
                other = draw(st.sampled_from(sound))
                content[at:] = other[draw(st.integers(0, len(other))) :]
            case "move":
                piece = content[at : at + length]
                del content[at : at + length]
                to = draw(st.integers(0, len(content)))
                content[to:to] = piece
    return bytes(content)


def see(content: bytes) -> None:
    """A picture, or a sentence; and training finds a reason, or none."""
    began = time.process_time()
    try:
        with opened(content, "x.jpg") as image:
            assert image.mode == "RGB" and min(image.size) >= 2
    except UserError as error:
        plain(str(error))
    reason = look(content).reason
    assert reason is None or (reason and "\n" not in reason)
    assert time.process_time() - began < LONGEST


JPEG, PNG = encoded(picture(), "JPEG"), encoded(picture(), "PNG")


@quick(300)
@given(damaged())
@example(b"")
@example(JPEG[:2] + b"\xff" * 1_100_000)
@example(after_header(PNG, chunk(b"IDAT") * 110_000))
def test_damage_is_a_picture_or_a_sentence(content):
    see(content)


@pytest.mark.slow
@thorough()
@given(damaged())
def test_much_damage_is_a_picture_or_a_sentence(content):
    see(content)


ZIPS = [
    zipped({"cat.png": PNG, "dog.jpg": JPEG, "é.png": PNG}),
    zipped({"cat.png": PNG, "a/b.png": PNG}, zipfile.ZIP_STORED),
]


def see_zip(path, content: bytes) -> None:
    (path / "x.zip").write_bytes(content)
    with Uploads([("x.zip", path / "x.zip")]) as uploads:
        for sent in uploads:
            assert sent.problem or isinstance(sent.content, bytes)
            if sent.problem:
                plain(sent.problem)


@quick(200)
@given(content=damaged(ZIPS))
def test_a_damaged_zip_is_files_or_sentences(tmp_path_factory, content):
    see_zip(tmp_path_factory.getbasetemp(), content)


@pytest.mark.slow
@thorough()
@given(content=damaged(ZIPS))
def test_a_much_damaged_zip_is_files_or_sentences(tmp_path_factory, content):
    see_zip(tmp_path_factory.getbasetemp(), content)


DRAWN = encoded(picture("RGBA", (64, 64)), "PNG")
NOISY = after_header(DRAWN, chunk(b"IDAT", b"\xa4\x10\xe2") + chunk(b"gAMA", b"\xa3"))  # Pillow raises a struct.error


@quick(100)
@given(damaged([DRAWN]).map(lambda png: base64.b64encode(png).decode()) | st.text())
@example(base64.b64encode(NOISY).decode())
@example("é")
@example("\ud800")
def test_a_drawing_is_one_or_a_sentence(png):
    try:
        assert max(received(png).size) > 0
    except UserError as error:
        assert "draw again" in str(error)


@quick(100)
@given(st.recursive(st.none() | st.floats() | st.text(st.characters(codec=None)), lambda each: st.lists(each)
       | st.dictionaries(st.text(st.characters(codec=None)), each)))  # fmt: skip
@example({"turn": "\ud800"})
@example({"\udfff": [{"name": "\ud83d"}]})
def test_what_an_event_says_can_be_answered(data):
    """Half a letter in it broke the answer off."""
    told = asked(SimpleNamespace(_data=data))
    assert isinstance(told, dict)
    json.dumps(told, ensure_ascii=False).encode()


@pytest.fixture(scope="module")
def visitor(tiny_resnet, tmp_path_factory) -> Iterator[Visitor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        patch.setenv("DEMO_MODEL", str(tiny_resnet))
        page = build_demo("colours")
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
        yield Visitor(url)
        page.close()


def said(visitor: Visitor, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> str:
    """The answer, which has nothing of our insides, and comes soon; "" of one that is broken off."""
    began = time.monotonic()
    try:
        told = visitor.asked(method, path, body, kind)
    except http.client.IncompleteRead:  # of an event that there is not
        told = ""
    assert "Traceback" not in told and "site-packages" not in told and "Internal Server Error" not in told
    assert time.monotonic() - began < LONGEST
    return told


LETTERS = st.text(st.characters(codec=None), max_size=20)
ADDRESSES = st.sampled_from(["/etc/passwd", "http://127.0.0.1:9/x.png", "a\0b", "x" * 5000, "data:image/png;base64,x"])
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**30, -1, 2**63, float("nan"), float("inf")])
FILES = st.fixed_dictionaries(
    {"path": ADDRESSES | LETTERS | NUMBERS | st.none()},
    optional={
        "url": ADDRESSES | LETTERS | st.none(),
        "meta": st.just({"_type": "gradio.FileData"}) | st.none() | LETTERS,
        "size": NUMBERS,
        "orig_name": LETTERS,
        "is_stream": st.booleans(),
    },
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | LETTERS | ADDRESSES | FILES,
    lambda each: st.lists(each, max_size=4) | st.dictionaries(LETTERS, each, max_size=4),
    max_leaves=10,
)
TOLD = st.fixed_dictionaries(
    {},
    optional={
        name: VALUES
        for name in ("turn", "path", "size", "camera", "files", "count", "name", "png", "consent", "label", "stopped")
    },
)
QUESTIONS = st.fixed_dictionaries(
    {},
    optional={
        "data": st.lists(VALUES, max_size=3) | VALUES,
        "fn_index": st.integers(-2, 20) | VALUES,
        "session_hash": st.sampled_from(["s1", "s2", ""]) | LETTERS | VALUES,
        "event_data": TOLD | VALUES,
        "event_id": LETTERS | VALUES,
        "trigger_id": NUMBERS | VALUES,
        "simple_format": st.booleans() | VALUES,
        "batched": st.booleans() | VALUES,
        "picture": VALUES,
        "files": VALUES,
    },
)
BODIES = QUESTIONS.map(lambda each: json.dumps(each).encode()) | st.sampled_from(
    [b"", b"null", b"[]", b"5", b"{", b"\xff\xfe{", b"[" * 50_000, b'{"data":' + b"[" * 3_000 + b"]" * 3_000 + b"}"]
    + [
        b'{"data":' + b"9" * 5_000 + b"}",
        b'{"data":NaN}',
        b'{"data":["\\ud800"]}',
        b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
    ]
)
ROUTES = st.sampled_from(
    [f"/gradio_api/{route}" for route in (
        "call/predict", "call/predict_many", "call/v2/predict", "call/v2/predict_many", "call/none", "queue/join",
        "run/predict", "run/look", "run/halt", "api/predict", "cancel", "reset", "component_server", "upload",
    )]
)  # fmt: skip
KINDS = st.sampled_from(
    ["application/json", "text/plain", "multipart/form-data", "multipart/form-data; boundary=x", "a/b; " * 500, "x"]
)


def ask(visitor: Visitor, route: str, body: bytes, kind: str) -> None:
    told = said(visitor, "POST", route, body, kind)
    found = re.search(r'"event_id":\s*"(\w+)"', told)
    if found and "/call/" in route:
        assert not INSIDES.search(said(visitor, "GET", f"{route}/{found[1]}"))


@quick(150)
@given(route=ROUTES, body=BODIES, kind=st.just("application/json") | KINDS)
@example("/gradio_api/call/predict", b'{"data":NaN}', "application/json")
@example("/gradio_api/call/none", b'{"data":[]}', "application/json")
@example("/gradio_api/call/v2/predict", b"{}", "application/json")
@example("/gradio_api/queue/join", b'{"data":[],"fn_index":99,"session_hash":"a"}', "application/json")
@example("/gradio_api/queue/join", b'{"data":[],"fn_index":2,"session_hash":"\\ud800"}', "application/json")
@example("/gradio_api/cancel", b'{"data":["\\ud800"]}', "application/json")
@example("/gradio_api/reset", b'{"data":[NaN]}', "application/json")
@example("/gradio_api/run/predict", b'{"data":[null]}', "application/json")
@example("/gradio_api/component_server", b"", "multipart/form-data; boundary=x")
def test_no_question_is_an_error_of_the_server(visitor, route, body, kind):
    ask(visitor, route, body, kind)


@pytest.mark.slow
@thorough()
@given(route=ROUTES, body=BODIES, kind=st.just("application/json") | KINDS)
def test_none_of_many_questions_is_an_error_of_the_server(visitor, route, body, kind):
    ask(visitor, route, body, kind)
    if uuid.uuid4().int % 200 == 0:
        answers_a_good_picture(visitor)


def happen(visitor: Visitor, event: str, data: object) -> None:
    """It comes to its end, whatever is said."""
    session = uuid.uuid4().hex
    question = {"data": [], "event_data": data, "fn_index": visitor.events[event], "session_hash": session}
    told = said(visitor, "POST", "/gradio_api/queue/join", json.dumps(question).encode())
    if "event_id" in told:
        told = said(visitor, "GET", f"/gradio_api/queue/data?session_hash={session}")
        assert "process_completed" in told, told


@quick(60)
@given(event=st.sampled_from(["picture", "pictures", "halt"]), data=TOLD | VALUES)
@example("picture", {"turn": "\ud800"})
@example("pictures", {"turn": "\ud800", "files": [{"name": "\ud83d", "path": "x"}]})
def test_a_page_s_event_comes_to_its_end(visitor, event, data):
    happen(visitor, event, data)


@pytest.mark.slow
@thorough()
@given(event=st.sampled_from(["picture", "pictures", "halt"]), data=TOLD | VALUES)
def test_each_of_many_events_comes_to_its_end(visitor, event, data):
    happen(visitor, event, data)


HEADS = st.lists(
    st.sampled_from(
        ['Content-Disposition: form-data; name="files"; filename="a.png"', "Content-Disposition: form-data", "X: y"]
        + ["Content-Disposition:", "Content-Type: image/png", "Content-Length: 99999999999", "", ":", "\0", "x" * 9_000]
        + ['Content-Disposition: form-data; name="files"; filename="../../x"', "Content-Transfer-Encoding: base64"]
        + ["Content-Disposition: form-data; name=\"files\"; filename*=UTF-8''%ff%00"]
    ),
    max_size=4,
)
PARTS = st.lists(
    st.tuples(HEADS, st.binary(max_size=50), st.sampled_from(["--x", "--y", "--x--", "", "-"])), max_size=8
)


@quick(80)
@given(parts=PARTS, kind=st.just("multipart/form-data; boundary=x") | KINDS, ends=st.booleans())
@example([([], b"", "--x")] * 3_000, "multipart/form-data; boundary=x", True)
@example([([], b"", "--x")], "multipart/form-data; boundary=", False)
def test_no_odd_upload_is_an_error_of_the_server(visitor, parts, kind, ends):
    body = b"".join(
        b"\r\n".join([mark.encode(), *(head.encode() for head in heads), b"", content, b""])
        for heads, content, mark in parts
    )
    told = said(visitor, "POST", "/gradio_api/upload", body + b"--x--\r\n" * ends, kind)
    assert "/etc" not in told


STREAMS = ["queue/data", "queue/data?session_hash=", "queue/data?session_hash=%00", "queue/data?session_hash=none"]
STREAMS += ["call/predict/none", "call/v2/predict/%00", "call/none/none", "queue/status", "upload_progress"]
STREAMS += ["upload_progress?upload_id=%ff", "file=%00", "file=%ff", "file=", "heartbeat/", "info?all_endpoints=x"]


@pytest.mark.parametrize("stream", STREAMS)
def test_no_stream_of_what_is_not_there_fails(visitor, stream):
    """It may stay open, and say no more than that: somebody of that name may have asked something."""
    connection, told = http.client.HTTPConnection(visitor.host, timeout=2), b""
    with closing(connection), suppress(TimeoutError, http.client.IncompleteRead):
        connection.request("GET", f"/gradio_api/{stream}")
        answer = connection.getresponse()
        assert answer.status < 500
        while piece := answer.read1():
            told += piece
    assert b"Traceback" not in told and b"site-packages" not in told


def test_after_all_that_it_still_answers(visitor):
    answers_a_good_picture(visitor)
