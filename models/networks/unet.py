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
from typing import cast

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.networks.encoders import build_encoder, reach_px

DEPTHS = (2, 3)


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
        joining = cast(nn.Conv2d, self.convs[0])
        joined: Tensor = self.convs[1:](_conv_of_joined(joining, up, skip))
        return joined


class TruncatedUNet(nn.Module):
    """Image -> full-resolution features -> score map -> logit (Janouskova et al., Fig. 3).

    encoder: "resnet18", "resnet34", "resnet50" or another timm encoder that fits (see
        `encoders.build_encoder`), stem at stride 1, cut after as many stages as `decoder_widths`
        has values: two give strides 1, 2 and 4 (for ResNets to layer2), three also stride 8.
    decoder_widths: channels of the decoder blocks, coarse to fine; the last one is D.
    weights: of the encoder, see `encoders.build_encoder`; None = random.
    classes: K, outputs of the head; 1 for a binary network.

    Input: (B, 3, H, W) float32 RGB in [0, 1] of any size from 1 x 1; ImageNet normalisation and
    padding to a multiple of `alignment_px` happen inside. Outputs have the size of the input.
    Raises WeightsError, and ValueError for an encoder that does not fit or wrong widths.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        encoder: str = "resnet18",
        decoder_widths: tuple[int, ...] = (64, 64),
        weights: str | None = None,
        classes: int = 1,
    ) -> None:
        super().__init__()
        stages = len(decoder_widths)
        if stages not in DEPTHS or min(decoder_widths) < 1:
            raise ValueError(f"decoder_widths is {decoder_widths}; give two or three from 1 up")
        self.encoder = build_encoder(encoder, weights, stages)
        *skips, coarsest = self.encoder.feature_info.channels()  # fine to coarse
        inputs = (coarsest, *decoder_widths)
        self.decoder = nn.ModuleList(map(UpBlock, inputs, reversed(skips), decoder_widths))
        self.head = nn.Conv2d(decoder_widths[-1], classes, kernel_size=1, bias=False)
        self.decoder_widths = tuple(decoder_widths)
        self.alignment_px = 2**stages  # the coarsest stride; tiles start at multiples of it
        self._reach_px = reach_px(encoder, stages) + _decoder_reach_px(stages)
        self.register_buffer("pixel_mean", _per_channel(IMAGENET_DEFAULT_MEAN), persistent=False)
        self.register_buffer("pixel_std", _per_channel(IMAGENET_DEFAULT_STD), persistent=False)

    @property
    def halo_px(self) -> int:
        """Context in pixels that a tile needs on each side to equal the whole image.

        A multiple of `alignment_px`: 40 for resnet18 and 60 for resnet34 after two stages.
        """
        halo: int = -(-self._reach_px // self.alignment_px) * self.alignment_px
        return halo

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> (B, D, H, W), non-negative, in the network's dtype."""
        height_px, width_px = x.shape[-2:]
        *skips, coarse = self.encoder(self._normalise(x))  # strides 1, 2, 4 and perhaps 8
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            coarse = block(coarse, skip)  # (B, width, 2H', 2W')
        fine: Tensor = coarse[..., :height_px, :width_px]
        return fine

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
        return _pad_to_multiple(normalised, self.alignment_px)


def inference_copy(network: TruncatedUNet, *, device: str, bf16: bool = False) -> TruncatedUNet:
    """Copy a network for inference: evaluation mode, frozen, batch norm folded, channels last.

    bf16: bfloat16 weights and features (about 4x faster on CPUs with avx512_bf16); the input, its
        normalisation and everything outside the network stay float32.
    """
    clone = copy.deepcopy(network).eval().requires_grad_(False)
    for module in clone.modules():
        fold_batch_norms(module)
    for part in (clone.encoder, clone.decoder, clone.head) if bf16 else ():
        part.to(torch.bfloat16)
    return clone.to(device).to(memory_format=torch.channels_last)


def _conv_bn_relu(in_channels: int, width: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False)
    return conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)


def _conv_of_joined(conv: nn.Conv2d, up: Tensor, skip: Tensor) -> Tensor:
    """Convolve both parts by their own weights: as of their concatenation, but without the copy.

    The copy would be the largest tensor of the network: over tiles of 1144 px it costs 7 % of a
    forward pass and 25 % of one with the gradient.
    """
    of_up, of_skip = torch.split(conv.weight, [up.shape[1], skip.shape[1]], dim=1)
    joined = functional.conv2d(up, of_up, conv.bias, padding=1)
    return joined.add_(functional.conv2d(skip, of_skip, padding=1))


def _per_channel(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


def _pad_to_multiple(x: Tensor, side_px: int) -> Tensor:
    """Repeat the last row and column: works from 1 px and is the same for a tile and the whole."""
    bottom, right = (-side % side_px for side in x.shape[-2:])
    return functional.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def fold_batch_norms(module: nn.Module) -> None:
    """Replace each convolution and the batch norm after it, children of the module, by one."""
    children = list(module.named_children())
    for (conv_name, conv), (norm_name, norm) in pairwise(children):
        if isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d:  # timm's own also activate
            setattr(module, conv_name, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
            setattr(module, norm_name, nn.Identity())


def _decoder_reach_px(stages: int) -> int:
    """Each block looks one coarse pixel aside to interpolate, then two fine ones to convolve."""
    return sum(2**i + 2 * 2 ** (i - 1) for i in range(1, stages + 1))
