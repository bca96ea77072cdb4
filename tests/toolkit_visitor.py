"""SageMaker's own toolkit, asked in its process: its server wants Java, its handler does not.

python toolkit_visitor.py QUESTIONS.json ANSWERS.json

QUESTIONS is {"archive": where an archive is unpacked, "images": paths}, ANSWERS a list with the JSON of each answer, or
{"error": in words} alone. It runs in an environment of the container's versions and knows nothing of this repository.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from sagemaker_huggingface_inference_toolkit.handler_service import HuggingFaceHandlerService

KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".json": "application/json"}


class Context:
    """What the server tells its handler of itself and of one request."""

    def __init__(self, folder: str) -> None:
        self.system_properties = {"model_dir": folder, "batch_size": 1, "gpu_id": None}
        self.metrics = SimpleNamespace(add_time=lambda *_: None)
        self.kind = ""
        properties = lambda: {"Content-Type": self.kind, "Accept": "application/json"}  # noqa: E731
        self.request_processor = [SimpleNamespace(get_request_properties=properties)]

    def set_response_content_type(self, *_: object) -> None:
        pass


def ask(archive: str, images: list[str]) -> list:
    handler, context, answers = HuggingFaceHandlerService(), Context(archive), []
    handler.initialize(context)
    for path in map(Path, images):
        context.kind = KINDS[path.suffix]
        try:
            [answer] = handler.handle([{"body": bytearray(path.read_bytes())}], context)
            answers.append(json.loads(answer))
        except Exception as error:  # which its server answers with HTTP 400
            answers.append({"error": str(error), "code": getattr(error, "error_code", None)})
    return answers


if __name__ == "__main__":
    questions, answers = map(Path, sys.argv[1:])
    answers.write_text(json.dumps(ask(**json.loads(questions.read_text(encoding="utf-8")))), encoding="utf-8")
