"""Hypercolumns: what a frozen encoder and the colours say of each pixel, and a small head on them.

After Hariharan et al. 2015: the maps of several stages, brought to one resolution, describe a
pixel at several scales at once. The encoder is pretrained and never trained here; a head of a few
thousand weights learns a class from pixels that people clicked on, in seconds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional

from models.base import Image
from models.networks.encoders import build_encoder, reach_px
from models.networks.unet import fold_batch_norms

STAGES = 3  # to layer3 of a ResNet
HALVINGS = 2  # of the image: seen at full, half and a quarter of its resolution
DEEPEST_PX: int = 2**STAGES  # stride of the last stage at the full resolution
ALIGNMENT_PX: int = DEEPEST_PX * 2**HALVINGS  # the coarsest stride
COLOURS = 14  # channels of `colours`
BLURS_PX = (2.0, 6.0)  # standard deviations of the surroundings whose colour is told
CONTRASTS_PX = (3.0, 9.0)
MEDIAN_PX = 31  # of the background that thin lines are darker than
_COLOUR_REACH_PX = 36  # of the widest blur

Points = npt.NDArray[np.int64]  # (P, 2) row, column


@dataclass(frozen=True)
class Levels:
    """The maps (C, h, w) of one image, finest first; all cover its padded area, from stride 2 on.

    height_px, width_px: of the image before padding.
    """

    maps: tuple[Tensor, ...]
    height_px: int
    width_px: int

    @property
    def deepest(self) -> Tensor:
        """(D, h, w): the last stage at the full resolution, one cell per DEEPEST_PX."""
        return self.maps[STAGES]


class Hypercolumn(nn.Module):
    """The frozen part: image -> maps of the encoder at several resolutions, and colours.

    encoder, weights: see `encoders.build_encoder`. Nothing of it is ever trained.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, encoder: str = "resnet18", weights: str | None = None) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder, weights, STAGES)
        _, *widths = self.encoder.feature_info.channels()
        self.channels = (COLOURS, *widths * (HALVINGS + 1))  # of the maps
        coarsest_px = 2**HALVINGS * reach_px(encoder, STAGES)
        anchor_px = 3 * ALIGNMENT_PX // 2  # a pixel reads the two coarse cells around it
        self.halo_px: int = _aligned(max(coarsest_px + anchor_px, _COLOUR_REACH_PX))
        self.register_buffer("pixel_mean", _per_channel(IMAGENET_DEFAULT_MEAN), persistent=False)
        self.register_buffer("pixel_std", _per_channel(IMAGENET_DEFAULT_STD), persistent=False)
        self.eval().requires_grad_(False)

    def resident(self, *, device: str, bf16: bool) -> Hypercolumn:
        """Return a copy to compute with: batch norms folded, channels last, bfloat16 if wanted."""
        clone = copy.deepcopy(self)
        for module in clone.modules():
            fold_batch_norms(module)
        if bf16:
            clone.encoder.to(torch.bfloat16)
        return clone.to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def levels(self, image: Image) -> Levels:
        """(H, W, 3) uint8 RGB of any size from 1 x 1 -> its maps, in the encoder's dtype."""
        height_px, width_px, _ = image.shape
        padding = ((0, -height_px % ALIGNMENT_PX), (0, -width_px % ALIGNMENT_PX), (0, 0))
        padded = np.pad(image, padding, mode="edge")
        device, dtype = self.pixel_mean.device, next(self.encoder.parameters()).dtype
        x = torch.from_numpy(padded).to(device).permute(2, 0, 1)[None].float() / 255
        x = ((x - self.pixel_mean) / self.pixel_std).contiguous(memory_format=torch.channels_last)
        maps = [torch.from_numpy(colours(padded)).to(device)]
        for halving in range(HALVINGS + 1):
            scaled = functional.avg_pool2d(x, 2**halving)
            maps += [level[0] for level in self.encoder(scaled.to(dtype))[1:]]
        return Levels(tuple(maps), height_px, width_px)


def at(levels: Levels, points: Points) -> npt.NDArray[np.float32]:
    """Return the hypercolumns (P, D) of pixels, interpolated as a dense pass would."""
    height_px, width_px = (side * 2 for side in levels.maps[0].shape[1:])
    rows, columns = (torch.from_numpy(points.astype(np.float32) + 0.5)).T
    grid = torch.stack((2 * columns / width_px - 1, 2 * rows / height_px - 1), dim=1)
    found = [
        functional.grid_sample(
            level[None].float(),
            grid[None, None].to(level.device),
            align_corners=False,
            padding_mode="border",
        )[0, :, 0]
        for level in levels.maps
    ]
    values: npt.NDArray[np.float32] = torch.cat(found).T.cpu().numpy()
    return values


