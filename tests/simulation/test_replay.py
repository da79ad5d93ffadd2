"""The replay by itself: curves and areas by hand on a toy world, budgets, intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import simulate
from strategies.simulate import Curve, Done

WORTH = {1: 0.10, 2: 0.05, 3: 0.30, 4: 0.20, 5: 0.01}
SECONDS = {1: 10.0, 2: 20.0, 3: 30.0, 4: 40.0, 5: 5.0}


@dataclass
class Toy:
    """A state is the value so far: the sum of what the finished tasks are worth."""

    order: Sequence[int]
    seconds: dict[int, float] = field(default_factory=lambda: dict(SECONDS))
    shown: list[tuple[int, float | None]] = field(default_factory=list)
    asked: list[tuple[list[int], list[int]]] = field(default_factory=list)

    def correct(self, state: float | None, task: int) -> Done[float]:
        self.shown.append((task, state))
        return Done(task, self.seconds[task], WORTH.get(task, 0.0))

    def learn(self, before: float | None, done: Sequence[Done[float]]) -> float:
        return sum(one.label for one in done)

    def rank(
        self, state: float, waiting: Sequence[int], done: Sequence[Done[float]]
    ) -> Sequence[int]:
        self.asked.append((list(waiting), [one.task for one in done]))
        return [task for task in self.order if task in waiting]

    def judge(self, state: float) -> float:
        return state


def play(
    toy: Toy, *, budget_s: float, marks_s: Sequence[float], first: Sequence[int] = (1,)
) -> list[simulate.Round]:
    start = simulate.begin(toy, first)
    return simulate.replay(toy, start, sorted(toy.seconds), budget_s=budget_s, marks_s=marks_s)


def test_the_curve_is_the_one_worked_out_by_hand() -> None:
    toy = Toy([3, 4, 2, 5])
    rounds = play(toy, budget_s=100, marks_s=[30, 70, 100])
    # start: task 1. To 30 s: 3 (30 s, done at 40). To 70 s: 4 (done at 80). To 100 s: 2, which
    # takes 20 s and ends at 100, the budget.
    assert [one.tasks for one in rounds] == [(1,), (3,), (4,), (2,)]
    assert [one.spent_s for one in rounds] == [10, 40, 80, 100]
    assert [one.value for one in rounds] == pytest.approx([0.10, 0.40, 0.60, 0.65])
    area = (0.10 + 0.40) / 2 * 30 + (0.40 + 0.60) / 2 * 40 + (0.60 + 0.65) / 2 * 20
    found = simulate.mean_value(simulate.curve(rounds), 10, 100)
    assert found == pytest.approx(area / 90)


def test_people_correct_the_proposals_of_the_newest_version_alone() -> None:
    toy = Toy([5, 2, 3, 4])
    play(toy, budget_s=200, marks_s=[35, 200])
    assert toy.shown == [
        (1, None),
        (5, pytest.approx(0.10)),
        (2, pytest.approx(0.10)),
        (3, pytest.approx(0.16)),
        (4, pytest.approx(0.16)),
    ]
    assert toy.asked == [([2, 3, 4, 5], [1]), ([3, 4], [1, 5, 2])]


def test_a_task_that_does_not_fit_ends_the_work() -> None:
    rounds = play(Toy([2, 3, 5]), budget_s=59, marks_s=[59])
    # 2 ends at 30; 3 would end at 60; 5 would fit, but nobody works out of order
    assert [one.tasks for one in rounds] == [(1,), (2,)]
    whole = play(Toy([2, 3, 5]), budget_s=60, marks_s=[60])
    assert [one.tasks for one in whole] == [(1,), (2, 3)]


def test_a_mark_that_is_passed_already_costs_no_training() -> None:
    toy = Toy([4, 3, 2, 5])
    rounds = play(toy, budget_s=200, marks_s=[11, 12, 13, 60, 200])
    assert [one.tasks for one in rounds] == [(1,), (4,), (3,), (2, 5)]


def test_all_tasks_done_is_the_end() -> None:
    rounds = play(Toy([2, 3, 4, 5]), budget_s=1000, marks_s=[500, 1000])
    assert [one.spent_s for one in rounds] == [10, 105]


@settings(max_examples=200, deadline=None)
@given(
    seconds=st.lists(st.floats(0.1, 100), min_size=1, max_size=12),
    budget_s=st.floats(0.1, 300),
    rounds=st.integers(1, 6),
    data=st.data(),
)
def test_the_budget_is_never_exceeded_and_no_task_is_done_twice(
    seconds: list[float], budget_s: float, rounds: int, data: st.DataObject
) -> None:
    costs = dict(enumerate(seconds))
    order = data.draw(st.permutations(sorted(costs)))
    toy = Toy(order, costs)
    start = simulate.begin(toy, ())
    marks_s = simulate.marks(0, budget_s, rounds)
    found = simulate.replay(toy, start, sorted(costs), budget_s=budget_s, marks_s=marks_s)
    done = [task for one in found for task in one.tasks]
    assert found[-1].spent_s <= budget_s and len(done) == len(set(done))
    assert found[-1].spent_s == pytest.approx(sum(costs[task] for task in done))
    left = [task for task in order if task not in done]
    assert done == order[: len(done)]
    assert (
        not left
        or found[-1].spent_s + costs[left[0]] > budget_s
        or math.isclose(found[-1].spent_s, budget_s)
    )


def test_marks_grow_and_end_at_the_budget() -> None:
    found = simulate.marks(20, 120, 4)
    assert found == pytest.approx([20 + 100 * (r / 4) ** 1.5 for r in (1, 2, 3, 4)])
    assert found[-1] == 120 and (np.diff(found, n=2) > 0).all()
    with pytest.raises(ValueError, match="first tasks take 130 s of the budget of 120 s"):
        simulate.marks(130, 120, 4)


def curve(*points: tuple[float, float]) -> Curve:
    seconds, values = zip(*points, strict=True)
    return Curve(np.array(seconds, dtype=float), np.array(values))


def test_the_area_stops_at_the_budget_and_stays_level_after_the_last_point() -> None:
    found = curve((0, 0.2), (50, 0.6))
    assert simulate.mean_value(found, 0, 100) == pytest.approx((0.4 * 50 + 0.6 * 50) / 100)
    assert simulate.mean_value(found, 0, 25) == pytest.approx(0.3)  # 0.2 to 0.4
    assert simulate.mean_value(found, 25, 50) == pytest.approx(0.5)


def test_a_value_is_reached_on_the_line_to_the_first_point_that_has_it() -> None:
    found = curve((0, 0.2), (10, 0.4), (20, 0.3), (30, 0.7))
    assert simulate.reached_s(found, 0.3) == pytest.approx(5)
    assert simulate.reached_s(found, 0.1) == 0
    assert simulate.reached_s(found, 0.5) == pytest.approx(25)
    assert simulate.reached_s(found, 0.71) is None


def test_saved_time_is_what_the_rival_needs_longer() -> None:
    rival = curve((0, 0.2), (100, 0.6))
    assert simulate.saved_s(curve((0, 0.2), (50, 0.6)), rival, 100) == (pytest.approx(50), True)
    assert simulate.saved_s(rival, rival, 100) == (0, True)
    # the rival had reached its last value before: at 40 s
    early = curve((0, 0.2), (40, 0.6), (80, 0.8), (100, 0.6))
    assert simulate.saved_s(rival, early, 100) == (pytest.approx(-60), True)
    # never within the budget: counted as if at its end, and said
    assert simulate.saved_s(curve((0, 0.2), (100, 0.5)), early, 100) == (pytest.approx(-60), False)


def test_intervals_are_students() -> None:
    found = simulate.estimate([1.0, 2.0, 3.0])
    half = 4.303 / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half))
    assert simulate.estimate([0.5]) == simulate.Estimate(0.5, None, None)
    with pytest.raises(ValueError, match="at least one seed"):
        simulate.estimate([])


def test_quantiles_beyond_the_table_are_those_of_the_distribution() -> None:
    stats = pytest.importorskip("scipy.stats")
    for df in (1, 2, 5, 10, 11, 20, 100):
        assert simulate.t_95(df) == pytest.approx(stats.t.ppf(0.975, df), abs=3e-3)
