"""What strangers ask of gradio's own routes in words that are none: refused as theirs, not failed as ours.

gradio answers many a question that is no question, a number that is none or half a letter, with an error of the server
and a traceback in its log; and also one about a bad picture, if it does not wait in line.
"""

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Callable, MutableMapping
from typing import Any

QUESTION = re.compile(r".*/gradio_api/(api|call|cancel|component_server|queue|reset|run|stream|upload|vibe-)")
NO_ROOM = "This page has no room for uploads now. Try again in a minute."
FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)  # Windows has no quotas
MOST_REASON = 200  # letters of what is wrong with a question, in the log
NO_QUESTION = "This is no question that is answered here; see “Use via API” at the foot of the page."

logger = logging.getLogger(__name__)
Message = MutableMapping[str, Any]


class Questions:
    """ASGI middleware of a gradio app: what is sent to it ends in no error of the server's."""

    def __init__(self, app: Callable) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Callable, send: Callable) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not QUESTION.match(scope["path"]):
            await self._app(scope, receive, send)
            return
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            if message.get("status") == 500:
                message = {**message, "status": 422}  # the sentence for whoever asked comes with it
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            if begun:
                raise
            status, sentence = 400, NO_QUESTION
            if isinstance(error, OSError) and error.errno in FULL:
                logger.error("no room for what is sent to %s: %s", *map(_one_line, (scope["path"], error)))
                status, sentence = 503, NO_ROOM
            else:
                reason = _one_line(f"{type(error).__name__}: {error}")
                logger.warning("no question to %s: %s", _one_line(scope["path"]), reason)
            content = json.dumps({"detail": sentence, "error": sentence}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
            headers += [(b"retry-after", b"60")] if status == 503 else []
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": content})


def _one_line(what: object) -> str:
    """The first letters, without any that would begin a line of the log or steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in str(what)[:MOST_REASON])
