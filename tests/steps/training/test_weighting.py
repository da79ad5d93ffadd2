"""Edit time decides which finished tasks a training looks at more often, down to the sampler."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import models.base
from backend.cli import app as cli
from backend.cli import order as cli_order
from backend.errors import InvalidPayload
from backend.loop import gate
from backend.records import Annotation, Interaction, TaskEvidence, WeakLabel
from backend.steps import projects, status
from backend.steps.training import train, weighting
from backend.store import annotations, learning, proposals
from backend.wiring import Services
from models.learning import planning
from models.learning.partial_labels import verified
from models.learning.sampling import Supply
from models.learning.training import PROFILES
from tests.steps.conftest import NOW, TASKS

SEEN = TASKS[:3]  # the last one was annotated before there was a version
OUTLINE_PX = dict(zip(SEEN, (10.0, 400.0, 100.0), strict=True))


@pytest.fixture
def taught(services: Services, monkeypatch: pytest.MonkeyPatch) -> Services:
    """Each task has a click of either sign; a version had proposed ever longer outlines."""
    monkeypatch.setattr(gate, "is_validation", lambda *_: False)
    with services.store.transaction() as tx:
        for task in TASKS:
            annotations.put(tx, Annotation(task, 1, task, NOW, (), lead_time_s=9.0))
            points = [
                WeakLabel(1, task, task, "crack", 5.0, 5.0, True, "click", weight=0.5),
                WeakLabel(1, task, task, "crack", 20.0, 12.0, False, "click"),
            ]
            said = Interaction(
                1, task, task, "crack", "modified", 0.5, 3, 2, 9.0, 1, 1, 1.0, created_at=NOW
            )
            if task in SEEN:
                stats = {"area_px": 50.0, "outline_px": OUTLINE_PX[task], "components": 1.0}
                seen = TaskEvidence(1, task, 1, ("crack",), ((0.5,),), (0.0,), {"crack": stats})
                proposals.save(tx, 1, task, 1, [], seen)
            learning.replace(tx, task, 1, task, [said] * (task in SEEN), points, [])
    return services


def positives(services: Services) -> dict[str, float]:
    samples = train.load(services, 1).samples
    return {s.key: p.weight for s in samples for p in s.points if p.positive}


def test_nobody_asked_nothing_is_weighted(taught: Services) -> None:
    assert positives(taught) == dict.fromkeys(map(str, TASKS), 0.5)


def test_long_edits_count_more_or_first_less(taught: Services) -> None:
    projects.choose_weighting(taught, 1, "hard_first")
    hard = positives(taught)
    assert hard == {"11": 0.25, "12": 0.75, "13": 0.5, "14": 0.5}  # halved, by half more, as it is
    projects.choose_weighting(taught, 1, "curriculum")
    assert positives(taught) == hard, "all tasks are finished: the curriculum has come to the hard"
    with taught.store.transaction() as tx:
        annotations.delete(tx, 1, [14], NOW)  # a quarter of the way is left to go
    now = positives(taught)
    assert {key: now[key] for key in ("11", "12", "13")} == {"11": 0.375, "12": 0.625, "13": 0.5}


def test_the_weights_reach_the_sampler(taught: Services) -> None:
    """The crops of a task are drawn in proportion to its weight."""
    projects.choose_weighting(taught, 1, "hard_first")
    loaded = train.load(taught, 1)
    samples = planning.ordered([replace(s, held_out=s.key == "14") for s in loaded.samples])
    profile = replace(PROFILES["cpu"], crop_px=8)
    plans, skipped = planning.plan(samples, loaded.specs, profile.crop_px, 0)
    assert not skipped
    (material,) = planning.cut(samples, plans, profile)
    supply = Supply([material.source], np.random.default_rng(0))
    drawn = [supply.draw(8) for _ in range(300)]
    chosen = np.concatenate([one.chosen[one.groups == 0] for one in drawn])
    counts = Counter(samples[plans[0].learn.positives[n].sample].key for n in chosen.tolist())
    shares = {key: count / len(chosen) for key, count in counts.items()}
    assert shares == pytest.approx({"11": 1 / 6, "12": 3 / 6, "13": 2 / 6}, abs=0.02)


def test_masks_weigh_as_their_sample_does() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    masks: dict[str, Any] = {"crack": lambda: np.eye(4, dtype=bool)}
    (sample,) = weighting.weighted([models.base.Sample("7", lambda: image, (), masks)], {"7": 1.25})
    assert set(verified(sample, "crack")().weight.ravel().tolist()) == {1.25}


def test_the_choice_is_made_by_command_and_checked(
    taught: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_order, "open_services", lambda: taught)
    monkeypatch.setattr(cli_order, "console", Console(width=300))
    arguments = ["rank", "-p", "1", "--weighting", "curriculum"]
    said = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert "edit time: curriculum" in said.output
    assert status.of_project(taught, 1).weighting == "curriculum"
    with pytest.raises(InvalidPayload, match="weighting is 'hard-first'; give one of off, hard_"):
        projects.choose_weighting(taught, 1, "hard-first")
