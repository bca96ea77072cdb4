"""Fetch a recipe's images from where they are published, into a folder that training finds.

python training/download.py RECIPE [--data_dir DIR]
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path

from hub_utils.portable.tokens import without_token
from training.command import Parser, run_command
from training.recipe import Recipe, UserError, load_recipe, recipe_names

USAGE = "python training/download.py RECIPE [--data_dir DIR] [--source SOURCE]"
EPILOG = """\
What was interrupted goes on where it stopped, with the same command. A folder that holds something is left alone.

who you are, where a source asks for it:
  KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY    https://www.kaggle.com/settings
  OSF_TOKEN                                              https://osf.io/settings/tokens
on the way: HTTPS_PROXY, REQUESTS_CA_BUNDLE; OSF_API_ENDPOINT for another server than https://api.osf.io/v2

examples:
  python training/download.py flowers
  python training/download.py rocks --data_dir /mnt/big/rocks
  python training/download.py flowers --source kaggle:alxmamaev/flowers-recognition
"""


def parser() -> Parser:
    """The command's flags."""
    result = Parser(
        usage=USAGE,
        description="Fetch the images of a recipe: shows their licence, downloads, checks, unpacks and counts them.",
        epilog=EPILOG,
    )
    result.add_argument("recipe", metavar="RECIPE", help=f"one of {', '.join(recipe_names())}; or your own .py file")
    result.add_argument("--data_dir", metavar="DIR", help="folder to write (default: data/RECIPE)")
    result.add_argument(
        "--source",
        metavar="SOURCE",
        help="take all of https://… (an archive), kaggle:OWNER/NAME or osf:NODE instead of what the recipe names",
    )
    return result


def main(tokens: list[str]) -> int:
    """Run the command; the exit status."""
    known = parser().parse_args(tokens)
    recipe = load_recipe(known.recipe)
    if known.source:
        data = dataclasses.replace(recipe.data, source=known.source, homepage=None, parts=())
        recipe = dataclasses.replace(recipe, data=data)
    folder = Path(known.data_dir or Path("data") / recipe.name)
    if recipe.data.source is None:
        raise UserError(
            f"recipe '{recipe.name}' names no source of images, they are yours; put one folder a class into a folder, "
            f"then accelerate launch -q training/train.py {known.recipe} --data_dir FOLDER"
        )
    introduce(recipe)

    # Only now, with the command understood, the libraries that take time to import.
    from training.data.fetch import count, fetch, tidy

    there = folder.is_dir() and any(folder.iterdir())
    if there:
        print(f"'{folder}' is there already and is left as it is")
        tidy(folder)
    else:
        fetch(recipe, folder)
    for line in count(recipe, folder):
        print(line)
    where = ["--data_dir", folder.as_posix()] if known.data_dir else []
    print(f"{'there' if there else 'wrote'}      {folder}")
    print(f"next       {shlex.join(['accelerate', 'launch', '-q', 'training/train.py', known.recipe, *where])}")
    return 0


def introduce(recipe: Recipe) -> None:
    """Whose images these are, and what may be done with them, before any of them comes."""
    home = f" ({recipe.data.homepage})" if recipe.data.homepage else ""
    print(f"title      {recipe.title}")
    print(without_token(f"source     {recipe.data.source}{home}"))
    print(f"licence    {recipe.card.data_license}")
    print(f"citation   {recipe.card.citation or 'none given'}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main, "the same command goes on where it stopped"))
