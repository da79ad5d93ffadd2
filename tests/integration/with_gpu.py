"""Workers whose trainings find a GPU, played as in `working`: `with_gpu QUEUE`."""

from __future__ import annotations

import sys

import models.base
from backend.processes import running
from backend.queueing import leases
from backend.steps.training import fitting
from tests.integration import working

GPU = "gpu-0"

if __name__ == "__main__":
    working.play()
    leases.RENEWALS = 40  # so that a lease that Redis forgot is taken again within 0.5 s
    models.base.resolve_device = lambda device: "cuda"
    fitting.gpu_of = lambda device: GPU
    running.worker(working.SETTINGS, sys.argv[1:])
