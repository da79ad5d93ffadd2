from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest

from backend.loop.ordering import describing, pooling, reasons
from backend.loop.ranking import Known, Ranking, rank
from backend.records import TaskEvidence
from strategies.base import Trial
from tests.loop.making import evidence, interaction

DOUBT: Mapping[int, float] = MappingProxyType({11: 0.02, 12: 0.45, 13: 0.8, 14: 0.99})


def seen(doubt: Mapping[int, float] = DOUBT) -> dict[int, TaskEvidence]:
    return {task: evidence(task, tile_probs=((p,), (p,))) for task, p in doubt.items()}


def ranked(strategy: str = "entropy", tasks: tuple[int, ...] = tuple(DOUBT)) -> Ranking:
    return rank(tasks, seen(), Known(), strategy=strategy, seed=1)


@pytest.mark.parametrize("strategy", ["entropy", "margin"])
def test_the_nearest_to_one_half_comes_first(strategy: str) -> None:
    found = ranked(strategy)
    assert found.order == (12, 13, 11, 14)
    assert found.priorities == {12: 1.0, 13: pytest.approx(2 / 3), 11: pytest.approx(1 / 3), 14: 0}
    assert (found.strategy, found.note) == (strategy, "")


def test_edit_time_follows_the_predicted_seconds() -> None:
    found = ranked("edit_time")
    assert list(found.order) == sorted(DOUBT, key=lambda t: -found.edit_seconds[t])
    assert found.edit_seconds[12] == describing.heuristic_s(seen()[12])
    assert found.basis == "heuristic: 0 of 20 timed annotations"


def test_tasks_without_evidence_come_last() -> None:
    found = ranked(tasks=(91, 11, 12, 92, 13, 14, 93))
    assert found.order[:4] == (12, 13, 11, 14)
    assert set(found.order[4:]) == {91, 92, 93}
    assert found.priorities[14] > max(found.priorities[task] for task in (91, 92, 93))
    windowless = {**seen(), 12: evidence(12, tile_probs=())}
    assert rank(tuple(DOUBT), windowless, Known(), strategy="entropy", seed=1).order[-1] == 12


def test_without_any_evidence_the_order_is_random_and_says_so() -> None:
    found = rank([1, 2, 3, 4], {}, Known(), strategy="entropy", seed=1)
    assert sorted(found.order) == [1, 2, 3, 4]
    assert found.strategy == "random_order"
    assert found.note == "random_order instead of entropy, which needs predicted tasks"
    assert rank([1, 2, 3, 4], {}, Known(), strategy="random_order", seed=1).note == ""


def test_nothing_to_rank() -> None:
    found = rank([], {}, Known(), strategy="entropy", seed=1)
    assert (found.order, found.priorities) == ((), {})


def test_evidence_of_closed_tasks_is_left_out_and_their_order_does_not_matter() -> None:
    assert ranked(tasks=(14, 12)).order == ranked(tasks=(12, 14)).order == (12, 14)


def test_a_single_task_has_priority_one() -> None:
    assert ranked(tasks=(14,)).priorities == {14: 1.0}


def test_unknown_strategy_and_diverged_evidence_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown strategy 'entropi'"):
        ranked("entropi")
    broken = {**seen(), 12: evidence(12, tile_probs=((math.nan,),))}
    with pytest.raises(ValueError, match="not finite"):
        rank(tuple(DOUBT), broken, Known(), strategy="entropy", seed=1)


def test_classes_that_a_task_was_not_asked_for_count_as_absent() -> None:
    both = evidence(1, classes=("rust", "crack"), tile_probs=((0.5, 0.9),))
    pool = pooling.of_evidence([both, evidence(2, tile_probs=((0.7,),))], {1: 1.0, 2: 2.0})
    assert pool.tile_probs is not None and pool.tile_offsets is not None
    assert pool.tile_probs.tolist() == [[0.9, 0.5], [0.7, 0.0]]
    assert pool.tile_offsets.tolist() == [0, 1, 2]


