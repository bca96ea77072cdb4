"""Measure a run on its test split, and write what was found, the plots and the model card.

python training/eval.py RUN [--data_dir PATH ...] [--int8]
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from training.command import Parser, run_command

USAGE = "python training/eval.py RUN [--data_dir PATH ...] [--int8]"
EPILOG = """\
examples:
  python training/eval.py runs/digits
  python training/eval.py runs/flowers --data_dir /mnt/flower_photos      the images were moved since training
  python training/eval.py runs/flowers --int8                             and the network in 8 bits: what that costs

what it writes into RUN (weights are never changed):
  test_results.json       every figure with its 95 % interval, beside the floors: what is scored without looking
  plots/                  confusion matrix, reliability, ROC and precision-recall, recall by class
  README.md               the model card
  serving.json            what the page needs: thresholds, floors, sensitivity and specificity at every threshold,
                          and with how many bits no clear answer changes
  onnx/model_int8.onnx    with --int8
  local/predictions.csv   a row an image, a probability a class; local/mistakes.png, the most confident mistakes
"""


def parser() -> Parser:
    result = Parser(usage=USAGE, description="Measure what a run would deploy, on its test split.", epilog=EPILOG)
    result.add_argument("run", metavar="RUN", help="the folder that train.py wrote")
    result.add_argument(
        "--data_dir", metavar="PATH", nargs="+", action="extend", help="where the images lie now, as for train.py"
    )
    result.add_argument(
        "--int8", action="store_true", help="write onnx/model_int8.onnx as well: smaller, faster, not quite as right"
    )
    return result


def main(tokens: list[str]) -> int:
    """Run the command; the exit status."""
    known = parser().parse_args(tokens)

    # Only now, with the command understood, the libraries that take seconds to import.
    from training.data.source import open_local
    from training.disk import writing
    from training.results.measure import lines, measure
    from training.run_folder import RunFolder
    from training.run_lock import locked

    run = RunFolder(Path(known.run))
    moved = known.data_dir or []
    with locked(run.path, "measures"), writing(run.path, "the same command again", "measure a copy elsewhere"):
        results = measure(run, open_local([Path(path) for path in moved]) if moved else None, int8=known.int8)
    print("\n".join(lines(results)))
    sheet = f", {run.mistakes.relative_to(run.path)}" if run.mistakes.is_file() else ""
    print(f"wrote      {run.path}: README.md, test_results.json, serving.json, plots, local/predictions.csv{sheet}")
    browse = ["python", "training/browse.py", str(run.path), *(["--data_dir", *moved] if moved else [])]
    print(f"next       {shlex.join(browse)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, "the same command starts it anew"))
