"""The line for answers, over a socket: who would wait too long is told so, who leaves gives up the place."""

import asyncio
import base64
import json
import re
import socket
import time
import uuid

import httpx
import pytest
from chromium import chromium, opened

from hub_utils.portable import crowd as crowds
from hub_utils.portable import waiting
from hub_utils.portable.crowd import Crowd
from hub_utils.portable.demo import build_demo
from hub_utils.portable.http_door import MANY_LARGE
from hub_utils.portable.served import Served
from hub_utils.portable.waiting import Line

BUSY = r"This page is busy: (another is|\d+ others are) being answered\. Try again in a moment\."
FILE = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def page(digits_model, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
    patch.setenv("DEMO_MODEL", str(digits_model))
    page = build_demo("digits")
    page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield page
    page.close()
    patch.undo()


@pytest.fixture
def slowly(page, monkeypatch):
    """Each answer takes half a second, as the line knows, and nobody waits for more than one."""
    answer = Served.answer
    monkeypatch.setattr(Served, "answer", lambda self, images: time.sleep(0.5) or answer(self, images))
    monkeypatch.setattr(waiting, "LONGEST", 1.0)
    for times in page._queue._took.values():
        times.clear()


def visitor(page) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=page.local_url, timeout=30)


async def uploaded(http: httpx.AsyncClient, png: bytes) -> dict:
    files = {"files": (f"{uuid.uuid4().hex}.png", png)}
    return {"path": (await http.post("/gradio_api/upload", files=files)).json()[0], **FILE}


async def predict(page, png: bytes) -> str:
    """The label, or the sentence in its place."""
    async with visitor(page) as http:
        asked = await http.post("/gradio_api/call/predict", json={"data": [await uploaded(http, png)]})
        if asked.status_code != 200:
            assert asked.status_code == 503 and asked.headers["retry-after"] == "2"
            return asked.json()["detail"]
        told = (await http.get(f"/gradio_api/call/predict/{asked.json()['event_id']}")).text
        data = json.loads(told.split("data: ")[1])
        return data["error"] if told.startswith("event: error") else data[0]["label"]


async def drawn(page, png: bytes) -> tuple[str, str]:
    """The `turn` that was sent, and what the page puts in the answer's place."""
    async with visitor(page) as http:
        told = {"turn": uuid.uuid4().hex, **await uploaded(http, png)}
        called = next(
            each["id"] for each in (await http.get("/config")).json()["dependencies"]
            if any(target[1] == "picture" for target in each["targets"])
        )  # fmt: skip
        session = uuid.uuid4().hex
        asked = {"data": [], "event_data": told, "fn_index": called, "session_hash": session}
        assert (await http.post("/gradio_api/queue/join", json=asked)).status_code == 200
        stream = (await http.get("/gradio_api/queue/data", params={"session_hash": session})).text
        messages = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
        (done,) = [each for each in messages if each["msg"] == "process_completed"]
        assert done["success"]
        return told["turn"], done["output"]["data"][0]


@pytest.fixture
def png() -> bytes:
    from test_images import encoded, picture

    return encoded(picture(size=(40, 40)))


def together(*asked) -> list:
    async def wait() -> list:
        return await asyncio.gather(*asked)

    return asyncio.run(wait())


def test_who_would_wait_too_long_is_told_so_at_once_and_the_others_are_answered(page, slowly, png):
    together(predict(page, png))  # now it is known how long one takes
    began = time.monotonic()
    told = together(*(predict(page, png) for _ in range(12)))
    assert time.monotonic() - began < 15
    answers = [each for each in told if each.isdigit()]
    assert 2 <= len(answers) < 12
    assert all(re.fullmatch(BUSY, each) for each in told if not each.isdigit()), told
    assert together(predict(page, png))[0].isdigit()  # nobody is left in the line


def test_the_page_says_it_in_the_answer_s_place_to_be_asked_again(page, slowly, png):
    together(drawn(page, png))
    told = together(*(drawn(page, png) for _ in range(12)))
    assert all(f'data-turn="{turn}"' in html for turn, html in told)
    busy = [html for _, html in told if "data-busy" in html]
    assert busy and len(busy) < 12 and all(re.search(BUSY, html) and "tries again by itself" in html for html in busy)


def test_who_was_let_in_and_has_waited_for_too_long_is_told_so(page, slowly, png, monkeypatch):
    monkeypatch.setattr(page._queue, "patience", 0.8)
    told = together(*(predict(page, png) for _ in range(8)))  # nobody knows how long one takes
    assert any(each.isdigit() for each in told)
    assert any(re.fullmatch(BUSY, each) for each in told) and all(each.isdigit() or "busy" in each for each in told)


def test_who_leaves_gives_up_the_place(page, slowly, png, monkeypatch):
    monkeypatch.setattr(waiting, "LONGEST", 60.0)
    line: Line = page._queue

    async def leave() -> tuple[int, int]:
        async with visitor(page) as http:
            file = await uploaded(http, png)
            streams = []
            for _ in range(10):
                asked = (await http.post("/gradio_api/call/predict", json={"data": [file]})).json()
                address = f"/gradio_api/call/predict/{asked['event_id']}"
                streams.append(asyncio.create_task(http.get(address)))
            await asyncio.sleep(0.2)
            before = line.under_way
            for stream in streams:
                stream.cancel()
        await asyncio.sleep(0.4)
        return before, line.under_way

    before, after = asyncio.run(leave())
    assert before >= 6 and after <= 2


