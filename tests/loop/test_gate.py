from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from backend.loop import gate
from backend.loop.gate import TaskScore, correction_cost_s, is_validation, judge
from models.base import Mask
from models.metrics import outline_px
from tests.loop.making import box

NOTHING = np.zeros((400, 400), dtype=bool)
BLOB = box(100, 100, 200, 200)


def one(task: str, cost_s: float = 20.0, f: float = 0.6, class_name: str = "crack") -> TaskScore:
    return TaskScore(task, class_name, cost_s=cost_s, f=f, f_strict=f / 2)


def many(n: int = 12, cost_s: float = 20.0, f: float = 0.6, **changes: Any) -> list[TaskScore]:
    """Give tasks of very different cost around the mean."""
    noise = np.random.default_rng(1).normal(0, 5, n)
    noise -= noise.mean()
    return [one(f"t{i}", cost_s + float(noise[i]), f, **changes) for i in range(n)]


def test_the_split_keeps_its_share_and_never_changes_its_mind() -> None:
    kept = [is_validation(7, f"/data/upload/7/{n}.jpg") for n in range(5000)]
    assert sum(kept) == pytest.approx(1000, abs=100)
    assert kept == [is_validation(7, f"/data/upload/7/{n}.jpg") for n in range(5000)]
    assert kept != [is_validation(8, f"/data/upload/7/{n}.jpg") for n in range(5000)]
    wider = [is_validation(7, f"/data/upload/7/{n}.jpg", share=0.5) for n in range(5000)]
    assert all(w for k, w in zip(kept, wider, strict=True) if k)
    assert not is_validation(7, "x", share=0.0) and is_validation(7, "x", share=1.0)


def test_the_first_version_is_promoted_when_its_figures_are_finite() -> None:
    assert judge(None, many(), seed=0).promote
    assert judge(None, [], seed=0).promote
    verdict = judge(None, [one("a"), one("b", f=math.nan)], seed=0)
    assert not verdict.promote
    assert verdict.reason == "1 of 2 validation figures are not finite"


def test_without_validation_tasks_the_newer_one_is_promoted() -> None:
    verdict = judge([], [], seed=0)
    assert verdict.promote and "no validation tasks" in verdict.reason
    assert judge([one("a")], [one("b")], seed=0).figures == {"tasks": 0}


@pytest.mark.parametrize(
    ("cost_s", "f", "promote"),
    [
        (20, 0.6, True),
        (29.9, 0.6, True),
        (30.1, 0.6, False),
        (20, 0.56, True),
        (5, 0.54, False),
        (50, 0.61, True),
    ],
)
def test_few_tasks_are_judged_by_the_simple_rule(cost_s: float, f: float, promote: bool) -> None:
    before = [one(t) for t in "abcd"]
    verdict = judge(before, [one(t, cost_s, f) for t in "abcd"], seed=0)
    assert verdict.promote is promote
    assert verdict.figures["rule"] == "simple"
    assert "4 validation task(s): predicted correction 20.0 s" in verdict.reason


def test_enough_tasks_are_resampled_in_pairs() -> None:
    better = judge(many(), many(cost_s=19.0), seed=0)
    assert better.promote and better.figures["rule"] == "bootstrap"
    assert better.figures["cheaper"] == 1.0  # unpaired, the noise of 5 s would hide 1 s
    worse = judge(many(), many(cost_s=21.0), seed=0)
    assert not worse.promote and worse.figures["cheaper"] == 0.0
    assert worse.reason.startswith("costs no more in only 0% of resamples (60% needed)")


def test_an_equal_challenger_knows_more_and_is_promoted() -> None:
    assert judge(many(), many(), seed=0).promote


def test_a_clearly_lower_f_measure_is_not_bought_by_cost() -> None:
    verdict = judge(many(), many(cost_s=10.0, f=0.57), seed=0)
    assert not verdict.promote and "F-measure is clearly lower" in verdict.reason


