"""The only client of Label Studio's API; facts of version 1.23."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from backend.errors import LabelStudioError
from backend.labelstudio.session import Clock, Session

Json = dict[str, Any]

PREDICTIONS_PER_CALL = 500
BYTES_PER_CALL = 32_000_000  # Label Studio's own limit is 250 MB; 48 MB took it 650 MB of memory
FILES_PER_CALL = 50
TASKS_PER_PAGE = 1000
INVENTORY_FIELDS = (
    "id,data,created_at,updated_at,annotations_ids,total_annotations,"
    "cancelled_annotations,total_predictions"
)


@dataclass(frozen=True)
class TaskInventory:
    """One task of a project's inventory.

    annotation_ids: with skipped ones; payload: the task as Label Studio wrote it.
    updated_at: also moved by annotations that are created, updated or deleted.
    """

    id: int
    annotation_ids: tuple[int, ...]
    updated_at: datetime | None
    payload: Mapping[str, Any]


class LabelStudio:
    """Label Studio at `url`; `api_key` is a legacy or a personal access token.

    All methods raise LabelStudioError with the status and the server's own words, never with
    the key; `status` is None when Label Studio is down. Reading is retried, writing never.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout_s: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        self.session = Session(
            url, api_key, transport=transport, timeout_s=timeout_s, clock=clock or Clock()
        )
        self._call = self.session.call

    @property
    def url(self) -> str:
        """Return the server's address without a slash at its end."""
        return self.session.url

    def close(self) -> None:
        """Close all connections."""
        self.session.close()

    def health(self) -> Json:
        """Return {"status": "UP"}."""
        return _object(self._call("GET", "/health"))

    def version(self) -> str:
        """Return the release, as "1.23.2"."""
        return str(_object(self._call("GET", "/api/version")).get("release", "unknown"))

    def create_project(self, title: str, label_config: str, **fields: Any) -> Json:
        """Create a project and return it."""
        body = {"title": title, "label_config": label_config, **fields}
        return _object(self._call("POST", "/api/projects/", json=body))

    def get_project(self, project: int) -> Json:
        """Return a project with its label config, sampling and model version."""
        return _object(self._call("GET", f"/api/projects/{project}/"))

    def patch_project(self, project: int, **fields: Any) -> Json:
        """Change a project; a model version must have predictions (or be "")."""
        return _object(self._call("PATCH", f"/api/projects/{project}/", json=fields))

    def delete_project(self, project: int) -> None:
        """Delete a project with all that it holds."""
        self._call("DELETE", f"/api/projects/{project}/")

    def import_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> list[int]:
        """Import tasks ({"data": {...}}) and return their ids."""
        return self._import(project, json=list(tasks))

    def upload_images(self, project: int, files: Sequence[Path]) -> list[int]:
        """Upload image files and return the ids of their tasks, in the order of `files`."""
        ids: list[int] = []
        for batch in _batches(files, lambda file: file.stat().st_size, FILES_PER_CALL):
            # Label Studio reads one file per field name
            parts = {f"file{n}": (f.name, f.read_bytes()) for n, f in enumerate(batch)}
            ids += self._import(project, files=parts)
        return ids

    def _import(self, project: int, **body: Any) -> list[int]:
        path, params = f"/api/projects/{project}/import", {"return_task_ids": "true"}
        answer = _object(self._call("POST", path, params=params, **body))
        return [int(task) for task in answer["task_ids"]]

    def tasks(
        self, project: int, *, include: str = INVENTORY_FIELDS, page_size: int = TASKS_PER_PAGE
    ) -> Iterator[Json]:
        """Yield all tasks with the named fields; never makes Label Studio call backends.

        (`GET /api/tasks/ID` does: for a task without a prediction.)
        """
        params: dict[str, Any] = {"project": project, "fields": "all", "include": include}
        params |= {"page_size": page_size, "resolve_uri": "false"}
        page, seen = 1, 0
        while True:
            answer = _object(self._call("GET", "/api/tasks", params={**params, "page": page}))
            yield from answer["tasks"]
            seen += len(answer["tasks"])
            if seen >= answer["total"] or not answer["tasks"]:
                return
            page += 1

    def inventory(self, project: int) -> list[TaskInventory]:
        """Return all tasks with the ids of their annotations; about 300 bytes each."""
        return [_inventory(payload) for payload in self.tasks(project)]

    def get_annotation(self, annotation: int) -> Json:
        """Return an annotation with its result."""
        return _object(self._call("GET", f"/api/annotations/{annotation}/"))

    def create_annotation(
        self, task: int, result: Sequence[Mapping[str, Any]], **fields: Any
    ) -> Json:
        """Create an annotation; `fields` as `lead_time` (seconds) or `was_cancelled`."""
        body = {"result": list(result), **fields}
        return _object(self._call("POST", f"/api/tasks/{task}/annotations/", json=body))

    def update_annotation(self, annotation: int, **fields: Any) -> Json:
        """Change an annotation's fields, as `result` and `lead_time`."""
        return _object(self._call("PATCH", f"/api/annotations/{annotation}/", json=fields))

    def delete_annotation(self, annotation: int) -> None:
        """Delete an annotation."""
        self._call("DELETE", f"/api/annotations/{annotation}/")

    def next_task(self, project: int) -> Json | None:
        """Return the task that Label Studio serves next to this user, None when none is left."""
        try:
            return _object(self._call("GET", f"/api/projects/{project}/next"))
        except LabelStudioError as error:
            if error.status != 404:
                raise
        self.get_project(project)  # a missing project answers 404 as well: let it say so
        return None

    def import_predictions(self, project: int, predictions: Iterable[Mapping[str, Any]]) -> int:
        """Import predictions ({"task", "result", "score", "model_version"}); return their number.

        Label Studio drops what it finds invalid without a word; then this raises, and some
        predictions may have been stored: delete their model version before trying again.
        """
        rows = [json.dumps(p, separators=(",", ":"), allow_nan=False).encode() for p in predictions]
        path = f"/api/projects/{project}/import/predictions"
        headers = {"Content-Type": "application/json"}
        for batch in _batches(rows, len, PREDICTIONS_PER_CALL):
            body = b"[" + b",".join(batch) + b"]"
            answer = _object(self._call("POST", path, content=body, headers=headers))
            if answer.get("created") != len(batch):
                raise LabelStudioError(
                    f"Label Studio stored {answer.get('created')} of {len(batch)} predictions for "
                    f"project {project}; do they fit its label config?"
                )
        return len(rows)

    def model_versions(self, project: int) -> dict[str, int]:
        """Return {name: number of predictions} of the versions that the project holds."""
        params = {"extended": "true"}
        answer = _object(
            self._call("GET", f"/api/projects/{project}/model-versions/", params=params)
        )
        return {str(row["model_version"]): int(row.get("count", 0)) for row in answer["static"]}

    def delete_model_version(self, project: int, version: str) -> int:
        """Delete all predictions of a version and return their number."""
        path, body = f"/api/projects/{project}/model-versions/", {"model_version": version}
        return int(_object(self._call("DELETE", path, json=body)).get("deleted_predictions", 0))

    def connect_backend(self, project: int, url: str, *, title: str, **fields: Any) -> Json:
        """Connect an ML backend; Label Studio asks its /health and /setup meanwhile."""
        body = {"project": project, "url": url, "title": title, **fields}
        return _object(self._call("POST", "/api/ml/", json=body))

    def list_backends(self, project: int) -> list[Json]:
        """Return the project's ML backends; Label Studio asks their /health and /setup."""
        return _objects(self._call("GET", "/api/ml/", params={"project": project}))

    def patch_backend(self, backend: int, **fields: Any) -> Json:
        """Change an ML backend; send `url`, `project` and the credentials with every change."""
        return _object(self._call("PATCH", f"/api/ml/{backend}", json=fields))

    def delete_backend(self, backend: int) -> None:
        """Disconnect an ML backend; its webhook stays."""
        self._call("DELETE", f"/api/ml/{backend}")

    def start_training(self, backend: int) -> None:
        """Press "Start Training": the backend gets START_TRAINING on its webhook."""
        self._call("POST", f"/api/ml/{backend}/train", json={})

    def list_webhooks(self, project: int) -> list[Json]:
        """Return the project's webhooks."""
        return _objects(self._call("GET", "/api/webhooks/", params={"project": project}))

    def create_webhook(
        self, project: int, url: str, *, headers: Mapping[str, str], **fields: Any
    ) -> Json:
        """Create an active webhook for all events with payload; `headers` hold its secret."""
        wanted = {"send_payload": True, "send_for_all_actions": True, "is_active": True}
        body = {"project": project, "url": url, "headers": dict(headers), **wanted, **fields}
        return _object(self._call("POST", "/api/webhooks/", json=body))

    def patch_webhook(self, webhook: int, fields: Mapping[str, Any]) -> Json:
        """Change a webhook."""
        return _object(self._call("PATCH", f"/api/webhooks/{webhook}/", json=dict(fields)))

    def delete_webhook(self, webhook: int) -> None:
        """Delete a webhook."""
        self._call("DELETE", f"/api/webhooks/{webhook}/")

    def add_local_storage(self, project: int, path: str, *, title: str = "images") -> Json:
        """Let a project serve files below `path`, a true subfolder of Label Studio's document root.

        Without it `/data/local-files/?d=` answers 404; nothing is imported.
        """
        body = {"project": project, "path": path, "title": title, "use_blob_urls": True}
        return _object(self._call("POST", "/api/storages/localfiles/", json=body))

    def download(
        self, location: str, *, max_bytes: int, allowed_hosts: Collection[str] = ()
    ) -> bytes:
        """Return the bytes at a path of Label Studio, or at an address of an allowed host."""
        return self.session.download(location, max_bytes=max_bytes, allowed_hosts=allowed_hosts)


