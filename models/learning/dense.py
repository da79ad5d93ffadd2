"""Train a U-Net on per-pixel targets, where not every pixel counts; predict probabilities."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import passes, tiling
from models.base import Image, Profile
from models.learning import light, losses, parallel, training
from models.learning.dense_crops import (
    Batch,
    CropSource,
    DenseSample,
    FloatMap,
    Load,
    check_image,
    checked,
    cut,
    is_positive,
)
from models.learning.parallel import Group
from models.learning.training import Clock, Standing, Trained, TrainingDiverged
from models.metrics import f_measure_of_counts
from models.networks.unet import TruncatedUNet
from models.passes import Cells
from models.tiling import Tile

MEMORY_BYTES = 1 << 30
HELD_OUT_SIDE_PX = 256  # larger samples are cut to a square of this side
HELD_OUT_PIECES = 16
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def profile_for(profile: Profile) -> Profile:
    """Return the profile with the sizes of a training per pixel: its `dense_` fields."""
    return replace(
        profile,
        crop_px=profile.dense_crop_px,
        batch=profile.dense_batch,
        learning_rate=profile.dense_learning_rate,
        max_steps=profile.dense_steps,
        warm_steps=profile.dense_warm_steps,
    )


def train(
    network: TruncatedUNet,
    learn: Sequence[Load],
    held_out: Sequence[Load],
    *,
    profile: Profile,
    steps: int,
    seed: int,
    device: str,
    report: Callable[[Standing], None],
    loss: losses.Loss = losses.focal_soft_iou,
    max_seconds: float | None = None,
    clock: Clock = time.monotonic,
    memory_bytes: int = MEMORY_BYTES,
) -> Trained:
    """Train `network` in place, its score map as logits: AdamW, one-cycle cosine, best step kept.

    held_out: chooses the best of EVALUATIONS checks in the second half by F-measure; without any
        positive pixel in them the last weights are kept.
    steps: at most; deterministic for a seed on CPU.
    max_seconds: shortens the schedule so that it ends by then, loading included; the result then
        depends on the machine's speed.
    Raises TrainingDiverged when the loss is not finite, ValueError for samples that do not fit or
    that hold no pixel that counts. report may raise.
    """
    group, began = parallel.here(), clock()
    drawing, lighting, cutting = np.random.default_rng(seed).spawn(3)
    source = CropSource.load(learn, profile.crop_px, memory_bytes, cutting)
    network.to(device).to(memory_format=torch.channels_last).train()
    group.follow_first(network)
    best = _Best(network, _held_out_pieces(held_out), training.precision(profile, device), device)
    learner = _Learner(network, profile, loss, device, lighting, group)
    pace = _Pace(steps, max_seconds, clock, began)
    recent: list[float] = []
    with parallel.shared_statistics(network, group):
        for step, batch in enumerate(source.batches(profile.batch, drawing), start=1):
            before = group.agreed(pace.done(step - 1), device)
            value = learner.step(batch, training.warm_cosine(int(before * steps), steps))
            after = group.agreed(pace.done(step), device)
            if int(after * training.EVALUATIONS) > int(before * training.EVALUATIONS):
                best.consider(step, settled=2 * after >= 1)
            if step % training.REPORT_EVERY == 0 or after >= 1:
                recent = [*recent[-4:], _finite(value, step)]
                report(pace.standing(step, float(np.mean(recent)), best.newest))
            if after >= 1:
                break
    best.restore(step)
    group.follow_first(network)
    network.eval()
    return Trained(network, step, best.step, float(np.mean(recent)), best.f_measure)


def predict(network: TruncatedUNet, image: Image, tile_px: int) -> FloatMap:
    """(H, W, 3) uint8 RGB -> (H, W) float32, the probability of each pixel; see `scan`."""
    return scan(network, image, tile_px).probability


class Scan(NamedTuple):
    """What one look at an image gives.

    probability: (H, W) float32 in [0, 1]; embedding: (D,) float32, mean features; passes: the
    probability as several stochastic passes see it.
    """

    probability: FloatMap
    embedding: FloatMap
    passes: Cells


def scan(network: TruncatedUNet, image: Image, tile_px: int) -> Scan:
    """Run a whole image by tiles, equal to the untiled result; one forward pass for both outputs.

    network: best an `inference_copy`, whose device and dtype are used. tile_px: largest side of a
    tile's core. Raises ValueError for another kind of image, and for scores that are not finite.
    """
    check_image(image)
    height_px, width_px, _ = image.shape
    probability = np.empty((height_px, width_px), dtype=np.float32)
    pooled = np.zeros(network.head.in_channels)
    drawn, heads = passes.empty(height_px, width_px), passes.perturbed(network.head.weight)
    with torch.inference_mode():
        for tile in _tiles(network, height_px, width_px, tile_px):
            rows, columns = tile.inner
            x = training.tensor(image[tile.outer][None], str(network.pixel_mean.device))
            features = network.features(x)[..., rows, columns]  # (1, D, h, w)
            scores = network.head(features)[0, 0].float()
            probability[tile.core] = torch.sigmoid(scores).cpu().numpy()
            several = torch.sigmoid(functional.conv2d(features, heads)[0].float())
            drawn[passes.core(*tile.core)] = passes.in_cells(several)
            pooled += features[0].sum(dim=(1, 2), dtype=torch.float32).cpu().numpy()
    if not np.isfinite(probability).all():
        raise ValueError(
            "scores are not finite; the training of this version diverged: activate an older one"
        )
    return Scan(probability, (pooled / probability.size).astype(np.float32), drawn)


@dataclass(frozen=True)
class _Pace:
    """How much of the training is done: by steps or by time, whichever is further."""

    steps: int
    max_seconds: float | None
    clock: Clock
    began: float

    def done(self, step: int) -> float:
        """Return the share done, in [0, 1]."""
        of_time = 0.0 if self.max_seconds is None else self._spent() / self.max_seconds
        return min(1.0, max(step / self.steps, of_time))

    def standing(self, step: int, loss: float, f_measure: float | None) -> Standing:
        """Describe where the training stands after `step`, of as many as it will come to."""
        spent, done = self._spent(), self.done(step)
        left = spent * (1 / done - 1)
        return Standing(step, max(step, round(step / done)), loss, f_measure, spent, left)

    def _spent(self) -> float:
        return self.clock() - self.began


def _tiles(network: TruncatedUNet, height_px: int, width_px: int, tile_px: int) -> list[Tile]:
    return tiling.tiles(
        height_px,
        width_px,
        tile_px=tile_px,
        halo_px=network.halo_px,
        alignment_px=network.alignment_px,
    )


class _Learner:
    """Takes optimiser steps."""

    def __init__(
        self,
        network: TruncatedUNet,
        profile: Profile,
        loss: losses.Loss,
        device: str,
        lighting: np.random.Generator,
        group: Group,
    ) -> None:
        self._group, self._batch, self._rows = group, profile.batch, group.rows(profile.batch)
        compiled = profile.compile and device != "cpu"
        self._score_map = torch.compile(network.score_map) if compiled else network.score_map
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=profile.learning_rate, weight_decay=profile.weight_decay
        )
        self._autocast = training.precision(profile, device)
        self._rate, self._loss = profile.learning_rate, loss
        self._colour_jitter = profile.colour_jitter
        self._device, self._lighting = device, lighting

    def step(self, batch: Batch, rate_share: float) -> Tensor:
        """Learn from a batch at this share of the learning rate; returns the loss."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * rate_share
        x = training.tensor(batch.pixels[self._rows], self._device)
        x = light.relight(x, self._lighting, self._colour_jitter, of=self._batch, rows=self._rows)
        with self._autocast():
            own = self._score_map(x)[:, 0].float()
        targets, weights = (
            torch.from_numpy(a).to(self._device) for a in (batch.targets, batch.weights)
        )
        scores = self._group.whole(own, self._batch)  # (B, S, S): losses are of the whole batch
        value = self._loss(scores, targets, weights)
        self._optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        self._group.add_gradients(self._parameters)
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimiser.step()
        return value.detach()


