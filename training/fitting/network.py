"""The network of a recipe: a base model from the Hub, a folder or a configuration, and the recipe's head on it."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_utils.portable.classifier import quiet
from training.hub import hub_answers, why_not_loaded
from training.recipe import BatchNorm, Dropout, FromConfig, Linear, Recipe, ReLU, UserError, first_line

if TYPE_CHECKING:
    from hub_utils.portable.modeling_backbone_with_head import BackboneWithHeadForImageClassification


def build_network(recipe: Recipe, labels: list[str]) -> tuple[BackboneWithHeadForImageClassification, Any]:
    """The training form of the recipe's network, in fp32 on the CPU, and its image processor.

    The head's weights are drawn from the recipe's seed.

    Raises:
        UserError: the base model is not there, cannot be reached, or is no image model that pools its features.
    """
    import torch
    from transformers import set_seed

    from hub_utils.portable.modeling_backbone_with_head import (
        BackboneWithHeadConfig,
        BackboneWithHeadForImageClassification,
    )

    set_seed(recipe.seed)
    body, processor = _from_config(recipe.base_model) if isinstance(recipe.base_model, FromConfig) else _load(recipe)
    processor = _adapt(processor, body, recipe)
    width = _feature_width(body, processor, recipe)
    config = BackboneWithHeadConfig(
        backbone=_plain(body.config),
        head=head_layers(recipe, width, len(labels)),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    set_seed(recipe.seed)
    network = BackboneWithHeadForImageClassification(config)
    network.backbone.load_state_dict(body.state_dict())
    return network.to(torch.float32), processor


def head_layers(recipe: Recipe, width: int, classes: int) -> list[dict[str, Any]]:
    """The recipe's head as `BackboneWithHeadConfig.head`, for features of `width`."""
    layers = []
    for layer in recipe.head:
        match layer:
            case Linear():
                out = layer.features or classes
                layers.append({"type": "linear", "in_features": width, "out_features": out})
                width = out
            case BatchNorm():
                batch_norm = {"num_features": width, "momentum": layer.momentum, "eps": layer.epsilon}
                layers.append({"type": "batch_norm", **batch_norm})
            case Dropout():
                layers.append({"type": "dropout", "p": layer.rate})
            case ReLU():
                layers.append({"type": "relu"})
    return layers


def set_trainable(network: Any, trainable: str) -> None:
    """Freeze all but what a stage trains (`Stage.trainable`); frozen layers stand still from the next `train()` on."""
    from torch.nn.modules.batchnorm import _BatchNorm

    network.requires_grad_(trainable == "all")
    if trainable == "last_stage":
        for name in last_stage(network.backbone):
            network.backbone.get_parameter(name).requires_grad_(True)
        for module in network.backbone.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(False)
    network.head.requires_grad_(True)


def last_stage(body: Any) -> list[str]:
    """Names of the parameters behind the last but one of a body's stages, or of all where it tells of no stages.

    transformers' networks have their stages in `encoder.stages`; timm's tell of them in `feature_info`, where each
    block of a transformer is one.
    """
    names = [name for name, _ in body.named_parameters()]
    before = None
    if body.config.model_type == "timm_wrapper":
        told = getattr(body.timm_model, "feature_info", None) or []
        if len(told) > 1:
            before = f"timm_model.{told[-2]['module']}"
    elif stages := getattr(getattr(body, "encoder", None), "stages", None):
        before = f"encoder.stages.{len(stages) - 2}"
    modules = [name for name, _ in body.named_modules()]
    ends = [number for number, name in enumerate(modules) if before and f"{name}.".startswith(f"{before}.")]
    behind = set(modules[ends[-1] + 1 :]) if ends else modules  # by modules: where a stage ends may have no parameters
    return [name for name in names if name.rpartition(".")[0] in behind]


def describe(network: Any, recipe: Recipe) -> str:
    """Parts and parameter counts, as a small table.

    Keras counts BatchNorm's running statistics as weights too: here the floating-point buffers.
    """
    head = [(_layer_name(layer), sum(p.numel() for p in module.parameters()))
            for layer, module in zip(network.config.head, network.head, strict=True)]  # fmt: skip
    parameters = sum(p.numel() for p in network.parameters())
    statistics = sum(b.numel() for b in network.buffers() if b.is_floating_point())
    rows = [
        ("backbone", _base_model_name(recipe), sum(p.numel() for p in network.backbone.parameters())),
        *(("head" if index == 0 else "", name, count) for index, (name, count) in enumerate(head)),
        ("", "all parameters", parameters),
        ("", "with BatchNorm statistics, as Keras counts", parameters + statistics),
    ]
    return "\n".join(f"  {part:<9}{name:<45}{count:>12,}" for part, name, count in rows)


