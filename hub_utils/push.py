"""Put a run's model on the Hub: one commit of what may leave this machine, and then a look at what came out.

python -m hub_utils.push RUN [--repo_id NS/NAME] [--public]
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from hub_utils.allowlist import Contents, contents_of, may_go
from hub_utils.checks import gave_up_onnx
from hub_utils.portable.command import Parser, UserError, run_command
from hub_utils.portable.eight_bits import INT8
from hub_utils.portable.hub import Account, account, full_name, in_words
from hub_utils.portable.repo import (
    Repo,
    changed,
    check_tag,
    check_tag_free,
    commit,
    find_repo,
    info_of,
    is_same,
    make_repo,
    set_tag,
)
from hub_utils.portable.units import in_bytes
from hub_utils.run_files import read_json

USAGE = (
    "python -m hub_utils.push RUN [--repo_id NS/NAME] [--public] [--tag NAME] [--message TEXT]\n"
    "                                [--without_results] [--no_verify] [--dry_run]"
)
EPILOG = """\
examples:
  python -m hub_utils.push runs/flowers --dry_run                     what would go, and what stays here; asks nobody
  python -m hub_utils.push runs/flowers                               to YOU/flowers, which only you can see
  python -m hub_utils.push runs/flowers --repo_id acme/tulips --public --tag v1

what goes: model and preprocessing, ONNX, the card, recipe, results, and plots of them. Never: the images, their paths
and whose they are, and the state of training. Files are searched for tokens, paths and names before anything is sent.
Pushed again, only what changed is sent. Nothing is ever deleted on the Hub.
The token is that of `hf auth login`, or HF_TOKEN.
"""
MESSAGE = "Push the model, its card and its results"
# What a model is loaded from, whoever made it.
MODEL = ("config.json", "*.safetensors", "*.bin", "*.pt", "*.pth", "*.onnx", "*.h5", "*.keras", "*.ckpt")
BESIDE = ("adapter_config.json", "*.index.json")  # of the model, by which another is loaded
MADE = ("serving.json", "onnx/model.onnx", "README.md")  # by push itself, where a run has none
LARGE = ("model.safetensors", "onnx/model.onnx", INT8)


def parser() -> Parser:
    result = Parser(usage=USAGE, description="Put a run's model on the Hub, in one commit.", epilog=EPILOG)
    result.add_argument("run", metavar="RUN", help="the folder that train.py wrote")
    result.add_argument(
        "--repo_id", metavar="NS/NAME", help="where to; NS is you and NAME the run's if nothing is said"
    )
    result.add_argument("--public", action="store_true", help="a new repo is for all to see, not for you alone")
    result.add_argument("--tag", metavar="NAME", help="a name for this revision, as v1")
    result.add_argument("--message", metavar="TEXT", default=MESSAGE, help="of the commit")
    result.add_argument("--without_results", action="store_true", help="push a run that eval.py has not measured")
    result.add_argument("--no_verify", action="store_true", help="do not download it and try it out afterwards")
    result.add_argument("--dry_run", action="store_true", help="say what would go, and send nothing")
    return result


def main(tokens: list[str]) -> int:
    """Run the command; the exit status."""
    known = vars(parser().parse_args(tokens))
    run, dry_run, verify = Path(known.pop("run")), known.pop("dry_run"), not known.pop("no_verify")
    if dry_run:
        rehearse(run, **known)
    else:
        push(run, verify=verify, **known)
    return 0


def push(
    run: Path,
    repo_id: str | None = None,
    public: bool = False,
    tag: str | None = None,
    message: str = MESSAGE,
    without_results: bool = False,
    verify: bool = True,
    say: Callable[[str], None] = print,
) -> str:
    """Push the model of the folder `run` and return the full hash of the commit that holds it.

    The folder is not touched, but for a serving.json that is missing or of other weights, or a missing ONNX file.

    Raises:
        UserError: something forbids it, or fails; it says what is on the Hub now.
    """
    contents = _contents(run, repo_id, tag, without_results)
    if INT8 in contents.stays:
        say(f"warning    {INT8} stays here: {contents.stays[INT8]}")
    who = account(state="nothing has changed on the Hub")
    repo = find_repo(full_name(repo_id, default_name(run), who), who, public=public)
    _look(repo, contents)
    contents = _completed(contents, say)
    files = _to_send(contents, repo.repo_id, message, say)
    _check_card_there(repo, files["README.md"])
    _warn_of_data(contents, public, say)
    new = changed(files, repo)
    has_tag = check_tag_free(repo, tag, new)
    repo = make_repo(repo)
    sha = repo.head
    if new:
        size = in_bytes(sum(map(_length, new.values())))
        say(f"pushing    {len(new)} file{'s' * (len(new) > 1)}, {size}, to {repo.url}")
        sha = commit(repo, new, message)
    if tag and not has_tag:
        set_tag(repo, tag, sha)
    _tell(contents, repo, sha, new, tag, say)
    if verify:
        _verify(repo, sha, say)
    return sha


def rehearse(
    run: Path,
    repo_id: str | None = None,
    public: bool = False,
    tag: str | None = None,
    message: str = MESSAGE,
    without_results: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Say what `push` would send, what would stay and why; nobody is asked, and nothing is written.

    Raises:
        UserError: the run is such that it would not be pushed.
    """
    contents = _contents(run, repo_id, tag, without_results)
    name = repo_id or default_name(run)
    name = name if "/" in name else f"<you>/{name}"
    files = _to_send(contents, None if "<" in name else name, message, say)
    missing = _missing(contents)
    for path in sorted({*files, *missing}):
        told = "made when it is pushed" if path in missing else in_bytes(_length(files[path]))
        say(f"goes       {path} ({told})")
    for path, reason in contents.stays.items():
        say(f"stays      {path}: {reason}")
    say(f"to         {Repo(name).url}, {_eyes(public)}{f', tagged {tag}' * bool(tag)}")
    say("next       the same command without --dry_run; nothing was sent")


