"""Changes of light and colour that training makes: bounded, and only what they say."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.learning import light


def test_new_light_keeps_range_and_structure() -> None:
    x = torch.rand(64, 3, 8, 8)
    lit = light.relight(x, np.random.default_rng(0))
    assert lit.min() >= 0
    assert lit.max() <= 1
    middle = 0.35 + 0.3 * x  # nothing is clipped
    lit = light.relight(middle, np.random.default_rng(0))
    scale = lit.std(dim=(1, 2, 3)) / middle.std(dim=(1, 2, 3))
    shift = (lit - middle).mean(dim=(1, 2, 3))
    assert 0.7 <= scale.min() < 0.8 < 1.2 < scale.max() <= 1.3
    assert -0.12 <= shift.min() < -0.08 < 0.08 < shift.max() <= 0.12


def test_colours_turn_about_grey_and_keep_their_lightness() -> None:
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)

    def recoloured(saturation: float, hue: float) -> Tensor:
        shape = (2, 1, 1, 1)
        return light.recolour(x, torch.full(shape, saturation), torch.full(shape, hue))

    assert torch.allclose(recoloured(1, 0), x)
    assert torch.allclose(recoloured(0, 0.3), x.mean(dim=1, keepdim=True).expand_as(x))
    third = 2 * float(np.pi) / 3  # of a turn: red to green, green to blue
    assert torch.allclose(recoloured(1, third), x.roll(1, dims=1), atol=1e-6)
    assert torch.allclose(recoloured(0.7, 0.2).mean(dim=1), x.mean(dim=1))


def test_colour_jitter_changes_colours_and_leaves_grey_alone() -> None:
    grey = torch.full((8, 3, 4, 4), 0.5)
    coloured = grey * torch.tensor([1.2, 1.0, 0.8]).view(1, 3, 1, 1)
    plain, jittered = (
        light.relight(coloured, np.random.default_rng(0), strength) for strength in (0.0, 1.0)
    )
    hue = [(lit - lit.mean(dim=1, keepdim=True))[:, :, 0, 0] for lit in (plain, jittered)]
    angles = torch.nn.functional.cosine_similarity(hue[0], hue[1])
    assert torch.allclose(
        light.relight(grey, np.random.default_rng(0), 1.0).std(dim=1).max(),
        torch.tensor(0.0),
        atol=1e-6,
    )
    assert (angles > np.cos(light.HUE_RADIANS) - 1e-3).all()
    assert angles.min() < 0.9995
