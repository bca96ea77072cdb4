"""The pages, as people use them: in a real browser, which draws, drops, pastes and listens.

Screenshots go into the folder that PAGE_SCREENSHOTS names, or else into pytest's own temporary folder.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from chromium import PATIENCE, chromium, opened
from conftest import write_photo
from digits_network import save_digits_network
from PIL import Image
from strokes import DIGITS, placed

from hub_utils.portable.demo import build_demo, build_suite

DARK = {"color_scheme": "dark"}
PHONE = {"width": 360, "height": 740, "has_touch": True, "is_mobile": True}


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
    for number, name in enumerate(("red", "green", "blue")):
        write_photo(folder / "examples" / f"{name}.png", number / 3, 900 + number, (320, 240))
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        os.chdir(folder)
        patch.setattr(sys.modules["__main__"], "__file__", str(folder / "app.py"), raising=False)
        patch.delenv("DEMO_MODEL", raising=False)
        yield folder
        os.chdir(before)


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


def said(page, text: str | re.Pattern) -> None:
    """Wait until the answer that stands on the page says so."""
    page.locator(".answer:visible").filter(has_text=text).wait_for()


def draw(page, strokes) -> None:
    """By the mouse; answered when the number of drawings seen is that of the strokes."""
    field = page.locator("canvas:visible").bounding_box()
    for stroke in strokes:
        points = [(field["x"] + x * field["width"], field["y"] + y * field["height"]) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()


def headline(page) -> str:
    return page.locator(".answer:visible h2 .short").inner_text().strip()


def give(page, path: Path) -> None:
    page.locator('.one-picture input[type="file"]').set_input_files(path)


def photo(folder: Path, name: str, size=(320, 240)) -> Path:
    path = folder / f"{name}.png"
    write_photo(path, ["red", "green", "blue"].index(name) / 3, 77, size)
    return path


# One picture


def test_a_picture_is_given_in_every_way_and_answered(visit, tmp_path, screenshot):
    page = visit("colours")
    page.get_by_role("heading", name="Colours").wait_for()
    give(page, photo(tmp_path, "red"))
    said(page, "red")
    screenshot(page, "one-picture")
    page.get_by_role("button", name="Example: blue").click()
    said(page, "blue")
