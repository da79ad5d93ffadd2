"""Training on pixels: a small problem learned, unknown pixels unlearned, tiles exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.learning import dense, losses, training
from models.learning.dense import train
from models.learning.dense_crops import CropSource, DenseSample, Load
from models.learning.training import EVALUATIONS, PROFILES, Standing, Trained, TrainingDiverged
from models.networks.unet import TruncatedUNet
from tests.models.small_network import Brightness, small_network, state

pytestmark = pytest.mark.training

PROFILE = replace(
    PROFILES["cpu"],
    decoder_widths=(8, 8),
    crop_px=24,
    batch=8,
    learning_rate=4e-3,
    bf16=False,
)


def patch(seed: int, *, height_px: int = 48, width_px: int = 64) -> DenseSample:
    """Grey noise with a darker rectangle: the class."""
    rng = np.random.default_rng(seed)
    image = rng.normal(150, 20, (height_px, width_px, 3))
    target = np.zeros((height_px, width_px), np.float32)
    top, left = rng.integers(2, height_px - 18), rng.integers(2, width_px - 18)
    target[top : top + 14, left : left + 16] = 1
    image[target > 0] -= 60
    weight = np.ones_like(target)
    return DenseSample(image.clip(0, 255).astype(np.uint8), target, weight)


def loaders(*seeds: int) -> list[Load]:
    return [lambda seed=seed: patch(seed) for seed in seeds]  # type: ignore[misc]


def fresh(seed: int = 0) -> TruncatedUNet:
    torch.manual_seed(seed)
    return TruncatedUNet("resnet18", PROFILE.decoder_widths)


def trained(
    network: TruncatedUNet | None = None,
    learn: list[Load] | None = None,
    held_out: list[Load] | None = None,
    *,
    steps: int = 12,
    report: Callable[[Standing], None] = lambda _: None,
    **changes: object,
) -> Trained:
    return train(
        network or fresh(),
        loaders(0, 1, 2) if learn is None else learn,
        loaders(50, 51) if held_out is None else held_out,
        profile=PROFILE,
        steps=steps,
        seed=3,
        device="cpu",
        report=report,
        **changes,  # type: ignore[arg-type]
    )


def source(*samples: DenseSample, crop_px: int = 24, memory_bytes: int = 1 << 20) -> CropSource:
    made = [lambda s=s: s for s in samples]
    return CropSource.load(made, crop_px, memory_bytes, np.random.default_rng(0))


def test_a_small_problem_is_learned() -> None:
    network = fresh()
    before = dense.best_f_measure([patch(99)], [dense.predict(network.eval(), patch(99).image, 64)])
    found = trained(network, loaders(*range(6)), steps=30)
    assert found.network is network and not network.training
    assert found.f_measure is not None and found.f_measure > 0.9
    after = dense.best_f_measure([patch(99)], [dense.predict(network, patch(99).image, 64)])
    assert after > max(0.9, before)


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_what_nobody_verified_teaches_nothing(name: str) -> None:
    """Wrong targets at weight 0 leave every weight as it was without them."""

    def half(wrong: bool) -> Load:
        sample = patch(1)
        weight = np.zeros_like(sample.weight)
        weight[:, :32] = 1
        target = np.where(weight > 0, sample.target, np.float32(0.7) if wrong else sample.target)
        return lambda: DenseSample(sample.image, target.astype(np.float32), weight)

    one, other = (fresh(), fresh())
    for network, wrong in ((one, False), (other, True)):
        trained(network, [half(wrong)], [], steps=2, loss=losses.get(name))
    assert all(
        torch.equal(a, b) for a, b in zip(state(one).values(), state(other).values(), strict=True)
    )


def test_twice_the_same_training_gives_the_same_weights() -> None:
    one, other = fresh(), fresh()
    results = [trained(network, steps=6) for network in (one, other)]
    assert results[0].loss == results[1].loss
    assert all(torch.equal(a, state(other)[key]) for key, a in state(one).items())


def test_the_best_step_of_the_second_half_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    network = fresh()
    values: Iterator[float] = iter([0.99, 0.98, 0.97, 0.5, 0.7, 0.6, 0.7, 0.1])

    def measured(*_: object) -> float:
        seen.append(state(network))
        return next(values)

    monkeypatch.setattr(dense, "best_f_measure", measured)
    found = trained(network, steps=16)
    assert len(seen) == EVALUATIONS
    assert (found.best_step, found.f_measure) == (14, 0.7)
    assert all(torch.equal(a, state(network)[key]) for key, a in seen[6].items())


def test_without_held_out_positives_the_last_weights_stay() -> None:
    clean = DenseSample(patch(0).image, np.zeros((48, 64), np.float32), patch(0).weight)
    found = trained(held_out=[lambda: clean], steps=3)
    assert (found.best_step, found.f_measure) == (3, None)


def test_progress_counts_steps_and_the_time_that_is_left() -> None:
    clock = iter(range(10_000))
    standings: list[Standing] = []
    trained(steps=20, report=standings.append, clock=lambda: float(next(clock)))
    assert [(s.step, s.steps) for s in standings] == [(10, 20), (20, 20)]
    assert standings[0].seconds_left == pytest.approx(standings[0].seconds_spent)
    assert standings[1].seconds_left == 0
    assert standings[1].f_measure is not None


def test_a_time_bound_shortens_the_whole_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second a step: 12 s are 12 of the 1000 steps, and the rate falls all the way."""
    now, rates = [0.0], []

    def tick(step: int, steps: int) -> float:
        now[0] += 1
        rates.append(step / steps)
        return 0.1

    monkeypatch.setattr(training, "warm_cosine", tick)
    found = trained(steps=1000, max_seconds=12.0, clock=lambda: now[0])
    assert found.steps == 12
    assert rates == pytest.approx([n / 12 for n in range(12)], abs=1e-3)


