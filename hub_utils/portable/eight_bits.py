"""The file of a network in 8 bits, which is as good as it was measured to be: no other may stand in its place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub_utils.portable.facts import told
from hub_utils.portable.units import in_milliseconds

INT8 = "onnx/model_int8.onnx"
ANEW = "python training/eval.py RUN --int8 writes and measures it anew"


def why_not_measured(file: Path, serving: Any) -> str | None:
    """Why the figures in serving.json, of which `serving` is the content, are not those of `file`; None if they are."""
    known = told(serving, "int8", "sha256", of=str)
    if not known:
        return f"serving.json does not say that it was measured; {ANEW}"
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found == known:
        return None
    return f"it is not the file that was measured (this is {found[:8]}…, that was {known[:8]}…); {ANEW}"


def without_it(milliseconds: Mapping[str, float]) -> str:
    """In words, how long what answers without it takes: half the bits where these were timed, and float32."""
    words = {kind: f"{in_milliseconds(each)} in {kind}" for kind, each in milliseconds.items() if kind != "int8"}
    exact = words.pop("float32")
    return f"{next(iter(words.values()))} ({exact})" if words else exact
