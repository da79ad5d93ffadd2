"""Committee: the last versions of the model contradict each other (Seung et al., 1992).

Members are the version in use and those before it. `divergence` (McCallum & Nigam, 1998): the mean
Kullback-Leibler divergence of the members from their mean, which is the mutual information of
answer and member; `votes` (Dagan & Engelson, 1995): the entropy of the members' yes and no. Per
window the maximum over classes; per task the mean of the top quarter. Reads `committee_probs`. Use
it from the second version on: it shows where training still changes the answers.
"""

from __future__ import annotations

import numpy as np

from strategies.bald import mutual_information
from strategies.base import FloatArray, Option, Pool
from strategies.entropy import bernoulli_entropy
from strategies.reading.fields import committee
from strategies.reading.windows import mean_of_top

reads = ("committee_probs", "committee_offsets")
summary = "Where versions disagree: images on which the last trained versions differ."
because = "the last versions disagree"


def options() -> tuple[Option, ...]:
    """Return how disagreement is measured."""
    text = "divergence: by how much; votes: yes against no"
    return (Option("measure", "divergence", text, choices=("divergence", "votes")),)


def utilities(
    pool: Pool,
    rng: np.random.Generator,  # noqa: ARG001 - the protocol
    measure: str = "divergence",
) -> FloatArray:
    """Return (N,) utilities in [0, ln 2] nats."""
    probs, offsets = committee(pool)
    if measure == "votes":
        votes = np.count_nonzero(probs >= 0.5, axis=0) / len(probs)
        return mean_of_top(bernoulli_entropy(votes).max(axis=1), offsets)
    return mean_of_top(mutual_information(probs).max(axis=1), offsets)
