"""Which weights of a training are kept: the best by F-measure on points that it does not learn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from models.learning import crops
from models.learning.crops import Pixels, Surroundings
from models.metrics import f_measure_of_counts

HELD_OUT_CROPS = 128  # of each sign and class, at most
LUCK = 0.02  # of an F-measure on so few crops; later weights, learnt at a smaller rate, are better

HeldOut = tuple[Surroundings, Surroundings]  # of positive and of negative points
Logits = Callable[[Pixels], npt.NDArray[np.float32]]  # (N, S, S, 3) -> (N, K)


class Best:
    """The best step so far and its weights.

    held_out: of each class; f_measure: the mean over the classes with points of both signs,
    `f_measures` that of each class, `newest` the latest one.
    """

    def __init__(self, network: nn.Module, held_out: Sequence[HeldOut], logits: Logits) -> None:
        self.step = 0
        self.newest: float | None = None
        self.f_measure: float | None = None
        self.f_measures: tuple[float | None, ...] = (None,) * len(held_out)
        self._network, self._logits = network, logits
        self._crops = [_centred(*pair) for pair in held_out]
        self._state: dict[str, Tensor] | None = None
        self._highest, self._best_settled = -1.0, -1.0
        self._since, self._settled = 0, False

    def consider(self, step: int, *, settled: bool) -> None:
        """Keep the present weights if they are settled and, but for LUCK, the best of the settled.

        On few held-out points half-trained weights can look best by luck.
        """
        values = tuple(self._f_measure(index) for index in range(len(self._crops)))
        known = [value for value in values if value is not None]
        if not known:
            return
        self.newest = float(np.mean(known))
        self._since = 0 if self.newest > self._highest else self._since + 1
        self._highest, self._settled = max(self._highest, self.newest), settled
        if settled and self.newest >= self._best_settled - LUCK:
            self._best_settled = max(self._best_settled, self.newest)
            self.step, self.f_measure, self.f_measures = step, self.newest, values
            self._state = copy.deepcopy(self._network.state_dict())

    def is_exhausted(self, patience: int) -> bool:
        """Tell whether the last `patience` evaluations brought nothing; 0 waits for ever."""
        return self._settled and 0 < patience <= self._since

    def restore(self, last_step: int) -> None:
        """Put the best weights back; without held-out points the last ones stay."""
        if self._state is None:
            self.step = last_step
        else:
            self._network.load_state_dict(self._state)

    def _f_measure(self, index: int) -> float | None:
        pair = self._crops[index]
        if pair is None:
            return None
        found, false = (int((self._logits(pixels)[:, index] > 0).sum()) for pixels in pair)
        return f_measure_of_counts(found, false, len(pair[0]) - found)


def _centred(positives: Surroundings, negatives: Surroundings) -> tuple[Pixels, Pixels] | None:
    if not (len(positives) and len(negatives)):
        return None
    return crops.centred(positives, HELD_OUT_CROPS), crops.centred(negatives, HELD_OUT_CROPS)
