"""The loopback Hub goes wrong when it is told to, as often as it is told to, and the real client notices."""

import time

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError
from huggingface_hub.utils._http import default_client_factory
from loopback_hub import LoopbackHub

from hub_utils.portable import patience

FILES = {"README.md": b"---\nlicense: mit\n---\n# Tiny\n", "model.safetensors": b"weights"}
COMMIT = "POST .*/commit/"
RESOLVE = "GET .*/resolve/.*README"


@pytest.fixture
def hub(monkeypatch):
    set_client_factory(default_client_factory)  # ours would ask again
    monkeypatch.setattr(patience, "_is_set", False)
    # The client would wait 23 seconds before it gives up.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with LoopbackHub(tokens={"hf_alice": "alice"}) as hub:
        hub.add("alice/tiny", {"README.md": b"old"})
        yield hub


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(endpoint=hub.url, token="hf_alice")


def push(api: HfApi) -> str:
    operations = [CommitOperationAdd(path, content) for path, content in FILES.items()]
    return api.create_commit("alice/tiny", operations, commit_message="Files").oid


def test_a_refused_request_has_done_nothing_and_the_next_one_works(hub, api):
    hub.fail(COMMIT, "refuse")
    with pytest.raises(HTTPError):
        push(api)
    assert hub.files("alice/tiny") == {"README.md": b"old"}
    push(api)
    assert hub.files("alice/tiny") == FILES


def test_a_lost_answer_is_to_something_that_was_done(hub, api):
    hub.fail(COMMIT, "lose")
    with pytest.raises(HTTPError):
        push(api)
    assert hub.files("alice/tiny") == FILES and len(hub.commits("alice/tiny")) == 2
    push(api)
    assert len(hub.commits("alice/tiny")) == 2  # nothing was left to do


@pytest.mark.parametrize("where", ["preupload", "lfs/objects/batch", "PUT /storage/", "lfs/objects/verify", "/commit/"])
def test_the_power_goes_anywhere_in_an_upload_and_the_old_state_is_there(hub, api, where):
    hub.fail(where, "down")
    with pytest.raises((HTTPError, RuntimeError)):
        push(api)
    with pytest.raises(HTTPError):
        api.model_info("alice/tiny")
    assert hub.files("alice/tiny") == {"README.md": b"old"}
    hub.recover()
    push(api)
    assert hub.files("alice/tiny") == FILES


def test_what_hangs_answers_nothing_until_its_time_or_its_recovery(hub, api):
    hub.fail("whoami", "hang", seconds=0.2)
    before = time.monotonic()
    with pytest.raises(HTTPError):
        api.whoami()
    assert time.monotonic() - before >= 0.2
    hub.fail("revision", "hang", seconds=60)
    with pytest.raises(HTTPError):
        api.model_info("alice/tiny", revision="main", timeout=0.1)
    hub.recover()
    assert api.model_info("alice/tiny", revision="main").id == "alice/tiny"


def test_a_body_that_was_cut_short_is_noticed(hub, api, tmp_path):
    hub.add("alice/tiny", FILES)
    hub.fail(RESOLVE, "cut", times=9)
    with pytest.raises((HTTPError, OSError)):
        api.hf_hub_download("alice/tiny", "README.md", cache_dir=tmp_path)
    hub.recover()
    hub.fail(RESOLVE, "cut")
    with open(api.hf_hub_download("alice/tiny", "README.md", cache_dir=tmp_path), "rb") as file:
        assert file.read() == FILES["README.md"]  # the client goes on where it was cut


def test_a_wrong_bit_is_in_what_arrives(hub, api, tmp_path):
    """The client does not compare hashes: whoever needs to be sure must."""
    hub.add("alice/tiny", FILES)
    hub.fail("GET /storage/", "corrupt")
    with open(api.hf_hub_download("alice/tiny", "model.safetensors", cache_dir=tmp_path), "rb") as file:
        arrived = file.read()
    assert len(arrived) == 7 and arrived != FILES["model.safetensors"]


def test_a_wrong_bit_on_the_way_up_is_refused_by_its_checksum(hub, api):
    hub.fail("PUT /storage/", "corrupt")
    with pytest.raises(RuntimeError) as refused:
        push(api)
    assert "XAmzContentSHA256Mismatch" in str(refused.value.__cause__)
    assert hub.files("alice/tiny") == {"README.md": b"old"}
    push(api)
    assert hub.files("alice/tiny") == FILES


def test_a_redirect_in_a_circle_ends(hub, api, tmp_path):
    hub.fail("HEAD .*/resolve/", "loop", times=99)
    with pytest.raises((HTTPError, LocalEntryNotFoundError)):
        api.hf_hub_download("alice/tiny", "README.md", cache_dir=tmp_path)
    hub.recover()
    api.hf_hub_download("alice/tiny", "README.md", cache_dir=tmp_path)


def test_a_status_comes_with_its_headers_after_those_that_were_skipped(hub, api):
    hub.fail("whoami", 429, times=2, skip=1, Retry_After=7)
    assert api.whoami()["name"] == "alice"
    for _ in range(2):
        with pytest.raises(HfHubHTTPError) as refused:
            api.whoami()
        assert (refused.value.response.status_code, refused.value.response.headers["Retry-After"]) == (429, "7")
    assert api.whoami()["name"] == "alice"


def test_the_client_tries_again_what_it_may_and_the_hub_counts(hub, api):
    hub.fail("preupload", 503, times=2)
    push(api)
    assert [path for _, path in hub.requests if "preupload" in path] == ["/api/models/alice/tiny/preupload/main"] * 3
    assert hub.files("alice/tiny") == FILES


def test_what_is_no_fault_is_said_at_once(hub):
    with pytest.raises(ValueError, match="no fault 'explode'"):
        hub.fail("whoami", "explode")
