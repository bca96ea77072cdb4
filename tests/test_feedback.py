"""What visitors send with their consent: pixels alone, to a private data set, over a real socket; and nothing else."""

import io
import json
import threading
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from gradio.utils import get_upload_folder
from loopback_hub import LoopbackHub
from PIL import ExifTags, Image, PngImagePlugin
from test_images import picture

from hub_utils.portable import feedback as module
from hub_utils.portable.command import UserError
from hub_utils.portable.feedback import NONE, Collection, _Door, configured, feedback, receive
from hub_utils.portable.image_files import open_rgb
from hub_utils.portable.served import Served

REPO = "alice/mistakes"
SECRET = b"48.8583 N 2.2945 E"


@pytest.fixture
def hub(monkeypatch):
    with LoopbackHub(tokens={"hf_alice_writes": "alice", "hf_bob_writes": "bob"}) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_alice_writes")
        monkeypatch.setenv("DEMO_FEEDBACK", REPO)
        yield hub


@pytest.fixture
def door():
    door = _Door(REPO)
    yield door
    door.close()


@pytest.fixture(scope="module")
def served(tiny_resnet) -> Served:
    return Served("tiny", tiny_resnet)


def photo() -> Image.Image:
    return picture(size=(80, 60))


def uploaded(name: str = "gps") -> Path:
    """A JPEG full of what nobody should learn, where the browser's uploads lie."""
    tags = Image.Exif()
    tags[ExifTags.Base.Make] = "Camera of somebody"
    tags[ExifTags.Base.ImageDescription] = SECRET.decode()
    path = Path(get_upload_folder(), "feedback test", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    photo().save(path, "JPEG", exif=tags, comment=SECRET, icc_profile=SECRET, xmp=b"<x:xmpmeta>" + SECRET)
    return path


def kept(hub: LoopbackHub) -> dict[str, bytes]:
    return {path: content for path, content in hub.files(REPO, "dataset").items() if path.startswith("data/")}


def writes(hub: LoopbackHub) -> list[tuple[str, str]]:
    return [each for each in hub.requests if each[0] != "GET"]


def test_what_is_sent_with_consent_is_the_picture_alone_and_loads_as_an_imagefolder(hub, door, served, tmp_path):
    paths = [uploaded("1"), uploaded("2")]
    assert all(SECRET in path.read_bytes() for path in paths)
    numbers = [
        receive(served, door, {"consent": True, "label": label, "path": str(path)})
        for label, path in zip(("LABEL_3", NONE), paths, strict=True)
    ]
    assert not any(path.exists() for path in paths)
    door._collection.push()
    assert hub.repos["datasets", REPO].private is True
    files = kept(hub)
    assert len(files) == 3 and all(SECRET not in content and b"Camera" not in content for content in files.values())
    for path, content in files.items():
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    pictures = {Path(path).stem: content for path, content in files.items() if path.endswith(".jpg")}
    assert sorted(pictures) == sorted(numbers)
    for content in pictures.values():
        with Image.open(io.BytesIO(content)) as image:
            assert not image.getexif() and set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
            assert np.abs(np.asarray(image).astype(int) - np.asarray(photo())).mean() < 6
    (lines,) = [content for path, content in files.items() if path.endswith("metadata.jsonl")]
    first, second = (json.loads(line) for line in lines.decode().splitlines())
    assert set(first) == {"file_name", "label", "answer", "model", "revision"}  # nothing but what the form says
    assert (first["label"], second["label"]) == ("LABEL_3", NONE)
    assert first["answer"]["label"].startswith("LABEL_") and first["model"] == served.public_name

    from datasets import load_dataset

    loaded = load_dataset(
        "imagefolder", data_dir=str(tmp_path / "data"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.num_rows == 2 and set(loaded["label"]) == {"LABEL_3", NONE} and loaded[0]["image"].size == (80, 60)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"label": "LABEL_3"}, "not agreed"),
        ({"label": "LABEL_3", "consent": False}, "not agreed"),
        ({"label": "LABEL_3", "consent": "true"}, "not agreed"),
        ({"label": "violet", "consent": True}, "choose what it is"),
        ({"consent": True}, "choose what it is"),
    ],
)
def test_without_consent_or_a_choice_nothing_is_kept_and_the_hub_hears_nothing(data, told, hub, door, served):
    path = uploaded()
    with pytest.raises(UserError, match=told):
        receive(served, door, data | {"path": str(path)})
    assert not path.exists() and hub.requests == [] and door._collection is None


def test_no_file_of_the_machine_is_sent_or_deleted(hub, door, served, tmp_path):
    own = tmp_path / "own.jpg"
    photo().save(own)
    folder = get_upload_folder()
    for path in (str(own), f"{folder}/../{own}", folder, f"{folder}/{'x' * 300}", "a\0b", None, 3):
        with pytest.raises(UserError, match="did not get here"):
            receive(served, door, {"consent": True, "label": "LABEL_3", "path": path})
    assert own.exists() and hub.requests == []


