"""What each strategy was worth: gain at the gate per minute of the human work that it ordered."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from backend.records import Interaction, StrategyChoice, Version
from strategies.base import Trial

RECENT = 3  # trials whose rate is expected to hold


def of_project(
    versions: Sequence[Version],
    past: Sequence[Interaction],
    choices: Sequence[StrategyChoice],
) -> tuple[Trial, ...]:
    """Return a trial per version that the gate compared with a champion, oldest first.

    gain: seconds of predicted correction per task and class that it saves against the champion of
    its day, below 0 when it costs more. minutes: edit time of the annotations since the version
    before it. strategy: the one that had ordered most of these minutes. Work from before the first
    choice that was noted belongs to no strategy and makes no trial.
    """
    found = []
    since: datetime | None = None
    for version in sorted(versions, key=lambda v: v.number):
        spent = _seconds_by_strategy(past, since, version.created_at, choices)
        since = version.created_at
        gain = _gain(version)
        if gain is not None and spent:
            main = max(sorted(spent), key=lambda name: spent[name])
            found.append(Trial(main, gain, sum(spent.values()) / 60))
    return tuple(found)


def in_words(trials: Sequence[Trial], minutes: float) -> str:
    """Say what so many human minutes would save at the rate of the last trials; "" without any."""
    last = [trial for trial in trials if trial.minutes > 0][-RECENT:]
    if not last:
        return ""
    rate = sum(trial.gain for trial in last) / sum(trial.minutes for trial in last)
    word = "save" if rate >= 0 else "cost"
    return (
        f"at the rate of the last {len(last)} trained versions this would {word} "
        f"{abs(rate) * minutes:.1f} s of correction per proposal"
    )


def _gain(version: Version) -> float | None:
    figures = version.gate.get("figures", {})
    before, after = (figures.get(name, {}).get("cost_s") for name in ("champion", "challenger"))
    return None if before is None or after is None else float(before - after)


def _seconds_by_strategy(
    past: Sequence[Interaction],
    since: datetime | None,
    until: datetime,
    choices: Sequence[StrategyChoice],
) -> dict[str, float]:
    moments = [choice.at for choice in choices]
    spent: defaultdict[str, float] = defaultdict(float)
    for one in past:
        if one.edit_seconds is None or one.created_at > until:
            continue
        place = bisect_right(moments, one.created_at)
        if place and (since is None or one.created_at > since):
            spent[choices[place - 1].acting] += one.edit_seconds
    return dict(spent)