def test_no_endpoint_has_a_way_past_the_line(page):
    for way in ("run", "api"):
        assert httpx.post(f"{page.local_url}gradio_api/{way}/predict", json={"data": [None]}).status_code == 404


def test_who_was_answered_or_left_is_forgotten(page, png, monkeypatch):
    monkeypatch.setattr(waiting, "FORGOTTEN", 0.5)
    together(*(predict(page, png) for _ in range(20)))
    line, until = page._queue, time.monotonic() + 5
    while line.pending_event_ids_session and time.monotonic() < until:
        time.sleep(0.1)
    assert not line.pending_event_ids_session and not line.event_ids_to_events
    assert len(line.event_analytics) <= waiting.OF_LATE


def test_a_byte_now_and_then_does_not_keep_a_connection_and_waiting_for_an_answer_does(page, slowly, png, monkeypatch):
    monkeypatch.setattr(crowds, "HEAD", 1.0)
    address = ("127.0.0.1", page.server_port)

    def open_for(seconds: float, *texts: bytes) -> bool:
        with socket.create_connection(address, timeout=5) as connection:
            for text in texts:
                connection.sendall(text)
            try:
                for _ in range(int(seconds / 0.2)):
                    time.sleep(0.2)
                    connection.sendall(b"a")
            except OSError:
                return False
            return True

    assert not open_for(3, b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    head = b"GET /gradio_api/heartbeat/x HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(head)
        time.sleep(2)
        assert b"ALIVE" in connection.recv(10_000)
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):  # it is open still
            connection.recv(1)


def test_who_may_not_upload_hears_why_whatever_the_size(page, monkeypatch):
    monkeypatch.setattr(Line, "why_no_upload", lambda self: "This page is busy.")
    for size in (10, 5_000_000):
        told = httpx.post(f"{page.local_url}gradio_api/upload", files={"files": ("a.png", bytes(size))}, timeout=20)
        assert (told.status_code, told.json()) == (503, {"detail": "This page is busy."})


def test_large_questions_that_wait_are_bounded_together_and_small_ones_pass(page, slowly, png, monkeypatch):
    monkeypatch.setattr(waiting, "LARGE", 50_000)
    monkeypatch.setattr(waiting, "MOST_LARGE", 250_000)

    async def ask(size: int) -> str:
        picture = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        async with visitor(page) as http:
            told = await http.post("/gradio_api/call/predict", json={"data": [{"url": picture}], "more": "x" * size})
            return told.json().get("detail", "") if told.status_code in (200, 503) else told.text

    said = together(*(ask(100_000) for _ in range(4)), *(ask(0) for _ in range(2)))
    assert sorted(map(bool, said[:4])) == [False, False, True, True] and set(said) == {"", MANY_LARGE}
    assert said[4:] == ["", ""]


def test_a_browser_shows_it_and_asks_again_by_itself(page, png, monkeypatch, tmp_path):
    why_not, why_no_upload = Line.why_not, Line.why_no_upload
    upload, answer = ["This page is busy."], ["This page is busy: 7 others are being answered."]
    monkeypatch.setattr(Line, "why_no_upload", lambda self: upload.pop() if upload else why_no_upload(self))
    monkeypatch.setattr(Line, "why_not", lambda self, fn: answer[0] if answer else why_not(self, fn))
    (tmp_path / "a.png").write_bytes(png)
    with chromium() as browser:
        shown, _ = opened(browser)
        shown.goto(page.local_url)
        for name, result in (("One picture", ".answer h2 b"), ("Many pictures", ".many-results tbody tr")):
            shown.get_by_role("tab", name=name).click()
            shown.locator('input[type="file"]:visible, .stage:visible input[type="file"]').first.set_input_files(
                tmp_path / "a.png"
            )
            shown.locator(".answer.problem:visible").filter(has_text=f"{answer[0]} This page tries again").wait_for()
            assert not upload
            answer.clear()
            shown.locator(f"{result}:visible").wait_for()
            answer.append("This page is busy: another is being answered.")
        shown.context.close()


# How many are too many


def test_a_few_are_never_too_many_and_of_a_crowd_the_speed_counts():
    there = [5]
    crowd = Crowd(lambda: there[0])
    assert crowd.wait(0.0) == 0
    there[0] = 50
    assert crowd.wait(10.0) == 0  # nobody knows yet
    for _ in range(20):
        crowd.left()
    assert crowd.wait(12.0) == pytest.approx(50 * 2 / 20)  # ten leave in a second
    there[0] = 200
    assert crowd.wait(12.0) == pytest.approx(20)
    there[0] = crowds.FEW
    assert crowd.wait(13.0) == 0
    there[0] = crowds.MOST
    assert crowd.wait(20.0) == float("inf")
    there[0] = crowds.MOST - 1
    assert crowd.wait(20.5) == 0


def test_what_is_long_ago_counts_less_and_less():
    crowd = Crowd(lambda: 100)
    crowd.wait(0.0)
    for _ in range(1000):
        crowd.left()
    at_first = crowd.wait(10.0)
    for second in range(11, 60):  # now one leaves in a second
        crowd.left()
        now = crowd.wait(float(second))
    assert at_first == pytest.approx(1) and now > 50
