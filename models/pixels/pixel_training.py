"""Train a pixel head: balanced batches of labelled pixels, all members at once, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from models.learning import training
from models.metrics import f_measure_of_counts
from models.networks.hypercolumn import PixelHead
from models.pixels.pixel_labels import Pixels

STEPS, WARM_STEPS = 1000, 250
BATCH = 256  # pixels of each sign
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-3
REPORT_EVERY = 50  # steps


def train(
    head: PixelHead,
    pixels: Sequence[Pixels],
    *,
    steps: int,
    seed: int,
    report: Callable[[int, float], None],
) -> float:
    """Train a head in place on pixels of both signs, drawn in proportion to weight.

    report: step, loss; may raise. Deterministic for a seed on CPU. Returns the last mean loss;
    raises TrainingDiverged when it is not finite.
    """
    device = head.mean.device
    columns = torch.from_numpy(np.concatenate([p.columns for p in pixels])).to(device)
    labels = np.concatenate([p.labels for p in pixels])
    weights = np.concatenate([p.weights for p in pixels]).astype(np.float64)
    kinds = [_Kind(np.flatnonzero(labels == sign), weights) for sign in (True, False)]
    wanted = torch.tensor([1.0] * BATCH + [0.0] * BATCH, device=device).expand(head.members, -1)
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    recent: list[float] = []
    head.train()
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)  # of the dropout
        for step in range(1, steps + 1):
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * training.warm_cosine(step - 1, steps)
            drawn = np.concatenate([kind.draw(rng) for kind in kinds])
            logits = head(columns[torch.from_numpy(drawn).to(device)].float())
            loss = functional.binary_cross_entropy_with_logits(logits, wanted)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if step % REPORT_EVERY == 0 or step == steps:
                recent = [*recent[-4:], _finite(loss, step)]
                report(step, float(np.mean(recent)))
    head.eval()
    return float(np.mean(recent))


def f_measure(head: PixelHead, pixels: Sequence[Pixels]) -> float | None:
    """F-measure on labelled pixels at a probability of one half; None without both signs."""
    if not pixels:
        return None
    labels = np.concatenate([p.labels for p in pixels])
    if labels.all() or not labels.any():
        return None
    columns = torch.from_numpy(np.concatenate([p.columns for p in pixels])).float()
    with torch.inference_mode():
        logits = head(columns.to(head.mean.device))
    found = (torch.sigmoid(logits).mean(dim=0) > 0.5).cpu().numpy()
    right, false = int((found & labels).sum()), int((found & ~labels).sum())
    return f_measure_of_counts(right, false, int(labels.sum()) - right)


class _Kind:
    """The pixels of one sign, drawn in proportion to weight."""

    def __init__(self, places: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> None:
        self._places = places
        self._shares = np.cumsum(weights[places])

    def draw(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        where = rng.uniform(0, self._shares[-1], BATCH)
        return self._places[np.searchsorted(self._shares, where, side="right")]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one core: so little work takes longer to share, on busy cores 30 times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _finite(loss: Tensor, step: int) -> float:
    value = float(loss.detach())
    if not np.isfinite(value):
        raise training.TrainingDiverged(
            f"the loss of a pixel head became {value} before step {step}; are the encoder weights "
            "damaged? fetch them again"
        )
    return value
