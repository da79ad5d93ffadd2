"""PowerBALD: BALD by lot, so that a batch does not hold the same thing many times.

Kirsch et al., "Stochastic Batch Acquisition" (2023): draw without replacement with probabilities
proportional to BALD to the power beta, which is beta ln BALD + a Gumbel number per task, largest
first. Reads `samples`. Use it instead of `bald` when many tasks are ordered at once, as here: the
top of a plain ranking is often one defect seen from many sides.
"""

from __future__ import annotations

import numpy as np

from strategies import bald
from strategies.base import FloatArray, Option, Pool, shuffle_keys

reads = bald.reads
summary = "Like bald, with some chance in it, so that similar images do not come in a row."
instead = "committee"
because = bald.because
LEAST = 1e-12  # nats: what is below counts as nothing to be learnt


def options() -> tuple[Option, ...]:
    """Return how strongly the utility decides against chance."""
    return (Option("beta", 1.0, "0 = chance alone; larger = nearer to bald", high=100.0),)


def utilities(pool: Pool, rng: np.random.Generator, beta: float = 1.0) -> FloatArray:
    """Return (N,) perturbed log utilities."""
    known = np.maximum(bald.utilities(pool, rng), LEAST)
    keys = np.maximum(shuffle_keys(pool.ids, rng), np.finfo(np.float64).tiny)
    found: FloatArray = beta * np.log(known) - np.log(-np.log(keys))
    return found
