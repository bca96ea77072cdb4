"""What is in a folder of images, and what to put right before training: a report, and a plain copy of odd files.

python training/data_report.py RECIPE_OR_DIR [--data_dir DIR] [--output DIR] [--thorough]
python training/data_report.py RECIPE_OR_DIR [--data_dir DIR] --convert COPY [--window LOW HIGH]

The report holds images of the data set and must not be uploaded.
"""

from __future__ import annotations

import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from training.command import Parser, add_recipe_or_images, recipe_or_images, run_command
from training.recipe import Recipe, UserError

if TYPE_CHECKING:
    from training.data.kept import Kept
    from training.data.source import Folder

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
image and what cannot be read is left out; a list beside the copy says what became of each file. What is copied as it is
keeps its EXIF data: names, dates, places.

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
    )
    add_recipe_or_images(result)
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
    if known.thorough and known.convert:
        raise UserError("--thorough is for the report, --convert writes a copy instead; leave out one of them")
    if known.window and not known.convert:
        raise UserError("--window goes with --convert COPY")
    if known.window and not known.window[0] < known.window[1]:
        raise UserError(f"--window {known.window[0]:g} {known.window[1]:g}: LOW must be less than HIGH")
    recipe, name, paths = recipe_or_images(known.recipe, known.data_dir)

    # Only now, with the command understood, the libraries that take time to import.
    from training.data.source import open_images

    source = open_images(recipe, paths)
    typed = "folder" if paths == [known.recipe] else known.recipe
    words = shlex.join([typed, *(["--data_dir", *paths] if paths else [])])
    if known.convert:
        _convert(source, Path(known.convert), known.window, typed)
    else:
        _report(recipe, source, words, Path(known.output or f"reports/{name}"), known.thorough)
    return 0


def _report(recipe: Recipe, source: Folder, words: str, output: Path, thorough: bool) -> None:
    from training.data.kept import Kept
    from training.data.report import check_output
    from training.data.survey import read

    # A table's images may lie anywhere, also around the report: it looks at none that the table does not name.
    check_output(output, [] if source.table else source.roots or [source.data_dir])
    with ThreadPoolExecutor(1) as meanwhile:
        if not output.exists():  # nothing that could be kept
            meanwhile.submit(_import_what_draws)
        examples, skipped, refusal = read(recipe.data, source)
    table = source.table.told if source.table else None
    kept = Kept(output, examples, skipped, map(str, (recipe, words, source.to_dict(), table, thorough)))
    said, wrote = kept.said(), "unchanged"
    if said is None:
        said, wrote = _write((examples, skipped, refusal), recipe, words, source, output, thorough, kept), "wrote"
        kept.keep(said)
    lines, follow = said.rsplit("\n", 1)
    print(f"{lines}\n{wrote:<10} {output / 'report.md'}\n{follow}")


def _import_what_draws() -> None:
    """As long as images are decoded without the interpreter's lock, this costs next to nothing."""
    for name in ("backends.backend_agg", "figure", "font_manager"):
        import_module(f"matplotlib.{name}")
    for name in ("cluster.hierarchy", "fft", "sparse.csgraph"):
        import_module(f"scipy.{name}")


def _write(images: tuple, recipe: Recipe, words: str, source: Folder, output: Path, thorough: bool, kept: Kept) -> str:
    """Write the report; what to say of it, the next command in the last line."""
    from training.data.findings import convert_command
    from training.data.report import floor_line, in_classes, verdict, write_report
    from training.data.survey import survey_of

    seen = survey_of(images, recipe, words, source, thorough)
    found = write_report(seen, output, written=kept.written)
    lines = [f"{recipe.title}: {len(seen.examples):,} images {in_classes({each.label for each in seen.examples})}"]
    if source.table:
        lines.append(f"table      {source.table.told}")
    lines += verdict(found)
    if seen.floors:
        lines.append(f"floors     {floor_line(seen.floors)}")
    if any(each.kind == "deep" for each in found):
        lines.append(f"next       {convert_command(seen)}")
    elif seen.refusal:
        lines.append("next       put 1. right, then the same command again")
    else:
        lines.append(f"next       accelerate launch -q training/train.py {seen.words}{' --thorough' * thorough}")
    return "\n".join(lines)


def _convert(source: Folder, copy: Path, window: list[float] | None, recipe: str) -> None:
    from training.data.convert import convert_folder, counts, log_of

    if source.table is not None:
        raise UserError("--convert copies folders, not tables; give the folder of the images, then change their names")
    converted = convert_folder(source.data_dir, copy, tuple(window) if window else None, roots=source.roots)
    for rule, count in counts(converted):
        print(f"{count:>9,}  {rule}")
    print(f"wrote      {copy}")
    print(f"           {log_of(copy)} says what became of each file")
    command = ["accelerate", "launch", "-q", "training/train.py", recipe, "--data_dir", str(copy)]
    print(f"next       {shlex.join(command)}")


if __name__ == "__main__":
    sys.exit(run_command(main, "nothing was written"))
