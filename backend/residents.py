"""The trained versions that stay in memory, so that no task pays for loading weights."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import models.base
from backend.registry import Registry
from models.base import Fitted


class Residents:
    """The last few versions that were used, by (project, number); safe to share by threads."""

    def __init__(self, registry: Registry, *, device: str, capacity: int = 3) -> None:
        self._registry = registry
        self._device = device
        self._capacity = capacity
        self._lock = threading.Lock()
        self._fitted: OrderedDict[tuple[int, int], Fitted] = OrderedDict()

    def get(self, project: int, number: int, pipeline: str) -> Fitted:
        """Return a version, loading it on first use; raises CorruptVersion on a wrong digest."""
        with self._lock:
            key = (project, number)
            if key not in self._fitted:
                folder = self._registry.folder(project, number)
                self._fitted[key] = _load(pipeline, folder, self._device)
            self._fitted.move_to_end(key)
            while len(self._fitted) > self._capacity:
                self._fitted.popitem(last=False)
            return self._fitted[key]


def _load(pipeline: str, folder: Path, device: str) -> Fitted:
    return models.base.get(pipeline).load(folder, device=models.base.resolve_device(device))
