"""The data report of thousands of photographs, against decoding each of them once: with an empty cache, and again.

python tests/benchmarks/report.py PHOTOS... [--images 4000] [--rounds 3] [--json FILE] [--keep DIR]
                                  [--others_python PYTHON]

Photographs of about 500 × 375 pixels are made from those below PHOTOS: another crop, another colour, the grain that
enlarging takes away, JPEG quality 85 to 95. In each round come in turn: decoding all of them, whole, to RGB, by Pillow
in as many threads as there are cores, which is the limit; the whole command `data_report.py` with an empty cache; and
the same again. With `--others_python`, the Python of another environment in which fastai or Ultralytics are installed,
their verification of images stands beside it; in that environment they see the same files.

All must find the same number of good images. The table is Markdown; figures are medians, ratios those of each round.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from machine import facts as machine_facts
from PIL import Image, ImageEnhance, ImageOps
from table import Row, print_rows, write_rows

ROOT = Path(__file__).parents[2]
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


def make(photos: list[Path], folder: Path, images: int) -> None:
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
        target = folder / path.parent.name / f"{number:06}{'-again' * again}.jpg"
        crop.save(target, quality=draw.randint(85, 95) - 10 * again)

    for name in {path.parent.name for path in photos}:
        (folder / name).mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(images)))


def script(code: str, folder: Path, python: str = sys.executable) -> tuple[float, int]:
    """Seconds, and good images, as a process of its own says.

    Raises:
        subprocess.CalledProcessError: it cannot be run there.
    """
    command = [python, "-c", code, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    count, seconds = result.stdout.split()[-2:]
    return float(seconds), int(count)


def report(folder: Path, place: Path) -> tuple[float, int]:
    """Seconds of the whole process, and good images; its cache and its report lie below `place`."""
    command = [sys.executable, "training/data_report.py", str(folder), "--output", str(place / "report")]
    environment = {**os.environ, "HF_HOME": str(place), "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    return seconds, facts(place)["images"]


def facts(place: Path) -> dict:
    return json.loads((place / "report" / "report.json").read_text(encoding="utf-8"))


def one_round(folder: Path, others: dict[str, Callable]) -> tuple[dict[str, float], dict]:
    """Seconds by contestant, and what the report says."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        contestants = {
            "decoding once": lambda: script(DECODE, folder),
            "data report, empty cache": lambda: report(folder, place),
            "data report, filled cache": lambda: report(folder, place),
            **others,
        }
        results = {name: run() for name, run in contestants.items()}
        said = facts(place)
    counts = {name: count for name, (_, count) in results.items()}
    if len(set(counts.values())) > 1:
        raise RuntimeError(f"the contestants do not agree on how many images are good: {counts}")
    return {name: seconds for name, (seconds, _) in results.items()}, said


def able(python: str, folder: Path) -> dict[str, Callable]:
    """Those of the others that this Python can run; a word on each that it cannot."""
    found = {}
    for name, code in OTHERS.items():
        try:
            script(code, folder, python)
        except (OSError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            print(f"skipped: {name}: {said[-1] if said else error}")
        else:
            found[name] = lambda code=code: script(code, folder, python)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="make the photographs in this folder, or take those that are there")
    parser.add_argument("--others_python")
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = known.keep or Path(temporary) / "photos"
        if not folder.exists():
            photos = sorted(path for each in known.photos for path in each.rglob("*") if path.suffix.lower() == ".jpg")
            if not photos:
                sys.exit(f"error: no .jpg below {', '.join(map(str, known.photos))}")
            make(photos, folder, known.images)
        files = list(folder.rglob("*.jpg"))
        mean = statistics.mean(len(path.read_bytes()) for path in files) / 1000  # and they lie in the system's cache
        others = able(known.others_python, folder) if known.others_python else {}
        rounds = []
        for _ in range(known.rounds):
            seconds, said = one_round(folder, others)
            rounds.append(seconds)
    near = len(said["duplicates"])
    print(f"{said['images']:,} images of {mean:.0f} kB; {near:,} pairs of duplicates; {os.cpu_count()} cores\n")
    print("| | s | × decoding | × the first report |\n|---|---|---|---|")
    table = {}
    for name in rounds[0]:
        ratios = [
            statistics.median(each[name] / each[limit] for each in rounds)
            for limit in ("decoding once", "data report, empty cache")
        ]
        table[name] = {
            "seconds": statistics.median(each[name] for each in rounds),
            "to_decoding": ratios[0],
            "to_first_report": ratios[1],
        }
        print("| {} | {seconds:.2f} | {to_decoding:.2f} | {to_first_report:.3f} |".format(name, **table[name]))
    rows = judge(table, said["images"])
    print_rows(rows)
    if known.json:
        facts_of_run = {"images": said["images"], "kilobytes": mean, "pairs": near}
        write_rows(known.json, rows, machine_facts() | facts_of_run, {"medians": table, "rounds": rounds})


def judge(table: dict[str, dict[str, float]], images: int) -> list[Row]:
    """The first report against decoding, the second against the first."""
    names = "decoding once", "data report, empty cache", "data report, filled cache"
    limit, first, again = (table[name]["seconds"] for name in names)
    ratios = table[names[1]]["to_decoding"], table[names[2]]["to_first_report"]
    same = f"all find {images:,} good images"
    return [
        Row(f"data report of {images:,} photographs", first, limit, "s", ratios[0], "≤ 1.5 ×", ratios[0] <= 1.5, same,
            names[0]),
        Row("the same again", again, first, "s", ratios[1], "≤ 0.1 ×", ratios[1] <= 0.1, same, names[1]),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
