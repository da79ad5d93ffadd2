"""Value per second: what is learnt divided by what it costs people (Settles et al., 2008).

gain / edit seconds, the return on investment of Haertel et al. (2008); `gain` names the strategy
whose utility is the gain. Reads `edit_seconds` and what that strategy reads. Use it when hours of
work are the budget, not numbers of tasks: a doubtful image of 5 s comes before one of 60 s that is
only a little more doubtful. Needs predicted seconds that are worth something.
"""

from __future__ import annotations

import numpy as np

from strategies import base
from strategies.base import FloatArray, Option, Pool
from strategies.reading.fields import seconds

reads = ("tile_probs", "tile_offsets", "edit_seconds")
summary = "Most learnt per minute of work: doubtful images that are quick to correct."
depends_on_pool = True  # with density_weighted as the gain

GAINS = ("entropy", "margin", "least_confidence", "density_weighted", "committee", "bald")


def options() -> tuple[Option, ...]:
    """Return whose utility is the gain: those that are 0 where nothing is learnt."""
    return (Option("gain", "entropy", "the strategy whose utility is the gain", choices=GAINS),)


def reads_with(gain: str) -> tuple[str, ...]:
    """Return what the gain reads, and the seconds."""
    return (*base.needs(base.get(gain)), "edit_seconds")


def utilities(pool: Pool, rng: np.random.Generator, gain: str = "entropy") -> FloatArray:
    """Return (N,) gain per second."""
    found: FloatArray = base.utilities(base.get(gain), pool, rng) / seconds(pool)
    return found
