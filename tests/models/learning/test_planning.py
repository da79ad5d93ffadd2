"""Plans of trainings: what is learnt, what is held out, and what no order or doubling changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.base import ClassSpec, Sample, WeakPoint
from models.learning import planning
from models.learning.crops import Clicks
from models.learning.training import PROFILES

SPEC = ClassSpec("crack")
PROFILE = replace(PROFILES["cpu"], crop_px=8)
KEYS = [f"task-{n}" for n in range(40)]
HASHED = [key for key in KEYS if planning.is_held_out(key)]


def sample(key: str, *signs: bool, held_out: bool = False) -> Sample:
    points = tuple(
        WeakPoint("crack", 10 + 30 * n, 10 + 20 * sign, sign) for n, sign in enumerate(signs)
    )
    image = np.zeros((40, 80, 3), np.uint8)
    return Sample(key, lambda: image, points, held_out=held_out)


def plan_of(samples: list[Sample]) -> planning.ClassPlan:
    (plan,), skipped = planning.plan(samples, [SPEC], 8, 0)
    assert not skipped
    return plan


def keys(samples: list[Sample], clicks: Clicks) -> set[str]:
    return {samples[click.sample].key for click in clicks.positives + clicks.negatives}


def test_a_hash_holds_out_about_one_in_eight() -> None:
    assert 2 <= len(HASHED) <= 9
    samples = [sample(key, True, False) for key in KEYS]
    plan = plan_of(samples)
    assert keys(samples, plan.held_out) == set(plan.unseen) == set(HASHED)
    assert keys(samples, plan.learn) == set(KEYS) - set(HASHED)


def test_samples_that_say_so_are_held_out_and_no_others() -> None:
    chosen = [key for key in KEYS if key not in HASHED][:3]
    samples = [sample(key, True, False, held_out=key in chosen) for key in KEYS]
    plan = plan_of(samples)
    assert keys(samples, plan.held_out) == set(plan.unseen) == set(chosen)
    assert keys(samples, plan.learn) == set(KEYS) - set(chosen)


def test_nothing_is_ever_learnt_from_a_named_sample() -> None:
    samples = [sample("1", True, False, held_out=True), sample("2", False)]
    plans, skipped = planning.plan(samples, [SPEC], 8, 0)
    assert not plans
    assert "no positive point" in skipped["crack"]


def test_where_only_the_hash_holds_out_few_points_are_all_learnt() -> None:
    samples = [sample(HASHED[0], True, False)]
    plan = plan_of(samples)
    assert keys(samples, plan.learn) == {HASHED[0]}
    assert (len(plan.held_out.positives), plan.unseen) == (0, ())


def test_held_out_points_of_one_sign_choose_nothing() -> None:
    samples = [sample("1", True, False), sample("2", True, held_out=True)]
    plan = plan_of(samples)
    assert (plan.held_out.positives, plan.held_out.negatives) == ((), ())
    assert plan.unseen == ("2",)
    (material,) = planning.cut(samples, [plan], PROFILE)
    assert [len(around) for around in material.held_out] == [0, 0]


def test_material_belongs_to_its_plan() -> None:
    samples = [sample("1", True, False, True), sample("2", True, False, held_out=True)]
    shifted = [
        replace(s, points=(*s.points, *(replace(p, class_name="rust") for p in s.points[:2])))
        for s in samples
    ]
    plans, _ = planning.plan(shifted, [SPEC, ClassSpec("rust")], 8, 0)
    made = planning.cut(shifted, plans, PROFILE)
    sizes = [
        [len(m.source.positives), len(m.source.negatives), *map(len, m.held_out)] for m in made
    ]
    assert sizes == [[2, 1, 1, 1], [1, 1, 1, 1]]


def test_equal_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="1 keys name several samples, '1' one of them"):
        planning.ordered([sample("1"), sample("2"), sample("1")])