def _batches(items: Sequence[Any], size: Any, count: int) -> Iterator[Sequence[Any]]:
    """Cut into runs of at most `count` items and BYTES_PER_CALL bytes, at least one item each."""
    start, total = 0, 0
    for end, item in enumerate(items):
        total += size(item)
        if end > start and (end - start == count or total > BYTES_PER_CALL):
            yield items[start:end]
            start, total = end, size(item)
    if start < len(items):
        yield items[start:]


def _inventory(payload: Json) -> TaskInventory:
    ids = str(payload.get("annotations_ids") or "")
    updated_at = payload.get("updated_at")
    return TaskInventory(
        id=int(payload["id"]),
        annotation_ids=tuple(int(part) for part in ids.split(",") if part.strip()),
        updated_at=datetime.fromisoformat(updated_at.replace("Z", "+00:00"))
        if updated_at
        else None,
        payload=payload,
    )


def _object(answer: Any) -> Json:
    if not isinstance(answer, dict):
        raise LabelStudioError(f"Label Studio answered {repr(answer)[:80]}; expected an object")
    return answer


def _objects(answer: Any) -> list[Json]:
    if not isinstance(answer, list):
        raise LabelStudioError(f"Label Studio answered {repr(answer)[:80]}; expected a list")
    return [_object(item) for item in answer]
