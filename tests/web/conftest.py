"""An application with a real store and a Redis that is down: the hardest case for the web."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from backend.settings import Settings
from backend.web.app import create_app
from backend.wiring import Services, build
from tests.migrated import new_store

AUTH = ("ann", "secret-word")
WEBHOOK = {"X-Labelclimb-Secret": "webhook-word"}
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="crack"/></BrushLabels>
<KeyPointLabels name="point" toName="image"><Label value="crack"/>
<Label value="nothing here" model_negative="true"/></KeyPointLabels></View>"""


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    new_store(tmp_path)
    built = build(
        Settings.from_env(
            {
                "DATA_DIR": str(tmp_path),
                "BASIC_AUTH_USER": AUTH[0],
                "BASIC_AUTH_PASS": AUTH[1],
                "WEBHOOK_SECRET": WEBHOOK["X-Labelclimb-Secret"],
                "LABEL_STUDIO_URL": "http://127.0.0.1:9",
                "LABEL_STUDIO_API_KEY": "0" * 40,
                "REDIS_URL": f"unix://{tmp_path}/nobody.sock",
                "PREDICT_DEADLINE_S": "0.2",
            }
        )
    )
    yield built
    built.close()


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services), raise_server_exceptions=False) as test_client:
        yield test_client


@pytest.fixture
def project(client: TestClient) -> int:
    body = {
        "project": "7.1795220711",
        "schema": CONFIG,
        "hostname": "http://x",
        "access_token": "t",
    }
    assert client.post("/setup", json=body, auth=AUTH).status_code == 200
    return 7
