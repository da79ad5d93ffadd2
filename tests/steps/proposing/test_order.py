"""Who comes next, from a real store: strategies, options, budget, second looks, the audit."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from backend.cli import app as cli
from backend.cli import order as cli_order
from backend.errors import InvalidPayload, UnknownThing
from backend.records import Annotation, Interaction, Project, Version
from backend.steps import projects, status
from backend.steps.proposing import order
from backend.steps.proposing.publish import publish
from backend.store import annotations, learning, versions
from backend.store import projects as rows
from backend.wiring import Services
from tests.steps.conftest import NOW, TASKS
from tests.steps.fake_label_studio import FakeLabelStudio

Champion = Callable[[int], None]


@pytest.fixture
def shown(services: Services, champion: Champion) -> Services:
    """One version has proposed for all tasks, and they are published."""
    champion(1)
    for _ in range(3):
        publish(services, 1)
    return services


def annotate(services: Services, task: int, outcome: Any, seconds: float, hour: float = 0) -> None:
    """Keep one finished task of one class."""
    at = NOW + timedelta(hours=hour)
    done = Annotation(100 + task, 1, task, at, ({"id": "x"},), created_at=at, lead_time_s=seconds)
    said = Interaction(
        1, task, done.id, "crack", outcome, 0.5, 3, 2, seconds, 1, 1, 1.0, created_at=at
    )
    with services.store.transaction() as tx:
        annotations.put(tx, done)
        learning.replace(tx, done.id, 1, task, [said], [], [])


def test_each_open_task_says_why_it_is_where_it_is(shown: Services) -> None:
    entries = status.queue_of(shown, 1)
    assert [entry.task for entry in entries] == TASKS
    assert entries[0].reason.startswith("sure at its one tile, about 6 s of editing (2 s to 17 s)")
    low, high = entries[0].edit_seconds_from, entries[0].edit_seconds_to
    assert low is not None and high is not None and entries[0].edit_seconds is not None
    assert low < entries[0].edit_seconds < high


def test_a_task_that_no_version_could_look_at_says_so(services: Services) -> None:
    assert {entry.reason for entry in status.queue_of(services, 1)} == {
        "no version has looked at it: it comes last"
    }


def test_options_are_kept_and_order_the_queue_anew(
    shown: Services, server: FakeLabelStudio
) -> None:
    before = server.order()
    projects.choose_strategy(shown, 1, "hybrid", {"sequential": 1})
    publish(shown, 1)
    assert server.order() == before == TASKS
    projects.choose_strategy(shown, 1, "edit_time", {"order": "easy_first"})
    publish(shown, 1)
    assert server.order() == TASKS[::-1]
    with shown.store.reading() as tx:
        project = rows.get(tx, 1)
    assert project is not None and dict(project.strategy_options) == {"order": "easy_first"}
    assert status.of_project(shown, 1).strategy_options == {"order": "easy_first"}
    projects.choose_strategy(shown, 1, "sequential")
    with shown.store.reading() as tx:
        assert isinstance(project := rows.get(tx, 1), Project) and project.strategy_options == {}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("edit_time", {"order": "lazy"}, "strategy edit_time: option order is 'lazy'; give hard"),
        ("margin", {"level": "pixels"}, "strategy margin: unknown option 'level'; known: none"),
        (None, {"astrology": 1.0}, "strategy entropy: unknown option 'astrology'; known: level"),
    ],
)
def test_wrong_options_change_nothing(
    shown: Services, name: str | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidPayload, match=message):
        projects.choose_strategy(shown, 1, name, options)
    assert status.of_project(shown, 1).strategy == "entropy"


def test_the_audit_notes_changes_and_only_these(shown: Services) -> None:
    first = order.history(shown, 1)
    assert [(one.strategy, one.acting, one.reason) for one in first] == [("entropy", "entropy", "")]
    for name in ("margin", "margin", "bald", "autopilot"):
        projects.choose_strategy(shown, 1, name)
        publish(shown, 1)
    asked = [(one.strategy, one.acting) for one in order.history(shown, 1)]
    assert asked == [
        ("entropy", "entropy"), ("margin", "margin"), ("bald", "entropy"), ("autopilot", "entropy"),
    ]  # fmt: skip
    reasons = [one.reason for one in order.history(shown, 1)]
    assert reasons[2].startswith("entropy instead of bald, which needs stochastic passes of")
    assert reasons[3] == "autopilot tries entropy, which has not been tried yet"


def test_the_autopilot_learns_from_the_gate(shown: Services, server: FakeLabelStudio) -> None:
    projects.choose_strategy(shown, 1, "autopilot")
    publish(shown, 1)
    annotate(shown, 12, "modified", 120.0, hour=1)
    server.tasks = [task for task in TASKS if task != 12]
    costs = {"champion": {"cost_s": 30.0}, "challenger": {"cost_s": 10.0}}
    judged = Version(
        1, 2, "rejected", "auto", "s2", NOW + timedelta(hours=2), gate={"figures": costs}
    )
    with shown.store.transaction() as tx:
        versions.add(tx, judged)
    projects.rerank(shown, 1)
    publish(shown, 1)
    last = order.history(shown, 1)[-1]
    assert (last.acting, last.reason) == (
        "hybrid", "autopilot tries hybrid, which has not been tried yet",
    )  # fmt: skip
    worth = order.plan(shown, 1, annotators=1, minutes=4).forecast
    assert "the last 1 trained versions this would save 40.0 s of correction" in worth


def test_a_committee_of_stored_versions(shown: Services, champion: Champion) -> None:
    projects.choose_strategy(shown, 1, "committee")
    publish(shown, 1)
    assert order.history(shown, 1)[-1].acting == "entropy", "one version is no committee"
    champion(2)
    for _ in range(3):
        publish(shown, 1)
    assert order.history(shown, 1)[-1].acting == "committee"
    assert status.queue_of(shown, 1)[0].reason.startswith("the last versions disagree, ")


def test_a_budget_buys_what_fits(shown: Services) -> None:
    found = order.plan(shown, 1, annotators=1, minutes=0.3)
    assert 0 < len(found.tasks) < len(TASKS) and found.seconds <= 18
    assert found.forecast.startswith(f"1 annotator with 0.3 minutes: {len(found.tasks)} of 4 open")
    assert order.plan(shown, 1, annotators=2, minutes=90).tasks[0] == found.tasks[0] == TASKS[0]
    with pytest.raises(InvalidPayload, match="annotators is 0; give 1 to 1000"):
        order.plan(shown, 1, annotators=0, minutes=90)
    with pytest.raises(InvalidPayload, match="minutes is nan; give more than 0"):
        order.plan(shown, 1, annotators=1, minutes=float("nan"))
    with pytest.raises(UnknownThing):
        order.plan(shown, 9, annotators=1, minutes=1)


def test_nothing_trained_is_nothing_to_plan(services: Services) -> None:
    assert "no task is open" in order.plan(services, 1, annotators=1, minutes=5).forecast


def test_finished_tasks_are_reviewed(shown: Services) -> None:
    annotate(shown, 11, "accepted", 5.0)
    annotate(shown, 14, "rejected", 5.0)
    found = order.review(shown, 1)
    assert [one.task for one in found] == [14, 11]
    assert found[0].reason.startswith("crack: not found by people, probability 85%")


def command(services: Services, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(cli_order, "open_services", lambda: services)
    monkeypatch.setattr(cli_order, "console", Console(width=300))
    done = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_commands(shown: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*arguments: str) -> str:
        return command(shown, monkeypatch, *arguments)

    assert "edit_time; the new order" in said(
        "rank", "-p", "1", "--strategy", "edit_time", "--option", "order=easy_first"
    )
    assert "hybrid" in said(
        "rank", "-p", "1", "--strategy", "hybrid", "--option", "entropy=1",
        "--option", "edit_time=0.5",
    )  # fmt: skip
    with shown.store.reading() as tx:
        project = rows.get(tx, 1)
    assert project is not None
    assert project.strategy_options == {"entropy": 1.0, "edit_time": 0.5}
    assert "s of editing (" in said("rank", "-p", "1")
    assert "entropy" in said("rank", "-p", "1", "--history")
    assert "hard_first, easy_first, curriculum" in said("strategies")
    assert "1 annotator with 60 minutes: 4 of 4 open tasks" in said("budget", "-p", "1")
    plan = json.loads(said("budget", "-p", "1", "--annotators", "2", "--minutes", "9", "--json"))
    assert len(plan["tasks"]) == 4 and plan["budget_s"] == 1080
    annotate(shown, 14, "rejected", 5.0)
    assert "not found by people" in said("review", "-p", "1")
    with pytest.raises(InvalidPayload, match="option 'entropy' is not NAME=VALUE"):
        said("rank", "-p", "1", "--option", "entropy")


def test_an_untrained_project_has_an_order_too(services: Services) -> None:
    found = order.of_open(services, projects.require(services, 1), TASKS)
    assert sorted(found.order) == TASKS and found.edit_seconds == {}
    assert found.note == "random_order instead of entropy, which needs predicted tasks"
