"""Events that arrive together are committed together: one flush to the disk for all of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from backend.steps.listening import intake
from backend.wiring import Services

MOST_EVENTS, MOST_BYTES = 64, 8_000_000  # of one commit; a larger event is committed alone


class _Waiting(NamedTuple):
    services: Services
    text: bytes
    number: Future[int]


class InboxWriter:
    """Writes all events in one thread, so that no writer waits for SQLite's lock.

    That sleeps longer than it is held. While one commit waits for the disk, further events
    gather for the next.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inbox")
        self._waiting: deque[_Waiting] = deque()

    async def keep(self, services: Services, text: bytes) -> int:
        """Return the event's number once it is committed; raises InvalidPayload."""
        number: Future[int] = Future()
        self._waiting.append(_Waiting(services, text, number))
        self._thread.submit(self._write)
        return await asyncio.wrap_future(number)

    def _write(self) -> None:
        """Commit what waits; often the call before has done so already."""
        batch = [one for one in self._next() if one.number.set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            _commit(batch)
        except Exception as error:  # noqa: BLE001 - those who wait get it
            if len(batch) == 1:
                batch[0].number.set_exception(error)
                return
            for one in batch:  # one event that the database refuses fails alone
                self._alone(one)

    def _alone(self, one: _Waiting) -> None:
        try:
            _commit([one])
        except Exception as error:  # noqa: BLE001 - the one who waits gets it
            one.number.set_exception(error)

    def _next(self) -> list[_Waiting]:
        """Take the events that have waited longest, all for the same services."""
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < MOST_EVENTS:
            head = self._waiting[0]
            size += len(head.text)
            if batch and (size > MOST_BYTES or head.services is not batch[0].services):
                break
            batch.append(self._waiting.popleft())
        return batch


def _commit(batch: Sequence[_Waiting]) -> None:
    """Commit a batch, and only then tell those who wait."""
    kept = intake.keep_texts(batch[0].services, [one.text for one in batch])
    for one, outcome in zip(batch, kept, strict=True):
        if isinstance(outcome, int):
            one.number.set_result(outcome)
        else:
            one.number.set_exception(outcome)
