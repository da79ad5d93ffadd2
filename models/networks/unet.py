"""U-Net-shaped classifier: truncated ResNet encoder, bilinear decoder, pooling and a linear head.

After Janouskova et al. (weakly supervised defect segmentation), one binary network per class.

Zero level: the head has no bias, so the score map Y = sum_k w_k F_k crosses zero exactly where
the decision does: the logit of any window is the mean of Y over it, and ReLU(Y) is the class
activation map. With a bias b the boundary would lie at mean(Y) = -b and ReLU(Y) would light up
clean windows or leave defective ones dark.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

ENCODERS = ("resnet18", "resnet34")
ALIGNMENT_PX = 4  # the coarsest stage; tiles start at multiples of it
_STAGE_CHANNELS = (64, 64, 128)  # of both encoders
_KEPT = ("conv1.", "bn1.", "layer1.", "layer2.")


class WeightsError(RuntimeError):
    """Encoder weights could not be had or do not fit the encoder."""


class UpBlock(nn.Module):
    """Double the resolution, join the skip connection, convolve twice."""

    def __init__(self, in_channels: int, skip_channels: int, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *_conv_bn_relu(in_channels + skip_channels, width), *_conv_bn_relu(width, width)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, H, W) and (B, S, 2H, 2W) -> (B, width, 2H, 2W)."""
        up = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        joined: Tensor = self.convs(torch.cat((up, skip), dim=1))
        return joined


