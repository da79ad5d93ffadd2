"""Events are kept in the inbox, several in one transaction, before anything else happens."""

from __future__ import annotations

import pytest

from backend.errors import InvalidPayload
from backend.steps.listening import intake
from backend.store import inbox, reconciling
from backend.wiring import Services
from tests.labelstudio import payloads
from tests.steps.conftest import NOW


def test_something_without_an_action_is_refused(services: Services) -> None:
    with pytest.raises(InvalidPayload, match="no `action`"):
        intake.receive(services, {"annotation": {}})


def test_each_of_many_is_kept_or_refused_by_itself(services: Services) -> None:
    texts = [b'{"action": "A"}', b"[]", b'{"action": "B", "project": {"id": 1, "token": "t"}}']
    first, refused, third = intake.keep_texts(services, texts)
    assert isinstance(refused, InvalidPayload)
    with services.store.reading() as tx:
        kept = {event.id: event for event in inbox.pending(tx)}
    assert {id: event.action for id, event in kept.items()} == {first: "A", third: "B"}
    assert "token" not in str(kept)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "no JSON"),
        (b'{"action": "A"', "no JSON"),
        (b'{"action": "\xff"}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'["A"]', "a list; expected an object"),
        (b'{"action": "A", "x": NaN}', "NaN is not a finite number"),
        (b'{"action": "A", "x": 1e999}', "1e999 is not a finite number"),
        (b'{"x": 1}', "no `action`"),
    ],
)
def test_what_is_no_event_is_refused_with_the_reason(
    services: Services, text: bytes, says: str
) -> None:
    (refused,) = intake.keep_texts(services, [text])
    assert isinstance(refused, InvalidPayload)
    assert says in str(refused)
    with services.store.reading() as tx:
        assert inbox.counts(tx) == {}


@pytest.mark.parametrize(
    ("recorded", "is_due"),
    [("import_task_with_annotation_TASKS_CREATED", True), ("task_post_TASKS_CREATED", False)],
)
def test_tasks_imported_with_annotations_are_compared_soon(
    services: Services, recorded: str, is_due: bool
) -> None:
    """Label Studio sends no event for those annotations; what the reconciler fed asks no more."""
    body = payloads.load(f"webhooks/{recorded}")
    intake.handle(services, intake.receive(services, body))
    with services.store.reading() as tx:
        assert reconciling.get(tx, 1).due == is_due


def test_what_the_reconciler_found_asks_for_no_other_comparison(services: Services) -> None:
    body = payloads.load("webhooks/import_task_with_annotation_TASKS_CREATED")
    seen = {**body, "seen_at": NOW.isoformat()}
    intake.handle(services, intake.receive(services, seen, "reconciler"))
    with services.store.reading() as tx:
        assert not reconciling.get(tx, 1).due