def _layer_name(layer: dict[str, Any]) -> str:
    """`Linear 2048 → 256`, `Dropout 0.5`, …"""
    names = {"linear": "Linear {in_features} → {out_features}", "batch_norm": "BatchNorm {num_features}"}
    return (names | {"dropout": "Dropout {p}", "relu": "ReLU"})[layer["type"]].format(**layer)


def base_model_facts(recipe: Recipe) -> Any:
    """What `recipe.json` says of the base model: a Hub id or a configuration as it is, of a folder its name alone."""
    if isinstance(recipe.base_model, FromConfig):
        return asdict(recipe.base_model)
    return f"{Path(recipe.base_model).name} (a local folder)" if _is_folder(recipe) else recipe.base_model


def _base_model_name(recipe: Recipe) -> str:
    if isinstance(recipe.base_model, FromConfig):
        return f"{recipe.base_model.model_type} from random weights"
    return Path(recipe.base_model).name if _is_folder(recipe) else recipe.base_model


def _is_folder(recipe: Recipe) -> bool:
    return Path(recipe.base_model).expanduser().is_dir()


def _from_config(base: FromConfig) -> tuple[Any, Any]:
    """A body of random weights, and a processor that squashes to its size."""
    from transformers import AutoConfig, AutoModel, ViTImageProcessor

    try:
        body = AutoModel.from_config(AutoConfig.for_model(base.model_type, **base.values))
    except Exception as error:  # every architecture has its own
        raise UserError(f"FromConfig('{base.model_type}', …) makes no network: {first_line(error)}") from error
    size = {"height": base.image_size, "width": base.image_size}
    return body, ViTImageProcessor(size=size, image_mean=base.mean, image_std=base.std)


def _load(recipe: Recipe) -> tuple[Any, Any]:
    """Body and image processor of a base model by Hub id or folder; every weight of the body must be found."""
    import torch
    from transformers import AutoImageProcessor, AutoModel

    name = recipe.base_model
    if _is_folder(recipe):
        name = str(Path(name).expanduser())
    elif name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1:
        raise UserError(
            f"base model folder '{name}' does not exist; give a folder in Hub layout or a Hub id with --base_model"
        )
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # of pickles: transformers would ask a Space for it
    try:
        where = {"local_files_only": not (Path(name).is_dir() or hub_answers(name)), "trust_remote_code": False}
        how = {"dtype": torch.float32, "output_loading_info": True, "use_safetensors": True}  # others can run code
        with quiet():
            body, found = AutoModel.from_pretrained(name, **how, **where)
            processor = AutoImageProcessor.from_pretrained(name, **where)
    except Exception as error:  # transformers raises OSError, ValueError, ImportError, SafetensorError, KeyError here
        instead = ", or try the recipe `digits`, which downloads nothing"
        raise UserError(why_not_loaded("base model", "--base_model DIR", name, error, instead)) from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise UserError(
            f"base model '{name}' lacks {len(missing)} weights of its body, such as {missing[0]}; it needs a ResNet or "
            "any timm checkpoint that pools its features, for example --base_model timm/resnet50.a1_in1k"
        )
    return body, processor


def _adapt(processor: Any, body: Any, recipe: Recipe) -> Any:
    """The base model's own processor, or a stock one with its mean and deviation where the recipe asks otherwise."""
    size, resize = recipe.image_size, recipe.resize
    if body.config.model_type == "timm_wrapper":
        return _adapt_timm(body, recipe)
    if size is None and resize is None:
        return processor
    own_size, own_resize, crop_share = _native_geometry(processor)
    size, resize = size or own_size, resize or own_resize
    if (size, resize) == (own_size, own_resize):
        return processor
    colours = {"image_mean": processor.image_mean, "image_std": processor.image_std, "resample": processor.resample}
    return _stock_processor(size, size / (crop_share if resize == "crop" else 1), resize, colours)


