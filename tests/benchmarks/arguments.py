"""What benchmarks are told on the command line, refused in one line before anything is measured."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

RESNET_50 = {"model_type": "resnet", "depths": [3, 4, 6, 3], "layer_type": "bottleneck"}


def at_least(least: int) -> Callable[[str], int]:
    """A type for argparse: whole numbers from `least` on."""

    def number(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least {least}")
        return int(text)

    return number


positive = at_least(1)


def folder(text: str) -> Path:
    """A type for argparse: a folder that exists."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is no folder")
    return Path(text)


def resnet_50(text: str) -> Path:
    """A type for argparse: a folder in Hub layout that holds a ResNet-50, whose weights others' networks can take."""
    file = folder(text) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        said = {
            name: config.get(name, default if name != "model_type" else None) for name, default in RESNET_50.items()
        }
    except (OSError, ValueError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no ResNet-50 in Hub layout: {file.name}: {error}") from None
    if said != RESNET_50:
        raise argparse.ArgumentTypeError(f"'{text}' is no ResNet-50, which timm's is compared with, but {said}")
    return Path(text)


def json_file(text: str) -> Path:
    """A type for argparse: a file to write, whose folder is made."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"'{text}' cannot be written: {error.strerror}") from None
    return path


def is_small(known: argparse.Namespace, parser: argparse.ArgumentParser, *sizes: str) -> bool:
    """Whether too little is measured to be judged: in one round, or less than half of what is the default."""
    return known.rounds < 2 or any(getattr(known, name) < parser.get_default(name) / 2 for name in sizes)


def check_steps(known: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End with a word if an epoch has one step, for the first one of an epoch is not measured."""
    if known.images < 2 * known.batch:
        parser.error(
            f"--images {known.images} fill no two batches of {known.batch}, and each epoch's first does not count"
        )