def default_name(run: Path) -> str:
    """What a run's repo is called if nothing is said."""
    return run.resolve().name


def _contents(run: Path, repo_id: str | None, tag: str | None, without_results: bool) -> Contents:
    """What of the run may go, if the command is one that can be carried out at all."""
    full_name(repo_id, default_name(run), Account("you"))  # before the Hub is asked anything
    check_tag(tag)
    contents = contents_of(run)
    if contents.unmeasured and not without_results:
        measure = shlex.join(["python", "training/eval.py", str(run)])
        raise UserError(
            f"'{run}' has not been measured ({contents.unmeasured}): {measure}; or --without_results, and the card has "
            "training's own figures"
        )
    return contents


def _look(repo: Repo, contents: Contents) -> None:
    """Refuse a repo in which something stands that this run would replace, or that would go on telling of another."""
    elsewhere = f"--repo_id OWNER/NAME for another repo; its page is {repo.url}"
    if "recipe.json" not in repo.files and any(fnmatchcase(path, name) for path in repo.files for name in MODEL):
        raise UserError(f"'{repo.repo_id}' holds a model that was not pushed from a run; {elsewhere}")
    foreign = [path for path in repo.files if not may_go(path) and any(fnmatchcase(path, n) for n in (*MODEL, *BESIDE))]
    if foreign:
        raise UserError(
            f"'{repo.repo_id}' holds {', '.join(sorted(foreign)[:3])}, by which it may answer as another model; "
            f"nothing is ever deleted from here: delete them on {repo.url}/tree/main, or {elsewhere}"
        )
    stale = sorted(path for path in repo.files if may_go(path) and path not in {*contents.files, *MADE})
    if stale:
        raise UserError(
            f"'{repo.repo_id}' holds {', '.join(stale)} of an earlier push, which this run has not, and which would "
            f"tell of another model; nothing is ever deleted from here: delete them on {repo.url}/tree/main, or "
            "--repo_id OWNER/NAME for another repo"
        )


def _missing(contents: Contents) -> dict[str, Path]:
    """What a run of an earlier version lacks: serving.json of these very weights, and the ONNX file.

    Training says so if it could not write a network as ONNX; then nobody tries again.
    """
    run, serving = contents.run, contents.run / "serving.json"
    known = read_json(serving) if serving.is_file() else {}
    golden = known.get("golden")
    whole = known.get("weights_sha256") == contents.weights_sha256 and isinstance(golden, dict) and "labels" in golden
    missing = [] if whole else ["serving.json"]
    gave_up = gave_up_onnx(read_json(run / "all_results.json"))
    missing += [] if gave_up or (run / "onnx" / "model.onnx").is_file() else ["onnx/model.onnx"]
    return {name: run / name for name in missing}


def _completed(contents: Contents, say: Callable[[str], None]) -> Contents:
    """With what is missing, now written into the run."""
    from hub_utils.export import save_onnx, save_serving

    made = {}
    for name, path in _missing(contents).items():
        try:
            save_serving(contents.run) if name == "serving.json" else save_onnx(contents.run)
        except Exception as error:  # the exporter's are of many kinds
            reason = " ".join(str(error).split())[:200]
            if name != "serving.json":
                say(f"warning    no {name} can be made: {reason}")
                continue
            raise UserError(
                f"'{path}' cannot be made: the model of this run does not load ({reason}); the command that began the "
                "run, with --resume, writes it again"
            ) from error
        made[name] = path
        say(f"wrote      {path}, which was missing or of other weights")
    return replace(contents, files=contents.files | made)


