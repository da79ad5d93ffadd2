"""Autopilot: tries strategies, and uses those that have been worth the most per human minute.

A bandit (discounted UCB, Garivier & Moulines, 2011): each period between two versions is a trial of
the strategy that ordered it, rewarded by gain per minute of human work. Older trials count less
(DISCOUNT per trial), as what helps changes while a project grows. Value of a strategy = mean
reward, scaled by the largest, plus `explore` * sqrt(ln(trials) / own trials). Strategies without a
trial come first, in the order of ARMS. Reads `trials`, and offers only strategies whose evidence is
there. Use it when nobody wants to choose; whoever does choose another strategy overrules it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strategies import base
from strategies.base import FloatArray, Option, Pool, Trial

reads: tuple[str, ...] = ()
summary = "Finds out by itself which order teaches the most per minute of work, and says why."
depends_on_pool = True
diverse = True

ARMS = ("entropy", "hybrid", "value_per_second", "edit_time", "random_order")
DISCOUNT = 0.9
offers = ARMS


@dataclass(frozen=True)
class Choice:
    """The strategy that makes the order, and why, in one sentence with its numbers."""

    strategy: str
    reason: str


def options() -> tuple[Option, ...]:
    """Return how eagerly strategies are tried again."""
    text = "0 = always the best so far; larger = others are tried more often"
    return (Option("explore", 0.5, text, high=5.0),)


def acting(pool: Pool, explore: float = 0.5) -> tuple[str, str]:
    """Return the strategy that makes the order, and why."""
    able = [name for name in ARMS if not base.missing(base.get(name), pool)]
    choice = choose(pool.trials, able, explore)
    return choice.strategy, choice.reason


def utilities(pool: Pool, rng: np.random.Generator, explore: float = 0.5) -> FloatArray:
    """Return the (N,) utilities of the strategy that it chooses."""
    return base.utilities(base.get(acting(pool, explore)[0]), pool, rng)


def choose(trials: Sequence[Trial], arms: Sequence[str], explore: float = 0.5) -> Choice:
    """Choose one of the arms; trials: oldest first, those without minutes say nothing."""
    counted = [one for one in trials if one.minutes > 0 and one.strategy in arms]
    weights, means = _rewards(counted, arms)
    scale = max((abs(one.gain / one.minutes) for one in counted), default=0.0) or 1.0
    total = sum(weights.values())
    values = {
        name: means[name] / scale + explore * math.sqrt(math.log1p(total) / weights[name])
        if name in means
        else math.inf
        for name in arms
    }
    best = max(arms, key=lambda name: values[name])
    return Choice(best, _reason(means, best, counted[-1].strategy if counted else None))


def _rewards(
    trials: Sequence[Trial], arms: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the discounted number of trials of each arm, and the mean reward of those with any."""
    weights, sums = dict.fromkeys(arms, 0.0), dict.fromkeys(arms, 0.0)
    for age, one in enumerate(reversed(trials)):
        weights[one.strategy] += DISCOUNT**age
        sums[one.strategy] += DISCOUNT**age * one.gain / one.minutes
    return weights, {name: sums[name] / weights[name] for name in arms if weights[name]}


def _reason(means: dict[str, float], best: str, former: str | None) -> str:
    if best not in means:
        return f"tries {best}, which has not been tried yet"
    table = ", ".join(f"{name} {reward:.3g}" for name, reward in sorted(means.items()))
    leader = max(means, key=lambda name: means[name])
    word = "stays with" if best == former else f"goes from {former} to"
    why = "the best so far" if best == leader else f"tried again, as {leader} leads by little"
    return f"{word} {best}, {why}; gain per human minute, old trials counting less: {table}"
