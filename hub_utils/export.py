"""From the training form to the deployable: fold the head, save, and hold what was saved against what was trained.

At inference BatchNorm is affine and Dropout is nothing, so a head folds into its Linear layers and ReLUs. One
Linear deploys as the architecture's own class, which plain `pipeline` loads; more need `modeling_backbone_with_head`.
The deployable's ONNX form carries every head, and class activation maps and features beside the logits. serving.json
says what it answers about the golden images, so that whoever loads it elsewhere can see that it answers as here.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from hub_utils.portable.activation_maps import ActivationMaps, Features
from hub_utils.portable.classifier import load_classifier, logits_of, probabilities_of
from hub_utils.portable.eight_bits import INT8
from hub_utils.portable.golden import FORMULA, golden_images, weights_sha256
from hub_utils.portable.modeling_backbone_with_head import (
    BackboneWithHeadConfig,
    BackboneWithHeadForImageClassification,
)
from hub_utils.portable.whole import move, temporary, to_disk, whole_path, write_json

# Where the architecture's own class keeps its body.
NATIVE_BODY = {"resnet": "resnet"}
QUANTISED = ("Conv", "Add", "MaxPool")  # the body; what its head makes of the features stays in float32
OPSET = 17  # of ONNX: read by ONNX Runtime since 1.12, of 2022
ONNX_TOLERANCE = 1e-4  # of the largest logit, or value of a map: how far ONNX Runtime may be from torch, in fp32


def fold_head(head: nn.Sequential, temperature: float = 1.0) -> nn.Sequential:
    """An equal head, in eval mode, of float32 Linear layers and ReLUs; logits are divided by `temperature`.

    Folding is done in float64: two affine maps W₂(W₁x + b₁) + b₂ become W₂W₁x + (W₂b₁ + b₂). Two Linear layers in a row
    stay two: what lies between them is there to be looked at.
    """
    folded: list[nn.Module] = []
    affine: tuple[torch.Tensor, torch.Tensor] | None = None
    is_linear = False  # whether a Linear layer is in it

    def close() -> None:
        nonlocal affine, is_linear
        if affine is not None:
            folded.append(_linear(*affine))
        affine, is_linear = None, False

    for layer in head:
        if isinstance(layer, nn.Dropout):
            continue
        if isinstance(layer, nn.ReLU):
            close()
            folded.append(nn.ReLU())
            continue
        weight, bias = _affine(layer)
        if isinstance(layer, nn.Linear):
            if is_linear:
                close()
            is_linear = True
        affine = (weight, bias) if affine is None else (weight @ affine[0], weight @ affine[1] + bias)
    if affine is None:
        raise ValueError("a head must end in a Linear layer")
    affine = (affine[0] / temperature, affine[1] / temperature)
    close()
    return nn.Sequential(*folded).eval()


def _affine(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (out, in) and bias (out) in float64 of a Linear or of a BatchNorm in eval mode."""
    if isinstance(layer, nn.Linear):
        return layer.weight.detach().double(), layer.bias.detach().double()
    if isinstance(layer, nn.BatchNorm1d):
        scale = layer.weight.detach().double() / torch.sqrt(layer.running_var.double() + layer.eps)
        return torch.diag(scale), layer.bias.detach().double() - scale * layer.running_mean.double()
    raise ValueError(
        f"a head of {type(layer).__name__} cannot be folded; known are Linear, BatchNorm, Dropout and ReLU"
    )


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    return linear


