"""The published AdvCAM loop, operation by operation: what `models.climbing` is measured against.

Written in our own words after what the official code of Lee et al. 2021 does for one scale and one
image: the image and its mirror image as two views, the weights of the activation map by a
library-style Grad-CAM (a full backward pass, parameters included, whose gradients of the features
are averaged over their positive entries), a second full backward pass for the climb, a step divided
by the gradient's maximum, pixels clamped to the range of the image at hand, and a last climb that
nobody looks at. It makes no use of what is known about the network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.networks.unet import TruncatedUNet

STEP = 0.08  # of the ImageNet-normalised image
REGULARISER = 7.0
MASK_THRESHOLD = 0.5

Bounds = tuple[Tensor, Tensor]


def literal_advcam(
    network: TruncatedUNet,
    image: Tensor,
    *,
    iterations: int,
    regulariser: float = REGULARISER,
    mirror: bool = True,
    own_bounds: bool = True,
) -> Tensor:
    """Sum the maps of an image and of its climbed versions, as the published code does.

    network: K = 1, in evaluation mode, parameters that require gradients, as after training.
    image: (1, 3, H, W) RGB in [0, 1] -> (H, W), divided by its maximum plus 1e-5.
    own_bounds: clamp to the minimum and maximum of the tensor at hand, as published; otherwise to
        what pixels can be.
    """
    x = (image - network.pixel_mean) / network.pixel_std
    views = torch.cat((x, x.flip(-1))) if mirror else x
    total = first = torch.zeros(())
    for iteration in range(iterations):
        views = views.detach().requires_grad_(True)
        features = _features(network, views)
        scores = network.head(features)[:, 0]  # (V, H, W)
        current = _library_cam(network, features, scores)
        first = current.detach() if iteration == 0 else first
        total = total + current.detach()
        held = (current / current.max() > MASK_THRESHOLD).detach()
        kept = ((current - first).abs() * held).sum()
        objective = torch.relu(scores).mean(dim=(1, 2)).sum() - regulariser * kept
        network.zero_grad()
        views.grad = None  # what the first backward pass left there
        objective.backward()
        views = _step(views, _bounds(views, network, own_bounds))
    network.zero_grad(set_to_none=True)
    return total / (total.max() + 1e-5)


def _features(network: TruncatedUNet, normalised: Tensor) -> Tensor:
    return network.features(normalised * network.pixel_std + network.pixel_mean)


def _library_cam(network: TruncatedUNet, features: Tensor, scores: Tensor) -> Tensor:
    """(V, D, H, W) -> (H, W): Grad-CAM with weights that carry no graph, the views added."""
    features.retain_grad()
    network.zero_grad()
    torch.relu(scores).sum().backward(retain_graph=True)
    gradient = features.grad
    assert gradient is not None
    weights = gradient.sum(dim=(2, 3)) / (gradient > 0).sum()  # (V, D)
    maps = torch.relu((weights[:, :, None, None] * features).sum(dim=1))
    return maps[0] + maps[1].flip(-1) if len(maps) == 2 else maps[0]


def _step(views: Tensor, bounds: Bounds) -> Tensor:
    assert views.grad is not None
    unit = views.grad / (views.grad.abs().max() + 1e-12)
    return torch.clamp(views.detach() + STEP * unit, *bounds)


def _bounds(views: Tensor, network: TruncatedUNet, own: bool) -> Bounds:
    if own:
        return views.detach().min(), views.detach().max()
    return -network.pixel_mean / network.pixel_std, (1 - network.pixel_mean) / network.pixel_std
