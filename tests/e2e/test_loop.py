"""The loop on a real Label Studio: connect, click, train, propose, correct, learn, improve.

The tests of this file build on each other, in their order, as the days of a project do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

from backend.demo import annotator, project, surfaces
from backend.labelstudio import rle
from backend.records import Interaction
from backend.steps import connect, decide, projects, status
from backend.steps.listening import reconcile
from backend.store import inbox, learning, proposals, versions
from backend.store import projects as project_rows
from models.base import Mask
from tests.e2e import browser
from tests.e2e.label_studio_server import LabelStudioServer
from tests.e2e.product import Product, eventually, predictions_of, started
from tests.models.small_network import write_encoder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CLASSES = ("crack", "rust")
TASKS, CLICKED = 14, 6
SIZE = {"width_px": 240, "height_px": 160}
TRAINING_S = 400.0
LABEL_CONFIG = project.label_config(CLASSES).replace(  # it learns in seconds
    "<BrushLabels ", '<BrushLabels model_pipeline="pixel_head" '
)


@dataclass
class Day:
    """What the tests of this file share: one project as it grows older."""

    product: Product
    project: int
    truth: dict[int, dict[str, Mask]]
    annotations: dict[str, int] = field(default_factory=dict)

    def interactions(self, task: int) -> list[Interaction]:
        with self.product.services.store.reading() as tx:
            return [i for i in learning.interactions(tx, self.project) if i.task == task]

    def settled(self) -> bool | None:
        """Whether every kept event is handled."""
        with self.product.services.store.reading() as tx:
            return None if inbox.pending(tx, limit=1) else True

    def shown(self) -> str | None:
        """The name that Label Studio shows, once nothing is left to publish."""
        services = self.product.services
        if decide.publication_due(services, self.project):
            return None
        return projects.require(services, self.project).published

    def shown_after(self, former: str | None) -> str:
        """Wait for another name than the former one."""

        def other() -> str | None:
            name = self.shown()
            return name if name != former else None

        return eventually(other, f"something newer than {former}", TRAINING_S)


@pytest.fixture(scope="module")
def day(label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    folder = tmp_path_factory.mktemp("labelclimb")
    images = surfaces.write_dataset(folder / "surfaces", TASKS, 5, classes=CLASSES, **SIZE)
    weights = write_encoder(folder / "encoder.safetensors")
    with started(label_studio, folder, ENCODER_WEIGHTS=weights) as product:
        client = product.services.labelstudio
        made = client.create_project("the loop", LABEL_CONFIG)
        ids = client.upload_images(made["id"], images)
        truth = {
            task: _truth(folder / "surfaces", path.stem)
            for task, path in zip(ids, images, strict=True)
        }
        yield Day(product, int(made["id"]), truth)


def _truth(folder: Path, stem: str) -> dict[str, Mask]:
    import cv2

    masks = {}
    for name in CLASSES:
        grey = cv2.imread(str(folder / "masks" / name / f"{stem}.png"), cv2.IMREAD_GRAYSCALE)
        masks[name] = np.asarray(grey) > 127
    return masks


def test_connecting_takes_in_what_the_project_holds_and_can_be_repeated(day: Day) -> None:
    services = day.product.services
    url = services.settings.backend_url
    first = connect.connect(services, day.project, url)
    assert first.found.tasks == TASKS
    eventually(day.settled, "the tasks to be taken in")
    second = connect.connect(services, day.project, url)
    assert second.found.tasks == 0
    backends = services.labelstudio.list_backends(day.project)
    webhooks = services.labelstudio.list_webhooks(day.project)
    assert [(b["url"], b["state"]) for b in backends] == [(url, "CO")]
    assert [w["url"] for w in webhooks] == [f"{url}/webhook"]
    assert status.of_project(services, day.project).tasks == TASKS


def test_clicks_become_weak_labels_through_the_webhook(day: Day) -> None:
    services, rng = day.product.services, np.random.default_rng(3)
    placed = 0
    for task in sorted(day.truth)[:CLICKED]:
        clicks = annotator.first_clicks(day.truth[task], rng, 5, 5, 12)
        result = annotator.keypoint_result(clicks, negative_label=project.NOTHING, rng=rng, **SIZE)
        services.labelstudio.create_annotation(task, result, lead_time=10.0)
        placed += sum(len(CLASSES) if not click.positive else 1 for click in clicks)
    eventually(lambda: _labels(day) == placed or None, f"{placed} weak labels")
    with services.store.reading() as tx:
        events = inbox.counts(tx)
    assert events[("done", "webhook")] >= CLICKED, "the webhook delivered, not the reconciler"


def _labels(day: Day) -> int:
    with day.product.services.store.reading() as tx:
        return len(learning.weak_labels(tx, day.project))


def test_the_quiet_period_starts_a_training_and_publishes_in_order(day: Day) -> None:
    services = day.product.services
    name = day.shown_after(None)
    assert name == "v1"
    queue = eventually(lambda: status.queue_of(services, day.project), "the queue")
    assert len(queue) == TASKS - CLICKED
    payload = services.labelstudio.get_project(day.project)
    assert payload["model_version"] == name
    for entry in queue:
        held = predictions_of(services, entry.task)
        assert [p["model_version"] for p in held] == [name]
        assert held[0]["score"] == pytest.approx(1 - entry.priority)
    served = services.labelstudio.next_task(day.project)
    assert served is not None
    assert served["id"] == queue[0].task


def test_a_new_task_is_predicted_when_somebody_opens_it(day: Day, tmp_path: Path) -> None:
    services = day.product.services
    images = surfaces.write_dataset(tmp_path, 1, 99, classes=CLASSES, **SIZE)
    (task,) = services.labelstudio.upload_images(day.project, images)
    day.truth[task] = _truth(tmp_path, images[0].stem)
    opened = services.labelstudio.session.call("GET", f"/api/tasks/{task}/")
    eventually(lambda: predictions_of(services, task) or None, "a prediction of the new task")
    assert opened["id"] == task
    eventually(day.settled, "the event of the new task")
    eventually(day.shown, "the publication of the new task")
    reconcile.reconcile(services, day.project)  # opened while it was pushed, it may be there twice
    eventually(day.shown, "what the reconciler had published anew")
    assert len(predictions_of(services, task)) == 1


def test_a_broken_image_gets_its_reason_and_spoils_nothing(day: Day, tmp_path: Path) -> None:
    services = day.product.services
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 this is no picture")
    (task,) = services.labelstudio.upload_images(day.project, [broken])

    def problem() -> str | None:
        queue = status.queue_of(services, day.project)
        return next((entry.problem for entry in queue if entry.task == task), None)

    assert "image" in eventually(problem, "the problem to be noted")
    services.labelstudio.session.call("DELETE", f"/api/tasks/{task}/")
    eventually(
        lambda: task not in [e.task for e in status.queue_of(services, day.project)] or None,
        "the deletion",
    )


def test_what_annotators_do_becomes_outcomes_and_weak_labels(day: Day) -> None:
    services, rng = day.product.services, np.random.default_rng(4)
    with services.store.reading() as tx:
        known = project_rows.get(tx, day.project)
        assert known is not None
        tasks = [e.task for e in status.queue_of(services, day.project)]
        shown = {t: proposals.of_task(tx, day.project, t, 1) for t in tasks}
    proposed = [task for task in tasks if shown[task]]
    assert len(proposed) >= 3, "the first version proposes something"
    accept, modify, reject = proposed[:3]
    for task, act in ((accept, "accepted"), (modify, "modified"), (reject, "rejected")):
        result = predictions_of(services, task)[0]["result"]
        if act == "modified":
            result[0] = _grown(result[0])
        if act == "rejected":
            result = []
        result = [{**region, "origin": "prediction"} for region in result]
        made = services.labelstudio.create_annotation(task, result, lead_time=12.0)
        day.annotations[act] = int(made["id"])
    eventually(lambda: len(day.interactions(reject)) or None, "the outcomes")
    eventually(day.settled, "all events")
    assert {i.outcome for i in day.interactions(accept)} == {"accepted"}
    assert "modified" in {i.outcome for i in day.interactions(modify)}
    assert {i.outcome for i in day.interactions(reject)} == {"rejected"}
    with services.store.reading() as tx:
        labels = [x for x in learning.weak_labels(tx, day.project) if x.task == reject]
    assert any(not x.positive and x.source == "rejected" for x in labels)
    blank = next(t for t in tasks if t not in (accept, modify, reject))
    drawn = _drawn(blank, day, rng)
    assert drawn == ("rejected" if any(r.class_name == "crack" for r in shown[blank]) else "missed")


def _grown(region: dict) -> dict:  # type: ignore[type-arg]
    height_px, width_px = region["original_height"], region["original_width"]
    mask = rle.decode_mask(region["value"]["rle"], height_px, width_px)
    mask[height_px // 2 :, : width_px // 4] = True
    return {**region, "value": {**region["value"], "rle": rle.encode(mask)}}


def _drawn(task: int, day: Day, rng: np.random.Generator) -> str:
    """Throw every proposal away and draw one crack by hand."""
    services = day.product.services
    mask = np.zeros((SIZE["height_px"], SIZE["width_px"]), dtype=bool)
    mask[20:24, 30:120] = True
    decision = annotator.Decision("crack", "draw", None, mask, 10.0, 10.0)
    result = annotator.brush_result([decision], [], encode=rle.encode, rng=rng)
    services.labelstudio.create_annotation(task, result, lead_time=20.0)
    eventually(lambda: day.interactions(task) or None, "the drawing")
    return next(i.outcome for i in day.interactions(task) if i.class_name == "crack")


def test_an_update_replaces_and_a_deletion_takes_back(day: Day) -> None:
    services = day.product.services
    annotation = day.annotations["rejected"]
    task = services.labelstudio.get_annotation(annotation)["task"]
    before = _labels(day)
    services.labelstudio.delete_annotation(annotation)
    eventually(lambda: not day.interactions(task) or None, "the deletion")
    assert _labels(day) < before
    assert task in [entry.task for entry in status.queue_of(services, day.project)]


def test_corrections_train_a_challenger_that_is_judged_and_published(day: Day) -> None:
    services = day.product.services

    def judged() -> object | None:
        with services.store.reading() as tx:
            found = versions.list(tx, day.project)
        return next((v for v in found if v.number == 2), None)

    version = eventually(judged, "the second version", TRAINING_S)
    assert version.gate["reason"]  # type: ignore[attr-defined]
    shown = eventually(day.shown, "a new publication")
    champion = projects.require(services, day.project).champion
    assert shown.partition(".")[0] == f"v{champion}"
    assert shown != "v1", "a new order at least"
    queue = status.queue_of(services, day.project)
    for entry in queue:
        assert {p["model_version"] for p in predictions_of(services, entry.task)} == {shown}


def test_the_strategy_changes_the_order_without_predicting_again(day: Day) -> None:
    services = day.product.services
    before = eventually(day.shown, "what is shown")
    number = projects.require(services, day.project).champion or 0
    order = [entry.task for entry in status.queue_of(services, day.project)]
    with services.store.reading() as tx:
        predicted = proposals.evidence(tx, day.project, number)
    projects.choose_strategy(services, day.project, "random_order")
    shown = day.shown_after(before)
    assert shown.partition(".")[0] == before.partition(".")[0], "the same weights"
    new_order = [entry.task for entry in status.queue_of(services, day.project)]
    assert sorted(new_order) == sorted(order)
    assert new_order != order
    scores = {task: predictions_of(services, task)[0]["score"] for task in new_order}
    assert sorted(new_order, key=scores.__getitem__) == new_order, "Label Studio serves this order"
    with services.store.reading() as tx:
        assert proposals.evidence(tx, day.project, number) == predicted


@pytest.mark.browser
def test_a_region_deleted_in_the_browser_is_a_rejection_in_the_store(
    day: Day, label_studio: LabelStudioServer, annotator_page: Page, screenshots: Path
) -> None:
    services = day.product.services
    number = projects.require(services, day.project).champion or 0
    with services.store.reading() as tx:
        queue = [entry.task for entry in status.queue_of(services, day.project)]
        found = {t: proposals.of_task(tx, day.project, t, number) for t in queue}
    task = next(t for t in queue if found[t])
    browser.open_task(annotator_page, label_studio, day.project, task)
    listed = browser.listed_regions(annotator_page)
    assert {row.name for row in listed} == {region.class_name for region in found[task]}
    masks = {
        r.class_name: rle.decode_mask(rle.from_bytes(r.rle), r.height_px, r.width_px)
        for r in found[task]
    }
    browser.screenshot(annotator_page, screenshots, "proposal")
    victim = found[task][0].class_name
    for _ in [region for region in found[task] if region.class_name == victim]:
        browser.delete_region(annotator_page, victim)
    stored = browser.submit(annotator_page)
    browser.screenshot(annotator_page, screenshots, "submitted")
    assert found[task][0].region_id not in {region["id"] for region in stored["result"]}
    eventually(lambda: day.interactions(task) or None, "the rejection")
    outcomes = {i.class_name: i.outcome for i in day.interactions(task)}
    assert outcomes[victim] == "rejected"
    assert all(outcomes[name] == "accepted" for name in masks.keys() - {victim})
