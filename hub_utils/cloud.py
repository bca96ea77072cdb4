"""A model on a cloud of its user's: what the cloud's own Hugging Face container serves, and how to put it there.

python -m hub_utils.cloud sagemaker|vertex MODEL --output PATH [--deploy]
"""

from __future__ import annotations

import filecmp
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hub_utils.portable.command import Parser, UserError, run_command

if TYPE_CHECKING:
    from hub_utils import sagemaker, vertex

USAGE = (
    "python -m hub_utils.cloud sagemaker|vertex MODEL --output PATH [--revision COMMIT] [--name NAME]\n"
    "                                 [--region REGION] [--machine TYPE] [--image ADDRESS] [--bucket NAME]\n"
    "                                 [--role ARN] [--deploy]"
)
EPILOG = """\
examples:
  python -m hub_utils.cloud sagemaker runs/flowers --output model.tar.gz
  python -m hub_utils.cloud sagemaker you/leukemia                       the container takes it from the Hub by itself
  python -m hub_utils.cloud vertex runs/flowers --output flowers_vertex
  python -m hub_utils.cloud vertex runs/flowers --output flowers_vertex --bucket my-bucket --deploy

Writes the archive, or the folder, that the container serves: the model's files (never images, nor the state of
training) and the code that answers as the run did. It prints the lines that deploy it, ask it and take it down, and
what it costs. Nothing is deployed without --deploy; what is deployed costs money until you take it down.
SageMaker wants boto3 and a role, Vertex AI gcloud; both want a bucket.
"""

