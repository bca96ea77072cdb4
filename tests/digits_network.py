"""A network that reads digits, trained in a few seconds: enough to see that drawings come to it as the data do."""

from pathlib import Path

import numpy as np


def save_digits_network(folder: Path, epochs: int = 8) -> None:
    """Train a ResNet of 76,000 weights on scikit-learn's digits, and save it as a run is saved."""
    import torch
    from sklearn.datasets import load_digits
    from torch.nn import functional
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

    from hub_utils.export import save_onnx, save_serving

    names = [str(digit) for digit in range(10)]
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic")
    config.id2label, config.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}
    data = load_digits()
    paper = torch.tensor(np.round(255 - data.images * 255 / 16), dtype=torch.float32)[:, None] / 127.5 - 1
    images = functional.interpolate(paper, size=(32, 32), mode="bilinear").expand(-1, 3, -1, -1)
    labels = torch.tensor(data.target)
    torch.manual_seed(0)
    network = ResNetForImageClassification(config).train()
    size = 64
    optimizer = torch.optim.AdamW(network.parameters())
    steps = epochs * (len(images) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    spread = torch.tensor([[0.1, 0.12, 0.08], [0.08, 0.08, 0.08]])  # of a random turn, shear, zoom and shift
    for _ in range(epochs):
        for batch in torch.randperm(len(images))[: steps // epochs * size].split(size):
            moves = torch.eye(2, 3) + torch.randn(size, 2, 3) * spread
            grid = functional.affine_grid(moves, [size, 3, 32, 32], align_corners=False)
            moved = functional.grid_sample(images[batch], grid, padding_mode="border", align_corners=False)
            loss = functional.cross_entropy(network(moved).logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval().save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    save_onnx(folder)
    save_serving(folder)
