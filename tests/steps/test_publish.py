"""Publishing: always complete, never twice, in the strategy's order, whatever dies in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backend.errors import LabelStudioError
from backend.records import Task
from backend.steps import decide, projects, reconcile, status
from backend.steps.publish import publish
from backend.store import proposals, tasks
from backend.wiring import Services
from tests.steps.conftest import BROKEN, NOW, TASKS
from tests.steps.fake_label_studio import FakeLabelStudio

IMPORT = "POST /api/projects/1/import/predictions"
FLIP = "PATCH /api/projects/1/"
REMOVE = "DELETE /api/projects/1/model-versions/"

Champion = Callable[[int], None]


def run(services: Services) -> None:
    """Publish as the worker does: chunk by chunk, until nothing is due."""
    for _ in range(5):
        publish(services, 1)
        if not decide.publication_due(services, 1):
            return
    raise AssertionError("publishing does not come to an end")


def proposed(services: Services) -> list[int]:
    played: Any = services.residents
    return list(played.proposed)


def test_nothing_is_shown_before_a_version_exists(
    services: Services, server: FakeLabelStudio
) -> None:
    publish(services, 1)
    assert not server.calls


def test_all_open_tasks_are_shown_most_urgent_first(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    assert server.model_version == "v1"
    assert {task: len(held) for task, held in server.shown().items()} == dict.fromkeys(TASKS, 1)
    assert server.order() == TASKS, "the played model is least sure of the lowest task"
    assert [entry.task for entry in status.queue_of(services, 1)] == TASKS


def test_a_region_is_as_sure_as_its_parts_by_their_area(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    regions = [held[0]["result"][0] for held in server.shown().values()]
    by_area = (30 * 0.75 + 10 * 0.35) / 40
    assert [region["score"] for region in regions] == pytest.approx([by_area] * len(TASKS))


def test_a_new_version_replaces_the_former_one_and_keeps_its_regions(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    former = server.shown()[11][0]["result"][0]["id"]
    champion(2)
    run(services)
    assert {p["model_version"] for p in server.predictions} == {"v2"}
    with services.store.reading() as tx:
        assert proposals.by_region_ids(tx, [former])[former].number == 1


@pytest.mark.parametrize("when", ["fail_before", "fail_after"])
@pytest.mark.parametrize("call", [IMPORT, FLIP, REMOVE])
def test_a_crash_between_any_two_acts_is_made_good(
    services: Services, server: FakeLabelStudio, champion: Champion, call: str, when: str
) -> None:
    champion(1)
    run(services)
    champion(2)
    setattr(server, when, call)
    with pytest.raises(LabelStudioError):
        run(services)
    run(services)
    assert server.model_version.startswith("v2")
    assert {p["model_version"] for p in server.predictions} == {server.model_version}
    assert [len(held) for held in server.shown().values()] == [1] * len(TASKS)
    assert projects.require(services, 1).published == server.model_version
    assert sorted(proposed(services)) == sorted(TASKS * 2), "nothing was predicted again"


def test_another_strategy_orders_anew_without_predicting(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    before = proposed(services)
    projects.choose_strategy(services, 1, "random_order")
    run(services)
    assert proposed(services) == before
    assert server.model_version == "v1.2"
    assert {p["model_version"] for p in server.predictions} == {"v1.2"}


def test_publishing_again_does_nothing(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    calls = list(server.calls)
    publish(services, 1)
    assert server.calls == calls


def test_an_unreadable_image_is_named_and_spoils_nothing(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, 15, BROKEN, NOW)])
    server.tasks = [*TASKS, 15]
    champion(1)
    run(services)
    assert server.shown()[15][0]["result"] == []
    assert server.order()[-1] == 15
    problems = {e.task: e.problem for e in status.queue_of(services, 1) if e.problem}
    assert problems == {15: "cannot decode image: broken"}


def test_a_rollback_shows_the_older_version_again(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    champion(2)
    run(services)
    with services.store.transaction() as tx:
        projects.promote(tx, 1, 1)
    before = proposed(services)
    run(services)
    assert server.model_version == "v1"
    assert {p["model_version"] for p in server.predictions} == {"v1"}
    assert proposed(services) == before, "stored proposals are shown, not computed"


def test_predictions_that_label_studio_stored_twice_are_replaced(
    services: Services, server: FakeLabelStudio, champion: Champion
) -> None:
    champion(1)
    run(services)
    reconcile.reconcile(services, 1)
    assert not decide.publication_due(services, 1)
    server.predictions.append(dict(server.predictions[0]))
    reconcile.reconcile(services, 1)
    run(services)
    assert server.model_version == "v1.2"
    assert [len(held) for held in server.shown().values()] == [1] * len(TASKS)
