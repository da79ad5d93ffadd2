"""A copied project begins with the champion of its original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.errors import JobOver, UnknownThing
from backend.records import Version
from backend.steps import projects
from backend.steps.copying import copy_champion
from backend.steps.training.prune import prune
from backend.store import unrecorded, versions
from backend.wiring import Services
from tests.steps.conftest import CONFIG, NOW

PARTS = {"auto.json": b"{}", "advcam/weights.safetensors": b"12", "advcam/version.json": b"{}"}


def write(folder: Path) -> None:
    for name, content in PARTS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture
def copied(services: Services) -> Services:
    """Project 1 with the champion v2, of parts in folders of their own; project 2 without any."""
    for number in (1, 2):
        services.registry.save(1, number, write)
        with services.store.transaction() as tx:
            assert versions.next_number(tx, 1) == number
            row = Version(1, number, "rejected", "auto", f"s{number}", NOW, ("crack",), {"f": 0.5})
            versions.add(tx, row)
    projects.activate(services, 1, 2)
    projects.adopt(services, 2, CONFIG, title="copy of bridge")
    return services


def content(services: Services, project: int, number: int) -> dict[str, bytes]:
    folder = services.registry.folder(project, number)
    return {name: (folder / name).read_bytes() for name in PARTS}


def test_the_copy_serves_as_the_original_does(copied: Services) -> None:
    assert copy_champion(copied, 1, 2) == 1
    assert content(copied, 2, 1) == PARTS
    assert projects.require(copied, 2).champion == 1
    with copied.store.reading() as tx:
        copy = versions.get(tx, 2, 1)
        assert unrecorded.given_up(tx, 2) == set()
    assert copy is not None and (copy.state, copy.pipeline) == ("champion", "auto")
    assert (copy.classes, copy.metrics) == (("crack",), {"f": 0.5})
    assert copy.gate == {"reason": "copied from project 1, v2"}


def test_a_champion_is_not_replaced_by_a_copy(copied: Services) -> None:
    copy_champion(copied, 1, 2)
    assert copy_champion(copied, 1, 2) == 1
    assert copied.registry.list(2) == [1]
    assert copy_champion(copied, 2, 1) == 2


def test_without_a_champion_there_is_nothing_to_copy(copied: Services) -> None:
    projects.adopt(copied, 3, CONFIG, title="new")
    assert copy_champion(copied, 3, 2) is None
    assert copied.registry.list(2) == []
    with pytest.raises(UnknownThing, match="99"):
        copy_champion(copied, 1, 99)


def test_a_copy_whose_files_are_given_up_before_its_record_is_not_kept(
    copied: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = copied.registry.save

    def saved_and_pruned(*given: Any) -> Path:
        folder = save(*given)
        assert prune(copied, 2).removed == (1,)
        return folder

    monkeypatch.setattr(copied.registry, "save", saved_and_pruned)
    with pytest.raises(JobOver, match="v1 of project 2 came too late"):
        copy_champion(copied, 1, 2)
    monkeypatch.undo()
    assert copied.registry.list(2) == [] and projects.require(copied, 2).champion is None
    assert copy_champion(copied, 1, 2) == 2
