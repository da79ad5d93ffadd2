"""Heat map to mask, one module per refinement; the file name is the refinement's name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol, cast

from models.base import HeatMap, Image, Mask


class Refinement(Protocol):
    """A module of this package.

    summary: one sentence for whoever chooses it.
    default_threshold: on the heat map, when nobody has chosen or measured one.
    default_min_area_px: likewise.
    """

    summary: str
    default_threshold: float
    default_min_area_px: int

    def refine(self, image: Image, heat: HeatMap, *, threshold: float, min_area_px: int) -> Mask:
        """(H, W, 3) uint8 RGB and (H, W) float32 in [0, 1] -> (H, W) bool; no heat, no mask."""


def names() -> tuple[str, ...]:
    """Return the names of all refinements, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def get(name: str) -> Refinement:
    """Return the refinement of this name; raises ValueError naming the known ones."""
    if name not in names():
        raise ValueError(f"unknown refinement {name!r}; known: {', '.join(names())}")
    return cast(Refinement, importlib.import_module(f"{__name__}.{name}"))
