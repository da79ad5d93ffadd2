"""The intake benchmark sees what it is there to see: events that are lost, effects that double."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from backend.settings import Settings
from backend.store import annotations as annotation_rows
from backend.wiring import Services, build
from tests.migrated import new_store
from tests.store.examples import annotation, at

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def intake() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import intake

        yield intake
    sys.modules.pop("intake", None)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    new_store(tmp_path)
    built = build(Settings.from_env({"DATA_DIR": str(tmp_path)}))
    yield built
    built.close()


def test_the_audit_counts_lost_and_doubled_events(intake: ModuleType, services: Services) -> None:
    intake.count_effects(services)
    sent = intake.Sent(ids={1, 2, 3})
    with services.store.transaction() as tx:
        for id in (1, 2):
            annotation_rows.put(tx, annotation(id=id))
        assert not annotation_rows.put(tx, annotation(id=2))
    assert intake.audit(services, sent) == (1, 0)
    with services.store.transaction() as tx:
        annotation_rows.put(tx, annotation(id=2, updated_at=at(99)))
        annotation_rows.put(tx, annotation(id=3))
    assert intake.audit(services, sent) == (0, 1)


def test_some_events_are_sent_twice_as_different_annotations(intake: ModuleType) -> None:
    sent = intake.bodies(100, repeated=0.1, seed=0)
    counts = Counter(number for number, _ in sent)
    assert sorted(counts.values()) == [1] * 90 + [2] * 10
    for number, text in sent:
        body = json.loads(text)
        assert (body["annotation"]["id"], body["task"]["id"]) == (number, number)
        assert body["project"]["id"] == body["annotation"]["project"] == intake.PROJECT
