"""A Space from a model: bundled, tried out by starting it alone, and put on the Hub.

python -m hub_utils.space NAME_OR_RUN [--model NS/NAME] [--push] [--public]
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hub_utils.bundle import MARK, SPACES, SUITE, Model, check_replaceable, contents, may_go, write
from hub_utils.portable.command import Parser, UserError, run_command
from hub_utils.portable.hub import account, full_name, in_words
from hub_utils.portable.repo import Repo, changed, commit, find_repo, set_patience
from hub_utils.wanted import Wanted, find, models_of, pushed, run_of

USAGE = (
    "python -m hub_utils.space NAME_OR_RUN [--model [NAME=]NS/NAME]... [--revision REVISION] [--output DIR]\n"
    "                                 [--examples N] [--i_have_the_right] [--clean] [--no_check]\n"
    "                                 [--push] [--repo_id NS/NAME] [--public] [--hardware NAME]\n"
    "                                 [--variable NAME=VALUE]... [--secret NAME]... [--replace_changes]"
)
EPILOG = """\
examples:
  python -m hub_utils.space digits                             bundles/digits, tried out; nobody is asked
  python -m hub_utils.space digits --push                      to YOU/digits, which only you can see
  python -m hub_utils.space flowers --model you/flowers --push --public
  python -m hub_utils.space suite --push                       every run that is here, behind one door
  python -m hub_utils.space suite --model digits=you/digits --model birds=you/birds
  python -m hub_utils.space runs/birds --examples 12           a model of your own needs no folder under spaces/

