"""The reconciler against a real Label Studio that has no webhook."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from backend.errors import UnknownThing
from backend.settings import Settings
from backend.steps import projects
from backend.steps.listening import reconcile
from backend.steps.listening.reconcile import Found
from backend.store import annotations as annotation_rows
from backend.store import tasks
from backend.wiring import Services, build
from tests.e2e.label_studio_server import LabelStudioServer
from tests.steps.conftest import CONFIG, PlayedQueues
from tests.steps.played_label_studio import click, handle_all


@contextmanager
def backend() -> Iterator[tuple[str, list[str]]]:
    """An ML backend that notes who calls it."""
    calls: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers["content-length"] or 0))
            calls.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"status": "UP", "model_version": "v0"}).encode())

        do_GET = do_POST = answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", calls
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.e2e
def test_a_real_label_studio_without_a_webhook(
    label_studio: LabelStudioServer, tmp_path: Path
) -> None:
    """All that it holds is found, changes and deletions too, and it never calls its ML backend."""
    variables = {"DATA_DIR": str(tmp_path), "LABEL_STUDIO_URL": label_studio.url}
    real = build(Settings.from_env({**variables, "LABEL_STUDIO_API_KEY": label_studio.token}))
    queues: Any = PlayedQueues()
    services, client = replace(real, queues=queues), real.labelstudio
    project = client.create_project("reconciler test", CONFIG)["id"]
    with backend() as (url, calls):
        client.connect_backend(project, url, title="stub")
        for webhook in client.list_webhooks(project):
            client.delete_webhook(webhook["id"])
        client.patch_project(project, evaluate_predictions_automatically=True)
        ids = client.import_tasks(project, [{"data": {"image": f"/x/{n}.png"}} for n in range(5)])
        made = [client.create_annotation(task, [click("crack")])["id"] for task in ids[:3]]
        skipped = client.create_annotation(ids[3], [], was_cancelled=True)["id"]
        projects.adopt(services, project, CONFIG)
        calls.clear()
        assert reconcile.reconcile(services, project) == Found(5, 4)
        handle_all(services)
        assert_knows(services, project, ids, [*made, skipped])
        client.update_annotation(made[0], result=[click("crack", 20.0)])
        client.delete_annotation(made[1])
        with label_studio.client() as http:
            http.delete(f"/api/tasks/{ids[4]}/").raise_for_status()
        calls.clear()
        assert reconcile.reconcile(services, project) == Found(0, 1, 2)
        handle_all(services)
        assert_knows(services, project, ids[:4], [made[0], made[2], skipped])
        assert reconcile.reconcile(services, project, full=True) == Found()
        assert calls == []
        client.delete_project(project)
        with pytest.raises(UnknownThing, match="no project"):
            reconcile.reconcile(services, project)
    real.close()


def assert_knows(
    services: Services, project: int, task_ids: list[int], annotations: list[int]
) -> None:
    with services.store.reading() as tx:
        assert [task.id for task in tasks.all(tx, project)] == task_ids
        assert sorted(annotation_rows.inventory(tx, project)) == sorted(annotations)
