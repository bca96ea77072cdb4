"""A Space from a model: bundled, tried out by starting it alone, and put on the Hub.

python -m hub_utils.space NAME_OR_RUN [--model NS/NAME] [--push] [--public]
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from hub_utils.bundle import SPACES, SUITE, Model, check_replaceable, contents, is_ours, may_go, write
from hub_utils.portable.command import Parser, UserError, run_command
from hub_utils.portable.hub import account, full_name
from hub_utils.portable.repo import Repo, changed, commit, find_repo
from hub_utils.portable.tokens import without_token
from hub_utils.replaced import MESSAGE, UNCHANGED, check_there
from hub_utils.wanted import Wanted, find, models_of, pushed

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
  python -m hub_utils.space flowers --push --variable DEMO_PRECISION=int8      what eval.py --int8 made answers
  python -m hub_utils.space suite --push                       every run that is here, behind one door
  python -m hub_utils.space suite --model digits=you/digits --model birds=you/birds
  python -m hub_utils.space runs/birds --examples 12           a model of your own needs no folder under spaces/

A bundle is the exact folder that a Space will be: app.py, the page's code, requirements, README.md, model.json,
examples. It is tried out by starting it alone, with what it requires and nothing else, and asking /predict.
A Space shows a model of the Hub, at one commit: python -m hub_utils.push RUN puts it there. One that is private needs
--secret HF_TOKEN. Accounts that do not pay may host two Gradio Spaces, with --hardware zero-a10g.
Pushed again, only what changed is sent. Nothing is ever deleted on the Hub: where a Space has examples that the new
bundle has not, the push stops and says the command that deletes them.
The token is that of `hf auth login`, or HF_TOKEN.
"""
PUSHED = ("repo_id", "hardware", "variable", "secret", "replace_changes")  # flags of a Space on the Hub
FEW = 6  # files that are named
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
    result.add_argument("--output", metavar="DIR", help="where the bundle goes (default: bundles/NAME)")
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
    """Run the command; the exit status. Whatever is printed, no token stands in it."""
    try:
        known = parser().parse_args(tokens)
        _check_words(known)
        wanted = find(known.wanted, known.model, known.revision)
        output = Path(known.output) if known.output else Path("bundles", wanted.name)
        check_replaceable(output)
        options = Options(known.examples, known.public, known.i_have_the_right, known.clean, not known.no_check)
        if known.push:
            variables, secrets = variables_of(known.variable), secrets_of(known.secret)
            both = sorted(variables.keys() & secrets.keys())
            if both:
                raise UserError(f"--variable {both[0]} and --secret {both[0]}: a name is of one of them; leave one out")
            target = Target(known.repo_id, known.public, known.hardware, variables, secrets, known.replace_changes)
            push(wanted, output, options, target, _say)
        else:
            bundle(wanted, output, options, _say)
            _say(f"next       {shlex.join(['python', '-m', 'hub_utils.space', *tokens, '--push'])}")
    except UserError as error:
        raise UserError(without_token(str(error))) from error
    return 0


def _say(line: str) -> None:
    print(without_token(line))


def _check_words(known: Namespace) -> None:
    """Refuse what says nothing, or would act on nothing."""
    given = {name: value for name, value in vars(known).items() if value not in (None, False, [])}
    for name, value in given.items():
        if "" in ([value] if isinstance(value, str) else value if isinstance(value, list) else []):
            raise UserError(f"{'NAME_OR_RUN' if name == 'wanted' else f'--{name}'} is empty; leave it out, or say what")
        if name in PUSHED and not known.push:
            raise UserError(f"--{name} is for a Space on the Hub: add --push")
    if known.public and not (known.push or known.examples):
        raise UserError("--public is for a Space on the Hub, and for pictures that are to go there: add --push")
    if known.i_have_the_right and known.examples is None:
        raise UserError("--i_have_the_right is for pictures that are taken of a run: add --examples N")
    if known.clean and known.no_check:
        raise UserError("--clean is a way to try the bundle out, and --no_check says not to; leave one of them out")


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
    """NAME=VALUE, several times; none that looks like a secret: whoever sees a Space reads its variables."""
    from huggingface_hub import get_token

    from hub_utils.scan import SECRETS

    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if value == get_token() or any(re.search(pattern, word) for pattern in SECRETS.values()):
            raise UserError(
                "--variable NAME=VALUE: this value looks like a token or a password, and whoever sees the Space reads "
                "its variables; --secret NAME hands on the environment variable of that name, and keeps it secret"
            )
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise UserError(f"--variable {word}: NAME=VALUE is wanted, as DEMO_FEEDBACK=you/feedback")
        if name in found:
            raise UserError(f"--variable {name} is there twice; leave one of them out")
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
    say(f"look       {_look(models, output)}")


def _look(models: Sequence[Model], output: Path) -> str:
    """The command that shows the page here. What is only on this machine is in no bundle, so that its place is said."""
    if all(model.repo_id for model in models):  # in another folder it may find a run of this name
        return f"cd {shlex.quote(str(output))} && python app.py"
    start = shlex.join(["python", str(output / "app.py")])
    return start if len(models) > 1 else f"DEMO_MODEL={shlex.quote(str(models[0].run.resolve()))} {start}"


