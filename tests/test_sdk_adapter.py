"""labelclimb under the official server's base class: a stand-in, and the real one where it is."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend import sdk_adapter
from backend.credentials import Credentials
from backend.errors import LabelConfigError, SettingsError
from backend.settings import Settings
from backend.store import inbox, projects
from backend.web.app import create_app
from backend.wiring import Services, build
from tests.steps.conftest import CONFIG

AUTH = ("ann", "w")
TASK = {"id": 1, "data": {"image": "/data/upload/7/a.jpg"}, "created_at": "2026-11-21T00:00:00Z"}
OFFICIAL = importlib.util.find_spec("label_studio_ml") is not None


@dataclass
class PlayedResponse:
    """Stands for ModelResponse: predictions, one or a list per task."""

    predictions: list[Any] = field(default_factory=list)


class PlayedBase:
    """Stands for LabelStudioMLBase of label-studio-ml 2.x, its cache a dict."""

    cache: dict[tuple[str, str], str]

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if label_config is not None:
            self.set("label_config", label_config)
        if not self.get("model_version"):
            self.set("model_version", "0.0.1")
        self.setup()

    def setup(self) -> None:
        raise NotImplementedError

    def get(self, key: str) -> str | None:
        return self.cache.get((self.project_id, key))

    def set(self, key: str, value: str) -> None:
        if not isinstance(value, str):
            raise ValueError("Value must be a string")
        self.cache[self.project_id, key] = value

    @property
    def label_config(self) -> str | None:
        return self.get("label_config")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {
        "DATA_DIR": str(tmp_path / "data"),
        "MODEL_DIR": str(tmp_path),
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": "0" * 40,
        "BASIC_AUTH_USER": AUTH[0],
        "BASIC_AUTH_PASS": AUTH[1],
        "WEBHOOK_SECRET": "secret",
        "REDIS_URL": f"unix://{tmp_path}/nobody.sock",
        "PREDICT_DEADLINE_S": "0.1",
    }


@pytest.fixture
def services(environ: dict[str, str]) -> Iterator[Services]:
    built = build(Settings.from_env(environ))
    yield built
    built.close()


@pytest.fixture
def model(services: Services) -> Any:
    base = type("Base", (PlayedBase,), {"cache": {}})
    return sdk_adapter.model_class(base, PlayedResponse, lambda: services)


def test_making_the_model_takes_the_project_in_and_names_the_version(
    model: Any, services: Services
) -> None:
    made = model(project_id="7", label_config=CONFIG)
    assert made.get("model_version") == "untrained"
    with services.store.transaction() as tx:
        known = projects.update(tx, 7, published="v3.2")
    assert known.label_config == CONFIG
    assert model(project_id="7").get("model_version") == "v3.2"


def test_what_cannot_be_served_is_said_with_a_config_that_can(model: Any) -> None:
    with pytest.raises(LabelConfigError, match="<BrushLabels"):
        model(project_id="7", label_config="<View><Image name='i' value='$i'/></View>")


@pytest.mark.parametrize("named", [None, "", "None"])
def test_without_a_project_it_can_be_made_and_predicts_for_the_only_one(
    model: Any, named: str | None
) -> None:
    model(project_id="7", label_config=CONFIG)
    made = model(project_id=named)
    assert made.get("model_version") == "untrained"
    assert len(made.predict([TASK]).predictions) == 1


def test_it_answers_as_our_own_server_does(model: Any, services: Services) -> None:
    made = model(project_id="7", label_config=CONFIG)
    tasks = [TASK, {**TASK, "id": 2, "data": {}}]
    body = {"tasks": tasks, "project": "7.1"}
    with TestClient(create_app(services)) as client:
        ours = client.post("/predict", json=body, auth=AUTH).json()["results"]
    for context in (None, {}, {"result": []}):
        answered = made.predict(tasks, context=context, login="x", password="y")
        assert answered.predictions == ours


def test_a_proposal_that_comes_later_is_no_prediction(model: Any, services: Services) -> None:
    made = model(project_id="7", label_config=CONFIG)
    with services.store.transaction() as tx:
        projects.update(tx, 7, champion=1, published="v1")
    assert made.predict([TASK]).predictions == [[]]  # Redis is down: nobody predicts it now


def test_an_event_is_kept_whole(model: Any, services: Services) -> None:
    made = model(project_id="7", label_config=CONFIG)
    data = {"annotation": {"id": 3}, "project": {"id": 7, "label_config": CONFIG}}
    answer = made.fit("ANNOTATION_CREATED", data, job_id="x")
    json.dumps(answer)  # the official server answers with it
    with services.store.reading() as tx:
        (kept,) = inbox.pending(tx)
    assert kept.action == "ANNOTATION_CREATED"
    assert kept.payload["annotation"] == {"id": 3}


def test_the_secret_header_opens_the_webhook_and_nothing_else() -> None:
    seen: list[dict[str, Any]] = []

    def server(environ: dict[str, Any], _start: Any) -> list[bytes]:
        seen.append(environ)
        return []

    door = sdk_adapter.with_webhook_secret(server, Credentials("ann", "pass", "word"))

    def sent(path: str, **headers: str) -> str | None:
        door({"PATH_INFO": path, **headers}, None)  # type: ignore[arg-type]
        found: str | None = seen[-1].get("HTTP_AUTHORIZATION")
        return found

    basic = f"Basic {base64.b64encode(b'ann:pass').decode()}"
    assert sent("/webhook", HTTP_X_LABELCLIMB_SECRET="word") == basic
    assert sent("/webhook", HTTP_X_LABELCLIMB_SECRET="other") is None
    assert sent("/webhook") is None
    assert sent("/predict", HTTP_X_LABELCLIMB_SECRET="word") is None


@pytest.mark.skipif(OFFICIAL, reason="label-studio-ml is installed")
def test_without_the_official_package_it_says_how_to_have_it() -> None:
    with pytest.raises(SettingsError, match=r"labelclimb\[label-studio-ml\]"):
        sdk_adapter.application()


OFFICIAL_CALLS = """
import base64, json
from backend.official_server._wsgi import app
from tests.steps.conftest import CONFIG

