"""labelclimb under the official server's base class: a stand-in, and the real one where it is."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from backend import official_server, sdk_adapter
from backend.credentials import Credentials
from backend.errors import LabelConfigError, SettingsError
from backend.processes.supervisor import free_port
from backend.settings import Settings
from backend.store import inbox, projects
from backend.web.app import create_app
from backend.web_names import SECRET_HEADER
from backend.wiring import Services, build
from tests.migrated import new_store
from tests.standin.label_studio_ml.model import LabelStudioMLBase
from tests.standin.label_studio_ml.response import ModelResponse
from tests.steps.conftest import CONFIG

AUTH = ("ann", "w")
TASK = {"id": 1, "data": {"image": "/data/upload/7/a.jpg"}, "created_at": "2026-11-21T00:00:00Z"}
NOTHING = {"model_version": "untrained", "result": [], "score": 1.0}
ROOT = Path(__file__).resolve().parents[1]
STANDIN = ROOT / "tests" / "standin"
OFFICIAL = importlib.util.find_spec("label_studio_ml") is not None


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
    new_store(Path(environ["DATA_DIR"]))
    built = build(Settings.from_env(environ))
    yield built
    built.close()


@pytest.fixture
def model(services: Services) -> Any:
    base = type("Base", (LabelStudioMLBase,), {"cache": {}})
    return sdk_adapter.model_class(base, ModelResponse, lambda: services)


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


def surroundings(environ: dict[str, str]) -> dict[str, str]:
    """Return what a process needs to run the official server: the real one, or its stand-in."""
    inherited = {
        key: os.environ[key] for key in ("PATH", "HOME", "PYTHONPATH") if key in os.environ
    }
    if OFFICIAL:
        return {**inherited, **environ}
    return {**inherited, **environ, "PYTHONPATH": os.pathsep.join((str(STANDIN), str(ROOT)))}


@pytest.mark.integration
def test_the_official_server_serves_it(environ: dict[str, str], tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", OFFICIAL_CALLS],
        env=surroundings(environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    health, stranger, setup, predicted, event, refused = json.loads(run.stdout.splitlines()[-1])
    assert health == [200, {"status": "UP", "model_class": "Labelclimb"}]
    assert stranger[0] == refused[0] == 401
    assert setup == [200, {"model_version": "untrained"}]
    assert predicted == [200, {"results": [NOTHING]}]
    assert (event[0], event[1]["status"]) == (201, "ok")


def listens(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(url, timeout=2.0, trust_env=False).status_code == 401
    return False


@contextmanager
def gunicorn(environ: dict[str, str], log: Path) -> Iterator[str]:
    """Run it as HumanSignal's Docker images do; the API is loaded once and forked."""
    port = free_port(0)
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--threads", "8",
               "--timeout", "0", "--bind", f"127.0.0.1:{port}", "_wsgi:app"]  # fmt: skip
    folder = Path(official_server.__path__[0])
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=surroundings(environ), stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while not listens(url):
            assert process.poll() is None, log.read_text()
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.mark.integration
def test_it_runs_in_several_processes_of_gunicorn(
    environ: dict[str, str], tmp_path: Path, services: Services
) -> None:
    project = {"id": 7, "label_config": CONFIG}
    secret = {SECRET_HEADER: "secret"}
    log = tmp_path / "gunicorn.log"
    with gunicorn(environ, log) as url, ThreadPoolExecutor(8) as pool:
        client = httpx.Client(base_url=url, timeout=60, trust_env=False)
        with client:
            assert client.get("/health", auth=AUTH).json()["model_class"] == "Labelclimb"
            assert client.get("/health").status_code == 401
            body = {"project": "7.1", "schema": CONFIG}
            assert client.post("/setup", json=body, auth=AUTH).json() == {
                "model_version": "untrained"
            }
            asked = {"project": "7.1", "tasks": [TASK, {**TASK, "id": 2}], "label_config": CONFIG}
            predicted = client.post("/predict", json={**asked, "params": {}}, auth=AUTH)
            assert predicted.json() == {"results": [NOTHING, NOTHING]}

            def send(number: int) -> int:
                annotation = {"id": number, "task": 1, "result": []}
                event = {"action": "ANNOTATION_CREATED", "annotation": annotation}
                sent = {**event, "project": project, "task": TASK}
                return client.post("/webhook", json=sent, headers=secret).status_code

            assert set(pool.map(send, range(40))) == {201}
            assert client.post("/webhook", json={}, headers={SECRET_HEADER: "x"}).status_code == 401
    with services.store.reading() as tx:
        kept = inbox.pending(tx)
    assert sorted(event.payload["annotation"]["id"] for event in kept) == list(range(40))
    assert "Traceback" not in log.read_text()
