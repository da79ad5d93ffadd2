"""The client, images, results and events against a real Label Studio."""

from __future__ import annotations

import json
import queue
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image as Pillow

from backend.errors import ImageError, LabelStudioError
from backend.labelstudio import config, events, image_choices, results, rle
from backend.labelstudio.client import LabelStudio
from backend.labelstudio.image_choices import Said
from backend.labelstudio.images.store import ImageStore
from backend.records import ProposedRegion
from backend.steps.proposing import publish
from tests.labelstudio import payloads

pytestmark = pytest.mark.e2e

CONFIG = config.parse(payloads.CONFIG)
SCORES = (0.5, 0.1, 0.9, 0.3, 0.7)
LIMITS = {"max_bytes": 10**6, "max_pixels": 10**6, "max_cache_bytes": 10**6}


@pytest.fixture(scope="module")
def legacy(label_studio):
    client = LabelStudio(label_studio.url, label_studio.token)
    yield client
    client.close()


@pytest.fixture(scope="module")
def personal(label_studio):
    with label_studio.client() as http:
        wanted = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
        http.post("/api/jwt/settings", json=wanted).raise_for_status()
        for token in http.get("/api/token/").json():  # one per user, shown once
            http.post("/api/token/blacklist/", json={"refresh": token["token"]})
        token = http.post("/api/token/", json={}).raise_for_status().json()["token"]
    client = LabelStudio(label_studio.url, token)
    yield client
    client.close()


@pytest.fixture
def project(legacy):
    created = legacy.create_project("labelclimb client test", payloads.CONFIG)
    yield created["id"]
    legacy.delete_project(created["id"])


@pytest.fixture
def tasks(legacy, project, tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(len(SCORES))]
    for n, file in enumerate(files):
        Pillow.fromarray(np.full((40, 60, 3), n * 10, np.uint8)).save(file)
    return legacy.upload_images(project, files)


def proposal(task, project):
    mask = np.zeros((40, 60), bool)
    mask[5:10, 5:30] = True
    code = rle.to_bytes(rle.encode(mask))
    return ProposedRegion(f"v1-{task}-0", project, task, 1, "crack", 40, 60, code, 0.8)


def predictions(tasks, project, version="v1"):
    return [
        {
            "task": task,
            "result": results.prediction_result([proposal(task, project)], CONFIG),
            "score": score,
            "model_version": version,
        }
        for task, score in zip(tasks, SCORES, strict=True)
    ]


def test_uploads_come_back_in_order_with_both_kinds_of_token(
    legacy, personal, project, tasks, tmp_path
):
    assert (legacy.health(), legacy.version()[:5]) == ({"status": "UP"}, "1.23.")
    inventory = {row.id: row for row in legacy.inventory(project)}
    assert sorted(inventory) == sorted(tasks)
    for name, client in (("legacy", legacy), ("personal", personal)):
        store = ImageStore(client, tmp_path / name, **LIMITS)
        for n, task in enumerate(tasks):
            found = events.task(inventory[task].payload, project=project, data_key="image")
            image = store.load(found.image, found.id)
            assert image.shape == (40, 60, 3) and (image == n * 10).all()
        with pytest.raises(ImageError, match="answered"):
            store.load("/data/upload/1/none.png", tasks[0])
        with pytest.raises(ImageError, match="answered 404"):
            store.load("s3://bucket/none.png", tasks[0])


