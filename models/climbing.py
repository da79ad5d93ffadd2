"""AdvCAM: climb the score by changing the image, and sum the activation maps on the way.

After Lee et al. 2021 (Anti-adversarially manipulated attributions). What differs from their code:
maps come in closed form (one backward per climb, to the image only), no mirrored view, no wasted
last step, and a regulariser whose strength does not depend on the size of the map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.networks.unet import TruncatedUNet

Core = tuple[slice, slice]  # rows, columns
WHOLE: Core = (slice(None), slice(None))


@dataclass(frozen=True)
class Ascent:
    """How to climb; the fields are described at `climb`."""

    iterations: int
    step: float = 0.08
    regulariser: float = 3.5
    mask_threshold: float = 0.5
    class_index: int = 0
    other_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations is {self.iterations}; use 1 (plain CAM) or more")


def climb(
    network: TruncatedUNet,
    x: Tensor,
    *,
    iterations: int,
    step: float = 0.08,
    regulariser: float = 3.5,
    mask_threshold: float = 0.5,
    class_index: int = 0,
    other_weight: float = 1.0,
    core: Core = WHOLE,
) -> Tensor:
    """Sum the activation maps of images and of their climbed versions (AdvCAM, eq. 3-8).

    x: (B, 3, H, W) float32 RGB in [0, 1], left as it was -> (B, h, w) over the core, the sum of
        `iterations` maps ReLU(Y), not normalised; float32, or float64 if the network is.
    iterations: maps, as the papers count; 1 = plain CAM, 2 = one climb.
    step: change of the most changed value per climb, in units of the ImageNet-normalised image,
        normalised for each image of the batch by itself; pixels stay in [0, 1].
    regulariser: lambda' of J = mean ReLU(Y) - lambda' mean(|ReLU(Y) - ReLU(Y0)| M), which brings
        regions above `mask_threshold` x maximum (M) back to where they began; 3.5 keeps the
        balance of the paper's lambda = 7 at any map size. At Y = Y0, the first climb, it is inert.
    other_weight: weight of the other classes' scores, which are pushed down; inert when K = 1.
    core: the part whose score is climbed; what lies around it is context.
    An image without a positive score in its core has no gradient: its map is zero, and when no
    image of the batch has one nothing is climbed.
    Raises ValueError for iterations < 1. Training mode and `requires_grad` of the network come
    back as they were.
    """
    ascent = Ascent(iterations, step, regulariser, mask_threshold, class_index, other_weight)
    with frozen(network):
        image, scores = score_with_graph(network, x, wanted=iterations > 1)
        return climb_on(network, image, scores, (ascent,), core=core)[0]


def climb_on(
    network: TruncatedUNet,
    image: Tensor,
    scores: Tensor,
    ascents: Sequence[Ascent],
    *,
    core: Core = WHOLE,
) -> list[Tensor]:
    """Continue from one forward pass for several ascents, each by itself; the network is frozen.

    image, scores: what `score_with_graph` returned; its graph is used up. Returns the sums of
    maps, one (B, h, w) per ascent, see `climb`.
    """
    sums = [activation(scores, ascent, core) for ascent in ascents]
    climbing = [i for i, a in enumerate(ascents) if a.iterations > 1 and bool(sums[i].any())]
    starts = [
        _step(network, image, scores, sums[i], ascents[i], core, again=i != climbing[-1])
        for i in climbing
    ]
    for i, start in zip(climbing, starts, strict=True):
        sums[i] = sums[i] + _climb_from(network, start, sums[i], ascents[i], core)
    return sums


def _climb_from(
    network: TruncatedUNet, image: Tensor, first: Tensor, ascent: Ascent, core: Core
) -> Tensor:
    """Sum the maps that follow the first one, from the image after the first step on."""
    total = torch.zeros_like(first)
    for climbs_left in reversed(range(ascent.iterations - 1)):
        image, scores = score_with_graph(network, image, wanted=climbs_left > 0)
        current = activation(scores, ascent, core)
        total = total + current
        if not climbs_left or not bool(current.any()):
            break
        image = _step(network, image, scores, first, ascent, core)
    return total


def _step(
    network: TruncatedUNet,
    image: Tensor,
    scores: Tensor,
    first: Tensor,
    ascent: Ascent,
    core: Core,
    *,
    again: bool = False,
) -> Tensor:
    direction = score_gradient(_precise(scores.detach()), first, ascent, core)
    return ascend(image, scores, direction, ascent.step, network.pixel_std, again=again)


def score_with_graph(network: TruncatedUNet, x: Tensor, *, wanted: bool) -> tuple[Tensor, Tensor]:
    """Return the image as a leaf of its own and its score map (B, K, H, W), with a graph or not."""
    image = x.detach().requires_grad_(wanted)
    with torch.set_grad_enabled(wanted):
        return image, network.score_map(image)


def activation(scores: Tensor, ascent: Ascent, core: Core) -> Tensor:
    """(B, K, H, W) -> ReLU of the climbed class over the core, (B, h, w) float32."""
    rows, columns = core
    return torch.relu(_precise(scores.detach()[:, ascent.class_index, rows, columns]))


def score_gradient(scores: Tensor, first: Tensor, ascent: Ascent, core: Core) -> Tensor:
    """Return dJ/dY (B, K, H, W) up to the factor 1 / (h w), which the normalised step removes.

    first: (B, h, w), ReLU(Y0) over the core. Zero outside the core and for images whose climbed
    class is nowhere positive.
    """
    rows, columns = core
    own = activation(scores, ascent, core)
    peak = own.amax(dim=(1, 2), keepdim=True)
    held = (own > ascent.mask_threshold * peak).float()
    gradient = torch.zeros_like(scores)
    inner = gradient[:, :, rows, columns]  # a view
    inner -= ascent.other_weight * (scores[:, :, rows, columns] > 0).float()
    inner[:, ascent.class_index] = (own > 0) * (
        1 - ascent.regulariser * held * torch.sign(own - first)
    )
    return gradient * (peak > 0).unsqueeze(1)


def ascend(
    image: Tensor,
    scores: Tensor,
    direction: Tensor,
    step: float,
    pixel_std: Tensor,
    *,
    again: bool = False,
) -> Tensor:
    """Take one step; the largest change per image is `step` in normalised units (AdvCAM, eq. 4).

    again: keep the graph of `scores` for another direction.
    """
    (gradient,) = torch.autograd.grad(scores, image, direction.to(scores.dtype), retain_graph=again)
    normalised = _precise(gradient) * pixel_std  # by the ImageNet-normalised image
    peak = normalised.abs().amax(dim=(1, 2, 3), keepdim=True)
    unit = torch.where(peak > 0, normalised / peak, 0.0)
    return (image.detach() + step * pixel_std * unit).clamp(0.0, 1.0)


def _precise(x: Tensor) -> Tensor:
    """Lift bfloat16 to float32; float64, in which long climbs can be compared, stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and frozen parameters inside; both as they were afterwards."""
    parameters = [(p, p.requires_grad) for p in network.parameters()]
    modes = [(m, m.training) for m in network.modules()]
    network.eval().requires_grad_(False)
    try:
        yield
    finally:
        for parameter, wanted in parameters:
            parameter.requires_grad_(wanted)
        for module, training in modes:
            module.training = training
