"""A repo on the Hub to push to: found, made, and committed to in such a way that one knows afterwards what is there."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hub_utils.portable.command import UserError
from hub_utils.portable.hub import Account, in_words, why
from hub_utils.portable.tokens import without_token

UNCHANGED = "nothing has changed on the Hub"


@dataclass(frozen=True)
class Repo:
    """A repo as it is on the Hub now: `info` is what the Hub says of it, None if there is none of the name yet.

    `kind` is "model", "dataset" or "space"; `public` is what it is to be.
    """

    repo_id: str
    kind: str = "model"
    public: bool = False
    info: Any = None

    @property
    def head(self) -> str | None:
        """Main's last commit."""
        return self.info.sha if self.info else None

    @property
    def url(self) -> str:
        """Its page."""
        from huggingface_hub import constants

        folder = "" if self.kind == "model" else f"{self.kind}s/"
        return f"{constants.ENDPOINT}/{folder}{self.repo_id}"

    @property
    def files(self) -> dict[str, Any]:
        """What somebody has put on main, a `RepoSibling` by path; a new repo has one file of the Hub's own."""
        found = {file.rfilename: file for file in (self.info.siblings or ())} if self.info else {}
        return {path: file for path, file in found.items() if path != ".gitattributes"}


def info_of(repo_id: str, kind: str = "model", token: bool | None = None) -> Any:
    """What the Hub says of a repo, its files and main's last commit, `sha`, included; anonymously if `token` is False.

    One request for all of it, so that no commit comes between.
    """
    from huggingface_hub import HfApi

    return HfApi(token=token).repo_info(repo_id, repo_type=kind, files_metadata=True)


def find_repo(
    repo_id: str,
    who: Account,
    kind: str = "model",
    public: bool = False,
    wrong: type[Exception] = UserError,
    flag: str = "--repo_id",
) -> Repo:
    """The repo that will be pushed to, by one request; nothing is written. `flag` is what takes another name, if
    anything does.

    Raises:
        wrong: it belongs to another, everybody may see it or not as it is to be, or the Hub cannot be asked.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    owner, _, name = repo_id.partition("/")
    spelt = {each.lower(): each for each in (who.name, *who.organisations)}
    if owner.lower() not in spelt:
        raise wrong(f"'{repo_id}' belongs to {owner}, and this token to {who.name}; {flag} {who.name}/NAME")
    repo_id = f"{spelt[owner.lower()]}/{name}"
    with in_words(f"'{repo_id}'", wrong, UNCHANGED, flag):
        try:
            info = info_of(repo_id, kind)
        except RepositoryNotFoundError:
            return Repo(repo_id, kind, public)
    repo = Repo(info.id, kind, public, info)
    _check_visibility(repo, wrong, flag)
    return repo


def make_repo(repo: Repo, wrong: type[Exception] = UserError, flag: str = "--repo_id", **how: Any) -> Repo:
    """The repo, which is made if there is none yet; `how` goes to the client's `create_repo`.

    Raises:
        wrong: the Hub does not make it.
    """
    from huggingface_hub import HfApi

    if repo.info:
        return repo
    state = "no file was sent, but an empty repo of this name may be there"
    with in_words(f"'{repo.repo_id}'", wrong, state, flag):
        name = repo.repo_id
        with suppress(KeyError):  # of an answer that does not say where it is: it may be there all the same
            name = HfApi().create_repo(name, repo_type=repo.kind, private=not repo.public, exist_ok=True, **how).repo_id
        info = info_of(name, repo.kind)
    repo = replace(repo, repo_id=info.id, info=info)
    _check_visibility(repo, wrong, flag)
    return repo


def _check_visibility(repo: Repo, wrong: type[Exception], flag: str) -> None:
    if repo.info.private and repo.public:
        raise wrong(f"'{repo.repo_id}' is private; {repo.url}/settings makes it public, and nothing here does")
    if not repo.info.private and not repo.public:
        ways = ["--public says that you mean it"] * (flag == "--repo_id") + [f"{flag} names another"] * bool(flag)
        raise wrong(f"'{repo.repo_id}' is public; {', '.join([*ways, f'{repo.url}/settings makes it private'])}")


def changed(files: Mapping[str, bytes | Path], repo: Repo) -> dict[str, bytes | Path]:
    """Those of `files`, by their path in the repo, that are new, or other than what is there."""
    there = repo.files
    return {path: content for path, content in files.items() if not is_same(content, there.get(path))}


def is_same(content: bytes | Path, file: Any) -> bool:
    """Whether it is what the Hub has as `file`, a `RepoSibling`, or None where the Hub has nothing.

    A large file goes by its SHA-256, any other by its hash in git: SHA-1 of a header and the content.
    """
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if file is None or file.size != size:
        return False
    digest = hashlib.sha256() if file.lfs else hashlib.sha1(b"blob %d\0" % size)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest() == (file.lfs.sha256 if file.lfs else file.blob_id)


def commit(repo: Repo, files: Mapping[str, bytes | Path], message: str, wrong: type[Exception] = UserError) -> str:
    """Commit `files`, by their path in the repo, upon `repo.head`, and return the new commit's full hash.

    Whatever goes wrong, the Hub is asked what is there: if it is all there, and only the answer was lost, that is no
    error; if nothing has changed, and the trouble may pass, it is tried again.

    Raises:
        wrong: in one line what went wrong, and what is on the Hub now.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError

    from hub_utils.portable.patience import COMMANDS, be_patient, may_pass

    be_patient()
    waits = iter(COMMANDS.waits)
    while True:
        additions = [CommitOperationAdd(path, content) for path, content in files.items()]
        try:
            made = HfApi().create_commit(
                repo.repo_id, additions, commit_message=message, parent_commit=repo.head, repo_type=repo.kind
            )
            return made.oid
        except KeyboardInterrupt as error:
            raise wrong(f"interrupted; {_state(repo, files)[1]}") from error
        except (HTTPError, OSError, RuntimeError, ValueError, LookupError) as error:  # the last of garbled answers
            sha, state = _state(repo, files)
            if sha:
                return sha
            wait = next(waits, None)
            if wait is None or state != UNCHANGED or not may_pass(error):
                reason = why(error) or f"the upload failed ({' '.join(str(error).split())}); the same command again"
                raise wrong(without_token(f"'{repo.repo_id}': {reason}; {state}")) from error
        time.sleep(wait)


