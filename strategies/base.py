"""What a strategy reads and gives: a pool of open tasks in, utilities out; larger = sooner."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

import strategies

FloatArray = npt.NDArray[np.float64]


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

    ids: npt.NDArray[np.int64]
    tile_probs: FloatArray | None = None
    tile_offsets: npt.NDArray[np.int64] | None = None
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
