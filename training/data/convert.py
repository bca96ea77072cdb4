"""A copy of a folder of images in which every odd file has become a plain 8-bit RGB image, by a stated rule.

Odd are files whose picture depends on who opens them: palettes, alpha channels, CMYK, several frames or pages, HEIC;
and those of 16 bits a pixel or more, and of floating point, which `pipeline` would clip to white. All else is copied
byte for byte.

The rule for what `pipeline` can open is `pipeline`'s own (`open_rgb`), so that a network sees in the copy what it would
have seen in the original: turned as EXIF says, the first frame or page, CMYK by Pillow's formula, alpha dropped.

The rule for deep images is one linear window an image: from the value that half a percent of its pixels are below, to
the one that half a percent are above, becomes 0 to 255. So it does not matter whether a scanner writes 12 bits or 16,
a dead or burnt pixel spoils nothing, exposures become alike, and an image comes out the same whichever others lie
beside it: a new image, later, can be treated as the old ones were. What it loses is absolute brightness. Where values
mean something of themselves (Hounsfield units, fluorescence to be compared), give a fixed window, the same for all
images now and later: `--window LOW HIGH`.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from hub_utils.portable import harmless_csv
from hub_utils.portable.whole import replaced
from training.data.images import DEEP_MODES, Facts, look, open_rgb
from training.data.intake import Skipped, check_folder, image_files, relative, summary, without_masks
from training.recipe import Data, UserError, first_line
from training.whole import whole_folder

PERCENTILES = (0.5, 99.5)
PLAIN_MODES = frozenset({"RGB", "L", "1"})
ORIENTATION = 274  # of EXIF
WHITE_IS_ZERO = 262, 0  # TIFF's tag PhotometricInterpretation, as some X-rays have it
AS_IT_IS, LEFT_OUT = "copied as it is", "left out"
RULES = {
    "deep": "16 bits or more: one linear window an image, percentiles 0.5 to 99.5 of its pixels",
    "deep pages": "16 bits or more, several pages: the first page, one linear window, percentiles 0.5 to 99.5",
    "deep colour": "16 bits a colour: one linear window an image, percentiles 0.5 to 99.5 of its values",
    "window": "16 bits or more: the linear window that was given",
    "animated": "animated: the first frame",
    "pages": "several pages: the first page",
    "CMYK": "CMYK: RGB by Pillow's formula, without a colour profile",
    "palette": "palette: the colours it stands for",
    "alpha": "alpha channel: dropped, as `pipeline` does",
    "other": "another colour space: RGB by Pillow's formula",
}


@dataclass(frozen=True)
class Converted:
    """A file of the folder, what it has become in the copy (empty: nothing), and by which rule."""

    path: str
    became: str
    rule: str


def oddity(facts: Facts) -> str | None:
    """What is odd about a file, a key of `RULES`; None for a plain 8-bit image of one frame.

    MPO is what telephones write: a JPEG with an enlargement or a depth map behind it, and nobody opens those.
    """
    if facts.mode in DEEP_MODES:
        return "deep" if facts.frames == 1 else "deep pages"
    if facts.mode.endswith(";16"):
        return "deep colour"
    if facts.frames > 1 and facts.format != "MPO":
        return "pages" if facts.format == "TIFF" else "animated"
    if facts.mode in PLAIN_MODES and facts.format != "HEIF":
        return None
    if facts.mode in ("P", "CMYK"):
        return "palette" if facts.mode == "P" else "CMYK"
    return "alpha" if facts.mode.lower().endswith("a") else "other"


def log_of(copy: Path) -> Path:
    """The list of what became of each file. It lies beside the copy: in it, it would be one more file to skip."""
    copy = Path(os.path.abspath(copy))
    return copy.with_name(f"{copy.name}-files.csv")


def check_copy(folder: Path, copy: Path) -> None:
    """Refuse a place for the copy that is taken, or that lies inside the data or around them.

    Raises:
        UserError: so it is.
    """
    inner, outer = copy.resolve(), folder.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise UserError(f"--convert '{copy}' and the data '{folder}' lie in each other; choose a folder apart from it")
    if copy.exists() and not copy.is_dir():
        raise UserError(f"--convert '{copy}' is a file; give a folder that is new or empty")
    if copy.is_dir() and any(copy.iterdir()):
        raise UserError(f"--convert '{copy}' is not empty; give a folder that is new or empty")
    log = log_of(copy)
    if log.exists() and not log.read_bytes().startswith(_header().encode()):
        raise UserError(f"'{log}', where the list of files goes, is something else already; choose another --convert")


def convert_folder(
    folder: Path,
    copy: Path,
    window: tuple[float, float] | None = None,
    progress: bool = True,
    roots: Sequence[Path] = (),
) -> list[Converted]:
    """Write the copy, whole or not at all, and the list beside it; what became of each file, by path.

    With `roots`, which lie below `folder`, only those are copied. Left out are masks beside their images, what is no
    image by its name, and what cannot be read. The layout stays, and so do names up to the ending: `a/1.tif` becomes
    `a/1.png`, or `a/1.tif.png` where another file is called `a/1` too.

    Raises:
        UserError: there is no such folder, the copy cannot be there (see `check_copy`), there is no image that could be
            in it, or no space.
    """
    roots = roots or (folder,)
    for root in roots:
        check_folder(root, Data())
        check_copy(root, copy)
    import transformers.image_utils  # noqa: F401  before the threads need it all at once

    skipped: list[Skipped] = []
    found = [path for root in roots for path in image_files(folder, skipped, relative(root, folder))]
    paths = without_masks(sorted(found), skipped)
    targets = _targets(paths)
    with whole_folder(copy) as partial, ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(total=len(paths), desc="Copying images", unit=" images", leave=False, disable=not progress or None)

        def work(path: str) -> Converted:
            return _convert(path, targets[path], folder, partial, window)

        with bar:
            done = []
            for each in pool.map(work, paths):
                done.append(each)
                bar.update()
        if not any(each.became for each in done):
            skipped += [Skipped(each.path, each.rule.removeprefix(f"{LEFT_OUT}: ")) for each in done]
            instead = f" ({summary(skipped)})" if skipped else ""
            raise UserError(f"no image in '{folder}' that could be copied{instead}; nothing was written")
        done += [Converted(each.path, "", f"{LEFT_OUT}: {each.reason}") for each in skipped]
        done.sort(key=lambda each: each.path)
        _write_log(done, log_of(copy))
    return done


def counts(converted: Iterable[Converted]) -> list[tuple[str, int]]:
    """How many files went by each rule, the most frequent first; of what was left out, by the kind of reason."""

    def kind(rule: str) -> str:
        return ": ".join(rule.split(": ")[:2])  # as in `Skipped`, details stand behind the next colon

    return Counter(kind(each.rule) for each in converted).most_common()


def to_8_bits(image: Image.Image, window: tuple[float, float] | None = None) -> Image.Image:
    """A deep image as RGB, by the rule of the module's docstring; what is no number becomes black.

    Raises:
        ValueError: no pixel is a number.
    """
    inverted = image.format == "TIFF" and image.tag_v2.get(WHITE_IS_ZERO[0]) == WHITE_IS_ZERO[1]
    return Image.fromarray(_windowed(np.asarray(ImageOps.exif_transpose(image)), window, inverted)).convert("RGB")


def _to_8_bit_colours(content: bytes, window: tuple[float, float] | None) -> Image.Image:
    """The same of 16 bits a colour, which Pillow cannot open whole; alpha is dropped, as `pipeline` does."""
    import cv2

    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise ValueError("16 bits a colour, in a way that OpenCV cannot decode")
    rgb = Image.fromarray(_windowed(decoded[..., 2::-1], window))
    with Image.open(io.BytesIO(content)) as image:
        rgb.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
    return ImageOps.exif_transpose(rgb)


def _windowed(values: np.ndarray, window: tuple[float, float] | None, inverted: bool = False) -> np.ndarray:
    """Uint8 of the same shape; NaN becomes 0."""
    values = values.astype(np.float32)
    numbers = values[np.isfinite(values)]
    if not numbers.size:
        raise ValueError("no pixel is a number")
    low, high = window or np.percentile(numbers, PERCENTILES)
    if high <= low:  # nearly all pixels are equal, as in a mask
        low, high = numbers.min(), numbers.max()
    shades = np.clip((values - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
    return (np.nan_to_num(1 - shades if inverted else shades) * 255).round().astype(np.uint8)


def _targets(paths: list[str]) -> dict[str, str]:
    """What each file is called if it becomes a PNG; no two alike, on systems too that do not tell A from a."""
    taken = {path.casefold() for path in paths}
    targets = {}
    for path in paths:
        target = str(PurePosixPath(path).with_suffix(".png"))
        if target != path and target.casefold() in taken:
            target = f"{path}.png"
        while target != path and target.casefold() in taken:
            target += ".png"
        taken.add(target.casefold())
        targets[path] = target
    return targets


def _convert(path: str, target: str, folder: Path, copy: Path, window: tuple[float, float] | None) -> Converted:
    """Read one file and write what becomes of it."""
    try:
        content = (folder / path).read_bytes()
    except OSError as error:
        return Converted(path, "", f"{LEFT_OUT}: cannot be opened: {error.strerror}")
    facts = look(content)
    odd = oddity(facts)
    deep = odd is not None and odd.startswith("deep")
    if facts.reason and not deep:
        return Converted(path, "", f"{LEFT_OUT}: {facts.reason}")
    if odd is None:
        _write(copy / path, content)
        return Converted(path, path, AS_IT_IS)
    try:
        converted = _png(content, odd, window)
    except Exception as error:  # PIL's decoders raise anything
        return Converted(path, "", f"{LEFT_OUT}: cannot be read: {first_line(error)}")
    _write(copy / target, converted)
    return Converted(path, target, RULES["window" if deep and window else odd])


def _png(content: bytes, odd: str, window: tuple[float, float] | None) -> bytes:
    if odd == "deep colour":
        rgb = _to_8_bit_colours(content, window)
    elif odd.startswith("deep"):
        with Image.open(io.BytesIO(content)) as image:
            rgb = to_8_bits(image, window)
    else:
        rgb = open_rgb(content)
    encoded = io.BytesIO()
    # Through an array, for a profile of CMYK or a transparent colour would be written along.
    Image.fromarray(np.asarray(rgb)).save(encoded, "PNG")
    return encoded.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _header() -> str:
    return ",".join(field.name for field in fields(Converted))


def _write_log(converted: list[Converted], path: Path) -> None:
    with replaced(path) as file:
        file.write(f"{_header()}\n")
        harmless_csv.Writer(file).writerows(astuple(each) for each in converted)
