from __future__ import annotations

import math

import numpy as np
import pytest

from backend.loop import difficulty
from backend.loop.difficulty import NEEDED, features, heuristic_s, predict, timed
from backend.records import Interaction, TaskEvidence
from tests.loop.making import evidence, interaction


def done(tasks: range) -> tuple[list[Interaction], list[TaskEvidence]]:
    """Correct each task once; its seconds follow from its evidence."""
    shown = [evidence(task) for task in tasks]
    past = [
        interaction(task=one.task, annotation=1000 + one.task, edit_seconds=true_seconds(one))
        for one in shown
    ]
    return past, shown


def true_seconds(one: TaskEvidence) -> float:
    return float(math.exp(0.5 * features(one)[1] + features(one)[3]))


def test_the_heuristic_is_the_stated_formula() -> None:
    stats = {"area_px": 900.0, "outline_px": 700.0, "components": 3.0, "heat_sharpness": 0.1}
    both = {"crack": stats, "rust": {**stats, "outline_px": 300.0, "components": 1.0}}
    undecided = evidence(1, stats=both, tile_probs=((0.5, 0.5), (0.5, 0.5)))
    certain = evidence(1, stats=both, tile_probs=((1.0, 0.0),))
    assert heuristic_s(undecided) == pytest.approx(4 + 1.5 * 4 + 0.01 * 1000)
    assert heuristic_s(certain) == pytest.approx(4 + 1.5 * 4 + 0.01 * 1000 * 0.1)


def test_nothing_proposed_costs_a_look() -> None:
    assert heuristic_s(evidence(1, stats={}, tile_probs=((0.0,),))) == difficulty.LOOK_S


def test_below_the_needed_number_the_heuristic_serves_and_says_so() -> None:
    past, shown = done(range(7))
    found = predict([evidence(100)], past, shown)
    assert found.basis == "heuristic: 7 of 20 timed annotations"
    assert found.seconds == {100: heuristic_s(evidence(100))}
    assert found.error is None


def test_from_the_needed_number_on_it_learns_what_seconds_follow() -> None:
    past, shown = done(range(60))
    fresh = [evidence(task) for task in range(100, 140)]
    found = predict(fresh, past, shown)
    assert "learned from 60 timed annotations" in found.basis
    true = [true_seconds(one) for one in fresh]
    learned = np.corrcoef(np.log([found.seconds[one.task] for one in fresh]), np.log(true))[0, 1]
    guessed = np.corrcoef(np.log([heuristic_s(one) for one in fresh]), np.log(true))[0, 1]
    assert learned > 0.95 > guessed
    assert found.error is not None and 1 <= found.error < 1.2
    assert predict([], past, shown).seconds == {}


def test_predictions_stay_within_what_was_seen() -> None:
    past, shown = done(range(NEEDED))
    huge = evidence(100, stats={"crack": {"area_px": 1e7, "outline_px": 1e6, "components": 900.0}})
    longest = max(one.edit_seconds or 0 for one in past)
    assert predict([huge], past, shown).seconds[100] == pytest.approx(longest)


def test_seconds_count_by_annotation_and_only_with_the_evidence_that_was_shown() -> None:
    shown = [evidence(5, number=3), evidence(6, number=3)]
    past = [
        interaction(task=5, annotation=1, class_name="crack", edit_seconds=10.0),
        interaction(task=5, annotation=1, class_name="rust", edit_seconds=10.0),
        interaction(task=5, annotation=2, edit_seconds=7.0),
        interaction(task=5, annotation=3, version=2),
        interaction(task=5, annotation=4, version=None),
        interaction(task=6, annotation=5, edit_seconds=None),
    ]
    known, seconds = timed(past, shown)
    assert [one.task for one in known] == [5, 5]
    assert seconds.tolist() == [20.0, 7.0]


def test_identical_tasks_and_seconds_are_no_problem() -> None:
    same = [_same(n) for n in range(NEEDED)]
    past = [interaction(task=n, annotation=n, edit_seconds=12.0) for n in range(NEEDED)]
    found = predict([_same(99)], past, same)
    assert found.seconds[99] == pytest.approx(12.0)
    assert found.error == pytest.approx(1.0)


def _same(task: int) -> TaskEvidence:
    model = evidence(1)
    return evidence(task, tile_probs=model.tile_probs, stats=model.stats)


def test_evidence_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 4 features of task 8 are not finite"):
        predict([evidence(8, tile_probs=((math.nan,),))])
