"""Train on a machine of the Hub's: the code goes there as a wheel, and the run comes back as a repo.

python -m hub_utils.jobs RECIPE --dataset REPO_ID [--flavor a10g-small] [any flag of train.py]
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from tqdm import tqdm

from hub_utils.portable.command import Parser, UserError, run_command
from hub_utils.portable.hub import Account, account, full_name, in_words
from hub_utils.portable.repo import Repo, changed, commit, find_repo, info_of, make_repo
from hub_utils.portable.tokens import without_token
from hub_utils.portable.whole import passing
from hub_utils.wheel import ROOT, build_wheel, check_checkout, requirement, requirements

if TYPE_CHECKING:
    from huggingface_hub import JobInfo

USAGE = "python -m hub_utils.jobs RECIPE --dataset REPO_ID [--flavor NAME] [any flag of train.py]"
EPILOG = """\
examples:
  python -m hub_utils.jobs digits --flavor cpu-basic                       embedded data: needs no --dataset
  python -m hub_utils.jobs flowers --dataset you/flowers --flavor a10g-small
  python -m hub_utils.jobs my_recipe.py --dataset you/photos --num_train_epochs 3 --dry_run
  python -m hub_utils.jobs flowers --dataset you/flowers --resume you/flowers-checkpoints

what the job does: installs this code, trains, saves checkpoints to the private repo NAME-checkpoints meanwhile,
measures the run on its test split, and pushes it. The code goes along as a wheel in a private repo of yours, and so
does a recipe file of your own. Of this machine's environment it gets HF_TOKEN and what --secret names, nothing else.

Jobs cost what the machine costs, by the minute, from prepaid credits: https://huggingface.co/settings/billing.
Images of your own become a data set on the Hub by: python training/push_dataset.py my_photos --repo_id you/photos
"""
SUFFIX = "-checkpoints"  # of the repo where train.py saves them
CODE = "image-folder-to-demo-code"
IMAGE = "python:3.12"  # torch comes from PyPI with the CUDA libraries it needs; the driver is the machine's
BILLING = "https://huggingface.co/settings/billing"
ENVIRONMENT = {"PYTHONUNBUFFERED": "1"}  # or the log would come in heaps
# Flags of train.py that mean nothing on a machine which is gone afterwards, and what to use instead.
NOT_THERE = {
    "--data_dir": "the job sees no folder of this machine; python training/push_dataset.py FOLDER --repo_id YOU/NAME "
    "puts the images on the Hub, and --dataset YOU/NAME names them here",
    "--output_dir": "the job's disk is gone when it ends; --repo_id NS/NAME says where the run goes",
    "--folds": "cross-validation makes no model to push; it runs on this machine: training/train.py",
    "--checkpoint_repo": "checkpoints go to NAME-checkpoints, where --repo_id is NAME",
}
# Understood as train.py itself would, before anything is paid for; in its own process, as its libraries take seconds.
CHECK = """
import json, sys
from training.command import run_command
from training.fitting.flags import parse_flags, with_flags
from training.train import understand

def check(tokens):
    known, recipe, flags = understand(tokens)
    recipe = with_flags(recipe, parse_flags(flags, recipe))
    base = recipe.base_model if isinstance(recipe.base_model, str) else None
    embedded = (recipe.data.source or "").startswith("sklearn:")
    print(json.dumps({"name": recipe.name, "embedded": embedded, "base_model": base}))
    return 0

