"""A head learns labelled pixels: what is drawn, what is judged, and when it gives up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.learning.training import TrainingDiverged
from models.networks.hypercolumn import PixelHead
from models.pixels import pixel_training
from models.pixels.pixel_labels import Pixels
from models.pixels.pixel_training import f_measure, train
from tests.models.small_network import state


def pixels(count: int, seed: int = 0, *, weight: float = 1.0) -> Pixels:
    """Three features; the sign of the first is the label."""
    columns = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float16)
    return Pixels(columns, columns[:, 0] > 0, np.full(count, weight, np.float32), "")


def fresh(seed: int = 0) -> PixelHead:
    torch.manual_seed(seed)
    return PixelHead(3)


def learned(head: PixelHead, *labelled: Pixels, steps: int = 60, seed: int = 0) -> float:
    return train(head, labelled, steps=steps, seed=seed, report=lambda *_: None)


def test_a_head_learns_what_tells_the_pixels_apart() -> None:
    head = fresh()
    assert learned(head, pixels(200), pixels(50, 1)) < 0.35
    found = f_measure(head, [pixels(300, 2)])
    assert found is not None and found > 0.95
    assert not head.training


def test_twice_the_same_training_gives_the_same_weights() -> None:
    one, other, third = fresh(), fresh(), fresh()
    losses = [learned(one, pixels(80), steps=5), learned(other, pixels(80), steps=5)]
    learned(third, pixels(80), steps=5, seed=1)
    assert losses[0] == losses[1]
    assert all(torch.equal(value, state(other)[key]) for key, value in state(one).items())
    assert not torch.equal(one.first.weight, third.first.weight)


def test_the_random_numbers_of_others_stay_as_they_were() -> None:
    before = torch.random.get_rng_state()
    learned(fresh_without_touching(), pixels(20), steps=2)
    assert torch.equal(torch.random.get_rng_state(), before)


def fresh_without_touching() -> PixelHead:
    with torch.random.fork_rng(devices=[]):
        return fresh()


def test_pixels_are_drawn_in_proportion_to_their_weight() -> None:
    places, weights = np.array([3, 5, 7, 8]), np.zeros(10)
    weights[places] = 1, 0.25, 0, 2.75
    kind = pixel_training._Kind(places, weights)
    rng = np.random.default_rng(0)
    counts = np.bincount(np.concatenate([kind.draw(rng) for _ in range(400)]), minlength=10)
    assert counts.sum() == 400 * pixel_training.BATCH
    np.testing.assert_allclose(counts[places] / counts.sum(), weights[places] / 4, atol=0.005)
    assert set(np.flatnonzero(counts)) == {3, 5, 8}


def test_heavy_pixels_outvote_light_ones() -> None:
    wrong = pixels(200, 3, weight=0.05)
    contradicting = Pixels(wrong.columns, ~wrong.labels, wrong.weights, "")
    head = fresh()
    learned(head, pixels(200, 4), contradicting)
    found = f_measure(head, [pixels(300, 5)])
    assert found is not None and found > 0.9


def test_both_signs_are_half_of_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few positives there are."""
    seen: list[torch.Tensor] = []
    head = fresh()
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    few = pixels(400)
    kept = np.flatnonzero(~few.labels | (np.cumsum(few.labels) <= 2))
    learned(head, Pixels(few.columns[kept], few.labels[kept], few.weights[kept], ""), steps=3)
    assert all(float((batch[:, 0] > 0).float().mean()) == 0.5 for batch in seen)
    assert all(len(batch) == 2 * pixel_training.BATCH for batch in seen)


def test_progress_is_reported_and_may_cancel() -> None:
    seen: list[tuple[int, float]] = []

    def report(step: int, loss: float) -> None:
        seen.append((step, loss))
        if step == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(fresh(), [pixels(50)], steps=500, seed=0, report=report)
    assert [step for step, _ in seen] == [50, 100] and seen[1][1] < seen[0][1]


def test_features_that_are_no_numbers_end_the_training() -> None:
    broken = Pixels(
        np.full((4, 3), np.nan, np.float16), np.arange(4) < 2, np.ones(4, np.float32), ""
    )
    with pytest.raises(TrainingDiverged, match="became nan before step 2; are the encoder"):
        learned(fresh(), broken, steps=2)


def test_the_f_measure_counts_pixels_at_one_half() -> None:
    """Of 4 positives 3 are found, 1 of 2 negatives is taken for one: 2 * 3 / (3 + 1 + 4)."""

    class Sign(PixelHead):
        def forward(self, columns: torch.Tensor) -> torch.Tensor:
            return columns[:, 0].expand(3, -1)

    columns = np.array([[1], [2], [0.1], [-1], [3], [-2]], np.float16)
    labels = np.array([True] * 4 + [False] * 2)
    held_out = Pixels(columns, labels, np.ones(6, np.float32), "")
    assert f_measure(Sign(1), [held_out]) == pytest.approx(6 / 8)


def test_without_both_signs_nothing_is_judged() -> None:
    one_sign = pixels(4)
    assert f_measure(fresh(), []) is None
    for labels in (np.ones(4, bool), np.zeros(4, bool)):
        assert f_measure(fresh(), [Pixels(one_sign.columns, labels, one_sign.weights, "")]) is None
