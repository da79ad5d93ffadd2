"""A champion whose files are damaged: a former one serves by itself, and nobody uses it again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from structlog.testing import capture_logs

from backend import registry as places
from backend.errors import CorruptVersion, StorageError, UnknownThing
from backend.records import Annotation, Reign, Task, Version, WeakLabel
from backend.registry import Registry
from backend.steps import damage, decide, projects, queues, status
from backend.steps.proposing import predict, publish, seeing
from backend.steps.proposing.propose import propose_ids
from backend.steps.training.prune import prune
from backend.store import annotations, learning, reigns, tasks, versions
from backend.store import projects as project_rows
from backend.web.metrics import StoreCollector
from backend.wiring import Services
from tests.steps.conftest import NOW, TASKS, PlayedFitted
from tests.steps.fake_label_studio import FakeLabelStudio
from tests.steps.proposing.test_predict import payload
from tests.steps.training.test_watch import published

NEW = 15


@dataclass
class Verifying:
    """Loads nothing, but looks at the files as `Residents` does, of a worker that just started."""

    registry: Registry
    proposed: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    meanwhile: Callable[[int], None] = lambda number: None

    def get(self, project: int, number: int, pipeline: str) -> PlayedFitted:
        self.asked.append(number)
        self.registry.folder(project, number)
        self.meanwhile(number)
        return PlayedFitted(number, self.proposed)


def write(folder: Path) -> None:
    (folder / "weights").write_bytes(b"weights")


def promote(services: Services, number: int, metrics: Mapping[str, Any] | None = None) -> None:
    services.registry.save(1, number, write)
    at = NOW + timedelta(hours=number)
    with services.store.transaction() as tx:
        assert versions.next_number(tx, 1) == number
        made = Version(1, number, "challenger", "advcam", f"s{number}", at, metrics=metrics or {})
        versions.add(tx, made)
        projects.promote(tx, 1, number)


@pytest.fixture
def own(services: Services) -> Services:
    played: Any = Verifying(services.registry)
    made = replace(services, residents=played)
    made.queues.services = made  # type: ignore[attr-defined]
    return made


@pytest.fixture
def three(own: Services) -> Services:
    """v1, v2 and v3 were champions in turn; each has been published, and a new task has come."""
    for number in (1, 2, 3):
        promote(own, number)
        published(own)
    with own.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, NEW, f"/data/upload/1/{NEW}.jpg", NOW)])
    return own


def folder(services: Services, number: int) -> Path:
    return Path(str(services.settings.model_dir)) / "versions" / "1" / str(number)


def change(services: Services, number: int) -> None:
    (folder(services, number) / "weights").write_bytes(b"changed")


def lose_file(services: Services, number: int) -> None:
    (folder(services, number) / "weights").unlink()


def lose_all(services: Services, number: int) -> None:
    shutil.rmtree(folder(services, number))


def known(services: Services) -> dict[int, Version]:
    with services.store.reading() as tx:
        return {version.number: version for version in versions.list(tx, 1)}


def reigned(services: Services) -> list[Reign]:
    with services.store.reading() as tx:
        return reigns.list(tx, 1)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (change, r"/1/3/weights was changed: SHA-256 \w{64} was written, found \w{64} since"),
        (lose_file, r"/1/3/weights is missing since"),
        (lose_all, r"no files of version v3 of project 1\)"),
    ],
)
def test_a_damaged_champion_is_left_and_the_former_one_serves(
    three: Services, server: FakeLabelStudio, harm: Callable[..., None], reason: str
) -> None:
    harm(three, 3)
    proposed = three.residents.proposed  # type: ignore[attr-defined]
    proposed.clear()
    with capture_logs() as logs:
        published(three)
    server.tasks = [*TASKS, NEW]
    assert projects.require(three, 1).champion == 2
    assert server.model_version == "v2" and all(server.shown().values())
    assert proposed == [NEW], "what v2 proposed is in the store"
    found = known(three)
    assert [found[n].state for n in (1, 2, 3)] == ["retired", "champion", "damaged"]
    with pytest.raises(CorruptVersion, match=rf"v3 is damaged and never used again \(.*{reason}"):
        projects.activate(three, 1, 3)
    last = reigned(three)[-1]
    assert (last.number, last.former, last.how) == (2, 3, "fell back")
    assert status.of_project(three, 1).damage == last.reason
    assert last.reason == f"v3 was left as damaged: {found[3].damage}"
    (told,) = [entry for entry in logs if entry["event"] == "champion left"]
    assert (told["from_"], told["to"], told["reason"]) == (3, "v2", found[3].damage)


def test_the_next_choice_ends_what_is_said_of_the_damage(
    three: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(three.queues, "depths", dict, raising=False)

    def metric() -> float:
        families = {family.name: family for family in StoreCollector(three).collect()}
        return float(families["labelclimb_champion_damaged"].samples[0].value)

    change(three, 3)
    assert (damage.left(three, 1, 3), metric()) == (True, 1)
    projects.activate(three, 1, 1)
    assert (status.of_project(three, 1).damage, metric()) == ("", 0)


def test_damaged_former_champions_are_passed_by(three: Services) -> None:
    for number in (2, 3):
        change(three, number)
    assert damage.left(three, 1, 3)
    states = {number: version.state for number, version in known(three).items()}
    assert states == {1: "champion", 2: "damaged", 3: "damaged"}
    with pytest.raises(UnknownThing, match="no former champion"):
        projects.rollback(three, 1)


def test_one_that_cannot_be_loaded_here_is_passed_by_but_not_condemned(three: Services) -> None:
    def of_another_release(number: int) -> None:
        if number == 2:
            raise KeyError("format")

    change(three, 3)
    three.residents.meanwhile = of_another_release  # type: ignore[attr-defined]
    assert damage.left(three, 1, 3)
    states = {number: version.state for number, version in known(three).items()}
    assert states == {1: "champion", 2: "retired", 3: "damaged"}


def test_two_workers_that_find_it_at_once_fall_back_once(three: Services) -> None:
    change(three, 3)
    played: Any = three.residents

    def another_worker(number: int) -> None:
        played.meanwhile = lambda number: None
        assert damage.left(three, 1, 3)
        projects.activate(three, 1, 1)  # and somebody chooses at once

    played.meanwhile = another_worker
    assert damage.left(three, 1, 3), "it had begun before the other one"
    assert projects.require(three, 1).champion == 1
    assert [reign.how for reign in reigned(three)][3:] == ["fell back", "activated"]


def test_what_may_pass_condemns_nothing(
    three: Services, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def untouched() -> bool:
        return projects.require(three, 1).champion == 3 and not known(three)[3].damage

    def away(project: int, number: int) -> Path:
        raise StorageError("s3://models cannot be used (connection reset)")

    with monkeypatch.context() as broken, pytest.raises(StorageError, match="connection reset"):
        broken.setattr(three.registry, "folder", away)
        publish.publish(three, 1)
    assert untouched()
    place = folder(three, 3).parent
    place.rename(tmp_path / "not mounted")
    with pytest.raises(StorageError, match=r"versions/1 is not there: is MODEL_DIR right"):
        publish.publish(three, 1)
    assert untouched()
    (tmp_path / "not mounted").rename(place)
    assert not damage.left(three, 1, 3), "whole at the second look"
    assert untouched()


def test_a_damaged_copy_in_the_cache_condemns_nothing(
    own: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "local", {"auto_mkdir": True})
    cache = tmp_path / "c"
    store = places.at(f"local://{tmp_path}/m", cache=cache, cache_bytes=10**6)
    played: Any = Verifying(store)
    remote = replace(own, registry=store, residents=played)
    remote.queues.services = remote  # type: ignore[attr-defined]
    promote(remote, 1)
    published(remote)
    (copy,) = cache.iterdir()
    for harm in (lambda: (copy / "weights").write_bytes(b"half"), (copy / "weights").unlink):
        harm()
        propose_ids(remote, 1, 1, TASKS)
        assert not damage.left(remote, 1, 1)
        assert (copy / "weights").read_bytes() == b"weights", "fetched anew"
    assert projects.require(remote, 1).champion == 1


def opened(services: Services) -> None:
    propose_ids(services, 1, 3, [NEW])


def clicked(services: Services) -> None:
    seeing.see(services, 1, 3, NEW, None)


@pytest.mark.parametrize("find", [opened, clicked, seeing.warm_up])
def test_whoever_loads_it_leaves_it(three: Services, find: Callable[[Services], None]) -> None:
    change(three, 3)
    played: Any = three.queues
    played.enqueued.clear()
    find(three)
    assert projects.require(three, 1).champion == 2
    assert ("publish", {"project": 1}) in played.enqueued


@pytest.fixture
def lost(own: Services, server: FakeLabelStudio) -> Services:
    """The only version there was is damaged, and a new task has come."""
    promote(own, 1)
    published(own)
    snapshot = teach(own)
    with own.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, NEW, f"/data/upload/1/{NEW}.jpg", NOW)])
        project_rows.update(tx, 1, last_snapshot=snapshot, last_snapshot_at=NOW)
    assert not decide.training_decision(own, 1)[0].train
    change(own, 1)
    published(own)
    return own


def teach(services: Services) -> str:
    with services.store.transaction() as tx:
        annotations.put(tx, Annotation(5, 1, 11, NOW, ()))
        points = [WeakLabel(1, 11, 5, "crack", 5.0, 5.0, sign, "click") for sign in (True, False)]
        learning.replace(tx, 5, 1, 11, [], points, [])
    return decide.current_snapshot(services, 1)


def test_without_a_former_champion_what_is_shown_stays_and_a_training_comes_at_once(
    lost: Services, server: FakeLabelStudio
) -> None:
    now = projects.require(lost, 1)
    assert (now.champion, now.published, server.model_version) == (None, "v1", "v1")
    assert all(held and held[0]["result"] for held in server.shown().values())
    found = status.of_project(lost, 1)
    assert found.damage.startswith("v1 was left as damaged, and no former version can be used")
    assert "SHA-256" in found.damage
    assert found.training == ("the version in use is damaged and no other can serve: trains anew")
    played: Any = lost.queues
    played.enqueued.clear()
    decide.next_steps(lost, 1)
    decide.next_steps(lost, 1)
    snapshot = decide.current_snapshot(lost, 1)
    assert played.enqueued == [("train", {"project": 1, "snapshot": snapshot})], "the same labels"
    promote(lost, 2)
    assert status.of_project(lost, 1).damage == ""
    assert not decide.training_decision(lost, 1)[0].train
    server.tasks = TASKS[1:]  # the first one is annotated by now
    published(lost)
    assert server.model_version == "v2"


def test_nobody_waits_for_a_version_that_was_left(
    lost: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "propose_now", None)
    asked = [payload(11), payload(NEW)]
    stored, late = predict.answer(lost, projects.require(lost, 1), asked)
    assert stored["result"] and "result" not in late
    seeing.see(lost, 1, 1, 11, None)
    assert projects.require(lost, 1).champion is None


def test_what_the_damaged_version_had_learned_counts_as_new(three: Services) -> None:
    snapshot = teach(three)
    with three.store.transaction() as tx:
        project_rows.update(tx, 1, last_snapshot=snapshot, train_requested_at=NOW)
    assert decide.training_decision(three, 1)[0].reason == (
        "nothing has changed since the last training"
    )
    change(three, 3)
    assert damage.left(three, 1, 3)
    now = projects.require(three, 1)
    assert (now.last_snapshot, now.last_snapshot_at) == ("s2", None), "v2 does not say what it knew"
    assert decide.training_decision(three, 1)[0].train


def test_files_of_a_damaged_version_go_by_the_rules_of_pruning(three: Services) -> None:
    change(three, 3)
    damage.left(three, 1, 3)
    with three.store.transaction() as tx:
        project_rows.update(tx, 1, published="v2")
    for number in (4, 5):
        promote(three, number)
    done = prune(three, 1, keep=2)
    assert 3 in done.removed and 3 not in done.slimmed
    assert known(three)[3].state == "pruned" and known(three)[3].damage


def test_a_system_s_own_file_in_a_version_is_no_damage(three: Services) -> None:
    for name in (".DS_Store", ".nfs000000000123abcd00000001"):
        (folder(three, 3) / name).write_bytes(b"")
    assert not damage.left(three, 1, 3)
    assert known(three)[3].state == "champion"


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: launch failure"), ValueError("x")])
def test_what_cannot_be_loaded_here_takes_no_champion_away(
    three: Services, error: Exception
) -> None:
    """As on a worker whose GPU has failed: it can load nothing."""

    def broken(number: int) -> None:
        raise error

    change(three, 3)
    three.residents.meanwhile = broken  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match=rf"no former version can be loaded here.*{error}"):
        damage.left(three, 1, 3)
    seeing.warm_up(three)  # and no worker ends by it
    assert projects.require(three, 1).champion == 3
    assert {n: v.state for n, v in known(three).items()}[2] == "retired"
