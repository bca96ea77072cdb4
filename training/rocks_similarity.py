"""How near a network's space of rocks is to the space that people's judgements of similarity span.

python training/rocks_similarity.py RUN --human DIR [--data_dir DIR] [--layer LAYER]
python training/rocks_similarity.py --check --human DIR
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.command import Parser, run_command
from training.recipe import UserError, first_line
from training.recipes.rocks import recipe as rocks

if TYPE_CHECKING:
    from training.run_folder import RunFolder

USAGE = "python training/rocks_similarity.py RUN --human DIR [--data_dir DIR] [--layer LAYER]"
EPILOG = """\
People's space has eight dimensions: lightness, grain size, roughness, shininess, organisation, chromaticity, shape and
hue. The network's is what one of its layers says of each rock, in eval mode; a wider layer is reduced to its first 8
principal components, a narrower one is filled up with zeros. Procrustes turns, mirrors, scales and shifts the network's
points onto people's as well as it goes. What is told, for the 360 and the 120 rocks apart: the disparity, which is the
sum of squares that remains (0 is alike, 1 is nothing alike), and Pearson's r in each dimension and in the mean.

Procrustes always finds some likeness. So each figure stands beside two null distributions: a random embedding, and the
network's own with its rocks shuffled; their means, their 95th percentile (of the disparity the 5th), and p, the share
of them that does as well or better, the larger of the two. Of 360 rocks most have been trained on; the 120 have not.

layers, from the backbone to the end; the default is the one before the logits:
  features           the backbone's pooled features
  linear1, relu1 …   the head's first Linear layer, the same after its ReLU, and so on, where the head has several
  logits             the last layer

--human holds mds_360.txt and mds_120.txt of the rocks' authors: a row a rock, sorted by file name, eight numbers each.
--check needs no run: it computes published figures from there (also from cnn_test.txt and cnn_120.txt, the authors' own
network, if they are there) and fails if one comes out differently.

examples:
  python training/rocks_similarity.py runs/rocks --human data/rocks/human
  python training/rocks_similarity.py runs/rocks --human data/rocks/human --layer features