def make(
    wanted: Wanted,
    models: Sequence[Model],
    output: Path,
    options: Options,
    say: Callable[[str], None],
    variables: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, bytes]:
    """The bundle's files, which are searched for secrets, tried out with `variables`, and written to `output`."""
    examples, credit = _examples(wanted, models, options)
    files = contents(wanted.name, models, examples, credit)
    _search(files, models, [f"examples/{path}" for path in examples if options.examples is not None], output)
    if options.check:
        _check(files, models, options.clean, say, variables)
    write(files, output)
    size = sum(map(len, files.values()))
    slim = "without torch" if all(model.slim for model in models) else "with torch, for a model has no ONNX file"
    say(f"bundled    {output}: {len(files)} files, {size / 1e3:,.0f} kB, {slim}")
    for model in models:
        say(f"model      {model.name}: {model.place}{f' at {model.revision}' if model.revision else ''}")
    return files


def _search(files: Mapping[str, bytes], models: Sequence[Model], chosen: Sequence[str], output: Path) -> None:
    """Refuse a bundle with a token, a path or a name of the data sets in it.

    In our own code, and in the pixels of the pictures that were `chosen`, such a name stands by chance: a picture may
    be called camera.jpg. They are searched for tokens and paths alone.
    """
    from huggingface_hub import get_token

    from hub_utils.scan import scan

    own = {path: content for path, content in files.items() if path.startswith("hub_utils/") or path in chosen}
    others = {path: content for path, content in files.items() if path not in own}
    found = scan(own, output, get_token())
    for run in {model.run or output for model in models}:
        found += scan(others, run, get_token())
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(
            f"nothing was written, for what must stay here was found in {'; '.join(map(str, found[:3]))}{more}"
        )


def _examples(wanted: Wanted, models: Sequence[Model], options: Options) -> tuple[dict[str, bytes], str]:
    """The files below examples/, and where they come from: of the folder under spaces/, or of a run's test split."""
    from hub_utils.examples import take_examples

    if options.examples is None:
        names = [model.name if wanted.name == SUITE else wanted.name for model in models]
        ours = [name for name, model in zip(names, models, strict=True) if is_ours(model, name)]
        into = {name: f"{name}/" if wanted.name == SUITE else "" for name in ours}
        return {f"{into[name]}{path.name}": path.read_bytes() for name in ours for path in _kept(name)}, ""
    if wanted.name == SUITE:
        raise UserError("--examples is for the page of one model; leave it out")
    run = wanted.runs[models[0].name]
    if not run:
        raise UserError(f"--examples wants a run, whose test split is known: there is none in runs/{wanted.name}")
    if not models[0].run:
        raise UserError(
            f"--examples are pictures of '{run}', and '{models[0].repo_id}' holds other weights: it may have been "
            "trained on them; leave out --examples, or --model"
        )
    found = take_examples(run, options.examples, options.public, options.have_the_right)
    return found.files, found.credit


def _kept(name: str) -> list[Path]:
    """The examples that lie in spaces/NAME."""
    folder = SPACES / name / "examples"
    return sorted(path for path in folder.glob("*") if may_go(f"examples/{path.name}"))


def _check(
    files: Mapping[str, bytes],
    models: Sequence[Model],
    clean: bool,
    say: Callable[[str], None],
    variables: Mapping[str, str],
) -> None:
    from hub_utils.clean_start import start_and_ask

    seen = start_and_ask(files, models, clean, say, variables)
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

    who = account(state=UNCHANGED)
    repo = find_repo(full_name(target.repo_id, wanted.name, who), who, "space", target.public)
    models = models_of(wanted, UNCHANGED)
    _check_precision(models, target.variables)
    models = [model if model.repo_id else pushed(model, who) for model in models]
    _check_seen(models, repo, target)
    _warn_of_token(target.secrets, say)
    files = make(wanted, models, output, options, say, target.variables)
    check_there(repo, files, wanted.name, target.replace_changes)
    new = changed(files, repo)
    was_there = repo.info is not None
    repo = make_space(repo, target.hardware)
    done = set_up(repo, target.variables, target.secrets, target.hardware if was_there else None)
    for each in done:
        say(f"set        {each}")
    sha = repo.head
    if new:
        size = sum(map(len, new.values()))
        say(f"pushing    {len(new)} file{'s' * (len(new) > 1)}, {size / 1e3:,.0f} kB, to {repo.url}")
        sha = commit(repo, new, MESSAGE)
    nothing = "nothing: the Hub has all of this already, and no commit was made"
    say(f"changed    {f'{len(new)} files' if len(new) > FEW else ', '.join(new) or nothing}")
    stage, eyes = wait(repo, sha, bool(new), bool(done), say), "for all to see" if repo.public else "for you alone"
    say(f"runs       {repo.url}, {eyes}" if stage == "RUNNING" else f"sleeps     {repo.url}, {eyes}: a visit wakes it")
    return sha


def _check_precision(models: Sequence[Model], variables: Mapping[str, str]) -> None:
    """Refuse, while nothing is on the Hub, a page that is told to compute a model as it cannot be computed."""
    from hub_utils.portable.predictor import load_predictor
    from hub_utils.portable.served import precision_of

    if (precision := precision_of(variables)) == "auto":
        return
    for model in models:
        try:
            load_predictor(model.place, model.revision, precision)
        except UserError as error:
            raise UserError(f"--variable DEMO_PRECISION={precision}: {error}; {UNCHANGED}") from error


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


if __name__ == "__main__":
    sys.exit(
        run_command(
            main,
            "a bundle is written whole or not at all, a commit is on the Hub whole or not at all, and the same command "
            "makes sure of both",
        )
    )
