"""Losses against their formulas in float64, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.learning import losses

SHAPE = (2, 5, 7)
NAMES = sorted(losses.LOSSES)


def drawn(seed: int = 0, *, soft: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    logits, weights = rng.normal(0, 3, SHAPE), rng.uniform(0, 2, SHAPE)
    targets = rng.uniform(0, 1, SHAPE) if soft else rng.integers(0, 2, SHAPE)
    weights[rng.random(SHAPE) < 0.3] = 0
    arrays = [torch.tensor(a, dtype=torch.float32) for a in (logits, targets, weights)]
    return arrays[0], arrays[1], arrays[2]


def pixels(*maps: Tensor) -> list[tuple[float, ...]]:
    return list(zip(*(m.flatten().tolist() for m in maps), strict=True))


def cross_entropy(z: float, y: float) -> float:
    p = 1 / (1 + math.exp(-z))
    return -(y * math.log(p) + (1 - y) * math.log(1 - p))


def weighted_mean(values: list[tuple[float, float]]) -> float:
    return sum(v * w for v, w in values) / sum(w for _, w in values)


def test_cross_entropy_is_the_weighted_mean_of_its_formula() -> None:
    logits, targets, weights = drawn()
    expected = weighted_mean([(cross_entropy(z, y), w) for z, y, w in pixels(*drawn())])
    assert float(losses.bce(logits, targets, weights)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("alpha", "gamma"), [(None, 2.0), (0.25, 2.0), (0.75, 1.0), (0.5, 1.5)])
def test_focal_is_lin_s_formula_for_hard_targets(alpha: float | None, gamma: float) -> None:
    values = []
    for z, y, w in pixels(*drawn(soft=False)):
        p = 1 / (1 + math.exp(-z))
        p_t, a_t = (p, alpha) if y == 1 else (1 - p, alpha and 1 - alpha)
        values.append((-(1 if a_t is None else a_t) * (1 - p_t) ** gamma * math.log(p_t), w))
    found = losses.focal(*drawn(soft=False), alpha=alpha, gamma=gamma)
    assert float(found) == pytest.approx(weighted_mean(values), rel=1e-4)


def test_focal_of_soft_targets_is_zero_where_they_are_met() -> None:
    targets = torch.tensor([[[0.2, 0.5, 0.9]]])
    met = losses.focal(torch.logit(targets), targets, torch.ones(1, 1, 3))
    assert float(met) == pytest.approx(0, abs=1e-12)
    assert float(losses.focal(torch.zeros(1, 1, 3), targets, torch.ones(1, 1, 3))) > 0.01


def test_focal_without_focus_is_cross_entropy() -> None:
    assert float(losses.focal(*drawn(), gamma=0.0)) == pytest.approx(float(losses.bce(*drawn())))


def test_soft_iou_is_the_papers_formula_for_hard_targets() -> None:
    shared = either = 0.0
    for z, y, w in pixels(*drawn(soft=False)):
        p = 1 / (1 + math.exp(-z))
        shared, either = shared + w * p * y, either + w * (p + y - p * y)
    found = float(losses.soft_iou(*drawn(soft=False)))
    assert found == pytest.approx(1 - shared / either, rel=1e-5)


def test_soft_iou_is_least_where_soft_targets_are_met() -> None:
    """With the product p y it would be least at the corners."""
    target = torch.full((1, 1, 1), 0.4)
    values = [
        float(losses.soft_iou(torch.logit(torch.full((1, 1, 1), p)), target, torch.ones(1, 1, 1)))
        for p in (0.1, 0.3, 0.4, 0.5, 0.9)
    ]
    assert values[2] == pytest.approx(0, abs=1e-5)
    assert values[0] > values[1] > values[2] < values[3] < values[4]


def test_sums_add_their_parts() -> None:
    iou = losses.soft_iou(*drawn())
    assert torch.equal(losses.focal_soft_iou(*drawn()), losses.focal(*drawn()) + iou)
    assert torch.equal(losses.bce_soft_iou(*drawn()), losses.bce(*drawn()) + iou)


@pytest.mark.parametrize("name", NAMES)
def test_ignored_pixels_change_nothing_and_learn_nothing(name: str) -> None:
    loss = losses.get(name)
    logits, targets, weights = drawn()
    logits.requires_grad_()
    value = loss(logits, targets, weights)
    value.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.all(logits.grad[weights == 0] == 0)
    assert torch.all(logits.grad[weights > 0.1] != 0)
    other_logits = torch.where(weights == 0, torch.tensor(7.0), logits.detach())
    other_targets = torch.where(weights == 0, 1 - targets, targets)
    assert float(loss(other_logits, other_targets, weights)) == pytest.approx(float(value.detach()))


@pytest.mark.parametrize("name", NAMES)
def test_without_a_pixel_that_counts_there_is_no_loss_and_no_gradient(name: str) -> None:
    logits, targets, _ = drawn()
    logits.requires_grad_()
    value = losses.get(name)(logits, targets, torch.zeros(SHAPE))
    value.backward()  # type: ignore[no-untyped-call]
    assert float(value.detach()) == 0
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("soft", [True, False])
def test_gradients_are_finite_at_extremes_and_point_home(name: str, soft: bool) -> None:
    logits = torch.tensor([[[-1e4, -90.0, -20.0, 0.0, 20.0, 90.0, 1e4]]]).requires_grad_()
    low, high = (0.1, 0.9) if soft else (0.0, 1.0)
    for target in (low, high):
        targets = torch.full((1, 1, 7), target)
        value = losses.get(name)(logits, targets, torch.ones(1, 1, 7))
        (gradient,) = torch.autograd.grad(value, logits)
        assert math.isfinite(float(value.detach()))
        assert torch.isfinite(gradient).all()
        middle = float(gradient[0, 0, 3])
        assert middle > 0 if target == low else middle < 0


def test_reduced_precision_is_widened_before_anything_is_computed() -> None:
    logits, targets, weights = drawn()
    half = logits.to(torch.bfloat16)
    for name in NAMES:
        found = losses.get(name)(half, targets, weights)
        assert found.dtype == torch.float32
        assert float(found) == float(losses.get(name)(half.float(), targets, weights))


def test_settings_that_cannot_work_are_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match=r"gamma is 0.5; use 0 or at least 1"):
        losses.focal(*drawn(), gamma=0.5)
    with pytest.raises(ValueError, match=r"alpha is 1.0; use a number between 0 and 1"):
        losses.focal(*drawn(), alpha=1.0)
    with pytest.raises(ValueError, match=r"unknown loss 'dice'; known: bce, .*soft_iou"):
        losses.get("dice")
