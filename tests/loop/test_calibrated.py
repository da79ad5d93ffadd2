"""Calibration beside the gate: measured as the literature does, an objection when clearly worse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from backend.loop import calibrated, gate
from backend.loop.calibrated import Sure
from backend.loop.gate import TaskScore
from models.base import Region
from tests.loop.making import box

TASKS = 12


def scored(regions: Sequence[Sure], f: float = 0.6) -> list[TaskScore]:
    """Every task shows the same regions."""
    return [TaskScore(f"t{n:02}", "crack", 20.0, f, f, tuple(regions)) for n in range(TASKS)]


HONEST = [(0.75, True), (0.75, True), (0.75, True), (0.75, False)]
BOASTING = [(0.99, True), (0.99, True), (0.99, True), (0.99, False)]


def test_figures_are_those_of_the_formulas() -> None:
    found = calibrated.figures([(0.92, True), (0.98, False), (0.35, False), (0.31, True)])
    assert found["regions"] == 4
    # bins [0.9, 1]: mean 0.95 against a share of 0.5; [0.3, 0.4): 0.33 against 0.5
    assert found["ece"] == pytest.approx((2 * 0.45 + 2 * 0.17) / 4)
    squares = [0.08**2, 0.98**2, 0.35**2, 0.69**2]
    assert found["brier"] == pytest.approx(sum(squares) / 4)
    assert calibrated.figures([]) == {"regions": 0}


def test_a_comparison_sees_what_the_figures_see() -> None:
    everyone = np.arange(TASKS)[None].repeat(10, axis=0)
    found = calibrated.compare([HONEST] * TASKS, [BOASTING] * TASKS, everyone)
    assert found is not None
    rise = calibrated.figures(BOASTING)["ece"] - calibrated.figures(HONEST)["ece"]
    assert found.ece_rise == pytest.approx(rise) == pytest.approx(0.24)
    assert found.at_least == pytest.approx(0.24), "each resample was the whole"


def test_regions_are_right_when_half_of_them_is_defect() -> None:
    mask = box(0, 0, 10, 10) | box(100, 100, 110, 120)
    regions = (
        Region(100, 100, 20, 10, 200, 0.8),
        Region(0, 0, 10, 10, 100, 0.3),
        Region(50, 50, 3, 3, 9, 0.9),  # no part of the mask
    )
    truth = box(100, 110, 110, 130) | box(0, 0, 4, 10)
    assert calibrated.of_regions(mask, regions, truth) == ((0.8, True), (0.3, False))


def test_clearly_worse_calibration_is_an_objection() -> None:
    verdict = gate.judge(scored(HONEST), scored(BOASTING, f=0.61), seed=0)
    assert not verdict.promote
    assert "calibration error of its confidences rose by 0.24 (0.1 allowed)" in verdict.reason
    assert verdict.figures["challenger"]["calibration"]["ece"] == pytest.approx(0.24)
    assert gate.judge(scored(BOASTING), scored(HONEST), seed=0).promote


@pytest.mark.parametrize("short", [HONEST[:1], ()])
def test_few_regions_are_no_evidence(short: Sequence[Sure]) -> None:
    verdict = gate.judge(scored(short), scored(BOASTING, f=0.61), seed=0)
    assert verdict.promote and verdict.figures["calibration"] is None


def test_a_rise_that_one_task_makes_is_chance() -> None:
    after = scored(HONEST)
    boast = tuple((1.0, False) for _ in range(12))
    after[3] = TaskScore("t03", "crack", 20.0, 0.6, 0.6, boast)
    verdict = gate.judge(scored(HONEST), after, seed=0)
    found = verdict.figures["calibration"]
    assert verdict.promote
    assert found["ece_rise"] > calibrated.WORSE_ECE and found["at_least"] <= 0


def test_a_confidence_that_is_no_number_never_passes() -> None:
    verdict = gate.judge(scored(HONEST), scored([(float("nan"), True)]), seed=0)
    assert verdict.reason == f"{TASKS} of {TASKS} validation figures are not finite"
