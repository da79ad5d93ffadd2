"""Seconds of human work: what Label Studio calls `lead_time`, freed of what was no work.

Label Studio counts the seconds that a task was open, over drafts and updates: each state of an
annotation holds the total so far, and the newest one replaces the others. A task that stays open
while its annotator has lunch makes a tail of hours. So seconds are cleaned in two steps:
`usable_s` of each annotation by itself, when it is taken in, and `winsorised` against the others of
the same annotator, when interactions are read: there a limit rests on all that is known by then,
and does not depend on the order in which annotations arrived.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from backend.records import Interaction

LONGEST_S = 900.0  # nobody's work on one image counts as more
ENOUGH = 10  # timed annotations of an annotator, before their own limit holds
DEVIATIONS = 3.0  # robust standard deviations of log seconds above the median
LEAST_FACTOR = 3.0  # of the median: whoever is very regular may still meet a hard image
NORMAL = 1.4826  # standard deviations in one median absolute deviation of a normal distribution


def usable_s(lead_time_s: float | None) -> float | None:
    """Return seconds, at most LONGEST_S; None for unknown, zero, negative and not finite ones."""
    if lead_time_s is None or not math.isfinite(lead_time_s) or lead_time_s <= 0:
        return None
    return min(float(lead_time_s), LONGEST_S)


def upper_limit_s(seconds: Sequence[float]) -> float:
    """Return the longest time that counts as work, from one annotator's usable seconds.

    median * exp(DEVIATIONS * NORMAL * median |ln s - ln median|), as edit times are log-normal;
    at least LEAST_FACTOR medians, at most LONGEST_S, and LONGEST_S below ENOUGH annotations.
    """
    if len(seconds) < ENOUGH:
        return LONGEST_S
    logs = np.log(seconds)
    spread = NORMAL * float(np.median(np.abs(logs - np.median(logs))))
    factor = max(LEAST_FACTOR, math.exp(DEVIATIONS * spread))
    return min(LONGEST_S, float(np.median(seconds)) * factor)


def winsorised(interactions: Iterable[Interaction]) -> list[Interaction]:
    """Cut the seconds of annotations at their annotator's upper limit; the order is kept.

    The seconds of an annotation are the sum over its interactions; their shares stay the same.
    Annotations without an annotator share a limit. Works on what is in the store and on what it
    returned before: doing it twice may cut a little more, so do it once, when reading.
    """
    known = list(interactions)
    seconds = seconds_by_annotation(known)
    annotators = {one.annotation: one.annotator for one in known}
    by_annotator: defaultdict[int | None, list[float]] = defaultdict(list)
    for annotation, value in seconds.items():
        by_annotator[annotators[annotation]].append(value)
    limits = {annotator: upper_limit_s(values) for annotator, values in by_annotator.items()}
    kept = {a: min(1.0, limits[annotators[a]] / value) for a, value in seconds.items()}
    return [
        one
        if one.edit_seconds is None
        else replace(one, edit_seconds=one.edit_seconds * kept[one.annotation])
        for one in known
    ]


def seconds_by_annotation(interactions: Iterable[Interaction]) -> Mapping[int, float]:
    """Return {annotation: seconds}, without annotations whose seconds are unknown."""
    seconds: defaultdict[int, float] = defaultdict(float)
    for one in interactions:
        if one.edit_seconds is not None:
            seconds[one.annotation] += one.edit_seconds
    return dict(seconds)
