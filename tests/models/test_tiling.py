from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from models.base import Image
from models.climbing import climb
from models.networks.unet import TruncatedUNet, inference_copy
from models.tiling import (
    analyse,
    analyse_classes,
    gated,
    half_overlapping,
    spans,
    tiles,
    window_means,
)
from tests.models.small_network import Brightness, small_network, state


def photograph(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grey(height: int, width: int, value: int = 100) -> Image:
    return np.full((height, width, 3), value, dtype=np.uint8)


def score_map(network: TruncatedUNet, image: Image) -> npt.NDArray[np.float32]:
    """The untiled result."""
    x = torch.tensor(image).permute(2, 0, 1).unsqueeze(0) / 255
    with torch.no_grad():
        return network.score_map(x)[0, 0].float().numpy()


def plain(scores: npt.NDArray[np.float32], window_px: int) -> npt.NDArray[np.float32]:
    """The heat map by its definition, slowly."""
    height, width = scores.shape
    h, w = min(window_px, height), min(window_px, width)
    heat = np.zeros_like(scores)
    for y in range(height):
        for x in range(width):
            top, left = min(max(y - h // 2, 0), height - h), min(max(x - w // 2, 0), width - w)
            if scores[top : top + h, left : left + w].mean(dtype=np.float64) > 0:
                heat[y, x] = max(scores[y, x], 0)
    return heat / heat.max() if heat.max() > 0 else heat


@pytest.mark.training
@pytest.mark.parametrize(
    "height, width, tile_px", [(150, 131, 32), (96, 203, 64), (41, 300, 100), (5, 131, 16)]
)
def test_tiles_give_what_the_whole_image_gives(height: int, width: int, tile_px: int) -> None:
    network, image = inference_copy(small_network(), device="cpu"), photograph(height, width)
    whole = score_map(network, image)
    tiled = analyse(network, image, tile_px=tile_px, window_px=24)
    assert tiled.tiles > 1
    np.testing.assert_allclose(tiled.heat, plain(whole, 24), atol=1e-5)
    assert tiled.heat.max() == 1
    assert tiled.logit == pytest.approx(whole.mean(), abs=1e-6)


def test_a_smaller_halo_than_the_networks_shows() -> None:
    network, image = inference_copy(small_network(), device="cpu"), photograph(120, 120)
    exact, short = (
        analyse(network, image, tile_px=40, window_px=24, halo_px=halo) for halo in (40, 8)
    )
    assert np.abs(exact.heat - short.heat).max() > 0.01


@pytest.mark.training
@pytest.mark.parametrize(
    "encoder, stages, height, tile_px",
    [("resnet34", 2, 40, 72), ("resnet50", 2, 20, 64), ("resnet18", 3, 20, 64)],
)
def test_tiles_of_other_networks_are_exact_too(
    encoder: str, stages: int, height: int, tile_px: int
) -> None:
    network = inference_copy(small_network(encoder=encoder, stages=stages), device="cpu")
    image = photograph(height, 255)
    found = analyse(network, image, tile_px=tile_px, window_px=16)
    assert found.tiles == 4 and found.heat.max() == 1
    np.testing.assert_allclose(found.heat, plain(score_map(network, image), 16), atol=1e-5)


def test_tiles_start_on_the_coarsest_grid_of_the_network() -> None:
    network, image = inference_copy(small_network(stages=3), device="cpu"), photograph(20, 100)
    with pytest.raises(ValueError, match="tile_px is 36; give a multiple of 8"):
        analyse(network, image, tile_px=36, window_px=16)
    found = analyse(network, image, tile_px=40, window_px=16)  # of equal size: 36 px, made 40
    np.testing.assert_allclose(found.heat, plain(score_map(network, image), 16), atol=1e-5)


@pytest.mark.training
@pytest.mark.parametrize(
    "height, width", [(1, 1), (1, 70), (70, 1), (5, 3), (23, 24), (1, 900), (900, 2)]
)
@pytest.mark.parametrize("iterations", [1, 3])
def test_small_and_thin_images_work(height: int, width: int, iterations: int) -> None:
    network, image = inference_copy(small_network(), device="cpu"), photograph(height, width)
    found = analyse(network, image, tile_px=32, window_px=24, iterations=iterations)
    assert found.heat.shape == (height, width) and found.heat.dtype == np.float32
    assert np.isfinite(found.heat).all() and found.heat.min() >= 0 and found.heat.max() in (0, 1)
    assert 0 < found.score < 1 and len(found.window_probs) >= 1
    if iterations == 1:
        np.testing.assert_allclose(found.heat, plain(score_map(network, image), 24), atol=1e-5)


@pytest.mark.parametrize("length_px", [1, 3, 4, 31, 32, 33, 64, 65, 1000, 5001])
@pytest.mark.parametrize("halo_px, side", [(0, 4), (40, 4), (40, 8)])
def test_spans_cover_each_pixel_once_and_start_on_the_coarse_grid(
    length_px: int, halo_px: int, side: int
) -> None:
    cut = spans(length_px, 32, halo_px, side)
    assert [p for s in cut for p in range(s.start, s.stop)] == list(range(length_px))
    for s in cut:
        assert 0 < s.stop - s.start <= 32
        assert s.outer_start % side == 0
        assert s.outer_stop % side == 0 or s.outer_stop == length_px
        assert s.start - s.outer_start == min(halo_px, s.start)
        assert s.outer_stop - s.stop == min(halo_px, length_px - s.stop)
        assert np.array_equal(np.arange(length_px)[s.outer][s.inner], np.arange(length_px)[s.core])


def test_memory_of_the_network_is_bounded_by_the_tile() -> None:
    network = Brightness()
    found = analyse(network, grey(333, 1001), tile_px=64, window_px=32, halo_px=16)
    assert max(max(size) for size in network.seen) <= 64 + 2 * 16
    assert len(network.seen) == found.tiles == 6 * 16
    assert len(tiles(5000, 5000, tile_px=1024, halo_px=60)) == 25


@pytest.mark.parametrize("shape, window", [((40, 30), (7, 7)), ((5, 90), (5, 8)), ((6, 6), (6, 6))])
def test_window_means_are_the_means_of_the_windows(
    shape: tuple[int, int], window: tuple[int, int]
) -> None:
    scores = np.random.default_rng(1).normal(0, 50, shape).astype(np.float32)
    means = window_means(scores, window)
    expected = np.lib.stride_tricks.sliding_window_view(scores, window).mean(axis=(2, 3))
    np.testing.assert_allclose(means, expected, atol=1e-4)
    rows = sorted({*range(0, means.shape[0], max(window[0] // 2, 1)), means.shape[0] - 1})
    assert len(half_overlapping(means, window)) % len(rows) == 0
    assert half_overlapping(means, window)[-1] == means[-1, -1]


def test_window_means_keep_their_precision_beside_a_huge_score() -> None:
    scores = np.full((200, 200), 1e-3, dtype=np.float32)
    scores[0, 0] = 1e6
    assert window_means(scores, (32, 32))[40:, 40:] == pytest.approx(1e-3, rel=1e-3)


def test_gate_is_the_window_around_the_pixel_moved_inside() -> None:
    means = np.full((3, 1), -1.0, dtype=np.float32)  # three windows of 4 rows in 6
    means[2] = 1
    assert gated(means, (4, 2)).tolist() == [[False] * 2] * 4 + [[True] * 2] * 2


def test_a_clean_image_has_no_heat_and_no_climb() -> None:
    """Normalised per tile, the brightest noise of a clean tile would become 1."""
    network, image = Brightness(), grey(200, 200)
    image[::7, ::7] = 200  # single bright pixels: positive scores in negative windows
    found = analyse(network, image, tile_px=64, window_px=32, iterations=3)
    assert score_map(network, image).max() > 0.2
    assert not found.heat.any() and found.tiles_climbed == 0
    assert len(network.seen) - 1 == found.tiles == 16
    assert found.score < 0.5 and (found.window_probs < 0.5).all()


def test_only_the_tile_with_a_positive_window_is_climbed() -> None:
    network, image = Brightness(), grey(200, 200)
    image[64:92, 64:92] = 250  # with its windows inside the tile 52..104, 52..104
    found = analyse(network, image, tile_px=52, window_px=16, iterations=3)
    assert (found.tiles, found.tiles_climbed) == (16, 1)
    assert len(network.seen) == 16 + 2  # the scan's own pass is the first of three maps
    assert found.heat[64:92, 64:92].min() > 0.9
    assert found.heat.sum() == found.heat[64:92, 64:92].sum()


def test_a_defect_that_no_tile_holds_a_window_of_is_climbed_all_the_same() -> None:
    network, image = Brightness(), grey(128, 128)
    image[58:70, 58:70] = 250  # where four tiles of 64 meet; too little in each for a window
    found = analyse(network, image, tile_px=64, window_px=16, iterations=2)
    assert found.tiles_climbed == 4
    whole = analyse(network, image, tile_px=128, window_px=16, iterations=2)
    np.testing.assert_allclose(found.heat, whole.heat, atol=1e-5)
    assert found.heat[58:70, 58:70].min() > 0.9


class Steep(Brightness):
    """Score = (brightness - 0.5)^2 above mid grey: the brighter, the steeper."""

    def features(self, x: Tensor) -> Tensor:
        return super().features(x).square()


@pytest.mark.parametrize("iterations", [1, 2])
def test_heat_is_normalised_over_the_image_and_each_tile_takes_its_own_step(
    iterations: int,
) -> None:
    network, image = Steep(), grey(64, 128, 128)
    image[16:48, 16:48], image[16:48, 80:112] = 200, 150
    found = analyse(network, image, tile_px=64, window_px=16, iterations=iterations)
    assert found.tiles == 2 and found.tiles_climbed == 2 * (iterations - 1)
    std = network.pixel_std
    step = float(0.08 * (std**2).mean() / std.max())  # of the brightness, at the steepest pixel
    contrasts = [value / 255 - 0.5 for value in (200, 150)]
    bright, dim = (sum((c + n * step) ** 2 for n in range(iterations)) for c in contrasts)
    assert found.heat[32, 32] == 1
    assert found.heat[32, 96] == pytest.approx(dim / bright, rel=1e-3)


@pytest.mark.parametrize("value", [0, 100, 128, 255])
@pytest.mark.parametrize("iterations", [1, 3])
def test_a_constant_image_is_wholly_clean_or_wholly_defect(value: int, iterations: int) -> None:
    found = analyse(
        Brightness(), grey(70, 90, value), tile_px=32, window_px=16, iterations=iterations
    )
    assert np.array_equal(found.heat, np.full((70, 90), float(value > 127), dtype=np.float32))
    assert found.score == pytest.approx(1 / (1 + np.exp(0.5 - value / 255)), abs=1e-6)
    assert found.tiles_climbed == (9 if value > 127 and iterations > 1 else 0)


@pytest.mark.parametrize("classes, class_index", [(1, 0), (3, 1)])
def test_one_tile_is_climbed_as_climb_does(classes: int, class_index: int) -> None:
    network = inference_copy(small_network(classes=classes), device="cpu")
    image = photograph(48, 60)
    x = torch.tensor(image).permute(2, 0, 1).unsqueeze(0) / 255
    how = {"iterations": 3, "class_index": class_index}
    found = analyse(network, image, tile_px=64, window_px=16, **how)
    assert found.tiles_climbed == 1
    kept = found.heat > 0
    ratio = climb(network, x, **how)[0].numpy()[kept] / found.heat[kept]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
    assert kept.mean() > 0.05


def test_window_probabilities_are_those_of_the_classifier() -> None:
    image = grey(64, 64, 0)
    image[32:, 32:] = 255
    probs = analyse(Brightness(), image, tile_px=64, window_px=32).window_probs.reshape(3, 3)
    expected = 1 / (1 + np.exp(-(np.array([[0, 0, 0], [0, 0.25, 0.5], [0, 0.5, 1]]) - 0.5)))
    np.testing.assert_allclose(probs, expected, atol=1e-6)


def test_score_is_the_most_suspicious_window_anywhere() -> None:
    image = grey(64, 64, 0)
    image[12:28, 12:28] = 255  # between the windows of the half-overlapping grid
    found = analyse(Brightness(), image, tile_px=64, window_px=16)
    assert found.score == pytest.approx(1 / (1 + np.exp(-0.5)), abs=1e-6)


def test_embedding_and_logit_are_the_networks_own() -> None:
    network, image = small_network(), photograph(90, 70)
    found = analyse(network, image, tile_px=32, window_px=24)
    x = torch.tensor(image).permute(2, 0, 1).unsqueeze(0) / 255
    with torch.no_grad():
        expected, logit = network.features(x).mean(dim=(2, 3))[0], network(x)
    np.testing.assert_allclose(found.embedding, expected, atol=1e-5)
    assert found.logit == pytest.approx(float(logit), abs=1e-5)


@pytest.mark.training
@pytest.mark.parametrize("iterations", [(1, 1, 1), (2, 1, 3)])
def test_all_classes_at_once_give_what_each_gives_alone(iterations: tuple[int, ...]) -> None:
    network, image = small_network(classes=3), photograph(60, 100)
    how = {"tile_px": 40, "window_px": 16}
    together = analyse_classes(network, image, iterations=iterations, **how)
    for k, (found, count) in enumerate(zip(together, iterations, strict=True)):
        alone = analyse(network, image, iterations=count, class_index=k, **how)
        np.testing.assert_allclose(found.heat, alone.heat, atol=1e-5)
        np.testing.assert_allclose(found.window_probs, alone.window_probs, atol=1e-6)
        np.testing.assert_allclose(found.embedding, alone.embedding, atol=1e-5)
        assert found.score == pytest.approx(alone.score, abs=1e-6)
        assert found.logit == pytest.approx(alone.logit, abs=1e-6)
        assert (found.tiles, found.tiles_climbed) == (alone.tiles, alone.tiles_climbed)
        assert found.heat.max() == 1 and (found.tiles_climbed > 0) == (count > 1)


def test_one_pass_per_tile_serves_all_classes_and_only_positive_pairs_are_climbed() -> None:
    network, image = Brightness(classes=2), grey(64, 192, 128)  # a shade over mid grey
    image[:, :64] = 127  # a shade under it
    image[16:48, 80:112] = 20  # dark within the tile that is bright at its borders
    bright, dark = analyse_classes(network, image, tile_px=64, window_px=8, iterations=(2, 3))
    assert (bright.tiles_climbed, dark.tiles_climbed) == (2, 2)
    assert len(network.seen) == 3 + 2 * 1 + 2 * 2  # tiles, then what each climbed tile costs
    assert dark.heat[32, 96] == 1 and not bright.heat[32, 96]
    assert bright.heat[:, 130:].min() > 0 and not bright.heat[:, :64].any()
    network.seen.clear()
    analyse_classes(network, image, tile_px=64, window_px=8, iterations=(1, 1))
    assert len(network.seen) == 3


def test_iterations_for_another_number_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"iterations is \(1, 2, 3\); give one for each of 2"):
        analyse_classes(
            Brightness(classes=2), grey(9, 9), tile_px=32, window_px=8, iterations=(1, 2, 3)
        )


def test_bf16_is_close_to_float32() -> None:
    network, image = small_network(), photograph(80, 80)
    exact, rough = (
        analyse(inference_copy(network, device="cpu", bf16=b), image, tile_px=40, window_px=80)
        for b in (False, True)
    )
    assert rough.logit == pytest.approx(exact.logit, abs=0.01)
    np.testing.assert_allclose(rough.embedding, exact.embedding, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("iterations", [1, 2])
def test_a_diverged_network_is_an_error_that_says_what_to_do(iterations: int) -> None:
    network = small_network()
    with torch.no_grad():
        network.head.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"of 1024 scores are not finite.*activate an older one"):
        analyse(network, photograph(64, 64), tile_px=32, window_px=16, iterations=iterations)


def test_leaves_network_and_image_as_they_were() -> None:
    network, image = small_network().train(), photograph(50, 50)
    image.flags.writeable = False
    before = state(network)
    analyse(network, image, tile_px=32, window_px=16, iterations=2)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network.training and all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    "image, changes, words",
    [
        (np.zeros((9, 9), np.uint8), {}, r"image is uint8 \(9, 9\)"),
        (np.zeros((9, 9, 3), np.float32), {}, "image is float32"),
        (np.zeros((0, 9, 3), np.uint8), {}, r"\(0, 9, 3\)"),
        (grey(9, 9), {"tile_px": 30}, "tile_px is 30; give a multiple of 4"),
        (grey(9, 9), {"halo_px": 2}, "halo_px is 2"),
        (grey(9, 9), {"window_px": 0}, "window_px is 0"),
        (grey(9, 9), {"iterations": 0}, "iterations is 0"),
    ],
)
def test_wrong_arguments_are_named(image: Image, changes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        analyse(Brightness(), image, **{"tile_px": 32, "window_px": 16} | changes)
