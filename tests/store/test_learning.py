from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError

from backend.store import Store, learning
from backend.store import annotations as annotation_rows
from tests.store.examples import annotation, at, interaction, mask, weak_label


def test_the_newest_state_replaces_all_that_an_annotation_taught(store: Store) -> None:
    negative = weak_label(positive=False, source="removed", x_px=1.0)
    with store.transaction() as tx:
        annotation_rows.put(tx, annotation())
        learning.replace(tx, 5, 7, 10, [interaction()], [weak_label(), negative], [mask()])
        assert learning.weak_labels(tx, 7) == [weak_label(), negative]
        assert learning.masks(tx, 7) == [mask()]
        assert learning.interactions(tx, 7) == [interaction()]
        learning.replace(tx, 5, 7, 10, [], [negative], [])
        assert learning.weak_labels(tx, 7) == [negative]
        assert learning.masks(tx, 7) == []
        assert learning.interactions(tx, 7) == []


def test_removing_leaves_other_annotations_and_projects_alone(store: Store) -> None:
    with store.transaction() as tx:
        for id, project in ((5, 7), (6, 7), (8, 9)):
            annotation_rows.put(tx, annotation(id=id, project=project))
            taught = weak_label(annotation=id, project=project)
            learning.replace(tx, id, project, 10, [], [taught], [])
        learning.remove(tx, [5, 404])
        assert learning.weak_labels(tx, 7) == [weak_label(annotation=6)]
        assert learning.weak_labels(tx, 9) == [weak_label(annotation=8, project=9)]


def test_interactions_come_in_order_of_time_and_after_a_moment_only(store: Store) -> None:
    late, early = interaction(created_at=at(9), class_name="rust"), interaction(created_at=at(3))
    with store.transaction() as tx:
        annotation_rows.put(tx, annotation())
        learning.replace(tx, 5, 7, 10, [late, early], [], [])
        assert learning.interactions(tx, 7) == [early, late]
        assert learning.interactions(tx, 7, since=at(3)) == [late]


@pytest.mark.parametrize("change", [{"annotation": 6}, {"task": 11}, {"project": 8}])
def test_records_of_another_owner_are_refused(store: Store, change: dict[str, int]) -> None:
    with store.transaction() as tx:
        annotation_rows.put(tx, annotation())
        with pytest.raises(ValueError, match="is not of"):
            learning.replace(tx, 5, 7, 10, [], [weak_label(**change)], [])


def test_nothing_is_learned_of_an_annotation_that_is_not_stored(store: Store) -> None:
    with pytest.raises(IntegrityError), store.transaction() as tx:
        learning.replace(tx, 5, 7, 10, [], [weak_label()], [])


def test_labels_are_counted_by_annotation(store: Store) -> None:
    with store.transaction() as tx:
        annotation_rows.put(tx, annotation())
        learning.replace(tx, 5, 7, 10, [], [weak_label(), weak_label(x_px=9.0)], [])
        assert learning.label_counts(tx, 7) == {5: 2}
        assert learning.label_counts(tx, 8) == {}
