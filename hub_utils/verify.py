"""What the Hub has of a model, looked at as a visitor gets it: complete, and answering as it did when it was trained.

python -m hub_utils.verify NS/NAME_OR_RUN [--revision COMMIT]
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hub_utils import checks
from hub_utils.checks import Failed, Model, NotAsked
from hub_utils.portable.command import Parser, UserError, run_command
from hub_utils.portable.hub import in_words
from hub_utils.portable.tokens import without_token
from hub_utils.portable.whole import passing
from hub_utils.visit import ask

USAGE = "python -m hub_utils.verify NS/NAME_OR_RUN [--revision COMMIT]"
EPILOG = """\
what is checked, with nothing in the cache, in a process that knows nothing of this repository:
  files            the weights are safetensors, and no pickle lies beside them
  pipeline         plain `pipeline("image-classification", model=…)` loads it
  weights          every weight is found, and none is left over
  labels           a name for each answer, no two alike, in the order that training had
  preprocessing    the image processor makes what the model takes, and says how
  card             README.md has what the Hub reads: license, library_name, pipeline_tag, tags
  serving.json     its golden answers belong to these very weights
  golden answers   the same probabilities as stored, through `pipeline` and through ONNX
                   (8 bits, if the model brings them: how far away)
exit status 0 only if all of it passed

examples:
  python -m hub_utils.verify you/flowers
  python -m hub_utils.verify you/flowers --revision v1
  python -m hub_utils.verify runs/flowers              the folder, before it goes to the Hub
"""
COMMIT = re.compile(r"[0-9a-f]{40}")
ADDRESS = re.compile(r"(?:https?://(?:[^/]+/)?|(?:www\.)?(?:huggingface\.co|hf\.co)/)(?:models/)?(.*)", re.IGNORECASE)
NOT_UPLOADED = {"local", "checkpoints"}  # of a run folder


def parser() -> Parser:
    result = Parser(usage=USAGE, description="Check a model as a visitor of the Hub gets it.", epilog=EPILOG)
    result.add_argument(
        "model", metavar="NS/NAME_OR_RUN", help="a repo id, or a run folder, or one in the Hub's layout"
    )
    result.add_argument("--revision", metavar="COMMIT", help="commit, tag or branch of the repo (default: main)")
    result.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run code of others that the repo brings; wants --revision FULL_COMMIT",
    )
    return result


def main(tokens: list[str]) -> int:
    """Run the command; the exit status."""
    known = parser().parse_args(tokens)
    _check_words(known.model, known.revision)
    folder = Path(known.model).expanduser()
    if not folder.is_dir():
        if folder.exists() or known.model.startswith((".", "/", "~")) or "\\" in known.model:
            raise UserError(f"'{known.model}' is no folder; a run folder or a repo id NS/NAME is wanted")
        if known.trust_remote_code and not COMMIT.fullmatch(known.revision or ""):
            raise UserError(
                "--trust_remote_code wants the code to be pinned: --revision with a full commit of 40 hexadecimal "
                "digits, as the repo's page shows it"
            )
        passed = verify(known.model, known.revision, trust_remote_code=known.trust_remote_code)
    elif known.revision:
        raise UserError(f"--revision is for a repo of the Hub, and '{known.model}' is a folder; leave it out")
    else:
        passed = verify_folder(folder, trust_remote_code=known.trust_remote_code)
    if passed:
        words = ["python", "training/predict.py", known.model, "photo.jpg"]
        words += ["--revision", known.revision] if known.revision else []
        words += ["--trust_remote_code"] * known.trust_remote_code
        print(f"next       {shlex.join(words)}")
    return 0 if passed else 1


def _check_words(model: str, revision: str | None) -> None:
    """Raise `UserError` for what names no model, or no revision."""
    if not model.strip():
        raise UserError(f"'{model}' names no model; a run folder or a repo id NS/NAME is wanted")
    if revision is not None and not revision.strip():
        raise UserError(f"--revision '{revision}' names none; a commit, tag or branch of the repo, or leave it out")
    if address := ADDRESS.fullmatch(model):
        match re.split(r"[/?#]", address[1]):
            case [owner, name, *_] if owner and name and owner not in ("datasets", "spaces", "docs", "api"):
                wanted = f"the repo id in it is wanted: {owner}/{name}"
            case _:
                wanted = "a repo id NS/NAME is wanted"
        raise UserError(f"'{model}' is an address; {wanted}")


def verify(
    repo_id: str, revision: str | None = None, say: Callable[[str], None] = print, trust_remote_code: bool = False
) -> bool:
    """Download a model of the Hub into an empty cache, ask it as a visitor, and `say` what passed; whether all did.

    The repo's own code runs if it is this project's, byte for byte, or with `trust_remote_code`. Nothing of it stays.

    Raises:
        UserError: there is no such repo or revision, or not for this user, or the Hub cannot be asked.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_error

    disable_progress_bars()  # of a few small files; the visitor has one of its own
    set_verbosity_error()  # it tells of each time that it tries again
    with in_words(f"'{repo_id}'"):
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    files = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    with _empty_folder() as folder, in_words(f"'{repo_id}'"):
        download = partial(hf_hub_download, repo_id, revision=info.sha)
        model = Model(
            repo_id,
            info.sha,
            files,
            fetch=lambda name: Path(download(name, cache_dir=folder / "ours")),
            weights=lambda: Path(download("model.safetensors", cache_dir=folder / "cache" / "hub")).parent,
        )
        say(f"verifying  {repo_id} at {info.sha}, from an empty cache")
        answer = ask(model, folder, trust_remote_code)
        _check_hub(answer)
        if "error" in answer:
            HfApi().model_info(repo_id, revision=info.sha)  # the Hub may be what went away
        for name in {"config.json", "serving.json", "README.md", checks.INT8} & files.keys():
            model.fetch(name)  # before anything is told, for the Hub may fail at each
        if "model.safetensors" in files:
            model.weights()
        return _tell(model, answer, say)


