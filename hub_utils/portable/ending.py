"""How a page ends when it is told to: a Space that restarts, a container that stops, Ctrl-C.

Whoever is being answered gets the answer, whoever comes is told that the page restarts, and what was uploaded is
deleted. A second signal ends at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hub_utils.portable.markdown import counted
from hub_utils.portable.upload_folder import empty

if TYPE_CHECKING:
    from hub_utils.portable.waiting import Line

GRACE = 6.0  # seconds for those who are being answered; containers are killed ten after they were told
FETCHING = 1.0  # seconds for the answers on their way
ON_THE_WIRE = 0.3  # seconds for what was fetched this moment
HANGING = 20.0  # seconds for what else is to be done, as sending feedback on, and for threads that do not end
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGBREAK") if hasattr(signal, name)]


@contextmanager
def told_to_end() -> Iterator[threading.Event]:
    """An event that the first signal sets; the second ends the process.

    Only the main thread hears of signals: elsewhere it is never set.
    """
    told, before = threading.Event(), {}

    def first(number: int, frame: Any) -> None:
        for each in SIGNALS:
            signal.signal(each, second)
        told.set()

    def second(number: int, frame: Any) -> None:  # the system's own would not end the first process of a container
        os._exit(128 + number)

    if threading.current_thread() is threading.main_thread():
        before = {each: signal.signal(each, first) for each in SIGNALS}
    try:
        yield told
    finally:
        if not told.is_set():
            for each, handler in before.items():
                signal.signal(each, handler)


def wait_and_end(line: Line, is_running: Callable[[], bool], close: Callable[[], None]) -> None:
    """Wait until the process is told to end; then take no more questions, let those under way be answered, and `close`.

    To be called in the main thread. What still runs after that does not keep the process from ending.
    """
    with told_to_end() as told:
        while is_running() and not told.wait(0.1):
            pass
        if not told.is_set():  # somebody closed it
            return
        began, line.ending = time.monotonic(), True
        if under_way := line.under_way:
            print(f"ending, with {counted(under_way, 'question')} under way; once more ends at once", flush=True)
        _while(lambda: line.under_way, until=began + GRACE)
        line.patience = 0  # who still waits hears that the page restarts
        _while(lambda: line.under_way or line.has_answers_to_fetch, until=time.monotonic() + FETCHING)
        time.sleep(ON_THE_WIRE)
        empty()
        close()
        last = threading.Timer(HANGING, os._exit, [0])
        last.daemon = True
        last.start()


def _while(still: Callable[[], Any], until: float) -> None:
    while still() and time.monotonic() < until:
        time.sleep(0.05)
