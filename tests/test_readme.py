"""The README's commands: every one names a recipe or a folder, and flags that are understood."""

import re
import shlex

from conftest import ROOT

from hub_utils import cloud, jobs, push, space, verify
from training import browse, data_report, download, predict, push_dataset, rocks_similarity, search, train
from training import eval as evaluation
from training.fitting.flags import parse_flags
from training.recipe import load_recipe, recipe_names

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands_of(script: str) -> list[list[str]]:
    """What follows the script in each command of the README's code blocks and of the recipes' docstrings."""
    blocks = re.findall(r"```(?:bash|sh|python|powershell)\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    for name in recipe_names():
        lines += (ROOT / "training" / "recipes" / f"{name}.py").read_text(encoding="utf-8").splitlines()
    return [shlex.split(line.split(script)[1], comments=True) for line in lines if script in line]


def test_every_training_command_can_be_typed():
    commands = commands_of("training/train.py ")
    assert len(commands) == 37
    for words in commands:
        known, flags = train.parser().parse_known_args(words)
        recipe = load_recipe("folder" if known.recipe == "my_recipe.py" else known.recipe)
        parse_flags(flags, recipe)


def test_every_search_can_be_typed():
    commands = commands_of("training/search.py ")
    assert len(commands) == 1
    for words in commands:
        known, flags = search.parser().parse_known_args(words)
        parse_flags(flags, load_recipe(known.recipe))


def test_every_command_about_data_can_be_typed():
    reports, downloads = commands_of("training/data_report.py "), commands_of("training/download.py ")
    assert (len(reports), len(downloads)) == (3, 2)
    assert [data_report.parser().parse_args(words).recipe for words in reports] == ["my_photos", "flowers", "scans"]
    for words in downloads:
        load_recipe(download.parser().parse_args(words).recipe)


def test_every_command_about_a_run_can_be_typed():
    scripts = {"eval": evaluation, "browse": browse, "predict": predict, "rocks_similarity": rocks_similarity}
    commands = {name: commands_of(f"training/{name}.py ") for name in scripts}
    assert {name: len(found) for name, found in commands.items()} == {
        "eval": 3, "browse": 1, "predict": 1, "rocks_similarity": 1,
    }  # fmt: skip
    for name, found in commands.items():
        for words in found:
            scripts[name].parser().parse_args(words)


def test_every_command_about_the_hub_can_be_typed():
    scripts = {"hub_utils.push ": push, "hub_utils.verify ": verify, "training/push_dataset.py ": push_dataset}
    scripts |= {"hub_utils.jobs ": jobs, "hub_utils.space ": space, "hub_utils.cloud ": cloud}
    commands = {name: commands_of(name) for name in scripts}
    assert [len(found) for found in commands.values()] == [2, 1, 2, 2, 4, 2]
    for name, found in commands.items():
        for words in found:
            scripts[name].parser().parse_args(words)


def test_the_first_screen_is_one_sentence_and_two_commands():
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    assert blocks[0].rstrip().endswith("accelerate launch -q training/train.py digits")
    assert blocks[1].rstrip().endswith("pytest")
    assert all(block.startswith("python3 -m venv .venv") for block in blocks)


def test_every_recipe_stands_in_the_table():
    table = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert sorted(table) == recipe_names()


def test_every_page_that_is_named_is_there():
    names = re.findall(r"python spaces/(\w+)/app\.py", README)
    assert names == ["digits", "flowers", "suite"]
    assert all((ROOT / "spaces" / name / "app.py").is_file() for name in names)


def test_every_picture_is_there():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert len(pictures) == 3
    assert all((ROOT / path).is_file() for path in pictures)
