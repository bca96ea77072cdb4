"""Example pictures for a page, from a run's test split: never of patients, and only where they may be passed on."""

from __future__ import annotations

import hashlib
import io
import shlex
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_utils.bundle import as_name
from hub_utils.portable.command import UserError
from hub_utils.portable.licence import is_free, is_own
from hub_utils.portable.markdown import one_line
from hub_utils.run_files import read_json, read_recipe, read_rows

if TYPE_CHECKING:
    from PIL import Image

MOST = 48  # examples on a page
LONGEST = 512  # pixels of a side; the model takes fewer
SMALL = 128  # pixels of the shorter side: below, nobody sees anything in a picture, and it is enlarged
SEEN = 256  # pixels of the shorter side then


@dataclass(frozen=True)
class Examples:
    """The files, by their names, and in Markdown where they come from."""

    files: dict[str, bytes]
    credit: str


def take_examples(run: Path, count: int, public: bool, have_the_right: bool = False) -> Examples:
    """`count` pictures of the run's test split: of each class in turn, the first by their SHA-256.

    Nobody chooses, so that the page shows the model's mistakes as well. What travels is pixels alone, at most `LONGEST`
    wide and high: no EXIF data, no file names.

    Raises:
        UserError: they are of patients, or may not be passed on, or are not here; or a file of the run is broken.
    """
    if not 1 <= count <= MOST:
        raise UserError(f"--examples {count}: 1 to {MOST} are possible")
    recipe, rows = read_recipe(run, str(run)), _rows(run)
    if "card" not in recipe:
        raise UserError(
            f"'{run}' does not say whether its pictures are of patients (recipe.json); leave out --examples"
        )
    check_may_be_shown(recipe, rows, public, have_the_right)
    folder = _data_folder(run)
    files = {}
    for row in _in_turn([row for row in rows if row["split"] == "test"])[:count]:
        suffix, content = _encoded(_opened(folder / row["path"], row["sha256"]))
        label = as_name(row["label"])[:40]
        files[f"{len(files) + 1:02}{'-' * bool(label)}{label}.{suffix}"] = content
    if not files:
        raise UserError(f"'{run}' has no test images to take examples from; leave out --examples")
    return Examples(files, _credit(recipe))


def check_may_be_shown(recipe: dict[str, Any], rows: list[dict[str, str]], public: bool, have_the_right: bool) -> None:
    """Refuse images of patients, whatever is said; others by their licence, unless somebody has the right.

    `recipe` is as in recipe.json, `rows` as in local/splits.csv.

    Raises:
        UserError: they are not for a page.
    """
    card, data = recipe.get("card", {}), recipe.get("data", {})
    # Groups that the data themselves name; those of images found alike are called by a hash.
    named = any(row["group"] and not row["group"].startswith("sha256:") for row in rows)
    if card.get("medical") or named:
        what = "medical pictures" if card.get("medical") else "pictures of groups that the data names, as patients are"
        raise UserError(f"{what} are no examples for a page, whoever has the right; leave out --examples")
    if have_the_right:
        return
    licence, origin = card.get("data_license") or "unknown", data.get("homepage") or data.get("source")
    if is_own(licence, origin) and public:
        raise UserError(
            "--public shows the examples to everybody, and nothing says that you may: add --i_have_the_right if they "
            "are yours to publish, or leave out --examples or --public"
        )
    if not is_own(licence, origin) and not is_free(licence):
        raise UserError(
            f"the images have no licence that lets you pass them on: '{licence}' (source: {origin or 'not stated'}); "
            "leave out --examples, or read its terms, and if you have the right all the same, say --i_have_the_right"
        )


def _rows(run: Path) -> list[dict[str, str]]:
    path = run / "local" / "splits.csv"
    if not path.is_file():
        raise UserError(
            f"'{path}' is missing: it tells which images the model was not trained on; leave out --examples"
        )
    return read_rows(path, ["path", "sha256", "label", "split", "group"])


def _data_folder(run: Path) -> Path:
    """Where the images lie, as training noted it."""
    path = run / "local" / "data.json"
    known = read_json(path) if path.is_file() else {}
    if known.get("dataset"):
        raise UserError(
            f"the images of '{run}' are those of the data set '{known['dataset']}' on the Hub, and not on this "
            "machine; leave out --examples"
        )
    there = known.get("data_dir")
    folder = Path(there if isinstance(there, str) else "")
    if not folder.name or not folder.is_dir():
        again = shlex.join(["python", "training/eval.py", str(run), "--data_dir", "DIR"])
        raise UserError(f"the images of '{run}' are not where they were ('{folder}'); {again} notes where they are now")
    return folder


def _in_turn(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """One of each class, then the next of each; the classes in the order of their names, one of each duplicate."""
    of = defaultdict(list)
    for row in sorted({row["sha256"]: row for row in rows}.values(), key=lambda row: row["sha256"]):
        of[row["label"]].append(row)
    return [row for row in chain(*zip_longest(*(of[label] for label in sorted(of)))) if row]


def _opened(path: Path, sha256: str) -> tuple[Image.Image, bool]:
    """Its pixels as the model takes them, and whether it was a photograph: a JPEG."""
    from PIL import Image, ImageOps

    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise UserError(f"'{path}' is another file than the model was tested on; train or evaluate the run anew")
        with Image.open(io.BytesIO(content)) as image:
            photograph = image.format in ("JPEG", "MPO")
            return ImageOps.exif_transpose(image).convert("RGB"), photograph
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror or error}); leave out --examples") from error


def _encoded(opened: tuple[Image.Image, bool]) -> tuple[str, bytes]:
    """Suffix and content of the file that goes: a photograph as JPEG, all else as PNG."""
    import numpy as np
    from PIL import Image

    image, photograph = opened
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    image = _enlarged(image)
    image = Image.fromarray(np.asarray(image))  # PIL would write comments and profiles that came with the file
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90) if photograph else image.save(stream, "PNG", optimize=True)
    return "jpg" if photograph else "png", stream.getvalue()


def _enlarged(image: Image.Image) -> Image.Image:
    """A picture of few pixels so large that one sees something in it, and the model what it saw before.

    Bilinear, as most image processors resize: of 359 test digits of 8 × 8 pixels the small ResNet answers all as
    before, with probabilities within 0.012; pixel by pixel it answers 4 otherwise, bicubic 1.
    """
    from PIL import Image

    if min(image.size) >= SMALL:
        return image
    factor = max(1, min(SEEN // min(image.size), LONGEST // max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BILINEAR)


def _credit(recipe: dict[str, Any]) -> str:
    """Where the examples come from, in Markdown, as their licence asks."""
    card, data = recipe.get("card", {}), recipe.get("data", {})
    lines = [
        "The pictures in `examples/` are of the model's test split: it was not trained on them. They may have been "
        "made smaller or larger."
    ]
    origin = data.get("homepage") or data.get("source")
    if origin:
        lines.append(f"Source: {one_line(origin)}.")
    if card.get("citation"):
        lines.append(one_line(card["citation"]))
    if (card.get("data_license") or "unknown") != "unknown":
        lines.append(f"Licence of the pictures: {one_line(card['data_license'])}.")
    return "\n".join(lines)