def test_what_is_no_picture_is_refused_as_everywhere(hub, door, served):
    path = uploaded()
    path.write_bytes(b"404 not found")
    with pytest.raises(UserError, match="a text"):
        receive(served, door, {"consent": True, "label": "LABEL_3", "path": str(path)})
    assert not path.exists() and hub.requests == []


def test_a_public_data_set_is_refused(hub, door, served):
    hub.add(REPO, {"README.md": b"public"}, "dataset", private=False)
    with pytest.raises(UserError, match="is public; feedback goes to a private one only"):
        receive(served, door, {"consent": True, "label": "LABEL_3", "path": str(uploaded())})
    assert kept(hub) == {}
    assert not any("/commit/" in path for _, path in writes(hub))


def test_one_that_is_opened_to_the_public_later_gets_no_more(hub, door, served):
    receive(served, door, {"consent": True, "label": "LABEL_3", "path": str(uploaded())})
    door._collection.push()
    before = kept(hub)
    hub.repos["datasets", REPO].private = False
    receive(served, door, {"consent": True, "label": "LABEL_3", "path": str(uploaded())})
    with pytest.raises(UserError, match="is public"):
        door._collection.push()
    assert kept(hub) == before
    with pytest.raises(UserError, match="is public"):  # and the next visitor is told
        receive(served, door, {"consent": True, "label": "LABEL_3", "path": str(uploaded())})


def test_a_hub_that_refuses_is_said_in_words_and_asked_again_by_the_next(hub, served, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_bob_writes")
    door = _Door(REPO)
    for _ in range(2):
        with pytest.raises(UserError, match=r"alice/mistakes: .*HTTP 403") as refused:
            receive(served, door, {"consent": True, "label": "LABEL_3", "path": str(uploaded())})
        assert "hf_bob" not in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", "hf_alice_writes")
    assert receive(served, door, {"consent": True, "label": "LABEL_3", "path": str(uploaded())})
    door.close()
    assert len(kept(hub)) == 2


def test_a_later_process_writes_beside_an_earlier_one(hub):
    for number in range(2):
        collection = Collection(REPO)
        collection.keep(photo(), {"label": str(number)})
        collection.close()
        assert not collection.folder.exists()
    tables = [content for path, content in kept(hub).items() if path.endswith(".jsonl")]
    assert sorted(json.loads(table)["label"] for table in tables) == ["0", "1"]
    assert len(kept(hub)) == 4


def test_the_scheduler_ends_with_its_collection(hub):
    before = set(threading.enumerate())
    collection = Collection(REPO, every=0.002)
    collection.keep(photo(), {"label": "LABEL_3"})
    collection.close()
    for thread in set(threading.enumerate()) - before:
        if "_run_scheduler" in thread.name:
            thread.join(5)
            assert not thread.is_alive()
    assert len(kept(hub)) == 2


def test_limits(hub, door, served, monkeypatch):
    monkeypatch.setattr(module, "MOST_AN_HOUR", 2)
    door = _Door(REPO)
    for _ in range(2):
        door.keep(photo(), {"label": "LABEL_3"})
    with pytest.raises(UserError, match="within this hour"):
        door.keep(photo(), {"label": "LABEL_3"})
    monkeypatch.setattr(module, "MOST_KEPT", 2)
    with pytest.raises(UserError, match="enough was sent"):
        door._collection.keep(photo(), {"label": "LABEL_3"})
    door._collection.push()
    with Image.open(io.BytesIO(next(each for path, each in kept(hub).items() if path.endswith(".jpg")))) as image:
        assert max(image.size) <= module.SIDE
    door.close()


def test_a_large_picture_is_kept_smaller_and_another_format_loses_its_words(hub):
    collection, words, file = Collection(REPO), PngImagePlugin.PngInfo(), io.BytesIO()
    words.add_text("Comment", SECRET.decode())
    Image.new("RGB", (3000, 1500)).save(file, "PNG", pnginfo=words, icc_profile=SECRET)
    collection.keep(open_rgb(file.getvalue()), {"label": "LABEL_3"})
    collection.close()
    (content,) = [content for path, content in kept(hub).items() if path.endswith(".jpg")]
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (1024, 512) and SECRET not in content


def drawn(served: Served) -> str:
    with gr.Blocks() as page:
        feedback(served)
    return "".join(str(each["props"].get("value")) for each in page.get_config_file()["components"])


def test_it_is_off_unless_configured_and_never_there_for_patients(served, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_alice_writes")
    assert configured(served) is None and "Is this wrong?" not in drawn(served)
    monkeypatch.setenv("DEMO_FEEDBACK", REPO)
    assert configured(served) == REPO
    form = drawn(served)
    assert "Is this wrong?" in form and REPO in form and "checked" not in form and "private data set" in form
    monkeypatch.setenv("HF_TOKEN", "")
    assert configured(served) is None
    monkeypatch.setenv("HF_TOKEN", "hf_alice_writes")
    monkeypatch.setattr(Served, "card", {"medical": True})
    assert configured(served) is None and "Is this wrong?" not in drawn(served)
