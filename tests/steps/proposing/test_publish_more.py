"""Publishing new tasks: they are added to what is shown, whatever dies in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from backend.records import Task
from backend.steps import decide, projects
from backend.steps.proposing import order, propose
from backend.steps.proposing.publish import publish
from backend.store import tasks
from backend.wiring import Services
from tests.steps.conftest import NOW, TASKS
from tests.steps.fake_label_studio import FakeLabelStudio
from tests.steps.proposing.test_publish import run

Champion = Callable[[int], None]


class Killed(BaseException):
    """No handler of errors sees a process that ends."""


class BreaksOff:
    """Label Studio, until something is pushed; then the process comes to an end."""

    def __init__(self, real: Any, error: BaseException) -> None:
        self.real, self.error = real, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def import_predictions(self, *_: Any) -> Any:
        raise self.error


def with_new_task(services: Services) -> None:
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, 15, "/data/upload/1/15.jpg", NOW)])
    propose.propose_ids(services, 1, 1, [15])


@pytest.mark.parametrize("error", [Killed(), OperationalError("", {}, Exception("gone"))])
def test_a_new_task_is_shown_although_its_push_broke_off(
    services: Services, server: FakeLabelStudio, champion: Champion, error: BaseException
) -> None:
    champion(1)
    run(services)
    with_new_task(services)
    dying: Any = BreaksOff(services.labelstudio, error)
    with pytest.raises(type(error)):
        publish(replace(services, labelstudio=dying), 1)
    assert decide.publication_due(services, 1)
    run(services)
    server.tasks = [*TASKS, 15]
    assert [len(held) for held in server.shown().values()] == [1] * 5
    assert {p["model_version"] for p in server.predictions} == {"v1.2"}


def test_a_new_task_is_added_to_what_is_shown_and_nothing_else_is_pushed(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    with_new_task(services)
    former = [p["id"] for p in server.predictions]
    publish(services, 1)
    assert not decide.publication_due(services, 1)
    assert [p["task"] for p in server.predictions if p["id"] not in former] == [15]
    assert server.model_version == "v1"


def test_an_order_that_is_asked_for_while_new_tasks_are_pushed_is_not_lost(
    services: Services,
    server: FakeLabelStudio,
    champion: Champion,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    champion(1)
    run(services)
    real = order.of_open

    def asked_meanwhile(*args: Any) -> Any:
        with services.store.transaction() as tx:
            projects.want_order(tx, 1)
        return real(*args)

    with_new_task(services)
    with monkeypatch.context() as patched:
        patched.setattr(order, "of_open", asked_meanwhile)
        publish(services, 1)
    assert decide.publication_due(services, 1)
    run(services)
    assert server.model_version == "v1.2"
