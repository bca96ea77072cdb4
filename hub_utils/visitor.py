"""A stranger to this repository, who asks models about images: by plain `pipeline`, and by their ONNX files.

python -P hub_utils/visitor.py QUESTIONS.json ANSWERS.json

`verify` runs this file in a process of its own, in an empty folder, with an empty cache. It stands alone: nothing of
this repository is imported, and nothing can be. It runs with transformers 4.51 as well.

QUESTIONS is a list of {"model": a folder or repo id, "options": what else `pipeline` is told, "images": paths,
"onnx" and "int8": whether its ONNX files are to be asked}, ANSWERS a list of what `ask` returns, or of {"error": in one
line, "hub": what of the Hub is behind it, if something is}.
"""

import json
import sys
from pathlib import Path


def main(questions: Path, answers: Path) -> None:
    """Answer all questions; one that fails keeps no other back."""
    found = []
    for question in json.loads(questions.read_text(encoding="utf-8")):
        try:
            found.append(ask(**question))
        except Exception as error:  # whatever a model of a stranger makes of the libraries
            found.append({"error": in_one_line(error), "hub": of_hub(error)})
    answers.write_text(json.dumps(found, default=str), encoding="utf-8")


def ask(model: str, options: dict, images: list[str], onnx: bool, int8: bool = False) -> dict:
    """What `model` is, as it loads here, and what it says of the images: for each a probability per class."""
    from transformers import AutoModelForImageClassification, pipeline

    how = {name: options[name] for name in ("revision", "trust_remote_code") if name in options}
    # Once by itself, for what `pipeline` keeps to itself: weights missing and left over, and where an error comes from.
    _, loaded = AutoModelForImageClassification.from_pretrained(model, output_loading_info=True, **how)
    classifier = pipeline("image-classification", model=model, **options)
    config, processor = classifier.model.config, classifier.image_processor
    values = getattr(processor, "data_config", None) or processor.to_dict()  # timm's; transformers' own
    pixels = [classifier.preprocess(image)["pixel_values"] for image in images]
    labels = [name for _, name in sorted(config.id2label.items())]
    answer = {
        "class": type(classifier.model).__name__,
        "weights": len(classifier.model.state_dict()),
        "missing": sorted(loaded["missing_keys"]),
        "unexpected": sorted(loaded["unexpected_keys"]),
        "labels": labels,
        "logits": classifier.forward({"pixel_values": pixels[0]})["logits"].shape[-1],
        "processor": type(processor).__name__,
        "size": values.get("input_size") or values.get("crop_size") or values.get("size"),
        "mean": values.get("mean") or values.get("image_mean"),
        "std": values.get("std") or values.get("image_std"),
        "image_size": getattr(config, "image_size", None) or values.get("input_size", [None])[-1],
        "shapes": [list(each.shape[1:]) for each in pixels],
        "probabilities": [in_order(classifier(image, top_k=len(labels)), labels) for image in images],
    }
    several = getattr(config, "problem_type", None) == "multi_label_classification" or len(labels) == 1
    files = {"onnx": "model.onnx"} if onnx else {}
    for kind, name in (files | ({"int8": "model_int8.onnx"} if int8 else {})).items():
        try:
            found = ask_onnx(onnx_file(model, how.get("revision"), name), pixels, several)
            answer |= {f"{kind}_{what}": each for what, each in found.items()}
        except Exception as error:
            answer |= {f"{kind}_error": in_one_line(error), "hub": of_hub(error)}
    return answer


def in_order(scores: list[dict], labels: list[str]) -> list[float]:
    """Probabilities in the order of the classes; of two classes with one name, nobody can tell them apart."""
    found = {each["label"]: each["score"] for each in scores}
    return [found[label] for label in labels]


def onnx_file(model: str, revision: str | None, name: str) -> Path:
    """Path of one of the model's ONNX files, downloaded if it is on the Hub."""
    if Path(model).is_dir():
        return Path(model, "onnx", name)
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(model, f"onnx/{name}", revision=revision))


def ask_onnx(path: Path, pixels: list, several: bool) -> dict:
    """The file's input, as it says, and its probabilities of `pixels`, which the model's own processor made.

    All images go in as one batch if they are of one shape. With `several`, more than one class may be right at once.
    """
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    arrays = [each.numpy() for each in pixels]
    batches = [np.concatenate(arrays)] if len({each.shape for each in arrays}) == 1 else arrays
    logits = np.concatenate([session.run(["logits"], {"pixel_values": batch})[0] for batch in batches]).astype(float)
    if several:
        probabilities = 1 / (1 + np.exp(-logits))
    else:
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = powers / powers.sum(axis=1, keepdims=True)
    return {"shape": session.get_inputs()[0].shape[1:], "probabilities": probabilities.tolist()}


def in_one_line(error: Exception) -> str:
    """The kind of error and what it says, in 300 characters; of tracebacks within it, what the last one ends with."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if frames:
        after = lines[frames[-1] + 1 :]
        ends = [number for number, line in enumerate(after) if not line.startswith(" ")]
        said = " ".join(" ".join(after[ends[0] :]).split()) if ends else ""
    else:
        said = ""
    if not said:
        said = ": ".join([type(error).__name__, *filter(None, [" ".join(" ".join(lines).split())])])
    return said if len(said) <= 300 else said[:299] + "…"


def of_hub(error: BaseException) -> dict | None:
    """The Hub's refusal behind an error, by its HTTP status, or that it could not be reached (status None).

    That a file is not there is the model's own fault.
    """
    causes = [error]
    while (deeper := causes[-1].__cause__ or causes[-1].__context__) is not None and deeper not in causes:
        causes.append(deeper)
    for cause in causes:
        response = getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if status is not None:
            headers = {name: response.headers[name] for name in ("Retry-After",) if name in response.headers}
            return None if status == 404 else {"status": status, "said": in_one_line(cause), "headers": headers}
    for cause in causes:
        client = type(cause).__module__.partition(".")[0] in ("httpx", "httpx2", "requests", "urllib3")
        if client or isinstance(cause, (ConnectionError, TimeoutError)):
            return {"status": None, "said": in_one_line(cause), "headers": {}}
    return None


if __name__ == "__main__":
    # However this repository is installed, and wherever it lies: not here.
    sys.modules.update(dict.fromkeys(("hub_utils", "training")))
    main(*map(Path, sys.argv[1:]))
