from __future__ import annotations

import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from models.networks.encoders import WeightsError, build_encoder, reach_px
from models.networks.unet import TruncatedUNet, inference_copy
from tests.models.small_network import small_network, state

MEAN = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


def by_hand(network: TruncatedUNet, x: Tensor) -> Tensor:
    """The score map of a ResNet18 network of two or three stages, from its state alone."""
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
    maps = [stem, block1]
    for layer in range(2, len(network.decoder) + 1):
        strided = basic(maps[-1], f"encoder.layer{layer}.0", 2)
        maps.append(basic(strided, f"encoder.layer{layer}.1", 1))
    fine = maps.pop()
    for i, skip in enumerate(reversed(maps)):
        fine = up(fine, skip, f"decoder.{i}")
    return functional.conv2d(fine, s["head.weight"])


@pytest.mark.parametrize("stages", [2, 3])
def test_score_map_equals_the_network_written_out_by_hand(stages: int) -> None:
    network, x = small_network(stages=stages), torch.rand(2, 3, 32, 40)
    with torch.no_grad():
        expected, got = by_hand(network, x), network.score_map(x)
    assert expected.std() > 0.05
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.training
@pytest.mark.parametrize(
    "widths, parameters, gigaflops",
    [((64, 64), 1_606_529, 57.7), ((64, 32), 1_541_857, 44.5), ((128, 64), 1_864_833, 76.6)],
)
def test_size_and_cost_are_those_of_the_truncated_resnet34(
    widths: tuple[int, int], parameters: int, gigaflops: float
) -> None:
    network = TruncatedUNet("resnet34", widths)
    assert sum(p.numel() for p in network.encoder.parameters()) == 1_347_904
    assert sum(p.numel() for p in network.parameters()) == parameters - 1  # the text has a bias
    assert not any("layer3" in name or "layer4" in name for name in network.state_dict())
    with FlopCounterMode(display=False) as counter:
        network.eval().to("meta").score_map(torch.empty(1, 3, 320, 320, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gigaflops, abs=0.05)


@pytest.mark.training
@pytest.mark.parametrize(
    "encoder, stages, reach_px",
    [("resnet18", 2, 38), ("resnet34", 2, 58), ("resnet50", 2, 36), ("resnet18", 3, 82)],
)
def test_halo_is_the_reach_of_a_pixel_rounded_up(encoder: str, stages: int, reach_px: int) -> None:
    network = small_network(encoder=encoder, stages=stages).double().requires_grad_(False)
    centre, coarsest, reach = 96, 2**stages, []
    x = torch.rand(1, 3, 8, 208, dtype=torch.float64, requires_grad=True)
    features = network.features(x)
    for phase in range(coarsest):  # the pixel's place on the coarse grid
        pixel = features[0, :, :, centre + phase].sum()
        (gradient,) = torch.autograd.grad(pixel, x, retain_graph=True)
        columns = gradient.abs().amax(dim=(0, 1, 2)).nonzero()
        reach += [centre + phase - int(columns.min()), int(columns.max()) - centre - phase]
    assert max(reach) == reach_px  # 16 if untrained residual blocks were the identity
    assert network.alignment_px == coarsest
    assert network.halo_px == -(-reach_px // coarsest) * coarsest


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


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("height, width", [(1, 1), (1, 9), (6, 3), (30, 33)])
def test_any_size_works_as_if_the_last_pixels_were_repeated(
    height: int, width: int, stages: int
) -> None:
    network, x = small_network(stages=stages), torch.rand(1, 3, height, width)
    side = 2**stages
    padded = functional.pad(x, (0, -width % side, 0, -height % side), mode="replicate")
    with torch.no_grad():
        got, whole = network.score_map(x), network.score_map(padded)
    assert got.shape == (1, 1, height, width)
    torch.testing.assert_close(got, whole[..., :height, :width])
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("stages", [2, 3])
def test_every_parameter_learns_from_the_first_step(stages: int) -> None:
    torch.manual_seed(1)
    network = TruncatedUNet("resnet18", (8,) * stages)
    targets = torch.tensor([0.0, 1.0])
    functional.binary_cross_entropy_with_logits(
        network(torch.rand(2, 3, 32, 32)), targets
    ).backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


@pytest.mark.training
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


@pytest.mark.training
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("stages", [2, 3])
def test_saved_and_loaded_network_computes_the_same_bits(
    tmp_path: Path, stages: int, bf16: bool
) -> None:
    network, x = small_network(stages=stages, classes=2), torch.rand(1, 3, 24, 40)
    save_file(network.state_dict(), tmp_path / "version.safetensors")
    torch.manual_seed(7)
    other = TruncatedUNet("resnet18", (8,) * stages, classes=2)
    other.load_state_dict(load_file(tmp_path / "version.safetensors"))
    first, second = (inference_copy(n, device="cpu", bf16=bf16) for n in (network, other))
    with torch.no_grad():
        assert torch.equal(first.score_map(x), second.score_map(x))
        assert torch.equal(network.eval()(x), other.eval()(x))


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


def test_weights_are_found_where_timm_renames_what_it_cuts(tmp_path: Path) -> None:
    stem = torch.rand(64, 3, 7, 7)
    path = _encoder_file(
        tmp_path / "w.safetensors", "densenet121", **{"features.conv0.weight": stem}
    )
    encoder = build_encoder("densenet121", str(path))
    assert torch.equal(encoder.state_dict()["features_conv0.weight"], stem)


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
    create_model = timm.create_model

    def offline(*args: object, pretrained: bool, **kwargs: object) -> nn.Module:
        if pretrained:
            raise ConnectionError("no route to host")
        return create_model(*args, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"resnet18.*no route to host.*ENCODER_WEIGHTS"):
        TruncatedUNet("resnet18", (8, 8), "hub")


def test_encoder_without_published_weights_is_a_weights_error() -> None:
    with pytest.raises(WeightsError, match="resnetblur18.*ENCODER_WEIGHTS"):
        TruncatedUNet("resnetblur18", (8, 8), "hub")


@pytest.mark.parametrize(
    "encoder, words",
    [
        ("resnet19", "unknown encoder 'resnet19'"),
        ("seresnet18", "'seresnet18' looks at the whole image"),
        ("convnext_atto", r"'convnext_atto' maps 16 px to \[4, 2, 1\], not \[16, 8, 4\]"),
        ("mobilenetv2_100", "'mobilenetv2_100' keeps stages"),
        ("vit_tiny_patch16_224", "'vit_tiny_patch16_224' cannot be cut"),
    ],
)
def test_encoder_that_does_not_fit_is_answered_with_those_that_do(encoder: str, words: str) -> None:
    with pytest.raises(ValueError, match=words + ".*; fitting are resnet18, resnet34, resnet50"):
        TruncatedUNet(encoder, (8, 8))


@pytest.mark.parametrize("widths", [(8,), (8, 8, 8, 8), (8, 0)])
def test_wrong_decoder_widths_are_named(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"decoder_widths is \(8,.*give two or three"):
        TruncatedUNet("resnet18", widths)


@pytest.mark.training
@pytest.mark.parametrize(
    "encoder", ["resnet26d", "resnext50_32x4d", "resnetv2_50", "densenet121", "darknet17"]
)
def test_other_encoders_serve_at_full_resolution(encoder: str) -> None:
    """A deep stem, groups, activation before or within the norm, no stride in the stem."""
    network, x = small_network(encoder=encoder), torch.rand(1, 3, 24, 37)
    with torch.no_grad():
        expected = network.score_map(x)
        got = inference_copy(network, device="cpu").score_map(x)
        sides = [m.shape[-1] for m in network.encoder(torch.rand(1, 3, 16, 16))]
    assert sides == [16, 8, 4]
    assert expected.shape == (1, 1, 24, 37) and expected.std() > 0.01
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)


def test_finding_the_reach_leaves_random_numbers_alone() -> None:
    reach_px.cache_clear()
    weights = []
    for _ in range(2):  # the second time the reach is known
        torch.manual_seed(3)
        weights.append(TruncatedUNet("resnet18", (8, 8)).head.weight)
    assert torch.equal(*weights)


@pytest.mark.parametrize("stages", [2, 3])
def test_real_imagenet_weights_respond_to_edges(stages: int) -> None:
    path = Path(os.environ.get("LABELCLIMB_DATA", "../shared/data")) / "weights"
    if not path.is_dir():
        pytest.skip(f"no pretrained weights at {path}; set LABELCLIMB_DATA")
    path /= "resnet18_to_layer3.safetensors"
    network = TruncatedUNet("resnet18", (8,) * stages, str(path))
    deepest = f"layer{stages}.1.bn2.running_var"
    assert torch.equal(network.encoder.state_dict()[deepest], load_file(path)[deepest])
    x = torch.full((1, 3, 64, 64), 0.5)
    x[..., 32:] = 0.9
    with torch.no_grad():
        stem = network.eval().encoder((x - MEAN) / STD)[0].std(dim=1)[0]  # (64, 64)
    flat, edge = stem[16:48, 12:20], stem[16:48, 29:35]
    assert edge.max() > 2 * flat.max()
