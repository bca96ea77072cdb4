"""Who waits for an answer: a line that is never so long that somebody in it would wait for nothing.

gradio's own has no end: whoever comes last of two hundred waits for all of them. In this one whoever could not be
answered within seconds is told so at once, and so is whoever waited that long; who leaves gives up the place. It is
also where a page that is about to end takes no more questions.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from gradio.block_function import BlockFunction
from gradio.context import LocalContext
from gradio.queueing import Event, Queue
from gradio.server_messages import ProcessCompletedMessage
from gradio.utils import run_coro_in_background

from hub_utils.portable.crowd import LONGEST as WAIT
from hub_utils.portable.crowd import Crowd, Silent
from hub_utils.portable.http_door import BYTES, LARGE, MANY_LARGE, MOST_LARGE

LONGEST = 4.0  # seconds that anybody waits for the turn
MOST = 200  # that wait for one kind of answer, while nobody knows yet how long it takes
EVERY = 0.25  # seconds between two looks at who has waited for too long
OF_LATE = 15  # answers by which the time that one takes is known
FORGOTTEN = 10.0  # seconds after which nobody fetches anything any more
AGAIN = 2  # seconds after which programs may ask again
ENDING = "This page is being restarted. Try again in a minute."


class Line(Queue):
    """gradio's queue, with an end, in the place of `like`, which has none.

    It bounds the events that gradio itself runs only a few of at once; these are the ones that ask a model. A function
    with an attribute `when_busy`, a `WhenBusy`, says in the page itself that it is busy; of others gradio tells it.
    """

    def __init__(self, like: Queue) -> None:
        how = like.live_updates, like.max_thread_count, like.update_intervals, like.max_size, like.blocks
        super().__init__(*how, default_concurrency_limit=like.default_concurrency_limit)
        self.ending, self.patience = False, LONGEST
        self.crowd = Crowd(lambda: self.under_way)
        self._over: dict[str, float] = {}  # sessions that nothing is expected of, and since when
        self._took: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=OF_LATE))

    def start(self) -> None:
        super().start()
        run_coro_in_background(self._mind)

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """As gradio's, but for whoever would wait for too long.

        Raises:
            HTTPException: 503, with a sentence, to programs.
        """
        fn = self.blocks.fns.get(body.fn_index)
        sentence = fn is not None and _is_bounded(fn) and (self.why_not(fn) or self._why_not_so_large(request))
        if not sentence:
            return await super().push(body, request, username)
        if body.simple_format:
            raise HTTPException(503, sentence, {"Retry-After": str(AGAIN)})
        pushed, event_id, state = await super().push(body, request, username)
        if event := pushed and self.event_ids_to_events.get(event_id):
            self._send_away(event, sentence)
        return pushed, event_id, state

    def why_not(self, fn: BlockFunction) -> str:
        """Why nobody may join the line for this answer now; "" if they may."""
        if self.ending:
            return ENDING
        line = self.event_queue_per_concurrency_id.get(fn.concurrency_id)
        if line is None or not line.concurrency_limit:
            return ""
        times, before = self._took[fn.concurrency_id], len(line.queue) - line.concurrency_limit + 1
        wait = (before + line.current_concurrency) * statistics.median(times) / line.concurrency_limit if times else 0
        return _busy(line.current_concurrency + len(line.queue)) if wait > LONGEST or len(line.queue) >= MOST else ""

    def _why_not_so_large(self, request: Any) -> str:
        """Why no question of that size may wait now, with those that do; "" if it may."""
        size = _bytes_of(request)
        if size <= LARGE:
            return ""
        waiting = sum(_bytes_of(event.request) for event in list(self.event_ids_to_events.values()))
        return MANY_LARGE if waiting + size > MOST_LARGE else ""

    def why_no_upload(self) -> str:
        """Why nothing may be uploaded now; "" if it may."""
        return ENDING if self.ending else _busy(len(self.crowd)) if self.crowd.wait() > WAIT else ""

    @property
    def under_way(self) -> int:
        """How many wait for an answer, or are being answered."""
        return sum(
            len(line.queue) + line.current_concurrency
            for line in list(self.event_queue_per_concurrency_id.values())
            if line.concurrency_limit
        )

    @property
    def has_answers_to_fetch(self) -> bool:
        return any(not messages.empty() for messages in list(self.pending_messages_per_session.values()))

    async def process_events(self, events: list[Event], batch: bool, begin_time: float, fn: BlockFunction) -> None:
        began = time.monotonic()
        asked = any(event.alive for event in events)
        await super().process_events(events, batch, begin_time, fn)
        if asked and _is_bounded(fn):
            self.crowd.left()
            self._took[events[0].concurrency_id].append(time.monotonic() - began)

    def compute_analytics_summary(self, records: Any) -> Any:
        """Of up to 10,000 requests, after each of them, by pandas; nobody looks at it."""
        return self.cached_event_analytics_summary

    async def _mind(self) -> None:
        silent = Silent()
        while not self.stopped:
            await asyncio.sleep(EVERY)
            until = time.monotonic() - self.patience
            for line in self.event_queue_per_concurrency_id.values():
                for event in [each for each in line.queue if each.enqueue_time < until and _is_bounded(each.fn)]:
                    others = line.current_concurrency + len(line.queue) - 1
                    self._send_away(event, ENDING if self.ending else _busy(others))
            self._forget()
            if server := getattr(self.blocks, "server", None):
                silent.hang_up(server)

    def _send_away(self, event: Event, sentence: str) -> None:
        """Answer it with the sentence, in nobody's turn."""
        self.event_queue_per_concurrency_id[event.concurrency_id].queue.remove(event)
        self.event_ids_to_events.pop(event._id, None)
        if (known := self.event_analytics.get(event._id)) is not None:
            known["status"] = "cancelled"
        in_place: WhenBusy | None = getattr(event.fn.fn, "when_busy", None)
        if in_place is None:
            output = {"error": sentence, "visible": True, "duration": 10, "title": "Busy"}
        else:
            told = event.data.event_data if event.data and isinstance(event.data.event_data, dict) else {}
            output = {"data": in_place(sentence, str(told.get("turn", ""))[:40]), "is_generating": False}
        self.send_message(event, ProcessCompletedMessage(output=output, success=in_place is not None))

    def _forget(self) -> None:
        """gradio remembers for ever who was answered once, and who left before."""
        now, ids = time.monotonic(), self.pending_event_ids_session
        over = [session for session in ids if not self._is_expected(session)]
        self._over = {session: self._over.get(session, now) for session in over}
        for session in [each for each, since in self._over.items() if now - since > FORGOTTEN]:
            del ids[session]
        while len(self.event_analytics) > OF_LATE:
            del self.event_analytics[next(iter(self.event_analytics))]

    def _is_expected(self, session: str) -> bool:
        """Whether there is, or will be, an answer that it can fetch."""
        messages = self.pending_messages_per_session.get(session)
        if messages is None or not (events := self.pending_event_ids_session[session]):
            return False
        return not messages.empty() or any(event in self.event_ids_to_events for event in events)


WhenBusy = Callable[[str, str], list[Any]]
"""What a function's outputs show instead, of a sentence that says why, and the `turn` of the question."""


def why_stop() -> Callable[[], str]:
    """Of the event that is being answered here: why to leave it, because nobody wants it any more; or ""."""
    blocks, event_id = LocalContext.blocks.get(), LocalContext.event_id.get()
    line = getattr(blocks, "_queue", None)
    event = line.event_ids_to_events.get(event_id) if line and event_id else None

    def why() -> str:
        if event and not event.alive:
            return "Not looked at: you left before."
        return "Not looked at: the page was restarted." if event and not line.patience else ""

    return why


def _is_bounded(fn: BlockFunction) -> bool:
    return isinstance(fn.concurrency_limit, int)


def _bytes_of(request: Any) -> int:
    """What came with a request, as the door counted it; 0 where there was none."""
    count = getattr(request, "scope", {}).get(BYTES)
    return count() if count else 0


def _busy(others: int) -> str:
    being = f"{others} others are" if others > 1 else "another is" if others else "others are"
    return f"This page is busy: {being} being answered. Try again in a moment."
