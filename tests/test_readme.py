"""The README's commands: every one that trains names a recipe that exists and flags that are understood."""

import re
import shlex

from conftest import ROOT

from training.fitting.flags import parse_flags
from training.recipe import load_recipe, recipe_names
from training.train import parser

README = (ROOT / "README.md").read_text(encoding="utf-8")


def training_commands() -> list[list[str]]:
    """What follows `training/train.py` in each command of the README's code blocks and of the recipes' docstrings."""
    blocks = re.findall(r"```(?:bash|sh|python|powershell)\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    for name in recipe_names():
        lines += (ROOT / "training" / "recipes" / f"{name}.py").read_text(encoding="utf-8").splitlines()
    return [
        shlex.split(line.split("training/train.py ")[1], comments=True)
        for line in lines
        if "training/train.py " in line
    ]


def test_every_training_command_can_be_typed():
    commands = training_commands()
    assert len(commands) == 20
    for words in commands:
        known, flags = parser().parse_known_args(words)
        recipe = load_recipe("folder" if known.recipe == "my_recipe.py" else known.recipe)
        parse_flags(flags, recipe)


def test_the_first_screen_is_one_sentence_and_two_commands():
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    assert blocks[0].rstrip().endswith("accelerate launch -q training/train.py digits")
    assert blocks[1].rstrip().endswith("pytest")
    assert all(block.startswith("python3 -m venv .venv") for block in blocks)


def test_every_recipe_stands_in_the_table():
    table = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert sorted(table) == recipe_names()
