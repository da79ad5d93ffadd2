"""A file of encoder weights that stands for pretrained ones."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from models.networks.encoders import build_encoder


@pytest.fixture(scope="session")
def encoder_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A resnet18 to layer3 in timm's names: random, batch-norm statistics as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = build_encoder("resnet18", None, 3)
        with torch.no_grad():
            for _ in range(20):
                encoder(torch.rand(2, 3, 32, 32))
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(encoder.state_dict(), path)
    return str(path)
