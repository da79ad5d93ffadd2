from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from models.climbing import Ascent, climb, frozen, score_gradient
from models.networks.unet import TruncatedUNet, inference_copy
from tests.models.small_network import Brightness, small_network, state

SIZE = 28


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


def picture(batch: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def by_autograd(
    network: TruncatedUNet,
    x: Tensor,
    *,
    iterations: int,
    regulariser: float = 3.5,
    other_weight: float = 1.0,
    class_index: int = 0,
    core: slice = slice(None),
) -> list[Tensor]:
    """The maps of one image, climbed by autograd of the printed objective in normalised space."""
    mean, std = network.pixel_mean, network.pixel_std
    z, maps = (x - mean) / std, list[Tensor]()
    for _ in range(iterations):
        z = z.detach().requires_grad_()
        relu = network.score_map(z * std + mean).relu()[0, :, core, core]
        own = relu[class_index]
        maps.append(own.detach())
        held = (own > 0.5 * own.max()).detach()
        others = relu.mean(dim=(1, 2)).sum() - own.mean()
        objective = own.mean() - other_weight * others
        objective = objective - regulariser * ((own - maps[0]).abs() * held).mean()
        (g,) = torch.autograd.grad(objective, z)
        z = z + 0.08 * g / g.abs().max()
        z = ((z * std + mean).clamp(0, 1) - mean) / std
    return maps


@contextmanager
def calls(network: TruncatedUNet) -> Iterator[dict[str, int]]:
    """Count forward and backward passes through the encoder's first convolution."""
    counts = {"forward": 0, "graph": 0, "backward": 0}

    def forward(module: nn.Module, args: object, output: Tensor) -> None:
        counts["forward"] += 1
        if output.requires_grad:
            counts["graph"] += 1
            output.register_hook(backward)

    def backward(gradient: Tensor) -> None:
        counts["backward"] += 1

    stem = network.encoder.get_submodule("conv1")
    handle = stem.register_forward_hook(forward)
    yield counts
    handle.remove()


def test_one_iteration_is_the_plain_activation_map() -> None:
    network, x = small_network(), picture()
    with torch.no_grad():
        expected = network.score_map(x)[:, 0].relu()
    assert torch.equal(climb(network, x, iterations=1), expected)


@pytest.mark.parametrize("iterations", [2, 3, 5])
@pytest.mark.parametrize("classes, class_index", [(1, 0), (3, 1)])
def test_equals_autograd_of_the_printed_objective(
    iterations: int, classes: int, class_index: int
) -> None:
    network, x = small_network(classes=classes).double(), picture().double()
    got = climb(network, x, iterations=iterations, class_index=class_index)
    maps = by_autograd(network, x, iterations=iterations, class_index=class_index)
    expected = sum(maps, torch.zeros(()))
    torch.testing.assert_close(got[0].double(), expected, atol=1e-4, rtol=1e-4)
    assert (expected - iterations * maps[0]).abs().max() > 0.01  # the climb did something


def test_climbing_brings_out_more_evidence() -> None:
    network, x = small_network(), picture()
    first = climb(network, x, iterations=1)
    second = climb(network, x, iterations=2) - first
    assert second.mean() > 1.05 * first.mean()


def test_regulariser_is_inert_in_the_first_climb_and_acts_from_the_second() -> None:
    network, x = small_network(), picture()
    free = [climb(network, x, iterations=n, regulariser=0.0) for n in (2, 3, 6)]
    held = [climb(network, x, iterations=n, regulariser=3.5) for n in (2, 3, 6)]
    assert torch.equal(free[0], held[0])
    assert not torch.equal(free[1], held[1])
    peak = free[0] > 0.9 * free[0].max()  # the discriminative region
    assert held[2][peak].mean() < free[2][peak].mean()


def test_regulariser_has_the_same_balance_at_any_map_size() -> None:
    """Copied literally (lambda summed, score averaged) it would grow with the number of pixels."""
    scores, start = torch.randn(1, 1, 24, 24), 3 * torch.rand(1, 24, 24)
    ascent, everywhere = Ascent(iterations=3), (slice(None), slice(None))
    small = score_gradient(scores, start, ascent, everywhere)
    large = score_gradient(scores.repeat(1, 1, 4, 4), start.repeat(1, 4, 4), ascent, everywhere)
    assert torch.equal(large, small.repeat(1, 1, 4, 4))
    assert set(small.unique().tolist()) == {-2.5, 0.0, 1.0, 4.5}


def test_other_classes_are_pushed_down() -> None:
    network, x = small_network(classes=2), picture()
    ends = {w: _mean_scores_after_climbs(network, x, other_weight=w) for w in (0.0, 1.0)}
    assert ends[1.0][1] < ends[0.0][1]
    single = small_network()
    alone = [climb(single, x, iterations=3, other_weight=w) for w in (0.0, 1.0)]
    assert torch.equal(alone[0], alone[1])


def _mean_scores_after_climbs(
    network: TruncatedUNet, x: Tensor, other_weight: float
) -> list[float]:
    """Mean ReLU(Y) of both classes in the image that the last map was made from."""
    seen = list[Tensor]()
    handle = network.head.register_forward_hook(lambda m, a, y: seen.append(y.detach()))
    climb(network, x, iterations=4, other_weight=other_weight)
    handle.remove()
    return seen[-1].relu().mean(dim=(0, 2, 3)).tolist()


def test_each_image_takes_its_own_step() -> None:
    network, x = small_network(), picture(3)
    x[1] = 0.5 + 0.02 * (x[1] - 0.5)  # a flat image, whose gradients are of another size
    together = climb(network, x, iterations=3)
    alone = torch.cat([climb(network, one.unsqueeze(0), iterations=3) for one in x])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)


