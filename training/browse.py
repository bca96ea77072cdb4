"""A model's mistakes in the browser: which images, where it looked, what they resemble; for those who clean data.

python training/browse.py RUN [--data_dir PATH] [--port PORT]
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from training.command import Parser, run_command
from training.recipe import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from training.results.mistakes_html import Gallery
    from training.results.predictions import Predictions
    from training.run_folder import RunFolder

USAGE = "python training/browse.py RUN [--data_dir PATH] [--port PORT]"
EPILOG = """\
Click a cell of the confusion matrix and see its images, the largest loss first: what the model saw, where it looked,
and the training images that it finds most alike. Right answers with a large loss, and images whose neighbours are all
of another class, are often labelled wrongly. Tick images, and export the list of files.

It reads what eval.py left in RUN/local, and keeps features of the images there, so that the second time is quick. The
page is for this machine only: nothing is uploaded, nobody is told, and the data set is not touched.

examples:
  python training/browse.py runs/flowers
  python training/browse.py runs/flowers --data_dir where_the_photos_are_now --port 7861
"""


def parser() -> Parser:
    """The flags."""
    result = Parser(USAGE, "Look at a model's mistakes in the browser.", EPILOG)
    result.add_argument("run", metavar="RUN", type=Path, help="folder that train.py wrote and eval.py measured")
    result.add_argument(
        "--data_dir", metavar="PATH", nargs="+", action="extend", help="the images, if they lie elsewhere by now"
    )
    result.add_argument("--port", type=int, default=7860, help="of the page, on this machine (default: 7860)")
    return result


def main(tokens: list[str]) -> int:
    """Run the command, until Ctrl-C; the exit status."""
    known = parser().parse_args(tokens)

    # Only now, with the command understood, what takes time to import.
    from training.run_folder import RunFolder

    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    run = RunFolder(known.run)
    predictions = read_answers(run)
    with listening(known.port) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        wrong = int((predictions.predicted != predictions.labels).sum())
        print(
            f"opening    {known.run}: {len(predictions.paths):,} images, {wrong:,} taken for another class", flush=True
        )

        gallery = open_gallery(run, predictions, known.data_dir)
        from training.results.mistakes_page import build_app

        app = build_app(gallery)
        search = threading.Thread(
            target=gallery.evidence.gather, args=features_of(run, gallery.evidence.paths), daemon=True
        )
        search.start()
        listener.listen()  # whoever follows the address at once waits until the page answers
        print(f"page       {address}  (for this machine only; Ctrl-C ends it)", flush=True)
        serve(app, listener)
        gallery.evidence.stop()
        search.join()
    print("closed     the page; exported lists are where your browser saves files")
    return 0


def read_answers(run: RunFolder) -> Predictions:
    """What eval.py wrote, if it is of the model that is there.

    Raises:
        UserError: there is no run, no model or no predictions in it, or they do not belong together.
    """
    from training.results.predictions import read_predictions
    from training.run_folder import FoldsFolder, read_json, sha256

    if FoldsFolder(run.path).stored():
        raise UserError(f"'{run.path}' holds a cross-validation; give one of its runs, as {run.path / 'fold1'}")
    if not run.exists():
        raise UserError(f"'{run.path}' is no run; give a folder that train.py wrote, as runs/flowers")
    if not run.weights.is_file():
        raise UserError(f"'{run.path}' has no model yet; train.py with the same command and --resume finishes it")
    file, again = run.predictions, f"`python training/eval.py {run.path}`"
    if not file.is_file():
        raise UserError(f"'{run.path}' has no predictions yet; {again} writes them")
    predictions = read_predictions(file)
    if not predictions.paths:
        raise UserError(f"'{file}' has no image in it; {again} writes it anew")
    names = read_json(run.path / "config.json").get("id2label", {})
    then = read_json(run.test_results).get("model_sha256") if run.test_results.is_file() else None
    if [names.get(str(index)) for index in range(len(names))] != predictions.classes:
        raise UserError(f"'{file}' is of other classes than the model in '{run.path}'; {again} writes it anew")
    if then and then != sha256(run.weights):
        raise UserError(f"'{file}' is of another model than the one in '{run.path}' now; {again} writes it anew")
    return predictions


def open_gallery(run: RunFolder, predictions: Predictions, data_dir: list[str] | None) -> Gallery:
    """The model, its answers and the images together; `data_dir` as it was typed.

    Raises:
        UserError: the images are nowhere, or the model cannot be loaded.
    """
    from training.data.source import Folder, load_source, open_local
    from training.data.splits import read_splits
    from training.results.evidence import Evidence
    from training.results.measure import load_run
    from training.results.mistakes_html import Gallery
    from training.run_folder import read_json

    source = open_local([Path(path) for path in data_dir]) if data_dir else load_source(run.data)
    if isinstance(source, Folder) and not source.data_dir.is_dir():
        raise UserError(f"no folder '{source.data_dir}', where the images were; say with --data_dir where they are now")
    examined = set(predictions.paths)
    trained = [row for row in read_splits(run.splits) if row.split == "train" and row.path not in examined]
    classifier = load_run(run)
    paths = [*predictions.paths, *(row.path for row in trained)]
    labels = [*(predictions.classes[label] for label in predictions.labels), *(row.label for row in trained)]
    title = f"{read_json(run.recipe)['recipe'].get('title') or 'Run'} · {run.path.resolve().name}"
    return Gallery(title, predictions, Evidence(classifier, source.reader(), paths, len(predictions.paths)), labels)


def features_of(run: RunFolder, paths: Sequence[str]) -> tuple[Path, str]:
    """Where features are kept, and a fingerprint of what they are of: weights, and images as training knew them."""
    from training.data.splits import read_splits
    from training.run_folder import sha256

    contents = {row.path: row.sha256 for row in read_splits(run.splits)}
    told = [sha256(run.weights), *(f"{path}\0{contents.get(path)}" for path in paths)]
    return run.path / "local" / "features.npz", hashlib.sha256("\n".join(told).encode()).hexdigest()


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """A socket that only this machine reaches.

    Raises:
        UserError: the port is taken, or there is none of that number.
    """
    with socket.socket() as listener:
        if os.name == "posix":  # elsewhere it would share a port that is in use
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OverflowError:
            raise UserError(f"--port {port}: a port is a number from 0, any that is free, to 65535") from None
        except OSError as error:
            raise UserError(f"port {port} cannot be had ({error.strerror}); --port {port + 1} may be free") from error
        yield listener


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Until Ctrl-C."""
    import uvicorn

    how = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(how).run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(run_command(main, "nothing was changed"))