def colours(image: Image) -> npt.NDArray[np.float32]:
    """(H, W, 3) uint8 RGB, even sides -> (14, H / 2, W / 2): what colour and contrast tell.

    CIELAB of the pixel and of its surroundings at two scales, spread and contrast of lightness at
    two scales, and lightness against the median of the surroundings, in units of the full range.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32) / 255
    light = np.ascontiguousarray(lab[..., 0])
    planes = [lab, *(cv2.GaussianBlur(lab, (0, 0), sigma) for sigma in BLURS_PX)]
    for sigma in CONTRASTS_PX:
        mean = cv2.GaussianBlur(light, (0, 0), sigma)
        variance = cv2.GaussianBlur(light * light, (0, 0), sigma) - mean * mean
        planes.append(np.dstack((np.sqrt(np.maximum(variance, 0)), light - mean)))
    median = cv2.medianBlur((light * 255).astype(np.uint8), MEDIAN_PX)
    planes.append((light - median.astype(np.float32) / 255)[..., None])
    joined = np.concatenate(planes, axis=2)
    half = joined.shape[1] // 2, joined.shape[0] // 2
    planar = cv2.resize(joined, half, interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    return np.ascontiguousarray(planar)


class PixelHead(nn.Module):
    """Several little networks on the same hypercolumns; their mean is steadier than any of them.

    dims: D; members: M networks D -> hidden -> hidden -> 1. Inputs are standardised by the mean and
    spread of the training pixels (`set_range`).
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, dims: int, members: int = 3, hidden: int = 32, dropout: float = 0.2) -> None:
        super().__init__()
        self.members, self.hidden, self.dropout = members, hidden, dropout
        self.first = nn.Linear(dims, members * hidden)
        bound = hidden**-0.5
        self.second = nn.Parameter(torch.empty(members, hidden, hidden).uniform_(-bound, bound))
        self.second_bias = nn.Parameter(torch.zeros(members, 1, hidden))
        self.last = nn.Parameter(torch.empty(members, hidden, 1).uniform_(-bound, bound))
        self.last_bias = nn.Parameter(torch.zeros(members, 1, 1))
        self.register_buffer("mean", torch.zeros(dims))
        self.register_buffer("spread", torch.ones(dims))

    def set_range(self, pixels: Tensor) -> None:
        """Take mean and spread from training pixels (P, D)."""
        self.mean.copy_(pixels.mean(dim=0))
        self.spread.copy_(pixels.std(dim=0, correction=0) + 1e-3)

    def forward(self, pixels: Tensor) -> Tensor:
        """(P, D) hypercolumns -> (M, P) logits."""
        return self._rest(self.first((pixels - self.mean) / self.spread))

    @torch.inference_mode()
    def probability(self, levels: Levels) -> npt.NDArray[np.float32]:
        """Return the mean probability of the members for each pixel of the image, (H, W) float32.

        What `votes` gives at half of the image's resolution is enlarged.
        """
        return enlarged(self.votes(levels).mean(dim=0), levels)

    @torch.inference_mode()
    def votes(self, levels: Levels) -> Tensor:
        """Return each member's probability at half of the image's resolution, (M, h, w).

        The first layer is linear, so that it is applied to each map at its own resolution and only
        its few outputs are enlarged; what follows runs at half of the image's resolution.
        """
        hidden = self._enlarged(levels)  # (M * hidden, h, w)
        logits = self._rest(hidden.flatten(1).T)  # (M, h * w)
        return torch.sigmoid(logits).view(self.members, *hidden.shape[1:])

    def _enlarged(self, levels: Levels) -> Tensor:
        weight = self.first.weight / self.spread
        offset = self.first.bias - weight @ self.mean
        size = levels.maps[0].shape[1:]
        parts = torch.split(weight, [level.shape[0] for level in levels.maps], dim=1)
        by_size: dict[torch.Size, Tensor] = {}
        for part, level in zip(parts, levels.maps, strict=True):
            small = torch.einsum("oc,chw->ohw", part, level.float())
            same = by_size.get(small.shape)
            by_size[small.shape] = small if same is None else same.add_(small)
        total = offset.view(-1, 1, 1).expand(-1, *size).clone()
        for small in by_size.values():
            total += functional.interpolate(
                small[None], size, mode="bilinear", align_corners=False
            )[0]
        return total

    def _rest(self, first: Tensor) -> Tensor:
        """(P, M * hidden) -> (M, P)."""
        x = functional.relu(first).view(len(first), self.members, self.hidden).transpose(0, 1)
        x = functional.dropout(x, self.dropout, self.training)  # (M, P, hidden)
        x = functional.relu(torch.baddbmm(self.second_bias, x, self.second))
        x = functional.dropout(x, self.dropout, self.training)
        return torch.baddbmm(self.last_bias, x, self.last)[..., 0]


def enlarged(probability: Tensor, levels: Levels) -> npt.NDArray[np.float32]:
    """(h, w) at half of the image's resolution -> (H, W) float32, without the image's padding."""
    fine = functional.interpolate(
        probability[None, None], scale_factor=2.0, mode="bilinear", align_corners=False
    )
    values: npt.NDArray[np.float32] = fine[0, 0].cpu().numpy()
    return np.ascontiguousarray(values[: levels.height_px, : levels.width_px])


def _aligned(length_px: float) -> int:
    return math.ceil(length_px / ALIGNMENT_PX) * ALIGNMENT_PX


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)
