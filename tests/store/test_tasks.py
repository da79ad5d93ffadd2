from __future__ import annotations

import pytest
from sqlalchemy import Connection

from backend.store import Store, learning, proposals, publishing, tasks
from backend.store import annotations as annotation_rows
from tests.store.examples import (
    annotation,
    at,
    evidence,
    interaction,
    mask,
    region,
    task,
    weak_label,
)


def give_a_history(tx: Connection) -> None:
    """Let task 10 have all that can hang on a task."""
    tasks.upsert(tx, [task()])
    assert annotation_rows.put(tx, annotation())
    learning.replace(tx, 5, 7, 10, [interaction()], [weak_label()], [mask()])
    proposals.save(tx, 7, 10, 1, [region()], evidence())
    publishing.record(tx, 7, "v1", {10: 0.5})


def history(tx: Connection) -> list[object]:
    return [
        annotation_rows.live(tx, 7),
        learning.interactions(tx, 7),
        learning.weak_labels(tx, 7),
        learning.masks(tx, 7),
        proposals.of_task(tx, 7, 10, 1),
        proposals.tasks_done(tx, 7, 1),
        publishing.of(tx, 7, "v1"),
    ]


def test_tasks_are_new_once(store: Store) -> None:
    with store.transaction() as tx:
        assert tasks.upsert(tx, [task(), task(id=11), task()]) == [10, 11]
        assert tasks.upsert(tx, [task(), task(id=11)]) == []
        assert tasks.get(tx, 7, 10) == task()
        assert tasks.get(tx, 7, 12) is None
        assert tasks.all(tx, 7) == [task(), task(id=11)]


@pytest.mark.parametrize("change", [{"image": "/data/b.jpg"}, {"created_at": at(3600)}])
def test_a_reused_id_is_a_new_task_without_the_old_ones_history(
    store: Store, change: dict[str, object]
) -> None:
    with store.transaction() as tx:
        give_a_history(tx)
        assert all(history(tx))
        assert tasks.upsert(tx, [task(**change)]) == [10]
        assert not any(history(tx))
        assert tasks.get(tx, 7, 10) == task(**change)
        assert proposals.by_region_ids(tx, ["v1-10-1"]) == {"v1-10-1": region()}
        assert proposals.next_index(tx, 1, 10) == 2


def test_the_same_task_keeps_its_history_and_what_was_learned_of_its_image(store: Store) -> None:
    with store.transaction() as tx:
        give_a_history(tx)
        before = history(tx)
        tasks.set_size(tx, 7, 10, width_px=6, height_px=4)
        assert tasks.upsert(tx, [task(), task(created_at=None)]) == []
        assert history(tx) == before
        assert tasks.get(tx, 7, 10) == task(width_px=6, height_px=4)


def test_a_late_sighting_of_the_former_task_changes_nothing(store: Store) -> None:
    with store.transaction() as tx:
        former = task(image="/data/former.jpg", created_at=at(-3600))
        give_a_history(tx)
        before = history(tx)
        assert tasks.upsert(tx, [former]) == []
        assert tasks.get(tx, 7, 10) == task()
        assert history(tx) == before


def test_an_unknown_time_of_creation_is_learned_later_without_a_new_identity(store: Store) -> None:
    with store.transaction() as tx:
        tasks.upsert(tx, [task(created_at=None)])
        assert tasks.upsert(tx, [task()]) == []
        assert tasks.get(tx, 7, 10) == task()


def test_a_task_is_open_until_it_has_a_living_annotation_that_is_no_skip(store: Store) -> None:
    def open_ids(tx: Connection) -> list[int]:
        return [each.id for each in tasks.open(tx, 7)]

    with store.transaction() as tx:
        tasks.upsert(tx, [task(), task(id=11), task(id=12)])
        assert open_ids(tx) == [10, 11, 12]
        annotation_rows.put(tx, annotation(id=1, task=11, was_cancelled=True))
        assert open_ids(tx) == [10, 11, 12]
        annotation_rows.put(tx, annotation(id=2, task=11))
        assert open_ids(tx) == [10, 12]
        annotation_rows.delete(tx, 7, [2], at(99))
        assert open_ids(tx) == [10, 11, 12]
        assert tasks.open(tx, 8) == []


def test_a_problem_is_kept_until_the_image_can_be_decoded(store: Store) -> None:
    with store.transaction() as tx:
        tasks.upsert(tx, [task()])
        tasks.set_problem(tx, 7, 10, "cannot decode")
        tasks.upsert(tx, [task()])
        assert tasks.get(tx, 7, 10) == task(problem="cannot decode")
        tasks.set_size(tx, 7, 10, width_px=6, height_px=4)
        assert tasks.get(tx, 7, 10) == task(width_px=6, height_px=4)


def test_deleting_takes_everything_along_and_says_what_was_known(store: Store) -> None:
    with store.transaction() as tx:
        give_a_history(tx)
        tasks.upsert(tx, [task(id=11)])
        annotation_rows.put(tx, annotation(id=6, task=11))
        assert tasks.delete(tx, 7, [10, 999]) == [10]
        assert [each.id for each in annotation_rows.live(tx, 7)] == [6]
        annotation_rows.delete(tx, 7, [6], at(99))
        assert not any(history(tx))
        assert tasks.all(tx, 7) == [task(id=11)]
        assert proposals.by_region_ids(tx, ["v1-10-1"])


def test_another_project_s_task_of_the_same_id_is_left_alone(store: Store) -> None:
    with store.transaction() as tx:
        give_a_history(tx)
        assert tasks.delete(tx, 8, [10]) == []
        assert all(history(tx))


def test_more_ids_than_fit_into_one_statement(store: Store) -> None:
    many = range(1, 1202)
    with store.transaction() as tx:
        tasks.upsert(tx, [task(id=id) for id in many])
        assert tasks.delete(tx, 7, iter(many)) == list(many)
        assert tasks.all(tx, 7) == []
