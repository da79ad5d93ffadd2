"""What a batch shows: crops balanced over classes and signs, hard points more often than easy ones.

Points are drawn in proportion to weight x (1 + mining x hardness), hardness being the running loss
of the point's crops (online hard example mining): a rejected proposal has a large weight, and what
the network still gets wrong a large loss. Weights decide how often a point is shown, not how much
its loss counts, so that little trusted points of one class or sign do not shift the balance.

All randomness is spent on small arrays by `draw`; cutting is exact and may happen in any thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from models.learning import crops
from models.learning.crops import CLICK_REACH, JITTER, Ints, Pixels, Surroundings

HARDEST = 3.0  # of the running loss, in nats: a mislabelled point must not take over
CHANCE = float(np.log(2))  # the loss of a network that knows nothing
MEMORY = 0.5  # share of the running loss that one more crop leaves in place

Floats = npt.NDArray[np.float64]
T = TypeVar("T")


class Draw(NamedTuple):
    """The random choices of one batch, each (B,); offsets (B, 2) in shares of the crop.

    groups: 2 x class, + 1 for negatives; chosen: the point within its group; zooms: > 1 enlarges;
    turns: quarters; mirrored: 0 or 1.
    """

    groups: Ints
    chosen: Ints
    offsets: Floats
    zooms: Floats
    turns: Ints
    mirrored: Ints


class Batch(NamedTuple):
    """Crops (B, S, S, 3) uint8 RGB, each of one point that speaks about one class.

    labels: (B,) 0 or 1; classes: (B,) indices; points: (B, 2) row, column of the point.
    """

    pixels: Pixels
    labels: npt.NDArray[np.float32]
    classes: Ints
    points: Ints


@dataclass(frozen=True)
class CropSource:
    """The points of one class; a round shows each positive `crops_per_click` times on average."""

    positives: Surroundings
    negatives: Surroundings
    crops_per_click: int


class Supply:
    """An endless supply of batches, the same number of crops for every class and sign.

    mining: how much hardness counts, 0 = not at all; scale_jitter: the largest zoom, 1 = none.
    """

    def __init__(
        self,
        sources: Sequence[CropSource],
        rng: np.random.Generator,
        *,
        mining: float = 0.0,
        scale_jitter: float = 1.0,
    ) -> None:
        self._groups = [group for source in sources for group in _groups(source, mining)]
        self._rng = rng
        self._zoom = float(np.log(scale_jitter))
        self._next = 0  # where the walk over the groups stands

    def draw(self, size: int) -> Draw:
        """Choose what a batch of `size` crops shows; not to be called by two threads at once."""
        walk = (self._next + np.arange(size)) % len(self._groups)
        self._next += size
        groups = np.sort(walk)
        counts = np.bincount(groups, minlength=len(self._groups))
        pairs = zip(self._groups, counts, strict=True)
        chosen = np.concatenate([group.take(count, self._rng) for group, count in pairs])
        reach = np.where(groups % 2, JITTER, CLICK_REACH)[:, None]
        return Draw(
            groups,
            chosen,
            self._rng.uniform(-reach, reach, (size, 2)),
            np.exp(self._rng.uniform(-self._zoom, self._zoom, size)),
            self._rng.integers(4, size=size),
            self._rng.integers(2, size=size),
        )

    def cut(self, draw: Draw) -> Batch:
        """Cut what was drawn; safe in any thread."""
        parts = []
        for index in np.unique(draw.groups):
            own = draw.groups == index
            parts.append(self._groups[index].around.cut(draw.chosen[own], draw.offsets[own]))
        cut = crops.Cut(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        if self._zoom:
            cut = crops.zoomed(cut, draw.zooms)
        cut = crops.turned(cut, draw.turns, draw.mirrored)
        labels = (1 - draw.groups % 2).astype(np.float32)
        return Batch(cut.pixels, labels, draw.groups // 2, cut.points)

    def learn(self, draw: Draw, losses: npt.NDArray[np.float32]) -> None:
        """Note how large the loss of each crop (B,) of a batch was."""
        for group, point, loss in zip(draw.groups, draw.chosen, losses, strict=True):
            self._groups[group].note(point, float(loss))


class _Group:
    """The points of one class and sign, drawn in rounds without gaps."""

    def __init__(self, around: Surroundings, per_round: int, mining: float) -> None:
        self.around = around
        self._per_round = per_round
        self._mining = mining
        self._hardness = np.full(len(around), CHANCE)
        self._left: Ints = np.zeros(0, dtype=np.int64)

    def take(self, count: int, rng: np.random.Generator) -> Ints:
        while len(self._left) < count:
            self._left = np.concatenate((self._left, self._round(rng)))
        taken, self._left = np.split(self._left, [count])
        return taken

    def note(self, point: int, loss: float) -> None:
        now = MEMORY * self._hardness[point] + (1 - MEMORY) * loss
        self._hardness[point] = min(now, HARDEST)

    def _round(self, rng: np.random.Generator) -> Ints:
        shares = self.around.weights * (1 + self._mining * self._hardness)
        return systematic(shares, self._per_round, rng)


def systematic(shares: Floats, count: int, rng: np.random.Generator) -> Ints:
    """Draw `count` indices in proportion to `shares` (N,) > 0, each as evenly as possible.

    Index n comes up floor or ceil of count x its share of the sum times, in random order.
    """
    order = rng.permutation(len(shares))
    ends = np.cumsum(shares[order])
    ticks = (np.arange(count) + rng.uniform()) * (ends[-1] / count)
    places = np.minimum(np.searchsorted(ends, ticks, side="right"), len(shares) - 1)
    return rng.permutation(order[places])


class Ahead(Generic[T]):
    """Gives the results of jobs in order, `depth` of them being prepared in threads meanwhile.

    Jobs are taken from their iterator by the thread that asks for results: the job `depth` places
    further on, once the present one is done. waited_s: how long results had to be waited for.
    """

    def __init__(
        self, jobs: Iterator[Callable[[], T]], depth: int, clock: Callable[[], float]
    ) -> None:
        self.waited_s = 0.0
        self._jobs, self._depth, self._clock = jobs, depth, clock

    def __iter__(self) -> Generator[T, None, None]:
        with ThreadPoolExecutor(self._depth) as pool:
            coming = deque(pool.submit(job) for job in islice(self._jobs, self._depth))
            while coming:
                began = self._clock()
                result = coming.popleft().result()
                self.waited_s += self._clock() - began
                coming.extend(pool.submit(job) for job in islice(self._jobs, 1))
                yield result


def _groups(source: CropSource, mining: float) -> tuple[_Group, _Group]:
    per_round = len(source.positives) * source.crops_per_click
    return (
        _Group(source.positives, per_round, mining),
        _Group(source.negatives, per_round, mining),
    )
