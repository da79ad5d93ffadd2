"""How heat becomes a mask: the settings of a class, by rule and by what its spec says."""

from __future__ import annotations

from dataclasses import dataclass, replace

from models import refine
from models.base import ClassSpec, HeatMap, Image, Mask

THIN_DARK = ("crack", "fissure", "hairline", "crazing")  # parts of names that `fusion` suits


@dataclass(frozen=True)
class Settings:
    """How the heat of a class becomes a mask; the first fields are those of ClassSpec.

    closing_px: None = what the refinement thinks fit for the width.
    width_px: how wide defects of the class typically are; None = not known.
    """

    refine: str
    iterations: int
    threshold: float
    min_area_px: int
    closing_px: int | None = None
    width_px: float | None = None


def is_thin(class_name: str) -> bool:
    """Tell whether a class of this name is thin and dark, as far as a name can tell."""
    return any(part in class_name.lower() for part in THIN_DARK)


def default_settings(spec: ClassSpec, *, threshold: float | None = None) -> Settings:
    """Apply the rule: thin dark defects by `fusion`, others by `guided`, what `spec` says first.

    Without a climb, which costs three times as much and lost as often as it won; the paper's own
    refinement, `threshold`, keeps the paper's one climb.
    threshold: of all refinements where the heat is a probability; None = each one's own, for heat
    that is normalised per image.
    """
    method = spec.refine or ("fusion" if is_thin(spec.name) else "guided")
    chosen = refine.get(method)
    rule = Settings(
        refine=method,
        iterations=2 if method == "threshold" else 1,
        threshold=chosen.default_threshold if threshold is None else threshold,
        min_area_px=chosen.default_min_area_px,
    )
    return fixed(rule, spec)


def resolve(chosen: Settings, spec: ClassSpec, *, threshold: float | None = None) -> Settings:
    """Let the spec overrule a version's choice; another refinement brings its own defaults.

    threshold: as in `default_settings`.
    """
    if spec.refine is not None and spec.refine != chosen.refine:
        return replace(default_settings(spec, threshold=threshold), width_px=chosen.width_px)
    return fixed(chosen, spec)


def apply(image: Image, heat: HeatMap, settings: Settings) -> Mask:
    """Turn heat into a mask as the settings say."""
    return refine.get(settings.refine).refine(
        image,
        heat,
        threshold=settings.threshold,
        min_area_px=settings.min_area_px,
        closing_px=settings.closing_px,
        width_px=settings.width_px,
    )


def fixed(settings: Settings, spec: ClassSpec) -> Settings:
    """Put what the spec says in the place of what the settings say."""
    names = ("iterations", "threshold", "min_area_px", "closing_px")
    wanted = {name: getattr(spec, name) for name in names}
    return replace(settings, **{k: v for k, v in wanted.items() if v is not None})
