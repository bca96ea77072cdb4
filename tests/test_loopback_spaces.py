"""The loopback Hub's Spaces, as the real client sees them."""

import urllib.request
from importlib.metadata import version

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, SpaceStage
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

APP = """\
import os
from http.server import HTTPServer, SimpleHTTPRequestHandler
open("config", "w").write(os.environ["COLOUR"] + os.environ["KEY"])
print("here I am", flush=True)
HTTPServer(("127.0.0.1", int(os.environ["GRADIO_SERVER_PORT"])), SimpleHTTPRequestHandler).serve_forever()
"""


def make(api: HfApi, **how) -> str:
    api.create_repo("alice/page", repo_type="space", space_sdk="gradio", private=True, **how)
    return "alice/page"


def test_a_space_keeps_variables_and_secrets_and_shows_no_secret(api, hub):
    page = make(api, space_variables=[{"key": "A", "value": "1"}], space_hardware="zero-a10g")
    api.add_space_variable(page, "B", "2")
    api.add_space_secret(page, "KEY", "hidden")
    assert {key: each.value for key, each in api.get_space_variables(page).items()} == {"A": "1", "B": "2"}
    assert list(api.get_space_secrets(page)) == ["KEY"]
    assert api.get_space_runtime(page).requested_hardware == "zero-a10g"
    api.delete_space_variable(page, "A")
    assert hub.spaces[page].variables == {"B": "2"} and hub.spaces[page].secrets == {"KEY": "hidden"}


def test_stages_come_in_turn_and_the_last_stays(api, hub):
    page = make(api)
    assert api.get_space_runtime(page).stage == SpaceStage.NO_APP_FILE
    hub.spaces[page].stages = ["BUILDING", "APP_STARTING", "RUNNING"]
    assert api.wait_for_space(page, poll_interval=0.01).stage == SpaceStage.RUNNING
    assert api.get_space_runtime(page).stage == SpaceStage.RUNNING


def test_logs_are_told_line_by_line(api, hub):
    page = make(api)
    hub.spaces[page].build = ["one\n", "two\n"]
    assert list(api.fetch_space_logs(page, build=True)) == ["one\n", "two\n"]
    assert list(api.fetch_space_logs(page)) == []


def test_nobody_else_sees_a_private_space_or_changes_a_public_one(api, hub):
    bob = HfApi(endpoint=hub.url, token="hf_bob")
    page = make(api)
    with pytest.raises(RepositoryNotFoundError):
        bob.get_space_runtime(page)
    api.update_repo_settings(page, repo_type="space", visibility="public")
    assert bob.get_space_runtime(page).stage == SpaceStage.NO_APP_FILE
    with pytest.raises(HfHubHTTPError):
        bob.add_space_variable(page, "A", "1")


def test_an_account_that_does_not_pay_has_zerogpu_and_nothing_else(api, hub):
    hub.free_accounts = {"alice"}
    with pytest.raises(HfHubHTTPError, match="402"):
        make(api)
    assert make(api, space_hardware="zero-a10g") in hub.spaces


def commit(api: HfApi, page: str, requirements: str) -> str:
    files = {"app.py": APP, "requirements.txt": requirements}
    operations = [CommitOperationAdd(path, text.encode()) for path, text in files.items()]
    return api.create_commit(page, operations, commit_message="A page", repo_type="space").oid


def test_a_space_runs_what_was_committed_with_its_variables_and_secrets(api, hub):
    hub.runs_spaces = True
    page = make(api, space_variables=[{"key": "COLOUR", "value": "teal"}], space_secrets=[{"key": "KEY", "value": "s"}])
    sha = commit(api, page, f"pillow=={version('pillow')}")
    runtime = api.wait_for_space(page, timeout=30, poll_interval=0.05)
    assert (runtime.stage, runtime.raw["sha"]) == ("RUNNING", sha)
    with urllib.request.urlopen(hub.spaces[page].url + "/config") as answer:
        assert answer.read() == b"teals"
    for _ in range(1000):  # what it said may come a moment after what it answered
        if said := list(api.fetch_space_logs(page)):
            break
    assert "here I am\n" in said


def test_a_space_whose_requirements_are_not_to_be_had_is_not_built(api, hub):
    hub.runs_spaces = True
    page = make(api)
    commit(api, page, "pillow==0.0.1")
    assert api.wait_for_space(page, timeout=30, poll_interval=0.05).stage == SpaceStage.BUILD_ERROR
    assert (
        list(api.fetch_space_logs(page, build=True))[-1] == "ERROR: No matching distribution found for pillow==0.0.1\n"
    )


def test_a_space_whose_app_ends_has_a_runtime_error_and_a_log_of_it(api, hub):
    hub.runs_spaces = True
    page = make(api)
    commit(api, page, "")  # without the variable that it reads
    assert api.wait_for_space(page, timeout=30, poll_interval=0.05).stage == SpaceStage.RUNTIME_ERROR
    assert "KeyError: 'COLOUR'" in "".join(api.fetch_space_logs(page))
