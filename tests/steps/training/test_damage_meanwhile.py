"""A champion that is left as damaged while its challenger trains, or whose heir once trained."""

from __future__ import annotations

from datetime import timedelta

from backend.records import Project, Version
from backend.steps import damage, projects
from backend.steps.training.train import TrainingSet, _record
from backend.store import unrecorded, versions
from backend.wiring import Services
from tests.steps.conftest import NOW
from tests.steps.training.test_damage import change, own, promote, three, write

__all__ = ["own", "three"]  # fixtures


def record(services: Services, judged: Project, number: int, *, promote: bool) -> Version:
    services.registry.save(1, number, write)
    trained = TrainingSet(judged, f"s{number}", NOW, (), (), ())
    made = Version(1, number, "challenger", "advcam", f"s{number}", NOW, gate={"reason": "gate"})
    with services.store.transaction() as tx:
        assert versions.next_number(tx, 1) == number
        unrecorded.begin(tx, 1, number)
        return _record(tx, trained, made, promote=promote)


def test_a_worse_challenger_is_better_than_no_champion(own: Services) -> None:
    promote(own, 1)
    judged = projects.require(own, 1)
    change(own, 1)
    assert damage.left(own, 1, 1) and projects.require(own, 1).champion is None
    made = record(own, judged, 2, promote=False)
    assert (made.state, projects.require(own, 1).champion) == ("champion", 2)
    assert made.gate["reason"].startswith("no champion is left")


def test_two_damaged_versions_in_one_training_are_nobody_s_choice(three: Services) -> None:
    judged = projects.require(three, 1)
    for number in (3, 2):
        change(three, number)
        assert damage.left(three, 1, number)
    assert record(three, judged, 4, promote=True).state == "champion"


def test_a_champion_that_somebody_chose_meanwhile_stays(three: Services) -> None:
    judged = projects.require(three, 1)
    change(three, 3)
    assert damage.left(three, 1, 3)
    projects.activate(three, 1, 1)
    made = record(three, judged, 4, promote=True)
    assert (made.state, projects.require(three, 1).champion) == ("rejected", 1)


def test_what_came_while_the_heir_was_trained_counts_as_new(own: Services) -> None:
    newest = NOW - timedelta(minutes=5)
    promote(own, 1, {"start": {damage.NEWEST: newest.isoformat()}})
    promote(own, 2)
    change(own, 2)
    assert damage.left(own, 1, 2)
    assert projects.require(own, 1).last_snapshot_at == newest