sys.exit(run_command(check, "nothing was started"))
"""
HERE = re.compile(r"(--[\w.-]+=)?([/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\])")  # what begins like a path of this machine


@dataclass(frozen=True)
class Plan:
    """A job before it is anybody's: what to train, and on what."""

    recipe: str  # a name, or the path of a file
    name: str
    flags: tuple[str, ...]  # of train.py
    dataset: str | None
    resume: str | None
    repo_id: str | None
    public: bool
    flavor: str
    timeout: str

    @property
    def saves(self) -> bool:
        """Whether checkpoints go to a repo beside the run's; a run that goes on saves to where it goes on from."""
        return self.resume is None

    @property
    def recipe_file(self) -> Path | None:
        return Path(self.recipe) if self.recipe.endswith(".py") else None

    def files(self, wheel: Path) -> dict[str, bytes | Path]:
        """What goes along, by its path in the repo of code."""
        mine = {f"recipes/{self.recipe_file.name}": self.recipe_file} if self.recipe_file else {}
        return {wheel.name: wheel, "requirements.txt": "\n".join([*requirements(), ""]).encode(), **mine}

    def writes(self, repo_id: str) -> str:
        seen = "public if it is new" if self.public else "private if it is new"
        saves = f"{repo_id}{SUFFIX} (private)" if self.saves else self.resume
        return f"{repo_id} ({seen}); checkpoints meanwhile: {saves}"

    def script(self, files: Iterable[str], code: str, commit: str, repo_id: str) -> str:
        """What the job runs, line by line; the first that fails ends it."""
        wheel, *_ = files = list(files)
        run = f"runs/{self.name}"
        recipe = f"code/recipes/{self.recipe_file.name}" if self.recipe_file else self.recipe
        saves = ["--checkpoint_repo", repo_id] if self.saves else []
        lines = [
            ["pip", "install", "--quiet", requirement("huggingface_hub")],
            ["hf", "download", code, *files, "--revision", commit, "--local-dir", "code", "--quiet"],
            ["pip", "install", "--quiet", "-r", "code/requirements.txt", f"code/{wheel}"],
            ["accelerate", "launch", "-q", "-m", "training.train", recipe, *self.flags, "--output_dir", run, *saves],
            ["python", "-m", "training.eval", run],
            ["python", "-m", "hub_utils.push", run, "--repo_id", repo_id, *(["--public"] if self.public else [])],
        ]
        return "\n".join(["set -eu", 'cd "$(mktemp -d)"', *map(shlex.join, lines)])


def parser() -> Parser:
    """The flags that are ours; everything else is for train.py."""
    result = Parser(usage=USAGE, description="Train on a machine of the Hub's, and push the run.", epilog=EPILOG)
    result.add_argument("recipe", metavar="RECIPE", help="a recipe's name, or your own .py file, which goes along")
    result.add_argument("--dataset", metavar="REPO_ID", help="the images, on the Hub: nothing else can be read there")
    result.add_argument("--flavor", metavar="NAME", default="a10g-small", help="the machine (default: a10g-small)")
    result.add_argument("--repo_id", metavar="NS/NAME", help="where the run goes (default: YOU/RECIPE)")
    result.add_argument("--public", action="store_true", help="a new repo is for all to see, not for you alone")
    result.add_argument("--timeout", metavar="TIME", default="3h", help="ends it at the latest, as 90m (default: 3h)")
    result.add_argument(
        "--secret", metavar="NAME", action="append", default=[], help="also give the job this environment variable"
    )
    result.add_argument("--dry_run", action="store_true", help="say what would be done, and ask the Hub nothing")
    for flag in NOT_THERE:
        result.add_argument(flag, nargs="*", help=argparse.SUPPRESS)
    result.add_argument("--resume", nargs="?", const="", metavar="REPO_ID", help="go on from a job's checkpoints")
    return result


def main(tokens: list[str]) -> int:
    """Run the command; the exit status."""
    if tokens and tokens[0].startswith("-") and tokens[0] not in ("-h", "--help"):
        raise UserError(f"RECIPE comes first: {USAGE}")
    known, flags = parser().parse_known_args(tokens)
    _check(known, flags)
    secrets = {name: os.environ[name] for name in known.secret if name != "HF_TOKEN"}  # which goes along anyway
    check_checkout()
    with passing("jobs") as folder:
        with tqdm(total=2, desc="Preparing", unit=" steps", leave=False, disable=None) as bar:
            plan = _understood(known, flags)
            bar.update()
            wheel = build_wheel(Path(folder))
            bar.update()
        _check_secrets(plan.files(wheel))
        if known.dry_run:
            rehearse(plan, wheel, secrets)
        else:
            submit(plan, wheel, secrets)
    return 0


def _check_secrets(files: Mapping[str, bytes | Path]) -> None:
    from huggingface_hub import get_token

    from hub_utils.scan import secrets_in

    if found := secrets_in(files, get_token()):
        raise UserError(
            f"nothing was sent, for what must stay here was found in {'; '.join(map(str, found[:3]))}. Take it out; "
            "--secret NAME gives the job an environment variable"
        )


