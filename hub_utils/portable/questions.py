"""What strangers ask of gradio's own routes in words that are none: refused as theirs, not failed as ours.

gradio answers many a question that is no question, a number that is none or half a letter, with an error of the server
and a traceback in its log; and also one about a bad picture, if it does not wait in line.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, MutableMapping
from typing import Any

QUESTION = re.compile(r".*/gradio_api/(api|call|cancel|component_server|queue|reset|run|stream|upload|vibe-)")
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
            logger.warning("no question: %s", type(error).__name__)
            content = json.dumps({"detail": NO_QUESTION, "error": NO_QUESTION}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            await send({"type": "http.response.body", "body": content})
