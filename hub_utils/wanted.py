"""What a Space is wanted of: the words of a command, and the models that they mean, here and on the Hub."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hub_utils.bundle import SPACES, SUITE, Model
from hub_utils.portable.command import UserError
from hub_utils.portable.hub import Account, full_name, in_words
from hub_utils.portable.repo import info_of

SEVERAL = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)=(?P<repo_id>.+)", re.ASCII)


@dataclass(frozen=True)
class Wanted:
    """What is to be bundled: a page called `name`, and of each model that it shows the run, if any, and the repo."""

    name: str
    runs: dict[str, Path | None]
    repos: dict[str, str] = field(default_factory=dict)
    revision: str | None = None


def find(wanted: str, models: Sequence[str], revision: str | None = None) -> Wanted:
    """What the words of a command mean; nobody is asked.

    Raises:
        UserError: they mean nothing, or there is no model.
    """
    if wanted == SUITE:
        return _suite(models, revision)
    if len(models) > 1 or (models and SEVERAL.fullmatch(models[0])):
        raise UserError(f"--model {models[-1]}: NAME=NS/NAME, and several, are for the suite; a page has one model")
    known, folder = names(), Path(wanted)
    if wanted in known:
        name, run = wanted, run_of(wanted)
    elif (folder / "config.json").is_file():
        name, run = _name_of(folder), folder
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", wanted, re.ASCII) and not folder.exists() and not models:
        name, run, models = wanted.partition("/")[2], None, [wanted]
    else:
        raise UserError(
            f"no Space or run '{wanted}'; there are {', '.join([*known, SUITE])}; or name a run folder that train.py "
            "wrote, or a model's repo id, NS/NAME"
        )
    if not run and not models:
        raise UserError(
            f"there is no model for '{name}': train one, accelerate launch -q training/train.py {name}, or name one, "
            "--model NS/NAME"
        )
    if revision and not models:
        raise UserError(f"--revision {revision} is one of a repo on the Hub; --model NS/NAME names it")
    return Wanted(name, {name: run}, {name: models[0]} if models else {}, revision)


def _name_of(run: Path) -> str:
    """What the page of somebody's own run is called: its folder's name, as far as the Hub takes it."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", run.resolve().name).strip("-")
    if name in ("", SUITE):
        raise UserError(f"'{run}' has a name that no page can have; rename the folder, as runs/birds")
    return name


def _suite(models: Sequence[str], revision: str | None) -> Wanted:
    """All models that are named, or else every run there is for a folder of spaces/."""
    repos = {}
    for each in models:
        match = SEVERAL.fullmatch(each)
        if not match:
            raise UserError(f"--model {each}: the suite has several, each with its name: --model digits=you/digits")
        repos[match["name"]] = match["repo_id"]
    if revision:
        raise UserError("--revision is for one model; the suite takes the head of each")
    runs = {name: run for name in names() if (run := run_of(name))}
    if not repos and not runs:
        raise UserError("there is no run in runs/: train some, or name models, --model digits=you/digits")
    return Wanted(SUITE, {name: runs.get(name) for name in (repos or runs)}, repos)


def names() -> list[str]:
    """The folders of spaces/, one a data set."""
    return sorted(path.parent.name for path in SPACES.glob("*/app.py") if path.parent.name != SUITE)


def run_of(name: str) -> Path | None:
    """runs/NAME, if a model is in it."""
    run = Path("runs", name)
    return run if (run / "config.json").is_file() else None


def of_run(name: str, run: Path) -> Model:
    """A model that is only here."""
    files = (path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    kept = frozenset(path for path in files if path.split("/")[0] not in ("local", "checkpoints"))
    return Model(name, kept, run, known=_is_known(run))


def of_repo(name: str, repo_id: str, revision: str | None, run: Path | None) -> Model:
    """A model of the Hub, at the full commit that `revision` is now.

    Raises:
        UserError: it is not there, or no model's repo.
    """
    from huggingface_hub import HfApi, snapshot_download

    from hub_utils.portable.repo import PATIENCE

    with in_words(f"the model '{repo_id}'", state="nothing has changed on the Hub", flag="--model"):
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True, timeout=PATIENCE)
        files = {file.rfilename for file in info.siblings or ()}
        if "config.json" not in files:
            raise UserError(
                f"'{repo_id}' has no config.json, by which a model is loaded; --model NS/NAME names another"
            )
        told = snapshot_download(repo_id, revision=info.sha, allow_patterns=["config.json", "preprocessor_config.json"])
    return Model(name, frozenset(files), run, info.id, info.sha, bool(info.private), _is_known(Path(told)))


def _is_known(folder: Path) -> bool:
    """Whether a page shows pictures to this model, and names its classes, as its configuration says, by itself."""
    from hub_utils.portable.predictor import labels_of
    from hub_utils.portable.preprocessing import preprocessing_of

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{folder / 'config.json'}' cannot be read ({error}); train the run anew") from error
    several = config.get("problem_type") not in (None, "single_label_classification")
    return not several and labels_of(config) is not None and preprocessing_of(folder) is not None


def pushed(model: Model, who: Account) -> Model:
    """The same model on the Hub, where `hub_utils.push` puts it.

    Raises:
        UserError: it is not there, or there are other weights.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    from hub_utils.portable.golden import weights_sha256

    repo_id = full_name(None, model.run.resolve().name, who)
    first = (
        f"{shlex.join(['python', '-m', 'hub_utils.push', str(model.run)])} puts it there, or --model NS/NAME names it"
    )
    try:
        found = of_repo(model.name, repo_id, None, model.run)
    except UserError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            raise UserError(f"a Space shows a model of the Hub, and '{repo_id}' is not there: {first}") from error
        raise
    with in_words(f"the model '{repo_id}'"):
        there = {each.rfilename: each for each in info_of(repo_id).siblings}
    weights = there.get("model.safetensors")
    if not weights or not weights.lfs or weights.lfs.sha256 != weights_sha256(model.run):
        raise UserError(f"'{repo_id}' on the Hub holds other weights than '{model.run}': {first}")
    return found


def models_of(wanted: Wanted) -> list[Model]:
    """The models of the page: where a repo is named, what the Hub has; else the run."""
    return [
        of_repo(name, wanted.repos[name], wanted.revision, run) if name in wanted.repos else of_run(name, run)
        for name, run in wanted.runs.items()
    ]
