"""What is in a folder of images, and what to put right before training: a report, and a plain copy of odd files.

python training/data_report.py RECIPE_OR_DIR [--data_dir DIR] [--output DIR] [--thorough]
python training/data_report.py RECIPE_OR_DIR [--data_dir DIR] --convert COPY [--window LOW HIGH]

The report holds images of the data set and must not be uploaded.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from training.recipe import Recipe, UserError, load_recipe, recipe_names
from training.train import Parser, run_command

if TYPE_CHECKING:
    from training.data.source import Source

USAGE = "python training/data_report.py RECIPE_OR_DIR [--data_dir DIR] [--output DIR] [--thorough] [--convert COPY]"
EPILOG = """\
The report says first what is wrong, in words and with the files named: pictures in two classes, copies on both sides of
a split, masks among the images, too few images, skipped files; then what colour alone would score. It holds images of
the data set: do not upload it.

--convert makes a copy in which odd files have become plain 8-bit RGB PNGs and all others are as they were. CMYK,
palettes, alpha (dropped), animations and pages (the first) become what `pipeline` sees in them. Images of 16 bits or
floating point get one linear window each, from the 0.5th to the 99.5th percentile of their pixels, so that 12-bit
scanners and burnt pixels do no harm and a new image is treated alike. Where values mean something of themselves
(Hounsfield units, fluorescence), give the same window to all: --window -160 240. Masks beside their images, what is no
image and what cannot be read is left out; a list beside the copy says what became of each file.

examples:
  python training/data_report.py my_photos
  python training/data_report.py flowers --data_dir flower_photos --thorough
  python training/data_report.py scans --convert scans_8bit
"""


def parser() -> Parser:
    """The flags."""
    result = Parser(
        usage=USAGE,
        description="Say what is in a folder of images, and what to put right before training on them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = ", ".join(recipe_names())
    result.add_argument("recipe", metavar="RECIPE_OR_DIR", help=f"{names}, your own .py file; or a folder of images")
    result.add_argument("--data_dir", metavar="DIR", help="folder of the recipe's images (default: data/RECIPE)")
    result.add_argument("--output", metavar="DIR", help="folder of the report (default: reports/NAME)")
    result.add_argument(
        "--thorough", action="store_true", help="also look for crops, mirrored and overlapping views; takes longer"
    )
    result.add_argument("--convert", metavar="COPY", help="no report: write a copy with odd files made plain")
    result.add_argument(
        "--window", nargs=2, type=float, metavar=("LOW", "HIGH"), help="values that become black and white in the copy"
    )
    return result


def main(tokens: list[str]) -> int:
    """Run the command; the exit status."""
    known = parser().parse_args(tokens)
    if known.window and not known.convert:
        raise UserError("--window goes with --convert COPY")
    if known.window and not known.window[0] < known.window[1]:
        raise UserError(f"--window {known.window[0]:g} {known.window[1]:g}: LOW must be less than HIGH")
    recipe, name, data_dir = _understand(known)
    try:
        if known.convert:
            _convert(_open(recipe, data_dir).data_dir, Path(known.convert), known.window)
        else:
            _report(recipe, known.recipe, _open(recipe, data_dir), Path(known.output or f"reports/{name}"), known)
    except KeyboardInterrupt:
        raise UserError("interrupted; nothing was written") from None
    return 0


def _understand(known: argparse.Namespace) -> tuple[Recipe, str, Path]:
    """The recipe, a name for the report, and the folder, of which RECIPE_OR_DIR is one or the other.

    Raises:
        UserError: it is neither.
    """
    word = known.recipe
    if word in recipe_names() or word.endswith(".py"):
        recipe = load_recipe(word)
        folder = Path(known.data_dir or Path("data") / recipe.name)
        if Path(word).is_dir() and folder.resolve() != Path(word).resolve():
            print(f"note       '{word}' is a recipe and a folder here; the recipe is meant, {Path('.', word)}/ is not")
        return recipe, recipe.name, folder
    if Path(word).is_dir():
        if known.data_dir:
            raise UserError(f"'{word}' is a folder, so --data_dir '{known.data_dir}' is one too many; give one of them")
        return load_recipe("folder"), Path(word).resolve().name or "data", Path(word)
    try:
        load_recipe(word)
    except UserError as error:
        raise UserError(f"no folder '{word}', and {error}") from None
    raise UserError(f"no folder '{word}'")


def _open(recipe: Recipe, data_dir: Path) -> Source:
    """The one place that says what may be looked at."""
    from training.data.embedded import write_digits
    from training.data.source import Folder

    if recipe.data.source == "sklearn:digits" and data_dir == Path("data") / recipe.name and not data_dir.exists():
        write_digits(data_dir)
    return Folder(data_dir)


def _report(recipe: Recipe, word: str, source: Source, output: Path, known: argparse.Namespace) -> None:
    from training.data.findings import convert_command
    from training.data.report import check_output, floor_line, in_classes, verdict, write_report
    from training.data.survey import survey

    check_output(output, source.data_dir)
    typed = "folder" if Path(word).is_dir() and word not in recipe_names() else word
    seen = survey(recipe, typed, source, known.thorough)
    found = write_report(seen, output)
    print(f"{recipe.title}: {len(seen.examples):,} images {in_classes({each.label for each in seen.examples})}")
    print("\n".join(verdict(found)))
    if seen.floors:
        print(f"floors     {floor_line(seen.floors)}")
    print(f"wrote      {output / 'report.md'}")
    if any(each.kind == "deep" for each in found):
        print(f"next       {convert_command(seen)}")
    elif seen.refusal:
        print("next       put 1. right, then the same command again")
    else:
        print(f"next       accelerate launch -q training/train.py {seen.words}")


def _convert(folder: Path, copy: Path, window: list[float] | None) -> None:
    from training.data.convert import convert_folder, counts, log_of

    converted = convert_folder(folder, copy, tuple(window) if window else None)
    for rule, count in counts(converted):
        print(f"{count:>9,}  {rule}")
    print(f"wrote      {copy}")
    print(f"           {log_of(copy)} says what became of each file")
    print(f"next       accelerate launch -q training/train.py folder --data_dir {shlex.quote(str(copy))}")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