"""


def parser() -> Parser:
    """The flags."""
    result = Parser(
        usage=USAGE, description="Compare a network's space of rocks with that of people's judgements.", epilog=EPILOG
    )
    result.add_argument("run", metavar="RUN", nargs="?", help="run folder of `rocks` or a variant of it")
    result.add_argument("--human", metavar="DIR", required=True, help="folder of mds_360.txt and mds_120.txt")
    result.add_argument("--data_dir", metavar="DIR", help="folder of the images (default: where the run found them)")
    result.add_argument("--layer", metavar="LAYER", help="the layer to compare (default: the next-to-last)")
    result.add_argument("--check", action="store_true", help="no run: hold this code against published figures")
    return result


def main(tokens: list[str]) -> int:
    """Run the command; the exit status."""
    known = parser().parse_args(tokens)
    if known.check and (known.run or known.data_dir or known.layer):
        raise UserError("--check needs --human DIR and nothing else")
    if not known.check and not known.run:
        raise UserError("no RUN; give the run folder of rocks, such as runs/rocks, or --check")

    # Only now, with the command understood, the libraries that take time to import.
    from training.disk import writing
    from training.results.similarity import read_human
    from training.run_lock import locked

    human = read_human(Path(known.human))
    if known.check:
        _check(Path(known.human), human)
        return 0
    run = Path(known.run)
    with locked(run, "compares the rocks of"), writing(run, "the same command again", "compare a copy elsewhere"):
        _compare(run, human, known.data_dir, known.layer)
    print(f"next       {shlex.join(['python', 'training/eval.py', known.run])}")
    return 0


def _check(folder: Path, human: dict[str, Any]) -> None:
    """Published figures beside those computed here.

    Raises:
        UserError: they differ.
    """
    from training.results.similarity import REFERENCES, check_published

    found = check_published(folder, human)
    print(f"{'':<36}{'disparity':>17}  {'mean r':>17}  {'95th percentile':>17}")
    different = []
    for each, here, percentile_95 in found:
        pairs = [(each.disparity, here.disparity), (each.mean_r, here.mean_r), (each.percentile_95, percentile_95)]
        told = ["" if None in pair else f"{pair[1]:.3f} (said {pair[0]:.3f})" for pair in pairs]
        print((f"{each.set} {each.name:<32}" + "  ".join(f"{text:>17}" for text in told)).rstrip())
        # Three digits are published; those of a random embedding are of other draws.
        within = 0.005 if percentile_95 else 0.0005
        different += [each.name for said, is_here in pairs if said is not None and abs(said - is_here) > within]
    if different:
        raise UserError(f"not as published: {', '.join(dict.fromkeys(different))}; are these the authors' files?")
    print(f"{len(found)} of {len(REFERENCES)} published rows can be computed from '{folder}'; all agree")


def _compare(path: Path, human: dict[str, Any], data_dir: str | None, wanted: str | None) -> None:
    """Read, look, compare, write and tell."""
    import numpy as np

    from training.data.splits import read_splits
    from training.fitting.hardware import choose
    from training.results.embedding import choose_layer, embed
    from training.results.similarity import compare_sets, find_rocks, in_splits, table, width_line, write_similarity
    from training.run_folder import RunFolder

    run = RunFolder(path)
    _check_run(run)
    images = find_rocks(_folder(run, data_dir), rocks.data, human)
    classifier = _load(run, choose().device, {label for part in images.values() for _, label in part})
    layer = choose_layer(classifier.model, wanted)
    files = {name: [file for file, _ in part] for name, part in images.items()}
    values = embed(classifier, [file for part in files.values() for file in part], layer)
    embeddings = dict(zip(files, np.split(values, [len(files["360"])]), strict=True))
    found = compare_sets(human, embeddings)
    rows = read_splits(run.splits) if run.splits.is_file() else []
    print(f"layer      {layer}, {width_line(found)}")
    for name, part in found.items():
        part["splits"] = in_splits(files[name], rows)
        print("\n".join(["", *table(name, part)]))
    print(f"\nwrote      {write_similarity(run, layer, found)}")


def _check_run(run: RunFolder) -> None:
    """Raise `UserError` unless training has ended here."""
    if not run.exists():
        raise UserError(f"'{run.path}' is no run; RUN is the folder that train.py wrote, such as runs/rocks")
    if not (run.path / "config.json").is_file() or not (run.path / "model.safetensors").is_file():
        raise UserError(f"the run in '{run.path}' has no weights: its training has not ended; --resume goes on with it")


def _folder(run: RunFolder, data_dir: str | None) -> Path:
    """Where the images lie.

    Raises:
        UserError: that cannot be told.
    """
    from training.data.source import Folder, load_source, open_local

    if data_dir:
        return open_local([Path(data_dir)]).data_dir
    source = load_source(run.data) if run.data.is_file() else None
    if not isinstance(source, Folder):
        raise UserError(f"the run in '{run.path}' knows no folder of images; give the rocks with --data_dir DIR")
    return source.data_dir


def _load(run: RunFolder, device: str, labels: set[str]) -> Any:
    """The network, once it is sure that it was trained on rocks.

    Raises:
        UserError: it cannot be loaded, or tells other classes apart.
    """
    from transformers.utils import logging

    from hub_utils.portable.classifier import classes_of, load_classifier

    logging.disable_progress_bar()  # a bar of its own for reading the weights, which takes no time
    try:
        classifier = load_classifier(run.path, device=device)
    except Exception as error:  # safetensors and transformers raise anything for a broken file
        raise UserError(f"the model in '{run.path}' cannot be loaded: {first_line(error)}; train it anew") from error
    others = sorted(set(classes_of(classifier)) ^ labels)
    if others:
        raise UserError(
            f"the run in '{run.path}' and the rocks have different classes, {len(others)} of them in one only, "
            f"'{others[0]}' for one; RUN is one of the recipe `rocks` or of a variant of it"
        )
    return classifier


if __name__ == "__main__":
    sys.exit(run_command(main, "nothing was written"))
