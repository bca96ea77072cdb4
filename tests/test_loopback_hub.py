"""The real clients ask the loopback Hub: they get what was added, and only those for whom it is."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, HfFileSystem, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from loopback_hub import LFS_BYTES, LoopbackHub
from PIL import Image

FILES = {
    "README.md": b"---\nlicense: mit\n---\n# Tiny\n",
    "a/b/c d+e.txt": b"",
    "hello.txt": b"hello\n",
    "model.safetensors": b"weights",
}
COLOURS = {"red": [200, 30, 30], "green": [30, 200, 30], "blue": [30, 30, 200]}

CLASSIFY = """
import json, sys
from transformers import pipeline
print(json.dumps(pipeline("image-classification", model=sys.argv[1])(sys.argv[2])))
"""

LOAD_PHOTOS = """
import json
from datasets import load_dataset
photos = load_dataset("alice/photos", split="train")
rows = [[photo["image"].getpixel((0, 0)), photo["label"]] for photo in photos]
print(json.dumps({"names": photos.features["label"].names, "rows": rows}))
"""


@pytest.fixture
def hub():
    with LoopbackHub(tokens={"hf_alice": "alice", "hf_bob": "bob"}) as hub:
        yield hub


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)


def run(code: str, *arguments: str, env: dict[str, str]):
    """What the code prints as JSON, in a process that imports the clients anew."""
    command = [sys.executable, "-c", code, *arguments]
    finished = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, timeout=120)
    return json.loads(finished.stdout)


def read_all(folder: str) -> dict[str, bytes]:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_snapshot_holds_the_bytes_that_were_added(hub, api, tmp_path):
    hub.add("alice/tiny", FILES)
    assert read_all(api.snapshot_download("alice/tiny", cache_dir=tmp_path)) == FILES


def test_a_folder_is_added_with_its_subfolders(hub, api, tmp_path):
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "one.txt").write_text("1")
    hub.add("alice/demo", tmp_path, repo_type="space")
    assert api.list_repo_files("alice/demo", repo_type="space") == ["examples/one.txt"]


def test_a_large_file_arrives_whole_or_in_the_part_asked_for(hub, api, tmp_path):
    content = b"0123456789abcdef" * (LFS_BYTES // 16) + b"the end"
    (tmp_path / "large").write_bytes(content)
    hub.add("alice/tiny", {"large.bin": tmp_path / "large"})
    assert Path(api.hf_hub_download("alice/tiny", "large.bin", cache_dir=tmp_path)).read_bytes() == content

    files = HfFileSystem(endpoint=hub.url, token=False)
    assert files.cat_file("alice/tiny/large.bin", start=16002, end=16006) == b"2345"
    assert files.cat_file("alice/tiny/large.bin", start=LFS_BYTES) == b"the end"


def test_files_have_the_hashes_that_git_and_lfs_give_them(hub, api):
    sha = hub.add("alice/tiny", FILES)
    asked = ["hello.txt", "model.safetensors", "missing.txt"]
    hello, weights = api.get_paths_info("alice/tiny", asked)
    assert hello.blob_id == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert weights.blob_id == "c6a67be4f3ef29ed4a07b4f2446625126a25cfda"  # the same, of the LFS pointer
    assert weights.lfs.sha256 == hashlib.sha256(b"weights").hexdigest()

    answer = get_hf_file_metadata(hf_hub_url("alice/tiny", weights.path, endpoint=hub.url), token=False)
    assert (answer.etag, answer.size, answer.commit_hash) == (weights.lfs.sha256, len(b"weights"), sha)


def test_a_tree_lists_one_level_unless_recursive(hub, api):
    hub.add("alice/tiny", FILES)

    def paths(folder: str | None = None, recursive: bool = False) -> list[str]:
        return [entry.path for entry in api.list_repo_tree("alice/tiny", folder, recursive=recursive)]

    assert paths() == ["README.md", "a", "hello.txt", "model.safetensors"]
    assert paths("a/b") == ["a/b/c d+e.txt"]
    assert paths("a", recursive=True) == ["a/b", "a/b/c d+e.txt"]


def test_info_tells_the_head_and_the_card(hub, api):
    sha = hub.add("alice/tiny", FILES)
    info = api.model_info("alice/tiny", files_metadata=True)
    assert (info.sha, info.private, info.card_data.license) == (sha, False, "mit")
    assert {file.rfilename: file.size for file in info.siblings} == {name: len(FILES[name]) for name in FILES}
    assert api.list_repo_refs("alice/tiny").branches[0].target_commit == sha


def test_a_pinned_revision_keeps_its_bytes_after_a_newer_commit(hub, api, tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"old")
    old = hub.add("alice/tiny", {"model.safetensors": weights, "config.json": b"{}"})
    weights.write_bytes(b"new")
    new = hub.add("alice/tiny", {"model.safetensors": weights})

    def snapshot(revision: str) -> dict[str, bytes]:
        return read_all(api.snapshot_download("alice/tiny", revision=revision, cache_dir=tmp_path / "cache"))

    assert api.model_info("alice/tiny").sha == new != old
    assert snapshot(old) == {"model.safetensors": b"old", "config.json": b"{}"}
    assert snapshot("main") == {"model.safetensors": b"new", "config.json": b"{}"}


@pytest.mark.parametrize("token", [False, "hf_bob"])
def test_a_private_repo_is_hidden_from_everyone_else(hub, tmp_path, token):
    sha = hub.add("alice/secret", FILES, private=True)
    stranger = HfApi(endpoint=hub.url, token=token)
    with pytest.raises(RepositoryNotFoundError):
        stranger.model_info("alice/secret")
    with pytest.raises(RepositoryNotFoundError):
        stranger.list_repo_files("alice/secret", revision=sha)
    with pytest.raises(RepositoryNotFoundError):
        stranger.hf_hub_download("alice/secret", "README.md", revision=sha, cache_dir=tmp_path)


def test_a_private_repo_is_served_to_its_owner_and_stays_private(hub, tmp_path):
    hub.add("alice/secret", {"hello.txt": b"draft"}, private=True)
    hub.add("alice/secret", FILES)
    owner = HfApi(endpoint=hub.url, token="hf_alice")
    assert owner.model_info("alice/secret").private
    assert read_all(owner.snapshot_download("alice/secret", cache_dir=tmp_path)) == FILES


def test_what_does_not_exist_gets_the_error_of_its_kind(hub, api, tmp_path):
    hub.add("alice/tiny", FILES)
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download("alice/huge", "README.md", cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("alice/tiny")
    with pytest.raises(RevisionNotFoundError):
        api.snapshot_download("alice/tiny", revision="feature/x", cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("alice/tiny", "config.json", cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("alice/tiny", "no/such/folder"))


def test_a_token_names_its_user_and_an_unknown_one_opens_nothing(hub):
    hub.add("alice/tiny", FILES)
    assert HfApi(endpoint=hub.url, token="hf_bob").whoami()["name"] == "bob"
    with pytest.raises(OSError, match="Invalid credentials"):
        HfApi(endpoint=hub.url, token="hf_expired").model_info("alice/tiny")


def test_the_environment_leaves_the_developers_own_hub_settings_out(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_real")
    monkeypatch.setenv("HF_HUB_CACHE", "/real/cache")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    environment = hub.environment(tmp_path)
    assert (environment["HF_ENDPOINT"], environment["HF_TOKEN"]) == (hub.url, "")
    assert not {"HF_HUB_CACHE", "TRANSFORMERS_OFFLINE"} & environment.keys()


def test_pipeline_answers_from_the_hub_as_from_the_folder(hub, tmp_path):
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification, pipeline

    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    ResNetForImageClassification(ResNetConfig(num_labels=3, **shape)).save_pretrained(tmp_path / "tiny")
    ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(tmp_path / "tiny")
    photo = str(tmp_path / "photo.png")
    Image.linear_gradient("L").convert("RGB").save(photo)
    hub.add("alice/tiny", tmp_path / "tiny")

    from_hub = run(CLASSIFY, "alice/tiny", photo, env=hub.environment(tmp_path / "home"))
    assert len(from_hub) == 3
    assert from_hub == pipeline("image-classification", model=str(tmp_path / "tiny"))(photo)


def test_load_dataset_reads_the_rows_and_class_names_of_a_private_repo(hub, tmp_path):
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(COLOURS))})
    images = [Image.new("RGB", (8, 8), tuple(colour)) for colour in COLOURS.values()]
    photos = Dataset.from_dict({"image": images, "label": [0, 1, 2]}, features=features)
    photos.to_parquet(tmp_path / "train.parquet")
    files = {"data/train-00000-of-00001.parquet": tmp_path / "train.parquet"}
    hub.add("alice/photos", files, repo_type="dataset", private=True)

    loaded = run(LOAD_PHOTOS, env=hub.environment(tmp_path / "home", token="hf_alice"))
    assert loaded["names"] == list(COLOURS)
    assert loaded["rows"] == [[colour, label] for label, colour in enumerate(COLOURS.values())]
