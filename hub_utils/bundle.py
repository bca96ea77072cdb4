"""A bundle: the exact folder that a Space will be. What is in it, and writing it to disk.

A Space sees only what is in its repo and what pip installs. So the page's code is copied beside app.py, and what the
Hub must know is written from facts: versions as they are installed here, the model and its revision.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hub_utils.portable.command import UserError
from hub_utils.portable.markdown import one_line
from hub_utils.portable.whole import whole_folder, write_bytes

ROOT = Path(__file__).resolve().parents[1]
SPACES = ROOT / "spaces"
PORTABLE = ROOT / "hub_utils" / "portable"
ONNX = "onnx/model.onnx"
SUITE = "suite"
# What a bundle may hold. A folder, or a Space, with anything else in it was not made by us alone.
CODE = (
    "app.py",
    "hub_utils/__init__.py",
    "hub_utils/portable/*.py",
    "hub_utils/portable/*.css",
    "hub_utils/portable/*.js",
)
EXAMPLES = ("examples/*.png", "examples/*.jpg", "examples/*/*.png", "examples/*/*.jpg")  # in a suite, by model
MAY_GO = (*CODE, "README.md", "requirements.txt", "model.json", *EXAMPLES)
FOLDERS = ("hub_utils", "hub_utils/portable", "hub_utils/__pycache__", "hub_utils/portable/__pycache__")
FOLDERS += ("examples", "examples/[!.]*")
COMPILED = ("hub_utils/__pycache__/*.pyc", "hub_utils/portable/__pycache__/*.pyc")  # by Python, when it is started
MARK = "hub_utils/portable/demo.py"  # a bundle has it, and hardly anything else
SLIM = ("gradio", "openvino", "numpy", "pillow", "huggingface_hub", "markdown-it-py")
LARGE = (*SLIM, "torch", "torchvision", "transformers", "timm", "safetensors")  # where there is no ONNX file
PYTHON = "3.12"  # the Hub's own default is 3.10, on which transformers 5 does not install
# Of a model, what a page may read: the Hub can put it into a Space while that is built.
READ = ("*.json", "README.md", "plots/*.png", "modeling_*.py", ONNX)
SHORT = 60  # characters that the Hub takes as a short description
MOST_CLASSES = 30  # that are named


@dataclass(frozen=True)
class Model:
    """A model that a page shows.

    `name` is what the page calls it; `run` is the folder here, and `repo_id` at `revision`, a full commit, what is on
    the Hub: one of them at least, and if both, of the same weights. `files` are its paths, POSIX; `known` says whether
    the page prepares its pictures and names its classes without transformers. `recipe` is what it was trained by, {} of
    a stranger's; `classes` are the names, if its files say them.
    """

    name: str
    files: frozenset[str]
    run: Path | None = None
    repo_id: str | None = None
    revision: str | None = None
    private: bool = False
    known: bool = True
    recipe: Mapping[str, Any] = field(default_factory=dict)
    classes: Sequence[str] = ()

    @property
    def slim(self) -> bool:
        """Whether a page needs no torch for it."""
        return self.known and ONNX in self.files

    @property
    def place(self) -> str:
        """What a predictor is loaded from."""
        return self.repo_id or str(self.run)


def contents(name: str, models: Sequence[Model], examples: Mapping[str, bytes], credit: str = "") -> dict[str, bytes]:
    """All files of the bundle `name`, by their path; `credit` says in Markdown where the examples come from."""
    files = {"app.py": app_text(name, [model.name for model in models]).encode()}
    files |= {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in needed()}
    files["README.md"] = readme(name, models, credit).encode()
    files["requirements.txt"] = "".join(f"{line}\n" for line in requirements(models)).encode()
    known = {each.name: {"model": each.repo_id, "revision": each.revision} for each in models if each.repo_id}
    if known:
        files["model.json"] = (json.dumps(known, indent=2) + "\n").encode()
    files |= {f"examples/{path}": content for path, content in examples.items()}
    foreign = [path for path in files if not may_go(path)]
    if foreign:
        raise ValueError(f"{', '.join(foreign)}: no part of a bundle")
    return dict(sorted(files.items()))


def may_go(path: str) -> bool:
    """Whether a bundle may hold a file of this path."""
    return _fits(path, MAY_GO)


def _fits(path: str, patterns: Sequence[str]) -> bool:
    """Whether it is as one of them says; unlike fnmatch's own, * takes no slash."""
    return any(fnmatchcase(path, each) and path.count("/") == each.count("/") for each in patterns)


def app_text(name: str, names: Sequence[str] = ()) -> str:
    """app.py of the page `name`; of the suite, with these models."""
    call = f'build_demo("{name}")' if name != SUITE else f"build_suite([{', '.join(json.dumps(n) for n in names)}])"
    about = f"The demo of the model `{name}`" if name != SUITE else "Several demos behind one door"
    how = "python app.py" if name == SUITE else "DEMO_MODEL=RUN_OR_REPO_ID python app.py"
    return f'''\
"""{about}: labels, results and limits come from the model's own folder.

{how}
"""

from hub_utils.portable.demo import {call.partition("(")[0]}

demo = {call}

if __name__ == "__main__":
    demo.launch()
'''


@cache
def needed() -> tuple[Path, ...]:
    """The page's code: what demo.py imports, directly or not, with the styles and scripts beside it."""
    looks = [path for path in PORTABLE.iterdir() if path.suffix in (".css", ".js")]
    return tuple(sorted({*code_of("hub_utils.portable.demo"), *looks}))


