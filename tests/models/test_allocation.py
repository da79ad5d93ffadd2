from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch

from models.allocation import freed_memory_kept

HAS_GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")
needs_glibc = pytest.mark.skipif(not HAS_GLIBC, reason="glibc's malloc only")
SIDE = 6000  # of a float32 square: 137 MiB, above the thresholds


def page_faults() -> int:
    """Pages that the kernel clears for one large tensor after some have come and gone."""
    for _ in range(12):
        torch.ones(SIDE, SIDE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(SIDE, SIDE)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@needs_glibc
def test_inside_a_freed_tensor_serves_the_next() -> None:
    pages = 4 * SIDE**2 / resource.getpagesize()
    with freed_memory_kept():
        assert page_faults() < 0.1 * pages  # all of them by default


@needs_glibc
def test_afterwards_the_memory_is_given_back_even_after_an_error() -> None:
    before = resident_mib()
    with pytest.raises(ZeroDivisionError), freed_memory_kept():
        torch.ones(SIDE, SIDE)
        assert resident_mib() > before + 100
        raise ZeroDivisionError
    assert resident_mib() < before + 30


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with freed_memory_kept():
        assert torch.ones(3).sum() == 3
