"""Training: learns, repeats itself, keeps its best step, and says when it cannot go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.base import Profile, Progress
from models.learning import crops, training
from models.learning.crops import Surroundings
from models.learning.sampling import CropSource
from models.learning.training import ClassProgress, Standing, TrainingDiverged

pytestmark = pytest.mark.training

PROFILE = replace(
    training.PROFILES["cpu"],
    crop_px=8,
    batch=8,
    learning_rate=0.02,
    bf16=False,
    compile=False,
    point_loss=0.0,
    hard_mining=0.0,
    scale_jitter=1.0,
    colour_jitter=0.0,
)


class PatchClassifier(nn.Module):
    """Pooled convolution: enough to see dark spots. (B, 3, H, W) -> (B,), or (B, K)."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, classes, 1)

    def score_map(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x))
        return scores

    def forward(self, x: Tensor) -> Tensor:
        return self.score_map(x).mean(dim=(2, 3)).squeeze(1)


class Doing(PatchClassifier):
    """Does something before each of its steps, counted from 1."""

    def __init__(self, work: Callable[[Doing, int], None]) -> None:
        super().__init__()
        self.work = work
        self.steps = 0

    def score_map(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            self.work(self, self.steps)
        return super().score_map(x)


def spoilt(in_step: int) -> Doing:
    """A network that forgets everything in one of its steps."""

    def spoil(network: Doing, step: int) -> None:
        if step == in_step:
            bias = network.head.bias
            assert bias is not None
            nn.init.constant_(bias, -50.0)

    return Doing(spoil)


def patches(spot: bool, number: int = 12, seed: int = 0) -> Surroundings:
    """Noise, with a dark spot in the middle or without."""
    rng = np.random.default_rng([seed, spot])
    pixels = rng.integers(120, 200, (number, 16, 16, 3), dtype=np.uint8)
    if spot:
        pixels[:, 6:10, 6:10] = 20
    places = np.full((number, 2), 8)
    return Surroundings(pixels, places, np.full((number, 2), 16), np.ones(number), 8)


SOURCE = CropSource(patches(True), patches(False), 5)
UNSEEN = patches(True, seed=1), patches(False, seed=1)


def train(
    network: nn.Module,
    *,
    steps: int = 60,
    seed: int = 0,
    profile: Profile = PROFILE,
    sources: Sequence[CropSource] = (SOURCE,),
    held_out: Sequence[tuple[Surroundings, Surroundings]] = (UNSEEN,),
    clock: Callable[[], float] = lambda: 0.0,
) -> tuple[training.Trained, list[Standing]]:
    shown: list[Standing] = []
    trained = training.train(
        network,
        sources,
        held_out,
        profile=profile,
        steps=steps,
        seed=seed,
        device="cpu",
        report=shown.append,
        clock=clock,
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
    network = Doing(lambda _, step: None)
    _, shown = train(network, clock=lambda: 3.0 * network.steps)  # 3 s for each step
    assert [standing.seconds_left for standing in shown] == [150, 120, 90, 60, 30, 0]
    assert [standing.seconds_spent for standing in shown] == [30, 60, 90, 120, 150, 180]


def test_the_best_step_comes_back_not_the_last() -> None:
    trained, shown = train(spoilt(65), steps=80)
    assert shown[-1].f_measure == 0
    assert trained.best_step <= 60
    assert trained.f_measure == 1
    assert trained.network.get_parameter("head.bias").item() > -5


def test_early_luck_is_not_kept() -> None:
    trained, shown = train(spoilt(35), steps=80)
    assert shown[2].f_measure == 1  # in the first half
    assert trained.best_step >= 40
    assert trained.f_measure == 0


def test_patience_ends_a_training_that_gets_no_better_and_the_report_says_so() -> None:
    endless, shown = train(PatchClassifier(), steps=80)
    assert endless.steps == 80
    first = next(standing.step for standing in shown if standing.f_measure == 1)
    impatient, shown = train(PatchClassifier(), steps=80, profile=replace(PROFILE, patience=3))
    assert impatient.steps == max(40, first + 30)  # in the second half, three evaluations later
    assert impatient.f_measure == 1
    last = shown[-1]
    assert (last.step, last.steps, last.seconds_left) == (impatient.steps, impatient.steps, 0)
    assert all(standing.steps == 80 for standing in shown[:-1])


def test_patience_needs_held_out_points() -> None:
    alone = (patches(True, 0), patches(False))
    trained, _ = train(PatchClassifier(), held_out=[alone], profile=replace(PROFILE, patience=1))
    assert trained.steps == 60


def test_later_steps_win_ties() -> None:
    trained, _ = train(PatchClassifier(), steps=80)
    assert trained.best_step == 80


def test_without_held_out_points_the_last_step_stays_and_nothing_is_claimed() -> None:
    alone = (patches(True, 0), patches(False))
    trained, shown = train(PatchClassifier(), steps=20, held_out=[alone])
    assert (trained.best_step, trained.f_measure, trained.f_measures) == (20, None, (None,))
    assert shown[-1].f_measure is None


def test_a_loss_that_is_no_number_ends_the_training_at_once() -> None:
    broken = PatchClassifier()
    nn.init.constant_(broken.head.weight, float("nan"))
    with pytest.raises(TrainingDiverged, match="the loss became nan in step 1; lower"):
        train(broken)


def test_a_report_that_raises_cancels() -> None:
    class Cancelled(Exception):
        pass

    def cancel(_: Standing) -> None:
        raise Cancelled

    network = Doing(lambda _, step: None)
    with pytest.raises(Cancelled):
        training.train(
            network,
            [SOURCE],
            [UNSEEN],
            profile=PROFILE,
            steps=50,
            seed=0,
            device="cpu",
            report=cancel,
        )
    assert network.steps == 10


def test_points_of_little_weight_teach_little() -> None:
    """A wrongly labelled positive of tiny weight does not keep the classifier from learning."""
    pixels = np.concatenate((patches(True).pixels, patches(False, seed=2).pixels))
    shape = np.full((24, 2), 8), np.full((24, 2), 16)
    noisy = Surroundings(pixels, *shape, np.repeat([1.0, 1e-3], 12), 8)
    results = []
    for around in (noisy, replace(noisy, weights=np.ones(24))):
        network = PatchClassifier()
        train(network, sources=[CropSource(around, patches(False), 5)], held_out=())
        with torch.no_grad():
            clean = training.tensor(crops.centred(patches(False, seed=3), 12), "cpu")
            results.append(float(torch.sigmoid(network(clean)).mean()))
    assert results[0] < results[1] - 0.1


def test_a_crop_teaches_its_own_class_alone() -> None:
    """Two heads that are told the opposite of each other both learn what they are told."""
    backwards = CropSource(patches(False), patches(True), 5)
    network = PatchClassifier(classes=2)
    trained, _ = train(network, sources=[SOURCE, backwards], held_out=[UNSEEN, UNSEEN[::-1]])
    assert trained.f_measures == (1, 1)
    assert trained.f_measure == 1
    with torch.no_grad():
        dark = network(training.tensor(crops.centred(UNSEEN[0], 12), "cpu"))
    assert (dark[:, 0] > 0).all()
    assert (dark[:, 1] < 0).all()


def test_f_measures_of_classes_are_averaged_over_those_that_have_one() -> None:
    wrong = UNSEEN[::-1]
    network = PatchClassifier(classes=3)
    alone = (patches(True, 0), patches(False))
    trained, _ = train(network, sources=[SOURCE] * 3, held_out=[UNSEEN, wrong, alone])
    assert trained.f_measures == (1, 0, None)
    assert trained.f_measure == 0.5


def test_the_point_loss_asks_for_discs_and_for_clean_negatives() -> None:
    """Against a loop over pixels."""
    rng = np.random.default_rng(0)
    scores, points = rng.normal(0, 2, (3, 9, 11)), np.array([[4, 5], [0, 10], [3, 3]])
    labels = np.array([1.0, 1.0, 0.0])
    for radius in (0.0, 2.5):
        wanted = []
        for score, (row, column), label in zip(scores, points, labels, strict=True):
            near = [
                (r, c)
                for r in range(9)
                for c in range(11)
                if label == 0 or (r - row) ** 2 + (c - column) ** 2 <= radius**2
            ]
            sign = 1 if label else -1
            wanted.append(np.mean([np.log1p(np.exp(-sign * score[at])) for at in near]))
        found = training.point_losses(
            torch.from_numpy(scores), torch.from_numpy(labels), torch.from_numpy(points), radius
        )
        assert np.allclose(found.numpy(), wanted)


def test_with_the_point_loss_the_map_is_positive_at_points_and_nowhere_in_clean_crops() -> None:
    """The decision alone is content with a map that lights up anywhere."""

    def maps(point_loss: float) -> tuple[float, float]:
        network = PatchClassifier()
        train(network, steps=80, profile=replace(PROFILE, point_loss=point_loss), held_out=())
        there, clean = (training.tensor(crops.centred(a, 12), "cpu") for a in UNSEEN)
        with torch.no_grad():
            at_points = (network.score_map(there)[:, 0, 3:5, 3:5] > 0).float().mean()
            in_clean = (network.score_map(clean) > 0).float().mean()
        return float(at_points), float(in_clean)

    (_, false_without), (at_points, false_with) = maps(0.0), maps(1.0)
    assert at_points > 0.9
    assert false_with < 0.1
    assert false_with < false_without


def test_hard_points_are_met_more_often() -> None:
    """Of two kinds of negatives, the training sees more of the one that looks like the defect."""
    easy, spotted = patches(False), patches(True, 3, seed=5)
    pixels = np.concatenate((easy.pixels, spotted.pixels))
    shape = np.full((15, 2), 8), np.full((15, 2), 16)
    source = CropSource(patches(True), Surroundings(pixels, *shape, np.ones(15), 8), 1)
    shares = []
    for mining in (0.0, 4.0):
        seen: list[Tensor] = []

        def note(batch: Tensor, seen: list[Tensor] = seen) -> None:
            clean = batch[4:]
            depth = clean.mean(dim=(1, 2, 3)) - clean.amin(dim=(1, 2, 3))
            seen.append((depth > 0.25).float().mean())

        network = Watching(note)
        train(network, sources=[source], profile=replace(PROFILE, hard_mining=mining))
        shares.append(float(torch.stack(seen).mean()))
    assert shares[0] == pytest.approx(0.2, abs=0.04)
    assert shares[1] > shares[0] + 0.1


class Watching(PatchClassifier):
    """Shows the crops of its training."""

    def __init__(self, note: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.note = note

    def score_map(self, x: Tensor) -> Tensor:
        if self.training:
            self.note(x)
        return super().score_map(x)


def test_waiting_for_batches_is_reported() -> None:
    now = iter(range(1000))
    trained, _ = train(PatchClassifier(), steps=20, clock=lambda: float(next(now)))
    assert trained.waiting_s == 20  # one tick for each batch, by this clock
    assert train(PatchClassifier(), steps=20)[0].waiting_s == 0


def test_the_learning_rate_rises_then_falls() -> None:
    rates = [training.warm_cosine(step, 100) for step in range(100)]
    assert np.argmax(rates) in (4, 5)
    assert max(rates) == pytest.approx(1)
    assert rates[0] <= 0.2
    assert rates[-1] < 0.02
    assert all(0 < rate <= 1 for steps in (1, 2, 7) for rate in [training.warm_cosine(0, steps)])


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


def test_progress_of_a_shared_trunk_counts_its_heads() -> None:
    shown: list[Progress] = []
    progress = ClassProgress(shown.append, "rust, crack", index=0, classes=1)
    progress.training(Standing(30, 30, 0.4, 0.8, seconds_spent=20, seconds_left=0))
    for done in range(2):
        progress.calibrating(done, heads=2)
    share = training.TRAINING_SHARE
    assert [p.fraction for p in shown] == pytest.approx([share, share, (1 + share) / 2])


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
