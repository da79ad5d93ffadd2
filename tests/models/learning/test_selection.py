"""Which step of a training is kept, for F-measures that are made up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from models.learning.crops import Pixels, Surroundings
from models.learning.selection import LUCK, Best

CROPS = 100


def around(value: int) -> Surroundings:
    """Crops that are all of one value, so that their sign shows."""
    pixels = np.full((CROPS, 4, 4, 3), value, np.uint8)
    places = np.full((CROPS, 2), 2)
    return Surroundings(pixels, places, np.full((CROPS, 2), 4), np.ones(CROPS), 4)


def kept(found: list[int]) -> tuple[Best, nn.Linear]:
    """Let `found` of the 100 positives be found at each step, the negatives always be right."""
    network = nn.Linear(1, 1)
    step = 0

    def logits(pixels: Pixels) -> npt.NDArray[np.float32]:
        right = found[step] if pixels[0, 0, 0, 0] else 0
        return np.where(np.arange(CROPS) < right, 1, -1).astype(np.float32)[:, None]

    best = Best(network, [(around(1), around(0))], logits)
    for step in range(len(found)):
        nn.init.constant_(network.bias, step)
        best.consider(step, settled=2 * step >= len(found))
    best.restore(len(found) - 1)
    return best, network


@pytest.mark.parametrize(
    ("found", "step"),
    [
        ([50, 50, 60, 70, 80, 90], 5),  # the best
        ([50, 50, 50, 90, 60, 60], 3),  # not the last
        ([99, 99, 50, 50, 60, 50], 4),  # nothing of the first half
        ([50, 50, 50, 90, 90, 60], 4),  # the later of equals
        ([50, 50, 50, 90, 89, 88], 5),  # 0.947, 0.942, 0.936: a difference that may be luck
        ([50, 50, 50, 90, 88, 84], 4),  # 0.947, 0.936, 0.913: but not one step at a time
    ],
)
def test_the_latest_of_the_best_settled_steps_is_kept(found: list[int], step: int) -> None:
    best, network = kept(found)
    assert best.step == step
    assert network.bias.item() == step
    right = found[step]
    assert best.f_measure == pytest.approx(2 * right / (2 * right + CROPS - right))
    assert best.newest == pytest.approx(2 * found[-1] / (found[-1] + CROPS))
    assert LUCK < 0.03


def test_patience_counts_evaluations_without_gain_once_settled() -> None:
    best, _ = kept([90, 80, 80, 80])
    assert best.is_exhausted(3)
    assert not best.is_exhausted(4)
    assert not best.is_exhausted(0)
    early, _ = kept([90])
    early.consider(1, settled=False)
    early.consider(2, settled=False)
    assert not early.is_exhausted(1)
    assert not kept([50, 60, 70, 80])[0].is_exhausted(1)


def test_nothing_held_out_keeps_the_last_weights() -> None:
    network = nn.Linear(1, 1)
    none = (
        around(1),
        Surroundings(
            np.zeros((0, 4, 4, 3), np.uint8),
            np.zeros((0, 2), np.int64),
            np.zeros((0, 2), np.int64),
            np.zeros(0),
            4,
        ),
    )
    best = Best(network, [none], lambda _: np.zeros((0, 1), np.float32))
    best.consider(3, settled=True)
    with torch.no_grad():
        network.bias.fill_(7.0)
    best.restore(9)
    assert (best.step, best.f_measure, best.newest) == (9, None, None)
    assert network.bias.item() == 7
