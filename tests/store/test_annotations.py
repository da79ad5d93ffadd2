from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.store import Store, graves, learning, schema, tasks
from backend.store import annotations as annotation_rows
from tests.store.examples import annotation, at, interaction, mask, task, weak_label


def test_what_was_put_comes_back(store: Store) -> None:
    with store.transaction() as tx:
        assert annotation_rows.put(tx, annotation(bulk=True, was_cancelled=True))
        assert annotation_rows.get(tx, 5) == annotation(bulk=True, was_cancelled=True)
        assert annotation_rows.get(tx, 6) is None
        assert annotation_rows.of_task(tx, 7, 10) == [annotation(bulk=True, was_cancelled=True)]
        assert annotation_rows.of_task(tx, 7, 11) == []


def test_the_same_state_again_is_stale_a_newer_one_is_not(store: Store) -> None:
    newer = annotation(updated_at=at(70), result=())
    with store.transaction() as tx:
        assert annotation_rows.put(tx, annotation())
        assert not annotation_rows.put(tx, annotation())
        assert annotation_rows.put(tx, newer)
        assert not annotation_rows.put(tx, annotation())
        assert annotation_rows.get(tx, 5) == newer


def test_another_state_of_the_same_moment_is_taken(store: Store) -> None:
    """Label Studio repeats requests after lock errors; both states may carry one time."""
    with store.transaction() as tx:
        annotation_rows.put(tx, annotation())
        assert annotation_rows.put(tx, annotation(was_cancelled=True))
        assert not annotation_rows.put(tx, annotation(was_cancelled=True))


def test_any_order_of_arrival_gives_the_newest_state(store: Store) -> None:
    states = [annotation(updated_at=at(60 + n), annotator=n) for n in range(4)]
    for number, order in enumerate(permutations(states)):
        with store.transaction() as tx:
            for state in order:
                annotation_rows.put(tx, replace(state, id=100 + number))
            assert annotation_rows.get(tx, 100 + number) == replace(states[-1], id=100 + number)


def test_a_deleted_one_takes_what_it_taught_along(store: Store) -> None:
    with store.transaction() as tx:
        annotation_rows.put(tx, annotation())
        annotation_rows.put(tx, annotation(id=6))
        learning.replace(tx, 5, 7, 10, [interaction()], [weak_label()], [mask()])
        learning.replace(tx, 6, 7, 10, [], [weak_label(annotation=6)], [])
        assert annotation_rows.delete(tx, 7, [5, 77], at(99)) == [5]
        assert annotation_rows.delete(tx, 7, [5], at(99)) == []
        assert learning.weak_labels(tx, 7) == [weak_label(annotation=6)]
        assert learning.masks(tx, 7) == []
        assert learning.interactions(tx, 7) == []
        assert [each.id for each in annotation_rows.live(tx, 7)] == [6]
        buried = annotation_rows.get(tx, 5)
        assert buried is not None
        assert buried.deleted
        assert buried.result == ()


def test_an_older_event_does_not_bring_a_deleted_one_back(store: Store) -> None:
    with store.transaction() as tx:
        annotation_rows.put(tx, annotation())
        annotation_rows.delete(tx, 7, [5], at(99))
        assert not annotation_rows.put(tx, annotation(updated_at=at(98)))
        assert not annotation_rows.put(tx, annotation(updated_at=at(99)))
        assert annotation_rows.live(tx, 7) == []


def test_a_deletion_that_overtakes_the_creation_still_wins(store: Store) -> None:
    with store.transaction() as tx:
        assert annotation_rows.delete(tx, 7, [5], at(99)) == []
        assert not annotation_rows.put(tx, annotation())
        assert annotation_rows.inventory(tx, 7) == {}


def test_a_deleted_annotation_stays_deleted_whatever_the_clocks_say(store: Store) -> None:
    with store.transaction() as tx:
        annotation_rows.put(tx, annotation())
        annotation_rows.delete(tx, 7, [5], at(99))
        assert not annotation_rows.put(tx, annotation(updated_at=at(100), created_at=at(5)))
        assert not annotation_rows.live(tx, 7)


def test_an_id_that_is_given_again_after_the_deletion_is_alive(store: Store) -> None:
    again = annotation(updated_at=at(100), created_at=at(100))
    with store.transaction() as tx:
        annotation_rows.put(tx, annotation())
        annotation_rows.delete(tx, 7, [5], at(99))
        assert annotation_rows.put(tx, again)
        assert annotation_rows.live(tx, 7) == [again]


def test_a_clock_behind_label_studios_does_not_undo_a_deletion(store: Store) -> None:
    with store.transaction() as tx:
        annotation_rows.put(tx, annotation(updated_at=at(60)))
        assert annotation_rows.delete(tx, 7, [5], at(0)) == [5]
        assert not annotation_rows.put(tx, annotation(updated_at=at(60)))


def test_an_annotation_older_than_its_task_belongs_to_a_former_task(store: Store) -> None:
    with store.transaction() as tx:
        tasks.upsert(tx, [task(created_at=at(3600))])
        assert not annotation_rows.put(tx, annotation())
        assert annotation_rows.put(tx, annotation(updated_at=at(3601)))


