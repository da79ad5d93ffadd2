"""A file of encoder weights that stands for pretrained ones; pixel heads that need no time."""

from __future__ import annotations

import pytest
import torch

from models.pixels import pixel_training
from tests.models.small_network import write_encoder


@pytest.fixture(scope="session")
def encoder_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A resnet18 to layer3 in timm's names."""
    return write_encoder(tmp_path_factory.mktemp("weights") / "resnet18.safetensors")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training of pixel heads learns nothing: for tests of what surrounds it."""

    def train(head: torch.nn.Module, *_: object, **__: object) -> float:
        head.eval()
        return 0.5

    monkeypatch.setattr(pixel_training, "train", train)
