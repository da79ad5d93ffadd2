"""How long a training still takes, from the share that is done."""

from __future__ import annotations

from dataclasses import dataclass, replace

WEIGHT_OF_NEW = 0.3  # of the newest guess of the whole time, so that it does not jump


@dataclass(frozen=True)
class Pace:
    """What is known of a training's speed; began_s: by the clock that `seen` is told.

    seconds_left: None until some of it is done.
    """

    began_s: float
    whole_s: float | None = None
    seconds_left: float | None = None

    def seen(self, share: float, now_s: float) -> Pace:
        """Take in that this share, in [0, 1], is done now."""
        spent_s = now_s - self.began_s
        if share <= 0:
            return self
        guess_s = spent_s / min(1.0, share)
        whole_s = self.whole_s
        whole_s = guess_s if whole_s is None else whole_s + WEIGHT_OF_NEW * (guess_s - whole_s)
        left_s = 0.0 if share >= 1 else max(0.0, whole_s - spent_s)
        return replace(self, whole_s=whole_s, seconds_left=left_s)
