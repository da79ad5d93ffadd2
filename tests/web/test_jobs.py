"""Jobs and schedules over HTTP; Redis is down."""

from __future__ import annotations

from datetime import datetime, timezone

from fastapi.testclient import TestClient

from backend.records import Job
from backend.store import jobs
from backend.wiring import Services
from tests.web.conftest import AUTH

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)
DETAIL = {"stage": "training", "loss": 0.5, "f_measure": 0.75, "seconds_left": 90.0}


def keep(services: Services, *rows: Job) -> None:
    with services.store.transaction() as tx:
        for row in rows:
            jobs.put(tx, row)


def test_a_job_says_where_it_stands(client: TestClient, services: Services, project: int) -> None:
    own = Job("train-7-a", project, "train", "running", DETAIL, created_at=NOW)
    keep(services, own, Job("train-8-b", 8, "train", "queued", created_at=NOW))
    assert client.get("/api/jobs/train-7-a", auth=AUTH).json()["detail"] == DETAIL
    listed = client.get(f"/api/projects/{project}/jobs", auth=AUTH).json()
    assert [job["id"] for job in listed] == ["train-7-a"]
    everything = client.get("/api/jobs", auth=AUTH).json()
    assert [job["id"] for job in everything] == ["train-8-b", "train-7-a"]
    assert len(client.get("/api/jobs?limit=1", auth=AUTH).json()) == 1
    assert client.get("/api/jobs/train-7-z", auth=AUTH).status_code == 404
    assert client.get("/api/jobs").status_code == 401


def test_a_job_is_cancelled_once_even_without_redis(
    client: TestClient, services: Services, project: int
) -> None:
    keep(services, Job("train-7-a", project, "train", "running", DETAIL, created_at=NOW))
    url = "/api/jobs/train-7-a/cancel"
    assert client.post(url).status_code == 401
    answer = client.post(url, auth=AUTH)
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    again = client.post(url, auth=AUTH)
    assert again.status_code == 409
    assert again.json()["error"] == "job train-7-a cannot be cancelled: it is cancelled already"
    assert client.post("/api/jobs/train-7-z/cancel", auth=AUTH).status_code == 404


def test_when_a_project_trains_is_changed_at_run_time(client: TestClient, project: int) -> None:
    url = f"/api/projects/{project}"
    change = {"schedule": "mon-fri 02:00 Europe/Prague", "train_after": 20, "quiet_s": 5}
    changed = client.patch(url, json=change, auth=AUTH)
    assert changed.status_code == 200
    shown = client.get(url, auth=AUTH).json()
    assert change.items() <= shown.items()
    assert shown["training"] == "0 of 20 new labels"
    refused = client.patch(url, json={"schedule": "every night", "train_after": 3}, auth=AUTH)
    assert refused.status_code == 400
    assert "'every' is no day" in refused.json()["error"]
    assert client.get(url, auth=AUTH).json()["train_after"] == 20, "nothing of it is changed"
    assert client.patch(url, json={"schedule": ""}, auth=AUTH).json()["schedule"] == ""
