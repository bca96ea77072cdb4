"""What can go wrong on the way to the loopback Hub, and with which requests it shall."""

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Event, Lock

HOWS = ("refuse", "lose", "hang", "slow", "cut", "corrupt", "loop", "down", "empty", "portal")


@dataclass
class Fault:
    """`how` is one of HOWS, or the HTTP status of a refusal."""

    pattern: re.Pattern
    how: str | int
    times: float
    skip: int
    seconds: float
    headers: dict[str, str]


class NoAnswerError(ConnectionError):
    """The connection is closed, and whoever asked is left alone with it."""


@dataclass
class Faults:
    """The faults that were asked for; a request gets the first that is meant for it."""

    planned: list[Fault] = field(default_factory=list)
    recovered: Event = field(default_factory=Event)
    is_down: bool = False
    lock: Lock = field(default_factory=Lock)

    def plan(self, pattern: str, how: str | int, times: float, skip: int, seconds: float, headers: dict) -> None:
        if how not in HOWS and how not in list(HTTPStatus):
            raise ValueError(f"no fault {how!r}: one of {', '.join(HOWS)}, or an HTTP status")
        self.recovered.clear()
        named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
        self.planned.append(Fault(re.compile(pattern), how, times, skip, seconds, named))

    def recover(self) -> None:
        with self.lock:
            self.planned.clear()
            self.is_down = False
        self.recovered.set()

    def meet(self, request: str) -> Fault | None:
        """The fault that "METHOD /path" meets; one that needs no answer is played here.

        Raises:
            NoAnswerError: no answer may come, and nothing may be done.
        """
        with self.lock:
            if self.is_down:
                raise NoAnswerError("down")
            fault = self._next(request)
            self.is_down = fault is not None and fault.how == "down"
        if fault is None:
            return None
        if fault.how == "hang":
            self.recovered.wait(fault.seconds)
        if fault.how in ("hang", "refuse", "down"):
            raise NoAnswerError(fault.how)
        return fault

    def _next(self, request: str) -> Fault | None:
        for fault in self.planned:
            if fault.times > 0 and fault.pattern.search(request):
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None


def flipped(content: bytes) -> bytes:
    """The same, but for one bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if content else content