def code_of(module: str) -> set[Path]:
    """The files of a module and of what it imports of ours, directly or not."""
    found, todo = set(), [module]
    while todo:
        parts = todo.pop().split(".")
        for path in (ROOT.joinpath(*parts).with_suffix(".py"), ROOT.joinpath(*parts, "__init__.py")):
            if path.is_file() and path not in found:
                found |= {path, *(ROOT.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts)))}
                todo += _imports(path)
    return found


def _imports(path: Path) -> Iterator[str]:
    """Full names of what of ours a file imports, inside functions too; `from a import b` may mean a module a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.startswith("hub_utils."))


def requirements(models: Sequence[Model]) -> list[str]:
    """What pip must install, a line each, in the versions that are installed here.

    PyPI knows no +cpu: that is another index's build of the same version.
    """
    names = SLIM if all(model.slim for model in models) else LARGE
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


def readme(name: str, models: Sequence[Model], credit: str = "") -> str:
    """README.md: front matter from which the Hub makes the Space, and the text that visitors of its repo read."""
    from huggingface_hub import SpaceCard

    if name == SUITE or is_ours(models[0], name):
        card = SpaceCard((SPACES / name / "README.md").read_text(encoding="utf-8"))
        facts, text = card.data.to_dict(), card.text.strip()
    else:
        facts, text = _of_a_stranger(models[0])
    if name == SUITE and {model.name for model in models if is_ours(model, model.name)} != set(names()):
        facts["short_description"] = f"Image classifiers behind one door: {len(models)}"
    facts |= {"sdk_version": version("gradio")}
    on_hub = [model for model in models if model.repo_id]
    if on_hub:
        facts["models"] = list(dict.fromkeys(model.repo_id for model in on_hub))
        facts |= (
            {"preload_from_hub": lines} if (lines := [_preload(each) for each in on_hub if not each.private]) else {}
        )
    card = SpaceCard("---\n{}\n---\n", ignore_metadata_errors=True)
    card.data = type(card.data)(**facts, ignore_metadata_errors=True)
    card.text = "\n" + "\n\n".join(filter(None, [text, credit.strip(), _origin(on_hub)])) + "\n"
    return str(card)


def names() -> list[str]:
    """The folders of spaces/, one a data set."""
    return sorted(path.parent.name for path in SPACES.glob("*/app.py") if path.parent.name != SUITE)


def is_ours(model: Model, name: str) -> bool:
    """Whether the model is of the data set that spaces/`name` tells of: anybody's may be called so.

    Its files say by which recipe, or variant of it, it was trained, and how many classes that data set has.
    """
    if name not in names():
        return False
    trained_by, data = str(model.recipe.get("name", "")), model.recipe.get("data", {})
    return f"{trained_by}_".startswith(f"{name}_") and data.get("classes") == len(model.classes)


def _of_a_stranger(model: Model) -> tuple[dict[str, Any], str]:
    """Front matter and text of a page that has no folder under spaces/, from what the run says."""
    labels = model.classes
    title = one_line(model.recipe.get("title") or model.name)[:100]
    facts = {"title": title, "emoji": "🔎", "colorFrom": "green", "colorTo": "blue", "sdk": "gradio"}
    facts |= {"python_version": PYTHON, "app_file": "app.py", "pinned": False, "license": "apache-2.0"}
    facts["short_description"] = (
        f"A picture in, one of {len(labels)} classes out" if labels else "A picture in, a class out"
    )
    text = "A picture, and which class it is of: drop it, paste it or take it with the phone."
    if labels:
        shown = ", ".join(one_line(label) for label in labels[:MOST_CLASSES])
        text += f"\n\nClasses: {shown}{', …' if len(labels) > MOST_CLASSES else ''}."
    if model.recipe.get("card", {}).get("medical"):
        text += "\n\n**For research and teaching only: this is no medical device, and no diagnosis.**"
    return facts, text


def _preload(model: Model) -> str:
    """A line of `preload_from_hub`: the repo, its files and the commit, as the Hub's configuration reference has it."""
    wanted = READ if model.slim else (*READ, "*.safetensors", "*.bin")
    files = [path for path in sorted(model.files) if _fits(path, wanted) and re.fullmatch(r"[\w./-]+", path)]
    return f"{model.repo_id} {','.join(files)} {model.revision}"


def _origin(models: Sequence[Model]) -> str:
    """Which models are shown."""
    lines = [f"- [`{each.repo_id}`](https://huggingface.co/{each.repo_id}/tree/{each.revision})" for each in models]
    return "\n".join(["Models, as of the commits that the links name:", "", *lines]) if lines else ""


def check_replaceable(folder: Path) -> None:
    """Refuse a folder that is no bundle: what lies in it would be lost.

    Raises:
        UserError: it holds something else, or is no folder.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise UserError(f"'{folder}' is no folder; --output DIR names another place for the bundle")
    there = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    kept = {name: FOLDERS if path.is_dir() else (*MAY_GO, *COMPILED) for name, path in there.items()}
    foreign = sorted(
        (name for name, each in kept.items() if not _fits(name, each)), key=lambda name: there[name].is_dir()
    )
    if foreign or (there and MARK not in there):
        raise UserError(
            f"'{folder}' holds {[*foreign, *there][0]}, which is of no bundle, and would be lost; --output DIR names "
            "another place, or move it away"
        )


def as_name(text: str) -> str:
    """What the Hub, and every system, takes as a name: letters without accents, digits, _ and single hyphens."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"\W+", "-", plain).strip("-")


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the bundle to `folder`, in place of one that may be there: all of it or nothing.

    Raises:
        UserError: something else is there, or it cannot be written.
    """
    check_replaceable(folder)
    try:
        with whole_folder(folder) as new:
            for path, content in files.items():
                write_bytes(content, new / path)
    except OSError as error:
        raise UserError(
            f"'{folder}' cannot be written ({error.strerror or error}); --output DIR names another place"
        ) from error
