"""`pixel_head` with the features of each image computed once: they are the same in every round."""

from __future__ import annotations

import hashlib

import models.base
from backend.simulation.scenes import Kept
from models.base import Image, Pipeline, Profile
from models.networks.hypercolumn import Hypercolumn, Levels
from models.pipelines import pixel_head


def pipeline(name: str, cache_mib: int) -> Pipeline:
    """Return a pipeline by name; `pixel_head` remembers features, up to `cache_mib` of memory."""
    if name != pixel_head.NAME:
        return models.base.get(name)
    trunks: dict[Profile, Hypercolumn] = {}

    def trunk(profile: Profile) -> Hypercolumn:
        if profile not in trunks:
            weights = pixel_head.weights_of(profile)
            trunks[profile] = RememberingTrunk(profile.encoder, weights, cache_mib)
        return trunks[profile]

    return pixel_head.PixelHeads(trunk=trunk)


class RememberingTrunk(Hypercolumn):
    """A frozen trunk that remembers the maps of images; resident copies are made once.

    What it remembers is exactly what it computes, so that nothing changes but the time.
    """

    def __init__(self, encoder: str, weights: str, room_mib: int) -> None:
        super().__init__(encoder, weights)
        self._kept: Kept[Levels] = Kept(room_mib << 20, _bytes)
        self._residents: dict[tuple[str, bool], Hypercolumn] = {}

    def resident(self, *, device: str, bf16: bool) -> Hypercolumn:
        """Return the copy to compute with."""
        key = (device, bf16)
        if key not in self._residents:
            self._residents[key] = super().resident(device=device, bf16=bf16)
        return self._residents[key]

    def levels(self, image: Image) -> Levels:
        """Return the maps of an image, computed the first time."""
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        compute = super().levels
        dtype = next(self.encoder.parameters()).dtype
        return self._kept.get((digest, image.shape, dtype), lambda: compute(image))


def _bytes(levels: Levels) -> int:
    return sum(level.numel() * level.element_size() for level in levels.maps)
