from __future__ import annotations

import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from models.networks.unet import TruncatedUNet, WeightsError, build_encoder, inference_copy
from tests.models.small_network import small_network, state

MEAN = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)


def by_hand(network: TruncatedUNet, x: Tensor) -> Tensor:
    """The score map of a ResNet18 network, written out from its state alone."""
    s = network.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        moments = s[f"{name}.running_mean"], s[f"{name}.running_var"]
        return functional.batch_norm(x, *moments, s[f"{name}.weight"], s[f"{name}.bias"])

    def basic(x: Tensor, name: str, stride: int) -> Tensor:
        y = functional.conv2d(x, s[f"{name}.conv1.weight"], stride=stride, padding=1)
        y = functional.conv2d(norm(y, f"{name}.bn1").relu(), s[f"{name}.conv2.weight"], padding=1)
        if stride == 2:
            x = functional.conv2d(x, s[f"{name}.downsample.0.weight"], stride=2)
            x = norm(x, f"{name}.downsample.1")
        return (norm(y, f"{name}.bn2") + x).relu()

    def up(x: Tensor, skip: Tensor, name: str) -> Tensor:
        x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = torch.cat((x, skip), dim=1)
        for conv, bn in ((0, 1), (3, 4)):
            x = functional.conv2d(x, s[f"{name}.convs.{conv}.weight"], padding=1)
            x = norm(x, f"{name}.convs.{bn}").relu()
        return x

    stem = functional.conv2d((x - MEAN) / STD, s["encoder.conv1.weight"], padding=3)
    stem = norm(stem, "encoder.bn1").relu()
    block1 = functional.max_pool2d(stem, 3, stride=2, padding=1)
    for i in range(2):
        block1 = basic(block1, f"encoder.layer1.{i}", 1)
    block2 = basic(basic(block1, "encoder.layer2.0", 2), "encoder.layer2.1", 1)
    fine = up(up(block2, block1, "decoder.0"), stem, "decoder.1")
    return functional.conv2d(fine, s["head.weight"])