class _Best:
    """The weights of the best step so far, by F-measure on held-out samples."""

    def __init__(
        self,
        network: TruncatedUNet,
        pieces: Sequence[DenseSample],
        autocast: Callable[[], AbstractContextManager[object]],
        device: str,
    ) -> None:
        self.step = 0
        self.newest: float | None = None
        self.f_measure: float | None = None
        self._network, self._autocast, self._device = network, autocast, device
        self._pieces = pieces if any(is_positive(piece).any() for piece in pieces) else ()
        self._state: dict[str, Tensor] | None = None

    def consider(self, step: int, *, settled: bool) -> None:
        """Keep the present weights if they are settled and at least as good as those before."""
        if not self._pieces:
            return
        self.newest = best_f_measure(self._pieces, [self._probability(p) for p in self._pieces])
        if settled and (self.f_measure is None or self.newest >= self.f_measure):
            self.step, self.f_measure = step, self.newest
            self._state = copy.deepcopy(self._network.state_dict())

    def restore(self, last_step: int) -> None:
        """Put the best weights back; without held-out positives the last ones stay."""
        if self._state is None:
            self.step = last_step
        else:
            self._network.load_state_dict(self._state)

    def _probability(self, piece: DenseSample) -> FloatMap:
        self._network.eval()
        with torch.inference_mode(), self._autocast():
            scores = self._network.score_map(training.tensor(piece.image[None], self._device))
        self._network.train()
        return np.asarray(torch.sigmoid(scores[0, 0].float()).cpu().numpy(), dtype=np.float32)


def best_f_measure(samples: Sequence[DenseSample], probabilities: Sequence[FloatMap]) -> float:
    """F-measure over the weighted pixels of all samples together, at the best of THRESHOLDS."""
    values = []
    for threshold in THRESHOLDS:
        right = wrong = 0.0
        for sample, probability in zip(samples, probabilities, strict=True):
            truth, proposed = is_positive(sample), probability > threshold
            right += float(sample.weight[truth & proposed].sum(dtype=np.float64))
            wrong += float(sample.weight[truth != proposed].sum(dtype=np.float64))
        values.append(f_measure_of_counts(right, wrong, 0.0))
    return max(values)


def _held_out_pieces(loaders: Sequence[Load]) -> list[DenseSample]:
    """Cut a square of each of at most HELD_OUT_PIECES samples, around its middle positive pixel."""
    chosen = np.linspace(0, len(loaders) - 1, min(len(loaders), HELD_OUT_PIECES)).astype(int)
    return [_middle(checked(loaders[n]())) for n in chosen]


def _middle(sample: DenseSample) -> DenseSample:
    places = np.argwhere(is_positive(sample))
    middle = places[len(places) // 2] if len(places) else np.array(sample.target.shape) // 2
    return cut(sample, middle - HELD_OUT_SIDE_PX // 2, HELD_OUT_SIDE_PX)


def _finite(loss: Tensor, step: int) -> float:
    value = float(loss)
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"the loss became {value} before step {step}; lower the profile's learning_rate, or "
            "train on without warm start if the version before was damaged"
        )
    return value
