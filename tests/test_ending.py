"""A page that is told to end: who is being answered is answered, who comes is told, and nothing stays behind."""

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "tests" / "benchmarks"))  # as it is for a script of that folder

import load

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals that ask a process to end")
SLOW = """
import os, sys, time
os.environ["DEMO_MODEL"] = sys.argv[2]
from hub_utils.portable.served import Served
answer = Served.answer
def slowly(self, images):
    time.sleep(float(os.environ["SECONDS_AN_ANSWER"]))
    return answer(self, images)
Served.answer = slowly
from hub_utils.portable.demo import build_demo
demo = build_demo("digits")
demo.launch(server_port=int(sys.argv[1]), server_name="127.0.0.1", quiet=True)
print("after the page", flush=True)
"""


@pytest.fixture
def slow(digits_model, monkeypatch):
    """A page that takes a second and a half for an answer, as `load.started`."""
    monkeypatch.setenv("SECONDS_AN_ANSWER", "1.5")
    with load.started(digits_model, SLOW) as server:
        yield server


def uploads(server) -> list[Path]:
    (folder,) = [each for each in Path(server.process.environ()["GRADIO_TEMP_DIR"]).glob("uploads.*")]
    return [folder, *folder.rglob("*.png")]


async def under_way(server, http: httpx.AsyncClient, picture: bytes) -> str:
    """Ask, and do not wait for the answer; the address at which it will be."""
    (path,) = (await http.post("/gradio_api/upload", files={"files": ("a.png", picture)})).json()
    asked = await http.post("/gradio_api/call/predict", json={"data": [{"path": path, **load.FILE}]})
    return f"/gradio_api/call/predict/{asked.json()['event_id']}"


def test_what_is_under_way_is_answered_and_what_comes_is_refused(slow, digits_model):
    picture = load.pictures_of(digits_model, 1)[0][0]

    async def visit() -> tuple[list[str], httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(base_url=slow.url, timeout=30) as http:
            places = [await under_way(slow, http, picture) for _ in range(3)]
            await asyncio.sleep(0.3)
            kept = uploads(slow)
            slow.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.4)
            late = await http.post("/gradio_api/call/predict", json={"data": [None]})
            upload = await http.post("/gradio_api/upload", files={"files": ("a.png", picture)})
            told = [(await http.get(place)).text for place in places]
            return told, late, upload, kept

    told, late, upload, kept = asyncio.run(visit())
    assert all(each.startswith("event: complete") and '"label"' in each for each in told), told
    for refused in (late, upload):
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert refused.json() == {"detail": "This page is being restarted. Try again in a minute."}
    assert slow.process.wait(15) == 0
    assert len(kept) == 2 and not kept[0].exists()  # of one name and content is one file
    assert "Traceback" not in slow.said() and "after the page" in slow.said()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_at_once(slow, digits_model, name):
    picture = load.pictures_of(digits_model, 1)[0][0]

    async def visit() -> None:
        async with httpx.AsyncClient(base_url=slow.url, timeout=30) as http:
            await under_way(slow, http, picture)

    asyncio.run(visit())
    slow.process.send_signal(getattr(signal, name))
    time.sleep(0.4)
    assert slow.process.is_running() and slow.process.status() != "zombie"
    slow.process.send_signal(getattr(signal, name))
    began = time.monotonic()
    assert slow.process.wait(5) == 128 + getattr(signal, name)
    assert time.monotonic() - began < 1 and "Traceback" not in slow.said()
    assert slow.said().strip().splitlines()[-1] == "ending, with 1 question under way; once more ends at once"


@pytest.mark.slow
def test_what_takes_longer_than_containers_wait_is_left(digits_model, monkeypatch):
    monkeypatch.setenv("SECONDS_AN_ANSWER", "60")
    picture = load.pictures_of(digits_model, 1)[0][0]
    with load.started(digits_model, SLOW) as server:

        async def visit() -> list[str]:
            async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
                places = [await under_way(server, http, picture) for _ in range(4)]
                waiting = asyncio.gather(*(http.get(place) for place in places), return_exceptions=True)
                await asyncio.sleep(1)
                server.process.send_signal(signal.SIGTERM)
                return [str(getattr(each, "text", each)) for each in await waiting]

        began = time.monotonic()
        told = asyncio.run(visit())
        assert sum("This page is being restarted" in each for each in told) == 2, told  # who waited for the turn
        assert server.process.wait(60) == 0 and time.monotonic() - began < 50
        assert "Traceback" not in server.said()


def test_without_a_main_thread_signals_are_left_alone():
    code = """
import signal, threading
from hub_utils.portable.ending import told_to_end
before = signal.getsignal(signal.SIGTERM)
def elsewhere():
    with told_to_end() as told:
        assert signal.getsignal(signal.SIGTERM) is before and not told.is_set()
thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
with told_to_end() as told:
    signal.raise_signal(signal.SIGTERM)
    assert told.is_set()
print("well")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "well\n", done.stderr
