"""The ML backend protocol, with Redis and Label Studio down: nothing is lost, nothing hangs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from backend.errors import HTTP_STATUS, LabelclimbError
from backend.labelstudio import rle
from backend.store import inbox, projects, proposals, tasks
from backend.web import dashboard, jobs, manage, metrics, protocol
from backend.wiring import Services
from tests.store import examples
from tests.web.conftest import AUTH, CONFIG, WEBHOOK

PAYLOADS = Path(__file__).resolve().parents[1] / "payloads"
OPEN = {(method, path) for method in ("GET", "HEAD") for path in ("/", "/health")}
ROUTERS = tuple(part.router for part in (protocol, manage, jobs, dashboard, metrics))
ROUTES = [
    (method, route.path)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in route.methods
]


def task(number: int, image: str = "/data/upload/7/a.jpg") -> dict[str, Any]:
    return {"id": number, "data": {"image": image}, "created_at": "2026-11-21T00:00:00Z"}


def recorded(name: str) -> Any:
    return json.loads((PAYLOADS / f"{name}.json").read_text())


def test_health_needs_no_credentials_and_no_disk(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "UP", "model_class": "labelclimb"}
    assert client.get("/").json() == client.get("/health").json()
    assert client.head("/health").status_code == 200  # as Flask answers monitors


def test_everything_else_is_denied_without_credentials(client: TestClient) -> None:
    for method, path in ROUTES:
        if (method, path) in OPEN:
            continue
        url = path.replace("{project}", "7")
        for auth in (None, ("ann", "wrong"), ("ann", "")):
            answer = client.request(method, url, json={"action": "X"}, auth=auth)
            assert answer.status_code == 401, (method, path, answer.status_code)


def test_no_route_is_hidden_from_the_test_above(client: TestClient) -> None:
    paths = {path for _, path in ROUTES}
    assert {"/setup", "/predict", "/webhook", "/train", "/metrics", "/versions"} <= paths
    assert {"/validate", "/job_status", "/delete", "/duplicate_model"} <= paths
    assert len(client.app.router.routes) == len(ROUTERS)  # type: ignore[attr-defined]


def test_setup_takes_the_project_in_and_names_no_version_yet(
    client: TestClient, services: Services, project: int
) -> None:
    with services.store.reading() as tx:
        known = projects.get(tx, project)
    assert known is not None
    assert known.label_config == CONFIG
    answer = client.post("/setup", json={"project": "7.1", "schema": CONFIG}, auth=AUTH)
    assert answer.json() == {"model_version": "untrained"}


@pytest.mark.parametrize("schema", ["<View></View>", "<View><Text name='t'/></View>", "no xml"])
def test_setup_says_what_a_label_config_lacks(client: TestClient, schema: str) -> None:
    answer = client.post("/setup", json={"project": "7.1", "schema": schema}, auth=AUTH)
    assert answer.status_code == 422
    assert "<BrushLabels" in answer.json()["error"]


def test_the_token_that_setup_carries_is_not_kept(
    client: TestClient, services: Services, tmp_path: Path
) -> None:
    """It is the project creator's own, and dead by default: nothing of ours may rest on it."""
    token = "d2b5" * 10
    body = {"project": "7.1", "schema": CONFIG, "hostname": "http://x", "access_token": token}
    assert client.post("/setup", json=body, auth=AUTH).status_code == 200
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert any(b"BrushLabels" in content for content in written)
    assert not any(token.encode() in content for content in written)


@pytest.mark.parametrize("body", [{}, {"schema": ""}, {"schema": None}, {"schema": " "}])
def test_setup_without_a_label_config_takes_nothing_in(
    client: TestClient, services: Services, project: int, body: dict[str, Any]
) -> None:
    with services.store.transaction() as tx:
        projects.update(tx, project, published="v2")
    known = client.post("/setup", json={"project": project, **body}, auth=AUTH)
    assert (known.status_code, known.json()) == (200, {"model_version": "v2"})
    unknown = client.post("/setup", json={"project": "8.1", "extra": 1, **body}, auth=AUTH)
    assert (unknown.status_code, unknown.json()) == (200, {"model_version": "untrained"})
    with services.store.reading() as tx:
        assert projects.get(tx, 8) is None


