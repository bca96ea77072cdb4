"""A page in parts: one that cannot be drawn costs itself alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from html import escape
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)


def drawn(what: str, draw: Callable[[], T]) -> T | str:
    """What `draw` gives; if it cannot, a sentence in HTML that says so of `what`, and a line in the log that says why.

    Models are anybody's, and so is what their files hold: what nobody has thought of must not take the page along.
    """
    try:
        return draw()
    except Exception as error:
        logger.warning("%s cannot be drawn", what, exc_info=error)
        return f'<p class="soft">{escape(what)} cannot be shown: the model\'s files say it in a way not known here.</p>'