def test_a_cancelled_training_stops() -> None:
    class Cancelled(Exception):
        pass

    def cancel(_: Standing) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        trained(steps=20, report=cancel)


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    network = fresh()
    with torch.no_grad():
        network.head.weight.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match="the loss became nan before step 3"):
        trained(network, held_out=[], steps=3)


def test_half_of_the_crops_hold_the_class_and_all_turns_occur() -> None:
    """Targets and weights turn with the image: here all three are the same picture."""
    rng = np.random.default_rng(0)
    grey = np.zeros((200, 200), np.uint8)
    grey[:30, :20] = rng.integers(128, 256, (30, 20))
    image = grey[..., None].repeat(3, axis=2)
    target, weight = grey / np.float32(255), grey + np.float32(1)
    batches = source(DenseSample(image, np.asarray(target, np.float32), weight)).batches(
        8, np.random.default_rng(1)
    )
    shares = []
    for batch, _ in zip(batches, range(20), strict=False):
        assert batch.pixels.shape == (8, 24, 24, 3) and batch.targets.dtype == np.float32
        assert np.array_equal(batch.targets, (batch.pixels[..., 0] / 255).astype(np.float32))
        assert np.array_equal(batch.weights, batch.pixels[..., 0] + np.float32(1))
        shares.append(np.mean([t.max() >= 0.5 for t in batch.targets]))
    assert 0.5 <= float(np.mean(shares)) < 0.7


def test_crops_are_cut_where_pixels_count() -> None:
    sample = patch(0, height_px=200, width_px=200)
    weight = np.zeros_like(sample.weight)
    weight[150:153, 100:103] = 1
    batches = source(DenseSample(sample.image, sample.target * 0, weight)).batches(
        4, np.random.default_rng(0)
    )
    assert all(w.any() for w in next(batches).weights)


