"""What a strategy reads and gives: a pool of open tasks in, utilities out; larger = sooner."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

import strategies

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

TOP_SHARE = 0.25  # of a task's windows, the most uncertain ones, that make its utility


@dataclass(frozen=True)
class Pool:
    """The open tasks; each field but `ids` may be None when nobody computed it.

    ids: (N,) int64, unique task ids.
    tile_probs: (M, C) float, probability of class c in window m, the windows of all tasks one
        after the other; classes are independent (each in [0, 1], rows need not sum to 1).
    tile_offsets: (N + 1,) int64; task n has the windows tile_offsets[n]:tile_offsets[n + 1].
    edit_seconds: (N,) float, predicted seconds of human editing.
    embeddings: (N, D) float.
    """

    ids: IntArray
    tile_probs: FloatArray | None = None
    tile_offsets: IntArray | None = None
    edit_seconds: FloatArray | None = None
    embeddings: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.ids)


class Strategy(Protocol):
    """A module of this package; its file name is the strategy's name."""

    reads: tuple[str, ...]  # the fields of Pool that it needs
    summary: str  # one sentence for a project manager

    def utilities(self, pool: Pool, rng: np.random.Generator) -> FloatArray:
        """Return (N,) finite utilities, larger = annotate sooner."""


def names() -> tuple[str, ...]:
    """Return the names of all strategies, sorted."""
    modules = (m.name for m in pkgutil.iter_modules(strategies.__path__))
    return tuple(sorted(name for name in modules if name != "base"))


def get(name: str) -> Strategy:
    """Return the strategy of this name; raises ValueError naming the known ones."""
    if name not in names():
        raise ValueError(f"unknown strategy {name!r}; known: {', '.join(names())}")
    return cast("Strategy", importlib.import_module(f"strategies.{name}"))


def missing(strategy: Strategy, pool: Pool) -> tuple[str, ...]:
    """Return the fields that the strategy reads and nobody has computed."""
    return tuple(name for name in strategy.reads if getattr(pool, name) is None)


def rank(strategy: Strategy, pool: Pool, seed: int) -> IntArray:
    """Return the (N,) ids, most urgent first; ties in an order that only id and seed decide.

    Raises ValueError for repeated ids, missing fields, and utilities that are not finite.
    """
    _check(strategy, pool)
    if not len(pool):
        return pool.ids.copy()
    utilities = strategy.utilities(pool, np.random.default_rng(seed))
    if utilities.shape != pool.ids.shape:
        raise ValueError(f"{utilities.shape} utilities for {len(pool)} tasks; return one per task")
    require_finite(utilities, "utilities", "fix the strategy or choose another")
    ties = shuffle_keys(pool.ids, np.random.default_rng((seed, 1)))
    order: IntArray = pool.ids[np.lexsort((ties, -utilities))]
    return order


def pick(strategy: Strategy, pool: Pool, k: int, seed: int) -> IntArray:
    """Return the ids of the k most urgent tasks, all of them when there are fewer."""
    if k < 0:
        raise ValueError(f"cannot pick {k} tasks; ask for 0 or more")
    return rank(strategy, pool, seed)[:k]


def priorities(order: Iterable[int]) -> dict[int, float]:
    """Return {id: priority}: 1 for the first, 0 for the last, even steps; 1 for a single one."""
    ids = [int(i) for i in order]
    last = max(1, len(ids) - 1)
    return {task: 1.0 - position / last for position, task in enumerate(ids)}


def shuffle_keys(ids: IntArray, rng: np.random.Generator) -> FloatArray:
    """Return (N,) pseudo-random keys in [0, 1) that depend on each id and the generator alone.

    So the order that they give depends on neither the pool's order nor its other members.
    The finaliser is that of SplitMix64 (Steele et al., 2014).
    """
    salt = rng.integers(0, 2**64, dtype=np.uint64)
    z = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + salt
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    keys: FloatArray = ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) / 2.0**53
    return keys


def window_probs(pool: Pool) -> tuple[FloatArray, IntArray]:
    """Return the checked (M, C) probabilities and (N + 1,) offsets of the windows.

    Raises ValueError when they are missing, inconsistent, not finite or outside [0, 1].
    """
    if pool.tile_probs is None or pool.tile_offsets is None:
        raise ValueError("the pool has no tile_probs and tile_offsets; predict its tasks first")
    probs, offsets = pool.tile_probs, pool.tile_offsets
    counts = np.diff(offsets)
    if offsets.shape != (len(pool) + 1,) or offsets[0] != 0 or offsets[-1] != len(probs):
        raise ValueError(f"tile_offsets do not cut {len(probs)} windows into {len(pool)} tasks")
    if probs.ndim != 2 or probs.shape[1] < 1:
        raise ValueError(f"tile_probs have shape {probs.shape}; expected (M, C) with C >= 1")
    if (counts < 1).any():
        raise ValueError(
            f"{(counts < 1).sum()} of {len(pool)} tasks have no window; leave them out"
        )
    require_finite(probs, "window probabilities", "is the version diverged? activate an older one")
    outside = int(((probs < 0) | (probs > 1)).sum())
    if outside:
        raise ValueError(f"{outside} of {probs.size} window probabilities are outside [0, 1]")
    return probs, offsets


def mean_of_top(values: FloatArray, offsets: IntArray, share: float = TOP_SHARE) -> FloatArray:
    """Return per task the mean of the ceil(share * n) largest of its n windows' values; (N,).

    A maximum would favour large images (more windows, more chances) and a mean would bury a small
    defect under clean windows; a fixed upper share depends on neither the number of windows nor
    on the clean rest. values: (M,); offsets: (N + 1,), every task with at least one window.
    """
    counts = np.diff(offsets)
    task = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((-values, task))
    position = np.arange(len(values)) - np.repeat(offsets[:-1], counts)
    taken = np.ceil(share * counts).astype(np.int64)
    top = position < np.repeat(taken, counts)
    sums = np.bincount(task[top], weights=values[order][top], minlength=len(counts))
    means: FloatArray = sums / taken
    return means


def require_finite(values: FloatArray, what: str, fix: str) -> None:
    """Raise ValueError with the number of values that are NaN or infinite."""
    wrong = int(np.count_nonzero(~np.isfinite(values)))
    if wrong:
        raise ValueError(f"{wrong} of {values.size} {what} are not finite; {fix}")


def _check(strategy: Strategy, pool: Pool) -> None:
    if len(np.unique(pool.ids)) != len(pool):
        raise ValueError(
            f"{len(pool) - len(np.unique(pool.ids))} task ids are repeated in the pool"
        )
    absent = missing(strategy, pool)
    if absent and len(pool):
        raise ValueError(f"the pool has no {', '.join(absent)}; compute it or use random_order")
