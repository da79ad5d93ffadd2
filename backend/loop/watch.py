"""Whether annotators take a newly promoted version's proposals as they took its predecessor's.

A sequential test, so that it may be looked at after every annotation: Wald's probability ratio
test (1945) of "taken at the former rate" against a lower one, written as a bet (Waudby-Smith and
Ramdas 2024). Every annotation multiplies the stake by 1 + weight * bet * (rate - taken), which
gains nothing on average while the rate holds; the stake is spread over FALLS. By Ville's inequality
it ever reaches 1 / level with a probability of at most `level` while nothing has fallen.

The former rate is not known but estimated: half of LEVEL is spent on its lower limit (Wilson 1927),
and half on the test. Annotations count by their trust, on both sides; classes of one annotation,
which go together, are one observation.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from backend.records import Interaction

LEVEL = 0.05  # chance of a false alarm in the whole watch of one version
FALLS = (0.9, 0.7, 0.4)  # shares of the former rate that are bet on
LEAST_BEFORE = 10.0  # annotations of the former version, by trust
LEAST_AFTER = 10  # annotations of the new one: a few in a row are often alike
MOST = 500  # annotations after which the watch ends
TAKEN_IOU = 0.75  # a proposal modified so lightly was taken
Z = 1.96  # one-sided, LEVEL / 2
NEEDED = 2 / LEVEL  # the stake that says it has fallen

WatchState = Literal["waiting", "watching", "held", "fallen"]


@dataclass(frozen=True)
class Answer:
    """What one annotation said of a version: the share of its proposals taken, and its trust."""

    taken: float
    weight: float


@dataclass(frozen=True)
class Watch:
    """Where the watch of a version stands; `sentence` says it in words.

    waiting: too little is known of the former version. before, after: trust-weighted shares of
    proposals that were taken, None = no annotation yet. floor: the rate that `after` is tested
    against. stake: the largest one so far. annotations: that were looked at.
    """

    state: WatchState
    sentence: str
    before: float | None = None
    after: float | None = None
    floor: float | None = None
    stake: float = 1.0
    annotations: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the watch as the store keeps it."""
        return asdict(self)


def answers(
    interactions: Iterable[Interaction], version: int, *, without: Collection[int] = ()
) -> list[Answer]:
    """Return what annotations said of a version, in order of time.

    without: annotations that say nothing, such as those made in bulk. Taken is what was accepted,
    or modified so little that the masks still have an IoU of TAKEN_IOU; what was missed was not.
    """
    by_annotation: defaultdict[int, list[Interaction]] = defaultdict(list)
    for one in sorted(interactions, key=lambda one: one.created_at):
        if one.version == version and one.annotation not in without:
            by_annotation[one.annotation].append(one)
    return [_answer(found) for found in by_annotation.values()]


def look(before: Sequence[Answer], after: Sequence[Answer]) -> Watch:
    """Test whether a version is taken less than its predecessor; at most MOST answers count."""
    after = [answer for answer in after if answer.weight > 0][:MOST]
    floor = _lower_limit(before)
    known = sum(answer.weight for answer in before)
    if floor is None or known < LEAST_BEFORE:
        why = f"{known:g} of {LEAST_BEFORE:g} annotations of the former version to compare with"
        return Watch("waiting", why, _rate(before), _rate(after), annotations=len(after))
    stakes = _stakes(floor, after)[LEAST_AFTER - 1 :]
    stake = float(stakes.max(initial=1.0))
    state: WatchState = "watching"
    if stake >= NEEDED:
        state = "fallen"
        after = after[: int(np.argmax(stakes >= NEEDED)) + LEAST_AFTER]
    elif len(after) == MOST:
        state = "held"
    old, new = _rate(before), _rate(after)
    sentence = _sentence(state, old, new, len(after))
    return Watch(state, sentence, old, new, floor, stake, len(after))


def _answer(found: Sequence[Interaction]) -> Answer:
    taken = [_is_taken(one) for one in found]
    return Answer(sum(taken) / len(taken), sum(one.trust for one in found) / len(found))


def _is_taken(one: Interaction) -> bool:
    return one.outcome == "accepted" or (one.outcome == "modified" and one.iou >= TAKEN_IOU)


def _rate(found: Sequence[Answer]) -> float | None:
    whole = sum(answer.weight for answer in found)
    return sum(answer.weight * answer.taken for answer in found) / whole if whole else None


def _lower_limit(found: Sequence[Answer]) -> float | None:
    """Return Wilson's lower limit of the rate, of as many answers as the weights are worth."""
    rate = _rate(found)
    if rate is None:
        return None
    weights = [answer.weight for answer in found]
    count = sum(weights) ** 2 / sum(weight**2 for weight in weights)
    spread = Z * math.sqrt(rate * (1 - rate) / count + Z**2 / (4 * count**2))
    return max(0.0, (rate + Z**2 / (2 * count) - spread) / (1 + Z**2 / count))


def _stakes(rate: float, found: Sequence[Answer]) -> npt.NDArray[np.float64]:
    """Return the stake after each answer."""
    weight = np.array([answer.weight for answer in found])
    short = rate - np.array([answer.taken for answer in found])
    bets = np.array([(1 - fall) / (1 - rate) for fall in FALLS])[:, None]
    with np.errstate(over="ignore"):  # an infinite stake has fallen as well
        stakes = np.exp(np.cumsum(np.log1p(bets * weight * short), axis=1)).mean(axis=0)
    return np.asarray(stakes, dtype=np.float64)


def _sentence(state: WatchState, old: float | None, new: float | None, count: int) -> str:
    former = f"the former version's {old:.0%}" if old is not None else "nothing"
    if new is None:
        return f"no annotation yet, to be compared with {former}"
    found = f"{new:.0%} of its proposals taken in {count} annotations, against {former}"
    ends = {"fallen": ": fallen", "held": ": it held, the watch has ended"}
    return found + ends.get(state, "")