def test_past_seconds_change_the_order_by_edit_time() -> None:
    shown = [evidence(task) for task in range(30)]
    past = [
        interaction(task=one.task, annotation=one.task, edit_seconds=900 / (1 + one.task))
        for one in shown
    ]
    found = rank(tuple(DOUBT), seen(), Known(past, shown), strategy="edit_time", seed=1)
    assert "learned from 30" in found.basis


def test_what_is_missing_is_said_in_words_and_stood_in_for() -> None:
    found = ranked("bald")
    assert found.strategy == "entropy" and found.order == ranked("entropy").order
    assert found.note == (
        "entropy instead of bald, which needs stochastic passes of the model over all tasks, "
        "kept from the next training on"
    )
    assert "orders no open ones (see `labelclimb review`)" in ranked("review").note


def test_options_reach_the_strategy_and_wrong_ones_are_refused() -> None:
    easy = rank(
        tuple(DOUBT), seen(), Known(), strategy="edit_time", seed=1, options={"order": "easy_first"}
    )
    assert easy.order == ranked("edit_time").order[::-1]
    with pytest.raises(ValueError, match="option order is 'lazy'; give hard_first"):
        rank(tuple(DOUBT), {}, Known(), strategy="edit_time", seed=1, options={"order": "lazy"})


def versions(*probs: float, number: int = 2) -> dict[int, TaskEvidence]:
    """One window per task, said by an earlier version."""
    rows = zip(DOUBT, probs, strict=False)
    return {t: evidence(t, number, tile_probs=((p,), (p,))) for t, p in rows}


def test_a_committee_of_versions_disagrees_where_their_answers_differ() -> None:
    earlier = versions(0.02, 0.45, 0.1, 0.99)
    found = rank(tuple(DOUBT), seen(), Known(committee=[earlier]), strategy="committee", seed=1)
    assert found.order[0] == 13 and (found.strategy, found.note) == ("committee", "")
    assert found.reasons[13].startswith("the last versions disagree, ")
    alone = ranked("committee")
    assert alone.note == "entropy instead of committee, which needs proposals of two versions"


def test_versions_with_other_windows_are_compared_by_their_surest_one() -> None:
    found = [evidence(1, tile_probs=((0.2,), (0.9,))), evidence(2, tile_probs=((0.3,), (0.4,)))]
    earlier = {1: evidence(1, 2, tile_probs=((0.1,), (0.6,), (0.5,)))}
    made = pooling.committee(found, [earlier], ["crack"])
    probs, offsets = made["committee_probs"], made["committee_offsets"]
    assert probs is not None and offsets is not None
    assert offsets.tolist() == [0, 1, 3]
    assert probs[:, :, 0].tolist() == [[0.9, 0.3, 0.4], [0.6, 0.3, 0.4]], "unseen: agrees"


def test_finished_tasks_of_the_same_version_count_as_covered() -> None:
    spread = {t: replace(e, embedding=(float(t), 0.0)) for t, e in seen().items()}
    known = {**spread, 99: evidence(99, embedding=(14.0, 0.1))}
    found = rank(tuple(DOUBT), known, Known(finished=1), strategy="coreset", seed=1)
    assert found.order[0] == 11, "the farthest from the finished one"
    assert found.order[-1] == 14 or found.order[1] == 14
    assert set(found.clusters) == set(DOUBT)
    assert ranked("entropy").clusters == {}


def test_rare_classes_come_from_the_people_s_answers() -> None:
    both = {
        1: evidence(1, classes=("crack", "rust"), tile_probs=((0.9, 0.1),)),
        2: evidence(2, classes=("crack", "rust"), tile_probs=((0.1, 0.9),)),
    }
    past = [interaction(task=t, annotation=t, class_name="crack") for t in range(20, 30)]
    past += [interaction(task=20, annotation=1, class_name="rust", outcome="rejected")]
    found = rank([1, 2], both, Known(past, finished=12), strategy="class_balance", seed=1)
    assert found.order == (2, 1) and found.note == ""
    share = pooling.class_share(past, 12, ["crack", "rust"])
    assert share is not None and share.tolist() == [10 / 12, 0.0]


