"""Replay of annotation where the answers are known: which order is worth how many human seconds.

A replay works through the tasks of a `World` in the order that it ranks them, pays the seconds of
each, and learns anew at fixed marks of human time, the same for every order. So two orders are
compared at equal human time, not at equal numbers of tasks. Nothing here knows images or
strategies; all randomness is the world's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from strategies.base import FloatArray

GROWTH = 1.5  # exponent of the marks: early rounds are short, as the first labels teach the most
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)  # df 1 to 10
Z_95 = 1.96

State = TypeVar("State")
Label = TypeVar("Label")


@dataclass(frozen=True)
class Done(Generic[Label]):
    """A finished task, the human seconds that it took (above 0), and what it teaches."""

    task: int
    seconds: float
    label: Label


class World(Protocol[State, Label]):
    """The labelled set and the model; a state is what has been learnt after a round."""

    def correct(self, state: State | None, task: int) -> Done[Label]:
        """Finish a task whose proposal is that of `state`; None: there is none yet."""

    def learn(self, before: State | None, done: Sequence[Done[Label]]) -> State:
        """Learn from all tasks finished so far, oldest first."""

    def rank(
        self, state: State, waiting: Sequence[int], done: Sequence[Done[Label]]
    ) -> Sequence[int]:
        """Return the waiting tasks, most urgent first."""

    def judge(self, state: State) -> float:
        """Say how good a state is, larger = better."""


@dataclass(frozen=True)
class Start(Generic[State, Label]):
    """What all orders of a seed begin from: the first tasks, finished, and what they taught."""

    done: tuple[Done[Label], ...]
    state: State
    value: float

    @property
    def spent_s(self) -> float:
        """Return the human seconds of the first tasks."""
        return sum(one.seconds for one in self.done)


@dataclass(frozen=True)
class Round:
    """The tasks finished in it; after it: human seconds since the beginning, and the value."""

    tasks: tuple[int, ...]
    spent_s: float
    value: float


@dataclass(frozen=True)
class Curve:
    """Values over human seconds, (R,) each; straight lines between them, level after the last."""

    seconds: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with the ends of its 95 % interval (Student's t); None from one seed."""

    mean: float
    low: float | None
    high: float | None


def begin(world: World[State, Label], first: Sequence[int]) -> Start[State, Label]:
    """Finish the first tasks without proposals, and learn from them."""
    done = tuple(world.correct(None, task) for task in first)
    state = world.learn(None, done)
    return Start(done, state, world.judge(state))


def replay(
    world: World[State, Label],
    start: Start[State, Label],
    tasks: Sequence[int],
    *,
    budget_s: float,
    marks_s: Sequence[float],
) -> list[Round]:
    """Work until the budget, and learn whenever a mark of human time is passed.

    A task that does not fit into what is left of the budget ends the work: nobody begins what
    they cannot finish, and the budget is never exceeded. The first round is the start itself.
    """
    done, state = list(start.done), start.state
    rounds = [Round(tuple(one.task for one in done), start.spent_s, start.value)]
    waiting = [task for task in tasks if task not in {one.task for one in done}]
    is_over = False
    for mark_s in sorted(marks_s):
        spent_s = rounds[-1].spent_s
        if is_over or not waiting or spent_s >= mark_s:
            continue
        batch: list[Done[Label]] = []
        for task in world.rank(state, waiting, done):
            one = world.correct(state, task)
            is_over = spent_s + one.seconds > budget_s
            if is_over:
                break
            batch.append(one)
            spent_s += one.seconds
            if spent_s >= mark_s:
                break
        if batch:
            done += batch
            finished = {one.task for one in batch}
            waiting = [task for task in waiting if task not in finished]
            state = world.learn(state, done)
            names = tuple(one.task for one in batch)
            rounds.append(Round(names, spent_s, world.judge(state)))
    return rounds


def marks(start_s: float, budget_s: float, rounds: int) -> list[float]:
    """Return when to learn: `rounds` moments with ever larger gaps, the last at the budget.

    start + (budget - start) (r / rounds) ^ GROWTH. Raises ValueError without any time to work.
    """
    if not start_s < budget_s:
        raise ValueError(
            f"the first tasks take {start_s:.0f} s of the budget of {budget_s:.0f} s; give more"
        )
    return [start_s + (budget_s - start_s) * (r / rounds) ** GROWTH for r in range(1, rounds + 1)]


def curve(rounds: Sequence[Round]) -> Curve:
    """Return the values of the rounds over their seconds."""
    return Curve(np.array([one.spent_s for one in rounds]), np.array([one.value for one in rounds]))


def at(found: Curve, seconds: FloatArray) -> FloatArray:
    """(G,) seconds -> (G,) values; before the first point the first value."""
    values: FloatArray = np.interp(seconds, found.seconds, found.values)
    return values


def mean_value(found: Curve, start_s: float, budget_s: float) -> float:
    """Return the area under the curve from start to budget, divided by that time."""
    inside = found.seconds[(found.seconds > start_s) & (found.seconds < budget_s)]
    places = np.concatenate([[start_s], inside, [budget_s]])
    return float(np.trapezoid(at(found, places), places) / (budget_s - start_s))


def reached_s(found: Curve, value: float) -> float | None:
    """Return the first second at which the curve has this value; None where it never has."""
    above = np.flatnonzero(found.values >= value)
    if not len(above):
        return None
    place = int(above[0])
    if place == 0:
        return float(found.seconds[0])
    (before, after), (early, late) = (
        a[place - 1 : place + 1] for a in (found.values, found.seconds)
    )
    return float(early + (late - early) * (value - before) / (after - before))


def saved_s(found: Curve, rival: Curve, budget_s: float) -> tuple[float, bool]:
    """Return the seconds that `found` saves to reach what the rival has at the budget's end.

    Below 0 when it needs longer; when it never gets there within the budget, it is counted as if
    it did at the end, and the second value is False: the true saving is smaller still.
    """
    goal = float(at(rival, np.array([budget_s]))[0])
    needed, own = (reached_s(one, goal) for one in (rival, found))
    ends = [budget_s if reached is None else reached for reached in (needed, own)]
    return ends[0] - ends[1], own is not None


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of one value per seed with its interval; raises ValueError without any."""
    if not values:
        raise ValueError("no seed gave a value; ask for at least one seed")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Estimate(mean, None, None)
    half = t_95(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def t_95(df: int) -> float:
    """Return the 97.5 % quantile of Student's t; beyond the table by Fisher's expansion."""
    if df <= len(T_95):
        return T_95[df - 1]
    z = Z_95
    return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
