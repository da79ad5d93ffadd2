"""Train patch classifiers: cross-entropy on crops and, beside it, on points; best F-measure kept.

One network with one output is the paper's binary classifier; one with K outputs learns K classes on
one trunk, each crop speaking about its own class alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import Profile, Progress, Report
from models.learning import light, parallel
from models.learning.crops import Pixels
from models.learning.parallel import Group
from models.learning.sampling import Ahead, Batch, CropSource, Draw, Supply
from models.learning.selection import Best, HeldOut

PROFILES = {
    # Measured with benchmarks/clicks.py: 57 to 65 s per class on one thread of an EPYC with bf16.
    "cpu": Profile(
        name="cpu",
        encoder="resnet18",
        decoder_widths=(32, 32),
        crop_px=64,
        crops_per_click=1,
        batch=16,
        max_steps=300,
        warm_steps=100,
        learning_rate=2e-3,
        weight_decay=1e-2,
        bf16=True,
        compile=False,
        tile_px=1024,
        point_loss=1.0,
        hard_mining=0.5,  # more of it, and more jitter, lost on cracks in so few steps
    ),
    # Janouskova et al., and a point loss; widths, steps and augmentation are not printed there.
    "gpu": Profile(
        name="gpu",
        encoder="resnet34",
        decoder_widths=(64, 64),
        crop_px=320,
        crops_per_click=5,
        batch=32,
        max_steps=20_000,
        warm_steps=5_000,
        learning_rate=1e-4,
        weight_decay=1e-2,
        bf16=True,
        compile=True,
        tile_px=2048,
        point_loss=1.0,
        hard_mining=1.0,
        scale_jitter=1.25,
        colour_jitter=0.5,
        patience=4,
        dense_crop_px=320,
        dense_batch=32,
        dense_steps=20_000,
        dense_warm_steps=5_000,
        dense_learning_rate=1e-4,
    ),
}

EVALUATIONS = 8  # per training
TRAINING_SHARE = 0.85  # of a class's time; the rest is calibration
REPORT_EVERY = 10  # steps
AHEAD = 2  # batches that are prepared while one is learnt from
LOSSES_SHOWN = 50  # steps that the reported loss is the mean of

Clock = Callable[[], float]


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number; nothing of this training can be used."""


@dataclass(frozen=True)
class Standing:
    """Where a training stands after `step` of `steps`; f_measure is the newest one.

    `steps` becomes what was done when a training ends early.
    """

    step: int
    steps: int
    loss: float
    f_measure: float | None
    seconds_spent: float
    seconds_left: float


@dataclass(frozen=True)
class Trained:
    """A network with the weights of the best step of its second half, in evaluation mode.

    loss: mean over the last steps; f_measure: of the kept weights on held-out points, the mean over
        the classes that have such points of both signs; None without, and then the last weights are
        kept. f_measures: that of each class; waiting_s: how long batches had to be waited for.
    """

    network: nn.Module
    steps: int
    best_step: int
    loss: float
    f_measure: float | None
    f_measures: tuple[float | None, ...] = ()
    waiting_s: float = 0.0


