"""What clicks on a task are answered with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backend.labelstudio import results
from backend.records import Annotation
from backend.steps import projects, queues
from backend.steps.listening import learn
from backend.steps.proposing import predict, seeing
from backend.store import proposals
from backend.wiring import Services
from tests.steps.conftest import NOW
from tests.steps.prompts.clicking import (
    ON_LEFT,
    ON_RIGHT,
    PARSED,
    RIGHT,
    WIDTH,
    ask,
    blob,
    click,
    masks,
    worker,
)
from tests.steps.proposing.test_predict import payload


def test_a_click_on_a_seen_image_needs_no_worker_and_no_image(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "see_now", None)
    images: Any = shown.images
    before = len(images.loaded)
    assert np.array_equal(masks(ask(shown, click(*ON_LEFT)))["crack"], blob(10, 5, 30, 31))
    assert len(images.loaded) == before


def test_all_prompts_count_and_a_denial_takes_away(shown: Services) -> None:
    both = masks(ask(shown, click(*ON_LEFT), click(*ON_RIGHT)))["crack"]
    assert np.array_equal(both, blob(10, 5, 30, 31) | RIGHT)
    left = ask(shown, click(*ON_LEFT), click(*ON_RIGHT), click(*ON_RIGHT, positive=False))
    assert np.array_equal(masks(left)["crack"], blob(10, 5, 30, 31))
    nothing = ask(shown, click(*ON_LEFT), click(*ON_LEFT, "nothing here"))
    assert nothing == []


def test_each_class_is_answered_by_its_own_control(shown: Services) -> None:
    found = ask(shown, click(*ON_LEFT), click(*ON_RIGHT, "spalling"), click(*ON_LEFT, "spalling"))
    assert [(one["type"], one["from_name"]) for one in found] == [
        ("brushlabels", "brush"),
        ("polygonlabels", "poly"),
        ("polygonlabels", "poly"),
    ]
    assert len({one["id"] for one in found}) == 3
    results.validate(found, PARSED)
    (box,) = ask(shown, click(*ON_RIGHT, "rust"))
    assert (box["value"]["x"], box["value"]["width"]) == (100 * 45 / WIDTH, 100 * 30 / WIDTH)


def test_an_answer_has_an_id_that_is_kept_and_given_once(shown: Services) -> None:
    first, second = ask(shown, click(*ON_LEFT)), ask(shown, click(*ON_LEFT))
    ids = [first[0]["id"], second[0]["id"]]
    with shown.store.reading() as tx:
        shown_before = [r.region_id for r in proposals.of_task(tx, 1, 11, 1)]
        kept = proposals.by_region_ids(tx, ids)
    assert len({*ids, *shown_before}) == 2 + len(shown_before)
    assert {region.task for region in kept.values()} == {11}
    assert results.prediction_result([kept[ids[0]]], PARSED) == first


def test_an_accepted_answer_is_recognised_as_the_version_s_and_not_as_its_proposal(
    shown: Services,
) -> None:
    (accepted,) = ask(shown, click(*ON_LEFT))
    annotation = Annotation(5, 1, 11, NOW, ({**accepted, "origin": "manual"},), created_at=NOW)
    with shown.store.reading() as tx:
        learned = learn.from_annotation(tx, annotation, PARSED)
    assert {(i.class_name, i.version) for i in learned.interactions} >= {("crack", 1)}
    (verified,) = [one for one in learned.masks if one.class_name == "crack"]
    assert verified.rle == bytes(accepted["value"]["rle"])


def test_answers_are_no_proposals_of_the_task(shown: Services) -> None:
    (before,) = predict.answer(shown, projects.require(shown, 1), [payload(11)])
    ask(shown, click(*ON_LEFT))
    assert predict.answer(shown, projects.require(shown, 1), [payload(11)]) == [before]


def test_without_a_version_the_answer_is_empty_at_once(
    seeing_services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "see_now", None)
    assert ask(seeing_services, click(*ON_LEFT)) == []


def test_a_version_that_is_not_published_yet_answers_already(
    seeing_services: Services, champion: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    champion(1)
    monkeypatch.setattr(queues, "see_now", worker(seeing_services))
    assert ask(seeing_services, click(*ON_LEFT))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"type": "rectanglelabels", "value": {"x": 0, "y": 0, "width": None}}],
        [click(*ON_LEFT, positive=False)],
        [click(*ON_LEFT, "<script>alert(1)</script>")],
        [click(float("nan"), 3)],
        ["x", None, 7, [], {}],
    ],
)
def test_prompts_that_ask_for_nothing_get_nothing(
    shown: Services, monkeypatch: pytest.MonkeyPatch, rows: list[Any]
) -> None:
    monkeypatch.setattr(queues, "see_now", None)
    assert ask(shown, *rows) == []


def number(value: float) -> dict[str, Any]:
    return {"type": "number", "from_name": "model_iterations", "value": {"number": value}}


def test_more_iterations_widen_the_answer_where_the_pipeline_climbs(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "see_now", worker(shown))
    plain = masks(ask(shown, click(*ON_LEFT)))["crack"]
    wider = masks(ask(shown, click(*ON_LEFT), number(9)))["crack"]
    drafted = masks(ask(shown, click(*ON_LEFT), drafts=[{"result": [number(9)]}]))["crack"]
    assert wider.sum() == plain.sum() + 8 * 20
    assert np.array_equal(wider, drafted)
    residents: Any = shown.residents
    assert residents.seen.count(9) == 1


def test_a_pipeline_that_does_not_climb_ignores_iterations(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "see_now", None)
    monkeypatch.setattr(seeing, "CLIMBING", "another")
    assert ask(shown, click(*ON_LEFT), number(9))
