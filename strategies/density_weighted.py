"""Density weighted: uncertain, and like many others (Settles & Craven, 2008).

entropy * ((1 + mean cosine similarity to the pool) / 2) ** beta. The mean similarity to all tasks
is the product with the mean of the unit vectors, so that no pairs are formed. Reads window
probabilities and `embeddings`. Use it when `entropy` keeps bringing odd images (blurred, overlaid)
that teach nothing about the rest.
"""

from __future__ import annotations

import numpy as np

from strategies import entropy
from strategies.base import FloatArray, Option, Pool
from strategies.reading.fields import embeddings

reads = ("tile_probs", "tile_offsets", "embeddings")
summary = "Uncertain and common: doubtful images that stand for many others, no odd ones out."
because = "like many other images"
depends_on_pool = True


def options() -> tuple[Option, ...]:
    """Return how much being common counts."""
    return (Option("beta", 1.0, "0 = entropy alone; larger = common images first", high=10.0),)


def utilities(pool: Pool, rng: np.random.Generator, beta: float = 1.0) -> FloatArray:
    """Return (N,) utilities in [0, ln 2]."""
    weighted: FloatArray = entropy.utilities(pool, rng) * density(embeddings(pool)) ** beta
    return weighted


def density(vectors: FloatArray) -> FloatArray:
    """(N, D) -> (N,) in [0, 1]: (1 + mean cosine) / 2; a zero vector has cosine 0 with all."""
    if not len(vectors):
        return np.empty(0)
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    inverse = np.divide(1.0, lengths, where=lengths > 0, out=np.zeros_like(lengths))
    mean = (inverse @ vectors) / len(vectors)
    found: FloatArray = np.clip((1 + inverse * (vectors @ mean)) / 2, 0, 1)
    return found