A bundle is the exact folder that a Space will be: app.py, the page's code, requirements, README.md, model.json,
examples. It is tried out by starting it alone, with what it requires and nothing else, and asking /predict.
A Space shows a model of the Hub, at one commit: python -m hub_utils.push RUN puts it there. One that is private needs
--secret HF_TOKEN. Accounts that do not pay may host two Gradio Spaces, with --hardware zero-a10g.
The token is that of `hf auth login`, or HF_TOKEN.
"""
MESSAGE = "The page and its model, as hub_utils.space bundled them"
READ_ONLY = "https://huggingface.co/settings/tokens"


def parser() -> Parser:
    result = Parser(usage=USAGE, description="Make a Space, a demo page on the Hub, of a model.", epilog=EPILOG)
    result.add_argument(
        "wanted", metavar="NAME_OR_RUN", help="a folder of spaces/, suite, a run of your own, or a model's repo id"
    )
    result.add_argument(
        "--model",
        metavar="[NAME=]NS/NAME",
        action="append",
        default=[],
        help="the model's repo, if not that of runs/NAME; of the suite several",
    )
    result.add_argument("--revision", metavar="REVISION", help="commit, tag or branch of the model (default: main)")
    result.add_argument("--output", metavar="DIR", type=Path, help="where the bundle goes (default: bundles/NAME)")
    result.add_argument("--examples", metavar="N", type=int, help="take N pictures of the run's test split")
    result.add_argument(
        "--i_have_the_right",
        action="store_true",
        help="you may pass the examples on, whatever is known of their licence",
    )
    result.add_argument("--clean", action="store_true", help="try it out in an environment that pip makes for it")
    result.add_argument("--no_check", action="store_true", help="do not try it out")
    result.add_argument("--push", action="store_true", help="put it on the Hub, and wait until it runs")
    result.add_argument(
        "--repo_id", metavar="NS/NAME", help="where to; NS is you and NAME the page's if nothing is said"
    )
    result.add_argument("--public", action="store_true", help="a new Space is for all to see, not for you alone")
    result.add_argument(
        "--hardware", metavar="NAME", help="as zero-a10g or cpu-basic; the Hub chooses if nothing is said"
    )
    result.add_argument("--variable", metavar="NAME=VALUE", action="append", default=[], help="an environment variable")
    result.add_argument(
        "--secret",
        metavar="NAME",
        action="append",
        default=[],
        help="an environment variable, kept secret, as it is here",
    )
    result.add_argument(
        "--replace_changes", action="store_true", help="replace what somebody changed in the Space on the Hub"
    )
    return result


def main(tokens: list[str]) -> int:
    """Run the command; the exit status."""
    known = parser().parse_args(tokens)
    wanted = find(known.wanted, known.model, known.revision)
    output = known.output or Path("bundles", wanted.name)
    check_replaceable(output)
    only_pushed = {"repo_id": "--repo_id", "hardware": "--hardware", "variable": "--variable", "secret": "--secret"}
    for name, flag in only_pushed.items():
        if getattr(known, name) and not known.push:
            raise UserError(f"{flag} is for a Space on the Hub: add --push")
    options = Options(known.examples, known.public, known.i_have_the_right, known.clean, not known.no_check)
    if known.push:
        variables, secrets = variables_of(known.variable), secrets_of(known.secret)
        target = Target(known.repo_id, known.public, known.hardware, variables, secrets, known.replace_changes)
        push(wanted, output, options, target)
    else:
        bundle(wanted, output, options)
        print(f"next       {shlex.join(['python', '-m', 'hub_utils.space', *tokens, '--push'])}")
    return 0


@dataclass(frozen=True)
class Options:
    """How a bundle is made and tried out."""

    examples: int | None = None
    public: bool = False
    have_the_right: bool = False
    clean: bool = False
    check: bool = True


@dataclass(frozen=True)
class Target:
    """The Space that a bundle is pushed to."""

    repo_id: str | None = None
    public: bool = False
    hardware: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    replace_changes: bool = False


def variables_of(words: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE, several times."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise UserError(f"--variable {word}: NAME=VALUE is wanted, as DEMO_FEEDBACK=you/feedback")
        found[name] = value
    return found


def secrets_of(words: Sequence[str]) -> dict[str, str]:
    """The values of these environment variables, which stand in no command; HF_TOKEN may be that of `hf auth login`."""
    from huggingface_hub import get_token

    found = {}
    for name in words:
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise UserError("--secret takes a NAME, and the value from the environment variable of that name")
        value = os.environ.get(name) or (get_token() if name == "HF_TOKEN" else None)
        if not value:
            raise UserError(f"--secret {name}: there is no environment variable {name}; set it first")
        found[name] = value
    return found


# Bundling


def bundle(wanted: Wanted, output: Path, options: Options, say: Callable[[str], None] = print) -> None:
    """Write the bundle into the folder `output`, and try it out.

    Raises:
        UserError: it cannot be made, or does not answer as it should.
    """
    models = models_of(wanted)
    make(wanted, models, output, options, say)
    found = all(model.repo_id or model.run == run_of(model.name) for model in models)  # by the page itself
    choice = "" if found else f"DEMO_MODEL={shlex.quote(models[0].place)} "
    say(f"look       {choice}{shlex.join(['python', str(output / 'app.py')])}")


def make(
    wanted: Wanted, models: Sequence[Model], output: Path, options: Options, say: Callable[[str], None]
) -> dict[str, bytes]:
    """The bundle's files, which are searched for secrets, written to `output`, and tried out."""
    from huggingface_hub import get_token

    from hub_utils.scan import scan

    examples, credit = _examples(wanted, models, options)
    files = contents(wanted.name, models, examples, credit)
    for run in {model.run or output for model in models}:
        found = scan(files, run, get_token())
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise UserError(
                f"nothing was written, for what must stay here was found in {'; '.join(map(str, found[:3]))}{more}"
            )
    write(files, output)
    size = sum(map(len, files.values()))
    slim = "without torch" if all(model.slim for model in models) else "with torch, for a model has no ONNX file"
    say(f"bundled    {output}: {len(files)} files, {size / 1e3:,.0f} kB, {slim}")
    for model in models:
        say(f"model      {model.name}: {model.place}{f' at {model.revision}' if model.revision else ''}")
    if options.check:
        _check(files, models, options.clean, say)
    return files


def _examples(wanted: Wanted, models: Sequence[Model], options: Options) -> tuple[dict[str, bytes], str]:
    """The files below examples/, and where they come from: of the folder under spaces/, or of a run's test split."""
    from hub_utils.examples import take_examples

    if options.examples is None:
        folders = [f"{model.name}/" for model in models] if wanted.name == SUITE else [""]
        return {f"{each}{path.name}": path.read_bytes() for each in folders for path in _kept(each or wanted.name)}, ""
    if wanted.name == SUITE:
        raise UserError("--examples is for the page of one model; leave it out")
    if not models[0].run:
        raise UserError(f"--examples wants a run, whose test split is known: there is none in runs/{wanted.name}")
    found = take_examples(models[0].run, options.examples, options.public, options.have_the_right)
    return found.files, found.credit


def _kept(name: str) -> list[Path]:
    """The examples that lie in spaces/NAME."""
    folder = SPACES / name / "examples"
    return sorted(path for path in folder.glob("*") if may_go(f"examples/{path.name}"))