def rehearse(plan: Plan, wheel: Path, secrets: Mapping[str, str], say: Callable[[str], None] = print) -> None:
    """Say what `submit` would do; the Hub is asked nothing.

    Raises:
        UserError: there is no such machine, or the names are none.
    """
    from huggingface_hub import JobHardware

    _check_flavor(plan.flavor, [each.value for each in JobHardware])
    who = Account("YOU")
    repo_id, code = full_name(plan.repo_id, plan.name, who), f"{who.name}/{CODE}"
    files = plan.files(wheel)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    modules = sum(name.endswith(".py") for name in names)
    for name, content in files.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        inside = f": {modules} modules and {len(names) - modules} other files" if name == wheel.name else ""
        say(f"goes       {code}/{name} ({size / 1000:.0f} kB){inside}")
    say(f"machine    {plan.flavor}, for {plan.timeout} at most; image {IMAGE}")
    say(f"secrets    {', '.join(['HF_TOKEN', *secrets])}")
    say(f"writes     {plan.writes(repo_id)}")
    say(f"runs\n{indent(plan.script(files, code, 'COMMIT', repo_id), '  ')}")
    say("nothing was sent; without --dry_run the job is started, and costs money from then on")


def submit(plan: Plan, wheel: Path, secrets: Mapping[str, str], say: Callable[[str], None] = print) -> JobInfo:
    """Put the code on the Hub and start the job.

    Raises:
        UserError: something forbids it, or fails; it says whether anything was started.
    """
    from huggingface_hub import HfApi, get_token

    nothing = "nothing was started"
    who = account(state=nothing)
    repo_id, code = full_name(plan.repo_id, plan.name, who), f"{who.name}/{CODE}"
    with _nothing_started():
        find_repo(repo_id, who, public=plan.public)  # or the run could not be pushed there in the end
        code_repo = find_repo(code, who, flag="")
    with in_words("the machines for jobs", state=nothing):
        machines = {each.name: each for each in HfApi().list_jobs_hardware()}
    _check_flavor(plan.flavor, machines)
    _check_readable(plan)
    _check_checkpoints(plan, who, repo_id)
    files = plan.files(wheel)
    with _nothing_started():
        sha = _send(files, code_repo, plan.name)
    script = plan.script(files, code, sha, repo_id)
    job = _start(plan, script, who.name, {"HF_TOKEN": get_token(), **secrets})
    machine = machines[plan.flavor]
    price = f"{machine.unit_cost_usd:.4f} USD a {machine.unit_label}"
    say(f"started    job {job.id} on {plan.flavor}, {price}, for {plan.timeout} at most")
    say(f"page       {job.url}")
    say(f"code       {code} at {sha[:8]}, private")
    say(f"writes     {plan.writes(repo_id)}")
    say(f"stop       hf jobs cancel {job.id}")
    if plan.saves:
        say(f"go on      if it ends too early: the same command with --resume {repo_id}{SUFFIX}")
    say(f"next       hf jobs logs --follow {job.id}")
    return job


def _check(known: argparse.Namespace, flags: list[str]) -> None:
    """Refuse what cannot work there, before anything takes time."""
    for flag, instead in NOT_THERE.items():
        if getattr(known, flag.removeprefix("--")) is not None:
            raise UserError(f"{flag}: {instead}")
    if known.resume == "":
        raise UserError(
            "--resume: the job's machine is a new one; --resume NS/NAME-checkpoints says what to go on from"
        )
    if not re.fullmatch(r"(?=.*[1-9])[0-9]+(\.[0-9]+)?[smhd]?", known.timeout):
        raise UserError(f"--timeout {known.timeout}: seconds, or a number with s, m, h or d, as 90m")
    for name in known.secret:
        if not os.environ.get(name):
            raise UserError(f"--secret {name}: there is no {name} in the environment, from which it is taken")
    if any(without_token(word) != word for word in flags):
        raise UserError(
            "a token on the command line would stand on the job's page; it gets HF_TOKEN as a secret anyway, and "
            "others with --secret NAME"
        )


def _check_flavor(flavor: str, known: Iterable[str]) -> None:
    known = list(known)
    if flavor not in known:
        near = difflib.get_close_matches(flavor, known, n=1, cutoff=0.8)  # many differ by a letter
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"no machine '{flavor}'; {hint}--flavor is one of {', '.join(known)}")


