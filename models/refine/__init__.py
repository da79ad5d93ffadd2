"""Heat map to mask, one module per refinement; the file name is the refinement's name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Protocol, cast

from models.base import HeatMap, Image, Mask

Cut = Callable[[float], Mask]  # threshold -> mask, before gaps are closed and specks dropped


class Refinement(Protocol):
    """A module of this package.

    summary: one sentence for whoever chooses it.
    default_threshold: on the heat map, when nobody has chosen or measured one.
    default_min_area_px: likewise.
    is_slow: takes so long that a search tries it at few thresholds and on few images only.
    is_scaled: `prepare` depends on the width.
    least_width_px, most_width_px: of the classes for which a search tries it.
    """

    summary: str
    default_threshold: float
    default_min_area_px: int
    is_slow: bool
    is_scaled: bool
    least_width_px: float
    most_width_px: float

    def prepare(self, image: Image, heat: HeatMap, *, width_px: float | None = None) -> Cut:
        """Do once what no threshold changes; `refine` is the cut, closed, without specks."""

    def closing_for(self, width_px: float | None) -> int:
        """Return the diameter of the closing that suits defects of this width."""

    def refine(
        self,
        image: Image,
        heat: HeatMap,
        *,
        threshold: float,
        min_area_px: int,
        closing_px: int | None = None,
        width_px: float | None = None,
    ) -> Mask:
        """(H, W, 3) uint8 RGB and (H, W) float32 in [0, 1] -> (H, W) bool; no heat, no mask.

        closing_px: diameter of the round closing, about the widest gap to be bridged; 0 and 1 =
            none, None = what suits the width.
        width_px: how wide defects of the class typically are; sizes in pixels follow it within
            bounds. None = sizes for images of about 500 px.
        """


def names() -> tuple[str, ...]:
    """Return the names of all refinements, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def get(name: str) -> Refinement:
    """Return the refinement of this name; raises ValueError naming the known ones."""
    if name not in names():
        raise ValueError(f"unknown refinement {name!r}; known: {', '.join(names())}")
    return cast(Refinement, importlib.import_module(f"{__name__}.{name}"))
