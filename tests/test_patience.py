"""The Hub's client is patient: what it asks twice and what never, for how long, and what it makes of a damaged file."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT
from huggingface_hub import CommitOperationAdd, HfApi, close_session, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from loopback_hub import LFS_BYTES, LoopbackHub

from hub_utils.portable import patience
from hub_utils.portable.hub import why
from hub_utils.portable.patience import AwayError, Patience, be_patient
from hub_utils.portable.whole_download import DamagedError

FILES = {"README.md": b"# Tiny\n", "model.safetensors": b"weights" * 1000}


@pytest.fixture
def waited(monkeypatch) -> list[float]:
    """Seconds that would have been waited."""
    waits: list[float] = []
    this, sleep = threading.current_thread(), time.sleep

    def hardly_sleep(seconds: float) -> None:
        (waits.append if threading.current_thread() is this else sleep)(seconds)

    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", hardly_sleep)
    return waits


@pytest.fixture
def hub(waited, monkeypatch):
    monkeypatch.setattr(patience, "_now", Patience(silence=5))
    close_session()  # which knows of another Hub
    be_patient()
    with LoopbackHub(tokens={"hf_alice": "alice"}) as hub:
        hub.add("alice/tiny", FILES)
        yield hub


def times(hub: LoopbackHub, pattern: str) -> int:
    return sum(pattern in f"{method} {path}" for method, path in hub.requests)


@pytest.mark.parametrize("how", ["refuse", 500, 502, 503, 504, 429, 408])
def test_what_only_reads_is_asked_again_and_three_failures_do_no_harm(hub, api, waited, how):
    hub.fail("GET /api/models", how, times=3)
    assert api.model_info("alice/tiny").id == "alice/tiny"
    assert waited == [1, 2, 4] and times(hub, "GET /api/models") == 4


@pytest.mark.parametrize("how", ["refuse", 503, 429])
def test_a_hub_that_stays_away_is_asked_four_times_and_then_once_for_each_other_file(hub, api, waited, how):
    hub.fail(".*", how, times=99)
    for _ in range(3):
        with pytest.raises((AwayError, HfHubHTTPError)):
            api.whoami()
    assert waited == [1, 2, 4] and times(hub, "whoami") == 4 + 1 + 1
    hub.recover()
    api.whoami()


def test_nobody_waits_where_there_never_was_a_hub(waited):
    close_session()
    be_patient()
    with pytest.raises(AwayError) as away:
        HfApi(endpoint="http://127.0.0.1:9", token=False).model_info("alice/tiny")
    assert waited == [] and "the Hub cannot be reached" in why(away.value)


def test_a_commit_is_never_repeated_here(hub, api, waited):
    for how in ("refuse", "lose", 503):
        before = times(hub, "/commit/")
        hub.fail("POST .*/commit/", how, times=1)
        with pytest.raises(Exception):  # noqa: B017  of many kinds
            api.create_commit("alice/tiny", [CommitOperationAdd("a.txt", how.__repr__().encode())], commit_message="A")
        assert times(hub, "/commit/") == before + 1
    assert waited == []


def test_who_is_sent_away_for_asking_too_much_may_commit_later(hub, api, waited):
    hub.fail("POST .*/commit/", 429, Retry_After=7)
    api.create_commit("alice/tiny", [CommitOperationAdd("a.txt", b"a")], commit_message="A")
    assert waited == [7] and hub.files("alice/tiny")["a.txt"] == b"a"


@pytest.mark.parametrize("status", [429, 503])
def test_the_hub_is_left_alone_as_long_as_it_asks_but_not_for_an_hour(hub, api, waited, status):
    hub.fail("GET /api/models", status, Retry_After=40)
    api.model_info("alice/tiny")
    assert waited == [40]
    for asked in (3600, "Fri, 31 Dec 2100 23:59:59 GMT"):
        hub.fail("GET /api/models", status, Retry_After=asked)
        with pytest.raises(HfHubHTTPError) as refused:
            api.model_info("alice/tiny")
        assert "again in " in why(refused.value) and waited == [40]
    assert "in 60 min" in why(refusal(hub, api, 3600)) and "in 90 s" in why(refusal(hub, api, 90))


def refusal(hub: LoopbackHub, api: HfApi, seconds: int) -> HfHubHTTPError:
    hub.fail("whoami", 429, Retry_After=seconds)
    with pytest.raises(HfHubHTTPError) as refused:
        api.whoami()
    return refused.value


def test_a_silent_hub_is_waited_for_once_by_whoever_sets_no_limit(hub, api, waited, monkeypatch):
    monkeypatch.setattr(patience, "_now", Patience(silence=0.3, writing=0.3))
    hub.fail(".*", "hang", times=99, seconds=20)
    began = time.monotonic()
    with pytest.raises(AwayError):
        api.model_info("alice/tiny")
    with pytest.raises(AwayError):
        api.create_commit("alice/tiny", [CommitOperationAdd("a.txt", b"a")], commit_message="A")
    assert time.monotonic() - began < 10


def test_a_slow_hub_is_listened_to(hub, tmp_path, waited):
    hub.fail("GET /alice", "slow", seconds=0.5)
    path = hf_hub_download("alice/tiny", "README.md", endpoint=hub.url, token=False, cache_dir=tmp_path)
    assert Path(path).read_bytes() == FILES["README.md"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["corrupt", "cut", 500, 503, "refuse"])
def test_a_file_that_goes_wrong_once_is_there_as_it_should_be(hub, tmp_path, waited, name, how):
    hub.fail("GET .*(/resolve/|/storage/)", how)
    path = hf_hub_download("alice/tiny", name, endpoint=hub.url, token=False, cache_dir=tmp_path)
    assert Path(path).read_bytes() == FILES[name]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_came_damaged_twice_is_not_in_the_cache(hub, tmp_path, waited, name):
    hub.fail("GET .*(/resolve/|/storage/)", "corrupt", times=99)
    with pytest.raises(DamagedError) as refused:
        hf_hub_download("alice/tiny", name, endpoint=hub.url, token=False, cache_dir=tmp_path)
    assert f"{name} came damaged, twice" in why(refused.value)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "blobs" in path.parts]
    assert files == [] and not list(tmp_path.rglob(name))
    hub.recover()
    path = hf_hub_download("alice/tiny", name, endpoint=hub.url, token=False, cache_dir=tmp_path)
    assert Path(path).read_bytes() == FILES[name]


def test_a_large_file_that_is_cut_and_then_damaged_is_fetched_whole(hub, tmp_path, waited, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", LFS_BYTES // 10)
    content = bytes(range(256)) * (LFS_BYTES // 128)
    hub.add("alice/large", {"model.safetensors": content, "twin.safetensors": content})
    hub.fail("GET .*/storage/", "cut")
    hub.fail("GET .*/storage/", "corrupt")
    folder = snapshot_download("alice/large", endpoint=hub.url, token=False, local_dir=tmp_path / "here")
    for path in Path(folder).glob("*.safetensors"):
        assert path.read_bytes() == content


def test_what_is_missing_is_not_repeated_and_not_taken_for_being_away(hub, tmp_path, waited):
    with pytest.raises(Exception, match="404"):
        hf_hub_download("alice/tiny", "nothing.json", endpoint=hub.url, token=False, cache_dir=tmp_path)
    assert waited == []


def test_what_is_in_the_cache_serves_while_the_hub_is_away(hub, tmp_path, waited):
    how = {"endpoint": hub.url, "token": False, "cache_dir": tmp_path}
    first = snapshot_download("alice/tiny", **how)
    for fault in ("refuse", 503):
        hub.fail(".*", fault, times=999)
        assert snapshot_download("alice/tiny", **how) == first
        with pytest.raises(LocalEntryNotFoundError):
            snapshot_download("alice/other", **how)
        hub.recover()


def test_nobody_else_is_told_which_data_set_is_loaded():
    from datasets import config

    from training.data.source import ask_patiently

    ask_patiently()
    assert config.HF_UPDATE_DOWNLOAD_COUNTS is False


def test_openvino_reports_nothing_to_its_maker():
    code = "import sys; from hub_utils.portable import network; network._tell_nobody(); import openvino; "
    code += "sys.exit(any(name.startswith('openvino_telemetry.') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