def _stock_processor(size: int, edge: float, resize: str, colours: dict[str, Any]) -> Any:
    """A processor that any transformers has: a square of `size`, cut from a picture squashed to `edge`, or from one
    whose shorter side is `edge`.
    """
    from transformers import BitImageProcessor, ViTImageProcessor

    square, edge = {"height": size, "width": size}, int(edge)
    if resize == "squash" and edge == size:
        return ViTImageProcessor(size=square, **colours)
    larger = {"height": edge, "width": edge} if resize == "squash" else {"shortest_edge": edge}
    return BitImageProcessor(size=larger, crop_size=square, do_center_crop=True, do_convert_rgb=True, **colours)


def _native_geometry(processor: Any) -> tuple[int, str, float]:
    """Input size, "crop" or "squash", and the share of the shorter side that a crop keeps."""
    size = processor.size
    if "height" in size and size["height"] and not getattr(processor, "do_center_crop", False):
        return size["height"], "squash", 0.875
    if getattr(processor, "do_center_crop", False) and processor.crop_size:
        crop = processor.crop_size["height"]
        return crop, "crop", crop / (size.get("shortest_edge") or size.get("height") or crop)
    edge = size["shortest_edge"]
    # ConvNeXT's processor, which microsoft/resnet-50 uses, crops below 384 pixels and squashes from there on.
    return edge, "crop" if edge < 384 else "squash", getattr(processor, "crop_pct", None) or 0.875


def _adapt_timm(body: Any, recipe: Recipe) -> Any:
    """timm's preprocessing stands in the model's configuration: it is changed there, and so saved with the model.

    A head of several layers does not deploy as timm's network, where that would be read: it gets a stock processor of
    the same geometry, for training too, since PIL's resampling and torchvision's differ by a level here and there.
    """
    from PIL import Image
    from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

    config = body.config
    values = dict(config.pretrained_cfg)
    if recipe.image_size is not None:
        values["input_size"] = [3, recipe.image_size, recipe.image_size]
    if recipe.resize is not None:
        values["crop_mode"] = "squash" if recipe.resize == "squash" else "center"
        values["crop_pct"] = 1.0 if recipe.resize == "squash" else values.get("crop_pct", 0.875)
    config.pretrained_cfg = values
    processor = TimmWrapperImageProcessor(pretrained_cfg=values, architecture=config.architecture)
    if sum(isinstance(layer, Linear | ReLU) for layer in recipe.head) == 1:
        if isinstance(body.timm_model.get_classifier(), tuple):
            raise UserError(
                f"base model '{_base_model_name(recipe)}' has two classifiers (it is distilled): one head does not go "
                "back into its layout; choose another base model, or a head with a hidden layer"
            )
        return processor
    own = processor.data_config
    size = own["input_size"][-1]
    resample = Image.Resampling[own["interpolation"].upper()]
    colours = {"image_mean": list(own["mean"]), "image_std": list(own["std"]), "resample": resample}
    return _stock_processor(size, size / own["crop_pct"], "squash" if own["crop_mode"] == "squash" else "crop", colours)


def _feature_width(body: Any, processor: Any, recipe: Recipe) -> int:
    """Width of the pooled features, found by looking at a grey picture."""
    import torch
    from PIL import Image

    from training.data.transforms import Preprocessing

    name = _base_model_name(recipe)
    pixels = Preprocessing(processor)(Image.new("RGB", (64, 64), "grey"))
    try:
        with torch.no_grad():
            output = body.eval()(pixels[None])
    except Exception as error:  # every architecture has its own: AssertionError, ValueError, RuntimeError …
        size = f"{pixels.shape[2]} × {pixels.shape[1]}"
        raise UserError(f"base model '{name}' takes no pictures of {size} pixels: {first_line(error)}") from error
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        raise UserError(f"base model '{name}' pools no features; use a ResNet or any timm checkpoint")
    return pooled.flatten(1).shape[1]


def _plain(config: Any) -> dict[str, Any]:
    """The body's configuration without what belongs to its old head, or to the machine it was loaded on."""
    values = config.to_dict()
    labels = ("id2label", "label2id", "label_names", "label_descriptions", "num_classes", "num_labels")
    for name in (*labels, "architectures", "_name_or_path"):
        values.pop(name, None)
    if config.model_type == "timm_wrapper":
        values["num_classes"] = 0  # its reader wants the number; none is timm's word for "no classifier"
    return {name: value for name, value in values.items() if value is not None}
