"""The page over real sockets: what comes up without a model and with one, what it answers, and what it tells of it."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager
from html.parser import HTMLParser

import gradio as gr
import numpy as np
import pytest
from conftest import ROOT, write_photo
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from hub_utils.portable.about import about_html, card_text
from hub_utils.portable.answer_html import answer_html, as_sentence, percent, problem_html
from hub_utils.portable.command import UserError
from hub_utils.portable.demo import Page, build_demo, build_suite, thresholds
from hub_utils.portable.image_files import open_rgb
from hub_utils.portable.predictor import Answer
from hub_utils.portable.served import Served, verdict, where_is
from hub_utils.portable.state_html import door_html, head_html


@pytest.fixture(scope="module")
def run(colours, tmp_path_factory):
    """The run of three colours under a folder `runs`, as pages look for it, with thresholds."""
    from training.eval import main

    run = shutil.copytree(colours.path, tmp_path_factory.mktemp("page") / "runs" / "colours")
    main([str(run)])
    serving = json.loads((run / "serving.json").read_text(encoding="utf-8"))
    serving["not_sure"] = {"threshold": 0.5, "accuracy_answered": 0.96, "accuracy_all": 0.9}
    (run / "serving.json").write_text(json.dumps(serving), encoding="utf-8")
    return run


@pytest.fixture(autouse=True)
def no_model_named(monkeypatch):
    monkeypatch.delenv("DEMO_MODEL", raising=False)


@contextmanager
def launched(page):
    """Its address."""
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        yield url.rstrip("/")
    finally:
        page.close()


@pytest.fixture(scope="module")
def address(run, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.chdir(run.parents[1])
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
    patch.delenv("DEMO_MODEL", raising=False)
    with launched(build_demo("colours")) as url:
        yield url
    patch.undo()


@pytest.fixture
def red(tmp_path):
    write_photo(tmp_path / "red.png", 0, 1234)
    return tmp_path / "red.png"


@pytest.fixture
def said(served, red):
    """What the model says of it, which is learnt in seconds and may be wrong."""
    (answer,) = served.answer([open_rgb(red)])
    return served.predictor().labels[answer.probabilities.argmax()]


def opened(url: str, data: bytes | None = None, kind: str = "application/json") -> bytes:
    request = urllib.request.Request(url, data, {"Content-Type": kind} if data else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def upload(address: str, name: str, content: bytes) -> str:
    """As a browser does; the path that the server gave it."""
    mark = uuid.uuid4().hex
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
    return json.loads(opened(f"{address}/gradio_api/upload", body, f"multipart/form-data; boundary={mark}"))[0]


def shown(address: str, event: dict) -> str:
    """What the page puts in the answer's place when the browser sends that event; or how gradio itself refuses it."""
    config = json.loads(opened(f"{address}/config"))
    (called,) = [each["id"] for each in config["dependencies"] if any("picture" in each_ for each_ in each["targets"])]
    session = uuid.uuid4().hex
    asked = {"data": [], "event_data": event, "fn_index": called, "session_hash": session}
    opened(f"{address}/gradio_api/queue/join", json.dumps(asked).encode())
    told = opened(f"{address}/gradio_api/queue/data?session_hash={session}").decode()
    messages = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: ")]
    (done,) = [message for message in messages if message["msg"] == "process_completed"]
    return done["output"]["data"][0] if done["success"] else done["output"]["error"]


# Answers


def test_the_endpoint_answers_as_it_promises(address, red, said):
    answer = Client(address, verbose=False).predict(handle_file(red), api_name="/predict")
    assert list(answer) == [
        "label", "sure", "familiar", "probabilities", "strangeness", "milliseconds", "model", "revision",
    ]  # fmt: skip
    shares = list(answer["probabilities"].values())
    assert (answer["label"], set(answer["probabilities"])) == (said, {"red", "green", "blue"})
    assert answer["label"] == next(iter(answer["probabilities"])) and shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert answer["model"] == "colours" and answer["revision"] is None  # no path of the machine
    assert answer["milliseconds"] > 0 and answer["sure"] is (shares[0] >= 0.5)


def test_the_endpoint_is_the_only_one_for_all_and_is_described(address):
    told = json.loads(opened(f"{address}/gradio_api/info"))["named_endpoints"]
    assert set(told) == {"/predict", "/predict_many"}
    assert "picture" in told["/predict"]["description"]
    assert [each["parameter_name"] for each in told["/predict"]["parameters"]] == ["picture"]


