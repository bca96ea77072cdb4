"""The Hub, for whoever writes to it: who we are there, what a repo is called, and what went wrong, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from hub_utils.portable.command import UserError

TOKENS = "https://huggingface.co/settings/tokens"
LOGIN = f"`hf auth login`, or HF_TOKEN=…, with a token that may write ({TOKENS})"


@dataclass(frozen=True)
class Account:
    """Whose token this is, and the organisations they belong to."""

    name: str
    organisations: tuple[str, ...] = ()


def account(wrong: type[Exception] = UserError) -> Account:
    """Who we are on the Hub, by one request.

    Raises:
        wrong: there is no token, the Hub does not know it, or it may only read; or the Hub cannot be asked.
    """
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise wrong(f"no token for the Hub: {LOGIN}")
    with in_words("your account on the Hub", wrong):
        told = HfApi().whoami()
    if told.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise wrong(f"{told['name']}'s token may only read: {LOGIN}")
    return Account(told["name"], tuple(each["name"] for each in told.get("orgs", ())))


def full_name(
    repo_id: str | None, default: str, who: Account, wrong: type[Exception] = UserError, flag: str = "--repo_id"
) -> str:
    """OWNER/NAME of what `flag` says: OWNER is `who` if it says a name alone, NAME `default` if it says nothing.

    Raises:
        wrong: the Hub takes no such name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name = repo_id or default
    name = name if "/" in name else f"{who.name}/{name}"
    try:
        validate_repo_id(name)
        if name.count("/") != 1:
            raise HFValidationError("more than one /")
    except HFValidationError as error:
        raise wrong(
            f"'{name}' cannot be a name on the Hub: OWNER/NAME of letters, digits, '-', '_' and '.', at most 96, "
            f"without '--' or '..'; {flag} takes one"
        ) from error
    return name


@dataclass(frozen=True)
class Repo:
    """A repo to push to, as it is on the Hub now: `head` is main's commit, and `info` what the Hub says of it.

    Both are None if there is none of the name yet. `kind` is "model", "dataset" or "space".
    """

    repo_id: str
    kind: str
    public: bool
    head: str | None = None
    info: Any = None

    @property
    def url(self) -> str:
        """Its page."""
        from huggingface_hub import constants

        folder = "" if self.kind == "model" else f"{self.kind}s/"
        return f"{constants.ENDPOINT}/{folder}{self.repo_id}"

    @property
    def files(self) -> set[str]:
        """What somebody has put there: a new repo has one file of the Hub's own."""
        return {each.rfilename for each in self.info.siblings or ()} - {".gitattributes"} if self.info else set()


def find_repo(repo_id: str, kind: str, public: bool, who: Account, wrong: type[Exception] = UserError) -> Repo:
    """The repo that will be pushed to, by one request; nothing is written.

    Raises:
        wrong: it belongs to another, its visibility is not what is asked for, or the Hub cannot be asked.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    owner, name = repo_id.split("/")
    if owner.lower() not in {each.lower() for each in (who.name, *who.organisations)}:
        raise wrong(f"'{repo_id}' would belong to {owner}, the token is {who.name}'s; --repo_id {who.name}/{name}")
    new = Repo(repo_id, kind, public)
    with in_words(f"'{repo_id}'", wrong):
        try:
            info = HfApi().repo_info(repo_id, repo_type=kind)
        except RepositoryNotFoundError:
            return new
    if info.private and public:
        raise wrong(
            f"'{repo_id}' is private, and --public is for all to see; make it public yourself at {new.url}/settings, "
            "leave --public out, or choose another --repo_id"
        )
    if not info.private and not public:
        raise wrong(
            f"'{repo_id}' is public: everybody would see what is pushed; add --public if they may, or choose another "
            "--repo_id"
        )
    return Repo(repo_id, kind, public, info.sha, info)


def make_repo(repo: Repo, wrong: type[Exception] = UserError) -> Repo:
    """The repo, which is made if there is none yet.

    Raises:
        wrong: the Hub does not make it.
    """
    from huggingface_hub import HfApi

    if repo.head:
        return repo
    api, none = HfApi(), "nothing is on the Hub, or a repo with nothing in it"
    with in_words(f"'{repo.repo_id}'", wrong, none):
        api.create_repo(repo.repo_id, repo_type=repo.kind, private=not repo.public)
        info = api.repo_info(repo.repo_id, repo_type=repo.kind)
    if info.private == repo.public:
        raise wrong(f"'{repo.repo_id}' was made by somebody else meanwhile; the same command again")
    return replace(repo, head=info.sha, info=info)


def check_tag(repo: Repo, tag: str, wrong: type[Exception] = UserError) -> None:
    """Raise `wrong` if a commit before main's head has this tag, for a tag stays where it is."""
    from huggingface_hub import HfApi

    if repo.head is None:
        return
    with in_words(f"the tags of '{repo.repo_id}'", wrong):
        tags = {
            each.name: each.target_commit for each in HfApi().list_repo_refs(repo.repo_id, repo_type=repo.kind).tags
        }
    if tags.get(tag, repo.head) != repo.head:
        raise wrong(f"'{repo.repo_id}' has a tag '{tag}' already, on {tags[tag]}; choose another --tag")


