"""The pages, as people use them: in a real browser, which draws, drops, pastes and listens.

Screenshots go into the folder that PAGE_SCREENSHOTS names, or else into pytest's own temporary folder.
"""

import base64
import csv
import json
import os
import re
import shutil
import sys
import threading
from pathlib import Path

import pytest
from chromium import chromium, opened
from conftest import write_photo
from digits_network import save_digits_network
from strokes import DIGITS, placed

from hub_utils.portable import one_picture
from hub_utils.portable.demo import build_demo, build_suite

PHONE = {"width": 360, "height": 740, "has_touch": True, "is_mobile": True}
NAMES = ("red", "green", "blue")
# Controls, as Chromium tells them to a screen reader.
CONTROLS = {"button", "link", "tab", "slider", "checkbox", "radio", "combobox", "textbox", "spinbutton", "option"}


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def home(tmp_path_factory, colours):
    """A folder with runs/ and examples/, as a project or a Space has it, that everything here is started in."""
    folder = tmp_path_factory.mktemp("home")
    save_digits_network(folder / "runs" / "digits")
    shutil.copytree(colours.path, folder / "runs" / "colours")
    shutil.copytree(colours.path, folder / "runs" / "spots")
    _as_if_medical(folder / "runs" / "spots")
    for number, name in enumerate(NAMES):
        write_photo(folder / "examples" / f"{name}.png", number / 3, 900 + number, (320, 240))
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        os.chdir(folder)
        patch.setattr(sys.modules["__main__"], "__file__", str(folder / "app.py"), raising=False)
        patch.delenv("DEMO_MODEL", raising=False)
        yield folder
        os.chdir(before)


def _as_if_medical(run: Path) -> None:
    """What the recipe and eval.py of a medical data set would have written, with figures of our own."""
    recipe, serving = (json.loads((run / name).read_text()) for name in ("recipe.json", "serving.json"))
    recipe["recipe"]["card"]["medical"] = True
    points = [
        {"threshold": at / 10, "sensitivity": {"value": 1 - at / 20, "interval": [1 - at / 10, 1]},
         "specificity": {"value": at / 10, "interval": [0, 1]}} for at in range(11)
    ]  # fmt: skip
    curve = {"positive": ["red"], "negative": ["blue", "green"], "split": "test", "images": 15, "points": points}
    (run / "recipe.json").write_text(json.dumps(recipe))
    (run / "serving.json").write_text(json.dumps(serving | {"operating_curve": curve}))


@pytest.fixture(scope="module")
def address(home):
    """Of the page of a name: each is built when it is first asked for, and served by this process."""
    started = {}

    def find(name: str) -> str:
        if name not in started:
            started[name] = build_suite(["colours", "digits"]) if name == "suite" else build_demo(name)
            started[name].launch(prevent_thread_lock=True, quiet=True, inbrowser=False)
        return started[name].local_url

    yield find
    for page in started.values():
        page.close(verbose=False)