def test_score_map_equals_the_network_written_out_by_hand() -> None:
    network, x = small_network(), torch.rand(2, 3, 32, 40)
    with torch.no_grad():
        expected, got = by_hand(network, x), network.score_map(x)
    assert expected.std() > 0.05
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_size_and_cost_are_those_of_the_truncated_resnet34() -> None:
    network = TruncatedUNet("resnet34", (64, 64))
    assert sum(p.numel() for p in network.encoder.parameters()) == 1_347_904
    assert sum(p.numel() for p in network.parameters()) == 1_606_529 - 1  # no bias
    assert not any("layer3" in name or "layer4" in name for name in network.state_dict())
    with FlopCounterMode(display=False) as counter:
        network.eval().to("meta").score_map(torch.empty(1, 3, 320, 320, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(57.7, abs=0.05)


@pytest.mark.parametrize("encoder, reach_px", [("resnet18", 38), ("resnet34", 58)])
def test_halo_is_the_reach_of_a_pixel_rounded_up(encoder: str, reach_px: int) -> None:
    network = small_network(encoder=encoder).double().eval().requires_grad_(False)
    centre, reach = 64, []
    x = torch.rand(1, 3, 132, 132, dtype=torch.float64, requires_grad=True)
    features = network.features(x)
    for phase in range(4):  # the pixel's place on the coarse grid
        pixel = features[0, :, centre + phase, centre + phase].sum()
        (gradient,) = torch.autograd.grad(pixel, x, retain_graph=True)
        rows = gradient.abs().amax(dim=(0, 1, 3)).nonzero()
        reach += [centre + phase - int(rows.min()), int(rows.max()) - centre - phase]
    assert max(reach) == reach_px  # 16 if untrained residual blocks were the identity
    assert network.halo_px == -(-reach_px // 4) * 4


def test_logit_is_the_mean_of_the_score_map() -> None:
    network, x = small_network(classes=3), torch.rand(2, 3, 37, 41)
    with torch.no_grad():
        torch.testing.assert_close(network(x), network.score_map(x).mean(dim=(2, 3)))
        assert network(x).shape == (2, 3)
        assert small_network()(x).shape == (2,)


def test_zero_of_the_map_is_the_decision_boundary() -> None:
    """With a bias it is not: the same decisions, but a map that is dark or all bright."""
    network, x = small_network(), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        scores, logit = network.score_map(x)[0, 0], network(x)[0]
    assert 0.1 < (scores > 0).float().mean() < 0.9
    for bias in (-10.0, 10.0):
        shifted = scores - bias  # what a constant feature and an opposite bias may learn
        torch.testing.assert_close(shifted.mean() + bias, logit)
        assert (shifted > 0).float().mean() in (0.0, 1.0)
    assert network.head.bias is None


@pytest.mark.parametrize("height, width", [(1, 1), (1, 9), (6, 3), (30, 33)])
def test_any_size_works_as_if_the_last_pixels_were_repeated(height: int, width: int) -> None:
    network, x = small_network(), torch.rand(1, 3, height, width)
    padded = functional.pad(x, (0, -width % 4, 0, -height % 4), mode="replicate")
    with torch.no_grad():
        got, whole = network.score_map(x), network.score_map(padded)
    assert got.shape == (1, 1, height, width)
    torch.testing.assert_close(got, whole[..., :height, :width])
    assert torch.isfinite(got).all()


def test_every_parameter_learns_from_the_first_step() -> None:
    torch.manual_seed(1)
    network = TruncatedUNet("resnet18", (8, 8))
    targets = torch.tensor([0.0, 1.0])
    functional.binary_cross_entropy_with_logits(
        network(torch.rand(2, 3, 32, 32)), targets
    ).backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_it_learns_to_tell_lines_from_noise_without_a_bias() -> None:
    torch.manual_seed(0)
    network = TruncatedUNet("resnet18", (8, 8))
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(25):
        x, y = _lines(16)
        optimiser.zero_grad()
        functional.binary_cross_entropy_with_logits(network(x), y).backward()
        optimiser.step()
    x, y = _lines(64)
    with torch.no_grad():
        right = ((network.eval()(x) > 0) == (y > 0)).float().mean()
    assert right > 0.9


def _lines(count: int) -> tuple[Tensor, Tensor]:
    x = 0.6 + 0.1 * torch.randn(count, 3, 24, 24)
    y = torch.arange(count) % 2
    for i in range(1, count, 2):
        x[i, :, :, int(torch.randint(4, 20, ()))] = 0.1
    return x.clamp(0, 1), y.float()


def test_inference_copy_folds_and_freezes_but_leaves_the_original() -> None:
    network, x = small_network().train(), torch.rand(1, 3, 40, 32)
    before = state(network)
    clone = inference_copy(network, device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(clone.score_map(x), by_hand(network, x), atol=1e-5, rtol=1e-3)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in clone.modules())
    assert not any(p.requires_grad for p in clone.parameters())
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_bf16_copy_is_close_and_keeps_the_input_in_float32() -> None:
    network, x = small_network(), torch.rand(1, 3, 64, 64)
    clone = inference_copy(network, device="cpu", bf16=True)
    with torch.no_grad():
        expected, got = network.score_map(x), clone.score_map(x)
    assert got.dtype == torch.bfloat16
    assert clone.pixel_std.dtype == torch.float32
    assert torch.corrcoef(torch.stack((expected.flatten(), got.float().flatten())))[0, 1] > 0.999


def _encoder_file(path: Path, name: str = "resnet18", **changes: Tensor | None) -> Path:
    tensors = timm.create_model(name, pretrained=False).state_dict() | changes
    save_file({key: value for key, value in tensors.items() if value is not None}, path)
    return path


def test_weights_file_is_loaded_and_later_stages_are_ignored(tmp_path: Path) -> None:
    stem = torch.rand(64, 3, 7, 7)
    path = _encoder_file(tmp_path / "w.safetensors", **{"conv1.weight": stem})
    encoder = build_encoder("resnet18", str(path))
    assert torch.equal(encoder.state_dict()["conv1.weight"], stem)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"layer2.0.conv1.weight": None}, "lacks layer2.0.conv1.weight"),
        ({"layer1.2.conv1.weight": torch.rand(1)}, "holds layer1.2.conv1.weight.*deeper"),
        ({"conv1.weight": torch.rand(64, 3, 3, 3)}, "conv1.weight have other shapes"),
        ({"bn1.bias": torch.full((64,), torch.nan)}, "bn1.bias are not finite"),
    ],
)
def test_wrong_weights_file_is_named_with_its_keys(
    tmp_path: Path, changes: dict[str, Tensor | None], words: str
) -> None:
    path = _encoder_file(tmp_path / "w.safetensors", **changes)
    with pytest.raises(WeightsError, match=words):
        TruncatedUNet("resnet18", (8, 8), str(path))


def test_weights_of_a_deeper_encoder_are_not_taken_in_part(tmp_path: Path) -> None:
    path = _encoder_file(tmp_path / "w.safetensors", "resnet34")
    with pytest.raises(WeightsError, match="deeper"):
        TruncatedUNet("resnet18", (8, 8), str(path))


def test_unreadable_weights_file_says_what_is_wanted(tmp_path: Path) -> None:
    garbage = tmp_path / "w.safetensors"
    garbage.write_bytes(b"not safetensors at all")
    for path in (garbage, tmp_path / "absent.safetensors"):
        with pytest.raises(WeightsError, match=f"{path.name}.*ENCODER_WEIGHTS"):
            TruncatedUNet("resnet18", (8, 8), str(path))


def test_failed_download_says_how_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, pretrained: bool, **kwargs: object) -> nn.Module:
        assert pretrained
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"resnet18.*no route to host.*ENCODER_WEIGHTS"):
        TruncatedUNet("resnet18", (8, 8), "hub")


def test_unknown_encoder_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'vgg16'; known: resnet18, resnet34"):
        TruncatedUNet("vgg16", (8, 8))


def test_real_imagenet_weights_respond_to_edges() -> None:
    path = Path(os.environ.get("LABELCLIMB_DATA", "../shared/data")) / "weights"
    if not path.is_dir():
        pytest.skip(f"no pretrained weights at {path}; set LABELCLIMB_DATA")
    network = TruncatedUNet("resnet18", (8, 8), str(path / "resnet18_to_layer3.safetensors"))
    x = torch.full((1, 3, 64, 64), 0.5)
    x[..., 32:] = 0.9
    with torch.no_grad():
        stem = network.eval().encoder((x - MEAN) / STD)[0].std(dim=1)[0]  # (64, 64)
    flat, edge = stem[16:48, 12:20], stem[16:48, 29:35]
    assert edge.max() > 2 * flat.max()