def _state(repo: Repo, files: Mapping[str, bytes | Path]) -> tuple[str | None, str]:
    """The commit of `files` if it is there, and in words what is there."""
    unknown = "whether the commit is there could not be asked: it is there whole or not at all, and the same command "
    try:
        with in_words(repo.repo_id):
            now = replace(repo, info=info_of(repo.repo_id, repo.kind))
        if now.head == repo.head:
            return None, UNCHANGED
        if not changed(files, now):
            return now.head, f"all of it is on the Hub, as {now.head}"
    except (UserError, KeyboardInterrupt):
        return None, unknown + "makes sure"
    return None, f"somebody else's commit {now.head} is on the Hub, and nothing of this one"


def check_tag(tag: str | None, wrong: type[Exception] = UserError) -> None:
    """Raise `wrong` if git, or whoever loads a revision by its name, would not take this name."""
    if tag is None:
        return
    if not re.fullmatch(r"\w[\w.-]*(?<!\.)(?<!\.lock)", tag, re.ASCII) or ".." in tag:
        raise wrong(f"{tag!r} cannot be a tag: letters, digits, '_', '-' and '.', as v1.0")
    if tag == "main" or re.fullmatch("[0-9a-f]{40}", tag):
        raise wrong(f"a tag called '{tag}' would be taken for a branch or a commit; v1, for one")


def tagged(repo: Repo, tag: str | None, wrong: type[Exception] = UserError) -> str | None:
    """The commit that has this tag."""
    from huggingface_hub import HfApi

    if tag is None or repo.info is None:
        return None
    with in_words(f"the tags of '{repo.repo_id}'", wrong, UNCHANGED):
        tags = HfApi().list_repo_refs(repo.repo_id, repo_type=repo.kind).tags
    return next((each.target_commit for each in tags if each.name == tag), None)


def check_tag_free(
    repo: Repo, tag: str | None, new: Mapping[str, Any], wrong: type[Exception] = UserError
) -> str | None:
    """The commit that has this tag, if it is main's head and nothing `new` comes upon it: then it may stay there.

    Raises:
        wrong: another commit has it, or the Hub cannot be asked.
    """
    has = tagged(repo, tag, wrong)
    if has and (new or has != repo.head):
        raise wrong(f"'{repo.repo_id}' has a tag {tag} already, and no tag is ever moved; another --tag")
    return has


def set_tag(repo: Repo, tag: str, sha: str, wrong: type[Exception] = UserError) -> None:
    """Give the commit `sha`, which is there, a tag.

    Raises:
        wrong: the Hub does not take it.
    """
    from huggingface_hub import HfApi

    state = f"all files are there, as {sha}, and the same command again makes the tag"
    try:
        with in_words(f"the tag {tag} of '{repo.repo_id}'", wrong, state):
            HfApi().create_tag(repo.repo_id, tag=tag, revision=sha, repo_type=repo.kind)
    except wrong as error:
        with suppress(wrong):
            if tagged(repo, tag, wrong) == sha:  # it was only the answer that was lost
                return
        raise error
    except KeyboardInterrupt as error:
        raise wrong(f"interrupted; {state}") from error
