"""Many visitors at once: each gets the own answer, or hears soon that the page is busy; and the page stays as it is."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack

import httpx
import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "tests" / "benchmarks"))  # as it is for a script of that folder

import load

FEW_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 400))
"""


def played(model, **how) -> tuple[load.Server, list[load.Asked]]:
    with load.started(model) as server:
        found = asyncio.run(load.asked_at_once(server, model, **how))
        assert "Traceback" not in server.said()
    return server, found


def check(found: list[load.Asked]) -> Counter:
    counts = Counter(each.outcome for each in found)
    assert set(counts) <= {"own", "busy"}, [each for each in found if each.outcome not in ("own", "busy")][:3]
    return counts


def test_twenty_at_once_each_get_their_own_answer(digits_model):
    _, found = played(digits_model, clients=20, requests=60)
    assert check(found)["own"] >= 40 and {each.kind for each in found} == set(load.KINDS)


def test_an_answer_of_another_is_seen_as_that():
    known = load.np.array([[0.9, 0.1], [0.2, 0.8]])
    client = load.Client(None, 0, ["a", "b"], known, 0)
    assert client._judged([known[0]], [0]) == "own" and client._judged([known[1]], [0]) == "swapped"
    assert client._judged([known[0] - 0.01], [0]) == "wrong" and client._judged([], [0]) == "wrong"


@pytest.mark.slow
def test_two_hundred_at_once(digits_model):
    server, found = played(digits_model, clients=200, seconds=20)
    counts = check(found)
    assert counts["own"] > 100 and not load.late(found)
    assert server.samples[-1]["files"] <= server.samples[0]["files"] + 20


@pytest.mark.slow
def test_a_soak_leaves_nothing_behind(digits_model):
    server, found = played(digits_model, clients=8, requests=3000, every=2)
    check(found)
    half = [each for each in server.samples if each["asked"] >= 1500]
    assert half[-1]["memory"] - half[0]["memory"] < load.KEPT, server.samples
    assert server.samples[-1]["files"] <= server.samples[0]["files"] + 5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit on open files")
def test_connections_that_only_listen_do_not_stop_the_page(digits_model):
    """400 files may be open, and 600 visitors come who never ask: they are refused, and who was there goes on."""
    with load.started(digits_model, FEW_FILES + load.APP) as server, ExitStack() as opened:
        address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        with httpx.Client(base_url=server.url, timeout=20) as early:
            assert early.get("/config").status_code == 200
            for number in range(600):
                idle = opened.enter_context(socket.create_connection(address, timeout=10))
                idle.sendall(f"GET /gradio_api/heartbeat/{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            told = httpx.get(f"{server.url}/config", timeout=60)
            assert told.status_code in (200, 503)  # by how many of them were let in
        opened.close()
        until = time.monotonic() + 20
        while httpx.get(f"{server.url}/config", timeout=20).status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.2)
        assert "Traceback" not in server.said() and "Too many open files" not in server.said()


@pytest.mark.slow
def test_the_benchmark_says_all_of_it(digits_model, tmp_path):
    command = [sys.executable, "tests/benchmarks/load.py", str(digits_model), "--clients", "5", "--seconds", "2"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "load.json")], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "own answer" in done.stdout and "| lost, swapped or wrong | 0 |" in done.stdout
    found = json.loads((tmp_path / "load.json").read_text(encoding="utf-8"))
    assert found["measurements"]["clients"] == 5 and found["rows"][0]["met"] == "quick"
