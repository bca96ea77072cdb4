"""The real client writes to the loopback Hub: what it sent is there, all or nothing, and only from those who may."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from loopback_hub import LFS_BYTES, LoopbackHub

FILES = {
    "README.md": b"---\nlicense: mit\n---\n# Tiny\n",
    "a/b/c d+e.txt": b"",
    "model.safetensors": b"weights",
    "photo.png": b"0123456789abcdef" * (LFS_BYTES // 16) + b"the end",  # in three parts
}

UPLOAD = """
import sys
from huggingface_hub import CommitOperationAdd, HfApi
HfApi().create_repo("alice/tiny", private=True)
weights = CommitOperationAdd("model.safetensors", sys.argv[1])
print(HfApi().create_commit("alice/tiny", [weights], commit_message="Weights").oid)
"""

DOWNLOAD = """
import sys
from huggingface_hub import hf_hub_download
print(hf_hub_download("alice/tiny", "model.safetensors", revision=sys.argv[1]))
"""


@pytest.fixture
def hub(monkeypatch):
    # The client would wait 23 seconds before it gives up.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    tokens = {"hf_alice": "alice", "hf_bob": "bob", "hf_reader": "alice"}
    with LoopbackHub(tokens, roles={"hf_reader": "read"}, organisations={"acme": ["alice"]}) as hub:
        yield hub


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(endpoint=hub.url, token="hf_alice")


def adding(files: dict[str, bytes]) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(path, content) for path, content in files.items()]


def commit(api: HfApi, files: dict[str, bytes], repo_id: str = "alice/tiny", **options) -> str:
    return api.create_commit(repo_id, adding(files), commit_message="Files", **options).oid


def paths(hub: LoopbackHub, method: str) -> list[str]:
    return [path for asked, path in hub.requests if asked == method]


def test_what_was_uploaded_is_there_byte_for_byte_and_comes_back(hub, api, tmp_path):
    assert api.create_repo("tiny", private=True).repo_id == "alice/tiny"
    sha = commit(api, FILES)

    assert hub.files("alice/tiny", revision=sha) == FILES | {
        ".gitattributes": hub.files("alice/tiny")[".gitattributes"]
    }
    for path in FILES:
        assert Path(api.hf_hub_download("alice/tiny", path, cache_dir=tmp_path)).read_bytes() == FILES[path]
    info = api.get_paths_info("alice/tiny", "photo.png")[0]
    assert (info.size, info.lfs.sha256) == (len(FILES["photo.png"]), sha256(FILES["photo.png"]).hexdigest())
    parts = [path for path in paths(hub, "PUT") if f"{info.lfs.sha256}/" in path]
    assert len(parts) == 3


def test_a_data_set_and_a_space_are_uploaded_under_their_own_addresses(hub, api):
    for repo_type, sdk in (("dataset", None), ("space", "static")):
        api.create_repo("alice/tiny", repo_type=repo_type, space_sdk=sdk)
        commit(api, FILES, repo_type=repo_type)
        assert hub.files("alice/tiny", repo_type).items() >= FILES.items()
    assert ("models", "alice/tiny") not in hub.repos


def test_a_commit_sends_only_what_changed_and_an_equal_one_is_none(hub, api):
    api.create_repo("alice/tiny")
    first = commit(api, FILES)
    hub.requests.clear()
    assert commit(api, FILES) == first
    assert not [path for path in paths(hub, "POST") if "/commit/" in path]

    second = commit(api, FILES | {"README.md": b"---\nlicense: mit\n---\n# New\n"})
    assert second != first and not paths(hub, "PUT")
    assert [one.sha for one in hub.commits("alice/tiny")][1:] == [first, second]
    assert hub.files("alice/tiny", revision=first)["README.md"] == FILES["README.md"]


def test_a_commit_from_an_old_state_is_refused(hub, api):
    api.create_repo("alice/tiny")
    first = commit(api, FILES)
    commit(api, {"notes.txt": b"meanwhile"}, parent_commit=first)
    before = hub.files("alice/tiny")
    with pytest.raises(HfHubHTTPError, match="412"):
        commit(api, {"notes.txt": b"too late"}, parent_commit=first)
    assert hub.files("alice/tiny") == before


def test_a_commit_that_fails_in_its_last_operation_changes_nothing(hub, api):
    api.create_repo("alice/tiny")
    commit(api, FILES)
    before = hub.files("alice/tiny")
    operations = adding({"notes.txt": b"new"}) + [CommitOperationDelete("missing.txt")]
    with pytest.raises(EntryNotFoundError):
        api.create_commit("alice/tiny", operations, commit_message="Half")
    assert hub.files("alice/tiny") == before and len(hub.commits("alice/tiny")) == 2


def test_files_and_folders_are_deleted(hub, api):
    api.create_repo("alice/tiny")
    commit(api, FILES)
    api.create_commit(
        "alice/tiny", [CommitOperationDelete("a/"), CommitOperationDelete("README.md")], commit_message="-"
    )
    assert hub.files("alice/tiny").keys() == {".gitattributes", "model.safetensors", "photo.png"}


def test_weights_that_were_never_sent_cannot_be_committed(hub, api):
    """Nor those that somebody else has, whose hash one knows."""
    hub.add("bob/secret", FILES, private=True)
    api.create_repo("alice/tiny")
    theft = CommitOperationAdd("model.safetensors", FILES["model.safetensors"])
    theft._upload_mode, theft._should_ignore, theft._is_uploaded = "lfs", False, True
    with pytest.raises(HfHubHTTPError, match="does not exist"):
        api.create_commit("alice/tiny", [theft], commit_message="Mine")


def test_a_repo_is_created_once_and_its_visibility_stays(hub, api):
    api.create_repo("alice/tiny", private=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("alice/tiny")
    assert api.create_repo("alice/tiny", private=False, exist_ok=True).repo_id == "alice/tiny"
    info = api.model_info("alice/tiny")
    assert info.private and info.visibility == "private"
    assert [each.rfilename for each in info.siblings] == [".gitattributes"]

    api.update_repo_settings("alice/tiny", private=False)
    assert HfApi(endpoint=hub.url, token=False).model_info("alice/tiny").visibility == "public"


def test_a_name_that_the_hub_does_not_take_is_refused(hub):
    from huggingface_hub import get_session

    headers = {"Authorization": "Bearer hf_alice"}
    for name in ("two--dashes", "-dash", "space here", "x" * 97):
        answer = get_session().post(f"{hub.url}/api/repos/create", json={"name": name}, headers=headers)
        assert answer.status_code == 400, name


@pytest.mark.parametrize(("token", "status"), [("hf_bob", 403), ("hf_reader", 403), (False, 401)])
def test_only_its_owner_writes_to_a_repo(hub, api, token, status):
    api.create_repo("alice/tiny")
    sha = commit(api, FILES)
    before = hub.files("alice/tiny")
    stranger = HfApi(endpoint=hub.url, token=token)
    for attempt in (
        lambda: stranger.create_repo("alice/other"),
        lambda: commit(stranger, {"notes.txt": b"mine"}),
        lambda: stranger.create_tag("alice/tiny", tag="v1"),
        lambda: stranger.create_branch("alice/tiny", branch="mine"),
        lambda: stranger.update_repo_settings("alice/tiny", private=True),
    ):
        with pytest.raises(HfHubHTTPError) as refused:
            attempt()
        assert refused.value.response.status_code == status
    assert hub.files("alice/tiny") == before and api.model_info("alice/tiny").sha == sha
    assert not hub.repos["models", "alice/tiny"].private and len(hub.repos) == 1


def test_a_private_repo_is_not_even_there_for_another_who_writes(hub, api):
    api.create_repo("alice/tiny", private=True)
    with pytest.raises(RepositoryNotFoundError):
        commit(HfApi(endpoint=hub.url, token="hf_bob"), FILES)


def test_members_write_to_their_organisation(hub, api):
    assert [org["name"] for org in api.whoami()["orgs"]] == ["acme"]
    api.create_repo("acme/tiny", private=True)
    commit(api, FILES, "acme/tiny")
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=hub.url, token="hf_bob").model_info("acme/tiny")
    reader = HfApi(endpoint=hub.url, token="hf_reader")
    assert reader.model_info("acme/tiny").private
    assert reader.whoami()["auth"]["accessToken"]["role"] == "read"


def test_tags_and_branches_name_commits_and_keep_them(hub, api):
    api.create_repo("alice/tiny")
    first = commit(api, FILES)
    api.create_tag("alice/tiny", tag="v1")
    api.create_branch("alice/tiny", branch="feature/x")
    second = commit(api, {"README.md": b"---\nlicense: mit\n---\n# Second"})
    third = commit(api, {"README.md": b"---\nlicense: mit\n---\n# Third"}, revision="feature/x")
    api.create_tag("alice/tiny", tag="v2", revision="feature/x")

    refs = api.list_repo_refs("alice/tiny")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second, "feature/x": third}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": first, "v2": third}
    assert hub.files("alice/tiny", revision="v1")["README.md"] == FILES["README.md"]
    listed = api.list_repo_commits("alice/tiny", revision="feature/x")
    assert [one.commit_id for one in listed][:2] == [third, first]
    assert (listed[0].title, listed[0].authors) == ("Files", ["alice"])
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("alice/tiny", tag="v1")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch("alice/tiny", branch="main")
    with pytest.raises(RevisionNotFoundError):
        api.create_tag("alice/tiny", tag="v3", revision="nowhere")
    with pytest.raises(RevisionNotFoundError):
        commit(api, {"README.md": b"---\nlicense: mit\n---\n# Third"}, revision="v1")  # a tag does not move


def test_a_card_with_broken_front_matter_is_refused_before_anything_is_sent(hub, api):
    api.create_repo("alice/tiny")
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        commit(api, FILES | {"README.md": b"---\nlicense: [mit\n---\n"})
    assert len(hub.commits("alice/tiny")) == 1
    with pytest.warns(UserWarning, match="empty or missing yaml"):
        commit(api, {"README.md": b"# No front matter"})


def test_a_private_large_file_lies_on_another_host_and_opens_by_its_signature_only(hub, api, tmp_path):
    from huggingface_hub import get_session

    api.create_repo("alice/tiny", private=True)
    commit(api, FILES)
    hub.requests.clear()
    api.hf_hub_download("alice/tiny", "model.safetensors", cache_dir=tmp_path)
    at = next(path for path in paths(hub, "GET") if path.startswith("/storage/"))
    plain = get_session().get(hub.url + at.partition("?")[0])
    assert plain.status_code == 403
    # As at the real store, which takes a signature or a token: the client has sent it none.
    both = get_session().get(hub.url + at, headers={"Authorization": "Bearer hf_alice"})
    assert both.status_code == 400


def test_xet_uploads_and_downloads_through_its_own_store(hub, tmp_path):
    """In processes of their own: hf_xet holds its store as long as a process lives."""
    weights = tmp_path / "weights"
    weights.write_bytes(FILES["photo.png"])

    def run(code: str, argument: str, home: str, xet: bool) -> str:
        environment = hub.environment(tmp_path / home, "hf_alice", xet=xet)
        return subprocess.check_output([sys.executable, "-c", code, argument], env=environment, text=True).strip()

    sha = run(UPLOAD, str(weights), "first", xet=True)
    asked = [path for _, path in hub.requests]
    assert any("/xet-write-token/" in path for path in asked)
    assert not any("/info/lfs/" in path or path.startswith("/storage/") for path in asked)
    assert hub.commits("alice/tiny")[-1].files["model.safetensors"].xet

    hub.requests.clear()
    assert Path(run(DOWNLOAD, sha, "second", xet=True)).read_bytes() == FILES["photo.png"]
    asked = [path for _, path in hub.requests]
    assert any("/xet-read-token/" in path for path in asked)
    assert not any(path.startswith("/storage/") for path in asked)

    assert Path(run(DOWNLOAD, sha, "third", xet=False)).read_bytes() == FILES["photo.png"]
    assert hub.files("alice/tiny")["model.safetensors"] == FILES["photo.png"]
