"""BALD: the model's passes are each sure, but of different things (Houlsby et al., 2011).

Per window and class the mutual information of answer and weights, estimated from T stochastic
passes (dropout, Gal et al., 2017): H(mean_t p_t) - mean_t H(p_t), nats; per window the maximum over
classes; per task the mean of the top quarter. Reads `samples`. It ignores windows that are doubtful
by nature (every pass says one half), where `entropy` wastes people's time; use it once the obvious
defects are learnt. All our pipelines make passes, the members of a pixel head or a head without
some channels; where they are missing (another package's pipeline, proposals of an older release)
`committee` stands in, which asks the last versions instead.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, Pool
from strategies.entropy import bernoulli_entropy
from strategies.reading.fields import samples
from strategies.reading.windows import mean_of_top

reads = ("samples", "tile_offsets")
summary = "What the model can still learn: images on which its own repeated answers disagree."
instead = "committee"
because = "the model's answers differ from pass to pass"


def utilities(pool: Pool, rng: np.random.Generator) -> FloatArray:  # noqa: ARG001 - the protocol
    """Return (N,) utilities in [0, ln 2] nats."""
    probs, offsets = samples(pool)
    return mean_of_top(mutual_information(probs).max(axis=1), offsets)


def mutual_information(probs: FloatArray) -> FloatArray:
    """(T, M, C) -> (M, C), nats, never below 0; one pass is held at a time."""
    mean, entropies = np.zeros(probs.shape[1:]), np.zeros(probs.shape[1:])
    for one in probs:
        mean += one / len(probs)
        entropies += bernoulli_entropy(one) / len(probs)
    found: FloatArray = np.maximum(bernoulli_entropy(np.clip(mean, 0, 1)) - entropies, 0)
    return found
