"""A push that is interrupted at any request leaves the old state or the new, says which, and succeeds when repeated."""

import hashlib
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from test_push import ALICE, measured  # noqa: F401  the fixture

from hub_utils.card import SEAL
from hub_utils.portable.command import UserError
from hub_utils.portable.patience import Patience
from hub_utils.push import MESSAGE, push

NAME, TAG = "alice/colours", "v1"
OLD = {
    "recipe.json": b"{}",
    "config.json": b"{}",
    "README.md": b"# Old\n" + SEAL.format(hashlib.sha256(b"# Old\n").hexdigest()).encode(),
    "model.safetensors": b"old",
    "mine.txt": b"x",
}
# What each fault does to the request that it meets, and to how many of those like it: the client tries some again.
FAULTS = {"lose once": ("lose", 1), "refuse": ("refuse", math.inf), "lose": ("lose", math.inf), "503": (503, math.inf)}
FAULTS |= {"hang": ("hang", math.inf), "down": ("down", 1)}


@pytest.fixture(scope="module")
def run(measured, tmp_path_factory) -> Path:  # noqa: F811
    """As small as a run can be: the card of one with ONNX takes longer than the whole push."""
    folder = shutil.copytree(measured, tmp_path_factory.mktemp("small") / "colours")
    shutil.rmtree(folder / "onnx")
    results = json.loads((folder / "all_results.json").read_text())
    (folder / "all_results.json").write_text(json.dumps(results | {"onnx_difference": None}))
    return folder


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between retries
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", ALICE)


@contextmanager
def hub_with(files: dict[str, bytes]) -> Iterator[LoopbackHub]:
    with LoopbackHub(tokens={ALICE: "alice"}) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template[template.index("/{repo_id}") :])
        if files:
            hub.add(NAME, files, private=True)
        yield hub


def state(hub: LoopbackHub) -> dict[str, bytes]:
    """What is on main; of a repo that was just made, nothing."""
    files = hub.files(NAME) if ("models", NAME) in hub.repos else {}
    return {path: content for path, content in files.items() if path != ".gitattributes"}


def told(run: Path) -> str:
    """What a push says that goes wrong; nothing if it does not."""
    try:
        push(run, tag=TAG, verify=False, say=lambda line: None)
        return ""
    except UserError as error:
        assert "\n" not in str(error) and ALICE not in str(error)
        return str(error)


def requests_of(run: Path, files: dict[str, bytes]) -> tuple[list[tuple[str, str]], dict[str, bytes]]:
    """Those of one push that nothing disturbs, and what is there afterwards."""
    with hub_with(files) as hub:
        assert told(run) == ""
        return hub.requests, state(hub)


def plan(hub: LoopbackHub, number: int, request: tuple[str, str], fault: str) -> None:
    """Let the request of this number meet the fault, and with it all later ones that are the same but for hashes."""
    how, times = FAULTS[fault]
    if times == 1:
        hub.fail(".", how, skip=number)
    else:
        method, path = request
        alike = re.sub("[0-9a-f]{40,}", "[0-9a-f]+", re.escape(path.partition("?")[0]))
        hub.fail(rf"^{method} {alike}(\?.*)?$", how, times=times)


@pytest.mark.parametrize("before", [{}, OLD], ids=["a new repo", "a repo with a push"])
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_goes_wrong_wherever(run, monkeypatch, before, fault):
    requests, after = requests_of(run, before)
    assert len(requests) >= 10 and after.keys() > {"config.json", "serving.json", *before}
    failed = 0
    for number, request in enumerate(requests):
        with hub_with(before) as hub:
            plan(hub, number, request, fault)
            with monkeypatch.context() as patch:
                limit = 0.15 if fault == "hang" else 60
                waits = (0.01, 0.01, 0.01)
                patch.setattr("hub_utils.portable.patience._now", Patience(waits, silence=limit, writing=limit))
                said, where = told(run), f"{fault} at {request}"
            left = state(hub)
            assert left in (before, after), where
            if said:
                failed += 1
                assert states(said) & ({"unknown"} | {"new" if left == after else "old"}), (where, said)
            else:
                assert left == after, where
            hub.recover()
            assert told(run) == "", where
            assert state(hub) == after, where
            repo = hub.repos["models", NAME]
            assert repo.tags == {TAG: repo.branches["main"]}, where
            assert [commit.title for commit in hub.commits(NAME)].count(MESSAGE) == 1, where
    assert failed >= (0 if fault == "lose once" else 6)