def test_the_largest_change_is_the_step_and_pixels_stay_in_range() -> None:
    network, grey = small_network(), 0.4 + 0.2 * picture()
    images = _climbed_images(network, grey, iterations=2)
    assert (images[1] - images[0]).abs().max().item() == pytest.approx(0.08, rel=1e-4)
    pixels = _climbed_images(network, picture().round(), iterations=8)
    pixels = pixels * network.pixel_std + network.pixel_mean
    assert not torch.equal(pixels[0], pixels[7])
    assert pixels.min() > -1e-6 and pixels.max() < 1 + 1e-6


def _climbed_images(network: TruncatedUNet, x: Tensor, iterations: int) -> Tensor:
    """Every image that the network saw, ImageNet-normalised."""
    images = list[Tensor]()
    handle = network.encoder.register_forward_pre_hook(lambda m, args: images.append(args[0]))
    climb(network, x, iterations=iterations)
    handle.remove()
    return torch.cat(images).detach()


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_costs_one_forward_per_map_and_one_backward_per_climb(iterations: int) -> None:
    network, x = small_network(), picture()
    with calls(network) as counts:
        climb(network, x, iterations=iterations)
    climbs = iterations - 1
    assert counts == {"forward": iterations, "graph": climbs, "backward": climbs}


def test_an_image_without_a_positive_score_is_not_climbed() -> None:
    network, dark = Brightness(), torch.full((1, 3, 8, 8), 0.2)
    assert not climb(network, dark, iterations=5).any()
    assert len(network.seen) == 1
    mixed = climb(network, torch.cat((dark, 1 - dark)), iterations=5)
    assert not mixed[0].any() and (mixed[1] > 1.5).all()


def test_only_the_core_is_climbed() -> None:
    network, x = small_network(), picture()
    inner = slice(8, 20)
    expected = sum(by_autograd(network, x, iterations=3, core=inner), torch.zeros(()))
    got = climb(network, x, iterations=3, core=(inner, inner))
    torch.testing.assert_close(got[0], expected, atol=1e-4, rtol=1e-3)
    everywhere = climb(network, x, iterations=3)[:, inner, inner]
    assert (everywhere - got).abs().max() > 0.01


def test_leaves_network_and_image_as_they_were() -> None:
    network, x = small_network().train(), picture().requires_grad_()
    network.encoder.eval()
    network.head.weight.requires_grad_(False)
    before, image = state(network), x.detach().clone()
    modes = [m.training for m in network.modules()]
    flags = [p.requires_grad for p in network.parameters()]
    climb(network, x, iterations=3)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == flags
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(x, image) and x.requires_grad and x.grad is None


def test_network_comes_back_after_an_error_too() -> None:
    network = small_network().train()
    with pytest.raises(ZeroDivisionError), frozen(network):
        assert not network.training
        raise ZeroDivisionError
    assert network.training and all(p.requires_grad for p in network.parameters())


def test_works_where_gradients_are_switched_off() -> None:
    network, x = small_network(), picture()
    with torch.no_grad():
        inside = climb(network, x, iterations=2)
    assert torch.equal(inside, climb(network, x, iterations=2))
    assert not inside.requires_grad


def test_bf16_climb_is_close_to_float32() -> None:
    network, x = small_network(), picture()
    exact = climb(network, x, iterations=2)
    rough = climb(inference_copy(network, device="cpu", bf16=True), x, iterations=2)
    assert rough.dtype == torch.float32
    assert torch.corrcoef(torch.stack((exact.flatten(), rough.flatten())))[0, 1] > 0.99


def test_no_iteration_is_refused() -> None:
    with pytest.raises(ValueError, match="iterations is 0"):
        climb(small_network(), picture(), iterations=0)