def _understood(known: argparse.Namespace, flags: list[str]) -> Plan:
    """The plan, once train.py has understood its part of the command line, as it would there."""
    data = [f"--{name}={value}" for name in ("dataset", "resume") if (value := getattr(known, name))]
    # -P, for a module that lies here would not lie there: a recipe file goes alone.
    command = [sys.executable, "-P", "-c", CHECK, known.recipe, *flags, *data]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    if answer.returncode != 0:
        said = answer.stderr.strip().splitlines()[-1].removeprefix("error: ")
        alone = "; the recipe's file goes alone: put what it needs into it" if "ModuleNotFoundError" in said else ""
        raise UserError(said + alone)
    facts = json.loads(answer.stdout)
    named = [facts["base_model"], known.dataset]
    here = [name for name in named if name and (HERE.match(name) or Path(name).exists())]
    here += [flag for flag in flags if HERE.match(flag)]
    if here:
        raise UserError(
            f"'{here[0]}' lies on this machine, and the job sees nothing of it: a base model or a data set of the Hub "
            "is called OWNER/NAME"
        )
    if not (facts["embedded"] or data):
        raise UserError(
            f"the job sees no folder of this machine: --dataset REPO_ID names the images of '{known.recipe}' on the "
            f"Hub; python training/push_dataset.py {known.recipe} --repo_id {facts['name']} puts them there"
        )
    return Plan(
        recipe=known.recipe,
        name=facts["name"],
        flags=(*flags, *data),
        dataset=known.dataset,
        resume=known.resume,
        repo_id=known.repo_id,
        public=known.public,
        flavor=known.flavor,
        timeout=known.timeout,
    )


def _check_readable(plan: Plan) -> None:
    """What the job is to read must be there; it would find out only on a machine that is paid for."""
    from huggingface_hub import HfApi

    if plan.dataset:
        with in_words(f"the data set '{plan.dataset}'", state="nothing was started"):
            HfApi().dataset_info(plan.dataset.partition(":")[0])


def _check_checkpoints(plan: Plan, who: Account, repo_id: str) -> None:
    """The repo that the job goes on from must hold checkpoints, the one that it begins must not; and only we see it."""
    from huggingface_hub.errors import RepositoryNotFoundError

    asked = plan.resume or repo_id
    name = full_name(asked.removesuffix(SUFFIX) + SUFFIX, "", who, flag="--resume" if plan.resume else "--repo_id")
    with in_words(f"the checkpoints '{name}'", state="nothing was started"):
        try:
            found = Repo(name, info=info_of(name))
        except RepositoryNotFoundError:
            if plan.resume:
                raise
            return
    if not found.info.private:
        raise UserError(
            f"'{name}' is public, and checkpoints are not for everybody: make it private at {found.url}/settings; "
            "nothing was started"
        )
    saved = any(path.startswith("checkpoints/") for path in found.files)
    if plan.saves and saved:
        raise UserError(
            f"'{name}' holds the checkpoints of an earlier run; --resume {name} goes on with that one, another "
            "--repo_id keeps both; nothing was started"
        )
    if plan.resume and not saved:
        raise UserError(f"'{name}' holds no checkpoints to go on from; nothing was started")


@contextmanager
def _nothing_started() -> Iterator[None]:
    """Whatever is refused within it, no job runs and costs money."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; nothing was started") from error


def _send(files: Mapping[str, bytes | Path], code: Repo, name: str) -> str:
    """Commit the code to its private repo, if it is not there already; the commit's hash."""
    code = make_repo(code)
    new = changed(files, code)
    return commit(code, new, f"Code of a job: {name}") if new else code.head


def _start(plan: Plan, script: str, namespace: str, secrets: Mapping[str, str]) -> JobInfo:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    unknown = "whether it was started, `hf jobs ps` tells: look before you start another"
    with in_words("the job", state=unknown):
        try:
            return HfApi().run_job(
                image=IMAGE,
                command=["bash", "-c", script],
                env=ENVIRONMENT,
                secrets=dict(secrets),
                flavor=plan.flavor,
                timeout=plan.timeout,
                name=re.sub(r"[^A-Za-z0-9_-]", "-", plan.name),
                namespace=namespace,
            )
        except HfHubHTTPError as error:
            status = error.response.status_code
            if not 400 <= status < 500:
                raise
            said = without_token(error.server_message or str(error).splitlines()[0])
            wanted = f"; jobs are paid from prepaid credits, {BILLING}, and the token must be allowed to start them"
            raise UserError(
                f"the Hub does not start this job for {namespace} (HTTP {status}: {said})"
                f"{wanted if status in (402, 403) else ''}; nothing was started"
            ) from error


if __name__ == "__main__":
    sys.exit(run_command(main, "`hf jobs ps` tells whether a job was started"))
