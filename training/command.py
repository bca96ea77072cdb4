"""The commands of training: `hub_utils.portable.command` with the error that recipes know, and what they are given."""

from collections.abc import Callable
from pathlib import Path

from hub_utils.portable import command
from training.recipe import Recipe, UserError, load_recipe, recipe_names


class Parser(command.Parser):
    """See there."""

    wrong = UserError


def run_command(main: Callable[[list[str]], int], interrupted: str) -> int:
    """See there."""
    return command.run_command(main, interrupted, UserError)


def add_recipe_or_images(parser: Parser) -> None:
    """Let a command take RECIPE_OR_DIR and --data_dir, which `recipe_or_images` understands."""
    names = ", ".join(recipe_names())
    parser.add_argument(
        "recipe", metavar="RECIPE_OR_DIR", help=f"{names}, your own .py file; or a folder, archive or table"
    )
    parser.add_argument(
        "--data_dir",
        metavar="PATH",
        nargs="+",
        action="extend",
        help="the recipe's images: folders, an archive or a table, as for train.py (default: data/RECIPE)",
    )


def recipe_or_images(word: str, data_dir: list[str] | None) -> tuple[Recipe, str, list[str] | None]:
    """What RECIPE_OR_DIR and --data_dir mean: a recipe, a name for what is made of it, and where the images lie.

    Raises:
        UserError: it is neither.
    """
    if word in recipe_names() or word.endswith(".py"):
        if Path(word).is_dir() and data_dir != [word]:
            print(f"note       '{word}' is a recipe and a folder here; the recipe is meant, {Path('.', word)}/ is not")
        recipe = load_recipe(word)
        return recipe, recipe.name, data_dir
    if Path(word).exists():
        if data_dir:
            more = " ".join(data_dir)
            raise UserError(f"'{word}' is where images lie, so --data_dir {more} is one too many; give one of them")
        return load_recipe("folder"), Path(word).resolve().stem or "data", [word]
    try:
        load_recipe(word)
    except UserError as error:
        raise UserError(f"no folder '{word}', and {error}") from None
    raise UserError(f"no folder '{word}'")
