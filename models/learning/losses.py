"""Losses per pixel on score maps: every pixel with a weight, 0 = ignored, and soft targets allowed.

All take logits, targets in [0, 1] and weights >= 0 of one shape (B, H, W) and give one number; with
no pixel that counts it is 0 and so are its gradients. Computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

TINY = 1e-6  # pixels; keeps quotients finite and is far below one pixel

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits, targets, weights -> ()


def bce(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy, weighted mean over pixels."""
    return _mean(_cross_entropy(logits, targets), weights)


def focal(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    alpha: float | None = None,
    gamma: float = 2.0,
) -> Tensor:
    """Cross-entropy times |target - p|^gamma, weighted mean (Lin et al. 2017, Li et al. 2020).

    alpha: in (0, 1), weight of positive pixels, 1 - alpha that of negative ones; None = 1 for both.
    gamma: 0 = cross-entropy, otherwise at least 1, for below that the gradient has no bound.
    Raises ValueError for other values.
    """
    if gamma != 0 and gamma < 1:
        raise ValueError(f"gamma is {gamma}; use 0 or at least 1")
    if alpha is not None and not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; use a number between 0 and 1, or None for no balance")
    missed = (targets - torch.sigmoid(logits.float())).abs()
    losses = missed**gamma * _cross_entropy(logits, targets)
    if alpha is not None:
        losses = losses * (alpha * targets + (1 - alpha) * (1 - targets))
    return _mean(losses, weights)


def soft_iou(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """1 - sum(p y) / sum(p + y - p y) over all pixels of the batch, each with its weight.

    Pooled, so that clean crops count as false positives beside others. For soft targets p y is
    min(p, y) and p + y - p y is max(p, y), the same at 0 and 1: so the minimum lies at p = y (Wang
    et al. 2023, Jaccard metric losses).
    """
    p = torch.sigmoid(logits.float())
    shared = (weights * torch.minimum(p, targets)).sum()
    either = (weights * torch.maximum(p, targets)).sum()
    return 1 - (shared + TINY) / (either + TINY)


def focal_soft_iou(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Focal loss (gamma 2, no alpha) plus soft IoU, as in SCNet, which sums focal over pixels."""
    return focal(logits, targets, weights) + soft_iou(logits, targets, weights)


def bce_soft_iou(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy plus soft IoU."""
    return bce(logits, targets, weights) + soft_iou(logits, targets, weights)


LOSSES: Mapping[str, Loss] = {
    "bce": bce,
    "bce_soft_iou": bce_soft_iou,
    "focal": focal,
    "focal_soft_iou": focal_soft_iou,
    "soft_iou": soft_iou,
}


def get(name: str) -> Loss:
    """Return the loss of this name; raises ValueError naming the known ones."""
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    return LOSSES[name]


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")


def _mean(losses: Tensor, weights: Tensor) -> Tensor:
    return (losses * weights).sum() / weights.sum().clamp_min(TINY)