@pytest.mark.parametrize(("name", "content", "why"), [("a.png", b"", "empty"), ("b.jpg", b"hello", "text")])
def test_what_is_no_picture_gets_a_sentence_and_the_page_goes_on(address, red, said, tmp_path, name, content, why):
    (tmp_path / name).write_bytes(content)
    client = Client(address, verbose=False)
    with pytest.raises(AppError, match=why):
        client.predict(handle_file(tmp_path / name), api_name="/predict")
    section = shown(address, {"turn": "7", "path": upload(address, name, content)})
    assert 'data-turn="7"' in section and why in section and "Traceback" not in section
    assert client.predict(handle_file(red), api_name="/predict")["label"] == said


def test_a_bad_picture_spoils_no_answer_beside_it(address, red, said, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    client = Client(address, verbose=False)
    files = [red, tmp_path / "bad.png"] * 4
    jobs = [client.submit(handle_file(file), api_name="/predict") for file in files]
    for file, job in zip(files, jobs, strict=True):
        if file == red:
            assert job.result(timeout=30)["label"] == said
        else:
            with pytest.raises(AppError):
                job.result(timeout=30)


def test_the_page_shows_the_answer_and_deletes_the_picture(address, red, said):
    path = upload(address, "1-2-3.png", red.read_bytes())
    section = shown(address, {"turn": "3", "path": path})
    assert 'data-turn="3"' in section and f">{said}<small>" in section
    with pytest.raises(urllib.error.HTTPError):
        opened(f"{address}/gradio_api/file={path}")
    assert "Give it again" in shown(address, {"turn": "4", "path": path})


def test_the_page_opens_what_was_uploaded_and_nothing_else(address, red):
    for path in (str(red), "/etc/passwd", "../red.png", None, 7, ["x"]):
        assert re.search("Give it again|not in the cache folder", shown(address, {"turn": "1", "path": path}))
    assert red.is_file()
    assert "Give it again" in shown(address, {})
    assert "50 MB are the limit" in shown(address, {"turn": "2", "size": 60_000_000})


# Bars and sentences


@pytest.fixture(scope="module")
def served(run):
    return Served("colours", run)


def answer_of(*probabilities, maps=None, strangeness=None):
    return Answer(np.array(probabilities, np.float32), maps, strangeness)


def bars(html: str) -> list[str]:
    listed = re.search(r'<ol class="bars.*?</ol>', html)[0]
    return re.findall(r"<span>(.*?)</span> <b>(.*?)</b>", listed)


def test_bars_are_drawn_for_classes_above_one_percent_and_all_are_listed(served):
    labels = served.predictor().labels
    html = answer_html(served, answer_of(0.005, 0.9, 0.095), 12.3)
    assert bars(html) == [(labels[1], "90.0 %"), (labels[2], "9.5 %")]
    assert "All 3 classes" in html and "0.5 %" in html and "12 ms" in html
    assert "<button" not in html  # no heat map to see


def test_heat_maps_go_along_in_the_order_of_the_bars_and_scaled_by_their_own_maximum(served):
    maps = np.float32([[[0, 1]], [[-5, 2]], [[8, 4]]])
    html = answer_html(served, answer_of(0.2, 0.3, 0.5, maps=maps), 1)
    sent = base64.b64decode(re.search(r'data-maps="(.*?)"', html)[1])
    assert list(sent) == [255, 128, 0, 255, 0, 255]
    assert 'data-shape="1,2"' in html and 'data-seen="0.00000,0.00000,1.00000,1.00000"' in html
    assert html.count('<button type="button" data-class="2"') == 1 and html.count('aria-pressed="true"') == 1


def test_nothing_is_said_twice_that_the_headline_or_the_bars_say(served):
    labels = served.predictor().labels
    alone = answer_html(served, answer_of(0.002, 0.993, 0.005), 1)
    assert 'class="bars' not in alone and "All 3 classes" in alone and f"{labels[1]}<small>" in alone
    every = answer_html(served, answer_of(0.2, 0.3, 0.5), 1)
    assert [label for label, _ in bars(every)] == [labels[2], labels[1], labels[0]] and "<details>" not in every
    for html in (alone, every):  # what the scripts look for
        (listed,) = re.findall(r'<ol class="[a-z]+ every".*?</ol>', html)
        assert listed.count("<li>") == 3


def test_a_class_may_be_called_by_thousands_of_letters(run, tmp_path):
    """They stand in a title; what is to be read beside them is not lost."""
    here, name = shutil.copytree(run, tmp_path / "long"), "x" * 1500 + " " + "y" * 1500
    config = json.loads((here / "config.json").read_text(encoding="utf-8"))
    config["id2label"]["0"] = name
    config["label2id"] = {label: int(at) for at, label in config["id2label"].items()}
    (here / "config.json").write_text(json.dumps(config), encoding="utf-8")
    served = Served("long", here)
    served.predictor()
    lede = re.search(r'<p class="lede" title="(.*?)">(.*?)</p>', head_html(served))
    assert name in lede[1] and len(lede[2]) < 150
    html = answer_html(served, answer_of(0.4, 0.3, 0.3), 1)
    assert f'<span class="long" title="{name}">' in html and f'<span title="{name}">' in html
    assert f"{'x' * 60}… comes closest" in html and len(re.search('data-said="(.*?)"', html)[1]) < 150


def test_an_unsure_answer_says_so_and_why(served):
    said = verdict(served, answer_of(0.4, 0.3, 0.3))
    assert (said["sure"], said["familiar"]) == (False, None)
    html = answer_html(served, answer_of(0.4, 0.3, 0.3), 1)
    assert "Not sure." in html and "Below 50 %" in html and "96 %" in html and "<svg" in html
    assert "no measure of when it is unsure" not in html
    assert verdict(served, answer_of(0.5, 0.3, 0.2))["sure"] and "Not sure" not in answer_html(
        served, answer_of(0.5, 0.3, 0.2), 1
    )


def test_a_strange_picture_is_called_one(run, tmp_path):
    here = shutil.copytree(run, tmp_path / "strange")
    (here / "serving.json").write_text(
        '{"strangeness": {"threshold": 2.0, "share_below": 0.98}, "not_sure": {"reason": "too few images"}}'
    )
    served = Served("strange", here)
    served._predictor = Served("colours", run).predictor()  # the statistics are not those of a network
    for strangeness, familiar in ((1.9, True), (2.0, True), (2.1, False), (None, None)):
        answer = answer_of(0.9, 0.1, 0.0, strangeness=strangeness)
        assert verdict(served, answer)["familiar"] is familiar and verdict(served, answer)["sure"]
        html = answer_html(served, answer, 1)
        assert ("does not look like what I was trained on" in html) is (familiar is False)
        assert ("98 % of the pictures I was tried on look more familiar to me" in html) is (familiar is False)
        assert "This model brings no measure of when it is unsure." in html


def test_what_a_threshold_gains_is_said_only_if_it_gains_something(run, tmp_path):
    here = shutil.copytree(run, tmp_path / "same")
    found = {"threshold": 0.9, "accuracy_answered": 1.0, "accuracy_all": 1.0}
    (here / "serving.json").write_text(json.dumps({"not_sure": found}))
    html = answer_html(Served("same", here), answer_of(0.4, 0.3, 0.3), 1)
    assert "Below 90 % I would rather not say." in html and "were right" not in html


def test_the_line_is_drawn_where_there_is_one_and_missed_of_medical_models_only(run, tmp_path):
    here = shutil.copytree(run, tmp_path / "no-line")
    (here / "serving.json").write_text('{"operating_curve": {"reason": "no class of these is looked for"}}')
    with gr.Blocks() as page:
        thresholds(Served("no-line", here))
    assert not page.blocks
    recipe = json.loads((here / "recipe.json").read_text())
    recipe["recipe"]["card"]["medical"] = True
    (here / "recipe.json").write_text(json.dumps(recipe))
    with gr.Blocks() as page:
        thresholds(Served("no-line", here))
    assert any("no class of these is looked for" in str(getattr(each, "value", "")) for each in page.blocks.values())


@pytest.mark.parametrize(
    ("share", "digits", "said"),
    [(0, 0, "0 %"), (1, 0, "100 %"), (0.004, 0, "<1 %"), (0.996, 0, ">99 %"), (0.93, 0, "93 %"),
     (0.0004, 1, "<0.1 %"), (0.9996, 1, ">99.9 %"), (0.931, 1, "93.1 %")],
)  # fmt: skip
def test_shares_are_never_rounded_to_nothing_or_all(share, digits, said):
    assert percent(share, digits) == said


def test_sentences_start_with_a_capital_unless_with_a_name():
    assert as_sentence("there is none") == "There is none."
    assert as_sentence("you/flowers is private.") == "you/flowers is private."
    assert "<b>" not in problem_html("<b>bold</b>")


def test_a_label_of_another_language_or_of_html_stays_what_it_is(run, tmp_path):
    here = shutil.copytree(run, tmp_path / "odd")
    config = json.loads((here / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {"0": "<script>alert(1)</script>", "1": "Gänseblümchen & Co", "2": "tench, Tinca tinca"}
    config["label2id"] = {label: int(index) for index, label in config["id2label"].items()}
    (here / "config.json").write_text(json.dumps(config), encoding="utf-8")
    served = Served("odd", here)
    html = answer_html(served, answer_of(0.3, 0.3, 0.4), 1) + head_html(served)
    assert "<script>" not in html and "Gänseblümchen &amp; Co" in html
    assert "tench<small>, Tinca tinca</small>" in html


# Models that are not there


def test_without_a_model_the_page_comes_up_and_finds_it_later(run, tmp_path, monkeypatch, red, said):
    monkeypatch.chdir(tmp_path)
    with launched(build_demo("colours")) as url:
        assert b"gradio" in opened(url)
        client = Client(url, verbose=False)
        with pytest.raises(AppError, match=r"training/train\.py colours"):
            client.predict(handle_file(red), api_name="/predict")
        shutil.copytree(run, tmp_path / "runs" / "colours")
        for _ in range(20):
            try:
                answer = client.predict(handle_file(red), api_name="/predict")
                break
            except AppError:
                time.sleep(0.5)
        assert answer["label"] == said


def test_a_broken_model_is_said_in_words_and_tried_again(run, tmp_path):
    here = shutil.copytree(run, tmp_path / "broken")
    shutil.rmtree(here / "onnx")
    weights = (here / "model.safetensors").read_bytes()
    (here / "model.safetensors").write_bytes(weights[:1000])
    served = Served("broken", here)
    with pytest.raises(UserError) as caught:
        served.predictor()
    assert "\n" not in str(caught.value)
    assert "There is no model to ask." in head_html(served) and "tries again by itself" in head_html(served)
    (here / "model.safetensors").write_bytes(weights)
    served._again = 0.0
    assert served.predictor().labels and served.problem is None and "no model" not in head_html(served)


def test_attempts_come_ever_less_often(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    served, waits = Served("nothing"), []
    for _ in range(8):
        served._again = 0.0
        with pytest.raises(UserError):
            served.predictor()
        waits.append(served._again - time.monotonic())
        with pytest.raises(UserError):
            served.predictor()  # at once, and no attempt
    assert waits == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30], abs=0.5)


def test_a_hub_that_is_away_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("DEMO_MODEL", "you/flowers")  # offline, as all tests are
    served = Served("flowers")
    with pytest.raises(UserError):
        served.predictor()
    assert "you/flowers" in head_html(served) and not served.known


def test_the_model_is_where_it_is_said_to_be(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hub_utils.portable.served.ROOT", tmp_path)
    with pytest.raises(UserError, match="there is no model yet"):
        where_is("colours")
    written = {"colours": {"model": "you/colours", "revision": "0123456"}}
    (tmp_path / "model.json").write_text(json.dumps(written), encoding="utf-8")
    assert where_is("colours") == ("you/colours", "0123456")
    shutil.copytree(run, tmp_path / "runs" / "colours")
    model, revision = where_is("colours")
    assert ((tmp_path / model).samefile(tmp_path / "runs" / "colours"), revision) == (True, None)
    monkeypatch.setenv("DEMO_MODEL", "other/model")
    assert where_is("colours") == ("other/model", None)
    assert where_is("colours", alone=False) != ("other/model", None)  # of several DEMO_MODEL can mean none


# Several behind one door


def test_the_door_leads_to_all_and_each_model_waits_to_be_asked(run, red, said, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    with launched(build_suite(["colours", "leukemia"])) as url:
        for page in ("", "/colours", "/leukemia"):
            assert b"gradio" in opened(url + page)
        told = json.loads(opened(f"{url}/gradio_api/info"))["named_endpoints"]
        assert set(told) == {f"/predict{many}_{name}" for many in ("", "_many") for name in ("colours", "leukemia")}
        client = Client(url, verbose=False)
        assert client.predict(handle_file(red), api_name="/predict_colours")["label"] == said
        with pytest.raises(AppError, match="no model yet"):
            client.predict(handle_file(red), api_name="/predict_leukemia")


def test_the_cards_say_how_good_each_is(run):
    several = [Served("colours", run), Served("no_such_thing")]
    several[0].ask_for_facts().join()
    html = door_html(several)
    accuracy = several[0].fact("test_results.json")["metrics"]["accuracy"]["value"]
    assert percent(accuracy, 1) in html and "95 % interval" in html and 'href="colours"' in html
    assert "Not trained yet." in html and not several[0].ready and "No such thing" in html


# What is told of a model


def test_about_tells_results_confusions_and_limits(served):
    html = about_html(served)
    test = served.fact("test_results.json")
    for words in (percent(test["metrics"]["accuracy"]["value"], 1), "colour alone", "always the same answer",
                  "Where it goes wrong", "Limits", test["git_commit"][:7]):  # fmt: skip
        assert words in html
    assert html.count('<th scope="row">') >= 3 and 'class="right"' in html
    assert "no measure of when it is unsure" not in html


def test_about_does_without_any_of_it(tmp_path):
    labels = {str(index): f"class {index}" for index in range(1000)}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": labels}))
    html = about_html(Served("stranger", tmp_path))
    assert "no test results" in html and "no measure of when it is unsure" in html
    assert "All 1,000 classes" in html and "class 999" in html
    assert card_text(Served("stranger", tmp_path)) == ""


def test_a_matrix_of_many_classes_is_told_as_pairs(tmp_path):
    names = [f"class {index}" for index in range(60)]
    matrix = np.eye(60, dtype=int) * 9
    matrix[3, 4] = 5
    results = {"classes": names, "confusion": matrix.tolist()}
    (tmp_path / "test_results.json").write_text(json.dumps(results))
    html = about_html(Served("many", tmp_path))
    assert "class 3 taken for <b>class 4</b>" in html and "5 times of 14" in html and "Confusion matrix" not in html


def test_a_card_brings_no_front_matter(tmp_path):
    for end in ("\n", "\r\n"):
        (tmp_path / "README.md").write_text(end.join(["---", "license: mit", "---", "# A card", ""]), newline="")
        assert card_text(Served("card", tmp_path)) == "# A card"


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href") and value]


# What comes along


def test_the_page_asks_no_other_host_for_anything(address):
    page = opened(address).decode()
    links = Links()
    links.feed(page)
    foreign = [each for each in links.found if each.startswith(("http", "//")) and not each.startswith(address)]
    theme = opened(f"{address}/theme.css").decode()
    assert not [each for each in foreign if "gradio.app" not in each], foreign
    assert "googleapis" not in theme and "@import" not in theme
    assert json.loads(opened(f"{address}/config"))["analytics_enabled"] is False


HEAVY = ("torch", "transformers", "scipy", "sklearn", "matplotlib", "datasets", "openvino", "onnxruntime")


def in_a_process(code: str, **environment) -> subprocess.CompletedProcess:
    found = dict(os.environ, PYTHONPATH=str(ROOT)) | environment
    return subprocess.run([sys.executable, "-c", code], env=found, capture_output=True, text=True, timeout=60)


def test_the_page_imports_nothing_heavy_but_gradio():
    code = f"import sys, hub_utils.portable.demo; print(sorted(set({HEAVY}) & set(sys.modules)))"
    done = in_a_process(code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_an_answer_needs_no_torch(run, red):
    code = f"""
import sys
from hub_utils.portable.demo import build_demo
from hub_utils.portable.served import Served
from hub_utils.portable.image_files import open_rgb
served = Served("colours", {str(run)!r})
served.answer([open_rgb({str(red)!r})])
print(sorted({{"torch", "transformers", "scipy", "sklearn", "matplotlib"}} & set(sys.modules)))"""
    done = in_a_process(code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_mcp_server_that_is_not_installed_is_asked_for_in_words(monkeypatch):
    monkeypatch.setenv("GRADIO_MCP_SERVER", "True")
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(SystemExit, match=r"pip install 'gradio\[mcp\]'"):
        Page("x").launch()


def test_zero_gpu_finds_a_function_that_asks_for_its_gpu(tmp_path):
    (tmp_path / "spaces.py").write_text(
        "asked = []\ndef GPU(function):\n    asked.append(function)\n    return function\n"
    )
    code = "import hub_utils.portable.demo, spaces; print(len(spaces.asked))"
    done = in_a_process(code, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert done.stdout.strip() == "1", done.stdout + done.stderr
