"""Entropy: the tasks whose most doubtful windows or pixels are the most doubtful (Shannon, 1948).

Windows: per window and class the Bernoulli entropy H(p) = -p ln p - (1 - p) ln(1 - p) in nats; per
window the maximum over classes; per task the mean of the top quarter of its windows. Pixels:
sum(w H(p)) / sum(w) with the weight w = 1 in a band around the proposed outline and 0 elsewhere,
classes weighted by the length of their outlines. Either way a large image or region does not win by
its size. "both" is the mean of the two.
Reads the window probabilities, and for pixels `pixel_doubt`. Use it by default; `pixels` where the
model knows where defects are but not how far they reach.
"""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, Option, Pool
from strategies.reading.fields import pixel_doubt, window_probs
from strategies.reading.windows import mean_of_top

reads = ("tile_probs", "tile_offsets")
summary = "Most uncertain first: images where the model hesitates between defect and no defect."


def options() -> tuple[Option, ...]:
    """Return where doubt is looked for."""
    text = "windows: is there a defect; pixels: how far does it reach; both: their mean"
    return (Option("level", "windows", text, choices=("windows", "pixels", "both")),)


def reads_with(level: str) -> tuple[str, ...]:
    """Return what the level needs."""
    return {"windows": reads, "pixels": ("pixel_doubt",), "both": (*reads, "pixel_doubt")}[level]


def utilities(
    pool: Pool,
    rng: np.random.Generator,  # noqa: ARG001 - the protocol
    level: str = "windows",
) -> FloatArray:
    """Return (N,) utilities in [0, ln 2] nats."""
    parts = []
    if level != "pixels":
        probs, offsets = window_probs(pool)
        doubtful = np.minimum(probs, 1 - probs).max(axis=1)  # H grows up to one half
        parts.append(mean_of_top(bernoulli_entropy(doubtful), offsets))
    if level != "windows":
        parts.append(np.log(2) * pixel_doubt(pool))
    mean: FloatArray = np.mean(parts, axis=0)
    return mean


def bernoulli_entropy(probs: FloatArray) -> FloatArray:
    """Return H(p) in nats, elementwise; 0 for p = 0 and p = 1, ln 2 for p = 0.5."""
    return _minus_p_log_p(probs) + _minus_p_log_p(1 - probs)


def _minus_p_log_p(p: FloatArray) -> FloatArray:
    log: FloatArray = np.log(p, where=p > 0, out=np.zeros_like(p))
    return -p * log
