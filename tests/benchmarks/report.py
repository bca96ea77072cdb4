"""The data report of thousands of photographs, against decoding each of them once: with an empty cache, and again.

python tests/benchmarks/report.py PHOTOS... [--images 4000] [--rounds 3] [--json FILE] [--keep DIR]
                                  [--others_python PYTHON]

Photographs of about 500 × 375 pixels are made from those below PHOTOS: another crop, another colour, the grain that
enlarging takes away, JPEG quality 85 to 95. In each round come, each time another first: decoding all of them, whole,
to RGB, by Pillow in as many threads as there are cores, which is the limit; the whole command `data_report.py` with an
empty cache, and the same again. With `--others_python`, the Python of another environment in which fastai or
Ultralytics are installed, their verification of images stands beside it; in that environment they see the same files.

Those that are compared must find the same number of good images. Figures are medians, and so are ratios of each round.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from arguments import folder, is_small, json_file, positive
from contest import Contest, Failed, run, scratch
from machine import ROOT
from photos import photographs
from PIL import Image, ImageEnhance, ImageOps
from table import Row, compared, lost

LIMIT, FIRST, AGAIN = "decoding once", "data report, empty cache", "data report, filled cache"
GRAIN = 5.0  # levels of 255, deviation: with it the files are about as large as those of `flower_photos`, 60 kB
# Each prints how many images are good, and the seconds that it took without its imports.
DECODE = """
import sys, time, os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from PIL import Image
def good(path):
    with Image.open(path) as image:
        return image.convert("RGB").size[0] > 0
began = time.perf_counter()
with ThreadPoolExecutor(os.cpu_count()) as pool:
    count = sum(pool.map(good, Path(sys.argv[1]).rglob("*.jpg")))
print(count, time.perf_counter() - began)
"""
OTHERS = {
    "fastai, verify_images": """
import sys, time
from pathlib import Path
from fastai.vision.utils import get_image_files, verify_images
began = time.perf_counter()
files = get_image_files(Path(sys.argv[1]))
print(len(files) - len(verify_images(files)), time.perf_counter() - began)
""",
    "Ultralytics, verify_image": """
import sys, time, os
from multiprocessing.pool import ThreadPool
from pathlib import Path
from ultralytics.data.utils import verify_image
began = time.perf_counter()
files = [((str(path), 0), "") for path in Path(sys.argv[1]).rglob("*.jpg")]
with ThreadPool(os.cpu_count()) as pool:
    count = sum(found for _, found, _, _ in pool.imap(verify_image, files))
print(count, time.perf_counter() - began)
""",
}


def make(photos: list[Path], target: Path, images: int) -> None:
    """Write so many JPEGs, in one folder a folder of `photos`; of one photograph those of crops far from each other."""
    photos, times = random.Random(0).sample(photos, len(photos)), -(-images // len(photos))

    def write(number: int) -> None:
        again = number % 100 == 99  # every hundredth is the one before, saved again
        number -= again
        draw = random.Random(number)
        path = photos[number % len(photos)]
        with Image.open(path) as opened:
            whole = ImageOps.exif_transpose(opened).convert("RGB")
        # Of `times` places along the photograph each variant has its own.
        across, side = number // len(photos) / max(1, times - 1), draw.uniform(0.55, 0.65)
        width, height = whole.width * side, whole.height * side
        left, top = (whole.width - width) * across, (whole.height - height) * draw.random()
        size = (500, round(500 * height / width)) if width >= height else (round(500 * width / height), 500)
        crop = whole.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        crop = ImageEnhance.Color(crop).enhance(draw.uniform(0.8, 1.2))
        grain = np.random.default_rng(number).normal(0, GRAIN, (size[1], size[0], 1))
        crop = Image.fromarray(np.clip(np.asarray(crop) + grain, 0, 255).astype(np.uint8))
        file = target / path.parent.name / f"{number:06}{'-again' * again}.jpg"
        crop.save(file, quality=draw.randint(85, 95) - 10 * again)

    for name in {path.parent.name for path in photos}:
        (target / name).mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(images)))


def script(code: str, photos: Path, python: str, number: int) -> dict[str, float]:
    """Seconds, and good images, as a process of its own says.

    Raises:
        Failed: it cannot be run there.
    """
    command = [python, "-c", code, str(photos)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        raise Failed(result.stderr.strip() or f"status {result.returncode}")
    count, seconds = result.stdout.split()[-2:]
    return {"seconds": float(seconds), "images": int(count)}


def report(photos: Path, place: Path, number: int) -> dict[str, float]:
    """Seconds of the whole process, good images and pairs; the round's cache and report lie below `place`."""
    cache = place / str(number)
    cache.mkdir(exist_ok=True)
    words = [sys.executable, ROOT / "training" / "data_report.py", photos.resolve(), "--output", cache / "report"]
    seconds = run(words, cache, place / "log")
    said = json.loads((cache / "report" / "report.json").read_text(encoding="utf-8"))
    return {"seconds": seconds, "images": said["images"], "pairs": len(said["duplicates"])}


