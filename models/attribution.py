"""Class activation maps in closed form: no backward pass.

Two kinds of head are known by the shape of their weights:
  (D,)       global average pooling + linear: y = sum_k w_k mean(F_k), dy/dF_kij = w_k / (H W)
  (D, H, W)  flatten + dense:                 y = sum_kij w_kij F_kij, dy/dF_kij = w_kij
All maps are (B, H, W), non-negative, not normalised. A bias of the head plays no part.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cam(features: Tensor, weight: Tensor) -> Tensor:
    """ReLU(sum_k w_k F_k) (Zhou et al. 2016, eq. 2); for a dense head this is HiResCAM.

    features: (B, D, H, W); weight: (D,) or (D, H, W) -> (B, H, W).
    """
    return torch.relu((features * _spatial(features, weight)).sum(dim=1))


def grad_cam(features: Tensor, weight: Tensor) -> Tensor:
    """ReLU(sum_k mean(dy/dF_k) F_k) (Selvaraju et al. 2017, eq. 1-2); equals cam / (H W) for GAP.

    features: (B, D, H, W); weight: (D,) or (D, H, W) -> (B, H, W).
    """
    channel_weights = _gradient(features, weight).mean(dim=(1, 2))  # (D,)
    return _combine(features, channel_weights.expand(len(features), -1))


def grad_cam_plus_plus(features: Tensor, weight: Tensor) -> Tensor:
    """Grad-CAM++ of S = exp(y) (Chattopadhay et al. 2018, eq. 10-19).

    features: (B, D, H, W); weight: (D,) or (D, H, W) -> (B, H, W).
    alpha = 1 / (2 + g sum F), and 0 where its denominator is 0. There is no fixed epsilon:
    g ~ w / (H W) makes g^2 smaller than any, and the map would turn into another method's.
    """
    gradient = _gradient(features, weight)  # (D, H, W) or (D, 1, 1)
    return _plus_plus(features, gradient, torch.full_like(features[:, :1, :1, :1], 1.0), 1.0)


def sigmoid_grad_cam_plus_plus(
    features: Tensor, weight: Tensor, logits: Tensor, *, complement: bool = False
) -> Tensor:
    """Grad-CAM++ of S = sigmoid(y), or of 1 - sigmoid(y) (RustSEG), by the diagonal derivatives.

    features: (B, D, H, W); weight: (D,) or (D, H, W); logits: (B,) -> (B, H, W).
    The factor sigmoid' is common to all orders and divided out, so that a saturated output keeps
    its map; RustSEG's own code takes row sums of the Hessian instead of its diagonal.
    """
    score = torch.sigmoid(logits).view(-1, 1, 1, 1)
    second = 1 - 2 * score
    third = 1 - 6 * score + 6 * score**2
    sign = -1.0 if complement else 1.0
    return _plus_plus(features, _gradient(features, weight), second, sign, third)


def _plus_plus(
    features: Tensor, gradient: Tensor, second: Tensor, sign: float, third: Tensor | None = None
) -> Tensor:
    third = second if third is None else third
    total = features.sum(dim=(2, 3), keepdim=True)  # (B, D, 1, 1)
    denominator = 2 * second + third * gradient * total
    zero = denominator == 0
    alpha = torch.where(zero, 0.0, second / denominator.masked_fill(zero, 1.0))
    count = features.shape[2] * features.shape[3]
    return _combine(features, (alpha * torch.relu(sign * gradient)).mean(dim=(2, 3)) * count)


def _combine(features: Tensor, channel_weights: Tensor) -> Tensor:
    """(B, D, H, W) and (B, D) -> (B, H, W)."""
    return torch.relu(torch.einsum("bdhw,bd->bhw", features, channel_weights))


def _spatial(features: Tensor, weight: Tensor) -> Tensor:
    """Bring weights to (D, 1, 1) or (D, H, W); raises ValueError when they fit neither head."""
    channels, *size = features.shape[1:]
    if tuple(weight.shape) not in ((channels,), (channels, *size)):
        raise ValueError(
            f"weights of shape {tuple(weight.shape)} fit no head on features "
            f"{tuple(features.shape)}; give (D,) for pooling + linear or (D, H, W) for dense"
        )
    return weight.view(channels, 1, 1) if weight.ndim == 1 else weight


def _gradient(features: Tensor, weight: Tensor) -> Tensor:
    spatial = _spatial(features, weight)
    return spatial / (features.shape[2] * features.shape[3]) if weight.ndim == 1 else spatial
