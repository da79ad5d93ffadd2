"""How a training goes on when memory runs out: smaller batches, then the CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

from models.base import Profile
from models.memory import smaller_tile_px

LEAST_BATCH = 2  # networks normalise over the batch


@dataclass(frozen=True)
class Means:
    """What a training may use: its profile halved so often, and its device unless `on_cpu`."""

    halvings: int = 0
    on_cpu: bool = False


def sized(profile: Profile, halvings: int) -> Profile:
    """Halve the batches and the side of tiles so many times, down to the least that works."""
    return replace(
        profile,
        batch=_halved(profile.batch, halvings),
        dense_batch=_halved(profile.dense_batch, halvings),
        tile_px=smaller_tile_px(profile.tile_px, halvings),
    )


def less(profile: Profile, device: str, means: Means) -> tuple[Means, str] | None:
    """Return the next means after memory ran out, and what to say; None when nothing is left.

    profile: as it was chosen; device: that the training ran on. On a GPU batches are halved first;
    then the CPU begins with whole ones.
    """
    before, after = (sized(profile, means.halvings + more) for more in (0, 1))
    if after != before:
        change = f"batches of {after.batch} instead of {before.batch}"
        if after.batch == before.batch:
            change = f"tiles of {after.tile_px} px instead of {before.tile_px} px"
        return replace(means, halvings=means.halvings + 1), change
    if device != "cpu":
        return Means(on_cpu=True), f"the CPU instead of {device}"
    return None


def _halved(batch: int, halvings: int) -> int:
    return min(batch, max(LEAST_BATCH, batch >> halvings))
