"""What goes to a cloud: a model's own files, and the code that answers there. What no container can run is refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hub_utils.allowlist import check_no_link, check_ours, check_whole
from hub_utils.bundle import PORTABLE, ROOT, as_name, code_of
from hub_utils.portable.command import UserError
from hub_utils.portable.facts import told
from hub_utils.run_files import read_json

# Of a model's files these and nothing else; the card, the results and the ONNX file answer nothing there.
CONFIG = ("config.json", "preprocessor_config.json", "model.safetensors.index.json")
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
CODE = "modeling_*.py"
OURS = "backbone_with_head"  # the `model_type` of our own class
COMMIT = re.compile(r"[0-9a-f]{40}")
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Deployable:
    """A model whose files lie in `folder`: a folder of this machine, or `repo_id` at `commit`, in the Hub's cache."""

    said: str  # as the user named it
    folder: Path
    repo_id: str | None = None
    commit: str | None = None
    private: bool = False

    @property
    def name(self) -> str:
        """What it is called there: small letters, digits and hyphens, at most 50, a letter first."""
        called = self.repo_id.rpartition("/")[2] if self.repo_id else self.folder.resolve().name
        plain = re.sub(r"[^a-z0-9]+", "-", as_name(called).lower())[:50].strip("-")
        return plain if plain[:1].isalpha() else f"model-{plain}".strip("-")

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_json(self.folder / "config.json")

    @property
    def custom(self) -> bool:
        """Whether it is of a class of our own: its head has hidden layers."""
        return self.config.get("model_type") == OURS

    @property
    def timm(self) -> bool:
        return "timm_wrapper" in (self.config.get("model_type"), self.body.get("model_type"))

    @property
    def body(self) -> dict[str, Any]:
        """The configuration of the network below a head of ours; {} of another."""
        body = self.config.get("backbone")
        return body if isinstance(body, dict) else {}

    @cached_property
    def files(self) -> dict[str, Path]:
        """Its files by their names there."""
        names = (*CONFIG, *WEIGHTS, *([CODE] if self.custom else ()))
        found = sorted(path for path in self.folder.iterdir() if any(fnmatchcase(path.name, name) for name in names))
        return {path.name: path for path in found}


def find(said: str, revision: str | None = None) -> Deployable:
    """The model of a run folder, a folder in the Hub's layout, or a repo id; its files are here then.

    Raises:
        UserError: there is none, it is not whole, or no container could run it.
    """
    folder = Path(said).expanduser()
    if folder.is_dir():
        if revision:
            raise UserError(f"--revision is for a repo of the Hub, and '{said}' is a folder; leave it out")
        if (folder / "folds.json").is_file():
            raise UserError(
                f"'{said}' holds a cross-validation; each of its folds is a run: {folder / 'fold1'} for one"
            )
        found = Deployable(said, folder)
    elif not REPO_ID.fullmatch(said):
        raise UserError(
            f"there is no folder '{said}'; a run folder, one in the Hub's layout, or a repo id NS/NAME is wanted"
        )
    else:
        found = _fetched(said, revision)
    _check(found)
    return found


def _fetched(repo_id: str, revision: str | None) -> Deployable:
    """A repo's files, at the full commit that `revision` is now."""
    from huggingface_hub import HfApi, snapshot_download

    from hub_utils.portable.hub import in_words

    here = "" if Path(repo_id).exists() else ", which is no folder here"
    with in_words(f"the model '{repo_id}'{here}", flag="MODEL", reading=True):
        info = HfApi().model_info(repo_id, revision=revision)
        code = [each.rfilename for each in info.siblings or () if fnmatchcase(each.rfilename, CODE)]
        if code and not COMMIT.fullmatch(revision or ""):
            raise UserError(
                f"'{repo_id}' brings code of its own ({code[0]}), and is taken at a full commit only: --revision "
                f"{info.sha}, which '{revision or 'main'}' is now, once you have looked at it"
            )
        wanted = [*CONFIG, *WEIGHTS, CODE]
        folder = Path(snapshot_download(info.id, revision=info.sha, allow_patterns=wanted))
    return Deployable(repo_id, folder, info.id, info.sha, bool(info.private))


