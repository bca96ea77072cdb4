"""The Hub, for whoever reads or writes there: who we are, what a repo is called, and what went wrong, in words."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hub_utils.portable.command import UserError
from hub_utils.portable.tokens import without_token

TOKENS = "https://huggingface.co/settings/tokens"
READ = f"`hf auth login`, or HF_TOKEN=… ({TOKENS})"
LOGIN = f"`hf auth login`, or HF_TOKEN=…, with a token that may write ({TOKENS})"
UNREADABLE = (LookupError, TypeError, AttributeError)  # of an answer that is not made as the Hub makes it


@dataclass(frozen=True)
class Account:
    """Whose token this is, and the organisations they belong to."""

    name: str
    organisations: tuple[str, ...] = ()


def account(wrong: type[Exception] = UserError, state: str = "") -> Account:
    """Who we are on the Hub, by one request; `state` as in `in_words`.

    Raises:
        wrong: there is no token, the Hub does not know it, or it may only read; or the Hub cannot be asked.
    """
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise wrong(f"no token for the Hub: {LOGIN}")
    with in_words("your account on the Hub", wrong, state):
        told = HfApi().whoami()
        who = Account(told["name"], tuple(each["name"] for each in told.get("orgs", ())))
        role = told.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise wrong(f"{who.name}'s token may only read: {LOGIN}")
    return who


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
        called = "" if repo_id else ", as it is called if nothing is said,"
        raise wrong(
            f"'{name}'{called} cannot be a name on the Hub: OWNER/NAME of letters, digits, '-', '_' and '.', at most "
            f"96, without '--' or '..'; {flag} takes one"
        ) from error
    return name


@contextmanager
def in_words(
    what: str, wrong: type[Exception] = UserError, state: str = "", flag: str = "--repo_id", reading: bool = False
) -> Iterator[None]:
    """Within it the Hub's client is patient, and whatever it says becomes one `wrong`, and no token stands in it.

    `what` is asked for or written, as in "you/flowers"; `state` ends the sentence: what is on the Hub now; `flag` is
    what takes another name. Where it is only `reading`, no right to write is asked for, and no command to be given
    again: pages read, and try again by themselves.
    """
    from huggingface_hub.errors import HFValidationError, HTTPError

    from hub_utils.portable.patience import be_patient

    be_patient()
    try:
        yield
    except (HTTPError, OSError, HFValidationError, RuntimeError, ValueError, *UNREADABLE) as error:
        reason = why(error, flag, reading)
        if reason is None:  # nothing that the Hub has to do with
            raise
        raise wrong(without_token(f"{what}: {reason}{state and f'; {state}'}")) from error


def why(error: Exception, flag: str = "--repo_id", reading: bool = False) -> str | None:
    """What the Hub's client met, and the next step; None for an error that is not its own."""
    login = READ if reading else LOGIN
    from httpx2 import TooManyRedirects
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RevisionNotFoundError,
    )

    from hub_utils.portable.patience import AwayError
    from hub_utils.portable.whole_download import DamagedError

    if isinstance(error, ValueError) and "metadata in README.md" in str(error):
        return f"the Hub refuses the card: {' '.join(str(error).split())}"  # it says more than the status behind it
    causes = _causes(error)
    for cause in causes:
        match cause:
            case LocalTokenNotFoundError():
                return f"no token for the Hub: {login}"
            case DamagedError():
                how = "something on the way changes it, or it is broken on the Hub"
                return f"{_first_line(cause)}: {how}{_again(reading)}"
            case AwayError():
                return _away(cause, reading)
            case OfflineModeIsEnabled():
                return "HF_HUB_OFFLINE forbids to ask the Hub; unset it"
            case GatedRepoError():
                return "it is gated: accept its terms on its page on the Hub"
            case RevisionNotFoundError():
                return "it is on the Hub, and has no such revision: its page lists commits, tags and branches"
            case UnicodeEncodeError():
                return f"the token holds what no token has ({cause.object[cause.start : cause.end]!r}): {login}"
            case HFValidationError():
                return f"no name on the Hub ({_first_line(cause)})"
            case HfHubHTTPError():
                return _refusal(cause) if reading else _of_status(cause, flag)
    for cause in causes:
        if isinstance(cause, TooManyRedirects):
            return f"the Hub sends us in circles ({_first_line(cause)}); is HF_ENDPOINT right?{_again(reading)}"
        if isinstance(cause, (HTTPError, ConnectionError, TimeoutError)):
            return _away(cause, reading)
    return no_hub(error)


