"""`fusion` for THIN BRIGHT defects: white hairlines, crystallised cracks, scratches in paint."""

from __future__ import annotations

from models.base import HeatMap, Image, Mask
from models.refine import Cut, fusion
from models.refine.threshold import finish

summary = "Where it is hot, what is locally bright: for thin bright defects such as scratches."
default_threshold = fusion.default_threshold
default_min_area_px = fusion.default_min_area_px
is_slow = False
is_scaled = True
least_width_px, most_width_px = fusion.least_width_px, fusion.most_width_px
closing_for = fusion.closing_for


def refine(
    image: Image,
    heat: HeatMap,
    *,
    threshold: float,
    min_area_px: int,
    closing_px: int | None = None,
    width_px: float | None = None,
) -> Mask:
    """Keep the locally bright pixels near heat above `threshold`; otherwise as `fusion.refine`."""
    mask = prepare(image, heat, width_px=width_px)(threshold)
    return finish(mask, closing_for(width_px) if closing_px is None else closing_px, min_area_px)


def prepare(image: Image, heat: HeatMap, *, width_px: float | None = None) -> Cut:
    """Return the cut at a threshold: what is bright is dark in the negative."""
    return fusion.prepare(255 - image, heat, width_px=width_px)
