from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from backend.loop import gate
from backend.loop.gate import TaskScore, choose, is_validation, judge
from models.base import ClassProposal, Mask, Region
from tests.loop.making import box

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
        (29.9, 0.59, True),
        (30.1, 0.59, False),
        (20, 0.54, True),
        (5, 0.5, False),
        (50, 0.61, True),
    ],
)
def test_few_tasks_are_judged_by_the_simple_rule(cost_s: float, f: float, promote: bool) -> None:
    before = [*(one(t) for t in "abc"), one("d", f=0.55)]
    after = [*(one(t, cost_s, f) for t in "abc"), one("d", cost_s, 0.56)]
    verdict = judge(before, after, seed=0)
    assert verdict.promote is promote
    assert verdict.figures["rule"] == "simple"
    assert "4 validation task(s): predicted correction 20.0 s" in verdict.reason


@pytest.mark.parametrize("tasks", [1, 4, 12])
def test_a_challenger_that_is_worse_on_every_task_never_passes(tasks: int) -> None:
    before = many(tasks)
    after = [one(s.task, s.cost_s, s.f - 0.001) for s in before]
    verdict = judge(before, after, seed=0)
    assert not verdict.promote and verdict.figures["rule"] == "dominated"
    assert verdict.reason.startswith(f"worse on every one of {tasks} validation task(s): ")
    assert judge(before, [after[0], *before[1:]], seed=0).promote or tasks == 1


def test_enough_tasks_are_resampled_in_pairs() -> None:
    better = judge(many(), many(cost_s=19.0), seed=0)
    assert better.promote and better.figures["rule"] == "bootstrap"
    assert better.figures["cheaper"] == 1.0  # unpaired, the noise of 5 s would hide 1 s
    one_gains = [one("t0", 1.0, 0.6), *many(cost_s=23.0)[1:]]
    worse = judge([one("t0", 1.5, 0.6), *many()[1:]], one_gains, seed=0)
    assert not worse.promote and worse.figures["cheaper"] < 0.01
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


def proposed(mask: Mask) -> ClassProposal:
    """Propose the box (100, 100) to (200, 200), and say that one region of it is sure."""
    return ClassProposal("crack", mask, 0.9, regions=(Region(100, 100, 100, 100, 10_000, 0.75),))


def test_scores_name_their_task_and_measure_both_ways() -> None:
    found = gate.score("7.jpg", "crack", proposed(BLOB), box(100, 101, 200, 201))
    assert found.regions == ((0.75, True),)
    assert gate.score("7.jpg", "crack", proposed(BLOB), box(0, 0, 9, 9)).regions == ((0.75, False),)
    nothing = gate.score("7.jpg", "crack", None, box(100, 101, 200, 201))
    assert (nothing.f, nothing.regions) == (0.0, ()) and nothing.cost_s > 0
    assert (found.task, found.class_name, found.cost_s, found.f) == ("7.jpg", "crack", 0.0, 0.85)
    assert found.f_strict == pytest.approx(0.99)


def test_an_accepted_proposal_gives_its_own_version_no_head_start() -> None:
    accepted, other = box(100, 100, 200, 200), box(103, 103, 202, 202)
    before = gate.score("7.jpg", "crack", proposed(accepted), accepted)
    after = gate.score("7.jpg", "crack", proposed(other), accepted)
    assert after.f_strict < before.f_strict == 1.0
    assert (after.cost_s, after.f) == (before.cost_s, before.f)
    assert gate.score("7.jpg", "crack", proposed(box(150, 150, 400, 400)), accepted).cost_s > 0


def both(cost_s: float, f: float, rust_cost_s: float, rust_f: float) -> list[TaskScore]:
    """Twelve tasks with a crack and rust each."""
    return many(cost_s=cost_s, f=f) + many(cost_s=rust_cost_s, f=rust_f, class_name="rust")


CHAMPION = both(20.0, 0.6, 20.0, 0.6)
MIXED = both(10.0, 0.7, 24.0, 0.5)  # better on cracks, worse on rust


def test_a_class_that_got_worse_stays_the_champions() -> None:
    choice = choose(CHAMPION, MIXED, separable=("crack", "rust"), seed=0)
    assert choice.verdict.promote and choice.kept == ("rust",)
    assert choice.verdict.reason.startswith("keeps the champion's rust; costs no more in 100%")
    figures = choice.verdict.figures
    assert figures["challenger"]["f_by_class"] == pytest.approx({"crack": 0.7, "rust": 0.6})
    assert figures["kept"] == ["rust"] and set(figures["by_class"]) == {"crack", "rust"}
    assert "rust lost more than 0.05" in figures["whole"]
    assert json.loads(json.dumps(choice.verdict.as_json())) == choice.verdict.as_json()


def test_a_version_that_would_pass_as_a_whole_still_leaves_its_worse_class() -> None:
    challenger = both(5.0, 0.7, 22.0, 0.58)
    assert judge(CHAMPION, challenger, seed=0).promote
    assert choose(CHAMPION, challenger, separable=("crack", "rust"), seed=0).kept == ("rust",)


@pytest.mark.parametrize(
    ("challenger", "promote"),
    [(both(10.0, 0.7, 10.0, 0.7), True), (both(30.0, 0.5, 30.0, 0.5), False)],
)
def test_better_or_worse_in_all_classes_is_judged_as_a_whole(
    challenger: list[TaskScore], promote: bool
) -> None:
    choice = choose(CHAMPION, challenger, separable=("crack", "rust"), seed=0)
    assert choice == gate.Choice(judge(CHAMPION, challenger, seed=0))
    assert choice.verdict.promote is promote


def test_only_what_can_be_separated_is() -> None:
    for separable in ((), ("crack",)):
        choice = choose(CHAMPION, MIXED, separable=separable, seed=0)
        assert choice == gate.Choice(judge(CHAMPION, MIXED, seed=0))
        assert not choice.verdict.promote


def test_a_class_is_judged_alone_on_enough_tasks_of_its_own() -> None:
    def few(scores: list[TaskScore], count: int) -> list[TaskScore]:
        return scores[: 12 + count]

    enough, too_few = (
        choose(few(CHAMPION, n), few(MIXED, n), separable=("crack", "rust"), seed=0) for n in (5, 4)
    )
    assert enough.kept == ("rust",)
    assert too_few == gate.Choice(judge(few(CHAMPION, 4), few(MIXED, 4), seed=0))


def test_a_first_version_and_broken_figures_keep_nothing() -> None:
    assert choose(None, MIXED, separable=(), seed=0).verdict == judge(None, MIXED, seed=0)
    broken = [*MIXED[:-1], one("t11", f=math.nan, class_name="rust")]
    choice = choose(CHAMPION, broken, separable=("crack", "rust"), seed=0)
    assert not choice.verdict.promote and choice.kept == ()


def test_a_class_that_only_the_challenger_knows_stays_with_it() -> None:
    """The champion was scored with nothing proposed; it has no part to take over."""
    choice = choose(CHAMPION, MIXED, separable=("crack",), seed=0)
    assert choice.kept == ()


def test_a_mixture_that_does_not_pass_falls_back_to_the_whole() -> None:
    """A broken figure of the champion would be taken over with its class."""
    champion = [*CHAMPION[:-1], one("t11", f=math.nan, class_name="rust")]
    choice = choose(champion, MIXED, separable=("crack", "rust"), seed=0)
    assert choice == gate.Choice(judge(champion, MIXED, seed=0))
