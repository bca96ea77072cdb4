"""One picture in, dropped, pasted, taken or chosen; the answer beside it, with no button to press."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gradio as gr

from hub_utils.portable.command import UserError
from hub_utils.portable.served import Served, verdict
from hub_utils.portable.uploads import Picture, open_upload


def endpoint(served: Served, api_name: str) -> None:
    """The API's way to the same answer, without a page's drawing."""

    def predict(picture: Path) -> dict[str, Any]:
        """Which class a picture shows, with a calibrated probability for each class."""
        try:
            start = time.perf_counter()
            (answer,) = served.answer([open_upload(Path(picture))])
            return verdict(served, answer, 1000 * (time.perf_counter() - start))
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    picture, answer = Picture(visible=False, label="Picture"), gr.JSON(visible=False, label="Answer")
    picture.upload(predict, picture, answer, api_name=api_name, concurrency_limit=4)


def one_picture(served: Served, examples: list[Path]) -> None:
    """Draw it, inside an open `gr.Blocks`."""
    gr.HTML("<p>one picture</p>", apply_default_css=False)