def save_deployable(
    network: BackboneWithHeadForImageClassification, processor: Any, folder: Path, temperature: float = 1.0
) -> None:
    """Write config.json, model.safetensors and what else `pipeline` needs into `folder`, which may hold other files.

    Its logits are those of `network` divided by `temperature`.

    Everything is written beside and then moved, weights last: whoever is killed leaves the earlier model, or none.
    """
    with temporary(folder / "model") as partial:
        partial.mkdir()
        head = fold_head(network.head, temperature)
        model_type = network.config.backbone["model_type"]
        if len(head) == 1 and model_type == "timm_wrapper":
            _save_timm(network, head[0], partial)  # the processor's values stand in its config.json
        elif len(head) == 1 and model_type in NATIVE_BODY:
            _save_native(network, head[0], partial)
            processor.save_pretrained(partial)
        else:
            _save_custom(network, head, partial)
            processor.save_pretrained(partial)
        # safetensors lets nobody but the owner read its files
        (partial / "model.safetensors").chmod((partial / "config.json").stat().st_mode)
        to_disk(partial)
        # The earlier model goes, its weights first; its preprocessor_config.json would win over timm's own values.
        earlier = ("model.safetensors", "serving.json", "onnx/model.onnx", "onnx/model_int8.onnx")
        others = (*folder.glob("modeling_*.py"), *folder.glob("preprocessor_config.json"))
        for path in (*(folder / name for name in earlier), *others):
            path.unlink(missing_ok=True)
        for path in sorted(partial.iterdir(), key=lambda path: path.name == "model.safetensors"):
            move(path, folder / path.name)


def _labels(network: nn.Module) -> dict[str, Any]:
    return {"id2label": network.config.id2label, "label2id": network.config.label2id}


def _save_custom(network: nn.Module, head: nn.Sequential, folder: Path) -> None:
    """The custom class with its modeling file, and `auto_map` in config.json, by which `pipeline` finds it."""
    BackboneWithHeadConfig.register_for_auto_class()
    BackboneWithHeadForImageClassification.register_for_auto_class("AutoModelForImageClassification")
    layers = [
        {"type": "linear", "in_features": layer.in_features, "out_features": layer.out_features}
        if isinstance(layer, nn.Linear)
        else {"type": "relu"}
        for layer in head
    ]
    config = BackboneWithHeadConfig(backbone=network.config.backbone, head=layers, **_labels(network))
    model = BackboneWithHeadForImageClassification(config)
    model.backbone.load_state_dict(network.backbone.state_dict())
    model.head.load_state_dict(head.state_dict())
    model.eval().save_pretrained(folder)


def _save_native(network: nn.Module, linear: nn.Linear, folder: Path) -> None:
    """`ResNetForImageClassification`: the body under its own name, and one Linear."""
    from transformers import AutoConfig, AutoModelForImageClassification

    values = dict(network.config.backbone)
    config = AutoConfig.for_model(values.pop("model_type"), **values, **_labels(network))
    model = AutoModelForImageClassification.from_config(config)
    getattr(model, NATIVE_BODY[config.model_type]).load_state_dict(network.backbone.state_dict())
    model.classifier[-1].load_state_dict(linear.state_dict())
    model.eval().save_pretrained(folder)


def _save_timm(network: nn.Module, linear: nn.Linear, folder: Path) -> None:
    """timm's own layout: its parameter names, and a config.json that both timm and transformers read.

    transformers' writer adds a `timm_model.` prefix and `"model_args": null`, on which timm's loader stumbles.
    """
    import timm

    values = network.config.backbone
    classes = linear.out_features
    model = timm.create_model(values["architecture"], num_classes=classes, **values.get("model_args", {}))
    body = network.backbone.timm_model.state_dict()
    missing, unexpected = model.load_state_dict(body, strict=False)
    classifier = model.get_classifier()
    own = {
        name
        for name, parameter in model.state_dict(keep_vars=True).items()
        if parameter in set(classifier.parameters())
    }
    if unexpected or set(missing) != own:
        raise ValueError(f"{values['architecture']}: weights do not fit timm's own network: {missing}, {unexpected}")
    with torch.no_grad():
        classifier.weight.copy_(linear.weight.view_as(classifier.weight))  # some are convolutions of 1 × 1
        classifier.bias.copy_(linear.bias)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors", {"format": "pt"}
    )
    labels = [network.config.id2label[index] for index in range(classes)]
    config = {
        "architecture": values["architecture"],
        "architectures": ["TimmWrapperForImageClassification"],
        "model_type": "timm_wrapper",
        "num_classes": classes,
        "num_features": linear.in_features,
        "label_names": labels,
        "pretrained_cfg": {**values["pretrained_cfg"], "num_classes": classes},
    }
    if values.get("model_args"):
        config["model_args"] = values["model_args"]
    write_json(config, folder / "config.json")


