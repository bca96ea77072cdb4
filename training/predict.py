"""What a model says of images: a row an image, a probability a class.

python training/predict.py MODEL IMAGE_OR_DIR... [--output predictions.csv]
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

from training.command import Parser, run_command
from training.recipe import UserError

USAGE = "python training/predict.py MODEL IMAGE_OR_DIR ... [--output predictions.csv]"
EPILOG = """\
what comes out, a row an image, in the order of the command line, folders sorted by name:
  path, prediction, p_CLASS for each class, error        an image that cannot be read has its reason in the last column

examples:
  python training/predict.py runs/flowers photo.jpg
  python training/predict.py runs/flowers holiday_photos more/1.jpg --output holiday.csv
  python training/predict.py you/flowers holiday_photos --output holiday.jsonl           JSON lines, a row an object
  python training/predict.py microsoft/resnet-50 holiday_photos
"""
COMMIT = re.compile(r"[0-9a-f]{40}")


def parser() -> Parser:
    result = Parser(usage=USAGE, description="Ask any image classifier about any images.", epilog=EPILOG)
    result.add_argument("model", metavar="MODEL", help="a run folder, any folder in the Hub's layout, or a repo id")
    result.add_argument("images", metavar="IMAGE_OR_DIR", nargs="+", help="images, and folders of images at any depth")
    result.add_argument(
        "--output",
        metavar="FILE",
        default="predictions.csv",
        help="table to write: .csv, or .jsonl for JSON lines (default: predictions.csv)",
    )
    result.add_argument("--overwrite", action="store_true", help="replace the table that is there")
    result.add_argument("--revision", metavar="COMMIT", help="commit, tag or branch of the repo")
    result.add_argument(
        "--trust_remote_code", action="store_true", help="run code that the repo brings; wants --revision FULL_COMMIT"
    )
    return result


def main(tokens: list[str]) -> int:
    """Run the command; the exit status."""
    known = parser().parse_args(tokens)
    output = Path(known.output)
    if "" in (known.model, *known.images):
        raise UserError("a path is empty; was a variable of the shell not set?")
    if output.suffix not in (".csv", ".jsonl"):
        raise UserError(f"--output {output}: a table is called .csv or .jsonl")
    if output.exists() and not known.overwrite:
        raise UserError(f"'{output}' is there already; --overwrite replaces it, --output writes another")
    folder = Path(known.model).expanduser().is_dir()
    if folder and known.revision:
        raise UserError(f"--revision is for a repo of the Hub, and '{known.model}' is a folder; leave it out")
    if known.trust_remote_code and not folder and not COMMIT.fullmatch(known.revision or ""):
        raise UserError(
            "--trust_remote_code wants the code to be pinned: --revision with a full commit of 40 hexadecimal digits, "
            "as the repo's page shows it"
        )

    # Only now, with the command understood, the libraries that take seconds to import.
    from training.data.intake import Skipped, summary
    from training.results.batch import find_images, load_model, predict

    skipped: list[Skipped] = []
    images = find_images([Path(path) for path in known.images], skipped)
    classifier = load_model(known.model, known.revision, known.trust_remote_code)
    bad = predict(classifier, images, output)
    print(f"predicted  {len(images) - bad:,} of {len(images):,} images with {known.model}")
    if skipped:
        print(f"skipped    {summary(skipped)}")
    if bad:
        print(f"warning    of {bad:,} there is no answer: `error` says why")
    print(f"wrote      {output}")
    table = json.dumps(str(output), ensure_ascii=False)
    read = f"read_csv({table})" if output.suffix == ".csv" else f"read_json({table}, lines=True)"
    counts = f'import pandas; print(pandas.{read}["prediction"].value_counts())'
    print(f"next       {shlex.join(['python', '-c', counts])}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, "nothing was written"))
