"""What a training starts from, by the project's own versions and labels."""

from __future__ import annotations

import numpy as np

from backend.records import Version
from backend.steps import projects
from backend.steps.training import start
from backend.store import versions
from backend.wiring import Services
from models.base import Sample, WeakPoint
from tests.steps.conftest import NOW


def samples(*class_names: str) -> list[Sample]:
    points = tuple(WeakPoint(n, 1.0, 1.0, sign) for n in class_names for sign in (True, False))
    return [Sample("11", lambda: np.zeros((4, 4, 3), np.uint8), points)]


def make(services: Services, *, champion: bool, **metrics: object) -> int:
    with services.store.transaction() as tx:
        number = versions.next_number(tx, 1)
        about = {start.START: {"encoder": "resnet18", **metrics}}
        row = Version(1, number, "challenger", "auto", f"s{number}", NOW, ("crack",), about)
        versions.add(tx, row)
        if champion:
            projects.promote(tx, 1, number)
        else:
            versions.set_state(tx, 1, number, "rejected")
    return number


def is_warm(services: Services, *class_names: str) -> bool:
    project = projects.require(services, 1)
    return start.choose(services, project, samples(*class_names), "resnet18").warm


def test_every_fifth_version_that_is_made_starts_afresh_promoted_or_not(
    services: Services,
) -> None:
    found = []
    for number in range(1, 11):
        found.append(is_warm(services, "crack"))
        assert make(services, champion=number == 1) == number
    assert found == [False, True, True, True, False, True, True, True, True, False]


def test_labels_of_a_class_that_the_label_config_lost_change_nothing(services: Services) -> None:
    make(services, champion=True)
    assert is_warm(services, "crack", "rust")


def test_classes_are_compared_with_those_that_the_champion_was_to_learn(services: Services) -> None:
    project = projects.require(services, 1)
    begun = start.choose(services, project, samples("crack"), "resnet18")
    about = start.described(begun, project, samples("crack"), "resnet18")
    assert (about["classes"], about["labels"], about["warm"]) == (["crack"], 2, False)
    make(services, champion=True, classes=["crack", "spalling"])
    assert not is_warm(services, "crack"), "it was to learn another class as well"
