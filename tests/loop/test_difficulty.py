from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backend.loop import difficulty
from backend.loop.difficulty import NEEDED, predict, sample_weights, timed
from backend.loop.ordering import describing
from backend.loop.ordering.describing import LOOK_S, features, heuristic_s, pixel_doubt, total
from backend.loop.ordering.regression import PACE_PENALTY, fit
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
    return float(math.sqrt(1 + total(one, "outline_px")) * math.exp(describing.doubt(one)))


def test_the_heuristic_is_the_stated_formula() -> None:
    stats = {"area_px": 900.0, "outline_px": 700.0, "components": 3.0, "heat_sharpness": 0.1}
    both = {"crack": stats, "rust": {**stats, "outline_px": 300.0, "components": 1.0}}
    undecided = evidence(1, stats=both, tile_probs=((0.5, 0.5), (0.5, 0.5)))
    certain = evidence(1, stats=both, tile_probs=((1.0, 0.0),))
    assert heuristic_s(undecided) == pytest.approx(4 + 1.5 * 4 + 0.01 * 1000)
    assert heuristic_s(certain) == pytest.approx(4 + 1.5 * 4 + 0.01 * 1000 * 0.1)


def test_nothing_proposed_costs_a_look() -> None:
    assert heuristic_s(evidence(1, stats={}, tile_probs=((0.0,),))) == LOOK_S


def test_below_the_needed_number_the_heuristic_serves_and_says_so() -> None:
    past, shown = done(range(7))
    found = predict([evidence(100)], past, shown)
    assert found.basis == "heuristic: 7 of 20 timed annotations"
    assert found.seconds == {100: heuristic_s(evidence(100))}
    assert found.error is None
    low, high = found.intervals[100]
    assert low * 3 == pytest.approx(found.seconds[100]) == pytest.approx(high / 3)


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
    huge = evidence(100, stats={"crack": {"area_px": 1e7, "outline_px": 1e6, "components": 900.0,
                                        "heat_sharpness": 0.5}})  # fmt: skip
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
    known = timed([*past, interaction(task=6, annotation=6, trust=0.3)], shown)
    assert [one.task for one in known.evidence] == [5, 5]
    assert known.seconds.tolist() == [20.0, 7.0]


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
    with pytest.raises(ValueError, match="1 of 1 mean entropies of task 8 are not finite"):
        predict([evidence(8, tile_probs=((math.nan,),))])


def test_a_diverged_embedding_is_refused() -> None:
    past, shown = done(range(NEEDED))
    with pytest.raises(ValueError, match="1 of .* values of the embeddings are not finite"):
        predict([evidence(100, embedding=(math.inf, 0.0))], past, shown)


def test_eighty_percent_of_fresh_tasks_fall_into_their_interval() -> None:
    rng = np.random.default_rng(5)
    shown = [evidence(task) for task in range(400)]
    seconds = {one.task: true_seconds(one) * math.exp(rng.normal(0, 0.4)) for one in shown}
    past = [
        interaction(task=t, annotation=t, edit_seconds=s) for t, s in seconds.items() if t < 200
    ]
    found = predict(shown[200:], past, shown[:200])
    inside = [low <= seconds[task] <= high for task, (low, high) in found.intervals.items()]
    assert len(inside) == 200
    assert 0.7 < np.mean(inside) < 0.9
    assert found.error == pytest.approx(math.exp(0.4 * 0.674), rel=0.15)


def paced(paces: dict[int, float], each: int) -> tuple[list[Interaction], list[TaskEvidence]]:
    """Let people of different paces work on different tasks, the slow one on the small ones."""
    shown = sorted((evidence(task) for task in range(len(paces) * each)), key=true_seconds)
    past = [
        interaction(
            task=one.task,
            annotation=1000 + one.task,
            annotator=person,
            edit_seconds=true_seconds(one) * paces[person],
        )
        for n, one in enumerate(shown)
        for person in [sorted(paces)[n % 2 if n % 5 else n // each]]
    ]
    return past, shown


def test_the_pace_of_a_person_is_no_property_of_their_tasks() -> None:
    past, shown = paced({1: 2.0, 2: 0.5}, 60)
    fresh = [evidence(task) for task in range(500, 560)]
    found = predict(fresh, past, shown)
    assert found.paces[1] / found.paces[2] == pytest.approx(4.0, rel=0.1)
    ratio = [found.seconds[one.task] / true_seconds(one) for one in fresh]
    assert np.median(ratio) == pytest.approx(1.0, rel=0.15)
    assert found.error is not None and found.error < 1.3
    low, high = found.intervals[500]
    assert high / low > 3, "whoever comes may be fast or slow"


def test_one_annotation_hardly_moves_a_pace() -> None:
    x, people = np.zeros((12, 1)), [1] * 11 + [2]
    y = np.array([0.0] * 11 + [1.0])
    paces = fit(x, y, people).paces
    assert paces[2] < 1 / (1 + PACE_PENALTY) + 0.1
    assert paces[2] > paces[1]


def test_the_regression_is_ridge_on_standardised_columns() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    from backend.loop.ordering import regression

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)) * [1, 10, 0.1], rng.normal(size=40)
    z = StandardScaler().fit_transform(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regression, "PENALTIES", (7.0,))
        patch.setattr(regression, "PACE_PENALTY", 1e9)
        found = fit(x, y, [None] * 40).predict(x)
    np.testing.assert_allclose(found, Ridge(alpha=7.0).fit(z, y).predict(z), atol=1e-6)


