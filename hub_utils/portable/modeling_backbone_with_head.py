"""A pretrained backbone with a head of any number of layers on its pooled features.

This file stands alone: `save_pretrained` copies it beside the weights, and whoever loads the model runs that copy:

    pipeline("image-classification", model=REPO_ID, trust_remote_code=True, revision=FULL_COMMIT)

It works with transformers 4.51 and later; 4.51 itself wants `image_processor=REPO_ID` said as well.
"""

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.auto.configuration_auto import CONFIG_MAPPING


class BackboneWithHeadConfig(PretrainedConfig):
    """`backbone`: the configuration of the body, as a dict with its `model_type`. `head`: layers from the pooled
    features to the logits, as dicts with `type` (linear, relu, dropout or batch_norm) and its values.
    """

    model_type = "backbone_with_head"

    def __init__(self, backbone=None, head=None, **kwargs):
        self.backbone = backbone or {"model_type": "resnet"}
        self.head = head or [{"type": "linear", "in_features": 2048, "out_features": 2}]
        super().__init__(**kwargs)


def build_layer(layer: dict) -> nn.Module:
    """The module of one layer of `BackboneWithHeadConfig.head`."""
    values = {name: value for name, value in layer.items() if name != "type"}
    kinds = {"linear": nn.Linear, "relu": nn.ReLU, "dropout": nn.Dropout, "batch_norm": nn.BatchNorm1d}
    if layer["type"] not in kinds:
        raise ValueError(f"head layer of type '{layer['type']}'; known are {', '.join(kinds)}")
    return kinds[layer["type"]](**values)


class BackboneWithHeadForImageClassification(PreTrainedModel):
    """Logits of shape (batch, classes) for `pixel_values` of shape (batch, 3, height, width)."""

    config_class = BackboneWithHeadConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    # The loss below is a plain mean; Trainer must not pass the number of items to it.
    accepts_loss_kwargs = False

    def __init__(self, config):
        super().__init__(config)
        values = dict(config.backbone)
        body = CONFIG_MAPPING[values.pop("model_type")].from_dict(values)
        self.backbone = AutoModel.from_config(body)
        self.head = nn.Sequential(*(build_layer(layer) for layer in config.head))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        """Keras' initialisation, for the head: the backbone brings its weights or initialises them itself."""
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

    def train(self, mode=True):
        """As in torch, but what is frozen of the backbone stands still, the statistics of BatchNorm included."""
        super().train(mode)
        for module in self.backbone.modules():  # the whole before its parts, which then need no look
            if module.training and {parameter.requires_grad for parameter in module.parameters()} == {False}:
                module.eval()
        return self

    def features(self, pixel_values):
        """Pooled features, of shape (batch, width)."""
        return self.backbone(pixel_values).pooler_output.flatten(1)

    def forward(self, pixel_values, labels=None, **kwargs):
        logits = self.head(self.features(pixel_values))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)
