"""The batch that teaches the most in so many human seconds, and what it will bring.

The gain of a batch falls off where its tasks are alike: of the tasks of one group the j-th best
counts 1 / sqrt(j), as errors fall with the root of the examples. That is a monotone submodular
function, so the better of two greedy choices, by gain per second and by gain, is near the best
batch (Leskovec et al., 2007), and how near is bounded in two ways: by what the rest could still
add (Minoux, 1978), and by the gains as if no tasks were alike; both fill a knapsack by fractions.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backend.loop.ordering.reasons import duration
from strategies.base import FloatArray, shuffle_keys

DRAWN = 8  # random batches that the batch is compared with


@dataclass(frozen=True)
class Work:
    """People and minutes that each of them has."""

    annotators: int
    minutes: float

    @property
    def seconds(self) -> float:
        """Return the seconds of all of them together."""
        return self.annotators * self.minutes * 60


@dataclass(frozen=True)
class Plan:
    """A batch, the most valuable first, and a forecast of it.

    seconds: predicted, of `budget_s`; interval: of all tasks together; gain: share of the whole
    queue's gain, in [0, 1]; bound: no batch within the budget has a larger share. by_chance: the
    share that random batches within the budget have on average. forecast: all of it in a sentence.
    """

    tasks: tuple[int, ...]
    seconds: float
    interval: tuple[float, float]
    budget_s: float
    gain: float
    bound: float
    by_chance: float
    forecast: str = ""


def plan(
    gains: Mapping[int, float],
    seconds: Mapping[int, float],
    work: Work,
    *,
    groups: Mapping[int, int] | None = None,
    intervals: Mapping[int, tuple[float, float]] | None = None,
    basis: str = "",
    worth: str = "",
) -> Plan:
    """Choose the tasks that bring the most within the budget; every task fits one person's time.

    gains: {task: >= 0}; seconds: {task: > 0}. groups: {task: group of tasks that are alike}, absent
    = all different. basis: of the seconds; worth: what gains have been worth so far, in words.
    """
    fitting = sorted(t for t in gains if seconds[t] <= work.minutes * 60)
    group = groups or {task: -1 - task for task in gains}
    costs = seconds, dict.fromkeys(fitting, 1.0)
    tried = [_greedy(fitting, gains, seconds, cost, group, work.seconds) for cost in costs]
    chosen = max(tried, key=lambda batch: _value(batch, gains, group))
    total = _value(gains, gains, group) or 1.0  # where nothing teaches, all shares are 0
    value = _value(chosen, gains, group)
    more = _by_fractions(_extra(fitting, chosen, gains, group), seconds, work.seconds)
    unlike = _by_fractions({task: gains[task] for task in fitting}, seconds, work.seconds)
    found = Plan(
        tasks=tuple(chosen),
        seconds=sum(seconds[task] for task in chosen),
        interval=_interval(chosen, seconds, intervals or {}),
        budget_s=work.seconds,
        gain=value / total,
        bound=min(1.0, (value + more) / total, unlike / total),
        by_chance=_by_chance(fitting, gains, seconds, group, work.seconds) / total,
    )
    return replace(found, forecast=_forecast(found, work, len(gains), basis, worth))


def _greedy(
    tasks: Sequence[int],
    gains: Mapping[int, float],
    seconds: Mapping[int, float],
    cost: Mapping[int, float],
    group: Mapping[int, int],
    budget_s: float,
) -> list[int]:
    """Take what adds the most per cost while it fits; lazily, as what is added only shrinks."""
    chosen: list[int] = []
    held: defaultdict[int, list[float]] = defaultdict(list)  # per group, descending as negatives
    waiting = [(-gains[task] / cost[task], task) for task in tasks if gains[task] > 0]
    heapq.heapify(waiting)
    left = budget_s
    while waiting:
        _, task = heapq.heappop(waiting)
        if seconds[task] > left:
            continue
        added = _marginal(gains[task], held[group[task]]) / cost[task]
        if waiting and -added > waiting[0][0]:
            heapq.heappush(waiting, (-added, task))
            continue
        chosen.append(task)
        left -= seconds[task]
        own = held[group[task]]
        own.insert(bisect_left(own, -gains[task]), -gains[task])
    return chosen


def _marginal(gain: float, held: Sequence[float]) -> float:
    """Return what one more task adds to its group; held: the others' gains, negative, ascending."""
    place = bisect_left(held, -gain)
    later = -np.array(held[place:], dtype=np.float64)  # each moves back by one
    weights = _weights(len(held) + 1)[place:]
    return float(gain * weights[0] + later @ np.diff(weights))