def test_an_annotation_of_a_buried_task_stays_away_until_the_next_task_of_that_id(
    store: Store,
) -> None:
    with store.transaction() as tx:
        graves.bury(tx, 7, [10], at(90))
        assert not annotation_rows.put(tx, annotation(updated_at=at(95)))
        tasks.upsert(tx, graves.risen(tx, [task(created_at=at(100))])[0])
        assert not annotation_rows.put(tx, annotation(updated_at=at(95)))
        assert annotation_rows.put(tx, annotation(updated_at=at(101), created_at=at(101)))


@pytest.mark.parametrize("known", [True, False])
def test_only_a_task_created_later_rises_from_the_grave(store: Store, known: bool) -> None:
    """Of a known task its own creation decides, and our clock may be wrong; else our clock does."""
    late_clock, early_clock = at(5000), at(-5000)
    for buried_at in (late_clock, early_clock) if known else (at(50),):
        with store.transaction() as tx:
            tasks.upsert(tx, [task()] if known else [])
            graves.bury(tx, 7, [10], buried_at)
            tasks.delete(tx, 7, [10])
            assert graves.risen(tx, [task()]) == ([], not known)
            assert graves.risen(tx, [task(created_at=None)]) == ([], not known)
            again = task(created_at=at(60))
            assert graves.risen(tx, [again, task(id=11)]) == ([again, task(id=11)], False)
            assert not graves.holds(tx, 7, 10)


def test_what_label_studio_itself_shows_is_alive_unless_it_was_buried_since(store: Store) -> None:
    state = annotation(created_at=at(60))
    with store.transaction() as tx:
        graves.bury(tx, 7, [10], at(90))
        annotation_rows.delete(tx, 7, [5], at(90))
        assert graves.risen(tx, [task()], at(89)) == ([], True)
        assert not annotation_rows.put(tx, state, seen_at=at(89))
        tasks.upsert(tx, graves.risen(tx, [task()], at(91))[0])
        assert annotation_rows.put(tx, state, seen_at=at(91))
        assert annotation_rows.live(tx, 7) == [state]


def verdict(store: Store) -> str | None:
    with store.reading() as tx:
        known = annotation_rows.get(tx, 5)
    assert known is not None
    return known.review


REVIEW_STEPS = {
    "written": lambda tx: annotation_rows.put(tx, annotation()),
    "rejected": lambda tx: annotation_rows.review(tx, 5, "rejected", at(70), 1),
    "corrected": lambda tx: annotation_rows.put(tx, annotation(updated_at=at(80), result=())),
    "accepted": lambda tx: annotation_rows.review(tx, 5, "accepted", at(90), 2),
}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["written", "rejected"], "rejected"),
        (["written", "rejected", "corrected"], None),
        (["written", "rejected", "corrected", "accepted"], "accepted"),
    ],
)
def test_a_review_speaks_of_the_state_that_its_reviewer_saw(
    store: Store, steps: list[str], expected: str | None
) -> None:
    for order in permutations(steps):
        with store.transaction() as tx:
            tasks.forget_identity(tx, 7, [10])
            tx.execute(schema.reviews.delete())
            for step in order:
                REVIEW_STEPS[step](tx)
        assert verdict(store) == expected, order


def test_a_review_that_is_taken_back_leaves_no_verdict(store: Store) -> None:
    with store.transaction() as tx:
        REVIEW_STEPS["written"](tx)
        REVIEW_STEPS["accepted"](tx)
        annotation_rows.withdraw_reviews(tx, [1])
    assert verdict(store) == "accepted"
    with store.transaction() as tx:
        annotation_rows.withdraw_reviews(tx, [2])
    assert verdict(store) is None


def test_the_same_state_again_is_no_news_although_it_was_reviewed(store: Store) -> None:
    with store.transaction() as tx:
        assert annotation_rows.put(tx, annotation(), learned_at=at(200))
        annotation_rows.review(tx, 5, "accepted", at(90), 2)
        assert not annotation_rows.put(tx, annotation(), learned_at=at(300))
        assert annotation_rows.learned(tx, 7) == {5: at(200)}


def test_the_inventory_holds_the_living_of_one_project(store: Store) -> None:
    with store.transaction() as tx:
        for state in (annotation(), annotation(id=6, was_cancelled=True), annotation(id=7)):
            annotation_rows.put(tx, state)
        annotation_rows.put(tx, annotation(id=8, project=9))
        annotation_rows.delete(tx, 7, [7], at(99))
        assert annotation_rows.inventory(tx, 7) == {5: at(60), 6: at(60)}


IDS = (1, 2, 3)
WRITES = st.tuples(st.just("write"), st.sampled_from(IDS), st.integers(0, 9))
DELETIONS = st.tuples(st.just("delete"), st.sampled_from(IDS), st.just(10))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=st.lists(WRITES | DELETIONS, max_size=10))
def test_events_late_twice_or_out_of_order_give_the_same_end(
    store: Store, events: list[tuple[str, int, int]]
) -> None:
    """A deleted one is dead, any other has its newest state, however the events arrive."""
    deleted = {id for kind, id, _ in events if kind == "delete"}
    newest = {id: at(second) for kind, id, second in sorted(events) if kind == "write"}
    with store.transaction() as tx:
        tasks.forget_identity(tx, 7, [10, annotation_rows.NO_TASK])
        for kind, id, second in events + events[::2]:
            if kind == "write":
                annotation_rows.put(tx, annotation(id=id, updated_at=at(second)))
            else:
                annotation_rows.delete(tx, 7, [id], at(second))
        expected = {id: moment for id, moment in newest.items() if id not in deleted}
        assert annotation_rows.inventory(tx, 7) == expected