def test_no_class_falls_through_the_floor() -> None:
    before = many(f=0.5) + many(f=0.5, class_name="rust")
    after = many(f=0.9, cost_s=10.0) + many(f=0.4, class_name="rust")
    verdict = judge(before, after, seed=0)
    assert not verdict.promote
    assert verdict.figures["below_floor"] == ["rust"]
    assert "rust lost more than 0.05 of F-measure" in verdict.reason


def test_only_common_pairs_count_and_their_order_does_not() -> None:
    before, after = many(), many(cost_s=19.0)
    extra = [one("only", cost_s=9999.0)]
    verdict = judge(before[::-1], after + extra, seed=0)
    assert verdict == judge(before, after, seed=0)
    assert verdict.figures["tasks"] == 12


def test_the_verdict_depends_on_the_seed_alone_and_is_json() -> None:
    rng = np.random.default_rng(3)
    after = [one(s.task, s.cost_s + rng.normal(0, 3), s.f) for s in many()]
    verdict = judge(many(), after, seed=5)
    assert verdict == judge(many(), after, seed=5)
    assert json.loads(json.dumps(verdict.as_json())) == verdict.as_json()
    assert set(verdict.as_json()) == {"promote", "reason", "figures"}


def test_a_right_proposal_costs_nothing() -> None:
    assert correction_cost_s(BLOB, BLOB) == 0
    assert correction_cost_s(NOTHING, NOTHING) == 0
    assert correction_cost_s(BLOB, box(102, 100, 200, 202)) == 0  # within the tolerance


def test_costs_follow_the_stated_formula() -> None:
    draw = 2.0 + 0.01 * (4 * 100 - 4) * 1000 / 400
    assert outline_px(BLOB) == 396
    assert correction_cost_s(NOTHING, BLOB) == pytest.approx(draw)
    assert correction_cost_s(BLOB, NOTHING) == pytest.approx(2.0)  # one region is deleted
    extra = box(300, 300, 310, 310)
    erase = 2.0 + 0.01 * 36 * 1000 / 400
    assert correction_cost_s(BLOB | extra, BLOB) == pytest.approx(erase)


def test_costs_grow_with_what_is_wrong_up_to_drawing_anew() -> None:
    scratch = correction_cost_s(NOTHING, BLOB)
    costs = [correction_cost_s(box(100, 100, 200, right), BLOB) for right in (190, 160, 120)]
    assert costs == sorted(costs) and costs[0] < costs[-1] <= scratch + gate.REGION_S
    chaos = np.random.default_rng(0).random(BLOB.shape) > 0.9
    assert correction_cost_s(chaos, BLOB) == pytest.approx(scratch + gate.REGION_S)


def test_the_same_surface_photographed_finer_costs_the_same() -> None:
    def doubled(mask: Mask) -> Mask:
        return mask.repeat(2, axis=0).repeat(2, axis=1)

    coarse, fine = (
        correction_cost_s(NOTHING, BLOB),
        correction_cost_s(doubled(NOTHING), doubled(BLOB)),
    )
    assert fine == pytest.approx(coarse, rel=0.01)


def test_scores_name_their_task_and_measure_both_ways() -> None:
    found = gate.score("7.jpg", "crack", BLOB, box(100, 101, 200, 201))
    assert (found.task, found.class_name, found.cost_s, found.f) == ("7.jpg", "crack", 0.0, 0.85)
    assert found.f_strict == pytest.approx(0.99)


def test_masks_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        correction_cost_s(BLOB, BLOB[:-1])


def test_an_accepted_proposal_gives_its_own_version_no_head_start() -> None:
    accepted, other = box(100, 100, 200, 200), box(103, 103, 202, 202)
    before = gate.score("7.jpg", "crack", accepted, accepted)
    after = gate.score("7.jpg", "crack", other, accepted)
    assert after.f_strict < before.f_strict == 1.0
    assert (after.cost_s, after.f) == (before.cost_s, before.f)
    assert gate.score("7.jpg", "crack", box(150, 150, 400, 400), accepted).cost_s > 0
