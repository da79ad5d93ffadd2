from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM
from torch import Tensor, nn

from models.attribution import cam, grad_cam, grad_cam_plus_plus, sigmoid_grad_cam_plus_plus
from tests.models.small_network import small_network

HEADS = ("pooled", "dense")
Score = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


def example(head: str, size: int = 3, channels: int = 4, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Features after a ReLU and weights of both signs, float64."""
    generator = torch.Generator().manual_seed(size)
    shape = (channels, size, size) if head == "dense" else (channels,)
    features = torch.randn(batch, channels, size, size, generator=generator).relu().double()
    return features, torch.randn(shape, generator=generator).double()


def logit(features: Tensor, weight: Tensor) -> Tensor:
    """(D, H, W) -> scalar, by the definition of the head."""
    return (features.mean(dim=(1, 2)) if weight.ndim == 1 else features).mul(weight).sum()


def derivatives(score: Score, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First to third derivative of a scalar by each single entry (the diagonals), by autograd."""
    orders = torch.zeros(3, *features.shape, dtype=features.dtype)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in features.shape)):
        where = tuple(index.tolist())
        shift = torch.zeros((), dtype=features.dtype, requires_grad=True)
        bump = torch.zeros_like(features)
        bump[where] = 1
        value = score(features + shift * bump)
        for order in orders:
            (value,) = torch.autograd.grad(value, shift, create_graph=True)
            order[where] = value.detach()
            if not value.requires_grad:
                break
    return orders[0], orders[1], orders[2]


def plus_plus_by_autograd(score: Score, features: Tensor) -> Tensor:
    """Grad-CAM++ as printed (eq. 19 of Chattopadhay et al.), for one image (D, H, W)."""
    first, second, third = derivatives(score, features)
    total = features.sum(dim=(1, 2), keepdim=True)
    denominator = 2 * second + third * total
    alpha = torch.where(denominator == 0, 0.0, second / denominator)
    weights = (alpha * first.relu()).sum(dim=(1, 2), keepdim=True)
    return (weights * features).sum(dim=0).relu()


def to_unit(maps: Tensor) -> Tensor:
    """Divide each map by its maximum."""
    return maps / maps.amax(dim=(1, 2), keepdim=True)


