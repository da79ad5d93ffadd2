"""One process of a training by several: `python -m` with the arguments of `main`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from models.learning import dense, parallel, training
from models.learning.dense_crops import DenseSample
from models.networks.unet import TruncatedUNet
from tests.models.learning.test_training import PROFILE, SOURCE, UNSEEN, PatchClassifier

STEPS = 12
BATCH = 8
WHOLE = replace(  # everything random and everything learnt from losses is on
    PROFILE,
    batch=BATCH,
    learning_rate=0.01,
    point_loss=1.0,
    hard_mining=1.0,
    scale_jitter=1.25,
    colour_jitter=0.5,
)


def sample(seed: int) -> DenseSample:
    rng = np.random.default_rng(seed)
    image = rng.integers(120, 200, (48, 48, 3), dtype=np.uint8)
    target = np.zeros((48, 48), np.float32)
    target[10 + seed : 30, 20:24] = 1
    image[target > 0] = 30
    weight = np.where(rng.random((48, 48)) < 0.8, 1, 0).astype(np.float32)
    return DenseSample(image, target, weight)


def patches() -> nn.Module:
    """Without a bias before the batch norm: it changes nothing, and Adam enlarges its rounding."""
    network = PatchClassifier()
    network.body[0] = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    training.train(
        network, [SOURCE], [UNSEEN], profile=WHOLE, steps=STEPS, seed=3, device="cpu",
        report=lambda _: None,
    )  # fmt: skip
    return network


def pixels() -> nn.Module:
    torch.manual_seed(0)
    network = TruncatedUNet("resnet18", (8, 8))
    loaders = [lambda seed=seed: sample(seed) for seed in range(3)]  # type: ignore[misc]
    dense.train(
        network, loaders, [], profile=replace(WHOLE, crop_px=16, learning_rate=1e-4), steps=3,
        seed=3, device="cpu", report=lambda _: None,
    )  # fmt: skip
    return network


KINDS = {"patches": patches, "pixels": pixels}


def main(rank: str, world: str, folder: str) -> None:
    """Train as one of `world` processes and write what this one ends with."""
    torch.set_num_threads(1)
    for kind, train in KINDS.items():
        with parallel.joined(int(rank), int(world), f"file://{folder}/{kind}", "cpu"):
            network = train()
        weights = {name: value.contiguous() for name, value in network.state_dict().items()}
        save_file(weights, Path(folder) / f"{kind}-{rank}.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
