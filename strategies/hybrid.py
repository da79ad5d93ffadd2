"""Hybrid: several strategies at once, by the weighted mean of their ranks (Borda, 1781).

Each part ranks the pool; a rank is in [0, 1], 1 = first, equal utilities share the mean of theirs;
utility = sum of weight * rank / sum of weights. Ranks, because the parts' utilities have different
units. The weights are the options, one per strategy; without any, entropy 1 and coreset 0.5. Reads
what its parts read. Use it to have, say, doubtful images first that are also unlike each other.
"""

from __future__ import annotations

import numpy as np

from strategies import base
from strategies.base import FloatArray, Option, Pool
from strategies.reading.ranks import mean_ranks

reads = ("tile_probs", "tile_offsets", "embeddings")
summary = "A mixture: the strategies that you name, each with its weight."
depends_on_pool = True
diverse = True

DEFAULT = {"entropy": 1.0, "coreset": 0.5}
NEVER = ("hybrid", "autopilot", "review")  # mixtures themselves, or of other tasks


def options() -> tuple[Option, ...]:
    """Return a weight for every other strategy."""
    parts = [name for name in base.names() if name not in NEVER]
    return tuple(Option(name, 0.0, f"weight of {name}", high=100.0) for name in parts)


def reads_with(**weights: float) -> tuple[str, ...]:
    """Return what the parts with a weight read."""
    read = [field for name in parts_of(weights) for field in base.needs(base.get(name))]
    return tuple(dict.fromkeys(read))


def utilities(pool: Pool, rng: np.random.Generator, **weights: float) -> FloatArray:
    """Return (N,) utilities in [0, 1]."""
    parts = parts_of(weights)
    found: FloatArray = np.zeros(len(pool))
    for name, weight in parts.items():
        found += weight * mean_ranks(base.utilities(base.get(name), pool, rng))
    return found / sum(parts.values())


def parts_of(weights: dict[str, float]) -> dict[str, float]:
    """Return the strategies with a weight above 0; the default mixture when there is none."""
    return {name: weight for name, weight in weights.items() if weight > 0} or DEFAULT
