"""Stochastic passes: what is left out, what it means in windows, and that tiles do not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import evidence, passes
from models.learning import dense
from models.networks.unet import TruncatedUNet, inference_copy
from models.passes import CELL_PX, DROPPED, PASSES
from models.tiling import analyse, analyse_classes
from tests.models.small_network import small_network
from tests.models.test_tiling import photograph


def features_of(network: TruncatedUNet, image: np.ndarray) -> np.ndarray:
    x = torch.tensor(image).permute(2, 0, 1).unsqueeze(0) / 255
    with torch.no_grad():
        return network.features(x)[0].double().numpy()  # (D, H, W)


def test_a_pass_leaves_channels_out_and_the_same_ones_for_every_class() -> None:
    weight = torch.arange(1.0, 401.0).reshape(2, 200, 1, 1)
    found = passes.perturbed(weight)[..., 0, 0].reshape(2, PASSES, 200) / weight[:, None, :, 0, 0]
    assert torch.equal(found[0], found[1])
    assert found.unique().tolist() == pytest.approx([0.0, 1 / (1 - DROPPED)])
    assert found[0].eq(0).float().mean().item() == pytest.approx(DROPPED, abs=0.03)
    assert len({tuple(row) for row in found[0].tolist()}) == PASSES, "passes differ"
    assert torch.equal(passes.perturbed(weight), passes.perturbed(weight)), "and stay"


def test_passes_of_a_segmenter_are_those_of_its_features() -> None:
    network, image = inference_copy(small_network(), device="cpu"), photograph(30, 41)
    whole = dense.scan(network, image, 64).passes
    features = features_of(network, image)
    for weights, found in zip(
        passes.perturbed(network.head.weight)[..., 0, 0].double().numpy(), whole, strict=True
    ):
        probability = 1 / (1 + np.exp(-np.tensordot(weights, features, axes=1)))
        for y in range(0, 30, CELL_PX):
            for x in range(0, 41, CELL_PX):
                mean = probability[y : y + CELL_PX, x : x + CELL_PX].mean()
                assert found[y // CELL_PX, x // CELL_PX] == pytest.approx(mean, abs=1e-5)
    tiled = dense.scan(network, image, 16).passes
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_passes_of_a_classifier_are_window_means_of_its_scores() -> None:
    """Where windows start and end at the edges of cells, exactly."""
    network, image = inference_copy(small_network(), device="cpu"), photograph(32, 48)
    found = analyse(network, image, tile_px=64, window_px=16)
    features = features_of(network, image)
    pooled = [
        features[:, y : y + 16, x : x + 16].mean(axis=(1, 2))
        for y in range(0, 17, 8)
        for x in range(0, 33, 8)
    ]
    weights = passes.perturbed(network.head.weight)[..., 0, 0].double().numpy()
    logits = weights @ np.array(pooled).T  # (S, T)
    np.testing.assert_allclose(found.samples, 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert found.samples.shape == (PASSES, len(found.window_probs))
    assert found.samples.std(axis=0).max() > 0.001
    tiled = analyse(network, image, tile_px=16, window_px=16)
    np.testing.assert_allclose(tiled.samples, found.samples, atol=1e-5)


def test_each_class_of_a_trunk_has_its_own_passes_whether_it_climbs_or_not() -> None:
    network = inference_copy(small_network(classes=2), device="cpu")
    image = photograph(40, 40)
    both = analyse_classes(network, image, tile_px=64, window_px=16, iterations=(1, 2))
    for n, one in enumerate(both):
        alone = analyse(network, image, tile_px=64, window_px=16, class_index=n)
        np.testing.assert_allclose(one.samples, alone.samples, atol=1e-6)
    assert not np.allclose(both[0].samples, both[1].samples)


def test_windows_of_passes_are_those_of_the_probabilities() -> None:
    cells = np.random.default_rng(0).random((2, 4, 6)).astype(np.float32)  # 14 x 22 px
    found = evidence.window_samples(cells, (14, 22), 8)
    flat = np.repeat(np.repeat(cells, CELL_PX, axis=1), CELL_PX, axis=2)[:, :14, :22]
    expected = []
    for y in (0, 4, 6):  # 14 - 8 = 6: flush with the end
        for x in (0, 4, 8, 12, 14):
            top, left = y // 4 * 4, x // 4 * 4
            expected.append(flat[:, top : y + 8 + (-(y + 8) % 4), left : x + 8 + (-(x + 8) % 4)])
    np.testing.assert_array_equal(found, np.stack([e.max(axis=(1, 2)) for e in expected], axis=1))
    one = evidence.window_probs(flat[0], 8)
    assert found.shape == (2, len(one))


def test_fewer_passes_are_repeated_evenly() -> None:
    three = np.array([[0.0], [1.0], [2.0]], np.float32)
    assert passes.repeated(three, 6)[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    joined = evidence.gather(
        ["a", "b"],
        [np.array([0.5], np.float32)] * 2,
        [np.zeros(1, np.float32)] * 2,
        {},
        [three, np.arange(6, dtype=np.float32)[:, None]],
    )
    assert joined.samples.shape == (6, 1, 2)
    assert joined.samples[:, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_without_passes_of_every_class_there_are_none() -> None:
    probs, parts = [np.array([0.5], np.float32)] * 2, [np.zeros(1, np.float32)]
    known, unknown = np.ones((6, 1), np.float32), np.zeros((0, 1), np.float32)
    assert evidence.gather(["a", "b"], probs, parts, {}, [known, unknown]).samples.size == 0
    assert evidence.gather(["a", "b"], probs, parts, {}).samples.size == 0
