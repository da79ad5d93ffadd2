"""Running out of memory: how it shows, and how to give back what the failed attempt held."""

from __future__ import annotations

import copy
import gc
from dataclasses import replace
from typing import Any

import cv2

from models.base import Fitted

SIGNS = (  # in the texts of errors that have no class of their own
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "insufficient memory",
    "bad_alloc",
    "alloc_failed",
)
LEAST_TILE_PX = 256
TILE_STEP_PX = 64  # every network's alignment divides it
SHORTAGES = (RuntimeError, MemoryError, cv2.error)  # the kinds of error that it can show as


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on a GPU (torch's own kind) or elsewhere."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, SHORTAGES) and any(sign in text for sign in SIGNS)


def release() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    import torch

    torch.cuda.empty_cache()  # nothing where no GPU is in use


def gpu_of(device: str) -> str | None:
    """Name the GPU behind a device the same in every process; None for the CPU."""
    if device == "cpu":
        return None
    import torch

    index = torch.device(device).index
    chosen = torch.cuda.current_device() if index is None else index
    return f"gpu-{torch.cuda.get_device_properties(chosen).uuid}"


def smaller_tile_px(tile_px: int, halvings: int = 1) -> int:
    """Halve the side of tiles so many times, down to LEAST_TILE_PX."""
    smaller = (tile_px >> halvings) // TILE_STEP_PX * TILE_STEP_PX
    return tile_px if halvings == 0 else min(tile_px, max(LEAST_TILE_PX, smaller))


def with_smaller_tiles(fitted: Fitted) -> Fitted | None:
    """Return the version with tiles of half the side, its networks shared; None at the least.

    What it proposes stays the same: tiles are stitched exactly.
    """
    smaller = _smaller(fitted)
    return None if smaller is fitted else smaller


def _smaller(fitted: Any) -> Any:
    """Return the version itself when nothing of it can be smaller."""
    changed: dict[str, Any] = {}
    if hasattr(fitted, "geometry"):
        tile_px = smaller_tile_px(fitted.geometry.tile_px)
        if tile_px != fitted.geometry.tile_px:
            changed["geometry"] = replace(fitted.geometry, tile_px=tile_px)
    if hasattr(fitted, "teacher"):
        changed |= _if_new("teacher", fitted.teacher, _smaller(fitted.teacher))
    if hasattr(fitted, "parts"):
        parts = tuple(_if_smaller(part) for part in fitted.parts)
        changed |= _if_new("parts", fitted.parts, parts)
    if not changed:
        return fitted
    made = copy.copy(fitted)
    for name, value in changed.items():
        setattr(made, name, value)
    return made


def _if_smaller(part: Any) -> Any:
    smaller = _smaller(part.fitted)
    return part if smaller is part.fitted else replace(part, fitted=smaller)


def _if_new(name: str, old: Any, new: Any) -> dict[str, Any]:
    return {} if new is old or new == old else {name: new}
