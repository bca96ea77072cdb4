"""Models whose files are not what they should be, that vanish, change or fail: what a page makes of them."""

import json
import logging
import shutil
import threading
import time

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from hub_utils.portable import served as module
from hub_utils.portable.about import about_html
from hub_utils.portable.answer_html import LISTED, answer_html, model_html
from hub_utils.portable.command import UserError
from hub_utils.portable.demo import build_demo, build_suite
from hub_utils.portable.facts import told_apart
from hub_utils.portable.feedback import feedback
from hub_utils.portable.operating import operating_html
from hub_utils.portable.parts import drawn
from hub_utils.portable.predictor import Answer, labels_of
from hub_utils.portable.served import Served, verdict, where_is
from hub_utils.portable.state_html import door_html, head_html


@pytest.fixture(autouse=True)
def no_model_named(monkeypatch, tmp_path):
    monkeypatch.delenv("DEMO_MODEL", raising=False)
    monkeypatch.setattr(module, "ROOT", tmp_path / "root")


class Loaded:
    """A predictor of any labels; what it is asked it does not answer."""

    revision, runtime = None, "nothing"

    def __init__(self, labels, raises=None):
        self.labels, self.raises = labels, raises

    def __call__(self, images):
        raise self.raises


def known(folder, predictor=None, **files) -> Served:
    """A model of which nothing but these JSON files is there, and what it answers with."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    served = Served("odd", folder)
    _ = served.folder
    served._predictor = predictor or Loaded(["a", "b"])
    return served


# Facts of another shape

WHOLE = {
    "recipe": {"recipe": {"title": "Odd", "base_model": "x/y", "data": {"homepage": "https://x.example"},
                          "card": {"limits": "few", "license": "mit", "citation": "me"}}, "git_commit": "0123"},
    "test_results": {
        "metrics": {"accuracy": {"value": 0.9, "interval": [0.8, 0.95]}, "macro_f1": {"value": 0.8}},
        "floors": {"majority": {"value": 0.5, "interval": [0.4, 0.6]}}, "images": 100, "split": "test",
        "date": "2026-01-01", "classes": ["a", "b"], "confusion": [[40, 10], [0, 50]],
        "per_class": {"a": {"recall": {"value": 0.8, "interval": [0.7, 0.9]}, "precision": {"value": 1}}},
    },
    "serving": {
        "not_sure": {"threshold": 0.99, "accuracy_answered": 0.9, "accuracy_all": 0.8},
        "strangeness": {"threshold": 1.0, "share_below": 0.98},
        "operating_curve": {"positive": ["a"], "negative": ["b"], "images": 100, "groups": 10, "points": [
            {"threshold": at, "sensitivity": {"value": 1 - at, "interval": [0, 1]}, "specificity": {"value": at}}
            for at in (0.0, 0.5, 1.0)]},
    },
    "config": {"id2label": {"0": "a", "1": "b"}},
}  # fmt: skip


def spoilt(facts, odd):
    """`facts` with each value in it, one at a time, replaced by `odd`."""
    inner = facts.items() if isinstance(facts, dict) else enumerate(facts) if isinstance(facts, list) else ()
    for key, value in inner:
        copy = dict(facts) if isinstance(facts, dict) else list(facts)
        copy[key] = odd
        yield copy
        for deeper in spoilt(value, odd):
            copy = dict(facts) if isinstance(facts, dict) else list(facts)
            copy[key] = deeper
            yield copy


def page_of(served: Served) -> str:
    slider = drawn("The slider", lambda: operating_html(served))
    answer = Answer(np.float32([0.3, 0.7]), None, 2.0)
    return about_html(served) + head_html(served) + door_html([served]) + answer_html(served, answer, 1.0) + slider


@pytest.mark.parametrize("odd", [None, "100", 5, 0.5, True, [], {}, ["a", "b", "c"], [None, None], {"value": None}])
def test_whatever_a_file_says_costs_at_most_its_part(tmp_path, odd):
    whole = page_of(known(tmp_path / "odd", **WHOLE))
    for words in ("90.0 %", "mit", "Few.", "Not sure.", "does not look like", "Tells a and b apart", "operating-odd"):
        assert words in whole
    for file, facts in WHOLE.items():
        for broken in spoilt(facts, odd):
            page = page_of(known(tmp_path / "odd", **WHOLE | {file: broken}))
            assert "odd, a folder on this machine" in page and "<h2>Origin</h2>" in page and "70.0 %" in page, broken


def test_files_that_are_no_json_are_as_good_as_none(tmp_path):
    for text in ("", "[" * 100_000, "null", '"x"'):
        page = page_of(known(tmp_path / "odd", **dict.fromkeys(WHOLE, text)))
        assert "no test results" in page and "70.0 %" in page


def test_a_run_whose_training_images_are_gone_tells_the_rest(tmp_path):
    none = {"value": None, "interval": None, "reason": "the training images are not here"}
    results = WHOLE["test_results"] | {"floors": {"majority": {"value": 0.5}, "colour_neighbour": none}}
    page = about_html(known(tmp_path / "odd", test_results=results))
    assert "always the same answer" in page and "colour alone" not in page and "cannot be shown" not in page


def test_a_part_that_cannot_be_drawn_is_a_sentence_and_a_line_in_the_log(caplog):
    assert drawn("x", lambda: "whole") == "whole" and drawn("x", lambda: None) is None
    assert "The &lt;notice&gt; cannot be shown" in drawn("The <notice>", lambda: {}["gone"])
    assert "The <notice> cannot be drawn" in caplog.text and "KeyError" in caplog.text


def test_an_answer_is_given_whatever_its_thresholds_are(tmp_path):
    answer = Answer(np.float32([0.3, 0.7]), None, 2.0)
    for odd in (None, "0.5", [], {"threshold": None}, {"threshold": "0.5"}, {"threshold": float("nan")}, 5):
        said = verdict(known(tmp_path / "odd", serving={"not_sure": odd, "strangeness": odd}), answer)
        assert (said["label"], said["sure"], said["familiar"]) == ("b", True, None)


def test_statistics_of_another_shape_are_as_good_as_none(colours, tmp_path):
    run = shutil.copytree(colours.path, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "local"))
    serving = json.loads((run / "serving.json").read_text(encoding="utf-8"))
    for odd in (5, "x", [1], {"threshold": 1}, {"method": [], "width": None, "axes": 5}):
        (run / "serving.json").write_text(json.dumps(serving | {"strangeness": odd}), encoding="utf-8")
        served = Served("odd", run)
        (answer,) = served.answer([Image.new("RGB", (32, 32))])
        assert answer.strangeness is None


@pytest.mark.parametrize("config", [{"label_names": 5}, {"label_names": "abc"}, {"id2label": ["a"]}, {"id2label": 5}])
def test_labels_of_another_shape_are_none(config):
    assert labels_of(config) is None


# Very many classes


def test_thousands_of_classes_are_told_apart_at_once_and_the_likeliest_are_listed(tmp_path):
    names = [f"class {index % 20_000}" for index in range(21_841)]
    start = time.perf_counter()
    apart = told_apart(names)
    served = known(tmp_path / "odd", Loaded(apart), config={"id2label": dict(enumerate(names))})
    for _ in range(20):
        head = head_html(served)
    assert time.perf_counter() - start < 2 and "Tells 21,841 classes apart" in head
    assert apart[0] == "class 0 (0)" and apart[5000] == "class 5000" and served.classes is served.classes
    shares = np.random.default_rng(0).dirichlet(np.ones(21_841)).astype(np.float32)
    html = answer_html(served, Answer(shares, np.ones((21_841, 7, 7), np.float32), None), 1.0)
    assert f"The likeliest {LISTED} classes" in html and "and 21,741 more" in html and len(html) < 100_000
    about = about_html(served)
    assert "All 21,841 classes" in about and "and 20,841 more" in about and len(about) < 200_000


# Models that fail, again and again


def test_a_model_that_failed_a_thousand_times_is_tried_once_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    served = Served("nothing")
    served._failures = 5000
    with pytest.raises(UserError, match="there is no model yet"):
        served.predictor()
    assert 20 < served._again - time.monotonic() <= 30


def test_a_hub_that_hangs_keeps_one_thread_a_model(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    until = threading.Event()
    monkeypatch.setattr(module, "where_is", lambda *asked: until.wait(30) and ("a/b", None))
    several = [Served(f"n{index}") for index in range(3)]
    before = threading.active_count()
    threads = {served.ask_for_facts() for _ in range(40) for served in several}
    assert len(threads) == 3 and threading.active_count() == before + 3
    until.set()
    for thread in threads:
        thread.join()


def test_what_a_picture_does_to_a_model_is_a_sentence(tmp_path, caplog):
    served = known(tmp_path / "odd", Loaded(["a", "b"], RuntimeError(f"cannot open {tmp_path}/odd/x or /usr/lib/y.so")))
    with pytest.raises(UserError) as caught:
        served.answer([])
    assert str(caught.value) == "the model cannot answer this: cannot open odd/x or …/y.so"
    assert str(tmp_path) in caplog.text
    served._predictor.raises = UserError("a picture is too narrow")
    with pytest.raises(UserError, match="too narrow"):
        served.answer([])


# Where a model is


def test_a_folder_that_vanishes_stays_a_folder_and_its_path_nobodys_business(tmp_path):
    served = known(tmp_path / "odd")
    shutil.rmtree(tmp_path / "odd")
    assert served.public_name == "odd" and served.local
    assert model_html(served) == "odd, a folder on this machine"


def test_a_broken_folder_is_named_without_its_path(tmp_path, caplog):
    (tmp_path / "run").mkdir()
    for written, named in ((tmp_path / "run", "'run' has no config.json"), (tmp_path / "gone", "no folder '…/gone'")):
        served = Served("x", written)
        with pytest.raises(UserError) as caught:
            served.predictor()
        assert named in str(caught.value) and str(tmp_path) not in str(caught.value) + head_html(served)
        assert str(tmp_path) in caplog.text


@pytest.mark.parametrize(
    ("said", "found"),
    [("alice/tiny", ("alice/tiny", None)), (" alice/tiny\n", ("alice/tiny", None)),
     ("alice/tiny@main", ("alice/tiny", "main")), ("https://huggingface.co/alice/tiny", ("alice/tiny", None)),
     ("https://huggingface.co/alice/tiny/", ("alice/tiny", None)),
     ("https://huggingface.co/alice/tiny/tree/v1", ("alice/tiny", "v1")),
     ("https://huggingface.co/alice/tiny/blob/main/README.md", ("alice/tiny", "main"))],
)  # fmt: skip
def test_a_model_is_named_as_people_name_it(said, found, monkeypatch):
    monkeypatch.setenv("DEMO_MODEL", said)
    assert where_is("flowers") == found


def test_a_folder_is_named_as_people_name_it(tmp_path, monkeypatch):
    (tmp_path / "my@run").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("DEMO_MODEL", "~/my@run")
    assert Served("x").folder.samefile(tmp_path / "my@run")
    monkeypatch.setenv("DEMO_MODEL", "/no/such")
    with pytest.raises(UserError, match=r"there is no folder '/no/such'"):
        _ = Served("x").folder


@pytest.mark.parametrize("text", ["{", "[]", "[1]", '{"x": null}', '{"x": "alice/tiny"}', '{"x": {"model": 5}}'])
def test_a_broken_model_json_is_named(tmp_path, monkeypatch, text, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "model.json").write_text(text)
    with pytest.raises(UserError, match=r"model\.json beside app\.py does not say where x is"):
        where_is("x")
    served = Served("x")
    served.ask_for_facts().join()
    served.start()
    served._loading.join()
    assert "model.json beside app.py" in head_html(served)


# The page


def test_with_feedback_on_the_page_comes_up_without_a_model_and_opens_one_door(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEMO_FEEDBACK", "alice/fb")
    monkeypatch.setenv("HF_TOKEN", "hf_alicealice")
    build_demo("colours")
    build_suite(["colours", "leukemia"])
    served = known(tmp_path / "odd")
    with gr.Blocks():
        assert feedback(served) is feedback(served) is not None


def test_a_part_that_fails_leaves_the_others(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("hub_utils.portable.demo.about", lambda served: {}["gone"])
    known(tmp_path / "odd", **WHOLE)
    monkeypatch.setenv("DEMO_MODEL", str(tmp_path / "odd"))
    caplog.set_level(logging.WARNING)
    said = "".join(str(each["props"].get("value")) for each in build_demo("odd").get_config_file()["components"])
    assert "What is known of the model cannot be shown" in said and "Drop a picture here" in said
