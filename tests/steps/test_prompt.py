"""Clicks on tasks: answered without a worker where the image was seen, by one where it was not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from backend.errors import CorruptVersion, ImageError, QueueError
from backend.labelstudio import config as label_config
from backend.labelstudio import results
from backend.records import Annotation, Task
from backend.steps import backlog, learn, predict, projects, publish, queues, seeing
from backend.steps.propose import propose_ids
from backend.store import proposals, publishing, tasks
from backend.wiring import Services
from models.base import ClassProposal, ClassSpec, Evidence, Image, Mask, TaskProposal
from tests.steps.conftest import BROKEN, NOW, TASKS
from tests.steps.fake_label_studio import FakeLabelStudio
from tests.steps.test_predict import NEW, payload
from tests.steps.test_publish import run

HEIGHT, WIDTH = 60, 80
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="crack"/></BrushLabels>
<PolygonLabels name="poly" toName="image"><Label value="spalling"/></PolygonLabels>
<RectangleLabels name="box" toName="image" smart="true"><Label value="rust"/></RectangleLabels>
<KeyPointLabels name="point" toName="image" smart="true"><Label value="crack"/>
<Label value="spalling"/><Label value="rust"/>
<Label value="nothing here" model_negative="true"/></KeyPointLabels>
<Number name="model_iterations" toName="image"/></View>"""
PARSED = label_config.parse(CONFIG)


def blob(top: int, left: int, bottom: int, right: int) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


LEFT, RIGHT = blob(10, 5, 30, 30), blob(10, 45, 40, 75)


@dataclass
class SeeingFitted:
    """Sees two blobs of each class; wider ones the more it climbs."""

    seen: list[int | None]
    classes: tuple[str, ...] = ("crack", "spalling", "rust")
    chosen: dict[str, Any] = field(
        default_factory=lambda: {
            "refine": "threshold", "iterations": 1, "threshold": 0.5, "min_area_px": 0,
            "closing_px": 1,
        }
    )  # fmt: skip

    @property
    def metrics(self) -> dict[str, Any]:
        return {"classes": {name: {"settings": self.chosen} for name in self.classes}}

    def propose(
        self, image: Image, *, specs: Sequence[ClassSpec], heat: bool = False
    ) -> TaskProposal:
        assert heat
        self.seen.append(specs[0].iterations)
        wider = blob(10, 5, 30, 30 + (specs[0].iterations or 1))
        hot = np.where(wider, 0.9, np.where(RIGHT, 0.7, 0.0)).astype(np.float32)
        own = [ClassProposal(spec.name, hot > 0.5, 0.9, hot) for spec in specs]
        one = {"area_px": 1.0, "outline_px": 1.0, "components": 1.0, "heat_sharpness": 1.0}
        names = tuple(spec.name for spec in specs)
        windows = np.full((1, len(specs)), 0.5, np.float32)
        embedding = np.zeros(2, np.float32)
        evidence = Evidence(names, windows, embedding, dict.fromkeys(names, one))
        return TaskProposal(tuple(own), evidence)


@dataclass
class SeeingResidents:
    seen: list[int | None] = field(default_factory=list)

    def get(self, project: int, number: int, pipeline: str) -> SeeingFitted:
        return SeeingFitted(self.seen)


@dataclass
class GreyImages:
    loaded: list[str] = field(default_factory=list)

    def load(self, uri: str, task_id: int) -> Image:
        self.loaded.append(uri)
        if uri == BROKEN:
            raise ImageError("cannot decode image: broken")
        return np.full((HEIGHT, WIDTH, 3), 120, dtype=np.uint8)


@pytest.fixture
def seeing_services(services: Services) -> Services:
    played: dict[str, Any] = {"residents": SeeingResidents(), "images": GreyImages()}
    own = replace(services, **played)
    own.queues.services = own  # type: ignore[attr-defined]  # played
    projects.adopt(own, 1, CONFIG)
    return own


@pytest.fixture
def shown(
    seeing_services: Services, server: FakeLabelStudio, champion: Callable[[int], None]
) -> Services:
    champion(1)
    run(seeing_services)
    return seeing_services


def worker(services: Services) -> Callable[..., bool]:
    """A worker that is there at once."""

    def see(
        _: Services, project: int, number: int, task: int, iterations: int | None, timeout_s: float
    ) -> bool:
        assert timeout_s > 0
        seeing.see(services, project, number, task, iterations)
        return True

    return see


def click(x: float, y: float, label: str = "crack", *, positive: bool = True) -> dict[str, Any]:
    value = {"x": 100 * (x + 0.5) / WIDTH, "y": 100 * (y + 0.5) / HEIGHT, "width": 0.2,
             "keypointlabels": [label]}  # fmt: skip
    return {"type": "keypointlabels", "value": value, "is_positive": positive, "origin": "manual"}


ON_LEFT, ON_RIGHT = (15, 20), (60, 20)


def ask(
    services: Services, *prompts: dict[str, Any], task: int = 11, **more: Any
) -> list[dict[str, Any]]:
    project = projects.require(services, 1)
    body = {**payload(task), **more}
    (answer,) = predict.answer_prompts(services, project, [body], {"result": list(prompts)})
    found: list[dict[str, Any]] = answer["result"]
    return found