def _extra(
    tasks: Sequence[int],
    chosen: Sequence[int],
    gains: Mapping[int, float],
    group: Mapping[int, int],
) -> dict[int, float]:
    """Return what each task that was not chosen would add to those that were."""
    held: defaultdict[int, list[float]] = defaultdict(list)
    for task in chosen:
        held[group[task]].append(-gains[task])
    for own in held.values():
        own.sort()
    left = set(tasks) - set(chosen)
    return {task: _marginal(gains[task], held[group[task]]) for task in left}


def _by_chance(
    tasks: Sequence[int],
    gains: Mapping[int, float],
    seconds: Mapping[int, float],
    group: Mapping[int, int],
    budget_s: float,
) -> float:
    """Return the mean gain of DRAWN batches in random order that fill the budget."""
    ids = np.array(tasks, dtype=np.int64)
    values = []
    for seed in range(DRAWN if len(tasks) else 0):
        order = ids[shuffle_keys(ids, np.random.default_rng(seed)).argsort()]
        spent = np.cumsum([seconds[task] for task in order.tolist()])
        values.append(_value(order[spent <= budget_s].tolist(), gains, group))
    return float(np.mean(values)) if values else 0.0


def _value(
    tasks: Sequence[int] | Mapping[int, float],
    gains: Mapping[int, float],
    group: Mapping[int, int],
) -> float:
    """Return the gain of a batch: per group its gains, descending, by their weights."""
    by_group: defaultdict[int, list[float]] = defaultdict(list)
    for task in tasks:
        by_group[group[task]].append(gains[task])
    return float(sum(np.sort(own)[::-1] @ _weights(len(own)) for own in by_group.values()))


def _weights(n: int) -> FloatArray:
    """Return (n,) what the best, the second, ... of a group count: 1 / sqrt(j)."""
    weights: FloatArray = 1 / np.sqrt(np.arange(1, n + 1))
    return weights


def _by_fractions(
    extra: Mapping[int, float], seconds: Mapping[int, float], budget_s: float
) -> float:
    """Return what the budget buys when tasks may be cut: an upper bound (Dantzig, 1957)."""
    left, found = budget_s, 0.0
    for task in sorted(extra, key=lambda t: extra[t] / seconds[t], reverse=True):
        share = min(1.0, left / seconds[task])
        found += share * extra[task]
        left -= share * seconds[task]
        if left <= 0:
            break
    return found


def _interval(
    chosen: Sequence[int],
    seconds: Mapping[int, float],
    intervals: Mapping[int, tuple[float, float]],
) -> tuple[float, float]:
    """Return the ends for all tasks together, as if their errors were independent."""
    spent = sum(seconds[task] for task in chosen)
    ends = [(seconds[task], *intervals[task]) for task in chosen if task in intervals]
    below = float(np.sqrt(sum((s - low) ** 2 for s, low, _ in ends)))
    above = float(np.sqrt(sum((high - s) ** 2 for s, _, high in ends)))
    return max(0.0, spent - below), spent + above


def _forecast(found: Plan, work: Work, waiting: int, basis: str, worth: str) -> str:
    people = "1 annotator" if work.annotators == 1 else f"{work.annotators} annotators"
    if not found.tasks:
        why = "no task is open" if not waiting else "no task is expected to fit or to teach"
        return f"{people} with {work.minutes:g} minutes: {why}"
    low, high = map(duration, found.interval)
    parts = [
        f"{people} with {work.minutes:g} minutes: {len(found.tasks)} of {waiting} open tasks, "
        f"{duration(found.seconds)} of editing ({low} to {high})",
        f"they hold {found.gain:.0%} of what the queue can teach (at most {found.bound:.0%} is "
        f"possible; random order brings about {found.by_chance:.0%})",
    ]
    return "; ".join([*parts, *filter(None, (worth, basis and f"seconds: {basis}"))])
