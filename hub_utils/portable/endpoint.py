"""A model behind an endpoint of a cloud: pictures in JSON or as bytes in, labels with their scores out.

This travels with the model into the cloud's own Hugging Face container, and runs with the transformers that is there,
4.48 or later. The containers' own handlers answer otherwise than the run did: transformers before 4.52 resizes with PIL
what was resized with torchvision when it was trained, a photograph is not turned as its EXIF data says, a head with
hidden layers is not loaded at all, and an address in a question is fetched, or a file of the server opened. So pictures
are opened and prepared by our own code, which needs PIL and numpy alone; transformers computes the network.

Whatever is wrong with a question is a ValueError with a sentence, which the containers answer with HTTP 400.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_utils.portable.command import UserError
from hub_utils.portable.facts import told_apart
from hub_utils.portable.pictures import opened
from hub_utils.portable.preprocessing import preprocessing_of

if TYPE_CHECKING:
    from PIL import Image

MOST = 64  # pictures of one question
TOP = 5  # labels of an answer, if nothing is said: as many as `pipeline` gives
FORMS = {  # by the key that holds the pictures
    "inputs": '{"inputs": "BASE64", "parameters": {"top_k": 5}}',
    "instances": '{"instances": [{"b64": "BASE64"}], "parameters": {"top_k": 5}}',
}


@dataclass(frozen=True)
class Question:
    """Files of pictures, and how many labels are wanted of each; `alone`: one picture, and no list with one in it."""

    pictures: Sequence[bytes]
    top_k: int = TOP
    alone: bool = False


class Endpoint:
    """A model in the folder of its files, ready to be asked."""

    def __init__(self, folder: Path) -> None:
        """On a GPU if there is one; always in float32.

        Raises:
            ValueError: weights are missing, or pictures cannot be prepared for it.
        """
        import torch
        from transformers import AutoConfig, AutoModelForImageClassification

        from hub_utils.portable.modeling_backbone_with_head import (
            BackboneWithHeadConfig,
            BackboneWithHeadForImageClassification,
        )

        AutoConfig.register(BackboneWithHeadConfig.model_type, BackboneWithHeadConfig, exist_ok=True)
        AutoModelForImageClassification.register(
            BackboneWithHeadConfig, BackboneWithHeadForImageClassification, exist_ok=True
        )
        how = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
        model, loaded = AutoModelForImageClassification.from_pretrained(str(folder), output_loading_info=True, **how)
        if loaded["missing_keys"]:  # transformers itself draws them by lot
            raise ValueError(f"there are no weights for {', '.join(sorted(loaded['missing_keys'])[:3])}")
        preprocessing = preprocessing_of(folder)
        if preprocessing is None:
            raise ValueError(f"the files in '{folder}' do not say how pictures are prepared in a way known here")
        self._preprocessing = preprocessing
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.float().eval().to(self._device)
        self.labels = told_apart([name for _, name in sorted(model.config.id2label.items())])

    def answer(self, question: Question) -> list[Any]:
        """For each picture its likeliest labels, {"label": name, "score": probability}, the likeliest first; of a
        picture `alone` that list itself.

        Raises:
            ValueError: a file is no picture that can be opened, or too large; which, and what to do.
        """
        answers = []
        for number, content in enumerate(question.pictures, start=1):
            try:
                with opened(content) as image:
                    probabilities = self._probabilities(image)
            except UserError as error:
                which = "" if len(question.pictures) == 1 else f"picture {number} of {len(question.pictures)}: "
                raise ValueError(f"{which}{error}") from error
            order = sorted(range(len(self.labels)), key=lambda index: -probabilities[index])[: question.top_k]
            answers.append([{"label": self.labels[index], "score": probabilities[index]} for index in order])
        return answers[0] if question.alone else answers

    def _probabilities(self, image: Image.Image) -> list[float]:
        import torch

        pixels = torch.from_numpy(self._preprocessing(image))[None].to(self._device)
        with torch.inference_mode():
            return self._model(pixel_values=pixels).logits[0].double().softmax(-1).tolist()


def read(body: Any, key: str) -> Question:
    """What a JSON question asks, as text or as what was read of it; its pictures stand under `key`, one of `FORMS`.

    A picture is base64, bare, as {"b64": …} or as a data: address.

    Raises:
        ValueError: it is none of that.
    """
    if isinstance(body, str | bytes):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the question is no JSON ({error}); {FORMS[key]} is wanted") from error
    if not isinstance(body, dict) or key not in body:
        raise ValueError(f"the question has no '{key}'; {FORMS[key]} is wanted")
    if unknown := sorted(body.keys() - {key, "parameters"}):
        raise ValueError(f"the question says '{unknown[0]}', which is not known; {FORMS[key]} is wanted")
    given, top_k = body[key], _top_k(body.get("parameters"))
    if key == "inputs" and not isinstance(given, list):
        return Question([_decoded(given, key)], top_k, alone=True)
    if not isinstance(given, list) or not given:
        raise ValueError(f"'{key}' is {_kind(given)}; a list of pictures is wanted: {FORMS[key]}")
    if len(given) > MOST:
        raise ValueError(f"these are {len(given)} pictures, and one question may have {MOST}; ask several times")
    return Question([_decoded(each, f"{key}[{number}]") for number, each in enumerate(given)], top_k)


def _top_k(parameters: Any) -> int:
    if parameters is None:
        return TOP
    if not isinstance(parameters, dict):
        raise ValueError(f"'parameters' is {_kind(parameters)}; an object is wanted, as {{\"top_k\": {TOP}}}")
    if unknown := sorted(map(str, parameters.keys() - {"top_k"})):
        raise ValueError(f"there is no parameter '{unknown[0]}'; top_k is the only one")
    top_k = parameters.get("top_k")
    if top_k is None:
        return TOP
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
        raise ValueError(f"top_k is {json.dumps(top_k)}; a whole number from 1 on is wanted")
    return top_k


def _decoded(given: Any, place: str) -> bytes:
    """The file in a question, which says it at `place`."""
    if isinstance(given, dict) and given.keys() == {"b64"}:
        given = given["b64"]
    if not isinstance(given, str):
        raise ValueError(f'{place} is {_kind(given)}; a picture\'s file in base64 is wanted, bare or as {{"b64": …}}')
    if re.match(r"(https?|file|gs|s3)://", given, re.IGNORECASE):
        raise ValueError(f"{place} is an address, and none is fetched here; send the picture's file, in base64")
    text = re.sub(r"\s+", "", re.sub(r"^data:[\w/+.-]*;base64,", "", given, count=1))
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{place} is no base64 ({error}); send the picture's file in base64") from error


def _kind(given: Any) -> str:
    """What of JSON it is, in words."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    if isinstance(given, list) and not given:
        return "an empty list"
    return kinds.get(type(given), "a number")
