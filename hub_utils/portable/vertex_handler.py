"""`handler.py` of a folder for Vertex AI: the class that its Hugging Face containers look for.

{"instances": [{"b64": …}, …], "parameters": {"top_k": 5}} in; {"predictions": [[{"label": …, "score": …}, …], …]} out.

Sources: `Custom.load` and the custom router of hf-serve 0.1.1, which is in the container with transformers 5.13, and
`handler.py` and `utils.py` of huggingface-inference-toolkit 0.5, which is in those before. Both make `EndpointHandler`
of the folder's path, give it the JSON of a question, and answer a ValueError with HTTP 400 and its words. The former
does not look for modules in the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from hub_utils.portable.endpoint import Endpoint, read


class EndpointHandler:
    """The model of a folder."""

    def __init__(self, path: str = "", **_: Any) -> None:
        self._endpoint = Endpoint(Path(path))

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """The answer to a question.

        Raises:
            ValueError: it is not made as above, or holds what is no picture.
        """
        return {"predictions": self._endpoint.answer(read(data, "instances"))}
