"""How far an annotation is believed, in [0, 1], judged by how it came about.

An annotation is *unchanged* when it leaves everything as it was proposed: no proposal modified or
rejected, nothing drawn, nothing clicked. Whoever drew something has looked; only unchanged ones can
be rubber stamps:

1. made in bulk from predictions, or unchanged without a known time: `Rule.bulk`. Label Studio
   marks bulk in its event alone (`bulk_created` is false even then), but writes no `lead_time`.
2. unchanged and *fast*: `Rule.fast`. Fast is below `floor_s`, below `share` of the median of the
   annotator's unchanged annotations (ENOUGH of them at least), or in a row of `run` or more
   unchanged annotations of the annotator that took less than RUN_FACTOR * `floor_s` each.
3. everything else, and unchanged in a reasonable time: FULL.

A review has the last word (`reviewed`). Skipped and deleted annotations are not judged: they teach
nothing. All follows from the present states of the annotations, with no clock and in any order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from backend.loop.edit_time import usable_s
from backend.records import ReviewVerdict, Work

FULL = 1.0
NONE = 0.0
TRUTH = 0.75  # masks below it do not serve as truth, neither to learn from nor to judge by
ENOUGH = 10  # unchanged annotations of an annotator, before their median says anything
RUN_FACTOR = 2.0


@dataclass(frozen=True)
class Rule:
    """What low trust is, and when (see the module); bulk, fast in [0, 1]; run 0 = no such rule."""

    bulk: float = 0.25
    fast: float = 0.5
    floor_s: float = 2.0
    share: float = 0.2
    run: int = 10


def judge(works: Iterable[Work], rule: Rule) -> dict[int, float]:
    """Return the trust in each annotation, by id."""
    known = list(works)
    hasty = fast(known, rule)
    return {work.annotation: reviewed(_alone(work, hasty, rule), work.review) for work in known}


def fast(works: Sequence[Work], rule: Rule) -> frozenset[int]:
    """Return the ids of the unchanged annotations that were accepted suspiciously fast."""
    by_annotator: defaultdict[int | None, list[Work]] = defaultdict(list)
    for work in works:
        if not work.bulk:
            by_annotator[work.annotator].append(work)
    found: set[int] = set()
    for annotator, own in by_annotator.items():
        found |= _below(own, _limit_s(own, rule) if annotator is not None else rule.floor_s)
        if annotator is not None and rule.run:
            found |= _in_runs(own, rule)
    return frozenset(found)


def reviewed(trust: float, verdict: ReviewVerdict | None) -> float:
    """Return the trust after a review: FULL when accepted, NONE when rejected, None = no verdict.

    An annotation of trust NONE teaches nothing. A review speaks of the state that its reviewer
    saw; whoever keeps reviews drops the verdict when the annotation changes afterwards.
    """
    if verdict is None:
        return trust
    return FULL if verdict == "accepted" else NONE


def _alone(work: Work, hasty: frozenset[int], rule: Rule) -> float:
    if work.bulk or (work.is_unchanged and usable_s(work.seconds) is None):
        return rule.bulk
    return rule.fast if work.annotation in hasty else FULL


def _limit_s(own: Sequence[Work], rule: Rule) -> float:
    """Return below how many seconds an unchanged annotation of one annotator is fast."""
    seconds = [s for work in own if work.is_unchanged and (s := usable_s(work.seconds))]
    if len(seconds) < ENOUGH:
        return rule.floor_s
    return max(rule.floor_s, rule.share * median(seconds))


def _below(works: Iterable[Work], limit_s: float) -> set[int]:
    return {work.annotation for work in works if _is_below(work, limit_s)}


def _is_below(work: Work, limit_s: float) -> bool:
    seconds = usable_s(work.seconds)
    return work.is_unchanged and seconds is not None and seconds < limit_s


def _in_runs(own: Iterable[Work], rule: Rule) -> set[int]:
    """Return the annotations of one annotator that stand in a long row of quick acceptances."""
    in_order = sorted(own, key=lambda work: (work.begun_at, work.annotation))
    found: set[int] = set()
    for quick, row in groupby(in_order, lambda work: _is_below(work, RUN_FACTOR * rule.floor_s)):
        ids = [work.annotation for work in row]
        if quick and len(ids) >= rule.run:
            found.update(ids)
    return found
