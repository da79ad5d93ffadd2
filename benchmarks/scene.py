"""A made-up cracked surface of any size, and a network that is right about where it is cracked.

Speed depends on where the network sees a defect, since only those tiles are climbed. So the scene
has cracks in chosen rectangles, and the head of a network, whatever its encoder and decoder, is
fitted by least squares on pooled features of small scenes: -2 for windows without a crack, +1 for
windows with one. Nothing else is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from models.base import HeatMap, Image, Mask
from models.networks.unet import TruncatedUNet

Rectangle = tuple[slice, slice]  # rows, columns

NETWORKS = {  # encoder, decoder widths
    "cpu": ("resnet18", (32, 32)),  # of the cpu profile
    "paper": ("resnet34", (64, 64)),  # Janouskova et al.; widths are not printed there
    "tiny": ("resnet18", (8, 8)),  # for tests
}
PRACTICE_PX, PRACTICE_SCENES = 384, 4  # side and number of what the head is fitted on
CLEAN_SCORE = -2.0  # farther from zero than +1: a large image has millions of clean windows
RIDGE = 1e-2  # of the mean squared feature


@dataclass(frozen=True)
class Scene:
    """A surface, (H, W, 3) uint8 RGB, and where it is cracked, (H, W) bool."""

    image: Image
    cracks: Mask


def paint(height_px: int, width_px: int, cracked: Sequence[Rectangle], *, seed: int) -> Scene:
    """Paint stained concrete and, inside each rectangle, three dark cracks 3 to 6 px wide."""
    rng = np.random.default_rng(seed)
    grain = rng.integers(-14, 15, (height_px, width_px), dtype=np.int16)
    coarse = rng.normal(150, 9, (height_px // 64 + 2, width_px // 64 + 2)).astype(np.float32)
    stains = cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    grey = np.clip(stains.astype(np.int16) + grain, 1, 254).astype(np.uint8)
    grey = cv2.GaussianBlur(grey, (3, 3), 0)
    cracks = np.zeros((height_px, width_px), np.uint8)
    for rows, columns in cracked:
        _crack(cracks[rows, columns], rng)
    grey[cracks > 0] //= 3
    return Scene(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), cracks > 0)


def heat_of(scene: Scene) -> HeatMap:
    """Return a heat map as a network might give it: warm up to 12 px from a crack."""
    near = cv2.dilate(scene.cracks.astype(np.float32), np.ones((15, 15), np.uint8))
    return np.asarray(cv2.GaussianBlur(near, (0, 0), 4), dtype=np.float32)


def build(name: str, *, window_px: int = 64, seed: int = 0) -> TruncatedUNet:
    """Build one of NETWORKS from random weights with a head that knows cracks."""
    encoder, widths = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TruncatedUNet(encoder, widths)
    return give_head(network, window_px=window_px, seed=seed)


def give_head(network: TruncatedUNet, *, window_px: int, seed: int) -> TruncatedUNet:
    """Fit the (1, D) head of a network so that windows with a crack score above zero.

    window_px: side of the windows; they lie half of it apart. The batch norms first take the
    statistics of the practice scenes, as after training. Returns the network, in evaluation mode.
    """
    middle = slice(PRACTICE_PX // 4, PRACTICE_PX * 3 // 4)
    scenes = [
        paint(PRACTICE_PX, PRACTICE_PX, [(middle, middle)], seed=seed + n)
        for n in range(PRACTICE_SCENES)
    ]
    images = torch.stack([torch.from_numpy(s.image).permute(2, 0, 1) for s in scenes]) / 255
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        network.train().features(images)
        for norm in norms:
            norm.momentum = 0.1
        pooled = functional.avg_pool2d(network.eval().features(images), window_px, window_px // 2)
    cracks = torch.from_numpy(np.stack([s.cracks for s in scenes])).float().unsqueeze(1)
    share = functional.avg_pool2d(cracks, window_px, window_px // 2).flatten()
    features = pooled.permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    weight = torch.from_numpy(_separate(features, share.numpy()))
    with torch.no_grad():
        network.head.weight.copy_(weight.view_as(network.head.weight))
    return network


def _separate(
    features: npt.NDArray[np.float64], share: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Ridge regression without a bias: (N, D) and the cracked share of each window -> (D,)."""
    clean, cracked = share == 0, share > np.median(share[share > 0])
    wanted = np.concatenate([np.full(clean.sum(), CLEAN_SCORE), np.ones(cracked.sum())])
    chosen = np.concatenate([features[clean], features[cracked]])
    balance = np.where(wanted > 0, clean.sum() / cracked.sum(), 1.0)[:, None]
    penalty = RIDGE * len(chosen) * np.mean(chosen**2) * np.eye(features.shape[1])
    left = chosen.T @ (balance * chosen) + penalty
    return np.asarray(np.linalg.solve(left, chosen.T @ (balance[:, 0] * wanted)))


def _crack(canvas: npt.NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Draw three random walks from the left side to the right one."""
    height_px, width_px = canvas.shape
    for _ in range(3):
        x = np.linspace(0, width_px - 1, 40)
        y = np.cumsum(rng.normal(0, height_px / 60, 40)) + rng.uniform(0.2, 0.8) * height_px
        line = np.stack([x, y], axis=1).round().astype(np.int32)
        cv2.polylines(canvas, [line], False, 1, int(rng.integers(3, 7)))
