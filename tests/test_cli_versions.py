"""What the commands show of the gate's figures."""

from __future__ import annotations

from typing import Any

import pytest

from backend.cli.versions import FIGURES, figure
from backend.loop.gate import TaskScore, judge


def decision(*, first: bool = False) -> dict[str, Any]:
    regions = ((0.9, True), (0.5, False))
    before = [TaskScore(f"t{n}", "crack", 20.0, 0.6, 0.5) for n in range(6)]
    after = [TaskScore(f"t{n}", "crack", 18.25, 0.61, 0.5, regions) for n in range(6)]
    return judge(None if first else before, after, seed=0).as_json()


def test_a_decision_is_shown_with_the_figures_of_both_sides() -> None:
    shown = {name: figure(decision(), path) for name, path in FIGURES.items()}
    assert shown == {"s to correct": "20 -> 18.2", "F": "0.6 -> 0.61", "calibration": "- -> 0.3"}
    assert figure(decision(first=True), ("cost_s",)) == "- -> 18.2"


@pytest.mark.parametrize("gate", [{}, {"reason": "copied"}, {"figures": {"tasks": 0}}])
def test_a_decision_without_figures_shows_none(gate: dict[str, Any]) -> None:
    assert figure(gate, ("cost_s",)) == ""