def test_tasks_are_served_lowest_score_first_and_annotations_kept(legacy, project, tasks):
    assert legacy.import_predictions(project, predictions(tasks, project)) == {}
    assert legacy.model_versions(project) == {"v1": 5}
    legacy.patch_project(project, model_version="v1", sampling="Uncertainty sampling")
    served = []
    while task := legacy.next_task(project):
        shown = predictions([task["id"]] * len(SCORES), project)[0]["result"]
        drawn = [{**item, "origin": "prediction"} for item in shown]
        created = legacy.create_annotation(task["id"], drawn, lead_time=1.5)
        served.append(task["id"])
    assert served == [task for _, task in sorted(zip(SCORES, tasks, strict=True))]
    kept = events.annotation(legacy.get_annotation(created["id"]))
    assert (kept.id, kept.task, kept.project) == (created["id"], served[-1], project)
    (region,) = results.regions(kept.result, CONFIG)
    assert (region.id, region.origin) == (f"v1-{served[-1]}-0", "prediction")
    assert region.mask.sum() == 125
    assert legacy.update_annotation(created["id"], lead_time=9.0)["lead_time"] == 9.0
    assert {a for row in legacy.inventory(project) for a in row.annotation_ids} >= {created["id"]}
    legacy.delete_annotation(created["id"])
    assert created["id"] not in {a for r in legacy.inventory(project) for a in r.annotation_ids}


def test_dropped_and_refused_predictions_are_named_and_the_others_stored(legacy, project, tasks):
    rows = predictions(tasks, project)
    rows[1] = {**rows[1], "result": [{**rows[1]["result"][0], "from_name": "gone"}]}
    unknown = {**rows[0], "task": 10**7, "result": []}
    refused = legacy.import_predictions(project, [*rows, unknown])
    assert set(refused) == {tasks[1], 10**7}
    assert "without a word" in refused[tasks[1]]
    assert "answered 400" in refused[10**7]
    assert legacy.model_versions(project) == {"v1": 4}
    assert legacy.delete_model_version(project, "v1", count=4) == 4
    assert legacy.model_versions(project) == {}
    with pytest.raises(LabelStudioError, match="doesn't exist") as caught:
        legacy.patch_project(project, model_version="v9")
    assert caught.value.status == 400


ALL_CONTROLS = """<View><Style>.note {color: red}</Style><View className="note">
<Image name="image" value="$image"/></View>
<BrushLabels name="brush" toName="image"><Label value="Crack, wide" alias="crack"/></BrushLabels>
<PolygonLabels name="poly" toName="image"><Label value="spalling" hotkey="2"/></PolygonLabels>
<RectangleLabels name="rect" toName="image"><Label value="rust"/></RectangleLabels>
<Choices name="state" toName="image" choice="multiple"><Choice value="crack"/>
<Choice value="flaked" model_class="spalling"/><Choice value="fine" model_negative="true"/>
</Choices></View>"""


def drawn(*boxes):
    mask = np.zeros((40, 60), bool)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = True
    return mask


def test_all_kinds_of_proposals_are_stored_and_accepted_under_their_ids(
    legacy, label_studio, project, tasks
):
    legacy.patch_project(project, label_config=ALL_CONTROLS)
    controls = config.parse(ALL_CONTROLS)
    ring = drawn((5, 5, 20, 20)) & ~drawn((10, 10, 8, 8))
    masks = {"crack": [drawn((1, 30, 2, 25)), drawn((30, 30, 2, 25))], "spalling": [ring],
             "rust": [drawn((30, 2, 8, 8))]}  # fmt: skip
    regions = [
        ProposedRegion(f"v1-{tasks[0]}-{n}", project, tasks[0], 1, name, 40, 60,
                       rle.to_bytes(rle.encode(mask)), 0.8)
        for n, (name, mask) in enumerate((k, m) for k, own in masks.items() for m in own)
    ]  # fmt: skip
    rows = [
        {**publish.prediction(controls, found, "v1", 0.5), "task": task}
        for task, found in ((tasks[0], regions), (tasks[1], []))
    ]
    assert legacy.import_predictions(project, rows) == {}
    assert legacy.model_versions(project) == {"v1": 2}
    (stored,) = legacy.predictions(tasks[0])
    assert stored["result"] == rows[0]["result"]
    types = [item["type"] for item in stored["result"]]
    assert types == ["brushlabels"] * 2 + ["polygonlabels", "rectanglelabels", "choices"]
    legacy.patch_project(project, model_version="v1")
    body = {"project": project, "selectedItems": {"all": False, "included": tasks[:2]}}
    with label_studio.client() as http:
        action = {"project": project, "id": "predictions_to_annotations"}
        http.post("/api/dm/actions", params=action, json=body).raise_for_status()
    inventory = {row.id: row.annotation_ids for row in legacy.inventory(project)}
    accepted = [legacy.get_annotation(inventory[task][0])["result"] for task in tasks[:2]]
    assert [item["id"] for item in accepted[0]] == [item["id"] for item in stored["result"]]
    found = results.class_masks(accepted[0], controls)
    for name, own in masks.items():
        assert (found[name] == np.logical_or.reduce(own)).all(), name
    assert image_choices.said(accepted[0], controls) == Said(frozenset({"crack", "spalling"}))
    assert image_choices.said(accepted[1], controls) == Said(nothing=True)