def test_the_autopilot_says_what_it_does() -> None:
    trials = (Trial("entropy", 3.0, 10.0), Trial("edit_time", 1.0, 10.0))
    found = rank(tuple(DOUBT), seen(), Known(trials=trials), strategy="autopilot", seed=1)
    assert found.strategy == "hybrid", "of those that can be used the first without a trial"
    assert found.why == "autopilot tries hybrid, which has not been tried yet"
    assert found.order == ranked("hybrid").order


def test_each_task_says_why() -> None:
    found = ranked(tasks=(*DOUBT, 91))
    assert found.reasons[12].startswith("uncertain at 2 of 2 tiles, about ")
    assert found.reasons[14].startswith("sure at all of 2 tiles, about ")
    seconds = found.edit_seconds[12]
    assert f"about {reasons.duration(seconds)} of editing (" in found.reasons[12]
    assert found.reasons[91] == "no version has looked at it: it comes last"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (7.4, "7 s"), (38.0, "40 s"), (119.0, "120 s"), (200.0, "3 min"),
     (7199.0, "120 min"), (9000.0, "2.5 h")],
)  # fmt: skip
def test_durations_are_said_as_people_do(seconds: float, text: str) -> None:
    assert reasons.duration(seconds) == text


def passes(task: int, *said: tuple[float, ...]) -> TaskEvidence:
    """Give a task of one window and class, and what each pass said of it."""
    drawn = bytes(round(255 * p) for one in said for p in one)
    return evidence(task, tile_probs=((0.5,),), passes=len(said), samples=drawn)


def test_bald_asks_the_passes_and_not_the_doubt() -> None:
    """All say one half of 1: nothing is to be learnt; of 2 and 3 each is sure, of other things."""
    seen = {
        1: passes(1, (0.5,), (0.5,)),
        2: passes(2, (0.0,), (1.0,)),
        3: passes(3, (0.2,), (0.8,)),
    }
    found = rank((1, 2, 3), seen, Known(), strategy="bald", seed=0)
    assert (found.order, found.strategy, found.note) == ((2, 3, 1), "bald", "")
    pool = pooling.of_evidence([seen[2], seen[3]], {2: 1.0, 3: 1.0})
    assert pool.samples is not None and pool.samples.shape == (2, 2, 1)
    assert pool.samples[:, :, 0].tolist() == [[0.0, 51 / 255], [1.0, 204 / 255]]
    older = {**seen, 3: evidence(3, tile_probs=((0.9,),))}
    assert (
        "needs stochastic passes" in rank((1, 2, 3), older, Known(), strategy="bald", seed=0).note
    )


def test_passes_stand_in_the_columns_of_their_classes() -> None:
    two = evidence(
        1, classes=("rust", "crack"), tile_probs=((0.1, 0.2), (0.3, 0.4)), passes=1,
        samples=bytes((51, 102, 153, 204)),
    )  # fmt: skip
    found = pooling.samples([two, passes(2, (1.0,))], ["crack", "rust"])
    assert found is not None
    assert (found * 5).round(9).tolist() == [[[2, 1], [4, 3], [5, 0]]]


def test_an_older_version_has_no_doubt_of_pixels_and_says_so() -> None:
    found = rank(
        tuple(DOUBT), seen(), Known(), strategy="entropy", seed=1, options={"level": "pixels"}
    )
    assert found.note.startswith("entropy without its options, which need the doubt along the outl")
    assert found.order == ranked().order


def test_strategies_that_ask_for_it_spread_the_head_over_alike_tasks() -> None:
    kinds = {task: task // 4 for task in range(12)}
    alike = {
        task: evidence(
            task, tile_probs=((0.5 - task / 100,),), embedding=(float(kind == 0), float(kind == 1))
        )
        for task, kind in kinds.items()
    }
    found = rank(tuple(kinds), alike, Known(), strategy="hybrid", seed=0, options={"entropy": 1.0})
    assert {len({kinds[t] for t in found.order[n : n + 3]}) for n in range(9)} == {3}
    assert [t for t in found.order if kinds[t] == 0] == [0, 1, 2, 3]
    assert found.priorities[found.order[0]] == 1.0
    plain = rank(tuple(kinds), alike, Known(), strategy="entropy", seed=0)
    assert plain.order == tuple(range(12)) and plain.clusters == {}
