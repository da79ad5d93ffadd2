"""Training: learns, repeats itself, keeps its best step, and says when it cannot go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import crops, training
from models.base import Profile, Progress
from models.crops import CropSource, Surroundings
from models.training import ClassProgress, Standing, TrainingDiverged

PROFILE = replace(
    training.PROFILES["cpu"], crop_px=8, batch=8, learning_rate=0.02, bf16=False, compile=False
)


class PatchClassifier(nn.Module):
    """Pooled convolution: enough to see dark spots. (B, 3, H, W) -> (B,)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return logits.squeeze(1)


class Spoilt(PatchClassifier):
    """Forgets everything in one of its steps."""

    def __init__(self, in_step: int) -> None:
        super().__init__()
        self.in_step = in_step
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        if self.steps == self.in_step:
            nn.init.constant_(self.head.bias, -50.0)
        return super().forward(x)


def patches(spot: bool, number: int = 12, seed: int = 0) -> Surroundings:
    """Noise, with a dark spot in the middle or without."""
    rng = np.random.default_rng([seed, spot])
    pixels = rng.integers(120, 200, (number, 16, 16, 3), dtype=np.uint8)
    if spot:
        pixels[:, 6:10, 6:10] = 20
    places = np.full((number, 2), 8)
    return Surroundings(pixels, places, np.full((number, 2), 16), np.ones(number), 8)


def train(
    network: nn.Module,
    *,
    steps: int = 60,
    seed: int = 0,
    profile: Profile = PROFILE,
    held_out: tuple[Surroundings, Surroundings] | None = None,
    clock: Iterator[int] | None = None,
) -> tuple[training.Trained, list[Standing]]:
    source = CropSource(patches(True), patches(False), 5)
    shown: list[Standing] = []
    ticks = clock if clock is not None else count()
    trained = training.train(
        network,
        source,
        held_out or (patches(True, seed=1), patches(False, seed=1)),
        profile=profile,
        steps=steps,
        seed=seed,
        device="cpu",
        report=shown.append,
        clock=lambda: float(next(ticks)),
    )
    return trained, shown


def weights(network: nn.Module) -> list[float]:
    return [float(v.double().sum()) for v in network.state_dict().values()]