@pytest.fixture(scope="module")
def screenshot(tmp_path_factory):
    folder = Path(os.environ.get("PAGE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)

    def take(page, name: str) -> None:
        page.screenshot(path=folder / f"{name}.png", full_page=True)

    return take


@pytest.fixture
def visit(browser, address):
    """Open a page; in the end nothing may have been complained of, nor asked of other machines."""
    visits = []

    def visited(name: str, path: str = "", **how):
        page, complaints = opened(browser, **how)
        visits.append((page, complaints))
        page.goto(address(name) + path)
        page.get_by_role("heading", level=1).wait_for()
        return page

    yield visited
    for page, complaints in visits:
        page.context.close()
        assert complaints == []


def tab(page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    page.get_by_role("tab", name=name, selected=True).wait_for()


def says(page, text: str) -> None:
    """Wait until this stands in large type, or is the sentence in place of an answer."""
    page.locator(":is(.answer h2 .short, .answer.problem):visible").filter(has_text=re.compile(text)).wait_for()


def photo(folder: Path, name: str, seed: int = 77) -> Path:
    path = folder / f"{name}.png"
    write_photo(path, NAMES.index(name) / 3, seed, (320, 240))
    return path


def give(page, *paths: Path) -> None:
    page.locator('.one-picture:not(.drawing) input[type="file"]').set_input_files(paths)


def drop(page, path: Path, on: str = ".one-picture:not(.drawing) .view") -> bool:
    """Whether the page took it; or else the browser leaves the page and opens the file."""
    return page.evaluate(
        """async ([content, on]) => {
          const blob = await (await fetch("data:image/png;base64," + content)).blob();
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([blob], "dropped.png", { type: "image/png" }));
          const event = (type) => new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true });
          const left = ["dragover", "drop"].map((type) => document.querySelector(on).dispatchEvent(event(type)));
          return !left.includes(true);
        }""",
        [base64.b64encode(path.read_bytes()).decode(), on],
    )


# One picture


def test_a_picture_is_chosen_dropped_pasted_or_an_example(visit, tmp_path, screenshot):
    page = visit("colours", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("heading", name="Colours").wait_for()
    give(page, photo(tmp_path, "red"))
    says(page, "red")
    screenshot(page, "one-picture")
    page.get_by_role("button", name="Example: blue").click()
    says(page, "blue")
    content = base64.b64encode(photo(tmp_path, "green").read_bytes()).decode()
    page.evaluate(
        """async (content) => {
          const blob = await (await fetch("data:image/png;base64," + content)).blob();
          await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        content,
    )
    page.keyboard.press("Control+V")
    says(page, "green")
    drop(page, photo(tmp_path, "red", 78))
    says(page, "red")


def test_a_refused_file_gets_a_sentence_and_the_next_one_an_answer(visit, tmp_path, screenshot):
    page = visit("colours")
    bad = tmp_path / "letter.png"
    bad.write_text("Dear all,")
    give(page, bad)
    says(page, r"\w+ .+\.$")
    page.get_by_text("Drop a picture here").wait_for()  # the stage is empty again, and adds nothing to the sentence
    assert not page.get_by_text("Your browser cannot show").is_visible()
    screenshot(page, "refused")
    give(page, photo(tmp_path, "blue"))
    says(page, "blue")


def test_of_pictures_given_at_once_the_last_is_answered(visit, tmp_path):
    page = visit("colours")
    for name in NAMES:
        give(page, photo(tmp_path, name))
    says(page, NAMES[-1])
    page.locator(".one-picture:not(.busy)").wait_for()
    says(page, NAMES[-1])


def test_a_picture_that_is_given_while_another_is_looked_at_is_answered_last(visit, tmp_path, monkeypatch):
    look, begun, go_on = one_picture._look, threading.Event(), threading.Event()

    def slow(*what):
        if not begun.is_set():
            begun.set()
            go_on.wait(30)
        return look(*what)

    page = visit("colours")
    monkeypatch.setattr(one_picture, "_look", slow)
    give(page, photo(tmp_path, "red"))
    assert begun.wait(30)
    with page.expect_response(re.compile("/upload")):
        give(page, photo(tmp_path, "green"))
    page.wait_for_timeout(300)  # whoever asks at once has asked by now
    go_on.set()
    says(page, "green")
    page.locator(".one-picture:not(.busy)").wait_for()
    says(page, "green")


def test_a_file_is_never_opened_by_the_browser_in_place_of_the_page(visit, tmp_path):
    page = visit("colours")
    tab(page, "About")
    assert drop(page, photo(tmp_path, "red"), on="body")
    tab(page, "One picture")
    assert page.locator(".answer.waiting").is_visible()
    page = visit("digits")
    tab(page, "Draw")
    assert drop(page, photo(tmp_path, "red"), on=".drawing canvas")


def test_the_camera_answers_all_the_time_and_leaves_nothing_behind(visit, screenshot):
    page = visit("colours", permissions=["camera"])
    camera, answer = page.get_by_role("button", name="Use the camera"), page.locator(".answer:not(.waiting) h2")
    slider = page.get_by_role("slider")
    for _ in range(2):
        camera.click()
        slider.wait_for()
        assert answer.is_visible() and page.locator(".one-picture.busy").count() == 0  # live, nothing is dimmed
        page.get_by_role("button", name="Stop").click()
        page.locator(".answer.waiting").wait_for()
        page.wait_for_timeout(500)  # an answer that was under way
        assert page.locator(".answer.waiting").is_visible() and not slider.is_visible()
        assert page.get_by_text("Drop a picture here").is_visible()
        assert camera.evaluate("each => each === document.activeElement")
    camera.click()
    answer.wait_for()
    page.get_by_role("button", name="Take this one").press("Enter")
    camera.wait_for()
    page.locator(".one-picture:not(.busy) .answer:not(.waiting)").wait_for()
    assert camera.evaluate("each => each === document.activeElement")
    assert page.locator(".frame img").is_visible() and slider.is_visible()
    screenshot(page, "camera")


def test_a_camera_that_may_not_be_used_gets_a_sentence_and_the_next_picture_an_answer(visit, tmp_path):
    page = visit("colours")
    give(page, photo(tmp_path, "green"))
    says(page, "green")
    page.get_by_role("button", name="Use the camera").click()
    says(page, "camera .* choose a picture")
    give(page, photo(tmp_path, "blue"))
    says(page, "blue")


def test_the_heat_map_of_any_class_covers_the_picture_as_strongly_as_wished(visit, tmp_path, screenshot):
    page = visit("colours")
    give(page, photo(tmp_path, "green"))
    says(page, "green")
    canvas, slider = page.locator(".stage canvas").first, page.get_by_role("slider")
    slider.wait_for()
    shown = canvas.evaluate("each => each.toDataURL()")
    screenshot(page, "heat-map")
    for closed in page.locator(".answer summary").all():  # there is none where all classes have their bars
        closed.click()
    page.get_by_role("button", name="red").last.click()
    page.locator(".heat b").filter(has_text="red").wait_for()
    assert canvas.evaluate("each => each.toDataURL()") != shown
    reached = (
        "([each, least, most]) => { const at = +getComputedStyle(each).opacity; return least <= at && at <= most }"
    )
    for key, least, most in (("Home", 0, 0.01), ("End", 0.99, 1)):
        slider.press(key)
        page.wait_for_function(reached, arg=[canvas.element_handle(), least, most])


# Drawing


def draw(page, strokes, touch: bool = False) -> None:
    """By the mouse; or by a finger, as Chromium gets it from a screen."""
    field = page.locator(".drawing canvas").bounding_box()
    finger = page.context.new_cdp_session(page) if touch else None
    for stroke in strokes:
        points = [(field["x"] + x * field["width"], field["y"] + y * field["height"]) for x, y in stroke]
        if finger:
            for number, (x, y) in enumerate(points):
                kind = "touchMove" if number else "touchStart"
                finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
            finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        else:
            page.mouse.move(*points[0])
            page.mouse.down()
            for point in points[1:]:
                page.mouse.move(*point)
            page.mouse.up()


def digit(name: str):
    return placed(DIGITS[name][0], 0.2, 0.1, 0.8)


def read(page) -> str:
    """The digit that stands there once the last stroke is answered."""
    page.locator(".drawing:not(.busy) .answer h2 .short").wait_for()
    return page.locator(".drawing .answer h2 .short").inner_text().strip()


def clear(page) -> None:
    page.get_by_role("button", name="Clear").click()
    page.locator(".drawing .answer.waiting").wait_for()


@pytest.mark.slow
def test_nine_of_ten_digits_drawn_are_read_right(visit, screenshot):
    page = visit("digits")
    tab(page, "Draw")
    right = 0
    for name in DIGITS:
        draw(page, digit(name))
        right += read(page) == name
        if name == "5":
            screenshot(page, "drawing")
        clear(page)
    assert right >= 9


def test_a_stroke_is_taken_back_and_a_dot_gets_a_sentence(visit):
    page = visit("digits")
    tab(page, "Draw")
    draw(page, digit("0"))
    assert read(page) == "0"
    small = page.locator(".drawing .seen img")
    before = small.get_attribute("src")
    draw(page, [[(0.1, 0.1), (0.9, 0.9)]])
    page.wait_for_function("before => document.querySelector('.drawing .seen img')?.src !== before", arg=before)
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("before => document.querySelector('.drawing .seen img')?.src === before", arg=before)
    page.get_by_role("button", name="Undo").press("Enter")  # by the keyboard as well
    page.locator(".drawing .answer.waiting").wait_for()
    page.get_by_role("button", name="Undo").click()  # there is nothing left: nothing happens
    draw(page, [[(0.5, 0.5)]])
    page.locator(".drawing .answer.problem").filter(has_text="too small to read").wait_for()
    clear(page)
    draw(page, [[(0.5, -0.2), (0.6, -0.1)]])  # beside the field: nothing is drawn
    draw(page, digit("7"))
    assert read(page) == "7"


def test_a_finger_draws_in_the_dark_what_a_mouse_draws_by_day(visit, screenshot):
    day, night = visit("digits"), visit("digits", color_scheme="dark", **PHONE)
    for page in (day, night):
        tab(page, "Draw")
        scrolled = page.evaluate("scrollY")
        draw(page, digit("2"), touch=page is night)
        assert read(page) == "2"
        assert page.evaluate("scrollY") == scrolled  # the finger drew, and did not move the page
    screenshot(night, "drawing-dark-360")
    assert night.evaluate("document.body.classList.contains('dark')")
    # Light strokes on dark are seen, dark ones on light are sent.
    assert "invert" in night.locator(".drawing canvas").evaluate("each => getComputedStyle(each).filter")
    middle = "each => [...each.getContext('2d').getImageData(3, 3, 1, 1).data]"
    assert night.locator(".drawing canvas").evaluate(middle) == [255, 255, 255, 255]


# Many pictures


def test_many_pictures_with_a_bad_file_in_them_and_the_table_to_take_away(visit, tmp_path, screenshot):
    page = visit("colours")
    tab(page, "Many pictures")
    files = [photo(tmp_path, name) for name in NAMES]
    (bad := tmp_path / "notes.png").write_text("no picture")
    page.locator('.many-pictures input[type="file"]').set_input_files([*files, bad])
    page.locator(".many-results tbody tr").nth(3).wait_for()
    screenshot(page, "many-pictures")
    rows = page.locator(".many-results tbody tr").all_inner_texts()
    assert all(name in text for name, text in zip((*NAMES, "notes.png"), rows, strict=True))
    assert page.locator(".many-results tr.bad").count() == 1
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the table").or_(
            page.get_by_role("link", name="Download the table")
        ).click()
    with download.value.path().open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["prediction"] for row in table] == [*NAMES, ""]
    assert [bool(row["error"]) for row in table] == [False, False, False, True]
    assert [row["sure"] in ("true", "false") for row in table] == [True, True, True, False]


def test_who_stops_while_files_are_sent_finds_all_of_them_in_the_table(visit, tmp_path):
    page = visit("colours")
    tab(page, "Many pictures")
    held = []
    page.route(re.compile("/upload"), lambda each: held.append(each))
    files = [photo(tmp_path, "red")]
    files += [shutil.copy(files[0], tmp_path / f"{number}.png") for number in range(1, 8)]
    page.locator('.many-pictures input[type="file"]').set_input_files(files)
    page.locator(".many-pictures .how-far").filter(has_text="Sending").wait_for()
    page.get_by_role("button", name="Stop").click()
    for each in held:
        each.continue_()
    page.locator(".many-results tbody tr").nth(7).wait_for()
    assert page.locator(".many-results .why").all_inner_texts() == ["Not looked at: you stopped before."] * 8
    assert len(held) < 8


# A medical model


def test_a_medical_model_gives_its_notice_before_any_picture_can_be_given(visit, tmp_path, screenshot):
    page = visit("spots")
    page.get_by_role("heading", name="Not a medical device").wait_for()
    assert not page.get_by_role("button", name="Choose a picture").is_visible()
    assert not page.get_by_role("tab").first.is_visible()
    picture = photo(tmp_path, "red")
    assert drop(page, picture)  # nor by dropping it
    screenshot(page, "notice")
    assert unreadable(page) == []
    page.get_by_role("button", name="I have understood").press("Enter")
    page.get_by_role("button", name="Choose a picture").wait_for()
    page.locator(".answer.waiting").wait_for()
    give(page, picture)
    says(page, "red")
    page.locator(".operating .this").filter(has_text="is called red").wait_for()
    assert page.get_by_text("Likeliest class").is_visible()  # what it is called hangs on the line
    screenshot(page, "medical")
    assert unreadable(page) == nameless(page) == []
    slider = page.get_by_role("slider", name="Called red")
    slider.press("Home")
    page.locator(".operating .found").filter(has_text="100").wait_for()
    slider.press("End")
    page.locator(".operating .found").filter(has_text="50").wait_for()


# A page for all


def unreadable(page) -> list[str]:
    """Texts with less contrast to what is behind them than 4.5 to 1, or 3 to 1 where they are large (WCAG 2, AA)."""
    return page.evaluate("""() => {
      const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
      const painted = (layers) => {
        context.clearRect(0, 0, 1, 1);
        for (const layer of layers) { context.fillStyle = layer; context.fillRect(0, 0, 1, 1); }
        return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
      };
      const light = (rgb) => rgb.map((each) => each / 255)
        .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
        .reduce((sum, each, at) => sum + each * [0.2126, 0.7152, 0.0722][at], 0);
      const found = [], seen = { opacityProperty: true, visibilityProperty: true };
      for (const each of document.querySelectorAll(".gradio-container *")) {
        const text = [...each.childNodes].map((node) => node.nodeType === 3 ? node.data : "").join("").trim();
        if (!text || !each.checkVisibility(seen) || each.closest("footer, .hint")) continue;
        const behind = [];
        for (let at = each; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
        const style = getComputedStyle(each), size = parseFloat(style.fontSize);
        const [ink, ground] = [light(painted([...behind, style.color])), light(painted(behind))];
        const contrast = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
        const large = size >= 24 || (size >= 18.6 && +style.fontWeight >= 700);
        if (contrast < (large ? 3 : 4.5)) found.push(`${text.slice(0, 40)}: ${contrast.toFixed(1)} (${style.color})`);
      }
      return found;
    }""")


def nameless(page) -> list[str]:
    """Controls that a screen reader has no name for."""
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    controls = [each for each in tree if not each.get("ignored") and each.get("role", {}).get("value") in CONTROLS]
    assert len(controls) >= 3
    return [json.dumps(each["role"]) for each in controls if not each.get("name", {}).get("value", "").strip()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["colours", "digits"])
def test_every_tab_fits_a_phone_is_readable_and_has_names(visit, tmp_path, screenshot, scheme, name):
    page = visit(name, color_scheme=scheme, **PHONE)
    assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
    labels = ["Draw"] * (name == "digits") + ["One picture", "Many pictures", "About"]
    for label in labels:
        tab(page, label)
        if label == "One picture":
            give(page, photo(tmp_path, "red"))
            page.locator(".one-picture:not(.drawing) .answer:not(.waiting)").wait_for()
        screenshot(page, f"{name}-{label.lower().replace(' ', '-')}-360-{scheme}")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{label} is {wide} pixels too wide"
        whole = [each.bounding_box() for each in page.get_by_role("tab").all()]
        assert len(whole) == len(labels) and all(0 <= box["x"] <= 360 - box["width"] for box in whole)
        assert unreadable(page) == []
        assert nameless(page) == []


def test_no_tab_is_out_of_reach_whatever_the_font(visit):
    page = visit("digits", **PHONE)
    page.add_style_tag(content="[role=tab], .tab-container * { letter-spacing: .3em }")
    page.set_viewport_size({"width": 340, "height": 740})  # gradio counts again what fits
    page.wait_for_timeout(300)
    for label in ("About", "Draw", "Many pictures", "One picture"):
        tab(page, label)


def test_it_is_used_by_the_keyboard_alone(visit, screenshot):
    """Tab leads to the example, Enter gives it, and on to the heat map's slider, each with a visible focus."""
    page = visit("colours")

    def reach(element) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if element.evaluate("each => each === document.activeElement"):
                break
        else:
            pytest.fail("Tab does not lead there")
        focus = "each => { const style = getComputedStyle(each); return [style.outlineStyle, style.boxShadow] }"
        assert element.evaluate(focus) != ["none", "none"]

    reach(page.get_by_role("button", name="Example: green"))
    page.keyboard.press("Enter")
    says(page, "green")
    page.keyboard.press("Shift+Tab")
    reach(page.locator(".answer :is(.bars button, summary)").first)
    screenshot(page, "keyboard")
    # What the eye sees is said, once.
    page.locator('[role="status"]').filter(has_text=re.compile(r"green, \S+ %")).wait_for(state="attached")


# The model


def test_a_page_without_a_model_says_so_and_recovers_by_itself(visit, home, tmp_path, screenshot):
    page = visit("later")
    page.get_by_text("There is no model").wait_for()
    page.get_by_text("training/train.py later").wait_for()
    screenshot(page, "no-model")
    shutil.copytree(home / "runs" / "colours", home / "later")
    (home / "later").rename(home / "runs" / "later")  # at once, as train.py does
    page.get_by_role("button", name="Choose a picture").wait_for()
    give(page, photo(tmp_path, "blue"))
    says(page, "blue")


def test_from_the_door_of_the_suite_to_an_answer(visit, tmp_path, screenshot):
    page = visit("suite")
    screenshot(page, "suite")
    page.get_by_role("link", name="Colours").click()
    page.get_by_role("heading", name="Colours", level=1).wait_for()
    give(page, photo(tmp_path, "red"))
    says(page, "red")
    page.get_by_role("link", name="All demos").click()
    page.get_by_role("link", name=re.compile("digits", re.IGNORECASE)).wait_for()
