"""Encoders: timm networks cut after a few stages, with the stem at stride 1."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import FeatureListNet
from torch import Tensor, nn

FITTING = (
    "fitting are resnet18, resnet34, resnet50 and other timm encoders that halve the resolution "
    "at each stage and never pool over the whole image, such as resnet26d or resnext50_32x4d"
)
_PROBE_WIDTHS_PX = (256, 1024)  # enough for resnet34 to layer2; for resnet152 to layer3


class WeightsError(RuntimeError):
    """Encoder weights could not be had or do not fit the encoder."""


def build_encoder(name: str, weights: str | None, stages: int = 2) -> FeatureListNet:
    """Build a truncated encoder: (B, 3, H, W) -> maps at strides 1, 2, 4, ..., 2**stages.

    weights: None = random, without timm's zero start of the last batch norm of each residual
        block (which would make untrained blocks the identity and shrink the receptive field);
        "hub" = ImageNet weights that timm downloads; otherwise a safetensors file in timm's names
        whose later stages are ignored.
    H and W must be multiples of 2**stages; `feature_info.channels()` names the widths of the maps.
    Raises ValueError for a name that is unknown or does not fit, and WeightsError when the weights
    cannot be had.
    """
    if not timm.is_model(name):
        raise ValueError(f"unknown encoder {name!r}; {FITTING}")
    reach_px(name, stages)  # refuses what does not fit, before anything is downloaded
    if weights == "hub":
        return _hub_encoder(name, stages)
    encoder = _cut_encoder(name, stages)
    if weights is not None:
        load_encoder_weights(encoder, Path(weights))
    return encoder


def load_encoder_weights(encoder: nn.Module, path: Path) -> None:
    """Load a safetensors file in timm's names; keys of later stages are ignored.

    Raises WeightsError when the file cannot be read, lacks keys, holds keys of the kept stages
    that this encoder does not have (a deeper network), or values that do not fit or are not finite.
    """
    own = encoder.state_dict()
    kept = _named_as(encoder, _read_weights(path))
    _check_keys(path, own, kept)
    misfits = [key for key in kept if kept[key].shape != own[key].shape]
    if misfits:
        raise WeightsError(f"{path}: {_some(misfits)} have other shapes; is it another encoder's?")
    broken = [key for key, value in kept.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise WeightsError(f"{path}: {_some(broken)} are not finite; fetch the file again")
    encoder.load_state_dict(kept, strict=False)


@cache
def reach_px(name: str, stages: int) -> int:
    """How far the coarsest map looks from the pixel it is anchored at, to either side.

    Found by what a NaN spreads to, which no weight can hide. Raises ValueError for an encoder
    that sees the whole image or whose maps are not at strides 1, 2, 4, ...
    """
    with torch.random.fork_rng(devices=[]):  # networks built before and after stay the same
        encoder = _fitting_encoder(name, stages).eval()
    for width_px in _PROBE_WIDTHS_PX:
        phases = range(width_px // 2, width_px // 2 + 2**stages)  # places on the coarsest grid
        reach = max(_spread_px(encoder, stages, width_px, column) for column in phases)
        if reach < width_px // 2 - 2**stages:
            return reach
    raise ValueError(f"encoder {name!r} looks at the whole image, which tiles cannot; {FITTING}")


def _spread_px(encoder: nn.Module, stages: int, width_px: int, column: int) -> int:
    """Distance from a column to the farthest anchor of the coarsest map that sees it."""
    stride = 2**stages
    strip = torch.zeros(1, 3, stride, width_px)
    strip[..., column] = torch.nan
    with torch.no_grad():
        *_, coarsest = encoder(strip)  # (1, C, 1, W / stride)
    anchors = coarsest[0, :, 0].isnan().any(dim=0).nonzero() * stride
    return int((anchors - column).abs().max())


def _fitting_encoder(name: str, stages: int) -> FeatureListNet:
    side_px = 2 ** (stages + 2)
    try:
        encoder = _cut_encoder(name, stages)
        with torch.no_grad():
            maps = encoder(torch.zeros(2, 3, side_px, side_px))
    except (RuntimeError, TypeError, AssertionError, IndexError) as error:
        raise ValueError(f"encoder {name!r} cannot be cut ({error}); {FITTING}") from error
    sides = [level.shape[-1] for level in maps]
    wanted = [side_px >> i for i in range(stages + 1)]
    if sides != wanted:
        raise ValueError(f"encoder {name!r} maps {side_px} px to {sides}, not {wanted}; {FITTING}")
    if not isinstance(encoder, FeatureListNet):
        raise ValueError(f"encoder {name!r} keeps stages that it does not need; {FITTING}")
    return encoder


def _cut_encoder(name: str, stages: int, *, pretrained: bool = False) -> FeatureListNet:
    indices = tuple(range(stages + 1))
    encoder = timm.create_model(
        name, pretrained=pretrained, features_only=True, out_indices=indices
    )
    if encoder.feature_info.reduction()[0] == 2:
        convs = (module for module in encoder.modules() if isinstance(module, nn.Conv2d))
        next(conv for conv in convs if conv.stride != (1, 1)).stride = (1, 1)  # the stem's
    for norm in encoder.modules():
        if isinstance(norm, nn.BatchNorm2d) and not norm.weight.any():
            nn.init.ones_(norm.weight)
    return encoder


def _hub_encoder(name: str, stages: int) -> FeatureListNet:
    try:
        return _cut_encoder(name, stages, pretrained=True)
    except (OSError, RuntimeError) as error:  # no network, or no weights for this encoder
        raise WeightsError(
            f"could not download the ImageNet weights of {name} ({error}); set ENCODER_WEIGHTS to "
            "a safetensors file in timm's names, or leave it empty to train from random weights"
        ) from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        stored: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"cannot read encoder weights {path} ({error}); ENCODER_WEIGHTS must name a "
            "safetensors file in timm's names"
        ) from error
    return stored


def _named_as(encoder: nn.Module, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep the stages that the encoder has, in its names: timm joins some by _ when it cuts."""
    own = {key.replace(".", "_"): key for key in encoder.state_dict()}
    stages = tuple(f"{name}_" for name, _ in encoder.named_children())
    flat = {key.replace(".", "_"): key for key in stored}
    return {own.get(k, key): stored[key] for k, key in flat.items() if k.startswith(stages)}


def _check_keys(path: Path, own: dict[str, Tensor], kept: dict[str, Tensor]) -> None:
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - kept.keys() - counters)
    unknown = sorted(kept.keys() - own.keys())
    if missing:
        raise WeightsError(f"{path} lacks {_some(missing)}; is it another encoder's?")
    if unknown:
        raise WeightsError(
            f"{path} holds {_some(unknown)}, unknown here; is it a deeper encoder's?"
        )


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more keys"
