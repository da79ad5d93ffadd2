"""Networks for tests: a small real one with scores around zero, and one that sees brightness."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.networks.encoders import build_encoder
from models.networks.unet import TruncatedUNet


def small_network(
    seed: int = 0, encoder: str = "resnet18", classes: int = 1, stages: int = 2
) -> TruncatedUNet:
    """Random weights, batch-norm statistics as after training, scores balanced around zero."""
    with torch.random.fork_rng(devices=[]):
        return copy.deepcopy(_small_network(seed, encoder, classes, stages))


@cache
def _small_network(seed: int, encoder: str, classes: int, stages: int) -> TruncatedUNet:
    torch.manual_seed(seed)
    network = TruncatedUNet(encoder, (8,) * stages, classes=classes)
    pictures = torch.rand(4, 3, 48, 48)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0  # take the statistics of these pictures at once
        network(pictures)
        for norm in norms:
            norm.momentum = 0.1
        network.eval()
        mean = network.features(pictures).mean(dim=(0, 2, 3))  # (D,)
        weight = network.head.weight.view(classes, -1)
        weight -= (weight @ mean / (mean @ mean)).unsqueeze(1) * mean
    return network


def write_encoder(path: Path) -> str:
    """Write what stands for pretrained weights: random, batch-norm statistics as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = build_encoder("resnet18", None, 3)
        with torch.no_grad():
            for _ in range(20):
                encoder(torch.rand(2, 3, 32, 32))
    save_file(encoder.state_dict(), path)
    return str(path)


class Brightness(TruncatedUNet):
    """Score = brightness - 0.5 of the pixel itself; positive = brighter than mid grey.

    A second class is its opposite: darkness.
    """

    def __init__(self, classes: int = 1) -> None:
        super().__init__("resnet18", (2, 2), classes=classes)
        with torch.no_grad():
            rows = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])[:classes]
            self.head.weight.copy_(rows.view(classes, 2, 1, 1))
        self.seen: list[tuple[int, int]] = []

    @property
    def halo_px(self) -> int:
        return 0

    def features(self, x: Tensor) -> Tensor:
        self.seen.append((x.shape[-2], x.shape[-1]))
        contrast = x.mean(dim=1, keepdim=True) - 0.5
        return torch.cat((contrast.relu(), (-contrast).relu()), dim=1)


def state(network: nn.Module) -> dict[str, Tensor]:
    """Copy of all parameters and buffers."""
    return {key: value.clone() for key, value in network.state_dict().items()}