UNKNOWN = {"--role": "ARN", "--bucket": "NAME"}  # what stands for them where they were not said
FORMS = {  # what a cloud takes, and in words
    "name": (r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?", "small letters, digits and hyphens, at most 50, a letter first"),
    "image": (r"[a-z0-9][\w.-]*(:\d+)?/([\w.-]+/)*[\w.-]+([:@][\w.:-]+)?", "as REGISTRY/NAME:TAG"),
    "bucket": (r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", "the name alone, as my-bucket"),
    "role": (r"arn:[\w-]+:iam::\d{12}:role/[\w+=,.@/-]+", "as arn:aws:iam::123456789012:role/NAME"),
}
FORMS_THERE = {  # the same, by cloud
    "sagemaker": {
        "region": (r"[a-z]+(-[a-z]+)+-\d", "as us-east-1, at AWS"),
        "machine": (r"ml\.[\w.-]+", "as ml.m5.large, at AWS"),
    },
    "vertex": {
        "region": (r"[a-z]+-[a-z]+\d+", "as us-central1, at Google"),
        "machine": (r"[a-z]\w*-[\w-]+", "as n1-standard-2, at Google"),
    },
}


def parser() -> Parser:
    result = Parser(usage=USAGE, description="Deploy a model on Amazon SageMaker or Google's Vertex AI.", epilog=EPILOG)
    result.add_argument("target", choices=["sagemaker", "vertex"], help="the cloud")
    result.add_argument("model", metavar="MODEL", help="a run folder, one in the Hub's layout, or a repo id NS/NAME")
    result.add_argument("--output", metavar="PATH", help="where the archive, or the folder, goes")
    result.add_argument("--revision", metavar="COMMIT", help="commit, tag or branch of the repo (default: main)")
    result.add_argument("--name", metavar="NAME", help="what the endpoint is called (default: as the model)")
    result.add_argument("--region", metavar="REGION", help="where it runs (default: us-east-1, us-central1)")
    result.add_argument("--machine", metavar="TYPE", help="what it runs on (default: ml.m5.large, n1-standard-2)")
    result.add_argument("--image", metavar="ADDRESS", help="another version of the cloud's Hugging Face container")
    result.add_argument("--bucket", metavar="NAME", help="of S3 or Cloud Storage, through which the model goes")
    result.add_argument("--role", metavar="ARN", help="of IAM, which SageMaker takes on")
    result.add_argument("--deploy", action="store_true", help="run the lines: costs money until you take it down")
    return result


def main(tokens: list[str]) -> int:
    """Run the command; the exit status."""
    known = parser().parse_args(tokens)
    _check_words(known)
    {"sagemaker": to_sagemaker, "vertex": to_vertex}[known.target](known)
    return 0


def _check_words(known: Namespace) -> None:
    """Raise `UserError` for what no cloud takes, before anything is read or asked."""
    for name, value in vars(known).items():
        if value == "":
            raise UserError(f"{'MODEL' if name == 'model' else f'--{name}'} is empty; leave it out, or say what")
    for name, (form, words) in {**FORMS, **FORMS_THERE[known.target]}.items():
        value = getattr(known, name)
        if value is not None and not re.fullmatch(form, value, re.ASCII):
            raise UserError(f"--{name} {value}: {words}")
    if known.role and known.target == "vertex":
        raise UserError("--role is for SageMaker; Vertex AI takes your project's own account: leave it out")


def to_sagemaker(known: Namespace, say: Callable[[str], None] = print) -> None:
    """Write the archive, if one is wanted, and say how it is deployed; with --deploy, deploy it.

    Raises:
        UserError: it cannot be; why, and what to do.
    """
    from hub_utils import sagemaker
    from hub_utils.deployable import check_built, find

    output = Path(known.output) if known.output else None
    if output and not output.name.endswith(".tar.gz"):
        raise UserError(f"--output {output}: SageMaker takes an archive that ends with .tar.gz, as model.tar.gz")
    region = known.region or sagemaker.REGION
    image = known.image or sagemaker.image_in(region)
    model = find(known.model, known.revision)
    if not output:
        sagemaker.check_by_itself(model)
    if not known.image:
        check_built(model, sagemaker.TRANSFORMERS)
    machine = known.machine or sagemaker.MACHINE
    name = known.name or model.name
    endpoint = sagemaker.Endpoint(name, model, output, region, image, machine, known.bucket, known.role)
    _check_ready(known, endpoint.missing, sagemaker.check_ready)
    wrote = f"nothing: {sagemaker.BY_ITSELF}"
    if output:
        files = sagemaker.files_of(model)
        _write(output, lambda part: sagemaker.write_archive(files, part))
        wrote = f"{output}: {len(files)} files, {output.stat().st_size / 1e6:,.1f} MB"
    _tell(endpoint, say)
    if known.deploy:
        say("deploying  this takes some minutes")
        sagemaker.deploy(endpoint)
    _end(known, endpoint.missing, wrote, say)


def to_vertex(known: Namespace, say: Callable[[str], None] = print) -> None:
    """Write the folder, and say how it is deployed; with --deploy, deploy it.

    Raises:
        UserError: it cannot be; why, and what to do.
    """
    from hub_utils import vertex
    from hub_utils.deployable import check_built, find

    if not known.output:
        raise UserError("--output DIR says where the folder for Vertex AI goes, as flowers_vertex")
    output = Path(known.output)
    if output.name in ("", ".."):
        raise UserError(f"--output {known.output}: a name is wanted, as flowers_vertex; the folder is made")
    model = find(known.model, known.revision)
    if not known.image:
        check_built(model, vertex.TRANSFORMERS)
    region, machine = known.region or vertex.REGION, known.machine or vertex.MACHINE
    name = known.name or model.name
    endpoint = vertex.Endpoint(name, output, region, known.image or vertex.IMAGE, machine, known.bucket)
    _check_ready(known, endpoint.missing, vertex.check_ready)
    files = vertex.files_of(model)
    _write(output, lambda part: vertex.write_folder(files, part))
    _tell(endpoint, say)
    if known.deploy:
        vertex.deploy(endpoint, say)
    _end(known, endpoint.missing, f"{output}: {len(files)} files", say)


def _check_ready(known: Namespace, missing: list[str], check: Callable[[], None]) -> None:
    if known.deploy and missing:
        wanted = " and ".join(f"{flag} {UNKNOWN[flag]}" for flag in missing)
        raise UserError(f"--deploy wants {wanted} as well; --help shows how it goes")
    if known.deploy:
        check()


def _write(target: Path, make: Callable[[Path], None]) -> None:
    """Make a file or folder, whole or not at all. What is there already stays, and must be the same."""
    from hub_utils.portable.whole import move, temporary, to_disk

    try:
        with temporary(target) as part:
            make(part)
            if target.exists() or target.is_symlink():
                if not _same(part, target):
                    raise UserError(f"'{target}' is there already, and is another; move it away, or another --output")
                return
            for each in (path for path in part.rglob("*") if path.is_file()) if part.is_dir() else (part,):
                to_disk(each)
            move(part, target)
    except OSError as error:
        raise UserError(f"'{target}' cannot be written ({error.strerror or error}); another --output") from error


def _same(one: Path, other: Path) -> bool:
    if not one.is_dir() or not other.is_dir():
        return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)
    names = [sorted(path.relative_to(each) for path in each.rglob("*") if path.is_file()) for each in (one, other)]
    return names[0] == names[1] and all(filecmp.cmp(one / name, other / name, shallow=False) for name in names[0])


def _tell(endpoint: sagemaker.Endpoint | vertex.Endpoint, say: Callable[[str], None]) -> None:
    say(f"container  {endpoint.image}")
    say(f"variables  {', '.join(f'{name}={value}' for name, value in endpoint.environment.items())}")
    say(f"machine    {endpoint.machine} in {endpoint.region}, for the endpoint '{endpoint.name}'")
    say(f"costs      {endpoint.price}")
    for title, lines in (("deploy", endpoint.deploying), ("ask", endpoint.asking), ("take down", endpoint.removing)):
        say(f"\n# {title}\n{lines()}")  # from the first column, so that it can be copied
    say("")


def _end(known: Namespace, missing: list[str], wrote: str, say: Callable[[str], None]) -> None:
    if known.deploy:
        say(f"deployed   it answers, and costs money until you take it down; wrote {wrote}")
        return
    say(f"wrote      {wrote}")
    given = {"--output": known.output, "--revision": known.revision, "--name": known.name, "--region": known.region}
    given |= {"--machine": known.machine, "--image": known.image, "--bucket": known.bucket, "--role": known.role}
    words = [word for flag, value in given.items() if value for word in (flag, value)]
    words += [word for flag in missing for word in (flag, UNKNOWN[flag])]
    command = ["python", "-m", "hub_utils.cloud", known.target, known.model, *words, "--deploy"]
    say("nothing is deployed; the next command does it, and costs money from then on")
    say(f"next       {shlex.join(command)}")


if __name__ == "__main__":
    sys.exit(run_command(main, "nothing half-written is left; what was deployed costs money until you take it down"))
