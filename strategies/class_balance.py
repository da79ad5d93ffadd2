"""Class balance: fill the quota of rare classes (Aggarwal et al., 2020: class-balanced sampling).

Per class the lack max(0, 1 - share / quota), where share is that of the finished tasks in which
people found the class; per task the sum over classes of lack times the largest probability of its
windows. `quota` 0 = 1 / number of classes. Reads window probabilities and `class_share`. Use it
when one kind of defect is rare and training starves for it. When all quotas are met, or
no task seems to hold what is lacking, utilities are equal and the order is random.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, Option, Pool
from strategies.reading.fields import class_share, window_probs
from strategies.reading.windows import largest

reads = ("tile_probs", "tile_offsets", "class_share")
summary = "Rare kinds first: images that probably show a defect of which too few are finished."
because = "probably shows a defect that is rare among the finished"


def options() -> tuple[Option, ...]:
    """Return the wanted share."""
    text = "share of finished tasks that each class is to have; 0 = one divided by the classes"
    return (Option("quota", 0.0, text),)


def utilities(
    pool: Pool,
    rng: np.random.Generator,  # noqa: ARG001 - the protocol
    quota: float = 0.0,
) -> FloatArray:
    """Return (N,) utilities in [0, C]."""
    probs, offsets = window_probs(pool)
    wanted = quota or 1 / probs.shape[1]
    lack = np.maximum(0, 1 - class_share(pool, probs.shape[1]) / wanted)
    if not len(pool):
        return np.empty(0)
    found: FloatArray = (largest(probs, offsets) * lack).sum(axis=1)
    return found