OFFICIAL_BODIES = (
    {"tasks": task(1), "project": "7.1"},
    {"tasks": [task(1)]},
    {"tasks": [{**task(1), "project": 7}]},
    {"tasks": [task(1)], "project": 7, "params": None},
    {"tasks": [task(1)], "project": "7", "params": {}},
    {"tasks": [task(1)], "project": "7.1", "params": {"context": None, "login": None}},
    {"tasks": [task(1)], "project": "7.1", "params": {"context": {}}},
    {"tasks": [task(1)], "project": "7.1", "label_config": "", "model_version": "v1"},
    {"tasks": [task(1)], "project": None, "force_reload": True, "try_fetch": True},
)


def test_predict_takes_what_the_official_server_takes(client: TestClient, project: int) -> None:
    for body in OFFICIAL_BODIES:
        answer = client.post("/predict", json=body, auth=AUTH)
        assert answer.status_code == 200, (body, answer.text)
        assert len(answer.json()["results"]) == 1


def test_only_a_context_with_something_in_it_is_a_prompt(
    client: TestClient, services: Services, project: int
) -> None:
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 1:4] = True
    region = examples.region(rle=rle.to_bytes(rle.encode(mask)))
    with services.store.transaction() as tx:
        tasks.upsert(tx, [examples.task()])
        proposals.save(tx, project, 10, 1, [region], examples.evidence())
        projects.update(tx, project, published="v1", champion=1)
    opened = {"id": 10, "data": {"image": "/data/a.jpg"}}

    def regions(context: Any) -> list[str]:
        body = {"tasks": [opened], "project": "7.1", "params": {"context": context}}
        answer = client.post("/predict", json=body, auth=AUTH)
        return [found["id"] for found in answer.json()["results"][0]["result"]]

    assert regions(None) == regions({}) == ["v1-10-1"]
    assert regions({"result": []}) == []  # right after Submit


def test_predict_for_no_task_is_no_error(client: TestClient) -> None:
    answer = client.post("/predict", json={"tasks": []}, auth=AUTH)
    assert (answer.status_code, answer.json()) == (200, {"results": []})


def test_predict_takes_a_project_in_that_comes_with_its_label_config(
    client: TestClient, services: Services
) -> None:
    body = {"tasks": [task(1)], "project": "12.3", "label_config": CONFIG}
    assert client.post("/predict", json=body, auth=AUTH).status_code == 200
    with services.store.reading() as tx:
        assert projects.get(tx, 12) is not None


def test_of_two_projects_one_must_be_named(client: TestClient, project: int) -> None:
    client.post("/setup", json={"project": "8.1", "schema": CONFIG}, auth=AUTH)
    answer = client.post("/predict", json={"tasks": [task(1)]}, auth=AUTH)
    assert answer.status_code == 400
    assert "names no project" in answer.json()["error"]


def test_what_is_no_project_is_refused(client: TestClient) -> None:
    for named in ("x", "-1", True, [], {}, "9" * 19, "9" * 400, "²"):
        for path in ("/setup", "/predict", "/train", "/delete"):
            body = {"project": named, "tasks": [task(1)], "schema": CONFIG}
            answer = client.post(path, json=body, auth=AUTH)
            assert answer.status_code == 400, (named, path, answer.text)
            assert "project is" in answer.json()["error"]


def test_a_recorded_setup_is_answered(client: TestClient) -> None:
    answer = client.post("/setup", json=recorded("ml_setup"), auth=AUTH)
    assert (answer.status_code, answer.json()) == (200, {"model_version": "untrained"})


@pytest.mark.parametrize(
    ("name", "tasks"),
    [("ml_predict_opened_task", 1), ("ml_predict_bulk", 3), ("ml_predict_prompts", 1)],
)
def test_recorded_predictions_get_one_result_per_task(
    client: TestClient, name: str, tasks: int
) -> None:
    answer = client.post("/predict", json=recorded(name), auth=AUTH)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [r["result"] for r in results] == [[]] * tasks


