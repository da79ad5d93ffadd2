"""What a project's annotations teach together: replaced, deleted, skipped, doubted, reviewed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from backend.labelstudio import rle
from backend.records import VerifiedMask
from backend.settings import Settings
from backend.steps.listening import intake
from backend.steps.proposing.publish import publish
from backend.steps.training import taught, train
from backend.steps.training.taught import Taught
from backend.store import annotations as annotation_rows
from backend.store import learning
from backend.wiring import Services
from models.base import Mask
from tests.steps.conftest import CONFIG, NOW
from tests.steps.fake_label_studio import FakeLabelStudio

Body = dict[str, Any]
Shown = Callable[[], list[Body]]
PROJECT = {"id": 1, "title": "bridge", "label_config": CONFIG}
SIZE = (16, 24)


def square(left: int, width: int = 4) -> Mask:
    mask: Mask = np.zeros(SIZE, dtype=bool)
    mask[2:6, left : left + width] = True
    return mask


def region(mask: Mask, id: str = "drawn", origin: str = "manual") -> Body:
    value = {"format": "rle", "rle": rle.encode(mask), "brushlabels": ["crack"]}
    return {"id": id, "type": "brushlabels", "from_name": "brush", "to_name": "image",
            "original_width": 24, "original_height": 16, "image_rotation": 0, "value": value,
            "origin": origin}  # fmt: skip


def written(
    result: list[Body], *, id: int = 501, minute: int = 0, task: int = 11, by: int = 1,
    lead_time: float | None = 12.5, action: str = "ANNOTATION_CREATED", **fields: Any,
) -> Body:  # fmt: skip
    at = NOW + timedelta(minutes=id - 501)
    annotation = {"id": id, "task": task, "project": 1, "result": result, "lead_time": lead_time,
                  "created_at": at.isoformat(), "completed_by": by, "was_cancelled": False,
                  "updated_at": (at + timedelta(minutes=minute)).isoformat(),
                  **fields}  # fmt: skip
    row = {"id": task, "data": {"image": f"/data/upload/1/{task}.jpg"},
           "created_at": NOW.isoformat()}  # fmt: skip
    return {"action": action, "annotation": annotation, "task": row, "project": PROJECT}


def deliver(services: Services, *bodies: Body) -> None:
    for body in bodies:
        intake.handle(services, intake.receive(services, copy.deepcopy(body)))


def known(services: Services, **settings: Any) -> Taught:
    with services.store.reading() as tx:
        return taught.training_set(tx, 1, services.settings.model_copy(update=settings))


def trust(services: Services, **settings: Any) -> dict[int, set[float]]:
    """Return the trusts of the weak labels by annotation."""
    found: dict[int, set[float]] = {}
    for label in known(services, **settings).weak_labels:
        found.setdefault(label.annotation, set()).add(label.trust)
    return found


def masks(services: Services) -> list[int]:
    return [mask.annotation for mask in known(services).masks]


def seconds(services: Services) -> float:
    with services.store.reading() as tx:
        return sum(one.edit_seconds or 0 for one in taught.past(tx, 1, services.settings))


@pytest.fixture
def shown(services: Services, server: FakeLabelStudio, champion: Callable[[int], None]) -> Shown:
    """Publish the proposals of a version; returns those of a task as an annotator has them."""
    champion(1)
    for _ in range(2):
        publish(services, 1)

    def of_task(task: int = 11) -> list[Body]:
        result: list[Body] = copy.deepcopy(server.shown()[task][0]["result"])
        return [{**item, "origin": "prediction"} for item in result]

    return of_task


SUBMITTED = written([region(square(2))], lead_time=5.25)
UPDATED = written(
    [region(square(2, width=8))], lead_time=19.294, minute=1, action="ANNOTATION_UPDATED"
)
SKIPPED = written(
    [region(square(2))], lead_time=21.0, minute=2, action="ANNOTATION_UPDATED", was_cancelled=True
)
RESUMED = written([region(square(9))], lead_time=30.0, minute=3, action="ANNOTATION_UPDATED")


@pytest.mark.parametrize("order", list(permutations([SUBMITTED, UPDATED, UPDATED])))
def test_the_seconds_of_an_update_hold_those_before(
    services: Services, order: tuple[Body, ...]
) -> None:
    deliver(services, *order)
    assert seconds(services) == pytest.approx(19.294)
    (mask,) = known(services).masks
    np.testing.assert_array_equal(rle.decode_mask(mask.rle, *SIZE), square(2, width=8))


def test_skipping_after_submitting_takes_all_away_and_resuming_teaches_anew(
    services: Services,
) -> None:
    deliver(services, SUBMITTED, UPDATED, SKIPPED)
    assert known(services) == Taught([], [])
    with services.store.reading() as tx:
        assert learning.interactions(tx, 1) == []
    deliver(services, RESUMED, UPDATED)
    assert seconds(services) == 30.0
    (mask,) = known(services).masks
    np.testing.assert_array_equal(rle.decode_mask(mask.rle, *SIZE), square(9))


def test_a_skipped_annotation_with_all_its_proposals_teaches_nothing(
    services: Services, shown: Shown
) -> None:
    deliver(services, written(shown(), was_cancelled=True))
    assert known(services) == Taught([], [])
    deliver(services, written(shown(), minute=1, action="ANNOTATION_UPDATED"))
    assert masks(services) == [501]


def in_bulk(result: list[Body]) -> Body:
    body = written(result, lead_time=None)
    plain = [{k: v for k, v in item.items() if k != "origin"} for item in result]
    annotation = {**body["annotation"], "result": plain, "bulk_created": False}
    return {**body, "action": "ANNOTATIONS_CREATED", "annotation": [annotation],
            "task": [body["task"]]}  # fmt: skip


def test_accepted_in_bulk_is_hardly_trusted_and_no_truth(services: Services, shown: Shown) -> None:
    deliver(services, in_bulk(shown()))
    assert trust(services) == {501: {0.25}}
    assert masks(services) == []
    assert trust(services, bulk_trust=0.0) == {}
    (sample,) = train.load(services, 1).samples or train.load(services, 1).held_out
    assert sample.masks == {}
    assert {point.weight for point in sample.points} == {0.25}


def test_bulk_that_the_reconciler_found_is_no_better(services: Services, shown: Shown) -> None:
    body = in_bulk(shown())
    (annotation,), (task,) = body["annotation"], body["task"]
    found = {**body, "action": "ANNOTATION_UPDATED", "annotation": annotation, "task": task}
    deliver(services, found)
    assert trust(services) == {501: {0.25}}
    assert masks(services) == []
    edited = written([region(square(9))], lead_time=20.0, minute=1, action="ANNOTATION_UPDATED")
    deliver(services, edited)
    assert trust(services) == {501: {1.0}}
    assert masks(services) == [501]


def test_accepted_at_a_glance_is_trusted_less_and_no_truth(
    services: Services, shown: Shown
) -> None:
    deliver(services, written(shown(), lead_time=1.1))
    assert trust(services) == {501: {0.5}}
    assert masks(services) == []
    assert trust(services, fast_accept_s=1.0) == {501: {1.0}}
    assert trust(services, fast_trust=0.125) == {501: {0.125}}
    deliver(services, written(shown(), minute=1, lead_time=9.0, action="ANNOTATION_UPDATED"))
    assert trust(services) == {501: {1.0}}
    assert masks(services) == [501]


def test_a_glance_at_what_was_drawn_is_enough(services: Services) -> None:
    deliver(services, written([region(square(9))], lead_time=1.1))
    assert trust(services) == {501: {1.0}}


def test_one_glance_among_long_looks_is_found_in_any_order(
    services: Services, shown: Shown
) -> None:
    slow = [written(shown(), id=600 + n, lead_time=60.0) for n in range(10)]
    quick = written(shown(), id=700, lead_time=8.0)
    deliver(services, quick)
    assert trust(services) == {700: {1.0}}
    deliver(services, *slow)
    assert {id for id, found in trust(services).items() if found == {0.5}} == {700}
    assert trust(services, fast_accept_share=0.1)[700] == {1.0}
    gone = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 600}], "project": PROJECT}
    deliver(services, gone)
    assert trust(services)[700] == {0.5}  # ten are left, itself among them
    deliver(services, {**gone, "annotations": [{"id": 601}]})
    assert trust(services)[700] == {1.0}


def test_skipped_tasks_say_nothing_of_an_annotators_pace(services: Services, shown: Shown) -> None:
    skips = [written([], id=600 + n, lead_time=60.0, was_cancelled=True) for n in range(10)]
    deliver(services, *skips, written(shown(), id=700, lead_time=8.0))
    assert trust(services) == {700: {1.0}}


def test_two_annotators_are_kept_apart_and_the_newest_mask_counts(services: Services) -> None:
    one, other = (
        written([region(square(2))], by=1),
        written([region(square(4))], id=502, by=2),
    )
    deliver(services, other, one)
    assert set(trust(services)) == {501, 502}
    assert masks(services) == [502]
    with services.store.reading() as tx:
        assert {i.annotation for i in learning.interactions(tx, 1)} == {501, 502}
    (pair,) = taught.agreements(services, 1)
    assert (pair.task, pair.class_name, pair.annotations) == (11, "crack", (501, 502))
    assert pair.iou == pytest.approx(8 / 24)
    deliver(services, written([region(square(2))], minute=30, action="ANNOTATION_UPDATED"))
    assert masks(services) == [501]
    gone = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 501}], "project": PROJECT}
    deliver(services, gone)
    assert masks(services) == [502]
    assert set(trust(services)) == {502}


def test_a_careful_annotator_outweighs_a_newer_stamp(services: Services, shown: Shown) -> None:
    deliver(services, written([region(square(2))]), written(shown(), id=502, by=2, lead_time=1.0))
    assert masks(services) == [501]


def test_one_annotator_does_not_disagree_with_themselves(services: Services) -> None:
    deliver(services, written([region(square(2))]), written([region(square(4))], id=502))
    assert taught.agreements(services, 1) == []


def test_masks_that_agree_or_have_other_sizes(services: Services) -> None:
    deliver(services, written([region(square(2))]), written([region(square(2))], id=502, by=2))
    (pair,) = taught.agreements(services, 1)
    assert pair.iou == 1.0
    with services.store.transaction() as tx:
        odd = VerifiedMask(1, 11, 502, "crack", 4, 6, rle.to_bytes(rle.encode(square(2)[:4, :6])))
        learning.replace(tx, 502, 1, 11, [], [], [odd])
    (pair,) = taught.agreements(services, 1)
    assert pair.iou == 0.0


def test_reviews_have_the_last_word(services: Services, shown: Shown) -> None:
    deliver(services, written(shown(), lead_time=1.0), written([region(square(9))], id=502, by=2))
    later = NOW + timedelta(hours=1)
    with services.store.transaction() as tx:
        annotation_rows.review(tx, 501, "accepted", later)
        annotation_rows.review(tx, 502, "rejected", later)
    assert trust(services) == {501: {1.0}}
    assert masks(services) == [501]
    mended = written([region(square(7))], id=502, by=2, minute=90, action="ANNOTATION_UPDATED")
    deliver(services, mended)
    assert set(trust(services)) == {501, 502}


def test_idle_tails_are_cut_at_the_annotators_own_limit(services: Services) -> None:
    usual = [written([region(square(2))], id=600 + n, lead_time=10.0) for n in range(10)]
    deliver(services, *usual, written([region(square(2))], id=700, lead_time=3000.0))
    assert seconds(services) == pytest.approx(10 * 10.0 + 30.0)


def test_the_rule_is_what_the_settings_say() -> None:
    names = {"BULK_TRUST": "0.1", "FAST_TRUST": "0.2", "FAST_ACCEPT_S": "3",
             "FAST_ACCEPT_SHARE": "0.4", "FAST_ACCEPT_RUN": "5"}  # fmt: skip
    rule = taught.rule(Settings.from_env(names))
    assert (rule.bulk, rule.fast, rule.floor_s, rule.share, rule.run) == (0.1, 0.2, 3.0, 0.4, 5)
    assert taught.rule(Settings.from_env({})) == replace(rule, bulk=0.25, fast=0.5, floor_s=2.0,
                                                         share=0.2, run=10)  # fmt: skip
