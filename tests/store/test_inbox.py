from __future__ import annotations

import pytest

from backend.store import Store, inbox
from tests.store.examples import NOON, at


def test_an_event_waits_in_order_of_arrival_with_its_whole_payload(store: Store) -> None:
    payload = {"action": "B", "annotation": {"result": [{"rle": [1, 2]}], "lead_time": 1.5}}
    with store.transaction() as tx:
        first = inbox.put(tx, "A", {}, "webhook", at(9))
        second = inbox.put(tx, "B", payload, "reconciler", at(1))
        waiting = inbox.pending(tx, limit=10)
        assert [event.id for event in waiting] == [first, second]
        assert (waiting[1].payload, waiting[1].source) == (payload, "reconciler")
        assert waiting[1].received_at == at(1)
        assert [event.id for event in inbox.pending(tx, limit=1)] == [first]


def test_a_handled_event_no_longer_waits_and_is_counted_as_done(store: Store) -> None:
    with store.transaction() as tx:
        done = inbox.put(tx, "A", {}, "webhook", NOON)
        inbox.put(tx, "A", {}, "reconciler", NOON)
        inbox.done(tx, done, at(1))
        inbox.done(tx, done, at(2))
        assert done not in {event.id for event in inbox.pending(tx)}
        assert inbox.counts(tx) == {("done", "webhook"): 1, ("pending", "reconciler"): 1}
        assert inbox.get(tx, done) is not None


def test_a_poison_event_is_tried_five_times_then_dead_and_still_there(store: Store) -> None:
    with store.transaction() as tx:
        poison = inbox.put(tx, "A", {"x": 1}, "webhook", NOON)
    for attempt in range(1, 6):
        with store.transaction() as tx:
            begun = inbox.begin(tx, poison)
            assert begun is not None
            assert begun.attempts == attempt
            inbox.failed(tx, poison, f"no {attempt}")
    with store.transaction() as tx:
        assert inbox.pending(tx) == []
        (event,) = inbox.dead(tx)
        assert (event.id, event.attempts, event.error) == (poison, 5, "no 5")
        assert event.payload == {"x": 1}
        assert inbox.begin(tx, poison) is None
        assert inbox.revive(tx, poison)
        assert [event.attempts for event in inbox.pending(tx)] == [0]
        assert not inbox.revive(tx, poison)


def test_an_event_that_kills_its_worker_each_time_is_given_up(store: Store) -> None:
    """Nobody lives to report the failure, so the attempt alone must count."""
    with store.transaction() as tx:
        deadly, harmless = (inbox.put(tx, name, {}, "webhook", NOON) for name in "AB")
    for _ in range(inbox.MAX_ATTEMPTS):
        with store.transaction() as tx:
            assert inbox.begin(tx, deadly) is not None
    with store.transaction() as tx:
        assert inbox.begin(tx, deadly) is None
        (event,) = inbox.dead(tx)
        assert event.id == deadly
        assert "no worker survived 5 attempts" in str(event.error)
        assert inbox.pending_ids(tx) == [harmless]


def test_a_failure_reported_late_does_not_wake_a_handled_event(store: Store) -> None:
    with store.transaction() as tx:
        event = inbox.put(tx, "A", {}, "webhook", NOON)
        inbox.done(tx, event, NOON)
        inbox.failed(tx, event, "late")
        assert inbox.begin(tx, event) is None
        assert inbox.state(tx, event) == "done"


def test_what_ever_came_of_a_project_is_counted_also_when_it_is_forgotten(store: Store) -> None:
    with store.transaction() as tx:
        for source in ("webhook", "webhook", "reconciler"):
            inbox.done(tx, inbox.put(tx, "A", {}, source, NOON, project=7), at(1))
        inbox.done(tx, inbox.put(tx, "A", {}, "webhook", NOON), at(1))
        for kept in (1, 2):
            assert inbox.forget_done(tx, before=at(5)) == (4 if kept == 1 else 1)
            inbox.done(tx, inbox.put(tx, "A", {}, "webhook", NOON, project=7), at(1))
            assert inbox.received(tx, 7, "webhook") == 2 + kept
        assert inbox.received(tx, 7, "reconciler") == 1
        assert inbox.counts(tx, 7) == {("done", "webhook"): 1}
        assert inbox.counts(tx, 8) == {}


def test_another_event_that_waits_is_seen(store: Store) -> None:
    with store.transaction() as tx:
        first, second = (inbox.put(tx, "A", {}, "webhook", NOON) for _ in range(2))
        assert inbox.has_pending(tx, other_than=first)
        inbox.done(tx, second, NOON)
        assert not inbox.has_pending(tx, other_than=first)


def test_only_old_handled_events_are_forgotten_and_their_ids_not_given_again(store: Store) -> None:
    with store.transaction() as tx:
        events = [inbox.put(tx, "A", {}, "webhook", NOON) for _ in range(3)]
        inbox.done(tx, events[2], at(1))
        inbox.done(tx, events[1], at(9))
        assert inbox.forget_done(tx, before=at(5)) == 1
        assert inbox.get(tx, events[2]) is None
        assert inbox.put(tx, "A", {}, "webhook", NOON) > events[2]
        assert inbox.state(tx, events[0]) == "pending"
        assert inbox.state(tx, 999) is None


@pytest.mark.parametrize("payload", [{"x": {1, 2}}, {"x": object()}])
def test_a_payload_that_is_not_json_is_refused(store: Store, payload: dict[str, object]) -> None:
    with pytest.raises(Exception, match="not JSON serializable"), store.transaction() as tx:
        inbox.put(tx, "A", payload, "webhook", NOON)
