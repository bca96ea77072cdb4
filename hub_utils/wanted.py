"""What a Space is wanted of: the words of a command, and the models that they mean, here and on the Hub."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub_utils.bundle import SUITE, Model, as_name, names
from hub_utils.portable.command import UserError
from hub_utils.portable.hub import Account, full_name, in_words
from hub_utils.replaced import UNCHANGED
from hub_utils.run_files import read_json, read_recipe

SEVERAL = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)=(?P<repo_id>.+)", re.ASCII)
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/(?P<name>\w[\w.-]*)", re.ASCII)
OURS = ("runs", "bundles", "spaces", "data")  # folders, and hardly anybody's name on the Hub
# What a page of the suite cannot be called: gradio answers there itself (`gradio.routes.INTERNAL_ROUTES`).
TAKEN = {"theme.css", "robots.txt", "pwa_icon", "manifest.json", "login", "logout", "svelte", "config", "static"}
TAKEN |= {"assets", "favicon.ico", "gradio_api", "monitoring"}


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
    elif (match := REPO_ID.fullmatch(wanted)) and not _is_path(wanted) and not models:
        name, run, models = match["name"], None, [wanted]
        name = wanted.replace("/", "-") if name == SUITE else name
    else:
        what = f"there is no folder '{wanted}'" if _is_path(wanted) else f"no Space or run '{wanted}'"
        what = f"'{wanted}' is no run: it has no config.json" if folder.exists() else what
        raise UserError(
            f"{what}; there are {', '.join([*known, SUITE])}; or name a run folder that train.py wrote, or a model's "
            "repo id, NS/NAME"
        )
    if not run and not models:
        raise UserError(
            f"there is no model for '{name}': train one, accelerate launch -q training/train.py {name}, or name one, "
            "--model NS/NAME"
        )
    if revision and not models:
        raise UserError(f"--revision {revision} is one of a repo on the Hub; --model NS/NAME names it")
    return Wanted(name, {name: run}, {name: models[0]} if models else {}, revision)


def _is_path(wanted: str) -> bool:
    """Whether a folder is meant, which may not be there."""
    return (
        Path(wanted).exists() or Path(wanted).parts[0] in OURS or wanted.startswith((".", "/", "~")) or "\\" in wanted
    )


def _name_of(run: Path) -> str:
    """What the page of somebody's own run is called: its folder's name, as far as the Hub takes it."""
    name = as_name(run.resolve().name)
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
        name = match["name"]
        if name in repos or name in TAKEN:
            why = "the suite has a model of this name already" if name in repos else "gradio takes this name for itself"
            raise UserError(f"--model {each}: {why}; choose another, as --model {name}-2={match['repo_id']}")
        repos[name] = match["repo_id"]
    if revision:
        raise UserError("--revision is for one model; the suite takes the head of each")
    runs = {name: run for name in names() if (run := run_of(name))}
    if not repos and not runs:
        raise UserError("there is no run in runs/: train some, or name models, --model digits=you/digits")
    return Wanted(SUITE, {name: runs.get(name) for name in (repos or runs)}, repos)


def run_of(name: str) -> Path | None:
    """runs/NAME, if a model is in it."""
    run = Path("runs", name)
    return run if (run / "config.json").is_file() else None


def of_run(name: str, run: Path) -> Model:
    """A model that is only here.

    Raises:
        UserError: a file of it is broken.
    """
    files = (path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    kept = frozenset(path for path in files if path.split("/")[0] not in ("local", "checkpoints"))
    return Model(name, kept, run, **_facts(run, str(run)))


def of_repo(name: str, repo_id: str, revision: str | None, run: Path | None, state: str = "") -> Model:
    """A model of the Hub, at the full commit that `revision` is now; `run` is taken for it if it has the same weights.

    Raises:
        UserError: it is not there, no model's repo, or a file of it is broken. `state` ends the sentence.
    """
    from huggingface_hub import HfApi, snapshot_download

    here = "" if run or Path(repo_id).exists() else ", which is no folder here"
    with in_words(f"the model '{repo_id}'{here}", state=state, flag="--model"):
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
        files = {file.rfilename: file for file in info.siblings or ()}
        if "config.json" not in files:
            raise UserError(
                f"'{repo_id}' has no config.json, by which a model is loaded; --model NS/NAME names another"
            )
        wanted = ["config.json", "preprocessor_config.json", "recipe.json"]
        told = snapshot_download(repo_id, revision=info.sha, allow_patterns=wanted)
    same = run if run and _has_weights(run, files.get("model.safetensors")) else None
    private, facts = bool(info.private), _facts(Path(told), info.id)
    return Model(name, frozenset(files), same, info.id, info.sha, private, **facts)


def _has_weights(run: Path, file: Any) -> bool:
    """Whether the weights of a run are the file on the Hub, a `RepoSibling`."""
    from hub_utils.portable.repo import is_same

    return (run / "model.safetensors").is_file() and is_same(run / "model.safetensors", file)


def _facts(folder: Path, place: str) -> dict[str, Any]:
    """What the files of a model say of it: `known`, `recipe` and `classes` of a `Model`."""
    from hub_utils.portable.predictor import labels_of
    from hub_utils.portable.preprocessing import preprocessing_of

    config, recipe = read_json(folder / "config.json"), read_recipe(folder, place)
    names_of = {"id2label": dict, "label_names": list}
    wrong = [name for name, kind in names_of.items() if not isinstance(config.get(name) or kind(), kind)]
    if wrong:
        raise UserError(f"'config.json' of '{place}' tells the classes in no known way ('{wrong[0]}'); train it anew")
    labels, several = labels_of(config), config.get("problem_type") not in (None, "single_label_classification")
    known = not several and labels is not None and preprocessing_of(folder) is not None
    return {"known": known, "recipe": recipe, "classes": labels or []}


def pushed(model: Model, who: Account) -> Model:
    """The same model on the Hub, where `hub_utils.push` puts it.

    Raises:
        UserError: it is not there, or there are other weights.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    repo_id = full_name(None, model.run.resolve().name, who)
    first = (
        f"{shlex.join(['python', '-m', 'hub_utils.push', str(model.run)])} puts it there, or --model NS/NAME names it"
    )
    try:
        found = of_repo(model.name, repo_id, None, model.run, UNCHANGED)
    except UserError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            raise UserError(f"a Space shows a model of the Hub, and '{repo_id}' is not there: {first}") from error
        raise
    if not found.run:
        raise UserError(f"'{repo_id}' on the Hub holds other weights than '{model.run}': {first}")
    return found


def models_of(wanted: Wanted, state: str = "") -> list[Model]:
    """The models of the page: where a repo is named, what the Hub has; else the run. `state` ends what the Hub's
    refusals say.
    """
    return [
        of_repo(name, wanted.repos[name], wanted.revision, run, state) if name in wanted.repos else of_run(name, run)
        for name, run in wanted.runs.items()
    ]