def _check_hub(answer: dict[str, Any]) -> None:
    """Raise as the Hub's client does what the visitor met of the Hub: a model is not bad because the Hub fails."""
    from huggingface_hub.errors import HfHubHTTPError

    met = answer.get("hub")
    if met and met["status"]:
        response = SimpleNamespace(status_code=met["status"], headers=met["headers"], request=None)
        raise HfHubHTTPError(met["said"], response=response)
    if met:
        raise ConnectionError(met["said"])


def verify_folder(folder: Path, say: Callable[[str], None] = print, trust_remote_code: bool = False) -> bool:
    """As `verify`, of a run folder or any in the Hub's layout, as it lies; with no network."""
    folder = folder.resolve()
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    kept = (path for path in found if path.parts[0] not in NOT_UPLOADED and not path.parts[0].startswith("."))
    files = {path.as_posix(): (folder / path).stat().st_size for path in kept}
    if "config.json" not in files:
        raise UserError(f"no model in '{folder}': it has no config.json; a run has one when its training has ended")
    model = Model(str(folder), None, files, fetch=lambda name: folder / name, weights=lambda: folder)
    with _empty_folder() as empty:
        say(f"verifying  {folder}")
        return _tell(model, ask(model, empty, trust_remote_code), say)


@contextmanager
def _empty_folder() -> Iterator[Path]:
    with passing("verify") as folder:
        yield Path(folder)


def _tell(model: Model, answer: dict[str, Any], say: Callable[[str], None]) -> bool:
    """Say each check's line; whether all passed."""
    every: dict[str, Callable[[], str]] = {
        "files": lambda: checks.files(model),
        "pipeline": lambda: checks.pipeline(answer),
        "weights": lambda: checks.weights(checks.loaded(answer)),
        "labels": lambda: checks.labels(model, checks.loaded(answer)),
        "preprocessing": lambda: checks.preprocessing(checks.loaded(answer)),
        "card": lambda: checks.card(model),
        "serving.json": lambda: checks.serving(model),
        "golden answers by pipeline": lambda: checks.golden(model, checks.loaded(answer)["probabilities"]),
        "golden answers by ONNX": lambda: checks.golden(model, checks.of_onnx(model, checks.loaded(answer))),
    }
    if checks.INT8 in model.files:
        every["golden answers in 8 bits"] = lambda: checks.int8(model, checks.loaded(answer))
    if checks.has_no_onnx(model):
        del every["golden answers by ONNX"]
        say("  none     ONNX                        training could not write this network as ONNX")
    marks = []
    for name, check in every.items():
        try:
            mark, seen = "passed", check()
        except Failed as error:
            mark, seen = "FAILED", str(error)
        except NotAsked as error:
            mark, seen = "–     ", str(error)
        marks.append(mark)
        say(f"  {mark}   {name:<28}{_without_secrets(seen)}")
    passed, failed = marks.count("passed"), marks.count("FAILED")
    if passed == len(every):
        say(f"verified   all {len(every)} checks passed")
        return True
    unasked = len(every) - passed - failed
    say(f"failed     {failed} of {len(every)} checks{f', {unasked} not asked' if unasked else ''}")
    return False


def _without_secrets(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return without_token(text.replace(token, "hf_…") if token else text)


if __name__ == "__main__":
    sys.exit(run_command(main, "nothing is left of the download"))
