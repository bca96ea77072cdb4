"""What a cloud's container does with a model's folder: the code in it is loaded and asked, and nothing else of ours.

python -P cloud_visitor.py QUESTIONS.json ANSWERS.json

QUESTIONS is a list of {"archive": where the archive for SageMaker is unpacked, or "folder": that for Vertex AI,
"questions": a list}. A question to SageMaker is [content type, text or {"file": path}], to Vertex AI what its JSON
holds, in which {"file": path} stands for the file in base64. Each answer is {"answer": …} or {"error": in words}.
"""

import base64
import importlib.util
import json
import sys
from pathlib import Path


def main(questions: Path, answers: Path) -> None:
    found = [ask(**each) for each in json.loads(questions.read_text(encoding="utf-8"))]
    answers.write_text(json.dumps(found), encoding="utf-8")


def ask(questions: list, archive: str | None = None, folder: str | None = None) -> list:
    before = set(sys.modules)
    path, modules = sys.path[:], {}
    if archive:
        sys.path.insert(0, f"{archive}/code")  # as the toolkit does
        modules = load(f"{archive}/code/inference.py")
        model = modules.model_fn(archive)
        answer = lambda question: modules.predict_fn(modules.input_fn(body(question[1]), question[0]), model)  # noqa: E731
    else:
        model = load(f"{folder}/handler.py").EndpointHandler(folder)  # which finds its modules by itself
        answer = lambda question: model(in_base64(question))  # noqa: E731
    found = [said(answer, question) for question in questions]
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "hub_utils":
            del sys.modules[name]
    return found


def said(answer, question) -> dict:
    try:
        return {"answer": answer(question)}
    except ValueError as error:
        return {"error": str(error)}


def load(path: str):
    spec = importlib.util.spec_from_file_location("handler", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def body(given):
    return bytearray(Path(given["file"]).read_bytes()) if "file" in given else json.dumps(in_base64(given))


def in_base64(given):
    match given:
        case {"file": path}:
            return base64.b64encode(Path(path).read_bytes()).decode()
        case dict():
            return {key: in_base64(each) for key, each in given.items()}
        case list():
            return [in_base64(each) for each in given]
    return given


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
