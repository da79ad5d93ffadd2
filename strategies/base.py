"""What a strategy reads and gives: a pool of open tasks in, utilities out; larger = sooner."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

import strategies

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Options = Mapping[str, float | str]

GROUP = "labelclimb.strategies"  # the entry points by which other packages add strategies
NO_STRATEGIES = ("base", "simulate")  # modules of this package that order nothing
NO_OPTIONS: Options = MappingProxyType({})


@dataclass(frozen=True)
class Trial:
    """What one strategy's tasks were worth: `gain` (larger = better) for so many human minutes."""

    strategy: str
    gain: float
    minutes: float


@dataclass(frozen=True)
class Pool:
    """The tasks to rank; each field but `ids` may be None when nobody computed it.

    ids: (N,) int64, unique task ids.
    tile_probs: (M, C) float, probability of class c in window m, the windows of all tasks one
        after the other; classes are independent (each in [0, 1], rows need not sum to 1).
    tile_offsets: (N + 1,) int64; task n has the windows tile_offsets[n]:tile_offsets[n + 1].
    pixel_doubt: (N,) float in [0, 1], mean entropy of the pixels around the proposed outlines,
        whatever their number: 0 = all pixels sure, 1 = all at one half.
    edit_seconds: (N,) float above 0, predicted seconds of human editing.
    embeddings: (N, D) float.
    samples: (T, M, C) float, like tile_probs, of T stochastic passes over the same windows.
    committee_probs: (K, W, C) float, like tile_probs, of K versions; committee_offsets: (N + 1,).
    labelled_embeddings: (L, D) float, of finished tasks.
    class_share: (C,) float, share of the finished tasks in which people found the class.
    annotated: (N, C) float, 1 where people found the class in this task and 0 where they did not;
        of finished tasks alone. overlap: (N, C) float, IoU of proposal and final mask.
    progress: share of the project's tasks that are finished, in [0, 1].
    trials: what earlier strategies of this project were worth, oldest first.
    """

    ids: IntArray
    tile_probs: FloatArray | None = None
    tile_offsets: IntArray | None = None
    edit_seconds: FloatArray | None = None
    embeddings: FloatArray | None = None
    pixel_doubt: FloatArray | None = None
    samples: FloatArray | None = None
    committee_probs: FloatArray | None = None
    committee_offsets: IntArray | None = None
    labelled_embeddings: FloatArray | None = None
    class_share: FloatArray | None = None
    annotated: FloatArray | None = None
    overlap: FloatArray | None = None
    progress: float = 0.0
    trials: tuple[Trial, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Option:
    """A parameter of a strategy: a number in [low, high], or, with `choices`, one of some words."""

    name: str
    default: float | str
    help: str
    low: float = 0.0
    high: float = 1.0
    choices: tuple[str, ...] = ()

    @property
    def wanted(self) -> str:
        """Say in words what may be given."""
        return ", ".join(self.choices) if self.choices else f"{self.low:g} to {self.high:g}"


class Strategy(Protocol):
    """A module of this package; its file name is the strategy's name.

    It may also have: `options()`, its parameters, which `utilities` then takes by keyword;
    `reads_with(**options)`, what it reads when that depends on them; `because`, a clause that says
    of a task why it is early; `instead`, the strategy that stands in where evidence is missing;
    `depends_on_pool = True`, if the order of two tasks depends on the others; `diverse = True`, if
    people who work at once are to get tasks of different clusters; `acting(pool, **options)`, the
    strategy that it lets make the order, and why, and `offers`, those among which it chooses.
    """

    reads: tuple[str, ...]  # the fields of Pool that it needs
    summary: str  # one sentence for a project manager

    def utilities(self, pool: Pool, rng: np.random.Generator, **options: Any) -> FloatArray:
        """Return (N,) finite utilities, larger = annotate sooner."""


def names() -> tuple[str, ...]:
    """Return the names of all strategies, sorted: our modules and other packages' entry points."""
    foreign = _foreign()
    clash = sorted(set(_ours()) & set(foreign))
    if clash:
        raise ValueError(f"an installed package adds strategies with our names: {clash}; remove it")
    return tuple(sorted((*_ours(), *foreign)))


def get(name: str) -> Strategy:
    """Return the strategy of this name; raises ValueError naming the known ones.

    A foreign strategy that cannot be imported or lacks a part raises ValueError saying so.
    """
    if name in _ours():
        return cast("Strategy", importlib.import_module(f"strategies.{name}"))
    if name not in names():
        raise ValueError(f"unknown strategy {name!r}; known: {', '.join(names())}")
    return _load(_foreign()[name])


def options_of(strategy: Strategy) -> tuple[Option, ...]:
    """Return the parameters of a strategy."""
    found: tuple[Option, ...] = getattr(strategy, "options", tuple)()
    return found


def complete(strategy: Strategy, given: Mapping[str, Any]) -> dict[str, float | str]:
    """Return all options, the given ones checked, the others by default; raises ValueError."""
    known = {option.name: option for option in options_of(strategy)}
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise ValueError(
            f"unknown option {', '.join(map(repr, unknown))}; known: {', '.join(known) or 'none'}"
        )
    for name, value in given.items():
        if not _fits(known[name], value):
            raise ValueError(f"option {name} is {value!r}; give {known[name].wanted}")
    return {name: given.get(name, option.default) for name, option in known.items()}


def needs(strategy: Strategy, options: Options = NO_OPTIONS) -> tuple[str, ...]:
    """Return the fields that a strategy reads with these options."""
    reads_with = getattr(strategy, "reads_with", None)
    if reads_with is None:
        return strategy.reads
    found: tuple[str, ...] = reads_with(**complete(strategy, options))
    return found


def wishes(strategy: Strategy, options: Options = NO_OPTIONS) -> tuple[str, ...]:
    """Return the fields that are of use: what it reads, what its stand-in and its arms read."""
    others = (getattr(strategy, "instead", "entropy"), *getattr(strategy, "offers", ()))
    read = [field for name in others for field in needs(get(name))]
    return tuple(dict.fromkeys([*needs(strategy, options), *read]))


def missing(strategy: Strategy, pool: Pool, options: Options = NO_OPTIONS) -> tuple[str, ...]:
    """Return the fields that the strategy reads and nobody has computed."""
    return tuple(name for name in needs(strategy, options) if getattr(pool, name) is None)


def rank(strategy: Strategy, pool: Pool, seed: int, options: Options = NO_OPTIONS) -> IntArray:
    """Return the (N,) ids, most urgent first; ties in an order that only id and seed decide.

    The pool's order never matters: it is sorted by id first. Raises ValueError for repeated ids,
    missing fields, wrong options, and utilities that are not finite.
    """
    _check(strategy, pool, options)
    if not len(pool):
        return pool.ids.copy()
    pool = by_id(pool)
    found = utilities(strategy, pool, np.random.default_rng(seed), options)
    ties = shuffle_keys(pool.ids, np.random.default_rng((seed, 1)))
    order: IntArray = pool.ids[np.lexsort((ties, -found))]
    return order


def utilities(
    strategy: Strategy, pool: Pool, rng: np.random.Generator, options: Options = NO_OPTIONS
) -> FloatArray:
    """Return the strategy's (N,) utilities, checked; raises ValueError."""
    found = strategy.utilities(pool, rng, **complete(strategy, options))
    if found.shape != pool.ids.shape:
        raise ValueError(f"{found.shape} utilities for {len(pool)} tasks; return one per task")
    require_finite(found, "utilities", "fix the strategy or choose another")
    return found


def pick(
    strategy: Strategy, pool: Pool, k: int, seed: int, options: Options = NO_OPTIONS
) -> IntArray:
    """Return the ids of the k most urgent tasks, all of them when there are fewer."""
    if k < 0:
        raise ValueError(f"cannot pick {k} tasks; ask for 0 or more")
    return rank(strategy, pool, seed, options)[:k]


def priorities(order: Iterable[int]) -> dict[int, float]:
    """Return {id: priority}: 1 for the first, 0 for the last, even steps; 1 for a single one."""
    ids = [int(i) for i in order]
    last = max(1, len(ids) - 1)
    return {task: 1.0 - position / last for position, task in enumerate(ids)}


def by_id(pool: Pool) -> Pool:
    """Return the pool with its tasks in ascending order of id; itself when they are."""
    if (np.diff(pool.ids) > 0).all():
        return pool
    order = np.argsort(pool.ids)
    changed: dict[str, Any] = {
        name: value[order]
        for name in ("ids", "edit_seconds", "embeddings", "pixel_doubt", "annotated", "overlap")
        if (value := getattr(pool, name)) is not None
    }
    changed.update(_reordered_windows(pool, order, "tile_offsets", "tile_probs", "samples"))
    changed.update(_reordered_windows(pool, order, "committee_offsets", "committee_probs"))
    kept = {one.name: getattr(pool, one.name) for one in fields(pool)}
    return Pool(**{**kept, **changed})


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


def require_finite(values: FloatArray, what: str, fix: str) -> None:
    """Raise ValueError with the number of values that are NaN or infinite."""
    wrong = int(np.count_nonzero(~np.isfinite(values)))
    if wrong:
        raise ValueError(f"{wrong} of {values.size} {what} are not finite; {fix}")


@lru_cache(maxsize=1)
def _ours() -> tuple[str, ...]:
    """Return the names of our modules; sub-packages hold what several of them use."""
    found = (m.name for m in pkgutil.iter_modules(strategies.__path__) if not m.ispkg)
    return tuple(sorted(name for name in found if name not in NO_STRATEGIES))


@lru_cache(maxsize=1)
def _foreign() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load(point: EntryPoint) -> Strategy:
    """Import a foreign strategy; whatever its import raises is told as ValueError."""
    what = f"strategy {point.name!r} ({point.value})"
    try:
        found = point.load()
    except Exception as error:
        raise ValueError(f"{what} cannot be imported: {error!r}; mend or remove it") from error
    lacking = [part for part in ("reads", "summary", "utilities") if not hasattr(found, part)]
    if lacking:
        raise ValueError(f"{what} has no {', '.join(lacking)}; see strategies.base.Strategy")
    unknown = sorted(set(found.reads) - {field.name for field in fields(Pool)})
    if unknown:
        raise ValueError(f"{what} reads {unknown}, which a Pool does not have")
    return cast("Strategy", found)


def _fits(option: Option, value: Any) -> bool:
    if option.choices:
        return value in option.choices
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and option.low <= value <= option.high


def _reordered_windows(
    pool: Pool, order: IntArray, cuts: str, *named: str
) -> Mapping[str, npt.NDArray[Any]]:
    """Return the offsets `cuts` and the arrays of windows that they cut, in another task order."""
    offsets: IntArray | None = getattr(pool, cuts)
    present: Sequence[str] = [name for name in named if getattr(pool, name) is not None]
    if offsets is None or offsets.shape != (len(pool) + 1,):
        return {}  # whoever reads them says what is wrong
    counts = np.diff(offsets)[order]
    ends = np.cumsum(counts)
    rows = np.arange(counts.sum()) + np.repeat(offsets[:-1][order] - (ends - counts), counts)
    moved = {name: np.take(getattr(pool, name), rows, axis=-2, mode="clip") for name in present}
    return {**moved, cuts: np.concatenate([[0], ends]).astype(np.int64)}


def _check(strategy: Strategy, pool: Pool, options: Options) -> None:
    if len(np.unique(pool.ids)) != len(pool):
        raise ValueError(
            f"{len(pool) - len(np.unique(pool.ids))} task ids are repeated in the pool"
        )
    absent = missing(strategy, pool, options)
    if absent and len(pool):
        raise ValueError(f"the pool has no {', '.join(absent)}; compute it or use random_order")