def test_images_smaller_than_a_crop_are_continued_by_what_does_not_count() -> None:
    for height_px, width_px in ((1, 1), (1, 40), (13, 7)):
        image = np.full((height_px, width_px, 3), 90, np.uint8)
        ones = np.ones((height_px, width_px), np.float32)
        batch = next(source(DenseSample(image, ones, ones)).batches(2, np.random.default_rng(0)))
        assert batch.weights.sum() == 2 * height_px * min(width_px, 24)
        assert np.all(batch.pixels == 90)


def test_large_images_are_kept_as_windows_within_the_bound() -> None:
    sample = patch(0, height_px=300, width_px=400)
    bound = 250_000
    kept = source(sample, sample, memory_bytes=bound)
    assert len(kept.pieces) == 4
    assert sum(11 * piece.sample.target.size for piece in kept.pieces) <= bound
    assert sum(len(piece.positives) > 0 for piece in kept.pieces) >= 2
    for piece in kept.pieces:
        assert piece.sample.image.base is None  # a view would keep the whole image


def test_each_sample_is_loaded_once() -> None:
    loads: list[int] = []

    def load() -> DenseSample:
        loads.append(1)
        return patch(0)

    trained(learn=[load], held_out=[], steps=3)
    assert len(loads) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": np.zeros((48, 64), np.uint8)}, r"image is uint8 \(48, 64\)"),
        ({"target": np.zeros((48, 64))}, r"target is float64 .*give float32 \(48, 64\)"),
        ({"weight": np.ones((8, 8), np.float32)}, r"weight is float32 \(8, 8\)"),
        ({"target": np.full((48, 64), 1.5, np.float32)}, "target goes from 1.5 to 1.5"),
        ({"weight": np.full((48, 64), np.nan, np.float32)}, "weight goes from nan"),
        ({"weight": np.full((48, 64), -1, np.float32)}, "weight goes from -1.0"),
        ({"weight": np.zeros((48, 64), np.float32)}, "no pixel of 1 samples has a weight above 0"),
    ],
)
def test_samples_that_cannot_be_learned_are_named(change: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        source(replace(patch(0), **change))  # type: ignore[arg-type]


def test_the_f_measure_counts_weighted_pixels_at_the_best_threshold() -> None:
    target = np.array([[1, 1, 0, 0]], np.float32)
    weight = np.array([[2, 1, 1, 0]], np.float32)
    sample = DenseSample(np.zeros((1, 4, 3), np.uint8), target, weight)
    probability = np.array([[0.45, 0.15, 0.25, 0.99]], np.float32)
    # above 0.4: 2 right, 1 missed; above 0.2: 2 right, 1 missed, 1 wrong
    assert dense.best_f_measure([sample], [probability]) == pytest.approx(2 * 2 / (2 * 2 + 1))


def test_probabilities_are_those_of_the_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 14, 3)).astype(np.uint8)
    brightness = image.astype(np.float64).mean(axis=2) / 255 - 0.5
    found = dense.scan(Brightness(), image, tile_px=8)
    assert found.probability == pytest.approx(1 / (1 + np.exp(-brightness)), abs=1e-6)
    expected = [np.maximum(brightness, 0).mean(), np.maximum(-brightness, 0).mean()]
    assert found.embedding == pytest.approx(expected, abs=1e-6)


def test_tiles_equal_the_whole_image() -> None:
    network, image = small_network(), patch(0, height_px=150, width_px=133).image
    whole, tiled = (dense.scan(network, image, tile_px=side) for side in (400, 32))
    assert tiled.probability == pytest.approx(whole.probability, abs=1e-5)
    assert tiled.embedding == pytest.approx(whole.embedding, abs=1e-4)
    assert whole.probability.std() > 0.01


def test_scores_that_are_no_numbers_are_refused() -> None:
    network = small_network()
    with torch.no_grad():
        network.head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="diverged: activate an older one"):
        dense.predict(network, patch(0).image, 64)
