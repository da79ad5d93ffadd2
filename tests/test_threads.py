"""Threads of a worker sleep while they wait for each other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

CODE = "from backend.processes import running; running.patient_threads(); import torch"


def test_pytorch_in_a_worker_is_told_not_to_spin() -> None:
    told = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    found = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**told, "OMP_DISPLAY_ENV": "TRUE"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in found.stderr
