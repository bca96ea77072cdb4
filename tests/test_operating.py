"""The notice that comes before a medical model's page, and the slider over thresholds."""

import json
import re
from html import unescape

import gradio as gr
import pytest

from hub_utils.portable.medical import NOT_A_DEVICE
from hub_utils.portable.operating import medical_notice, operating_slider, slider_html
from hub_utils.portable.served import Served


def figure(value: float | None) -> dict:
    return (
        {"value": None, "reason": "none"}
        if value is None
        else {"value": value, "interval": [value - 0.05, value + 0.03]}
    )


def curve(*points: tuple[float, float | None, float | None]) -> dict:
    """Of (threshold, sensitivity, specificity)."""
    made = [
        {"threshold": at, "sensitivity": figure(found), "specificity": figure(passed)} for at, found, passed in points
    ]
    about = {"positive": ["malignant"], "negative": ["benign"], "split": "test", "images": 120, "groups": 12}
    return about | {"points": made}


class Model(Served):
    """A model of which nothing but its facts is there."""

    def __init__(self, folder, serving: dict | None = None, card: dict | None = None) -> None:
        (folder / "config.json").write_text("{}")
        (folder / "recipe.json").write_text(json.dumps({"recipe": {"card": card or {}}}))
        if serving is not None:
            (folder / "serving.json").write_text(json.dumps(serving))
        super().__init__("leukemia", folder)
        _ = self.folder


def drawn(part, served: Served) -> str:
    with gr.Blocks() as page:
        part(served)
    return "".join(str(each["props"].get("value")) for each in page.get_config_file()["components"])


def test_the_notice_says_what_the_card_says(tmp_path):
    card = {"medical": True, "limits": "All images come\n from one <laboratory>."}
    text = drawn(medical_notice, Model(tmp_path, card=card))
    assert NOT_A_DEVICE in text and "All images come from one &lt;laboratory&gt;." in text
    assert text.index("Not a medical device") < text.index("<button")


def test_the_slider_has_every_point_with_both_figures_and_starts_at_a_half():
    found = curve((0.0, 1.0, 0.0), (0.45, 0.94, 0.88), (0.9, None, 1.0), (1.0, 0.1, 1.0))
    points = [each for each in found["points"] if each["sensitivity"]["value"] is not None]
    text = slider_html("leukemia", found, points)
    numbers = json.loads(unescape(re.search('data-points="(.*?)"', text)[1]))
    assert numbers[1] == [0.45, [0.94, 0.89, 0.97], [0.88, 0.83, 0.91]] and len(numbers) == 3
    assert json.loads(unescape(re.search('data-names="(.*?)"', text)[1])) == [["malignant"], "malignant", "benign"]
    assert 'max="2" step="1" value="1"' in text
    assert '<polyline points="100.0,0.0 12.0,6.0 0.0,90.0"/>' in text
    assert "Measured on 120 images of 12 patients or groups that training did not see (test)" in text


@pytest.mark.parametrize(
    ("serving", "told"),
    [
        (None, "`python training/eval.py RUN` measures it"),
        ({"operating_curve": {"reason": "the recipe names none <b>"}}, "the recipe names none &lt;b&gt;."),
        ({"operating_curve": curve((0.5, None, None))}, "`python training/eval.py RUN` measures it"),
    ],
)
def test_without_a_curve_it_is_said_who_makes_one(serving, told, tmp_path):
    text = drawn(operating_slider, Model(tmp_path, serving))
    assert told in text and "<input" not in text


def test_names_of_classes_are_a_strangers(tmp_path):
    odd = curve((0.5, 0.9, 0.9)) | {"positive": ['<img src=x>"'], "negative": ["a", "b & c"]}
    text = drawn(operating_slider, Model(tmp_path, {"operating_curve": odd}))
    assert "<img" not in text and "a or b &amp; c" in text
    assert json.loads(unescape(re.search('data-names="(.*?)"', text)[1])) == [
        ['<img src=x>"'],
        '<img src=x>"',
        "a or b & c",
    ]