client = app.test_client()
basic = {"Authorization": "Basic " + base64.b64encode(b"ann:w").decode()}
task = {"id": 1, "data": {"image": "/data/upload/7/a.jpg"}}
project = {"id": 7, "label_config": CONFIG}
event = {"action": "START_TRAINING", "project": project}
calls = [
    client.get("/health", headers=basic),
    client.get("/health"),
    client.post("/setup", json={"project": "7.1", "schema": CONFIG}, headers=basic),
    client.post("/predict", json={"project": "7.1", "tasks": [task], "label_config": CONFIG,
                                  "params": {"context": None}}, headers=basic),
    client.post("/webhook", json=event, headers={"X-Labelclimb-Secret": "secret"}),
    client.post("/webhook", json=event, headers={"X-Labelclimb-Secret": "wrong"}),
]
print(json.dumps([(call.status_code, call.get_json(silent=True)) for call in calls]))
"""


@pytest.mark.skipif(not OFFICIAL, reason="label-studio-ml is not installed")
def test_the_official_server_itself_serves_it(environ: dict[str, str], tmp_path: Path) -> None:
    inherited = {
        key: os.environ[key] for key in ("PATH", "HOME", "PYTHONPATH") if key in os.environ
    }
    run = subprocess.run(
        [sys.executable, "-c", OFFICIAL_CALLS],
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    health, stranger, setup, predicted, event, refused = json.loads(run.stdout.splitlines()[-1])
    assert health == [200, {"status": "UP", "model_class": "Labelclimb"}]
    assert stranger[0] == refused[0] == 401
    assert setup == [200, {"model_version": "untrained"}]
    one = {"model_version": "untrained", "result": [], "score": 1.0}
    assert predicted == [200, {"results": [one]}]
    assert (event[0], event[1]["status"]) == (201, "ok")
