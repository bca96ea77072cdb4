"""The commands of training: `hub_utils.portable.command` with the error that recipes know."""

from collections.abc import Callable

from hub_utils.portable import command
from training.recipe import UserError


class Parser(command.Parser):
    """See there."""

    wrong = UserError


def run_command(main: Callable[[list[str]], int], interrupted: str) -> int:
    """See there."""
    return command.run_command(main, interrupted, UserError)