def masks(found: list[dict[str, Any]]) -> dict[str, Mask]:
    return results.class_masks(found, PARSED)


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


def test_the_first_click_on_a_new_image_asks_a_worker_and_the_next_does_not(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "see_now", worker(shown))
    assert masks(ask(shown, click(*ON_LEFT), task=NEW))["crack"].any()
    monkeypatch.setattr(queues, "see_now", None)
    assert masks(ask(shown, click(*ON_RIGHT), task=NEW))["crack"].any()
    with shown.store.reading() as tx:
        assert NEW not in publishing.of(tx, 1, "v1")


def test_a_prediction_makes_clicks_ready(shown: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    with shown.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, NEW, f"/data/upload/1/{NEW}.jpg", NOW)])
    propose_ids(shown, 1, 1, [NEW])
    monkeypatch.setattr(queues, "see_now", None)
    assert ask(shown, click(*ON_LEFT), task=NEW)


def late(*_: Any) -> bool:
    return False


def down(*_: Any) -> bool:
    raise QueueError("Redis is down")


@pytest.mark.parametrize("fault", [late, down])
def test_without_a_worker_in_time_the_answer_is_empty(
    shown: Services, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., bool]
) -> None:
    monkeypatch.setattr(queues, "see_now", fault)
    assert ask(shown, click(*ON_LEFT), task=NEW) == []


def test_a_look_that_came_too_late_answers_the_next_click(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, int, int, int | None]] = []

    def busy(_: Services, *job: Any) -> bool:
        begun.append(job[:-1])
        return False

    monkeypatch.setattr(queues, "see_now", busy)
    assert ask(shown, click(*ON_LEFT), task=NEW) == []
    (job,) = begun
    seeing.see(shown, *job)  # the worker goes on after the deadline
    monkeypatch.setattr(queues, "see_now", None)
    assert ask(shown, click(*ON_LEFT), task=NEW)


def test_a_worker_warms_up_with_the_versions_that_are_shown(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that cannot be loaded, or that fails, keeps no worker from its work."""
    residents: Any = shown.residents
    refined: list[str] = []
    monkeypatch.setattr(seeing.score_map, "of", lambda _, __, settings: refined.append(settings))
    residents.seen.clear()
    seeing.warm_up(shown)
    assert residents.seen == [None], "one look"
    assert len(refined) == 3, "and the refinement of each class"

    def damaged(*_: Any) -> Any:
        raise CorruptVersion("weights.safetensors has another digest")

    monkeypatch.setattr(residents, "get", damaged)
    seeing.warm_up(shown)


def test_before_the_first_version_nothing_is_warmed_up(seeing_services: Services) -> None:
    seeing.warm_up(seeing_services)
    residents: Any = seeing_services.residents
    assert residents.seen == []


def test_an_image_that_cannot_be_had_gives_an_empty_answer(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "see_now", worker(shown))
    assert ask(shown, click(*ON_LEFT), task=NEW, data={"image": BROKEN}) == []
    assert ask(shown, click(*ON_LEFT), task=NEW, data={}) == []


def test_a_task_id_with_another_image_is_another_image(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "see_now", late)
    assert ask(shown, click(*ON_LEFT), data={"image": "/data/upload/1/other.jpg"}) == []


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


def test_many_tasks_at_once_get_one_result_each_within_the_deadline(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = shown.settings.model_copy(update={"predict_deadline_s": 0.05})
    hurried = replace(shown, settings=settings)
    asked: list[int] = []

    def hang(_: Any, __: int, ___: int, task: int, ____: Any, timeout_s: float) -> bool:
        asked.append(task)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            pass
        return False

    monkeypatch.setattr(queues, "see_now", hang)
    bodies = [payload(task) for task in range(1000, 1200)]
    context = {"result": [click(*ON_LEFT)]}
    began = time.monotonic()
    found = predict.answer_prompts(hurried, projects.require(hurried, 1), bodies, context)
    assert time.monotonic() - began < 2
    assert len(asked) == 1
    assert [one["result"] for one in found] == [[]] * 200


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


def test_a_changed_setting_of_the_label_config_is_looked_at_anew(
    shown: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "see_now", late)
    projects.adopt(shown, 1, CONFIG.replace('value="crack"', 'value="crack" model_threshold="0.8"'))
    assert ask(shown, click(*ON_LEFT)) == []


def test_tasks_that_were_published_are_all_ready(shown: Services) -> None:
    assert all(ask(shown, click(*ON_LEFT), task=task) for task in TASKS)


def test_a_worker_that_publishes_lets_clicks_through_after_each_task_that_takes_long(
    seeing_services: Services, champion: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    champion(1)
    monkeypatch.setattr(backlog, "CHUNK_S", 0.0)
    publish.publish(seeing_services, 1)
    played: Any = seeing_services.queues
    with seeing_services.store.reading() as tx:
        assert len(proposals.tasks_done(tx, 1, 1)) == 1
    assert ("publish", {"project": 1}) in played.enqueued
