"""A stranger to this repository, who asks models about images: by plain `pipeline`, and by their ONNX files.

python -P hub_utils/visitor.py QUESTIONS.json ANSWERS.json

`verify` runs this file in a process of its own, in an empty folder, with an empty cache. It stands alone: nothing of
this repository is imported, and nothing can be. It runs with transformers 4.51 as well.

QUESTIONS is a list of {"model": a folder or repo id, "options": what else `pipeline` is told, "images": paths,
"onnx": whether it is to be asked}, ANSWERS a list of what `ask` returns, or of {"error": in one line}.
"""

import json
import sys
from pathlib import Path

# However this repository is installed, and wherever it lies: not here.
sys.modules.update(dict.fromkeys(("hub_utils", "training")))


def main(questions: Path, answers: Path) -> None:
    """Answer all questions; one that fails keeps no other back."""
    found = []
    for question in json.loads(questions.read_text(encoding="utf-8")):
        try:
            found.append(ask(**question))
        except Exception as error:  # whatever a model of a stranger makes of the libraries
            found.append({"error": in_one_line(error)})
    answers.write_text(json.dumps(found, default=str), encoding="utf-8")


def ask(model: str, options: dict, images: list[str], onnx: bool) -> dict:
    """What `model` is, as it loads here, and what it says of the images: for each a probability per class."""
    from transformers import AutoModelForImageClassification, pipeline

    classifier = pipeline("image-classification", model=model, **options)
    config, processor = classifier.model.config, classifier.image_processor
    how = {name: options[name] for name in ("revision", "trust_remote_code") if name in options}
    # Once more, for what `pipeline` keeps to itself.
    _, loaded = AutoModelForImageClassification.from_pretrained(model, output_loading_info=True, **how)
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
    if onnx:
        several = getattr(config, "problem_type", None) == "multi_label_classification" or len(labels) == 1
        try:
            answer |= ask_onnx(onnx_file(model, how.get("revision")), pixels, several)
        except Exception as error:
            answer["onnx_error"] = in_one_line(error)
    return answer


def in_order(scores: list[dict], labels: list[str]) -> list[float]:
    """Probabilities in the order of the classes; of two classes with one name, nobody can tell them apart."""
    found = {each["label"]: each["score"] for each in scores}
    return [found[label] for label in labels]


def onnx_file(model: str, revision: str | None) -> Path:
    """Path of the model's ONNX file, downloaded if it is on the Hub."""
    if Path(model).is_dir():
        return Path(model, "onnx", "model.onnx")
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(model, "onnx/model.onnx", revision=revision))


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
    return {"onnx_shape": session.get_inputs()[0].shape[1:], "onnx_probabilities": probabilities.tolist()}


def in_one_line(error: Exception) -> str:
    """The kind of error, and the first line of what it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
