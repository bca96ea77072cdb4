"""What strangers ask a page over a socket: of no file but what was uploaded, in whatever words; and a sentence back."""

import asyncio
import base64
import json
import os
import re
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from PIL import Image
from test_images import encoded, picture

from hub_utils.portable.demo import UNFORESEEN, Page, build_demo
from hub_utils.portable.uploads import LOST, Files, Picture

PNG = encoded(picture())
IN_REQUEST = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
INSIDES = re.compile(r"Errno|pydantic|NoneType|null byte|Traceback|'int' object|PathLike|site-packages")


@pytest.fixture(scope="module")
def page(tiny_resnet, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
    patch.setenv("DEMO_MODEL", str(tiny_resnet))
    page = build_demo("colours")
    page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield page
    page.close()
    patch.undo()


@pytest.fixture(scope="module")
def address(page) -> str:
    return page.local_url.rstrip("/")


@pytest.fixture
def secret(tmp_path) -> Path:
    """A picture of the machine's own."""
    (tmp_path / "secret.png").write_bytes(PNG)
    return tmp_path / "secret.png"


def folder() -> str:
    """Where uploads lie."""
    return os.environ["GRADIO_TEMP_DIR"]


def fetched(url: str, asked: object = None, kind: str = "application/json") -> str:
    content = asked if isinstance(asked, bytes | None) else json.dumps(asked).encode()
    request = urllib.request.Request(url, content, {"Content-Type": kind} if content else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def sent(address: str, name: str = "a.png", content: bytes = PNG) -> str:
    """Uploaded as a browser does; its path on the server."""
    mark = uuid.uuid4().hex
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = head + content + f"\r\n--{mark}--\r\n".encode()
    return json.loads(fetched(f"{address}/gradio_api/upload", body, f"multipart/form-data; boundary={mark}"))[0]


def asked(address: str, endpoint: str, *data: object) -> tuple[str, str]:
    """ "complete" or "error", and what an endpoint says."""
    event = json.loads(fetched(f"{address}/gradio_api/call/{endpoint}", {"data": data}))["event_id"]
    told = fetched(f"{address}/gradio_api/call/{endpoint}/{event}")
    found = re.search(r"event: (complete|error)\ndata: (.*)", told)
    return found[1], found[2]


def happened(address: str, event: str, data: object) -> str:
    """What a page's event brings, as JSON."""
    config = json.loads(fetched(f"{address}/config"))
    called = next(
        each["id"] for each in config["dependencies"] if any(target[1] == event for target in each["targets"])
    )
    session = uuid.uuid4().hex
    question = {"data": [], "event_data": data, "fn_index": called, "session_hash": session}
    fetched(f"{address}/gradio_api/queue/join", question)
    return fetched(f"{address}/gradio_api/queue/data?session_hash={session}")


def file(path: object, **more: object) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def test_what_was_uploaded_is_answered(address):
    assert asked(address, "predict", file(sent(address)))[0] == "complete"
    assert asked(address, "predict", {"url": IN_REQUEST})[0] == "complete"
    kind, told = asked(address, "predict_many", [file(sent(address), orig_name="cat.png"), file(f"{folder()}/gone")])
    first, second = json.loads(told)[0]
    assert kind == "complete" and first["file"] == "cat.png" and "label" in first
    assert second == {"file": "gone", "error": LOST}


def test_no_file_of_the_machine_is_opened_for_anybody(address, secret):
    link = Path(folder(), "link.png")
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    paths = [str(secret), "/etc/passwd", "/proc/self/environ", f"{folder()}/../{secret}", str(link), "/no/such"]
    paths += [f"{folder()}/../../../../../../../etc/passwd", f"{address}/config", "file:///etc/passwd", folder()]
    said = set()
    for path in paths:
        for given in ({"path": path}, file(path), file(path, is_stream=True), file(path, url=IN_REQUEST)):
            for kind, told in (
                asked(address, "predict", given),
                asked(address, "predict_many", [given]),
                asked(address, "predict_many", given),
            ):
                assert kind == "error" or f'"error": "{LOST}"' in told, (given, told)
                assert "label" not in told and "This is a text" not in told
                said.add(re.sub(r'.*"error": "(.*?)".*', r"\1", told))
    assert said == {LOST, json.dumps(UNFORESEEN)[1:-1]}  # whether there is such a file, nobody learns
    for route in (f"file={secret}", f"file={link}", f"proxy={address}/config"):
        with pytest.raises(urllib.error.HTTPError):
            fetched(f"{address}/gradio_api/{route}")
    assert secret.read_bytes() == PNG


NONSENSE = [None, 5, -1.5, True, "x", "", "a\0b", "http://127.0.0.1:9/", [], [None], {}, {"path": None}, {"path": 5}]
NONSENSE += [file(None), file("a\0b"), file("y" * 300), file("y" * 5000), file(["x"]), file("x", size="large")]
NONSENSE += [{"url": 5}, {"url": "data:;base64,%"}, {"url": "x"}, {"meta": {}}, [[[[file("x")]]]]]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda each: str(each)[:30])
def test_nonsense_gets_a_sentence(address, nonsense):
    inside = file(f"{folder()}/{'y' * 300}")
    for endpoint in ("predict", "predict_many"):
        for given in (nonsense, [nonsense], inside):
            kind, told = asked(address, endpoint, given)
            sentence = json.loads(told)
            sentence = sentence["error"] if kind == "error" else sentence[0][0]["error"]
            assert sentence.endswith(".") and len(sentence) < 200 and not INSIDES.search(told), told
            assert folder() not in sentence and os.getcwd() not in sentence


@pytest.mark.parametrize("event", ["picture", "pictures", "halt"])
@pytest.mark.parametrize(
    "data",
    [None, 5, "x", [], [5], {"path": 5}, {"path": "a\0b"}, {"path": "{folder}/" + "y" * 300}, {"path": "{folder}"}]
    + [{"files": 5}, {"files": [5, {"path": "{folder}"}, {"path": "{folder}/" + "y" * 300}]}, {"size": 10**18}]
    + [{"turn": {"a": 1}}, {"count": "many", "files": [{}]}],
    ids=lambda each: str(each)[:30],
)
def test_so_does_a_page_s_event(address, event, data):
    data = json.loads(json.dumps(data).replace("{folder}", folder()))
    kept = Path(sent(address, "kept.png"))
    told = re.sub(r"[^\"]*/predictions\.csv", "", happened(address, event, data))  # which is for the visitor
    assert "process_completed" in told and not INSIDES.search(told) and folder() not in told
    assert kept.exists()


def test_files_beside_a_bad_one_are_deleted_once_they_are_answered(address):
    good = sent(address, "good.png")
    files = [{"name": "good.png", "path": good}, {"name": "bad", "path": folder()}]
    told = happened(address, "pictures", {"files": files})
    assert "1 of 2 pictures answered" in told and not Path(good).exists()


def test_nothing_of_a_request_is_remembered(page, address):
    """gradio keeps what it was asked for each of its last 10,000 visitors."""
    for endpoint, given in (
        ("predict", {"url": "data:image/png;base64," + "QUJD" * 50_000}),
        ("predict_many", [file(sent(address), orig_name="QUJD" * 50_000)]),
    ):
        asked(address, endpoint, given)
    sessions = list(page.app.state_holder.session_data.values())
    assert sessions and not any("QUJD" * 100 in repr(each.config_values) for each in sessions)
    assert page.app.state_holder.capacity == 1000


def test_boxes_fetch_copy_and_remember_nothing(secret):
    """Nor where a page is mounted in another app, where gradio itself lets through whatever is asked for."""
    for box in (Picture(), Files(file_count="multiple")):
        for path in (str(secret), "http://127.0.0.1:9/x.png", folder() if "GRADIO_TEMP_DIR" in os.environ else "/tmp"):
            assert asyncio.run(box.async_move_resource_to_block_cache(path)) == path
        assert box.temp_files == set()


def test_the_endpoint_says_what_it_takes_and_gives(address, page):
    (told,) = json.loads(fetched(f"{address}/gradio_api/info"))["named_endpoints"]["/predict"]["parameters"]
    assert "AVIF" in told["python_type"]["description"] and "url" not in told["python_type"]["description"].lower()
    assert "http" not in json.dumps(told["example_input"])  # a picture on another host
    (says,) = [each.fn.__doc__ for each in page.fns.values() if each.api_name == "predict"]
    assert "AVIF" in says and "notice" in says
    assert Client(address, verbose=False).predict(handle_file(sent(address)), api_name="/predict")["label"]


def test_what_nobody_foresaw_tells_nothing_of_the_machine(address, page, monkeypatch):
    def broken(*args, **how):
        raise OSError(f"cannot read {folder()}")

    monkeypatch.setattr("hub_utils.portable.one_picture.opened", broken)
    assert asked(address, "predict", file(sent(address))) == ("error", _error(UNFORESEEN))
    assert isinstance(page, Page) and Image.open(Path(sent(address))).size == picture().size


def _error(sentence: str) -> str:
    return json.dumps({"error": sentence, "duration": 10, "visible": True, "title": "Error"})