def test_predict_gives_one_result_per_task_whatever_they_are(
    client: TestClient, project: int
) -> None:
    tasks = [task(1), {"id": 2, "data": {}}, {"nonsense": True}, task(4, "/data/upload/7/b.jpg")]
    answer = client.post("/predict", json={"tasks": tasks, "project": "7.1"}, auth=AUTH)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert len(results) == 4
    assert all(r == {"result": [], "score": 1.0, "model_version": "untrained"} for r in results)


def test_an_empty_prompt_is_answered_at_once(client: TestClient, project: int) -> None:
    body = {"tasks": [task(1)], "project": "7.1", "params": {"context": {"result": []}}}
    answer = client.post("/predict", json=body, auth=AUTH)
    assert answer.json()["results"][0]["result"] == []


def test_an_unknown_project_is_explained(client: TestClient) -> None:
    answer = client.post("/predict", json={"tasks": [task(1)], "project": "99.1"}, auth=AUTH)
    assert answer.status_code == 404
    assert "labelclimb connect --project 99" in answer.json()["error"]


@pytest.mark.parametrize("body", ["", "{", "[]", '"x"', "null", '{"tasks": 3}'])
@pytest.mark.parametrize("path", ["/predict", "/setup", "/webhook"])
def test_malformed_bodies_are_refused_in_words(client: TestClient, path: str, body: str) -> None:
    headers = {"Content-Type": "application/json", **WEBHOOK}
    answer = client.post(path, content=body, headers=headers, auth=AUTH)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_an_event_is_kept_although_redis_is_down(
    client: TestClient, services: Services, project: int
) -> None:
    bodies = [json.loads(path.read_text()) for path in sorted(PAYLOADS.glob("*.json"))]
    recorded = [body for body in bodies if "action" in body]
    assert len(recorded) > 10
    for body in recorded:
        answer = client.post("/webhook", json=body, headers=WEBHOOK)
        assert answer.status_code == 201, body["action"]
    with services.store.reading() as tx:
        kept = inbox.pending(tx, limit=1000)
    assert len(kept) == len(recorded)


def test_the_projects_import_token_is_not_kept(
    client: TestClient, services: Services, project: int
) -> None:
    body = {"action": "PROJECT_UPDATED", "project": {"id": 7, "token": "import-token"}}
    client.post("/webhook", json=body, headers=WEBHOOK)
    with services.store.reading() as tx:
        assert "import-token" not in json.dumps(dict(inbox.pending(tx, limit=1)[0].payload))


def test_unknown_events_are_kept_and_harmless(client: TestClient, services: Services) -> None:
    body = {"action": "SOMETHING_NEW", "x": 1}
    assert client.post("/webhook", json=body, headers=WEBHOOK).status_code == 201


def test_huge_bodies_are_refused_before_they_are_read(client: TestClient) -> None:
    headers = {**WEBHOOK, "Content-Length": str(1 << 40), "Content-Type": "application/json"}
    assert client.post("/webhook", content=b"{}", headers=headers).status_code == 413


def test_every_error_of_ours_has_a_status() -> None:
    def tree(kind: type[LabelclimbError]) -> list[type[LabelclimbError]]:
        return [kind, *(k for child in kind.__subclasses__() for k in tree(child))]

    for kind in tree(LabelclimbError)[1:]:
        assert any(base in HTTP_STATUS for base in kind.__mro__), kind


def test_the_strategy_can_be_chosen_at_run_time(client: TestClient, project: int) -> None:
    answer = client.patch("/api/projects/7", json={"strategy": "margin"}, auth=AUTH)
    assert answer.status_code == 200
    assert client.get("/api/projects/7", auth=AUTH).json()["strategy"] == "margin"
    refused = client.patch("/api/projects/7", json={"strategy": "astrology"}, auth=AUTH)
    assert refused.status_code == 404
    assert "margin" in refused.json()["error"]


def test_metrics_speak_prometheus(client: TestClient, project: int) -> None:
    client.post("/webhook", json={"action": "SOMETHING_NEW"}, headers=WEBHOOK)
    text = client.get("/metrics", auth=AUTH).text
    assert 'labelclimb_inbox_events{source="webhook",state="pending"} 1.0' in text
    assert "labelclimb_redis_up 0.0" in text