def save_serving(folder: Path, facts: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write `folder`/serving.json: which weights these are, what the deployable in `folder` says of golden images, and
    `facts` beside these, whole or not at all.

    The answers are of the deployable as loaded again, in fp32 on the CPU: a probability per class, in the order of the
    classes, whose names stand beside them as `labels`. What else the file says of the same weights stays in it.

    Raises:
        ValueError: an answer, or one of the facts, is no finite number.
    """
    images, classifier = golden_images(), load_classifier(folder)
    answers = probabilities_of(classifier, np.stack(list(logits_of(classifier, images.values()))))
    golden = {
        "formula": FORMULA,
        "labels": [name for _, name in sorted(classifier.model.config.id2label.items())],
        "images": [
            {"name": name, "size": list(image.size), "probabilities": [float(f"{each:.9g}") for each in answer]}
            for (name, image), answer in zip(images.items(), answers, strict=True)
        ],
    }
    _write_serving(folder, {**serving_facts(folder), "golden": golden, **facts})


def extend_serving(folder: Path, facts: Mapping[str, Any]) -> None:
    """Put `facts` into `folder`/serving.json, which is written first if it is missing or of other weights; what is None
    of them goes out of it.

    Raises:
        ValueError: one of the facts is no finite number.
    """
    there = serving_facts(folder)
    if isinstance(there.get("golden"), dict):
        _write_serving(folder, {**there, **facts})
    else:
        save_serving(folder, facts)


def serving_facts(folder: Path) -> dict[str, Any]:
    """What `folder`/serving.json says of the weights that lie there now; {} if it is missing, broken or of others."""
    try:
        there = json.loads((folder / "serving.json").read_text(encoding="utf-8"))
        return there if there["weights_sha256"] == weights_sha256(folder) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_serving(folder: Path, facts: Mapping[str, Any]) -> None:
    known = {name: fact for name, fact in facts.items() if fact is not None}
    write_json({"weights_sha256": weights_sha256(folder), **known}, folder / "serving.json")


class _Logits(nn.Module):
    """The model's logits alone, as a tuple."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.model(pixel_values).logits,)


def save_onnx(folder: Path) -> float:
    """Write `folder`/onnx/model.onnx of the deployable in `folder`, and return how far it answers from it.

    The file takes `pixel_values`, float32 of shape (batch, 3, height, width) with the size that the image processor
    makes, and gives `logits` (batch, classes), if the network pools a feature map `maps` (batch, classes, h, w) as of
    `ActivationMaps`, and if it is known where its head begins `features` (batch, width), what the head takes. Its
    answers are compared with torch's on noise; returned is the largest difference of any output, as a share of that
    output's largest value.

    Raises:
        RuntimeError: ONNX Runtime does not answer as torch does.
    """
    classifier = load_classifier(folder)
    network, outputs = _with_outputs(classifier.model)
    shape = _input_shape(classifier.image_processor)
    with whole_path(folder / "onnx" / "model.onnx") as path:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            # The exporter by tracing: there is no control flow to keep, and it takes a fifth of the other's time, which
            # also writes this machine's paths into the file.
            torch.onnx.export(
                *(network, (torch.zeros(2, *shape),), path),
                input_names=["pixel_values"],
                output_names=outputs,
                dynamic_axes={name: {0: "batch"} for name in ("pixel_values", *outputs)},
                opset_version=OPSET,
                dynamo=False,
            )
        # A ReLU whose input is 0 but for rounding may open for one and not for the other: once in 500, but not twice.
        difference = _onnx_difference(path, network, shape, seed=0)
        if not difference <= ONNX_TOLERANCE:
            difference = _onnx_difference(path, network, shape, seed=1)
        if not difference <= ONNX_TOLERANCE:
            raise RuntimeError(
                f"the ONNX file's answers differ from the model's by {difference:.2e} of the largest, more than "
                f"{ONNX_TOLERANCE:g}: please report this"
            )
    return difference


def save_int8(folder: Path, pictures: Iterable[np.ndarray]) -> None:
    """Write `folder`/onnx/model_int8.onnx: onnx/model.onnx with convolutions of 8-bit whole numbers.

    `pictures` are what the network takes, float32 (3, height, width): some tens of training images, by which the range
    of each layer is found. Weights are signed, with a scale for each channel. Of each picture's extremes the mean is
    taken: what lies beyond is cut off, which costs less than the coarser steps of the largest one's (0.2 against 0.45
    of a probability at most, for 350 flowers and a ResNet-50), and needs no histograms, which take gigabytes.

    Raises:
        ValueError: the network has most of its weights elsewhere than in convolutions.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(pictures)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(({"pixel_values": pixels[None]} for pixels in self.rest), None)

    check_convolutions(folder)
    with whole_path(folder / INT8) as path, temporary(path) as folded:
        quant_pre_process(str(folder / "onnx" / "model.onnx"), str(folded), skip_symbolic_shape=True)
        quantize_static(
            str(folded),
            str(path),
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(QUANTISED),
            extra_options={"CalibMovingAverage": True},
        )


def check_convolutions(folder: Path) -> None:
    """Raise `ValueError` where `folder`/onnx/model.onnx has most of its weights elsewhere than in convolutions."""
    import onnx

    if (share := _in_convolutions(onnx.load(folder / "onnx" / "model.onnx").graph)) < 0.5:
        raise ValueError(f"{1 - share:.0%} of its weights are not in convolutions, and others are not quantised here")


def _in_convolutions(graph: Any) -> float:
    """The share of an ONNX graph's weights that are in convolutions."""
    sizes = {each.name: math.prod(each.dims) for each in graph.initializer}
    taken = {name for node in graph.node if node.op_type == "Conv" for name in node.input}
    return sum(size for name, size in sizes.items() if name in taken) / max(1, sum(sizes.values()))


def gives_features(folder: Path) -> bool:
    """Whether `folder`/onnx/model.onnx has the output `features`; those of earlier versions have not."""
    import onnx

    return "features" in {output.name for output in onnx.load(folder / "onnx" / "model.onnx").graph.output}


def _with_outputs(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A network that gives all that is known of `model`, and the names of its outputs."""
    try:
        return ActivationMaps(model), ["logits", "maps", "features"]
    except ValueError:  # a transformer, for example, pools no map
        pass
    try:
        return Features(model), ["logits", "features"]
    except ValueError:
        return _Logits(model), ["logits"]


def _input_shape(processor: Any) -> tuple[int, int, int]:
    """Channels, height and width of what the image processor makes, found by showing it a grey picture."""
    from PIL import Image

    pixels = processor(Image.new("RGB", (64, 64), "grey"), return_tensors="pt")["pixel_values"]
    return tuple(pixels.shape[1:])


def _onnx_difference(path: Path, network: nn.Module, shape: tuple[int, int, int], seed: int) -> float:
    """Largest difference of ONNX Runtime's outputs and torch's, as a share of the output's largest; NaN if one is."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        expected = [network(pixels), (network.model(pixels[:1]).logits,)]  # the model's own, beside what was exported
    found = []
    for batch, outputs in zip((pixels, pixels[:1]), expected, strict=True):
        answers = session.run(None, {"pixel_values": batch.numpy()})
        for answer, output in zip(answers, outputs, strict=False):
            difference = (torch.from_numpy(answer) - output).abs().max()
            found.append(difference / output.abs().max().clamp(min=torch.finfo().tiny))
    return torch.stack(found).max().item()
