"""Pruning against the real store and real files: what is referred to serves on."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import CorruptVersion, JobOver, UnknownThing
from backend.records import Annotation, Interaction, Job, JobState, Version
from backend.steps import projects
from backend.steps.training.prune import prune
from backend.store import annotations, jobs, learning, unrecorded, versions
from backend.store import projects as project_rows
from backend.wiring import Services
from models.saving import PIXELS_FILE
from tests.steps.conftest import NOW

WEIGHTS, PIXELS = 1000, 5000


def write(folder: Path) -> None:
    (folder / "weights").write_bytes(bytes(WEIGHTS))
    (folder / "part").mkdir()
    (folder / "part" / PIXELS_FILE).write_bytes(bytes(PIXELS))


@pytest.fixture
def seven(services: Services) -> Services:
    """Seven versions; v5 is the champion, v6 and v7 were rejected."""
    for number in range(1, 8):
        services.registry.save(1, number, write)
        with services.store.transaction() as tx:
            assert versions.next_number(tx, 1) == number
            versions.add(tx, Version(1, number, "rejected", "advcam", f"s{number}", NOW))
    for number in (3, 4, 5):
        projects.activate(services, 1, number)
    return services


def annotate(services: Services, id: int, region: str, *, version: int | None) -> None:
    state = Annotation(id, 1, 11, NOW, ({"id": region},), was_cancelled=version is None)
    told = [
        Interaction(1, 11, id, "crack", "accepted", 1.0, 0, 0, 2.0, 1, version, 1.0, NOW)
    ]  # fmt: skip
    with services.store.transaction() as tx:
        annotations.put(tx, state)
        learning.replace(tx, id, 1, 11, told if version else [], [], [])


def states(services: Services) -> dict[int, str]:
    with services.store.reading() as tx:
        return {v.number: v.state for v in versions.list(tx, 1)}


def test_only_what_nobody_refers_to_goes(seven: Services) -> None:
    annotate(seven, 1, "own", version=3)
    annotate(seven, 2, "v1-11-1", version=None)  # skipped: it taught nothing, but holds a region
    with seven.store.transaction() as tx:
        project_rows.update(tx, 1, published="v4.2")
    done = prune(seven, 1, keep=2)
    assert (done.removed, done.slimmed) == ((2,), (1, 3, 4))
    assert WEIGHTS + PIXELS < done.freed_bytes - 3 * PIXELS < WEIGHTS + PIXELS + 1000
    assert seven.registry.list(1) == [1, 3, 4, 5, 6, 7]
    assert states(seven)[2] == "pruned"
    assert (seven.registry.folder(1, 5) / "part" / PIXELS_FILE).exists()
    assert (seven.registry.folder(1, 6) / "part" / PIXELS_FILE).exists()
    assert not (seven.registry.folder(1, 3) / "part" / PIXELS_FILE).exists()
    again = prune(seven, 1, keep=2)
    assert (again.removed, again.slimmed, again.freed_bytes) == ((), (), 0)


def test_a_slim_version_can_be_activated_and_a_pruned_one_cannot(seven: Services) -> None:
    annotate(seven, 1, "own", version=3)
    prune(seven, 1, keep=1)
    assert projects.activate(seven, 1, 3).number == 3
    with pytest.raises(UnknownThing, match="pruned"):
        projects.activate(seven, 1, 2)
    with pytest.raises(UnknownThing, match="pruned"), seven.store.transaction() as tx:
        projects.promote(tx, 1, 2)
    assert states(seven)[3] == "champion"


def test_a_crash_between_record_and_files_is_made_good(
    seven: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(project: int, number: int) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(seven.registry, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            prune(seven, 1, keep=3)
    again = prune(seven, 1, keep=3)
    assert (again.removed, again.slimmed) == ((1, 2, 3), (4,)), "v4 is the one to go back to"
    assert seven.registry.list(1) == [4, 5, 6, 7]


def begin(services: Services) -> int:
    """Do what a training does before it is killed: take a number, write the files."""
    with services.store.transaction() as tx:
        number = versions.next_number(tx, 1)
        unrecorded.begin(tx, 1, number)
    services.registry.save(1, number, write)
    return number


def work(services: Services, state: JobState) -> None:
    with services.store.transaction() as tx:
        jobs.put(tx, Job("train-1-s", 1, "train", state, created_at=NOW))


def test_files_that_a_killed_training_left_go_when_no_training_is_under_way(
    seven: Services,
) -> None:
    work(seven, "gating")
    assert begin(seven) == 8
    assert prune(seven, 1).removed == ()
    work(seven, "publishing")
    done = prune(seven, 1)
    assert done.removed == (8,) and done.freed_bytes >= WEIGHTS + PIXELS
    assert seven.registry.list(1) == list(range(1, 8))


@pytest.mark.parametrize("state", ["queued", "waiting", "running", "gating"])
def test_nothing_is_given_up_while_a_training_may_be_saving(
    seven: Services, state: JobState
) -> None:
    begin(seven)
    work(seven, state)
    assert prune(seven, 1).removed == ()
    with seven.store.transaction() as tx:
        unrecorded.end(tx, 1, 8)
        versions.add(tx, Version(1, 8, "challenger", "advcam", "s8", NOW))
    work(seven, "done")
    assert prune(seven, 1).removed == () and seven.registry.exists(1, 8)


def test_a_training_that_was_taken_for_dead_keeps_no_version_whose_files_are_given_up(
    seven: Services,
) -> None:
    with seven.store.transaction() as tx:
        number = versions.next_number(tx, 1)
        unrecorded.begin(tx, 1, number)
    assert prune(seven, 1).removed == (), "it has written nothing so far"
    seven.registry.save(1, number, write)
    with (
        pytest.raises(JobOver, match="v8 of project 1 came too late"),
        seven.store.transaction() as tx,
    ):
        unrecorded.end(tx, 1, number)
    assert prune(seven, 1).removed == (8,), "it was killed before it could remove them itself"


def test_versions_that_only_a_newer_database_knows_stay(seven: Services) -> None:
    """After a restored backup: v8 and v9 are on disk, and their numbers are skipped."""
    for number in (8, 9):
        seven.registry.save(1, number, write)
    assert projects.free_number(seven, 1) == 10
    assert prune(seven, 1).removed == ()
    assert seven.registry.list(1) == list(range(1, 10))


def test_a_damaged_version_is_refused_and_the_champion_serves_on(seven: Services) -> None:
    (seven.registry.folder(1, 7) / "weights").write_bytes(b"damaged")
    with pytest.raises(CorruptVersion, match=r"weights was changed: SHA-256 \w{64} was written"):
        projects.activate(seven, 1, 7)
    assert projects.require(seven, 1).champion == 5
    assert seven.registry.folder(1, 5).is_dir()
    assert states(seven)[7] == "rejected"
