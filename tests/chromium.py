"""A real browser for tests, and what a page complained of in it or asked of others."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream"]  # a camera that films a test picture, if it may
PATIENCE = 60_000  # milliseconds: the machine may be busy


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser, the system's if there is one; the test is skipped where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as drive:
        try:
            browser = drive.chromium.launch(executable_path=found, args=FLAGS)
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {error.message.splitlines()[0]}")
        try:
            yield browser
        finally:
            browser.close()


def opened(browser: Any, width: int = 1024, height: int = 900, **how: Any) -> tuple[Any, list[str]]:
    """A new page in a context of its own, and the list that its complaints go into.

    Complaints are errors and warnings in the console, exceptions, and requests to anybody but this machine.
    """
    page = browser.new_context(viewport={"width": width, "height": height}, **how).new_page()
    page.set_default_timeout(PATIENCE)
    complaints: list[str] = []
    page.on("console", lambda each: complaints.append(each.text) if each.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda each: None if _is_here(each.url) else complaints.append(each.url))
    return page, complaints


def _is_here(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "http://localhost:", "data:", "blob:"))