def states(said: str) -> set[str]:
    """Which states the words stand for."""
    words = {
        "nothing has changed on the Hub": "old",
        "no file was sent": "old",
        "all of it is on the Hub, as": "new",
        "all files are there, as": "new",
        "could not be asked: it is there whole or not at all": "unknown",
    }
    found = {which for words, which in words.items() if words in said}
    assert len(found) == 1, said
    return found


REFUSED = {
    401: "the Hub asks who you are",
    403: "the token may only read, or the name belongs to another",
    409: "something else is being done there",
    412: "somebody else changed it meanwhile",
    429: "too many requests (HTTP 429); the same command again in 7 s",
    500: "the Hub answers HTTP 500; the same command again in 7 s",
}


@pytest.mark.parametrize("status", REFUSED)
def test_a_refusal_of_the_hub_is_told_in_words_and_the_same_command_goes_through(run, status):
    with hub_with(OLD) as hub:
        hub.fail("POST .*/commit/", status, times=math.inf, Retry_After=7)
        said = told(run)
        assert REFUSED[status] in said and states(said) == {"old"} and state(hub) == OLD
        hub.recover()
        assert told(run) == "" and state(hub).keys() > OLD.keys()


@pytest.mark.parametrize("how", [503, "refuse", "lose"])
def test_a_commit_that_goes_wrong_and_is_not_there_is_sent_again(run, how):
    with hub_with(OLD) as hub:
        hub.fail("POST .*/commit/", how, times=1 if how == "lose" else 3)
        assert told(run) == ""
        assert [commit.title for commit in hub.commits(NAME)].count(MESSAGE) == 1


def test_an_answer_that_comes_garbled_is_one_line(run, monkeypatch):
    def garbled(*words, **how):
        raise KeyError("shouldIgnore")

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", garbled)
    with hub_with(OLD) as hub:
        assert "the upload failed ('shouldIgnore')" in told(run) and state(hub) == OLD


def test_a_card_that_the_hub_refuses(run, tmp_path):
    changed = shutil.copytree(run, tmp_path / "colours")
    (changed / "README.md").write_text("---\nlicense: [\n---\n# Mine\n")
    with hub_with({}) as hub:
        said = told(changed)
        assert "the Hub refuses the card: Invalid metadata in README.md" in said and states(said) == {"old"}
        assert state(hub) == {}


def test_somebody_else_commits_in_the_middle_and_nothing_of_theirs_is_lost(run, monkeypatch):
    with hub_with(OLD) as hub:
        monkeypatch.setattr(
            "hub_utils.push._warn_of_data", lambda *all: hub.add(NAME, {"README.md": b"# Theirs\n"}, private=True)
        )
        assert "somebody else changed it meanwhile (HTTP 412)" in told(run)
        assert state(hub) == OLD | {"README.md": b"# Theirs\n"}


def started(run: Path, hub: LoopbackHub, home: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "hub_utils.push", str(run), "--no_verify", "--tag", TAG]
    environment = hub.environment(home, ALICE) | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(met: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not met():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["PUT ", "POST .*/commit/"])
def test_ctrl_c_and_kill_leave_the_old_state_and_the_same_command_goes_through(run, tmp_path, where):
    with LoopbackHub(tokens={ALICE: "alice"}) as hub:
        hub.add(NAME, OLD, private=True)
        for number, signalled in enumerate((signal.SIGINT, signal.SIGKILL)):
            hub.fail(where, "hang", seconds=60)
            process = started(run, hub, tmp_path)
            wait_for(lambda: len([each for each in hub.requests if re.match(where, " ".join(each))]) > number)  # noqa: B023
            process.send_signal(signalled)
            said = process.communicate(timeout=60)[1]
            assert process.returncode == (130 if signalled == signal.SIGINT else -signal.SIGKILL)
            assert state(hub) == OLD and ALICE not in said
            if signalled == signal.SIGINT:
                assert said.splitlines()[-1] == "error: interrupted; nothing has changed on the Hub"
                assert "Traceback" not in said
            hub.recover()
        finished = started(run, hub, tmp_path)
        said = finished.communicate(timeout=120)[1]
        assert finished.returncode == 0, said
        assert state(hub).keys() > OLD.keys() and state(hub)["model.safetensors"] != b"old"