def test_an_image_turned_by_its_exif_is_proposed_upright(legacy, project, tmp_path):
    file, exif = tmp_path / "turned.jpg", Pillow.Exif()
    exif[0x0112] = 6  # turn by a quarter to show it
    Pillow.fromarray(np.zeros((40, 60, 3), np.uint8)).save(file, exif=exif)
    (task,) = legacy.upload_images(project, [file])
    (row,) = legacy.inventory(project)
    found = events.task(row.payload, project=project, data_key="image")
    image = ImageStore(legacy, tmp_path / "cache", **LIMITS).load(found.image, task)
    assert image.shape == (60, 40, 3)


def test_what_is_wrong_is_said(label_studio, legacy):
    for call in (legacy.get_project, legacy.next_task):
        with pytest.raises(LabelStudioError, match="404.*No Project"):
            call(10**6)
    with (
        closing(LabelStudio(label_studio.url, "f" * 40)) as stranger,
        pytest.raises(LabelStudioError, match="is a legacy token"),
    ):
        stranger.get_project(1)
    with (
        closing(LabelStudio("http://127.0.0.1:1", "f" * 40)) as nobody,
        pytest.raises(LabelStudioError, match="cannot be reached") as caught,
    ):
        nobody.create_project("abc", "<View/>")
    assert caught.value.status is None


@pytest.fixture
def backend():
    """An ML backend that answers as little as needed and keeps what its webhook gets."""
    received: queue.Queue = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer({"status": "UP"})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/webhook":
                received.put((dict(self.headers), body))
            self.answer({"model_version": "v1"})

        def answer(self, body):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    thread.join()
    server.server_close()


def test_backends_webhooks_and_their_events(legacy, project, backend):
    url, received = backend
    made = legacy.connect_backend(project, url, title="labelclimb", is_interactive=True)
    assert [b["id"] for b in legacy.list_backends(project)] == [made["id"]]
    (webhook,) = legacy.list_webhooks(project)
    legacy.patch_webhook(webhook["id"], {"headers": {"X-Secret": "s3"}})
    legacy.patch_backend(made["id"], url=url, project=project, title="labelclimb 2")
    (task,) = legacy.import_tasks(project, [{"data": {"image": "/data/x.png"}}])
    headers, body = received.get(timeout=10)
    assert headers["X-Secret"] == "s3"
    created = events.parse(body)
    assert isinstance(created, events.TasksCreated)
    assert [(t.id, t.image) for t in created.tasks] == [(task, "/data/x.png")]
    legacy.start_training(made["id"])
    assert isinstance(events.parse(received.get(timeout=10)[1]), events.StartTraining)
    annotation = legacy.create_annotation(task, [], lead_time=2.0)
    written = events.parse(received.get(timeout=10)[1])
    assert isinstance(written, events.AnnotationsWritten)
    assert (written.annotations[0].id, written.annotations[0].lead_time_s) == (annotation["id"], 2)
    legacy.delete_annotation(annotation["id"])
    assert events.parse(received.get(timeout=10)[1]).ids == (annotation["id"],)
    second = legacy.create_webhook(project, "http://127.0.0.1:9/", headers={}, is_active=False)
    legacy.delete_webhook(second["id"])
    legacy.delete_backend(made["id"])
    assert [w["id"] for w in legacy.list_webhooks(project)] == [webhook["id"]]
    legacy.delete_webhook(webhook["id"])
