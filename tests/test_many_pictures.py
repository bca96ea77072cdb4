"""Many pictures: what the model says of each, what is said of bad ones, the CSV, the page's HTML, and the endpoint."""

import csv
import io
import json
import re
import threading
import time
import urllib.request
import zipfile
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from test_images import REFUSED, encoded, picture

from hub_utils.portable import many_pictures as module
from hub_utils.portable.harmless_csv import exact, harmless, read
from hub_utils.portable.image_files import open_rgb
from hub_utils.portable.many_pictures import Looked, as_csv, look_at, many_endpoint, many_pictures, results_html
from hub_utils.portable.many_uploads import Uploads
from hub_utils.portable.served import Served
from hub_utils.portable.uploads import LONG_NAME, LOST
from training.results.batch import load_model, predict

PNG = encoded(picture())


@pytest.fixture(scope="module")
def served(tiny_resnet) -> Served:
    return Served("tiny", tiny_resnet)


@pytest.fixture
def mixed(tmp_path) -> list[Path]:
    """Good and bad files, and a zip of both."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "=HYPERLINK(1).png").write_bytes(PNG)
    (folder / "empty.jpg").touch()
    (folder / "cut.jpg").write_bytes(REFUSED["truncated JPEG"][0])
    with zipfile.ZipFile(folder / "more.zip", "w") as file:
        file.writestr("a/1.png", encoded(picture(size=(64, 64))))
        file.writestr("a/2.heic", REFUSED["HEIC"][0])
    return sorted(folder.iterdir())


def looked_at(served: Served, files: list[Path], **how) -> list[Looked]:
    with Uploads((path.name, path) for path in files) as uploads:
        return list(look_at(served, uploads, **how))


def test_bad_ones_have_their_reason_and_the_others_their_answer(served, mixed):
    looked = looked_at(served, mixed)
    assert [each.name for each in looked] == [
        "=HYPERLINK(1).png", "cut.jpg", "empty.jpg", "more.zip/a/1.png", "more.zip/a/2.heic",
    ]  # fmt: skip
    assert [bool(each.said) for each in looked] == [True, False, False, True, False]
    assert "cut off" in looked[1].problem and "empty" in looked[2].problem and "HEIC" in looked[4].problem
    (alone,) = served.answer([open_rgb(PNG)])
    assert np.array_equal(looked[0].probabilities, alone.probabilities)
    assert looked[0].as_json["file"] == "=HYPERLINK(1).png" and looked[0].as_json["label"].startswith("LABEL_")
    assert looked[2].as_json == {"file": "empty.jpg", "error": looked[2].problem}
    for each in (looked[0], looked[3]):
        assert each.thumbnail.startswith("data:image/webp;base64,") and len(each.thumbnail) < 3000


def test_an_error_of_the_model_is_one_rows(served, mixed, monkeypatch):
    monkeypatch.setattr(served, "answer", lambda images: [][0])
    assert looked_at(served, mixed)[0].problem == "The model has no answer to this picture."


def test_it_can_be_stopped_and_ends_in_time(served, tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(200):
            file.writestr(f"{number:03}.png", PNG)
    done = threading.Event()
    with Uploads([("a.zip", path)]) as uploads:
        looked = []
        for each in look_at(served, uploads, lambda: module.STOPPED if done.is_set() else ""):
            looked.append(each)
            if len(looked) == 5:
                done.set()
    assert len(looked) == 200 and looked[4].said and looked[-1].problem == module.STOPPED
    assert sum(bool(each.said) for each in looked) <= 5 + 2 * module.WORKERS
    monkeypatch.setattr(module, "LONGEST", -1)
    assert {each.problem for each in looked_at(served, [path])} == {module.LATE}


def test_the_table_is_that_of_predict(served, tmp_path, tiny_resnet):
    """Cell for cell, but for the last digits: one picture at once here, several there."""
    (tmp_path / "1.png").write_bytes(PNG)
    (tmp_path / "2.png").touch()
    files = [tmp_path / "1.png", tmp_path / "2.png"]
    predict(load_model(str(tiny_resnet)), [(path, "") for path in files], tmp_path / "theirs.csv")
    ours = list(csv.reader(io.StringIO(as_csv(served.predictor().labels, looked_at(served, files)).decode())))
    theirs = list(csv.reader(io.StringIO((tmp_path / "theirs.csv").read_bytes().decode(), newline="")))
    assert ours[0] == [*theirs[0], "sure", "familiar"] and ours[1][1] == theirs[1][1]
    np.testing.assert_allclose(
        [float(each) for each in ours[1][2:-3]], [float(each) for each in theirs[1][2:-1]], rtol=1e-4
    )
    assert (ours[1][0], ours[2][0], ours[2][1], ours[2][-3][:18]) == ("1.png", "2.png", "", "This file is empty")
    assert (ours[1][-2:], ours[2][-2:]) == (["true", ""], ["", ""])  # of this model nobody knows what is familiar to it
    assert len(ours) == len(theirs) == 3


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", " =1", "\n=1"])
def test_no_name_is_a_formula(name):
    assert harmless(name).startswith("'") and exact(harmless(name)) == name
    text = as_csv(["=a"], [Looked(name, "=b")]).decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[1] == [harmless(name), "", "", "'=b", "", ""]
    assert list(read(io.StringIO(text, newline="")))[1] == [name, "", "", "=b", "", ""]


def test_a_name_is_left_alone_that_is_none():
    for name in ("cat.jpg", "a=b.png", "3-1.png", "花.png", ""):
        assert harmless(name) == name
    assert b"\\udc80" in as_csv(["a"], [Looked("\udc80.png", "gone")])


def said(label: str = "cat", share: float = 0.9, sure: bool = True, familiar: bool | None = None) -> dict:
    return {"label": label, "probabilities": {label: share}, "sure": sure, "familiar": familiar}


def test_the_page_says_what_there_is_to_say_and_escapes_what_strangers_wrote():
    evil = '"><img src=x onerror=alert(1)>'
    looked = [
        Looked("1.png", "", said(), np.ones(1), "data:,"),
        Looked("2.png", "", said(evil, 0.3, sure=False, familiar=False), np.ones(1), "data:,"),
        Looked(evil, evil),
        Looked("\udc80.png", "gone"),
    ]
    drawn = results_html(looked, 2, 1.25, evil)
    assert "<img src=x" not in drawn and drawn.count("<tr") == 5
    summary = re.search('<p class="summary">(.*?)</p>', drawn)[1]
    assert summary == (
        "2 of 4 pictures answered in 1.2 seconds. Not sure of 1. 1 looks unlike the training pictures. 2 files in zips "
        "are no picture by name."
    )
    assert "<span>not sure</span><span>unlike the training pictures</span>" in drawn


def test_a_thousand_rows_are_drawn_in_no_time_and_few_megabytes():
    """Of noise, the pictures that shrink least."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype="uint8"))
    thumbnail = module._thumbnail(noise)
    began = time.process_time()
    drawn = results_html([Looked(f"{number}.png", "", said(), np.ones(1), thumbnail) for number in range(1000)], 0, 1)
    assert time.process_time() - began < 2
    assert len(drawn) < 4_000_000


