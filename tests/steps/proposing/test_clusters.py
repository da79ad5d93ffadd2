"""Clusters of the most urgent tasks: sent after the flip, and never in its way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backend.labelstudio.client import LabelStudio
from backend.loop.ordering import spreading
from backend.steps import projects
from backend.steps.proposing import clusters
from backend.steps.proposing.publish import publish
from backend.wiring import Services
from tests.steps.conftest import TASKS
from tests.steps.fake_label_studio import FakeLabelStudio


@pytest.fixture
def shown(services: Services, champion: Callable[[int], None]) -> Services:
    champion(1)
    projects.choose_strategy(services, 1, "hybrid", {"entropy": 1})
    publish(services, 1)
    return services


def sent(server: FakeLabelStudio) -> dict[int, int | None]:
    return {task: rows[0]["cluster"] for task, rows in server.shown().items()}


def predicted(services: Services) -> Services:
    """Run publish until nothing is left to predict."""
    for _ in range(3):
        publish(services, 1)
    return services


def test_a_strategy_that_asks_for_it_has_its_clusters_sent_after_the_flip(
    shown: Services, server: FakeLabelStudio
) -> None:
    predicted(shown)
    assert all(isinstance(cluster, int) for cluster in sent(server).values())
    flipped = server.calls.index("PATCH /api/projects/1/")
    changes = [
        n for n, call in enumerate(server.calls) if "/predictions/" in call and "PATCH" in call
    ]
    assert len(changes) == len(TASKS) and min(changes) > flipped


def test_others_send_none(services: Services, champion: Callable[[int], None],
                          server: FakeLabelStudio) -> None:  # fmt: skip
    champion(1)
    predicted(services)
    assert server.model_version == "v1" and set(sent(server).values()) == {None}


def test_only_the_first_are_sent(
    shown: Services, server: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted(shown)
    monkeypatch.setattr(clusters, "FIRST", 2)
    by_task = dict.fromkeys(TASKS, 5)
    assert clusters.send(shown, 1, "v1", TASKS[::-1], by_task, lambda: None) == 2
    assert [sent(server)[task] for task in TASKS[:-3:-1]] == [5, 5]
    assert 5 not in [sent(server)[task] for task in TASKS[:2]]
    assert spreading.FIRST == 50


def test_a_newer_order_does_not_wait_for_them(shown: Services, server: FakeLabelStudio) -> None:
    predicted(shown)
    asked = len(server.calls)

    def meanwhile() -> None:
        if len(server.calls) > asked:  # after the first one
            with shown.store.transaction() as tx:
                projects.want_order(tx, 1)

    assert clusters.send(shown, 1, "v1", TASKS, dict.fromkeys(TASKS, 6), meanwhile) == 1


def test_a_failure_leaves_the_order_shown_and_says_so(
    shown: Services,
    server: FakeLabelStudio,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server.fail_before = "PATCH /api/predictions/1/"
    monkeypatch.setattr(LabelStudio, "delete_model_version", lambda *_, **__: 0)
    predicted(shown)
    assert server.model_version.startswith("v1") and len(server.shown()) == len(TASKS)
    assert sum(cluster is not None for cluster in sent(server).values()) < len(TASKS)