def installed(python: str) -> list[str]:
    """Those of the others that this Python has; a word on each that it has not."""
    found = []
    for name in OTHERS:
        package = name.split(",")[0].lower()
        try:
            subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            print(f"skipped: {python} has no {package}", file=sys.stderr)
        else:
            found.append(name)
    return found


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("photos", type=folder, nargs="+")
    result.add_argument("--images", type=positive, default=4000)
    result.add_argument("--rounds", type=positive, default=3)
    result.add_argument("--json", type=json_file)
    result.add_argument("--keep", type=Path, help="make the photographs in this folder, or take those that are there")
    result.add_argument("--others_python")
    return result


def main() -> int:
    """Make, take turns, compare."""
    known = parser().parse_args()
    with scratch() as temporary:
        place, photos = Path(temporary), known.keep or Path(temporary) / "photos"
        if not photos.exists():
            sources = photographs(known.photos)
            if not sources:
                sys.exit(f"error: no photograph below {', '.join(map(str, known.photos))}")
            make(sources, photos, known.images)
        sizes = [len(path.read_bytes()) for path in photos.rglob("*.jpg")]  # and they lie in the system's cache
        if not sizes:
            sys.exit(f"error: no .jpg below '{photos}', of --keep")
        facts = {"images": len(sizes), "kilobytes": statistics.mean(sizes) / 1000}
        small = is_small(argparse.Namespace(rounds=known.rounds, images=len(sizes)), parser(), "images")
        contest = Contest("report", known.json, facts, small)
        ours = {name: partial(report, photos, place) for name in (FIRST, AGAIN)}
        groups = [{LIMIT: partial(script, DECODE, photos, sys.executable)}, ours]  # AGAIN comes right after FIRST
        others = installed(known.others_python) if known.others_python else []
        groups += [{name: partial(script, OTHERS[name], photos, known.others_python)} for name in others]
        for number in range(1, known.rounds + 1):
            for group in groups:
                contest.play(group, [number])
            groups = groups[1:] + groups[:1]
            shutil.rmtree(place / str(number), ignore_errors=True)
        return contest.finish(rows(contest, len(sizes), others))


def rows(contest: Contest, images: int, others: list[str]) -> list[Row]:
    """The first report against decoding and against the others, the second against the first."""
    title = f"data report of {images:,} photographs"
    pairs = [(title, FIRST, LIMIT, 1.5), ("the same again", AGAIN, FIRST, 0.1)]
    result = []
    for what, name, versus, most in [*pairs, *((title, FIRST, other, None) for other in others)]:
        asked = "" if most is None else f"≤ {most:g} ×"
        if why := contest.lost(name, versus):
            result.append(lost(what, "s", asked, why, versus))
            continue
        seconds = [contest.all(each, "seconds") for each in (name, versus)]
        ratio = statistics.median(one / other for one, other in zip(*seconds, strict=True))
        found = [set(contest.all(each, "images")) for each in (name, versus)]
        told = " and ".join("/".join(f"{count:,}" for count in sorted(each)) for each in found)
        medians = [statistics.median(each) for each in seconds]
        row = Row(what, *medians, "s", ratio, asked, None if most is None else ratio <= most, "", versus)
        result.append(compared(row, {f"good images: {told}": len(found[0] | found[1]) == 1}, contest.small))
    return result


if __name__ == "__main__":
    sys.exit(main())
