"""Figures of a set of proposals, summed up image by image: no pixels are kept."""

from __future__ import annotations

from dataclasses import dataclass

from models import metrics
from models.base import HeatMap, Mask
from models.curves import Curves, ranking_levels
from models.masks.correction import correction, draw_s
from models.metrics import Counts, Instances, Matches

TOLERANCE_PX = 2

Figures = dict[str, float | None]


@dataclass(frozen=True)
class ImageScore:
    """The figures of one image."""

    name: str
    f1: float
    f1_2px: float
    true_px: int
    proposed_px: int


class Tally:
    """All figures of the images added so far; memory does not grow with their number."""

    def __init__(self) -> None:
        self._images = 0
        self._strict, self._tolerant = Matches(), Matches()
        self._f_sum, self._f_2px_sum = 0.0, 0.0
        self._regions, self._symmetric = Counts(), Counts()
        self._instances, self._instances_2px = Instances(), Instances()
        self._correction_s, self._scratch_s = 0.0, 0.0
        self._curves = Curves()

    def add(self, name: str, mask: Mask, heat: HeatMap, truth: Mask) -> ImageScore:
        """Take in a proposal: (H, W) bool, (H, W) in [0, 1], and the truth (H, W) bool."""
        strict = metrics.matches(mask, truth)
        tolerant = metrics.matches(mask, truth, TOLERANCE_PX)
        self._images += 1
        self._strict += strict
        self._tolerant += tolerant
        self._f_sum += strict.f_measure
        self._f_2px_sum += tolerant.f_measure
        self._regions += metrics.region_counts(mask, truth)
        self._symmetric += metrics.region_counts(mask, truth, symmetric=True)
        self._instances += metrics.instances(mask, truth)
        self._instances_2px += metrics.instances(mask, truth, TOLERANCE_PX)
        self._correction_s += correction(mask, truth).cost_s
        self._scratch_s += draw_s(truth)
        self._curves.add(ranking_levels(mask, heat), truth)
        measured = strict.f_measure, tolerant.f_measure
        return ImageScore(name, *measured, strict.true, strict.proposed)

    def figures(self) -> Figures:
        """Return all figures by their names in the JSON; None where there is nothing to divide by.

        Raises ValueError without images.
        """
        if not self._images:
            raise ValueError("no image was scored; give at least one")
        return {
            "f1": self._strict.f_measure,
            "f1_2px": self._tolerant.f_measure,
            "f1_per_image": self._f_sum / self._images,
            "f1_2px_per_image": self._f_2px_sum / self._images,
            "precision": self._strict.precision,
            "recall": self._strict.recall,
            "precision_2px": self._tolerant.precision,
            "recall_2px": self._tolerant.recall,
            "ods": self._curves.ods,
            "ods_pooled": self._curves.ods_pooled,
            "ois": self._curves.ois,
            "ap": self._curves.average_precision,
            "auprc": self._curves.auprc,
            "auprc_trapezoid": self._curves.auprc_trapezoid,
            "region_f1": self._regions.f_measure,
            "region_f1_symmetric": self._symmetric.f_measure,
            "instance_recall": self._instances.recall,
            "instance_recall_2px": self._instances_2px.recall,
            "time_saving_estimate": self._time_saving(),
        }

    @property
    def true_share(self) -> float:
        """Share of all pixels that is defect, in [0, 1]."""
        return self._curves.true_share

    def _time_saving(self) -> float | None:
        """Estimate the share of drawing time that correcting the proposals instead would save.

        1 - seconds to correct all / seconds to draw all, by the cost model of
        `models.masks.correction`, as the gate judges versions (good enough proposals are accepted
        as they are): a surrogate of ours, not the paper's estimate by inspection.
        Below 0 when correcting takes longer; None when there is nothing to draw.
        """
        return 1 - self._correction_s / self._scratch_s if self._scratch_s else None
