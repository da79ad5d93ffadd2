from __future__ import annotations

from backend.loop.ordering.reviewing import suspects
from backend.records import Interaction, TaskEvidence
from tests.loop.making import evidence, interaction


def finished() -> tuple[list[Interaction], list[TaskEvidence]]:
    """Ten cracks that were found, five empty images, one missed and one invented crack."""
    probs = {**dict.fromkeys(range(10), 0.9), **dict.fromkeys(range(10, 15), 0.05)}
    probs |= {20: 0.97, 21: 0.02}
    shown = [evidence(task, tile_probs=((0.01,), (p,))) for task, p in probs.items()]
    past = [interaction(task=t, annotation=t, outcome="accepted", iou=1.0) for t in range(10)]
    past += [interaction(task=t, annotation=t, outcome="rejected", iou=0.0) for t in range(10, 15)]
    past += [interaction(task=20, annotation=20, outcome="rejected", iou=0.0)]
    past += [interaction(task=21, annotation=21, outcome="missed", iou=0.0)]
    return past, shown


def test_contradictions_come_first_and_say_what_each_side_says() -> None:
    found = suspects(*finished(), seed=0)
    assert len(found) == 17
    assert {one.task for one in found[:2]} == {20, 21}
    assert found[0].suspicion > 0.1 > found[3].suspicion
    why = {one.task: one.reason for one in found}
    assert why[20] == ("crack: not found by people, probability 97%, overlap with the proposal 0%")


def test_the_newest_answer_and_the_newest_version_count() -> None:
    past, shown = finished()
    again = interaction(task=20, annotation=20, outcome="accepted", iou=1.0)
    found = {one.task: one.suspicion for one in suspects([*past, again], shown, seed=0)}
    assert found[20] < 0
    newer = evidence(20, number=4, tile_probs=((0.02,),))
    older = evidence(20, number=2, tile_probs=((0.99,),))
    for versions, is_suspect in ((shown, True), ([*shown, newer, older], False)):
        found = {one.task: one.suspicion for one in suspects(past, versions, seed=0)}
        assert (found[20] > 0) is is_suspect


def test_nothing_finished_and_nothing_seen() -> None:
    past, shown = finished()
    assert suspects([], shown, seed=0) == []
    assert suspects(past, [], seed=0) == []
