"""An image that kills its worker: counted by whoever looks, then answered without proposals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from backend.records import Task
from backend.steps import projects, queues
from backend.steps.proposing import backlog, predict, problems, seeing
from backend.steps.proposing.propose import propose_ids
from backend.store import tasks
from backend.wiring import Services
from tests.steps.conftest import BROKEN, NOW, TASKS
from tests.steps.fake_label_studio import FakeLabelStudio
from tests.steps.prompts.clicking import CONFIG, ON_LEFT, SeeingResidents, click
from tests.steps.proposing.test_backlog import done, problem_of, raising
from tests.steps.proposing.test_predict import NEW, payload
from tests.steps.proposing.test_publish import run

Look = Callable[[Services], None]
KILLED_TWICE = "v1: predicting it killed its process 2 times; was it out of memory?"


@pytest.fixture
def shown(services: Services, server: FakeLabelStudio, champion: Callable[[int], None]) -> Services:
    """v1 is published; then a task comes whose image kills whoever predicts it."""
    champion(1)
    run(services)
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, NEW, f"/data/upload/1/{NEW}.jpg", NOW)])
    return raising(services, NEW, SystemExit())


def opened(services: Services) -> None:
    propose_ids(services, 1, 1, [NEW])


def clicked(services: Services) -> None:
    seeing.see(services, 1, 1, NEW, None)


def in_backlog(services: Services) -> None:
    backlog.predict_block(services, 1, 1, [NEW])


def die(services: Services, look: Look) -> None:
    """Look at it in a process that does not live to say that it has ended."""
    with pytest.MonkeyPatch.context() as killed, pytest.raises(SystemExit):
        killed.setattr(services.queues, "ended", lambda name: None)
        look(services)


@pytest.mark.parametrize(
    "looks",
    [
        (opened, opened, opened),
        (in_backlog, opened, in_backlog),
        (opened, in_backlog, opened),
    ],
)
def test_the_third_look_finds_out_whoever_looks(
    shown: Services, looks: tuple[Look, Look, Look]
) -> None:
    first, second, third = looks
    die(shown, first)
    die(shown, second)
    assert problem_of(shown, NEW) is None
    third(shown)
    assert problem_of(shown, NEW) == KILLED_TWICE
    for again in (opened, clicked, in_backlog):
        again(shown)  # nobody dies any more


def test_clicks_count_by_themselves_and_leave_the_proposals_alone(
    services: Services, champion: Callable[[int], None]
) -> None:
    """A look climbs, and takes more memory than the prediction that is shown already."""
    champion(1)
    run(services)
    heavy = raising(services, TASKS[0], SystemExit())

    def look() -> None:
        seeing.see(heavy, 1, 1, TASKS[0], 27)

    die(heavy, lambda _: look())
    die(heavy, lambda _: look())
    look()  # nobody dies any more
    assert problem_of(services, TASKS[0]) is None
    (answer,) = predict.answer(services, projects.require(services, 1), [payload(TASKS[0])])
    assert answer["result"]


def test_looks_at_once_are_no_deaths(services: Services, champion: Callable[[int], None]) -> None:
    champion(1)
    run(services)
    with services.store.reading() as tx:
        task = tasks.get(tx, 1, TASKS[0])
    assert task is not None
    looked: list[int] = []

    def nested(iterations: int) -> None:
        looked.append(iterations)
        if iterations < 4:
            problems.looked(services, 1, task, iterations + 1, lambda: nested(iterations + 1))

    nested(0)
    assert looked == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("why", ["its proposal would break the editor: x", "refused: no"])
def test_other_problems_than_deaths_are_clicked_at(
    services: Services, champion: Callable[[int], None], why: str
) -> None:
    champion(1)
    run(services)
    residents = SeeingResidents()
    able = replace(services, residents=residents)  # type: ignore[arg-type]
    with services.store.transaction() as tx:
        tasks.set_problem(tx, 1, TASKS[0], problems.of_version(1, why))
        task = tasks.get(tx, 1, TASKS[0])
    assert task is not None and problems.is_hopeless(task, 1) and not problems.is_deadly(task, 1)
    seeing.see(able, 1, 1, TASKS[0], None)
    assert residents.seen == [None]


def test_an_image_that_was_survived_is_not_counted(shown: Services, services: Services) -> None:
    die(shown, opened)
    opened(services)  # with more memory
    assert done(services, 1) == {*TASKS, NEW}
    die(shown, opened)
    die(shown, opened)
    assert problem_of(shown, NEW) is None


def test_others_that_are_opened_with_it_are_predicted(shown: Services) -> None:
    with shown.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, 16, "/data/upload/1/16.jpg", NOW)])
    for _ in range(2):
        die(shown, lambda own: propose_ids(own, 1, 1, [NEW, 16]))
    propose_ids(shown, 1, 1, [NEW, 16])
    assert done(shown, 1) == {*TASKS, 16}


def test_who_opens_it_afterwards_is_answered_at_once(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    for look in (opened, opened):
        die(shown, look)
    opened(shown)
    monkeypatch.setattr(queues, "propose_now", None)
    (answer,) = predict.answer(shown, projects.require(shown, 1), [payload(NEW)])
    assert answer == {"result": [], "score": 1.0, "model_version": "v1"}
    monkeypatch.setattr(queues, "see_now", None)
    projects.adopt(shown, 1, CONFIG)
    context = {"result": [click(*ON_LEFT)]}
    (answer,) = predict.answer_prompts(shown, projects.require(shown, 1), [payload(NEW)], context)
    assert answer["result"] == []


def test_who_asks_for_it_has_it_tried_again(shown: Services, services: Services) -> None:
    for look in (opened, opened):
        die(shown, look)
    opened(shown)
    projects.forget_problems(shown, 1)
    opened(services)
    assert done(services, 1) == {*TASKS, NEW}


def test_an_image_that_was_mended_is_tried_when_it_is_opened(
    services: Services, shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    with services.store.transaction() as tx:
        tasks.set_problem(tx, 1, NEW, "cannot decode image: broken")
    asked: list[list[int]] = []

    def propose_now(own: Any, project: int, number: int, ids: list[int], _s: float) -> bool:
        asked.append(ids)
        propose_ids(own, project, number, ids)
        return True

    monkeypatch.setattr(queues, "propose_now", propose_now)
    (answer,) = predict.answer(services, projects.require(services, 1), [payload(NEW)])
    assert (asked, bool(answer["result"])) == ([[NEW]], True)


def test_a_look_that_finds_nothing_to_look_at_has_ended(
    services: Services, shown: Services
) -> None:
    residents: Any = SeeingResidents()
    own = replace(services, residents=residents)
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, 17, BROKEN, NOW)])
    for _ in range(4):
        seeing.see(own, 1, 1, 17, None)
    assert problem_of(own, 17) is None