def set_tag(repo: Repo, tag: str, revision: str, wrong: type[Exception] = UserError) -> None:
    """Give a commit, which is there, a tag, unless it has it already.

    Raises:
        wrong: another commit has it, or the Hub does not take it.
    """
    from huggingface_hub import HfApi

    api, there = HfApi(), f"the files are on the Hub (revision {revision}), the tag is not"
    with in_words(f"tag '{tag}'", wrong, there):
        tags = {each.name: each.target_commit for each in api.list_repo_refs(repo.repo_id, repo_type=repo.kind).tags}
        if tag not in tags:
            api.create_tag(repo.repo_id, tag=tag, revision=revision, repo_type=repo.kind)
    if tags.get(tag, revision) != revision:
        raise wrong(f"'{repo.repo_id}' has a tag '{tag}' already, on {tags[tag]}; {there}: choose another --tag")


@contextmanager
def in_words(what: str, wrong: type[Exception] = UserError, state: str = "", flag: str = "--repo_id") -> Iterator[None]:
    """Within it, whatever the Hub's client says becomes one `wrong`, and no token stands in it.

    `what` is asked for or written, as in "you/flowers"; `state` ends the sentence: what is on the Hub now; `flag` is
    what takes another name.
    """
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        yield
    except (HTTPError, OSError, HFValidationError, RuntimeError, ValueError) as error:
        reason = why(error, flag)
        if reason is None:  # nothing that the Hub has to do with
            raise
        raise wrong(without_token(f"{what}: {reason}{state and f'; {state}'}")) from error


def why(error: Exception, flag: str = "--repo_id") -> str | None:
    """What the Hub's client met, and the next step; None for an error that is not its own."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RevisionNotFoundError,
    )

    if isinstance(error, ValueError) and "metadata in README.md" in str(error):
        return f"the Hub refuses the card: {' '.join(str(error).split())}"  # it says more than the status behind it
    causes: list[BaseException] = [error]
    while (deeper := causes[-1].__cause__ or causes[-1].__context__) is not None and deeper not in causes:
        causes.append(deeper)
    for cause in causes:
        match cause:
            case LocalTokenNotFoundError():
                return f"no token for the Hub: {LOGIN}"
            case OfflineModeIsEnabled():
                return "HF_HUB_OFFLINE forbids to ask the Hub; unset it"
            case GatedRepoError():
                return "it is gated: accept its terms on its page on the Hub"
            case RevisionNotFoundError():
                return "it is on the Hub, and has no such revision: its page lists commits, tags and branches"
            case HFValidationError():
                return f"no name on the Hub ({_first_line(cause)})"
            case HfHubHTTPError():
                return _of_status(cause, flag)
    for cause in causes:
        if isinstance(cause, (HTTPError, ConnectionError, TimeoutError)):
            return (
                f"the Hub cannot be reached ({_first_line(cause)}); is the network there? The same command again, or "
                "another Hub with HF_ENDPOINT=https://…"
            )
    return None


def _of_status(error: Exception, flag: str) -> str:
    """A refusal of the Hub, by its HTTP status."""
    status = error.response.status_code
    said = _first_line(error)
    match status:
        case 401 if "Invalid" in said:
            return f"the Hub does not know this token (HTTP 401): {LOGIN}"
        case 401:
            return f"the Hub asks who you are (HTTP 401): {LOGIN}"
        case 403:
            return (
                "the Hub refuses it (HTTP 403): the token may only read, or the name belongs to another; "
                f"{LOGIN}, or {flag} YOU/NAME"
            )
        case 404:
            return "not on the Hub, or not for you (HTTP 404); is the name right? A private one needs its owner's token"
        case 409:
            return "something else is being done there (HTTP 409); the same command again in a minute"
        case 412:
            return "somebody else changed it meanwhile (HTTP 412); the same command again"
        case 429:
            wait = error.response.headers.get("Retry-After")
            return (
                f"too many requests (HTTP 429); the same command again in {wait or 'some'} {'s' if wait else 'minutes'}"
            )
        case _ if status >= 500:
            return f"the Hub answers HTTP {status}; the same command again later"
    return f"the Hub answers HTTP {status}: {said}"


def without_token(text: str) -> str:
    """`text` without anything that looks like a token."""
    return re.sub(r"\b(hf|api_org|hf_oauth)_[A-Za-z0-9_\-]{8,}", "hf_…", text)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
