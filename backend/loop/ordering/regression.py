"""Ridge regression with a pace per person: what a thing costs, apart from who does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from strategies.base import FloatArray, IntArray

PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # one is chosen by leave-one-out
PACE_PENALTY = 2.0  # a person's pace is believed by n / (n + PACE_PENALTY) after n of their rows


@dataclass(frozen=True)
class Model:
    """y = intercept + (x - centre) / scale @ weights + pace of the person.

    paces: {person: effect}; shrunk towards 0, the average person.
    """

    centre: FloatArray
    scale: FloatArray
    weights: FloatArray
    intercept: float
    paces: Mapping[int | None, float]

    def predict(self, inputs: FloatArray) -> FloatArray:
        """(n, F) -> (n,), of the average person."""
        found: FloatArray = self.intercept + (inputs - self.centre) / self.scale @ self.weights
        return found


def fit(inputs: FloatArray, target: FloatArray, people: Sequence[int | None]) -> Model:
    """Fit (n, F) to (n,); n >= 1. Columns without spread count as nothing.

    Weights and paces are fitted together, as a mixed model with a random effect per person does
    (Robinson, 1991); the weights' penalty is the one with the smallest leave-one-out error.
    """
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0)
    scale = np.where(scale > 1e-12 * (1 + np.abs(centre)), scale, np.inf)
    names = sorted(set(people), key=lambda person: (person is not None, person or 0))
    is_theirs = np.array([[person == name for name in names] for person in people], dtype=float)
    columns = np.hstack([np.ones((len(target), 1)), (inputs - centre) / scale, is_theirs])
    kinds = np.repeat([0, 1, 2], [1, inputs.shape[1], len(names)])
    solved = [_ridge(columns, target, _penalties(kinds, penalty)) for penalty in PENALTIES]
    weights, _ = min(solved, key=lambda one: one[1])
    paces = dict(zip(names, weights[kinds == 2].tolist(), strict=True))
    return Model(centre, scale, weights[kinds == 1], float(weights[0]), paces)


def _penalties(kinds: IntArray, penalty: float) -> FloatArray:
    """Return the penalty of each column: none on the intercept."""
    found: FloatArray = np.array([0.0, penalty, PACE_PENALTY])[kinds]
    return found


def _ridge(
    columns: FloatArray, target: FloatArray, penalties: FloatArray
) -> tuple[FloatArray, float]:
    """Return the weights and the mean squared leave-one-out error, in closed form."""
    inverse = np.linalg.inv(columns.T @ columns + np.diag(penalties + 1e-9))
    weights = inverse @ (columns.T @ target)
    leverage = np.einsum("nf,fg,ng->n", columns, inverse, columns)
    left_out = (target - columns @ weights) / np.maximum(1 - leverage, 1e-9)
    return weights, float(np.mean(left_out**2))