class TruncatedUNet(nn.Module):
    """Image -> full-resolution features -> score map -> logit (Janouskova et al., Fig. 3).

    encoder: "resnet18" or "resnet34", cut after two stages (layer3 and later do not exist), stem
        at stride 1, max-pooling kept: strides 1, 2 and 4.
    decoder_widths: channels of the two decoder blocks, coarse to fine; the last one is D.
    weights: None = random, without timm's zero start of the last batch norm of each residual
        block (which would make untrained blocks the identity and shrink the receptive field);
        "hub" = ImageNet weights that timm downloads; otherwise a safetensors file in timm's names
        whose later stages are ignored.
    classes: K, outputs of the head; 1 for a binary network.

    Input: (B, 3, H, W) float32 RGB in [0, 1] of any size from 1 x 1; ImageNet normalisation and
    padding to a multiple of 4 happen inside. Outputs have the size of the input.
    Raises WeightsError, and ValueError for an unknown encoder.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        encoder: str = "resnet18",
        decoder_widths: tuple[int, int] = (64, 64),
        weights: str | None = None,
        classes: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder, weights)
        stem, block1, block2 = _STAGE_CHANNELS
        coarse, fine = decoder_widths
        self.decoder = nn.ModuleList((UpBlock(block2, block1, coarse), UpBlock(coarse, stem, fine)))
        self.head = nn.Conv2d(fine, classes, kernel_size=1, bias=False)
        self.register_buffer("pixel_mean", _per_channel(IMAGENET_DEFAULT_MEAN), persistent=False)
        self.register_buffer("pixel_std", _per_channel(IMAGENET_DEFAULT_STD), persistent=False)

    @property
    def halo_px(self) -> int:
        """Context in pixels that a tile needs on each side to equal the whole image: 40 or 60."""
        reach = _encoder_reach_px(self.encoder) + _decoder_reach_px()
        return -(-reach // ALIGNMENT_PX) * ALIGNMENT_PX

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> (B, D, H, W), non-negative, in the network's dtype."""
        height_px, width_px = x.shape[-2:]
        stem, block1, block2 = self.encoder(self._normalise(x))  # strides 1, 2, 4
        coarse = self.decoder[0](block2, block1)  # (B, widths[0], H/2, W/2)
        fine: Tensor = self.decoder[1](coarse, stem)  # (B, D, H, W)
        return fine[..., :height_px, :width_px]

    def score_map(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> (B, K, H, W); the mean over a window is its logit."""
        scores: Tensor = self.head(self.features(x))
        return scores

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> logits (B,), or (B, K) when K > 1."""
        pooled = self.features(x).mean(dim=(2, 3), keepdim=True)  # (B, D, 1, 1)
        logits: Tensor = self.head(pooled)  # (B, K, 1, 1)
        return logits.flatten(1).squeeze(1)

    def _normalise(self, x: Tensor) -> Tensor:
        normalised = ((x - self.pixel_mean) / self.pixel_std).to(self.head.weight.dtype)
        return _pad_to_alignment(normalised)


def build_encoder(name: str, weights: str | None) -> nn.Module:
    """Build the truncated encoder: (B, 3, H, W) -> stages at strides 1, 2, 4.

    Raises ValueError for an unknown name and WeightsError when the weights cannot be had.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; known: {', '.join(ENCODERS)}")
    encoder = _hub_encoder(name) if weights == "hub" else _bare_encoder(name)
    if weights not in (None, "hub"):
        load_encoder_weights(encoder, Path(str(weights)))
    encoder.get_submodule("conv1").stride = (1, 1)  # type: ignore[assignment]
    return encoder


def load_encoder_weights(encoder: nn.Module, path: Path) -> None:
    """Load a safetensors file in timm's names; keys of later stages are ignored.

    Raises WeightsError when the file cannot be read, lacks keys, holds keys of the kept stages
    that this encoder does not have (a deeper network), or values that do not fit or are not finite.
    """
    stored = _read_weights(path)
    kept = {key: value for key, value in stored.items() if key.startswith(_KEPT)}
    own = encoder.state_dict()
    _check_keys(path, own, kept)
    misfits = [key for key in kept if kept[key].shape != own[key].shape]
    if misfits:
        raise WeightsError(f"{path}: {_some(misfits)} have other shapes; is it another encoder's?")
    broken = [key for key, value in kept.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise WeightsError(f"{path}: {_some(broken)} are not finite; fetch the file again")
    encoder.load_state_dict(kept, strict=False)


def inference_copy(network: TruncatedUNet, *, device: str, bf16: bool = False) -> TruncatedUNet:
    """Copy a network for inference: evaluation mode, frozen, batch norm folded, channels last.

    bf16: bfloat16 weights and features (about 4x faster on CPUs with avx512_bf16); the input, its
        normalisation and everything outside the network stay float32.
    """
    clone = copy.deepcopy(network).eval().requires_grad_(False)
    for module in clone.modules():
        _fold_batch_norms(module)
    for part in (clone.encoder, clone.decoder, clone.head) if bf16 else ():
        part.to(torch.bfloat16)
    return clone.to(device).to(memory_format=torch.channels_last)


def _conv_bn_relu(in_channels: int, width: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False)
    return conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)


def _per_channel(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


def _pad_to_alignment(x: Tensor) -> Tensor:
    """Repeat the last row and column: works from 1 px and is the same for a tile and the whole."""
    bottom, right = (-side % ALIGNMENT_PX for side in x.shape[-2:])
    return functional.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def _bare_encoder(name: str, *, pretrained: bool = False) -> nn.Module:
    encoder: nn.Module = timm.create_model(
        name,
        pretrained=pretrained,
        features_only=True,
        out_indices=(0, 1, 2),
        zero_init_last=False,
    )
    return encoder


def _hub_encoder(name: str) -> nn.Module:
    try:
        return _bare_encoder(name, pretrained=True)
    except OSError as error:  # every failure of huggingface_hub and urllib is one
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


def _fold_batch_norms(module: nn.Module) -> None:
    children = list(module.named_children())
    for (conv_name, conv), (norm_name, norm) in pairwise(children):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, conv_name, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
            setattr(module, norm_name, nn.Identity())


def _encoder_reach_px(encoder: nn.Module) -> int:
    """How far the longest path through the encoder looks, in pixels of the input."""
    reach, stride = 0, 1
    for name, layer in encoder.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)) and "downsample" not in name:
            reach += _first(layer.kernel_size) // 2 * stride
            stride *= _first(layer.stride)
    return reach


def _decoder_reach_px() -> int:
    """Each block looks one coarse pixel aside to interpolate, then two fine ones to convolve."""
    return sum(coarse_stride + 2 * (coarse_stride // 2) for coarse_stride in (4, 2))


def _first(value: int | tuple[int, ...] | None) -> int:
    return value if isinstance(value, int) else (value or (1,))[0]
