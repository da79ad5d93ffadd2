"""Edit time: tasks by the human seconds that their proposals are predicted to cost.

`hard_first`: the seconds themselves. `easy_first`: their negative. `curriculum` (Bengio et al.,
2009; competence as in Platanios et al., 2019): -|quantile of the seconds in the pool - progress|,
easy tasks while few are finished and hard ones at the end. Reads `edit_seconds` (a regression on
past lead times, see backend/loop/difficulty.py). Use it hard first to mend what costs people most,
easy first to fill a set of masks quickly or to train newcomers, the curriculum for both in turn.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, Option, Pool
from strategies.reading.fields import seconds
from strategies.reading.ranks import mean_ranks

reads = ("edit_seconds",)
summary = "Hardest first: images whose proposals are expected to need the most correction time."
depends_on_pool = True  # the curriculum does


def options() -> tuple[Option, ...]:
    """Return which end comes first."""
    text = "curriculum: from easy to hard while the project progresses"
    known = ("hard_first", "easy_first", "curriculum")
    return (Option("order", "hard_first", text, choices=known),)


def utilities(
    pool: Pool,
    rng: np.random.Generator,  # noqa: ARG001 - the protocol
    order: str = "hard_first",
) -> FloatArray:
    """Return (N,) seconds, negative seconds, or utilities in [-1, 0]."""
    found = seconds(pool)
    if order == "curriculum":
        return -np.abs(mean_ranks(found) - pool.progress)
    return found.copy() if order == "hard_first" else -found
