"""The Hub's client, made patient: what may be asked twice is, for a bounded time, and no file comes in damaged.

huggingface_hub tries some requests again, others never, waits as long as the Hub says, and for an answer for ever. Here
is one rule for all of its requests, and so for those of transformers and datasets, which ask through it.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import hf_raise_for_status, parse_ratelimit_headers
from huggingface_hub.utils._http import hf_request_event_hook

from hub_utils.portable.whole_download import Downloads

BUSY = {408, 429, 500, 502, 503, 504}
BROKEN = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)
# What is asked with POST, and changes nothing, or nothing more when it is asked again.
REPEATABLE = re.compile(r"/api/((models|datasets|spaces)/.+/paths-info/.+|validate-yaml|repos/create)")
LONG = 5.0  # seconds of waiting that are worth a word

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """Seconds: before each new attempt (`waits`); for which the Hub may be silent, and after which no attempt begins
    (`silence`), if it is to write something then (`writing`); and that it may ask us to wait (`longest`).
    """

    waits: tuple[float, ...] = (1, 2, 4)
    silence: float = 30
    writing: float = 100
    longest: float = 60


COMMANDS = Patience()
PAGES = Patience(waits=(1, 2), silence=10, longest=10)  # somebody is looking at it
_now = COMMANDS  # in the whole process, which has one client
_is_set = False


class AwayError(OfflineModeIsEnabled):
    """The Hub did not answer, as often as it was asked. To its client that is as if there were no network: it looks
    into its cache, and does not ask again.
    """


def be_patient(patience: Patience | None = None) -> None:
    """Let all requests of this process to the Hub be made as `patience` says; without it as was said before, or as
    `COMMANDS` says.

    What the client itself says before it tries again is not shown: an address to upload to is as good as a key.
    """
    global _now, _is_set
    _now = patience or _now
    if not _is_set:
        set_client_factory(PatientClient)
        _is_set = True
    for name in ("utils._http", "file_download"):
        logging.getLogger(f"huggingface_hub.{name}").setLevel(logging.ERROR)


class PatientClient(httpx2.Client):
    """As huggingface_hub's own, and asks again.

    What cannot be repeated safely, a commit say, goes once; the client repeats uploads, whose content it reads anew.
    """

    def __init__(self) -> None:
        super().__init__(event_hooks={"request": [hf_request_event_hook]}, follow_redirects=True)
        self._reached = False  # anybody at all, since this process began or a connection failed
        self._away_until = 0.0  # who has waited in vain for one file does not wait for each of the others
        self._downloads = Downloads()

    def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        """The answer.

        Raises:
            AwayError: there was none, often enough, or for too long.
            HfHubHTTPError: it was one of `BUSY` as often, or asks to be left alone for longer than we wait.
        """
        self._bound(request)
        self._downloads.prepare(request)
        repeatable, begun = _is_repeatable(request), time.monotonic()
        waits = iter(() if begun < self._away_until else _now.waits)
        while True:
            try:
                response = super().send(request, **how)
            except BROKEN as error:
                wait = next(waits, None) if time.monotonic() - begun < _now.silence else None
                if not repeatable and not isinstance(error, httpx2.TimeoutException):
                    raise  # the client may know how to repeat it
                if wait is None or not repeatable or self._has_no_network(error):
                    self._give_up()
                    raise AwayError(str(error) or type(error).__name__) from error
            else:
                self._reached = True
                if response.status_code not in BUSY:
                    self._away_until = 0.0
                    return self._downloads.watch(request, response)
                wait, asked = next(waits, None), seconds_asked(response) or 0.0
                # Who is sent away for asking too much has not been listened to.
                again = repeatable or (response.status_code == 429 and _can_be_sent_again(request))
                if asked > _now.longest or (again and wait is None):
                    self._give_up()
                    response.read()
                    hf_raise_for_status(response)
                if not again or wait is None:
                    return response
                response.close()
                wait = max(wait, asked)
            if wait > LONG:
                logger.warning("the Hub asks to wait %.0f s", wait)
            time.sleep(wait)

    def _has_no_network(self, error: Exception) -> bool:
        """As far as we know; a few seconds would not change that."""
        return not self._reached and isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)

    def _give_up(self) -> None:
        self._away_until = time.monotonic() + _now.silence

    def _bound(self, request: httpx2.Request) -> None:
        """No request waits longer, whatever limit it was made with."""
        limit = _now.silence if request.method in ("GET", "HEAD") else _now.writing
        told = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            each: min(told.get(each) or limit, limit) for each in ("connect", "read", "write", "pool")
        }


def _is_repeatable(request: httpx2.Request) -> bool:
    if request.method == "POST":
        return _can_be_sent_again(request) and REPEATABLE.search(request.url.path) is not None
    return request.method in ("GET", "HEAD")


def _can_be_sent_again(request: httpx2.Request) -> bool:
    """Not so what is read from a file as it is sent."""
    return isinstance(request.stream, httpx2.ByteStream)


def may_pass(error: Exception) -> bool:
    """Whether the Hub's trouble may be over in a moment."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in BUSY
    return isinstance(error, BROKEN)


def seconds_asked(response: httpx2.Response) -> float | None:
    """For how long the Hub asks to be left alone, if it does."""
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds
    said = response.headers.get("Retry-After", "").strip()
    if said.isdigit():
        return float(said)
    try:
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # it says nothing, or a time of no zone
        return None