def test_it_learns_and_reports_on_the_way() -> None:
    trained, shown = train(PatchClassifier())
    assert trained.f_measure == 1
    assert trained.loss < 0.4 < shown[0].loss
    assert [standing.step for standing in shown] == [10, 20, 30, 40, 50, 60]
    assert not trained.network.training


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    made = [weights(train(PatchClassifier(), steps=20, seed=s)[0].network) for s in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_time_left_comes_from_the_given_clock() -> None:
    _, shown = train(PatchClassifier(), clock=count(0, 30))  # 30 s between reports
    assert [standing.seconds_left for standing in shown] == [150, 120, 90, 60, 30, 0]
    assert [standing.seconds_spent for standing in shown] == [30, 60, 90, 120, 150, 180]


def test_the_best_step_comes_back_not_the_last() -> None:
    trained, shown = train(Spoilt(65), steps=80)
    assert shown[-1].f_measure == 0
    assert trained.best_step <= 60
    assert trained.f_measure == 1
    assert trained.network.get_parameter("head.bias").item() > -5


def test_early_luck_is_not_kept() -> None:
    trained, shown = train(Spoilt(35), steps=80)
    assert shown[2].f_measure == 1  # in the first half
    assert trained.best_step >= 40
    assert trained.f_measure == 0


def test_later_steps_win_ties() -> None:
    trained, _ = train(PatchClassifier(), steps=80)
    assert trained.best_step == 80


def test_without_held_out_points_the_last_step_stays_and_nothing_is_claimed() -> None:
    trained, shown = train(PatchClassifier(), steps=20, held_out=(patches(True, 0), patches(False)))
    assert (trained.best_step, trained.f_measure) == (20, None)
    assert shown[-1].f_measure is None


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    broken = PatchClassifier()
    nn.init.constant_(broken.head.weight, float("nan"))
    with pytest.raises(TrainingDiverged, match="the loss became nan before step 10; lower"):
        train(broken)


def test_a_report_that_raises_cancels() -> None:
    class Cancelled(Exception):
        pass

    def cancel(_: Standing) -> None:
        raise Cancelled

    source = CropSource(patches(True), patches(False), 5)
    with pytest.raises(Cancelled):
        training.train(
            PatchClassifier(),
            source,
            (patches(True), patches(False)),
            profile=PROFILE,
            steps=50,
            seed=0,
            device="cpu",
            report=cancel,
        )


def test_weights_of_points_scale_their_loss() -> None:
    """A wrongly labelled positive of tiny weight does not keep the classifier from learning."""
    pixels = np.concatenate((patches(True).pixels, patches(False, seed=2).pixels))
    shape = np.full((24, 2), 8), np.full((24, 2), 16)
    noisy = Surroundings(pixels, *shape, np.repeat([1.0, 1e-3], 12), 8)
    results = []
    for around in (noisy, replace(noisy, weights=np.ones(24))):
        network = PatchClassifier()
        training.train(
            network,
            CropSource(around, patches(False), 5),
            (patches(True, 0), patches(False, 0)),
            profile=PROFILE,
            steps=60,
            seed=0,
            device="cpu",
            report=lambda _: None,
        )
        with torch.no_grad():
            clean = training.tensor(crops.centred(patches(False, seed=3), 12), "cpu")
            results.append(float(torch.sigmoid(network(clean)).mean()))
    assert results[0] < results[1] - 0.1


def test_the_learning_rate_rises_then_falls() -> None:
    rates = [training.warm_cosine(step, 100) for step in range(100)]
    assert np.argmax(rates) in (4, 5)
    assert max(rates) == pytest.approx(1)
    assert rates[0] <= 0.2
    assert rates[-1] < 0.02
    assert all(0 < rate <= 1 for steps in (1, 2, 7) for rate in [training.warm_cosine(0, steps)])


def test_new_light_keeps_range_and_structure() -> None:
    x = torch.rand(64, 3, 8, 8)
    lit = training.relight(x, np.random.default_rng(0))
    assert lit.min() >= 0
    assert lit.max() <= 1
    middle = 0.35 + 0.3 * x  # nothing is clipped
    lit = training.relight(middle, np.random.default_rng(0))
    scale = lit.std(dim=(1, 2, 3)) / middle.std(dim=(1, 2, 3))
    shift = (lit - middle).mean(dim=(1, 2, 3))
    assert 0.7 <= scale.min() < 0.8 < 1.2 < scale.max() <= 1.3
    assert -0.12 <= shift.min() < -0.08 < 0.08 < shift.max() <= 0.12


def test_bfloat16_only_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = replace(PROFILE, bf16=True)
    for able in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {"avx512_bf16": able})
        with training.precision(wanted, "cpu")():
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if able else torch.float32)


def test_progress_counts_over_all_classes() -> None:
    shown: list[Progress] = []
    progress = ClassProgress(shown.append, "rust", index=1, classes=3)
    progress.training(Standing(50, 100, 0.4, 0.8, seconds_spent=20, seconds_left=20))
    progress.calibrating()
    assert shown[0].fraction == pytest.approx((1 + 0.5 * training.TRAINING_SHARE) / 3)
    assert shown[0].seconds_left == pytest.approx(20 + 40)  # the third class, too
    assert shown[1].fraction > shown[0].fraction


@pytest.mark.parametrize("name", sorted(training.PROFILES))
def test_profiles_are_usable(name: str) -> None:
    profile = training.PROFILES[name]
    assert profile.name == name
    assert profile.tile_px % 4 == 0
    assert 0 < profile.warm_steps < profile.max_steps


def test_the_gpu_profile_is_the_papers() -> None:
    profile = training.PROFILES["gpu"]
    assert (profile.encoder, profile.crop_px, profile.batch) == ("resnet34", 320, 32)
    assert (profile.learning_rate, profile.weight_decay) == (1e-4, 1e-2)
