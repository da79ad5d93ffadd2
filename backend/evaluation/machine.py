"""Where an evaluation ran: hardware, versions, memory."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("labelclimb", "torch", "timm", "numpy", "opencv-python-headless", "scikit-image")
CPU_INFO = Path("/proc/cpuinfo")


def peak_memory_mib() -> float:
    """Return the largest resident memory of this process since its start, libraries included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def hardware(device: str) -> str:
    """Describe the processor, and the GPU if that is what the networks ran on."""
    import torch

    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    parts = [names[0] if names else platform.machine(), f"{os.cpu_count()} cores"]
    parts.append(f"{torch.get_num_threads()} torch threads")
    if device.startswith("cuda"):
        parts.append(torch.cuda.get_device_name(device))
    return ", ".join(parts)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the figures."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # opencv comes under several names
    return found
