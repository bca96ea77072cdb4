"""The lines of the model card that ask a model's ONNX file with numpy and PIL alone, in this model's own numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hub_utils.portable.preprocessing import Preprocessing, preprocessing_of

EXAMPLE = """\
{imports}

folder = Path({folder})
labels = json.loads((folder / "config.json").read_text(encoding="utf-8"))["{labels}"]
session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")

image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
{preprocessing}
logits = session.run(["logits"], {{"pixel_values": pixels}})[0][0]
scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
for index in scores.argsort()[::-1][:5]:
    print(f"{{scores[index]:.1%}}", labels[{index}])
"""
PROCESSOR = """\
processor = AutoImageProcessor.from_pretrained(folder)
pixels = processor(image, return_tensors="pt")["pixel_values"].numpy()"""


def onnx_example(folder: Path, model: str | Path) -> str:
    """Python that prints the best classes of photo.jpg by `folder`'s onnx/model.onnx, without torch or transformers.

    `model` is what the lines name: a folder, as a `Path`, or a repo id, of which they then fetch the files they need.
    The preprocessing in them is tried out here against the image processor. Where no plain resizing and cropping equals
    it (but for what torchvision's resampling and PIL's differ in, a level of a colour here and there), the lines call
    the processor itself, which needs transformers and torch.
    """
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder)
    preprocessing = _plain_preprocessing(folder, processor)
    libraries = ["import numpy as np", "import onnxruntime", "from PIL import Image, ImageOps"]
    if isinstance(model, Path):
        where = json.dumps(model.as_posix(), ensure_ascii=False)
    else:
        libraries.insert(2, "from huggingface_hub import snapshot_download")
        where = f'snapshot_download("{model}", allow_patterns=["*config.json", "onnx/*"])'
    if preprocessing is None:
        libraries.append("from transformers import AutoImageProcessor")
    is_timm = "label_names" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return EXAMPLE.format(
        imports="\n".join(["import json", "from pathlib import Path", "", *libraries]),
        folder=where,
        preprocessing=preprocessing or PROCESSOR,
        labels="label_names" if is_timm else "id2label",
        index="index" if is_timm else "str(index)",
    )


def _plain_preprocessing(folder: Path, processor: Any) -> str | None:
    """Lines that make `pixels` (1, 3, height, width) of a PIL `image` as the processor does; None if none are known.

    On noise torchvision's uint8 resampling differs from PIL's by up to two levels, in one colour of a hundred.
    """
    if (known := preprocessing_of(folder)) is None:
        return None
    lines = _lines(known)
    draw = np.random.default_rng(0)
    for width, height in ((301, 200), (200, 301), (37, 64)):
        image = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        names = {"np": np, "Image": Image, "image": image}
        exec(lines, names)
        expected = processor(image, return_tensors="pt")["pixel_values"].numpy()
        levels = (names["pixels"] - expected) * np.reshape(known.std, (3, 1, 1)) * 255
        if names["pixels"].shape != expected.shape or np.abs(levels).max() > 2.01 or np.abs(levels).mean() > 0.05:
            return None
    return lines


def _lines(known: Preprocessing) -> str:
    lines = []
    if isinstance(known.resized, int):
        lines.append(f"width, height = (int({known.resized} * side / min(image.size)) for side in image.size)")
    else:
        lines.append(f"width, height = {known.resized[0]}, {known.resized[1]}")
    lines.append(f"image = image.resize((width, height), Image.Resampling.{known.resample})")
    if known.resized != known.cropped:
        width, height = known.cropped
        if known.timm:
            lines.append(f"left, top = round((width - {width}) / 2), round((height - {height}) / 2)")
        else:
            lines.append(f"left, top = (width - {width}) // 2, (height - {height}) // 2")
        lines.append(f"image = image.crop((left, top, left + {width}, top + {height}))")
    mean, std = list(known.mean), list(known.std)
    lines.append(f"pixels = (np.asarray(image, np.float32) / 255 - np.float32({mean})) / np.float32({std})")
    lines.append("pixels = pixels.transpose(2, 0, 1)[None]")
    return "\n".join(lines)