@pytest.mark.parametrize("head", HEADS)
def test_grad_cam_is_the_mean_gradient_of_autograd(head: str) -> None:
    features, weight = example(head)
    features.requires_grad_()
    total = sum((logit(f, weight) for f in features), torch.zeros(()))
    (gradient,) = torch.autograd.grad(total, features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    expected = (weights * features).sum(dim=1).relu()
    assert (expected > 0).any() and (expected == 0).any()
    torch.testing.assert_close(grad_cam(features, weight), expected)
    torch.testing.assert_close(
        cam(features, weight),
        (gradient * features).sum(dim=1).relu() * (9 if head == "pooled" else 1),
    )


def test_for_pooled_heads_grad_cam_is_cam_over_the_number_of_pixels() -> None:
    features, weight = example("pooled", size=5)
    torch.testing.assert_close(grad_cam(features, weight), cam(features, weight) / 25)


@pytest.mark.parametrize("head", HEADS)
def test_plus_plus_is_the_formula_with_derivatives_of_autograd(head: str) -> None:
    features, weight = example(head)
    expected = torch.stack(
        [plus_plus_by_autograd(lambda a: logit(a, weight).exp(), f) for f in features]
    )
    # S = exp(y) scales every derivative by S: the closed form leaves the factor out
    got = grad_cam_plus_plus(features, weight)
    assert (got > 0).any()
    torch.testing.assert_close(to_unit(got), to_unit(expected))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("complement", [False, True])
def test_plus_plus_of_a_sigmoid_is_the_formula_with_derivatives_of_autograd(
    head: str, complement: bool
) -> None:
    features, weight = example(head)

    def score(a: Tensor) -> Tensor:
        return torch.sigmoid(-logit(a, weight) if complement else logit(a, weight))

    logits = torch.stack([logit(f, weight) for f in features])
    got = sigmoid_grad_cam_plus_plus(features, weight, logits, complement=complement)
    expected = torch.stack([plus_plus_by_autograd(score, f) for f in features])
    # the closed form leaves out sigmoid', common to all positions of an image
    torch.testing.assert_close(to_unit(got), to_unit(expected))


def test_saturated_sigmoid_keeps_its_map() -> None:
    features, weight = example("dense")
    sure = sigmoid_grad_cam_plus_plus(features, weight, torch.tensor([30.0, 60.0]).double())
    assert torch.isfinite(sure).all() and (sure.amax(dim=(1, 2)) > 0.01).all()


@pytest.mark.parametrize("method", [cam, grad_cam, grad_cam_plus_plus])
@pytest.mark.parametrize("head", HEADS)
def test_nothing_in_gives_nothing_out(
    method: Callable[[Tensor, Tensor], Tensor], head: str
) -> None:
    features, weight = example(head)
    assert not method(torch.zeros_like(features), weight).any()
    assert not method(features, torch.zeros_like(weight)).any()
    assert not method(features, -weight.abs()).any()  # no evidence for the class


@pytest.mark.parametrize("method", [cam, grad_cam, grad_cam_plus_plus])
def test_images_of_a_batch_do_not_meet(method: Callable[[Tensor, Tensor], Tensor]) -> None:
    features, weight = example("pooled", batch=3)
    alone = torch.cat([method(f.unsqueeze(0), weight) for f in features])
    torch.testing.assert_close(method(features, weight), alone)


def test_weights_that_fit_no_head_are_refused_with_both_shapes() -> None:
    features, _ = example("pooled")
    with pytest.raises(ValueError, match=r"\(5,\) fit no head on features \(2, 4, 3, 3\)"):
        cam(features, torch.ones(5))


class Toy(nn.Module):
    """Features as they come, one output: pooled and weighted, or flattened and weighted."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.features = nn.Conv2d(len(weight), len(weight), 1, bias=False)
        self.features.weight.data = torch.eye(len(weight))[:, :, None, None]
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        pooled = features.mean(dim=(2, 3)) if self.weight.ndim == 1 else features
        return (pooled.flatten(1) @ self.weight.flatten()).unsqueeze(1)


def by_library(method: type, features: Tensor, weight: Tensor) -> Tensor:
    """The library's map: min-max normalised per image."""
    toy = Toy(weight.float())
    with method(model=toy, target_layers=[toy.features]) as explain:
        return torch.from_numpy(explain(input_tensor=features.float(), targets=None))


def to_min_max(maps: Tensor) -> Tensor:
    low = maps.amin(dim=(1, 2), keepdim=True)
    return ((maps - low) / (maps - low).amax(dim=(1, 2), keepdim=True)).float()


@pytest.mark.parametrize(
    "head, ours, library",
    [
        ("pooled", grad_cam, GradCAM),
        ("pooled", grad_cam, HiResCAM),
        ("dense", grad_cam, GradCAM),
        ("dense", cam, HiResCAM),
    ],
)
def test_equals_the_library(
    head: str, ours: Callable[[Tensor, Tensor], Tensor], library: type
) -> None:
    features, weight = example(head, size=8)
    got = to_min_max(ours(features, weight) * 1e3)
    torch.testing.assert_close(by_library(library, features, weight), got, atol=1e-4, rtol=0)


def test_equals_the_library_on_the_network_itself() -> None:
    network, x = small_network(), torch.rand(2, 3, 32, 40)
    outputs = nn.Sequential(network, nn.Unflatten(0, (-1, 1)))  # the library wants (B, classes)
    with GradCAM(model=outputs, target_layers=[network.decoder[-1]]) as explain:
        expected = torch.from_numpy(explain(input_tensor=x, targets=None))
    with torch.no_grad():
        got = cam(network.features(x), network.head.weight.flatten())
        torch.testing.assert_close(got, network.score_map(x)[:, 0].relu(), atol=1e-5, rtol=1e-4)
    assert (got > 0).any() and (got == 0).any()
    torch.testing.assert_close(to_min_max(got), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("head", HEADS)
def test_plus_plus_equals_the_library_where_its_epsilon_is_small(head: str) -> None:
    features, weight = example(head, size=2)
    weight = weight * 20
    got = to_min_max(grad_cam_plus_plus(features, weight))
    expected = by_library(GradCAMPlusPlus, features, weight)
    torch.testing.assert_close(expected, got, atol=1e-3, rtol=0)


@pytest.mark.parametrize("head, size, scale", [("pooled", 64, 1.0), ("dense", 8, 1e-4)])
def test_plus_plus_is_the_formula_where_the_librarys_epsilon_swallows_it(
    head: str, size: int, scale: float
) -> None:
    """Where g^2, as (w / HW)^2 at 64 x 64, is far below 1e-6 the library's weights become g^3."""
    features, weight = example(head, size=size, batch=1)
    features, weight = features.float(), weight.float() * scale
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(logit(features[0], weight), features)
    features = features.detach()
    cubed = gradient.double().relu().pow(3).sum(dim=(2, 3), keepdim=True)
    library = by_library(GradCAMPlusPlus, features, weight)
    swallowed = to_min_max((features * cubed).sum(dim=1))
    torch.testing.assert_close(library, swallowed, atol=2e-2, rtol=0)

    alpha = 1 / (2 + gradient.double() * features.sum(dim=(2, 3), keepdim=True))
    weights = (alpha * gradient.relu()).sum(dim=(2, 3), keepdim=True)
    formula = to_min_max((weights * features).sum(dim=1).relu())
    got = to_min_max(grad_cam_plus_plus(features, weight))
    torch.testing.assert_close(got, formula, atol=1e-5, rtol=0)
    assert (got - library).abs().max() > 0.1
