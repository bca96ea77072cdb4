"""A contestant: a plain PyTorch loop around timm's ResNet-50, with the best flags that are known for it.

python tests/benchmarks/timm_loop.py DATA MODEL RESULT PROBE [--workers N] [--epochs 3] [--batch 32]

bf16 where the machine has it, channels-last, fused AdamW, timm's own transform and loader. MODEL is a ResNet-50 as
transformers saves it: its weights go into timm's network, so that both start from the same.
"""

import argparse
import json
import re
from pathlib import Path

from watch import Watch, device_wait

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("data", type=Path, help="has a folder train, of class folders")
parser.add_argument("model", type=Path)
parser.add_argument("result", type=Path)
parser.add_argument("probe", type=Path)
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--fp32", action="store_true")


def timm_name(name: str) -> str:
    """What timm calls a tensor of transformers' ResNet.

    >>> timm_name("resnet.encoder.stages.0.layers.2.layer.1.normalization.weight")
    'layer1.2.bn2.weight'
    """
    part = r"resnet\.encoder\.stages\.(\d)\.layers\.(\d+)\."
    if found := re.fullmatch(part + r"layer\.(\d)\.(convolution|normalization)\.(\w+)", name):
        kind = {"convolution": "conv", "normalization": "bn"}[found[4]]
        return f"layer{int(found[1]) + 1}.{found[2]}.{kind}{int(found[3]) + 1}.{found[5]}"
    if found := re.fullmatch(part + r"shortcut\.(convolution|normalization)\.(\w+)", name):
        return f"layer{int(found[1]) + 1}.{found[2]}.downsample.{int(found[3] == 'normalization')}.{found[4]}"
    known = {
        "resnet.embedder.embedder.convolution": "conv1",
        "resnet.embedder.embedder.normalization": "bn1",
        "classifier.1": "fc",
    }
    owner, _, tensor = name.rpartition(".")
    return f"{known[owner]}.{tensor}"


def main(known: argparse.Namespace) -> None:
    """Load, and loop over epochs with a watch."""
    import timm
    import torch
    from safetensors.torch import load_file
    from start import probe_loss
    from timm.data import create_loader, create_transform
    from torch.nn import functional
    from torchvision.datasets import ImageFolder

    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = not known.fp32
    weights = {timm_name(name): tensor for name, tensor in load_file(known.model / "model.safetensors").items()}
    model = timm.create_model("resnet50", num_classes=len(weights["fc.bias"]))
    model.load_state_dict(weights)
    model = model.to(device=device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0, fused=True)
    # What timm's create_loader makes is made for a GPU; on a CPU its parts are put together by hand.
    shape = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "interpolation": "bilinear"}
    pictures = ImageFolder(known.data / "train")
    if device == "cuda":
        loader = create_loader(
            pictures, (3, 224, 224), known.batch, is_training=True, hflip=0.5, color_jitter=None,
            num_workers=known.workers, device=torch.device(device), **shape,
        )  # fmt: skip
    else:
        pictures.transform = create_transform(224, is_training=True, hflip=0.5, color_jitter=None, **shape)
        loader = torch.utils.data.DataLoader(
            pictures, known.batch, shuffle=True, num_workers=known.workers, drop_last=True,
            persistent_workers=known.workers > 0,
        )  # fmt: skip
    watch = Watch(device_wait())
    found = {"loss": probe_loss(model, known.probe, half), "threads": torch.get_num_threads(), "steps": 0}
    model.train()
    watch.start()
    for _ in range(known.epochs):
        watch.epoch()
        for pixels, labels in loader:
            pixels = pixels.to(device, memory_format=torch.channels_last, non_blocking=True)
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = functional.cross_entropy(model(pixels), labels.to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            found["steps"] += 1
            watch.step()
        watch.end()
    found |= {"images_per_second": watch.rate(known.batch), "parameters": sum(p.numel() for p in model.parameters())}
    known.result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(parser.parse_args())