def test_the_endpoint_over_a_socket(served, mixed, tmp_path):
    with gr.Blocks(analytics_enabled=False) as page:
        many_endpoint(served)
        many_pictures(served)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", ssr_mode=False)
    try:
        client = Client(url, verbose=False, download_files=str(tmp_path / "got"))
        signature = client.view_api(return_format="dict")["named_endpoints"]
        assert list(signature) == ["/predict_many"]
        takes, gives = (signature["/predict_many"][side] for side in ("parameters", "returns"))
        assert [each["parameter_name"] for each in takes] == ["files"] and [each["label"] for each in gives] == [
            "answers",
            "table",
        ]
        answers, table = client.predict([handle_file(str(path)) for path in mixed], api_name="/predict_many")
        assert [("error" in each, "label" in each) for each in answers] == [
            (False, True), (True, False), (True, False), (False, True), (True, False),
        ]  # fmt: skip
        assert answers[3]["file"] == "more.zip/a/1.png" and answers[1]["error"].startswith("This picture is cut off")
        assert sum(answers[3]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        rows = list(csv.reader(io.StringIO(Path(table).read_bytes().decode(), newline="")))
        assert len(rows) == 6 and rows[0][:2] == ["path", "prediction"] and rows[2][-3] == answers[1]["error"]
        with pytest.raises(Exception, match="Nothing was given"):
            client.predict([], api_name="/predict_many")
        # Raw, since gradio's client uploads a file that it finds on its own machine.
        secret = {"path": str(mixed[1]), "meta": {"_type": "gradio.FileData"}}
        body = json.dumps({"data": [[secret]]}).encode()
        asked = urllib.request.Request(f"{url}gradio_api/call/predict_many", body, {"Content-Type": "application/json"})
        event = json.load(urllib.request.urlopen(asked, timeout=30))["event_id"]
        with urllib.request.urlopen(f"{url}gradio_api/call/predict_many/{event}", timeout=30) as stream:
            told = stream.read().decode()
        assert "event: error" in told and "cut off" not in told
    finally:
        page.close()


def test_the_browsers_files_are_those_that_were_uploaded_and_no_others(tmp_path):
    from gradio.utils import get_upload_folder

    inside = Path(get_upload_folder(), "x", "1.png")
    inside.parent.mkdir(parents=True, exist_ok=True)
    inside.touch()
    files = [
        {"name": "../1.png", "path": str(inside)},
        {"name": "2.png", "path": str(tmp_path / "2.png")},
        {"name": "3.png", "path": f"{get_upload_folder()}/../3.png"},
        {"name": "4.png", "size": 70_000_000},
        {"name": "5" * 9999, "path": None},
        {"name": "6.zip", "size": 600_000_000}, {"name": "7.zip", "size": 70_000_000}, {"size": 10**400},
        "nonsense", {"path": "a\0b"},
    ]  # fmt: skip
    found = module._uploaded(files)
    assert found[0] == ("../1.png", inside)
    assert [path for _, path in found[1:3]] == [LOST] * 2
    assert found[3][1].startswith("This file has 70 MB") and len(found[4][0]) == LONG_NAME
    assert found[5][1].startswith("This file has 600 MB, and 500 MB are the limit") and found[6][1] == LOST
    assert "are the limit" in found[7][1] and len(found) == 9
    assert module._uploaded(None) == module._uploaded("x") == []
