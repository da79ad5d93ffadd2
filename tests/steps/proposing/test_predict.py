"""/predict: one answer per task, and never a second copy of what is published anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from backend.errors import QueueError
from backend.records import Task
from backend.steps import projects, queues
from backend.steps.proposing import predict
from backend.steps.proposing.propose import propose_ids
from backend.store import publishing, tasks
from backend.wiring import Services
from tests.steps.conftest import BROKEN, NOW, TASKS
from tests.steps.fake_label_studio import FakeLabelStudio
from tests.steps.proposing.test_publish import run

NEW = 15


def payload(task: int, image: str = "") -> dict[str, Any]:
    image = image or f"/data/upload/1/{task}.jpg"
    return {"id": task, "data": {"image": image}, "created_at": NOW.isoformat()}


def at_once(services: Services, project: int, number: int, ids: list[int], _s: float) -> bool:
    propose_ids(services, project, number, ids)
    return True


def too_late(*_: Any) -> bool:
    return False


def down(*_: Any) -> bool:
    raise QueueError("Redis is down")


@pytest.fixture
def shown(
    services: Services, server: FakeLabelStudio, champion: Callable[[int], None]
) -> FakeLabelStudio:
    """Version 1 is published; then a task comes that nobody has predicted."""
    champion(1)
    run(services)
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, NEW, f"/data/upload/1/{NEW}.jpg", NOW)])
    return server


def ask(services: Services, *payloads: dict[str, Any]) -> list[dict[str, Any]]:
    return predict.answer(services, projects.require(services, 1), payloads)


def as_stored(server: FakeLabelStudio, answers: list[dict[str, Any]], ids: list[int]) -> None:
    """Label Studio stores every answer that has a result."""
    rows = [{**row, "task": task} for task, row in zip(ids, answers, strict=True)]
    server.predictions += [row for row in rows if "result" in row]


def held(server: FakeLabelStudio, task: int) -> int:
    return len([p for p in server.predictions if p["task"] == task])


def test_stored_proposals_are_answered_in_the_order_asked(
    services: Services, shown: FakeLabelStudio
) -> None:
    asked = list(reversed(TASKS))
    answers = ask(services, *(payload(task) for task in asked))
    assert [row["result"][0]["id"] for row in answers] == [f"v1-{task}-1" for task in asked]
    assert [row["score"] for row in answers] == [shown.shown()[t][0]["score"] for t in asked]


def test_what_was_predicted_on_opening_is_not_published_a_second_time(
    services: Services, shown: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "propose_now", at_once)
    as_stored(shown, ask(services, payload(NEW)), [NEW])
    assert held(shown, NEW) == 1
    shown.tasks = [*TASKS, NEW]
    run(services)
    assert held(shown, NEW) == 1


@pytest.mark.parametrize("fault", [too_late, down])
def test_what_comes_too_late_is_skipped_and_published_afterwards(
    services: Services,
    shown: FakeLabelStudio,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[..., bool],
) -> None:
    monkeypatch.setattr(queues, "propose_now", fault)
    answers = ask(services, payload(11), payload(NEW))
    assert "result" in answers[0]
    assert "result" not in answers[1]
    as_stored(shown, answers[1:], [NEW])
    run(services)
    assert held(shown, NEW) == 1


class Killed(BaseException):
    """No handler of errors sees a process that ends."""


@pytest.mark.parametrize("error", [Killed(), OperationalError("", {}, Exception("gone"))])
def test_what_breaks_off_is_published_afterwards(
    services: Services,
    shown: FakeLabelStudio,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    def breaks_off(*_: Any) -> bool:
        raise error

    monkeypatch.setattr(queues, "propose_now", breaks_off)
    with pytest.raises(type(error)):
        ask(services, payload(11), payload(NEW))
    shown.tasks = [*TASKS, NEW]
    run(services)
    assert [held(shown, task) for task in shown.tasks] == [1] * len(shown.tasks)
    assert shown.model_version == "v1", "it was added to what is shown"


def test_publishing_leaves_alone_what_is_being_answered(
    services: Services, shown: FakeLabelStudio
) -> None:
    with services.store.transaction() as tx:
        assert publishing.claim(tx, 1, "v1", {NEW: 0.5}) == {NEW: 0.5}
        assert publishing.claim(tx, 1, "v1", {NEW: 0.5}) == {}
    run(services)
    assert held(shown, NEW) == 0


def test_every_task_gets_its_answer_also_those_that_cannot_be_predicted(
    services: Services, shown: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "propose_now", at_once)
    answers = ask(services, payload(16, BROKEN), {"id": 17, "data": {}}, payload(11))
    empty = {"result": [], "score": 1.0, "model_version": "v1"}
    assert answers[:2] == [empty, empty]
    assert answers[2]["result"]
