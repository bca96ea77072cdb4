"""How well near-duplicates are found: precision and recall on variants made from a folder of different photographs.

python tests/benchmarks/duplicates.py PHOTOS [--images N] [--kinds resaved crop …] [--quick]

For each kind, every photograph stands beside one variant of it (overlaps: two views, without the whole). A found pair
is true if both show the same photograph. Pairs inside PHOTOS that really are duplicates would count as false, and are
printed, to be looked at. The table is Markdown.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from photos import photographs
from PIL import Image, ImageEnhance, ImageOps
from scipy.cluster.hierarchy import DisjointSet

from training.data.duplicates import find_duplicates
from training.data.source import Folder
from training.recipe import Data

KINDS = {
    "resaved": "JPEG quality 50 to 95",
    "resized": "to 25 to 200 %",
    "brightness": "± 20 %",
    "mirrored": "left to right",
    "crop_area": "to 60 to 90 % of the area",
    "crop_sides": "to 60 to 90 % of each side",
    "overlap": "two views that share half of each",
}


def views(image: Image.Image, kind: str, draw: random.Random) -> tuple[Image.Image, Image.Image, int]:
    """Two pictures that show the same, and the JPEG quality of the second."""
    width, height = image.size
    if kind == "resaved":
        return image, image, draw.randint(50, 94)
    if kind == "resized":
        scale = 2 ** draw.uniform(-2, 1)
        how = draw.choice([Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
        return image, image.resize((max(1, round(width * scale)), max(1, round(height * scale))), how), 90
    if kind == "brightness":
        return image, ImageEnhance.Brightness(image).enhance(draw.uniform(0.8, 1.2)), 90
    if kind == "mirrored":
        return image, ImageOps.mirror(image), 90
    if kind == "overlap":
        across = draw.random() < 0.5
        side = round((width if across else height) * 2 / 3)
        first = (0, 0, side, height) if across else (0, 0, width, side)
        second = (width - side, 0, width, height) if across else (0, height - side, width, height)
        return image.crop(first), image.crop(second), 90
    side = draw.uniform(0.6, 0.9) ** (0.5 if kind == "crop_area" else 1)
    size = round(width * side), round(height * side)
    left, top = draw.randint(0, width - size[0]), draw.randint(0, height - size[1])
    return image, image.crop((left, top, left + size[0], top + size[1])), 90


def make(photos: list[Path], kind: str, folder: Path) -> None:
    """`folder`/a and `folder`/b hold the two pictures of each photograph under one name."""
    draw = random.Random(kind)
    for side in "ab":
        (folder / side).mkdir(parents=True)
    for number, path in enumerate(photos):
        with Image.open(path) as image:
            first, second, quality = views(ImageOps.exif_transpose(image).convert("RGB"), kind, draw)
        first.save(folder / "a" / f"{number:05}.jpg", quality=95)
        second.save(folder / "b" / f"{number:05}.jpg", quality=quality)


def measure(photos: list[Path], kind: str, searches: list[bool]) -> Iterator[str]:
    """A cell of the table for each search."""
    with tempfile.TemporaryDirectory() as temporary:
        make(photos, kind, Path(temporary))
        source = Folder(Path(temporary))
        examples, _ = source.read(Data(), progress=False)
        for thorough in searches:
            began = time.perf_counter()
            found = find_duplicates(examples, source.reader(), thorough, progress=False)
            seconds = time.perf_counter() - began
            sets = DisjointSet([example.path for example in examples])
            for pair in found:
                sets.merge(pair.first, pair.second)
            names = [f"{number:05}.jpg" for number in range(len(photos))]
            recall = sum(sets.connected(f"a/{name}", f"b/{name}") for name in names) / len(names)
            wrong = [pair for pair in found if Path(pair.first).name != Path(pair.second).name]
            precision = f"{1 - len(wrong) / len(found):.3f}" if found else "–"
            for pair in wrong:
                print("  different photographs:", *(photos[int(Path(p).stem)] for p in (pair.first, pair.second)), pair)
            yield f"{recall:.3f} | {precision} | {seconds / len(examples) * 1000:.0f}"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--quick", action="store_true", help="without the thorough search")
    known = parser.parse_args()
    photos = photographs([known.photos])
    photos = random.Random(0).sample(photos, min(known.images, len(photos)))
    searches = [False] if known.quick else [False, True]
    columns = ["recall", "precision", "ms an image"] * len(searches)
    print(f"{len(photos)} photographs, twice each\n\n| variant | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for kind in known.kinds:
        print(f"| {kind}: {KINDS[kind]} | {' | '.join(measure(photos, kind, searches))} |", flush=True)


if __name__ == "__main__":
    main()