def _check(found: Deployable) -> None:
    from hub_utils.portable.predictor import labels_of
    from hub_utils.portable.preprocessing import preprocessing_of

    said, folder = found.said, found.folder
    if not (folder / "config.json").is_file():
        raise UserError(
            f"no model in '{said}': it has no config.json; a run has one when its training has ended: the command that "
            "began it, with --resume, goes on"
        )
    weights = [path for name, path in found.files.items() if name.endswith(".safetensors")]
    if not weights:
        raise UserError(
            f"no weights in '{said}': a model.safetensors is wanted, which a run has when its training has ended; "
            "other files of weights can run code, and are not taken"
        )
    index = found.files.get("model.safetensors.index.json")
    parts = told(read_json(index), "weight_map", of=dict) if index and "model.safetensors" not in found.files else None
    if lost := sorted(set(map(str, (parts or {}).values())) - found.files.keys()):
        raise UserError(f"the model in '{said}' is not whole: it has no {lost[0]}; copy or download it again")
    if not found.repo_id:  # the Hub's cache consists of links, and its files were compared with their hashes
        for path in found.files.values():
            check_no_link(folder, path)
    for path in weights:
        check_whole(path)
    here = f"python training/predict.py {shlex.quote(said)} photo.jpg asks it on this machine"
    if not found.custom and ("auto_map" in found.config or found.config.get("custom_pipelines")):
        raise UserError(f"'{said}' needs code of others, which is not sent to a cloud: {here}")
    if found.custom:
        code = [path for name, path in found.files.items() if name.endswith(".py")]
        if not code:
            raise UserError(
                f"'{said}' has a head with hidden layers, and lacks its modeling file; train or export it anew"
            )
        for path in code:
            check_ours(path)
    kind = " ".join(map(str, found.config.get("architectures") or ["no architecture"]))
    if not kind.endswith("ForImageClassification"):
        raise UserError(f"'{said}' is no image classifier that an endpoint could run ({kind}): {here}")
    if found.config.get("problem_type") not in (None, "single_label_classification") or labels_of(found.config) is None:
        raise UserError(
            f"'{said}' has a head that an endpoint cannot run: its answer is no choice of one of two or more named "
            f"classes; {here}"
        )
    if preprocessing_of(folder) is None:
        if not found.timm and "preprocessor_config.json" not in found.files:
            raise UserError(
                f"'{said}' does not say how pictures are prepared: it has no preprocessor_config.json, which training "
                "writes beside the weights; copy it there"
            )
        raise UserError(f"'{said}' prepares pictures in a way that only its own transformers knows: {here}")


def check_built(found: Deployable, transformers: str) -> None:
    """Raise `UserError` for a network that timm builds with arguments: the container's transformers, which is before
    4.52, builds none of these."""
    if arguments := found.config.get("model_args") or found.body.get("model_args"):
        raise UserError(
            f"'{found.said}' is a network that timm builds with arguments ({', '.join(arguments)}), which transformers "
            f"{transformers} in the container cannot do; --image names a newer container"
        )


def with_code(found: Deployable, module: str, name: str, into: str = "") -> dict[str, bytes | Path]:
    """All files for a container, by path: the model's, and below `into` hub_utils/portable/`module`.py as `name`, what
    that imports, and requirements.txt if something has to be installed.

    timm is in none of the containers. It resizes with Pillow, whose version 13 does so otherwise than 12: a colour of a
    tall picture may be 10 levels off, which moved probabilities by 2e-4. So both come in the versions that are here.

    Raises:
        UserError: there is a token in one of them.
    """
    start = PORTABLE / f"{module}.py"
    code = {
        path.relative_to(ROOT).as_posix(): path for path in code_of(f"hub_utils.portable.{module}") if path != start
    }
    texts: dict[str, bytes | Path] = {f"{into}{path}": each.read_bytes() for path, each in code.items()}
    texts[f"{into}{name}"] = start.read_bytes()
    if found.timm:
        wanted = [f"{each}=={version(each).partition('+')[0]}\n" for each in ("pillow", "timm")]
        texts[f"{into}requirements.txt"] = "".join(wanted).encode()
    _check_secrets({**texts, **{path: each for path, each in found.files.items() if path.endswith(".json")}})
    return dict(sorted({**found.files, **texts}.items()))


def _check_secrets(files: Mapping[str, bytes | Path]) -> None:
    from huggingface_hub import get_token

    from hub_utils.scan import secrets_in

    if found := secrets_in(files, get_token()):
        raise UserError(f"nothing was written, for what must stay here was found in {'; '.join(map(str, found[:3]))}")
