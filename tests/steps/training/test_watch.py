"""A new version is followed in the real store; a fall proposes a rollback, or does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from backend.errors import CorruptVersion, InvalidPayload, UnknownThing
from backend.loop import gate
from backend.records import (
    Annotation,
    Interaction,
    OutcomeKind,
    Project,
    Task,
    Version,
    VersionState,
    WeakLabel,
)
from backend.steps import decide, projects, status
from backend.steps.proposing import publish
from backend.steps.training import prune, watch
from backend.store import annotations, learning, reigns, tasks, versions
from backend.store import projects as project_rows
from backend.web.metrics import StoreCollector
from backend.wiring import Services
from tests.steps.conftest import NOW
from tests.steps.fake_label_studio import FakeLabelStudio

IDS = [n for n in range(1000, 1400) if not gate.is_validation(1, f"/data/upload/1/{n}.jpg")]
KEPT = [n for n in range(1000, 1400) if gate.is_validation(1, f"/data/upload/1/{n}.jpg")]


@pytest.fixture
def two(services: Services) -> Services:
    """v1, whose proposals were all taken, and v2, which the gate has just promoted."""
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, n, f"/data/upload/1/{n}.jpg", NOW) for n in (*IDS, *KEPT)])
    promote(services, 1)
    for task in IDS[:30]:
        answer(services, task, 1, "accepted")
    promote(services, 2)
    return services


def promote(services: Services, number: int) -> None:
    services.registry.save(1, number, lambda folder: (folder / "weights").write_text("x") and None)
    with services.store.transaction() as tx:
        assert versions.next_number(tx, 1) == number
        versions.add(tx, Version(1, number, "challenger", "advcam", f"s{number}", NOW))
        projects.promote(tx, 1, number)


def answer(
    services: Services, task: int, version: int, outcome: OutcomeKind, *, bulk: bool = False
) -> None:
    at = NOW + timedelta(minutes=task)
    state = Annotation(task, 1, task, at, (), lead_time_s=20.0, annotator=1, bulk=bulk)
    told = Interaction(
        1, task, task, "crack", outcome, 1.0, 0, 0, 20.0, 1, version, 0.25 if bulk else 1.0, at
    )  # fmt: skip
    label = WeakLabel(1, task, task, "crack", 5.0, 5.0, task % 2 == 0, "click")
    with services.store.transaction() as tx:
        annotations.put(tx, state)
        learning.replace(tx, task, 1, task, [told], [label], [])


def refuse(services: Services, version: int, ids: list[int], **kind: Any) -> None:
    for task in ids:
        answer(services, task, version, "rejected", **kind)


def stand(services: Services) -> tuple[Project, dict[int, VersionState]]:
    with services.store.reading() as tx:
        project = project_rows.get(tx, 1)
        assert project is not None
        return project, {v.number: v.state for v in versions.list(tx, 1)}


def metric(services: Services) -> float:
    families = {f.name: f for f in StoreCollector(services).collect()}
    (sample,) = families["labelclimb_rollback_proposed"].samples
    assert sample.labels == {"project": "1"}
    return float(sample.value)


@pytest.fixture
def lively(two: Services, monkeypatch: pytest.MonkeyPatch) -> Services:
    monkeypatch.setattr(two.queues, "depths", dict, raising=False)
    return two


def test_a_fall_is_proposed_everywhere_once(lively: Services) -> None:
    watch.look(lively, 1)
    assert status.of_project(lively, 1).acceptance == {}, "nobody has answered yet"
    refuse(lively, 2, IDS[30:33])
    watch.look(lively, 1)
    found = status.of_project(lively, 1)
    assert (found.acceptance["state"], found.rollback_to) == ("watching", None)
    assert metric(lively) == 0
    refuse(lively, 2, IDS[33:50])
    with capture_logs() as logs:
        watch.look(lively, 1)
        watch.look(lively, 1)
        refuse(lively, 2, IDS[50:52])
        watch.look(lively, 1)
    (told,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert told["fix"] == "labelclimb rollback --project 1"
    assert told["found"].endswith("against the former version's 100%: fallen")
    found = status.of_project(lively, 1)
    assert (found.rollback, found.rollback_to, found.champion) == ("propose", "v1", "v2")
    assert metric(lively) == 1
    assert stand(lively)[0].champion == 2, "it is proposed, not done"


def test_a_version_that_is_taken_as_before_is_left_alone(two: Services) -> None:
    for task in IDS[30:80]:
        answer(two, task, 2, "accepted")
    watch.look(two, 1)
    found = status.of_project(two, 1)
    assert (found.acceptance["state"], found.acceptance["annotations"]) == ("watching", 50)
    assert found.rollback_to is None


def test_what_was_made_in_bulk_and_what_the_gate_judges_by_says_nothing(two: Services) -> None:
    refuse(two, 2, IDS[30:60], bulk=True)
    refuse(two, 2, KEPT[:30])
    watch.look(two, 1)
    assert status.of_project(two, 1).acceptance["annotations"] == 0
    for task in KEPT[30:60]:
        answer(two, task, 2, "accepted")
    refuse(two, 2, IDS[60:80])
    watch.look(two, 1)
    found = status.of_project(two, 1)
    assert found.rollback_to == "v1", "30 accepts would have hidden it"


def test_where_it_is_set_the_rollback_is_done(two: Services) -> None:
    projects.change(two, 1, rollback="auto")
    refuse(two, 2, IDS[30:50])
    watch.look(two, 1)
    project, states = stand(two)
    assert (project.champion, states) == (1, {1: "champion", 2: "retired"})
    with two.store.reading() as tx:
        reign = reigns.newest(tx, 1)
    assert reign is not None and (reign.how, reign.former) == ("rolled back", 2)
    assert reign.reason.endswith("against the former version's 100%: fallen")
    assert "publish" in [name for name, _ in two.queues.enqueued]  # type: ignore[attr-defined]
    watch.look(two, 1)
    assert stand(two)[0].champion == 1
    assert status.of_project(two, 1).rollback_to is None


@pytest.mark.parametrize("is_gone", [False, True])
def test_past_a_damaged_version_it_goes_back_further(two: Services, is_gone: bool) -> None:
    projects.change(two, 1, rollback="auto")
    for task in IDS[30:60]:
        answer(two, task, 2, "accepted")
    promote(two, 3)
    refuse(two, 3, IDS[60:80])
    (two.registry.folder(1, 2) / "weights").write_text("y")
    if is_gone:
        assert two.registry.remove(1, 2)
    watch.look(two, 1)
    assert stand(two)[1] == {1: "retired", 2: "damaged", 3: "champion"}
    watch.look(two, 1)
    assert stand(two)[1] == {1: "champion", 2: "damaged", 3: "retired"}


def test_a_fall_that_was_proposed_is_acted_on_when_the_setting_changes(two: Services) -> None:
    refuse(two, 2, IDS[30:50])
    watch.look(two, 1)
    projects.change(two, 1, rollback="auto")
    watch.look(two, 1)
    assert stand(two)[0].champion == 1


def test_where_it_is_off_nothing_is_watched(two: Services) -> None:
    projects.change(two, 1, rollback="off")
    refuse(two, 2, IDS[30:50])
    watch.look(two, 1)
    assert status.of_project(two, 1).acceptance == {}


def test_after_a_rollback_nothing_is_trained_until_there_are_new_labels(two: Services) -> None:
    projects.change(two, 1, train_after=1)
    refuse(two, 2, IDS[30:50])
    with two.store.transaction() as tx:
        snapshot = decide.current_snapshot(two, 1)
        project_rows.update(tx, 1, last_snapshot=snapshot)
    projects.rollback(two, 1, leave=2)
    later = replace(two, clock=lambda: NOW + timedelta(days=30))
    decision, _ = decide.training_decision(later, 1)
    assert (decision.train, decision.reason) == (
        False, "nothing has changed since the last training",
    )  # fmt: skip
    with pytest.raises(UnknownThing, match="no former champion to go back to"):
        projects.rollback(two, 1)  # v2 is not proposed again
    answer(two, IDS[60], 1, "accepted")
    assert decide.training_decision(later, 1)[0].train


def test_two_who_ask_at_once_go_back_once(two: Services) -> None:
    promote(two, 3)
    projects.rollback(two, 1, leave=3)
    with pytest.raises(InvalidPayload, match=r"v3 is not in use any more \(v2 is\)"):
        projects.rollback(two, 1, leave=3)
    assert stand(two)[0].champion == 2
    projects.rollback(two, 1)
    assert stand(two)[0].champion == 1


def test_a_rollback_to_a_damaged_version_changes_nothing(two: Services) -> None:
    (two.registry.folder(1, 1) / "weights").write_text("y")
    with pytest.raises(CorruptVersion, match="weights was changed"):
        projects.rollback(two, 1)
    assert stand(two)[0].champion == 2


def test_the_version_to_go_back_to_is_not_pruned(two: Services) -> None:
    promote(two, 3)
    with two.store.transaction() as tx:
        for task in IDS[:30]:
            learning.replace(tx, task, 1, task, [], [], [])  # nobody refers to v1 any more
    assert prune.prune(two, 1, keep=1).removed == (1,)
    assert projects.rollback(two, 1).number == 2
    with pytest.raises(UnknownThing, match="no former champion"):
        projects.rollback(two, 1)  # v1 was pruned


def test_a_rollback_shows_what_is_stored_and_predicts_nothing(
    services: Services, server: FakeLabelStudio, champion: Callable[[int], None]
) -> None:
    for number in (1, 2):
        services.registry.save(1, number, lambda folder: (folder / "w").touch())
        champion(number)
        published(services)
    proposed = services.residents.proposed  # type: ignore[attr-defined]
    assert len(proposed) == 8, "four tasks by each version"
    projects.rollback(services, 1)
    published(services)
    assert len(proposed) == 8, "what v1 proposed is in the store"
    assert server.model_version == "v1"
    shown = [p for p in server.predictions if p["model_version"] == "v1"]
    assert len(shown) == len(server.predictions) == 4
    ids = {region["id"] for p in shown for region in p["result"]}
    assert ids and all(id.startswith("v1-") for id in ids)
    projects.activate(services, 1, 2)
    published(services)
    assert (len(proposed), server.model_version) == (8, "v2")


def published(services: Services) -> None:
    """Publish until no block of the backlog is left."""
    queue = services.queues.enqueued  # type: ignore[attr-defined]
    for _ in range(5):
        queue.clear()
        publish.publish(services, 1)
        if not queue:
            return
    raise AssertionError(f"after five turns there is still {queue}")
