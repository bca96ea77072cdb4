"""Signals that ask training to leave: Ctrl-C, and what a machine sends before it is taken away.

Standard library only: the handlers stand before the libraries that take seconds to import. What a signal does depends
on what it meets. While libraries are imported the process ends on the spot, for nothing is open; later an exception
unwinds what is under way; and within `patiently` it is only remembered, for a loop that asks after each step. A second
signal ends the process on the spot, unless it is the same one twice: a terminal sends Ctrl-C to a launcher and to what
it launched, and the launcher hands it on.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# As Slurm sends SIGUSR1, before a time limit, and a terminal SIGHUP that is closed; not every system has them.
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
SAME = 1.0  # seconds in which another signal means the same
GOES_ON = "the same command with --resume goes on"
BEGINS_ANEW = "nothing is left behind, and the same command begins anew"
# Launchers set these. One that is gone can send no signal, and what it launched would train on unseen.
LAUNCHERS = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")


class Stopped(KeyboardInterrupt):
    """A signal asked to leave; says what it leaves behind. `checkpoint` is where all processes left together."""

    def __init__(self, number: int, checkpoint: str | None = None):
        self.number, self.status = number, status_of(number)
        self.checkpoint = checkpoint
        who = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
        left = "" if checkpoint is None else f"{checkpoint}; "
        super().__init__(f"{who}; {left}{_State.goes_on}")


def status_of(number: int) -> int:
    """The exit status: 130 after Ctrl-C, as shells have it, and 143, as after SIGTERM, for all that preempts."""
    return 130 if number == signal.SIGINT else 143


class _State:
    goes_on = GOES_ON
    number: int | None = None  # of the first signal
    since = 0.0
    how = "at once"  # or "unwinding", or "patiently"
    parent: int | None = None
    shown: tuple[int, ...] = ()  # of standard output and error, those that a terminal shows


def watch() -> None:
    """Handle the signals from now on, in the main thread; those that are ignored, as by nohup, stay so."""
    _State.parent = os.getppid()
    _State.shown = tuple(number for number in (1, 2) if os.isatty(number))
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def unwind(goes_on: str = GOES_ON) -> None:
    """From now on a signal is an exception: there may be something to clean up. `goes_on` says how, after that."""
    _State.how, _State.goes_on = "unwinding", goes_on


@contextmanager
def patiently() -> Iterator[None]:
    """Within it a signal is only remembered: who works there asks for it with `asked`."""
    before, _State.how = _State.how, "patiently"
    try:
        yield
    finally:
        _State.how = before


def asked() -> int | None:
    """The signal that asks to leave, if one does; a launcher that is gone asks as SIGTERM does."""
    if _State.number is None and _is_orphan():
        _State.number = signal.SIGTERM
    return _State.number


def _is_orphan() -> bool:
    launched = any(name in os.environ for name in LAUNCHERS)
    return launched and _State.parent is not None and os.getppid() != _State.parent


def _handle(number: int, frame: object) -> None:
    now = time.monotonic()
    if signal.Signals(number).name == "SIGHUP":
        _speak_to_nobody()
    if _State.number is None:
        _State.number, _State.since = number, now
        if _State.how == "unwinding":
            raise Stopped(number)
        if _State.how == "at once":
            _end(Stopped(number))
    elif now - _State.since > SAME:
        _end(Stopped(number))


def _speak_to_nobody() -> None:
    """The terminal is gone, and whatever is written there would be an error, before there is a checkpoint."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in _State.shown:
        os.dup2(nowhere, number)
    os.close(nowhere)


def _end(stopped: Stopped) -> None:
    """Without a word to anybody else: libraries may be in any state."""
    if int(os.environ.get("RANK", 0)) == 0:
        with suppress(OSError):
            os.write(2, f"error: {stopped}\n".encode())
    os._exit(stopped.status)
