"""Workers with played networks and images: `python -m tests.integration.working QUEUE`.

A training holds HELD_BYTES until the file `release` lies in DATA_DIR; every prediction leaves a
line "process task" in the file `predicted`, and none ends while the file `hold` lies there.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import models.base
from backend.labelstudio.images.store import ImageStore
from backend.processes import running
from backend.processes.residents import Residents
from backend.settings import Settings
from backend.steps.training import training_run
from models.base import Fitted, Image, Profile, Progress, Report, TaskProposal
from tests.steps.conftest import PlayedFitted
from tests.steps.training.test_train import composite

HELD_BYTES = 200_000_000
LEASE_S = 2.0  # of a training whose process is dead
PREDICTION_S = 0.05  # so that one worker cannot be done before the other has begun
SETTINGS = Settings.from_env(os.environ)


class Holding:
    """A training that goes on until it is released."""

    def fit(self, samples: Sequence[Any], *, profile: Profile, report: Report, **_: Any) -> Fitted:
        held = np.ones(HELD_BYTES, dtype=np.uint8)
        step = 0
        while not (SETTINGS.data_dir / "release").exists():
            step += 1
            share = step / (step + 100)
            report(
                Progress("training", "crack", step, 1000, share, float(held[0]), profile.batch / 16)
            )
            threading.Event().wait(0.02)
        return composite(crack=4)


class Noting(PlayedFitted):
    """Proposes a square, and leaves a line."""

    def propose(self, image: Image, **given: Any) -> TaskProposal:
        threading.Event().wait(PREDICTION_S)
        with (SETTINGS.data_dir / "predicted").open("a") as file:
            file.write(f"{os.getpid()} {int(image[0, 0, 0])}\n")
        while (SETTINGS.data_dir / "hold").exists():
            threading.Event().wait(0.02)
        return super().propose(image // 8, **given)  # whose certainty grows with the number


def play() -> None:
    """Replace what a worker would compute and fetch."""
    known = models.base.get
    holding: Any = Holding()
    models.base.get = lambda name: holding if name == "auto" else known(name)
    residents: Any = Residents
    residents.get = lambda self, project, number, pipeline: Noting(number, [])
    training_run.LEASE_S, training_run.WAIT_S = LEASE_S, LEASE_S + 1.0
    images: Any = ImageStore
    images.load = lambda self, uri, task: np.full((16, 24, 3), task, dtype=np.uint8)


def lines(data: Path) -> list[tuple[int, int]]:
    """Return (process, task) of every prediction so far."""
    file = data / "predicted"
    text = file.read_text() if file.exists() else ""
    return [(int(process), int(task)) for process, task in map(str.split, text.splitlines())]


if __name__ == "__main__":
    play()
    running.worker(SETTINGS, sys.argv[1:])
