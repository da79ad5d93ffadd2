"""What is tried when memory runs out, and how the time left is guessed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.loop.memory import LEAST_BATCH, Means, less, sized
from backend.loop.pace import Pace
from models.learning.training import PROFILES
from models.memory import LEAST_TILE_PX, TILE_STEP_PX

CPU = PROFILES["cpu"]


def test_batches_and_tiles_are_halved_down_to_the_least() -> None:
    once = sized(CPU, 1)
    assert (once.batch, once.dense_batch, once.tile_px) == (8, 4, 512)
    assert sized(CPU, 0) == CPU
    least = sized(CPU, 50)
    assert (least.batch, least.dense_batch, least.tile_px) == (
        LEAST_BATCH, LEAST_BATCH, LEAST_TILE_PX)  # fmt: skip
    assert replace(least, batch=16, dense_batch=8, tile_px=1024) == CPU, "nothing else changes"


def test_sizes_below_the_least_stay_and_tiles_fit_every_network() -> None:
    small = replace(CPU, batch=1, dense_batch=1, tile_px=100)
    assert sized(small, 3) == small
    assert sized(replace(CPU, tile_px=1000), 1).tile_px % TILE_STEP_PX == 0


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_everything_is_tried_once_each_with_less_and_then_it_ends(device: str) -> None:
    tried, means, said = [(device, CPU.batch)], Means(), []
    where = device
    while (found := less(CPU, where, means)) is not None:
        means, sentence = found
        said.append(sentence)
        where = "cpu" if means.on_cpu else device
        tried.append((where, sized(CPU, means.halvings).batch))
    on_cpu = [("cpu", batch) for batch in (16, 8, 4, 2)]
    on_gpu = [("cuda:1", batch) for batch in (16, 8, 4, 2)]
    assert tried == (on_cpu if device == "cpu" else on_gpu + on_cpu)
    assert said[0] == "batches of 8 instead of 16"
    if device != "cpu":
        assert said[3] == "the CPU instead of cuda:1"


def test_the_time_left_is_known_at_once_right_at_a_steady_pace_and_does_not_jump() -> None:
    pace = Pace(began_s=100.0)
    assert pace.seen(0.0, 103.0).seconds_left is None
    guesses = []
    for done in range(1, 101):
        pace = pace.seen(done / 100, 100.0 + 3 * done)
        guesses.append(pace.seconds_left)
    assert guesses == pytest.approx([300.0 - 3 * done for done in range(1, 101)])


def test_one_slow_step_moves_the_guess_by_less_than_it_says() -> None:
    steady = Pace(0.0).seen(0.1, 10.0).seen(0.2, 20.0)
    assert steady.seconds_left == pytest.approx(80.0)
    slow = steady.seen(0.21, 40.0)
    assert slow.seconds_left is not None
    alone = 40.0 / 0.21 - 40.0
    assert 80.0 - 20.0 < slow.seconds_left < alone
