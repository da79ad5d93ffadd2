"""Train one binary patch classifier: weighted cross-entropy on crops, best F-measure kept."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import crops
from models.base import Profile, Progress, Report
from models.crops import Batch, CropSource, Pixels, Surroundings
from models.metrics import f_measure_of_counts

PROFILES = {
    # Measured with benchmarks/clicks.py: 57 to 65 s per class on one thread of an EPYC with bf16.
    "cpu": Profile(
        name="cpu",
        encoder="resnet18",
        decoder_widths=(32, 32),
        crop_px=64,
        crops_per_click=5,
        batch=16,
        max_steps=300,
        warm_steps=100,
        learning_rate=2e-3,
        weight_decay=1e-2,
        bf16=True,
        compile=False,
        tile_px=1024,
    ),
    # Janouskova et al.; widths and steps are not printed there.
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
    ),
}

EVALUATIONS = 8  # per training
TRAINING_SHARE = 0.85  # of a class's time; the rest is calibration
REPORT_EVERY = 10  # steps
HELD_OUT_CROPS = 128  # of each sign, at most
CONTRAST, BRIGHTNESS = 0.3, 0.12  # largest change; of the contrast, of the full range

Clock = Callable[[], float]
T = TypeVar("T")


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number; nothing of this training can be used."""


@dataclass(frozen=True)
class Standing:
    """Where a training stands after `step` of `steps`; f_measure is the newest one."""

    step: int
    steps: int
    loss: float
    f_measure: float | None
    seconds_spent: float
    seconds_left: float


@dataclass(frozen=True)
class Trained:
    """A network with the weights of the best step of its second half, in evaluation mode.

    loss: mean over the last steps; f_measure: of the kept weights on held-out points, None
        without such points of both signs, and then the last weights are kept.
    """

    network: nn.Module
    steps: int
    best_step: int
    loss: float
    f_measure: float | None


def train(
    network: nn.Module,
    source: CropSource,
    held_out: tuple[Surroundings, Surroundings],
    *,
    profile: Profile,
    steps: int,
    seed: int,
    device: str,
    report: Callable[[Standing], None],
    clock: Clock = time.monotonic,
) -> Trained:
    """Train `network` in place: AdamW, one-cycle cosine, BCE with logits on (B,) outputs.

    held_out: positive and negative surroundings to choose the best step by. report may raise.
    Deterministic for a seed on CPU. Raises TrainingDiverged when the loss is not finite.
    """
    network.to(device).to(memory_format=torch.channels_last).train()
    forward = torch.compile(network) if profile.compile and device != "cpu" else network
    optimiser = _optimiser(network, profile)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warm_cosine(step, steps))
    best = _Best(network, held_out, precision(profile, device), device)
    drawing, lighting = np.random.default_rng(seed).spawn(2)
    recent: list[float] = []
    began = clock()
    for step, batch in enumerate(_ahead(source.batches(profile.batch, drawing), steps), start=1):
        loss = _loss(forward, batch, lighting, best.autocast, device)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step * EVALUATIONS // steps > (step - 1) * EVALUATIONS // steps:
            best.consider(step, settled=2 * step >= steps)
        if step % REPORT_EVERY == 0 or step == steps:
            recent = [*recent[-4:], _finite(loss, step)]
            spent = clock() - began
            left = spent / step * (steps - step)
            report(Standing(step, steps, float(np.mean(recent)), best.newest, spent, left))
    best.restore(steps)
    network.eval()
    return Trained(network, steps, best.step, float(np.mean(recent)), best.f_measure)


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


def relight(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Change contrast about the crop's mean, and brightness, of each crop (B, 3, H, W)."""
    count = (len(x), 1, 1, 1)
    contrast = _as(x, rng.uniform(1 - CONTRAST, 1 + CONTRAST, count))
    brightness = _as(x, rng.uniform(-BRIGHTNESS, BRIGHTNESS, count))
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return ((x - mean) * contrast + mean + brightness).clamp(0, 1)


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

    def calibrating(self) -> None:
        """Report that this class is trained and its masks are being calibrated."""
        fraction = (self.index + TRAINING_SHARE) / self.classes
        self.report(Progress("calibration", self.class_name, 0, 1, fraction))


class _Best:
    """The weights of the best step so far, by F-measure on held-out points."""

    def __init__(
        self,
        network: nn.Module,
        held_out: tuple[Surroundings, Surroundings],
        autocast: Callable[[], AbstractContextManager[object]],
        device: str,
    ) -> None:
        self.network, self.autocast, self.device = network, autocast, device
        self.crops = tuple(
            crops.centred(around, HELD_OUT_CROPS) if len(around) else None for around in held_out
        )
        self.step = 0
        self.newest: float | None = None
        self.f_measure: float | None = None
        self._state: dict[str, Tensor] | None = None

    def consider(self, step: int, *, settled: bool) -> None:
        """Keep the present weights if they are settled and at least as good as those before.

        On few held-out points half-trained weights can look best by luck.
        """
        positives, negatives = self.crops
        if positives is None or negatives is None:
            return
        found, false = (int((self._logits(c) > 0).sum()) for c in (positives, negatives))
        self.newest = f_measure_of_counts(found, false, len(positives) - found)
        if settled and (self.f_measure is None or self.newest >= self.f_measure):
            self.step, self.f_measure = step, self.newest
            self._state = copy.deepcopy(self.network.state_dict())

    def restore(self, last_step: int) -> None:
        """Put the best weights back; without held-out points the last ones stay."""
        if self._state is None:
            self.step = last_step
        else:
            self.network.load_state_dict(self._state)

    def _logits(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        self.network.eval()
        with torch.inference_mode(), self.autocast():
            parts = [
                self.network(tensor(pixels[start : start + 16], self.device)).float().cpu()
                for start in range(0, len(pixels), 16)
            ]
        self.network.train()
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def _optimiser(network: nn.Module, profile: Profile) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad],
        lr=profile.learning_rate,
        weight_decay=profile.weight_decay,
    )


def _loss(
    forward: Callable[[Tensor], Tensor],
    batch: Batch,
    rng: np.random.Generator,
    autocast: Callable[[], AbstractContextManager[object]],
    device: str,
) -> Tensor:
    x = relight(tensor(batch.pixels, device), rng)
    with autocast():
        logits = forward(x)
    labels, weights = (torch.from_numpy(a).to(device) for a in (batch.labels, batch.weights))
    losses = functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
    return (losses * weights).sum() / weights.sum()


def _finite(loss: Tensor, step: int) -> float:
    value = float(loss.detach())
    if not np.isfinite(value):
        raise TrainingDiverged(
            f"the loss became {value} before step {step}; lower the profile's learning_rate, or "
            "train on without warm start if the version before was damaged"
        )
    return value


def _ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """Yield `count` items, preparing the next one in a thread while one is in use."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = thread.submit(next, items)
        for n in range(count):
            item = coming.result()
            if n + 1 < count:
                coming = thread.submit(next, items)
            yield item


def _as(x: Tensor, values: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values).to(device=x.device, dtype=x.dtype)