def no_hub(error: Exception) -> str | None:
    """What is to be said of an answer that no Hub gives; None for any other error."""
    from huggingface_hub import constants
    from huggingface_hub.errors import FileMetadataError

    for cause in _causes(error):
        read = isinstance(cause, (json.JSONDecodeError, *UNREADABLE)) and _met_in_an_answer(cause)
        if read or isinstance(cause, FileMetadataError):
            endpoint = constants.ENDPOINT
            return f"what answers at {endpoint} is not the Hub, or a login page stands between; is HF_ENDPOINT right?"
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it came of, the last first."""
    causes = [error]
    while (deeper := causes[-1].__cause__ or causes[-1].__context__) is not None and deeper not in causes:
        causes.append(deeper)
    return causes


def _met_in_an_answer(error: BaseException) -> bool:
    """Whether it was the Hub's client, or this module, that stumbled: the same errors elsewhere are other troubles."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.partition(".")[0] == "huggingface_hub" for name in modules) or modules[-1:] == [__name__]


def _away(error: BaseException, reading: bool) -> str:
    again = "" if reading else " The same command again, or another Hub with HF_ENDPOINT=https://…"
    return f"the Hub cannot be reached ({_first_line(error)}); is the network there?{again}"


def _again(reading: bool) -> str:
    return "" if reading else "; the same command again"


def _refusal(error: Exception) -> str:
    """Of what is only read."""
    status, said = error.response.status_code, _said(error)
    match status:
        case 401 if "Invalid" in f"{said} {error}" and "username" not in said:  # so it calls whoever says no name
            return f"the Hub does not know this token (HTTP 401): {READ}"
        case 401:
            return f"not on the Hub, or private (HTTP 401); is the name right? A private one needs a token: {READ}"
        case 403:
            return f"the Hub does not give it to this token (HTTP 403); is the name right? Another token: {READ}"
        case 404:
            return "not on the Hub, or not for you (HTTP 404); is the name right? A private one needs its owner's token"
        case 429:
            return f"too many requests (HTTP 429){_asks_to_wait(error)}"
    return f"the Hub answers HTTP {status}" + (_asks_to_wait(error) if status >= 500 else f": {said}")


def _of_status(error: Exception, flag: str) -> str:
    """A refusal of the Hub, by its HTTP status."""
    status = error.response.status_code
    said = _said(error)
    match status:
        case 401 if "Invalid" in f"{said} {error}":
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
            return f"too many requests (HTTP 429); the same command again {_when(error, 'in some minutes')}"
        case _ if status >= 500:
            return f"the Hub answers HTTP {status}; the same command again {_when(error, 'later')}"
    return f"the Hub answers HTTP {status}: {said}"


def _asks_to_wait(error: Exception) -> str:
    when = _when(error, "")
    return f"; the Hub asks to come back {when}" if when else ""


def _when(error: Exception, unsaid: str) -> str:
    """When the Hub wants to be asked again, as in "in 7 s"; `unsaid` if it does not say."""
    from hub_utils.portable.patience import seconds_asked

    seconds = seconds_asked(error.response)
    if seconds is None:
        return unsaid
    unit, name = next((each for each in ((3600, "h"), (60, "min")) if seconds >= 2 * each[0]), (1, "s"))
    return f"in {math.ceil(seconds / unit)} {name}"


def _said(error: Exception) -> str:
    """What the Hub itself says, in one line."""
    return " ".join((error.server_message or _first_line(error)).split())[:300]


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
