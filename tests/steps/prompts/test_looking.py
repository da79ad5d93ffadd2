"""Who looks at an image for clicks: nobody where it was seen, a worker where it was not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import models.base
from backend.errors import CorruptVersion, QueueError
from backend.records import Task
from backend.steps import projects, queues
from backend.steps.proposing import backlog, predict, publish, seeing
from backend.steps.proposing.propose import propose_ids
from backend.store import proposals, publishing, tasks
from backend.wiring import Services
from tests.steps.conftest import BROKEN, NOW, TASKS
from tests.steps.prompts.clicking import CONFIG, ON_LEFT, ON_RIGHT, ask, click, masks, worker
from tests.steps.proposing.test_predict import NEW, payload


def test_the_first_click_on_a_new_image_asks_a_worker_and_the_next_does_not(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "see_now", worker(shown))
    assert masks(ask(shown, click(*ON_LEFT), task=NEW))["crack"].any()
    monkeypatch.setattr(queues, "see_now", None)
    assert masks(ask(shown, click(*ON_RIGHT), task=NEW))["crack"].any()
    with shown.store.reading() as tx:
        assert NEW not in publishing.of(tx, 1, "v1")


def test_a_prediction_makes_clicks_ready(shown: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    with shown.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, NEW, f"/data/upload/1/{NEW}.jpg", NOW)])
    propose_ids(shown, 1, 1, [NEW])
    monkeypatch.setattr(queues, "see_now", None)
    assert ask(shown, click(*ON_LEFT), task=NEW)


def late(*_: Any) -> bool:
    return False


def down(*_: Any) -> bool:
    raise QueueError("Redis is down")


@pytest.mark.parametrize("fault", [late, down])
def test_without_a_worker_in_time_the_answer_is_empty(
    shown: Services, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., bool]
) -> None:
    monkeypatch.setattr(queues, "see_now", fault)
    assert ask(shown, click(*ON_LEFT), task=NEW) == []


def test_a_look_that_came_too_late_answers_the_next_click(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, int, int, int | None]] = []

    def busy(_: Services, *job: Any) -> bool:
        begun.append(job[:-1])
        return False

    monkeypatch.setattr(queues, "see_now", busy)
    assert ask(shown, click(*ON_LEFT), task=NEW) == []
    (job,) = begun
    seeing.see(shown, *job)  # the worker goes on after the deadline
    monkeypatch.setattr(queues, "see_now", None)
    assert ask(shown, click(*ON_LEFT), task=NEW)


def test_a_worker_warms_up_with_the_versions_that_are_shown(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that cannot be loaded, or that fails, keeps no worker from its work."""
    residents: Any = shown.residents
    refined: list[str] = []
    monkeypatch.setattr(seeing.score_map, "of", lambda _, __, settings: refined.append(settings))
    residents.seen.clear()
    seeing.warm_up(shown)
    assert residents.seen == [None], "one look"
    assert len(refined) == 3, "and the refinement of each class"

    def damaged(*_: Any) -> Any:
        raise CorruptVersion("weights.safetensors has another digest")

    monkeypatch.setattr(residents, "get", damaged)
    seeing.warm_up(shown)


def test_before_the_first_version_only_the_code_is_loaded(
    seeing_services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(models.base, "get", loaded.append)
    seeing.warm_up(seeing_services)
    residents: Any = seeing_services.residents
    assert (loaded, residents.seen) == ([seeing_services.settings.pipeline], [])


def test_an_image_that_cannot_be_had_gives_an_empty_answer(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "see_now", worker(shown))
    assert ask(shown, click(*ON_LEFT), task=NEW, data={"image": BROKEN}) == []
    assert ask(shown, click(*ON_LEFT), task=NEW, data={}) == []


def test_a_task_id_with_another_image_is_another_image(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "see_now", late)
    assert ask(shown, click(*ON_LEFT), data={"image": "/data/upload/1/other.jpg"}) == []


def test_many_tasks_at_once_get_one_result_each_within_the_deadline(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = shown.settings.model_copy(update={"predict_deadline_s": 0.05})
    hurried = replace(shown, settings=settings)
    asked: list[int] = []

    def hang(_: Any, __: int, ___: int, task: int, ____: Any, timeout_s: float) -> bool:
        asked.append(task)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            pass
        return False

    monkeypatch.setattr(queues, "see_now", hang)
    bodies = [payload(task) for task in range(1000, 1200)]
    context = {"result": [click(*ON_LEFT)]}
    began = time.monotonic()
    found = predict.answer_prompts(hurried, projects.require(hurried, 1), bodies, context)
    assert time.monotonic() - began < 2
    assert len(asked) == 1
    assert [one["result"] for one in found] == [[]] * 200


def test_a_changed_setting_of_the_label_config_is_looked_at_anew(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "see_now", late)
    projects.adopt(shown, 1, CONFIG.replace('value="crack"', 'value="crack" model_threshold="0.8"'))
    assert ask(shown, click(*ON_LEFT)) == []


def test_tasks_that_were_published_are_all_ready(shown: Services) -> None:
    assert all(ask(shown, click(*ON_LEFT), task=task) for task in TASKS)


def test_a_worker_that_publishes_lets_clicks_through_after_each_task_that_takes_long(
    seeing_services: Services, champion: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    champion(1)
    monkeypatch.setattr(backlog, "CHUNK_S", 0.0)
    publish.publish(seeing_services, 1)
    played: Any = seeing_services.queues
    with seeing_services.store.reading() as tx:
        assert len(proposals.tasks_done(tx, 1, 1)) == 1
    assert ("publish", {"project": 1}) in played.enqueued