def _to_send(contents: Contents, name: str | None, message: str, say: Callable[[str], None]) -> dict[str, bytes | Path]:
    """What goes, by its path in the repo: the very bytes that were searched, but for files of many megabytes.

    Raises:
        UserError: there is something in it that must stay here.
    """
    from huggingface_hub import get_token

    from hub_utils.scan import scan

    run = contents.run
    files = {name: path if name in LARGE else path.read_bytes() for name, path in contents.files.items()}
    files["README.md"] = _card(contents, name, say)
    if not (run / "local" / "data.json").is_file():
        say(f"warning    '{run / 'local'}' is not whole: names from the data set cannot be looked for")
    found = scan(files | {"--message": message.encode()}, run, get_token())
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(
            f"nothing was sent, for what must stay here was found in {'; '.join(map(str, found[:3]))}{more}. Take it "
            f"out of '{run}', and the same command again"
        )
    return files


def _card(contents: Contents, name: str | None, say: Callable[[str], None]) -> bytes:
    """The card as the Hub shall have it: written anew with the repo's name in it, unless somebody has changed it."""
    from hub_utils.card import card_text, is_as_written

    path = contents.run / "README.md"
    again = shlex.join(["python", "training/eval.py", str(contents.run)])
    try:
        mine = path.read_text(encoding="utf-8") if path.is_file() else None
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is no UTF-8: save it as such, or {again} writes it anew") from error
    if mine is None or is_as_written(mine):
        try:
            return card_text(contents.run, name).encode()
        except (KeyError, TypeError, ValueError) as error:
            lacks = f"a file of it lacks {error}" if isinstance(error, KeyError) else error
            raise UserError(
                f"no card can be written of '{contents.run}': {lacks}; the command that began it, with --resume, or "
                f"{again} writes its files again"
            ) from error
    weights = re.search(r"SHA-256 of the weights \| `([0-9a-f]{64})`", mine)
    if weights and weights[1] != contents.weights_sha256:
        raise UserError(f"'{path}' tells of other weights; {again} writes it anew")
    say(f"card       {path} was changed by hand, and goes as it is; {again} would write it anew")
    return path.read_bytes()


def _check_card_there(repo: Repo, card: bytes) -> None:
    """Refuse to replace a card that somebody has written, or changed, on the Hub."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    from hub_utils.card import is_as_written

    if "README.md" not in repo.files or is_same(card, repo.files["README.md"]):
        return
    with in_words(f"the card of '{repo.repo_id}'", state="nothing has changed on the Hub"):
        url = hf_hub_url(repo.repo_id, "README.md", revision=repo.head)
        answer = get_session().get(url, headers=build_hf_headers(), follow_redirects=True)
        hf_raise_for_status(answer)
    there = answer.content
    if there.strip() and not is_as_written(there.decode(errors="replace")):
        raise UserError(
            f"the card of '{repo.repo_id}' was written by hand, and this push would replace it: put it into the run as "
            f"README.md (from {repo.url}/blob/main/README.md), or --repo_id OWNER/NAME for another repo"
        )


def _warn_of_data(contents: Contents, public: bool, say: Callable[[str], None]) -> None:
    """A public card that names a data set which nobody can see."""
    from huggingface_hub.errors import RepositoryNotFoundError

    path = contents.run / "local" / "data.json"
    dataset = read_json(path).get("dataset") if public and path.is_file() else None
    if not dataset:
        return
    try:
        with in_words(f"the data set '{dataset}'"):
            info_of(dataset, "dataset", token=False)
    except UserError as error:
        if not isinstance(error.__cause__, RepositoryNotFoundError):
            raise
        say(f"warning    the card will name the data set '{dataset}', which is private or not on the Hub")


def _tell(
    contents: Contents,
    repo: Repo,
    sha: str,
    new: Mapping[str, bytes | Path],
    tag: str | None,
    say: Callable[[str], None],
) -> None:
    """What came of it, and how to use it."""
    sizes = ", ".join(f"{path} ({in_bytes(_length(content))})" for path, content in new.items())
    say(f"changed    {sizes or 'nothing: the Hub has all of this already, and no commit was made'}")
    say(f"model      {repo.url}, {_eyes(repo.public)}")
    say(f"revision   {sha}{f', tagged {tag}' if tag else ''}")
    custom = ", trust_remote_code=True" if "auto_map" in contents.config else ""
    say("use        from transformers import pipeline")
    say(f'           pipeline("image-classification", model="{repo.repo_id}", revision="{sha}"{custom})("photo.jpg")')


def _eyes(public: bool) -> str:
    return "for all to see" if public else "for you alone"


def _verify(repo: Repo, sha: str, say: Callable[[str], None]) -> None:
    from hub_utils.verify import verify

    again = f"python -m hub_utils.verify {repo.repo_id} tries it again"
    try:
        passed = verify(repo.repo_id, sha, say)
    except UserError as error:
        raise UserError(f"all files are on the Hub, as {sha}, but could not be tried out: {error}; {again}") from error
    if not passed:
        raise UserError(
            f"all files are on the Hub, as {sha}, but not all that is asked of them holds: see above; {again}, and "
            f"{repo.url}/commits/main has the revisions before"
        )


def _length(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


if __name__ == "__main__":
    sys.exit(
        run_command(
            main,
            "a commit is on the Hub whole or not at all, and the same command makes sure that it is there",
        )
    )