def test_leave_one_out_is_that_of_leaving_one_out() -> None:
    from backend.loop.ordering.regression import _ridge

    rng = np.random.default_rng(0)
    x, y, penalties = rng.normal(size=(15, 3)), rng.normal(size=15), np.array([0.5, 1.0, 2.0])
    errors = []
    for out in range(15):
        kept = np.arange(15) != out
        weights, _ = _ridge(x[kept], y[kept], penalties)
        errors.append((y[out] - x[out] @ weights) ** 2)
    assert _ridge(x, y, penalties)[1] == pytest.approx(np.mean(errors), rel=1e-6)


def test_an_embedding_that_tells_is_used() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(120, 5))
    shown = [evidence(t, embedding=tuple(v)) for t, v in enumerate(vectors.tolist())]
    seconds = np.exp(3 + vectors[:, 0])
    past = [interaction(task=t, annotation=t, edit_seconds=float(seconds[t])) for t in range(100)]
    told = predict(shown[100:], past, shown[:100])
    blind = [replace(one, embedding=()) for one in shown]
    guessed = predict(blind[100:], past, blind[:100])
    assert told.error is not None and guessed.error is not None
    assert told.error < 1.2 < guessed.error
    true = np.log(seconds[100:])
    assert np.corrcoef(np.log([told.seconds[t] for t in range(100, 120)]), true)[0, 1] > 0.95


def test_features_hold_shape_doubt_and_classes() -> None:
    stats = {"area_px": 400.0, "outline_px": 100.0, "components": 3.0,
             "heat_sharpness": 0.8, "outline_doubt": 0.3}  # fmt: skip
    none = dict.fromkeys(stats, 0.0)
    one = evidence(
        1, classes=("crack", "rust"), stats={"crack": stats, "rust": none},
        tile_probs=((0.5, 0.0), (0.99, 0.0), (0.3, 0.0), (0.0, 0.0)),
    )  # fmt: skip
    row = features(one, ["crack", "rust"]).tolist()
    expected = [math.log(heuristic_s(one)), *np.log1p([400, 100, 3]), 0.25, 0.8, 0.3]
    assert row[:7] == pytest.approx(expected)
    assert row[8:] == pytest.approx([math.log1p(2), 0.5, 1.0, 0.0])
    assert pixel_doubt(one) == pytest.approx(0.3), "the class without an outline has no say"
    assert pixel_doubt(evidence(2)) is None, "an older version did not look at its outlines"


def test_weights_of_samples_have_mean_one() -> None:
    seconds = {"a": 10.0, "b": 90.0, "c": 30.0}
    assert sample_weights(seconds, "off", 0.3) == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert sample_weights(seconds, "hard_first", 0.0) == {"a": 0.5, "b": 1.5, "c": 1.0}
    assert sample_weights(seconds, "curriculum", 0.0) == {"a": 1.5, "b": 0.5, "c": 1.0}
    assert sample_weights(seconds, "curriculum", 0.5) == sample_weights(seconds, "off", 0)
    assert sample_weights(seconds, "curriculum", 1.0) == sample_weights(seconds, "hard_first", 0)
    assert sample_weights({}, "hard_first", 0.0) == {}
    ties = sample_weights(dict.fromkeys("abcd", 5.0), "hard_first", 0.0)
    assert set(ties.values()) == {1.0}


def test_the_error_is_that_of_models_which_have_not_seen_the_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    past, shown = done(range(30))
    twins = [replace(one, annotation=one.annotation + 5000, annotator=2) for one in past]
    taught: list[list[float]] = []

    def noted(inputs: Any, target: Any, people: Any) -> Any:
        taught.append(np.round(target, 9).tolist())
        return fit(inputs, target, people)

    monkeypatch.setattr(difficulty, "fit", noted)
    predict([], [*past, *twins], shown)
    *folds, last = taught
    assert len(folds) == 2 * difficulty.FOLDS and len(last) == 60
    for seen in folds:
        assert len(seen) == 48
        assert all(seen.count(one) == 2 for one in seen), "both annotations of a task, or none"