def _check(files: Mapping[str, bytes], models: Sequence[Model], clean: bool, say: Callable[[str], None]) -> None:
    from hub_utils.clean_start import start_and_ask

    seen = start_and_ask(files, models, clean, say)
    say(
        f"checked    started alone, first answer after {seen.seconds:.1f} s, {seen.memory / 1e6:,.0f} MB of memory; "
        f"{seen.answers} answers, within {seen.deviation:.1g} of those given here"
    )


# On the Hub


def push(wanted: Wanted, output: Path, options: Options, target: Target, say: Callable[[str], None] = print) -> str:
    """Bundle, try out, and put the bundle on the Hub in one commit; wait until it runs, and return the commit's hash.

    Raises:
        UserError: something forbids it, or fails; it says what is on the Hub now.
    """
    from hub_utils.running import make_space, set_up, wait

    set_patience()
    who = account(state="nothing has changed on the Hub")
    repo = find_repo(full_name(target.repo_id, wanted.name, who), who, "space", target.public)
    models = [model if model.repo_id else pushed(model, who) for model in models_of(wanted)]
    _check_seen(models, repo, target)
    _warn_of_token(target.secrets, say)
    files = make(wanted, models, output, options, say)
    _look(repo, files, target.replace_changes)
    new = changed(files, repo)
    was_there = repo.info is not None
    repo = make_space(repo, target.hardware)
    for done in set_up(repo, target.variables, target.secrets, target.hardware if was_there else None):
        say(f"set        {done}")
    sha = repo.head
    if new:
        size = sum(map(len, new.values()))
        say(f"pushing    {len(new)} file{'s' * (len(new) > 1)}, {size / 1e3:,.0f} kB, to {repo.url}")
        sha = commit(repo, new, MESSAGE)
    say(f"changed    {', '.join(new) or 'nothing: the Hub has all of this already, and no commit was made'}")
    wait(repo, sha, bool(new), say)
    say(f"runs       {repo.url}, {'for all to see' if repo.public else 'for you alone'}")
    return sha


def _warn_of_token(secrets: Mapping[str, str], say: Callable[[str], None]) -> None:
    from huggingface_hub import get_token

    if secrets.get("HF_TOKEN") == get_token():
        say(
            "warning    --secret HF_TOKEN gives the Space the token that you push with, which may write: one that may "
            f"only read the model is enough ({READ_ONLY})"
        )


def _check_seen(models: Sequence[Model], repo: Repo, target: Target) -> None:
    """Refuse a page that could not load its model: a Space has no token unless it is given one."""
    from hub_utils.running import has_secret

    private = [model.repo_id for model in models if model.private]
    if private and "HF_TOKEN" not in target.secrets and not has_secret(repo, "HF_TOKEN"):
        raise UserError(
            f"'{private[0]}' is private, and a Space cannot read it without a token: --secret HF_TOKEN gives it yours "
            f"(one that may only read the model is enough, {READ_ONLY}), or make the model public in its settings"
        )


def _look(repo: Repo, files: Mapping[str, bytes], replace_changes: bool) -> None:
    """Refuse a Space that holds what is not ours, or what somebody changed there."""
    from huggingface_hub import HfApi

    there = {path: file for path, file in repo.files.items() if path != "README.md"}
    elsewhere = "--repo_id OWNER/NAME for another Space"
    if there and MARK not in there:
        raise UserError(f"'{repo.repo_id}' is a Space that was not made here ({sorted(there)[0]}); {elsewhere}")
    stale = sorted(path for path in there if path.startswith("examples/") and path not in files)
    if stale:
        raise UserError(
            f"'{repo.repo_id}' has {', '.join(stale[:3])}{', …' * (len(stale) > 3)}, which this bundle has not, and "
            f"which its page would show; nothing is ever deleted from here: delete them on {repo.url}/tree/main, or "
            f"{elsewhere}"
        )
    if not there or replace_changes or not changed(files, repo):
        return
    with in_words(f"the commits of '{repo.repo_id}'", state="nothing has changed on the Hub"):
        last = HfApi().list_repo_commits(repo.repo_id, repo_type="space")[0]
    if last.title != MESSAGE:
        raise UserError(
            f"somebody changed '{repo.repo_id}' on the Hub since ('{last.title}', {repo.url}/commits/main), and this "
            f"push would replace it: --replace_changes says that it may, or {elsewhere}"
        )


if __name__ == "__main__":
    sys.exit(
        run_command(
            main,
            "a bundle is written whole or not at all, a commit is on the Hub whole or not at all, and the same command "
            "makes sure of both",
        )
    )