def train(
    network: nn.Module,
    sources: Sequence[CropSource],
    held_out: Sequence[HeldOut],
    *,
    profile: Profile,
    steps: int,
    seed: int,
    device: str,
    report: Callable[[Standing], None],
    clock: Clock = time.monotonic,
) -> Trained:
    """Train `network` in place: AdamW, one-cycle cosine, BCE with logits on pooled score maps.

    network: has `score_map`, (B, 3, H, W) -> (B, K, H, W), K = the number of sources.
    sources: the crops to learn from, one entry per class; held_out: the points of each class to
    choose the best step by. report may raise.
    Deterministic for a seed on CPU. Raises TrainingDiverged when the loss is not finite.
    In a group of processes (`parallel`) each learns from its rows of every batch, and all end with
    the same weights.
    """
    group = parallel.here()
    network.to(device).to(memory_format=torch.channels_last).train()
    group.follow_first(network)
    drawing, lighting = np.random.default_rng(seed).spawn(2)
    supply = Supply(sources, drawing, mining=profile.hard_mining, scale_jitter=profile.scale_jitter)
    learner = _Learner(network, profile, steps, device, lighting, group)
    best = Best(network, held_out, learner.logits)
    losses = _Losses(supply)
    batches = Ahead(_jobs(supply, profile.batch, steps, group), AHEAD, clock)
    step, began, exhausted = 0, clock(), False
    with parallel.shared_statistics(network, group), closing(iter(batches)) as coming:
        for step, (draw, batch) in enumerate(coming, start=1):
            losses.add(step, draw, learner.step(batch))
            if step * EVALUATIONS // steps > (step - 1) * EVALUATIONS // steps:
                best.consider(step, settled=2 * step >= steps)
                exhausted = group.agreed(best.is_exhausted(profile.patience), device) > 0
            last = step == steps or exhausted
            if last or step % REPORT_EVERY == 0:
                spent = clock() - began
                left = 0.0 if last else spent / step * (steps - step)
                end = step if last else steps
                report(Standing(step, end, losses.mean(), best.newest, spent, left))
            if last:
                break
    best.restore(step)
    group.follow_first(network)
    network.eval()
    return Trained(
        network, step, best.step, losses.mean(), best.f_measure, best.f_measures, batches.waited_s
    )


def warm_cosine(step: int, steps: int) -> float:
    """Share of the learning rate: up over the first twentieth, then a cosine down to 1 %."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def precision(profile: Profile, device: str) -> Callable[[], AbstractContextManager[object]]:
    """Return the autocast to run under: bfloat16 where the profile wants and the device has it."""
    kind = device.split(":", maxsplit=1)[0]
    enabled = profile.bf16 and has_bf16(device)
    return lambda: torch.autocast(kind, dtype=torch.bfloat16, enabled=enabled)


def has_bf16(device: str) -> bool:
    """Tell whether the hardware computes in bfloat16; where it is emulated, it is slower."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def tensor(pixels: Pixels, device: str) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [0, 1], channels last."""
    moved = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
    return moved.permute(0, 3, 1, 2).float() / 255


def point_losses(scores: Tensor, labels: Tensor, points: Tensor, radius_px: float) -> Tensor:
    """Ask each pixel that a point speaks about for its sign: (B, H, W) logits -> (B,) losses.

    Mean over the disc of `radius_px` around a positive point (B, 2), over all of a negative crop.
    """
    rows, columns = (torch.arange(side, device=scores.device) for side in scores.shape[1:])
    row, column = (points[:, axis, None, None] for axis in (0, 1))
    disc = (rows[:, None] - row) ** 2 + (columns - column) ** 2 <= radius_px**2  # (B, H, W)
    spoken_of = disc | (labels == 0)[:, None, None]
    wanted = labels[:, None, None].expand_as(scores)
    losses = functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
    return (losses * spoken_of).sum(dim=(1, 2)) / spoken_of.sum(dim=(1, 2))


@dataclass(frozen=True)
class ClassProgress:
    """Places the progress of class number `index` of `classes` among all of them."""

    report: Report
    class_name: str
    index: int
    classes: int

    def training(self, standing: Standing) -> None:
        """Report a standing; the classes to come are taken to last as long as this one."""
        done = standing.step / standing.steps
        of_others = self.classes - self.index - 1
        whole = standing.seconds_spent + standing.seconds_left
        progress = Progress(
            stage="training",
            class_name=self.class_name,
            step=standing.step,
            steps=standing.steps,
            fraction=(self.index + TRAINING_SHARE * done) / self.classes,
            loss=standing.loss,
            f_measure=standing.f_measure,
            seconds_left=standing.seconds_left + of_others * whole,
        )
        self.report(progress)

    def calibrating(self, done: int = 0, heads: int = 1) -> None:
        """Report that the class is trained, and the masks of `done` of its heads are calibrated."""
        share = TRAINING_SHARE + (1 - TRAINING_SHARE) * done / heads
        fraction = (self.index + share) / self.classes
        self.report(Progress("calibration", self.class_name, done, heads, fraction))


