"""`code/inference.py` of an archive for SageMaker: the functions that its Hugging Face container looks for.

An image's bytes, or {"inputs": BASE64 or a list, "parameters": {"top_k": 5}} in; [{"label": …, "score": …}] out.

Source: `handler_service.py` of sagemaker-huggingface-inference-toolkit 2.6.0. It puts `code/` on the path, takes these
functions in place of its own, encodes what `predict_fn` returns as Accept says (JSON if it says nothing), and
answers whatever is raised with HTTP 400 and its words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hub_utils.portable.endpoint import Endpoint, Question, read


def model_fn(model_dir: str) -> Endpoint:
    """The model whose files the container has unpacked there."""
    return Endpoint(Path(model_dir))


def input_fn(data: bytes | str, content_type: str | None) -> Question:
    """What is asked.

    Raises:
        ValueError: it is neither JSON nor an image.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return read(data if isinstance(data, str) else bytes(data), "inputs")
    if kind.startswith("image/") or kind in ("application/octet-stream", "application/x-image"):
        return Question([bytes(data)], alone=True)
    raise ValueError(f"the content type is '{content_type}'; image/jpeg or the like, or application/json is wanted")


def predict_fn(question: Question, endpoint: Endpoint) -> list[Any]:
    """The answer, for JSON."""
    return endpoint.answer(question)
