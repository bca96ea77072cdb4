"""The Hub while a page runs: a model that is swapped, a Hub that goes away, and one that is away when the page starts.

Each page is a process of its own, asked over a socket; the Hub is the loopback one.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import httpx
import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "tests" / "benchmarks"))  # as it is for a script of that folder

import load

from hub_utils.portable.served import Served

APP = """
import os, sys
from hub_utils.portable.demo import build_demo
demo = build_demo("digits")
demo.launch(server_port=int(sys.argv[1]), server_name="127.0.0.1", quiet=True)
"""
FILE = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture
def model(digits_model, tmp_path) -> Path:
    """Without its weights, which an ONNX file does not need."""
    folder = shutil.copytree(digits_model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def page(hub, tmp_path, monkeypatch):
    """Start a page of alice/digits, as `load.started`."""
    for name, value in (hub.environment(tmp_path / "home") | {"DEMO_MODEL": "alice/digits"}).items():
        monkeypatch.setenv(name, value)
    for name in set(os.environ) - set(hub.environment(tmp_path / "home")) - {"DEMO_MODEL"}:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "2")
    return lambda: load.started(Path("unused"), APP, HF_HUB_OFFLINE="0")


def asked(url: str, digits_model: Path, number: int = 0) -> dict:
    """What /predict says of a picture, or {"error": …}."""
    png = PICTURES.setdefault(digits_model, load.pictures_of(digits_model, 3))[number][0]
    with httpx.Client(base_url=url, timeout=60) as http:
        (path,) = http.post("/gradio_api/upload", files={"files": ("a.png", png)}).json()
        event = http.post("/gradio_api/call/predict", json={"data": [{"path": path, **FILE}]}).json()["event_id"]
        told = http.get(f"/gradio_api/call/predict/{event}").text
        data = json.loads(told.split("data: ")[1])
        return data[0] if told.startswith("event: complete") else data


PICTURES: dict[Path, list] = {}


def test_a_page_answers_by_one_commit_whatever_becomes_of_the_model_and_the_hub(hub, model, page, digits_model):
    first = hub.add("alice/digits", model)
    with page() as server:
        before = asked(server.url, digits_model)
        assert before["revision"] == first
        config = json.loads((model / "config.json").read_text())
        config["id2label"] = {number: f"other {number}" for number in config["id2label"]}
        (model / "config.json").write_text(json.dumps(config))
        second = hub.add("alice/digits", model)  # swapped
        assert second != first
        before_it_went = len(hub.requests)
        assert asked(server.url, digits_model)["label"] == before["label"]
        hub.fail(".*", "down", times=9999)  # and away
        for number in (0, 1, 2):
            told = asked(server.url, digits_model, number)
            assert told["revision"] == first and not told["label"].startswith("other")
        assert httpx.get(server.url, timeout=30).status_code == 200
        assert len(hub.requests) == before_it_went  # it has no need of it
        hub.recover()
    with page() as server:
        told = asked(server.url, digits_model)
        assert told["revision"] == second and told["label"].startswith("other")


@pytest.mark.slow
def test_a_page_that_starts_while_the_hub_is_away_says_so_asks_seldom_and_finds_it_later(
    hub, model, page, digits_model
):
    sha = hub.add("alice/digits", model)
    hub.fail(".*", "down", times=9999)
    with page() as server:
        until = time.monotonic() + 12
        while time.monotonic() < until:  # visitors, all the time
            told = looked(server.url)
        assert "There is no model to ask." in told and "the Hub cannot be reached" in told, told
        assert "This page tries again by itself." in told
        error = asked(server.url, digits_model)["error"]
        assert "the Hub cannot be reached" in error and str(ROOT) not in error
        assert 1 <= len(hub.requests) <= 40, hub.requests  # attempts after 1, 2, 4, 8 seconds, each of a few requests
        hub.recover()
        until = time.monotonic() + 40
        while "There is no model to ask." in looked(server.url):
            assert time.monotonic() < until
            time.sleep(0.5)
        assert asked(server.url, digits_model)["revision"] == sha
        assert "Traceback" not in server.said()


def test_what_is_known_of_a_model_is_not_asked_for_by_every_visitor(monkeypatch):
    """The Hub of all tests is a port at which nobody listens."""
    looks = []
    look = Served._look
    monkeypatch.setattr(Served, "_look", lambda self, *how: looks.append(self) or look(self, *how))
    served = Served("x", "alice/digits")
    for _ in range(20):
        served.ask_for_facts().join()
    assert len(looks) == 1 and not served.known
    served._ask_again = 0.0
    served.ask_for_facts().join()
    assert len(looks) == 2 and served._ask_again > time.monotonic() + 1


def looked(url: str) -> str:
    """What a page shows above everything once it was loaded, and asks for that again."""
    with httpx.Client(base_url=url, timeout=30) as http:
        event = next(
            each["id"] for each in http.get("/config").json()["dependencies"]
            if any(target[1] == "load" for target in each["targets"])
        )  # fmt: skip
        join = {"data": [], "fn_index": event, "session_hash": os.urandom(8).hex()}
        http.post("/gradio_api/queue/join", json=join)
        stream = http.get("/gradio_api/queue/data", params={"session_hash": join["session_hash"]}).text
        messages = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
        (done,) = [each for each in messages if each["msg"] == "process_completed"]
        return str(done["output"]["data"][0])
