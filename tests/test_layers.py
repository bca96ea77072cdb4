"""Who may import whom: the table of layers as data, held against every import in every file."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from conftest import ROOT

from training.recipe import recipe_names

# Files, in the order of the first that fits: what they may import of ours, and the least number of files there are.
LAYERS = {
    "hub_utils/portable/modeling_*.py": ([], 1),
    "hub_utils/portable/demo.py": (["hub_utils.portable", "spaces"], 1),  # ZeroGPU's package is called `spaces`, too
    "hub_utils/portable/*.py": (["hub_utils.portable"], 1),
    "hub_utils/*.py": (["hub_utils"], 2),
    "training/recipe.py": ([], 1),
    "training/recipes/*.py": (["training.recipe", "training.recipes"], 11),
    "training/*.py": (["training", "hub_utils.export", "hub_utils.card", "hub_utils.portable"], 20),
    "spaces/*/app.py": (["hub_utils.portable.demo"], 7),
}
OURS = ("training", "hub_utils", "tests")  # `spaces` is ZeroGPU's helper: our folder of that name is no package


def files() -> Iterator[tuple[str, str]]:
    """Every Python file of the layers, and the row of the table it belongs to."""
    for folder in ("hub_utils", "training", "spaces"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            yield name, next((row for row in LAYERS if fnmatchcase(name, row)), "no row")


def imports(name: str) -> Iterator[str]:
    """Full names of all that a file imports, inside functions too; `from a import b` may mean a module a.b."""
    package = name.split("/")[:-1]
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_below(name: str, parts: list[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


@pytest.mark.parametrize("row", LAYERS)
def test_each_part_imports_only_what_its_layer_may(row):
    allowed, least = LAYERS[row]
    members = [name for name, its_row in files() if its_row == row]
    assert len(members) >= least
    found = {name: [each for each in imports(name) if is_below(each, list(OURS))] for name in members}
    forbidden = {name: [each for each in ours if not is_below(each, allowed)] for name, ours in found.items()}
    assert not {name: names for name, names in forbidden.items() if names}


def test_every_file_has_a_row_in_the_table():
    assert [name for name, row in files() if row == "no row" and not name.startswith("spaces/")] == []


@pytest.mark.parametrize("row", ["training/recipe.py", "training/recipes/*.py"])
def test_recipes_are_written_with_the_standard_library_alone(row):
    roots = {each.split(".")[0] for name, its_row in files() if its_row == row for each in imports(name)}
    assert roots <= sys.stdlib_module_names | {"training"}


def test_no_module_is_imported_by_a_name_put_together_at_run_time():
    """The walk above sees import statements only; `load_recipe` is the one place that needs more."""
    dynamic = [name for name, _ in files() if "importlib.import_module" in (ROOT / name).read_text(encoding="utf-8")]
    assert dynamic == ["training/recipe.py"]


def test_listing_and_loading_every_recipe_imports_no_library():
    code = (
        "import json, sys\n"
        "from training.recipe import load_recipe, recipe_names\n"
        "names = [load_recipe(name).name for name in recipe_names()]\n"
        "heavy = {'torch', 'torchvision', 'transformers', 'timm', 'datasets', 'numpy', 'PIL', 'huggingface_hub'}\n"
        "print(json.dumps([names, sorted(heavy & sys.modules.keys())]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == [recipe_names(), []]


def test_the_packages_that_are_copied_to_a_space_run_nothing_when_imported():
    assert [(ROOT / name).read_text() for name in ("hub_utils/__init__.py", "hub_utils/portable/__init__.py")] == [
        "",
        "",
    ]


def test_spaces_is_a_folder_and_no_package_so_that_zerogpus_helper_of_that_name_is_found():
    assert not list(Path(ROOT, "spaces").glob("**/__init__.py"))
