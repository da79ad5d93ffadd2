"""A follower whose images are played: `python -m tests.steps.following FOLDER RANK`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from backend.settings import Settings
from backend.steps.training import together
from backend.wiring import build
from models.base import Image

SIDE_PX = 48


class Spots:
    """Noise with a dark spot in the middle, another one for each task."""

    def load(self, uri: str, task_id: int) -> Image:
        image = np.random.default_rng(task_id).integers(120, 200, (SIDE_PX, SIDE_PX, 3), np.uint8)
        image[20:28, 20:28] = 20
        return image


if __name__ == "__main__":
    if len(sys.argv) > 3:
        raise MemoryError("DefaultCPUAllocator: not enough memory")
    services = replace(build(Settings.from_env(os.environ)), images=Spots())  # type: ignore[arg-type]
    together.follow(services, Path(sys.argv[1]), int(sys.argv[2]))
