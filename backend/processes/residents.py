"""The trained versions that stay in memory, so that no task pays for loading weights."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import models.base
from backend.registry import Registry
from models.base import Fitted
from models.memory import with_smaller_tiles


class Residents:
    """The last few versions that were used, by (project, number); safe to share by threads."""

    def __init__(self, registry: Registry, *, device: str, capacity: int = 3) -> None:
        self._registry = registry
        self._device = device
        self._capacity = capacity
        self._lock = threading.Lock()
        self._fitted: OrderedDict[tuple[int, int], Fitted] = OrderedDict()
        self._pipelines: dict[tuple[int, int], str] = {}
        self._on_cpu: set[tuple[int, int]] = set()  # versions that left the GPU for ever

    def get(self, project: int, number: int, pipeline: str) -> Fitted:
        """Return a version, loading it on first use; raises CorruptVersion on a wrong digest."""
        with self._lock:
            key = (project, number)
            self._pipelines[key] = pipeline
            if key not in self._fitted:
                folder = self._registry.folder(project, number)
                device = "cpu" if key in self._on_cpu else self._device
                self._fitted[key] = _load(pipeline, folder, device)
            self._fitted.move_to_end(key)
            while len(self._fitted) > self._capacity:
                self._fitted.popitem(last=False)
            return self._fitted[key]

    def smaller(self, project: int, number: int, than: Fitted) -> tuple[Fitted, str] | None:
        """Return a version that needs less memory than one that ran out, and what is changed.

        Its tiles are halved first, then it leaves the GPU; it takes the other one's place. None
        when nothing is left to be tried.
        """
        with self._lock:
            key = (project, number)
            is_on_gpu = key not in self._on_cpu and self._is_gpu()
            found = less(than, partial(self._moved, key) if is_on_gpu else None)
            if found is not None:
                self._fitted[key], _ = found
            return found

    def _moved(self, key: tuple[int, int]) -> Fitted:
        fitted = _load(self._pipelines[key], self._registry.folder(*key), "cpu")
        self._on_cpu.add(key)
        return fitted

    def _is_gpu(self) -> bool:
        return models.base.resolve_device(self._device) != "cpu"


def less(than: Fitted, moved: Callable[[], Fitted] | None) -> tuple[Fitted, str] | None:
    """Return a version that needs less memory than one that ran out, and what is changed.

    moved: gives it on the CPU; None when it is there already. None when nothing is left.
    """
    smaller = with_smaller_tiles(than)
    if smaller is not None:
        return smaller, "smaller tiles"
    return None if moved is None else (moved(), "the CPU instead of the GPU")


def _load(pipeline: str, folder: Path, device: str) -> Fitted:
    return models.base.get(pipeline).load(folder, device=models.base.resolve_device(device))
