"""Events that arrive together share a commit; each is acknowledged after it, none before."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from backend.errors import InvalidPayload
from backend.steps.listening import intake
from backend.store import inbox
from backend.web import inbox_writer
from backend.web.inbox_writer import InboxWriter
from backend.wiring import Services

EVENTS = 12


def event(number: int) -> bytes:
    return json.dumps({"action": "NEW", "number": number}).encode()


class SlowDisk:
    """Holds the first commit up until all others wait; notes the size of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, writer: InboxWriter, others: int) -> None:
        self.sizes: list[int] = []
        self._writer, self._others = writer, others
        self._keep = intake.keep_texts
        monkeypatch.setattr(intake, "keep_texts", self.keep_texts)

    def keep_texts(self, services: Services, texts: Sequence[bytes]) -> Any:
        while not self.sizes and len(self._writer._waiting) < self._others:
            threading.Event().wait(0.001)
        self.sizes.append(len(texts))
        if b"poison" in texts and len(texts) > 1:
            raise ZeroDivisionError("the database refuses one of them")
        return self._keep(services, [text for text in texts if text != b"poison"] or texts)


def keep_all(services: Services, writer: InboxWriter, texts: Sequence[bytes]) -> list[Any]:
    async def gather() -> list[Any]:
        waiting = [writer.keep(services, text) for text in texts]
        return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(gather())


def kept_numbers(services: Services) -> dict[int, int]:
    with services.store.reading() as tx:
        return {event.id: event.payload["number"] for event in inbox.pending(tx)}


def test_what_waits_while_the_disk_is_slow_is_committed_at_once(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = InboxWriter()
    disk = SlowDisk(monkeypatch, writer, EVENTS - 1)
    ids = keep_all(services, writer, [event(n) for n in range(EVENTS)])
    assert disk.sizes == [1, EVENTS - 1]
    assert kept_numbers(services) == dict(zip(ids, range(EVENTS), strict=True))


def test_an_acknowledged_event_is_committed(services: Services) -> None:
    writer = InboxWriter()

    async def one_by_one() -> None:
        for number in range(EVENTS):
            id = await writer.keep(services, event(number))
            assert kept_numbers(services)[id] == number

    asyncio.run(one_by_one())


@pytest.mark.parametrize("bad", [b"poison", b"[]"])
def test_an_event_that_cannot_be_kept_fails_alone(
    services: Services, monkeypatch: pytest.MonkeyPatch, bad: bytes
) -> None:
    writer = InboxWriter()
    SlowDisk(monkeypatch, writer, EVENTS - 1)
    texts = [event(n) for n in range(EVENTS)]
    texts[5] = bad
    outcomes = keep_all(services, writer, texts)
    assert isinstance(outcomes.pop(5), InvalidPayload)
    assert sorted(kept_numbers(services)) == sorted(outcomes)
    assert len(outcomes) == EVENTS - 1


def test_large_events_do_not_share_a_commit(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_writer, "MOST_BYTES", 2 * len(event(0)))
    writer = InboxWriter()
    disk = SlowDisk(monkeypatch, writer, 5)
    keep_all(services, writer, [event(n) for n in range(6)])
    assert disk.sizes == [1, 2, 2, 1]