class _Learner:
    """Optimiser steps on this process' rows of batches; knows nothing of how they are drawn."""

    def __init__(
        self,
        network: nn.Module,
        profile: Profile,
        steps: int,
        device: str,
        rng: np.random.Generator,
        group: Group,
    ) -> None:
        self._group, self._rows = group, group.rows(profile.batch)
        self._autocast = precision(profile, device)
        self._network, self._profile, self._device, self._rng = network, profile, device, rng
        score_map: Callable[[Tensor], Tensor] = network.score_map  # type: ignore[assignment]
        compiled = profile.compile and device != "cpu"
        self._score_map = torch.compile(score_map) if compiled else score_map
        self._optimiser = _optimiser(network, profile)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimiser, lambda step: warm_cosine(step, steps)
        )

    def step(self, batch: Batch) -> Tensor:
        """Learn from own rows; returns the losses of the whole batch's decisions, (B,) float32."""
        losses, points = self._losses(batch)
        self._optimiser.zero_grad(set_to_none=True)
        total = losses.mean() + self._profile.point_loss * points
        total = total * self._group.share(self._profile.batch)
        total.backward()  # type: ignore[no-untyped-call]
        self._group.add_gradients(list(self._network.parameters()))
        nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._optimiser.step()
        self._schedule.step()
        return self._group.whole(losses.detach(), self._profile.batch)

    def logits(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """(N, S, S, 3) uint8 -> (N, K), with the statistics of evaluation."""
        self._network.eval()
        with torch.inference_mode(), self._autocast():
            parts = [
                self._network(tensor(pixels[start : start + 16], self._device)).float().cpu()
                for start in range(0, len(pixels), 16)
            ]
        self._network.train()
        return np.asarray(torch.cat(parts).view(len(pixels), -1).numpy(), dtype=np.float32)

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor | float]:
        x = light.relight(
            tensor(batch.pixels, self._device),
            self._rng,
            self._profile.colour_jitter,
            of=self._profile.batch,
            rows=self._rows,
        )
        with self._autocast():
            scores = self._score_map(x)  # (B, K, H, W)
        labels, classes, points = (
            torch.from_numpy(values).to(self._device)
            for values in (batch.labels, batch.classes, batch.points)
        )
        own = scores[torch.arange(len(x), device=self._device), classes].float()  # (B, H, W)
        logits = own.mean(dim=(1, 2))
        losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        if not self._profile.point_loss:
            return losses, 0.0
        radius_px = self._profile.point_radius_px
        return losses, point_losses(own, labels, points, radius_px).mean()


class _Losses:
    """The losses as they become known: one step late, so that the device need not be waited for."""

    def __init__(self, supply: Supply) -> None:
        self._supply = supply
        self._recent: deque[float] = deque(maxlen=LOSSES_SHOWN)
        self._pending: tuple[int, Draw, Tensor] | None = None

    def add(self, step: int, draw: Draw, losses: Tensor) -> None:
        """Take the losses of a step in, and settle those of the step before."""
        self._settle()
        self._pending = step, draw, losses

    def mean(self) -> float:
        """Return the mean over the last steps."""
        self._settle()
        return float(np.mean(self._recent))

    def _settle(self) -> None:
        if self._pending is None:
            return
        step, draw, losses = self._pending
        values = losses.cpu().numpy()
        if not np.isfinite(values).all():
            raise TrainingDiverged(
                f"the loss became {values[~np.isfinite(values)][0]} in step {step}; lower the "
                "profile's learning_rate, or train on without warm start if the version before "
                "was damaged"
            )
        self._supply.learn(draw, values)
        self._recent.append(float(values.mean()))
        self._pending = None


def _optimiser(network: nn.Module, profile: Profile) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad],
        lr=profile.learning_rate,
        weight_decay=profile.weight_decay,
    )


def _jobs(
    supply: Supply, size: int, steps: int, group: Group
) -> Iterator[Callable[[], tuple[Draw, Batch]]]:
    for _ in range(steps):
        draw = supply.draw(size)
        yield partial(_cut, supply, draw, group.rows(size))


def _cut(supply: Supply, draw: Draw, rows: slice) -> tuple[Draw, Batch]:
    """Return the whole draw, and a batch of its rows."""
    return draw, supply.cut(Draw._make(values[rows] for values in draw))
