"""What all commands share: how they are told what they should do, and how they say what went wrong."""

import argparse
import os
import sys
from collections.abc import Callable

from hub_utils.portable.tokens import keep_tokens_quiet, without_token

INTERRUPTED = 128 + 2  # as shells have it after SIGINT


class UserError(Exception):
    """Something a user can put right. Commands print it as one line, without a traceback, and exit with status 1."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, as everything else is said.

    The lines of `epilog` stay as they are, and no flag can be shortened.
    """

    wrong: type[Exception] = UserError

    def __init__(self, usage: str, description: str, epilog: str):
        how = argparse.RawDescriptionHelpFormatter
        super().__init__(usage=usage, description=description, epilog=epilog, formatter_class=how, allow_abbrev=False)

    def error(self, message: str) -> None:
        raise self.wrong(f"{message}; --help shows how it goes")


def run_command(command: Callable[[list[str]], int], interrupted: str, wrong: type[Exception] = UserError) -> int:
    """Run a command's `main` on what was typed; the exit status.

    What a user can put right, a `wrong`, is one line on standard error and status 1. After Ctrl-C the status is 130 and
    `interrupted` says what it leaves behind; an interruption with words or a `status` of its own keeps them.
    """
    status = 1
    keep_tokens_quiet()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        return command(sys.argv[1:])
    except wrong as error:
        message = str(error)
        if isinstance(error.__cause__, KeyboardInterrupt):
            status = INTERRUPTED
    except BrokenPipeError:  # whoever read what we print has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        message = str(error) or f"interrupted; {interrupted}"
        status = getattr(error, "status", INTERRUPTED)
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"error: {without_token(message)}", file=sys.stderr)
    return status
