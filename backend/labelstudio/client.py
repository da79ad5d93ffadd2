"""The only client of Label Studio's API; facts of version 1.23."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from backend.errors import LabelStudioError
from backend.labelstudio import batches, inventory
from backend.labelstudio.batches import Row
from backend.labelstudio.images import downloads
from backend.labelstudio.images.downloads import Download, Limits
from backend.labelstudio.inventory import TaskInventory
from backend.labelstudio.session import Clock, Session

Json = dict[str, Any]

PREDICTIONS_PER_CALL = 1000  # each call has all tasks of the project counted anew
BYTES_PER_CALL = 32_000_000  # Label Studio's own limit is 250 MB; 48 MB took it 650 MB of memory
FILES_PER_CALL = 50
MOST_REFUSED = 50  # predictions of one import; beyond it something else is wrong
DELETION_S, DELETION_S_EACH = 60.0, 0.02  # four times as long as was measured
TASKS_PER_PAGE = 1000


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

    def me(self) -> Json:
        """Return the user that the key belongs to."""
        return _object(self._call("GET", "/api/current-user/whoami"))

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
        for batch in batches.cut(
            files, lambda file: file.stat().st_size, most=FILES_PER_CALL, most_bytes=BYTES_PER_CALL
        ):
            # Label Studio reads one file per field name
            parts = {f"file{n}": (f.name, f.read_bytes()) for n, f in enumerate(batch)}
            ids += self._import(project, files=parts)
        return ids

    def _import(self, project: int, **body: Any) -> list[int]:
        path, params = f"/api/projects/{project}/import", {"return_task_ids": "true"}
        answer = _object(self._call("POST", path, params=params, **body))
        return [int(task) for task in answer["task_ids"]]

    def tasks(
        self,
        project: int,
        *,
        include: str = inventory.FIELDS,
        page_size: int = TASKS_PER_PAGE,
        updated_after: datetime | None = None,
    ) -> Iterator[Json]:
        """Yield all tasks, or those updated after a moment, with the named fields.

        Makes Label Studio call backends only where `evaluate_predictions_automatically` is on.
        (`GET /api/tasks/ID` does so for every task without a prediction.)
        """
        params: dict[str, Any] = {"project": project, "fields": "all", "include": include}
        params |= {"page_size": page_size, "resolve_uri": "false"}
        if updated_after is not None:
            params["query"] = inventory.updated_after(updated_after)
        page, seen = 1, 0
        while True:
            answer = _object(self._call("GET", "/api/tasks", params={**params, "page": page}))
            yield from answer["tasks"]
            seen += len(answer["tasks"])
            if seen >= answer["total"] or not answer["tasks"]:
                return
            page += 1

    def inventory(
        self, project: int, *, updated_after: datetime | None = None
    ) -> list[TaskInventory]:
        """Return all tasks, or those updated after a moment, with the ids of their annotations.

        About 300 bytes each.
        """
        found = self.tasks(project, updated_after=updated_after)
        return [inventory.entry(payload) for payload in found]

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

    def serving_order(self, project: int, count: int) -> list[Json]:
        """Return the first open tasks in the order of uncertainty sampling, with their scores.

        `next_task` would lock the task for this user: others were not served it for a day.
        """
        fields = "id,predictions_score,is_labeled"
        unlabeled = {"filter": "filter:tasks:completed_at", "operator": "empty",
                     "type": "Datetime", "value": True}  # fmt: skip
        query = {
            "ordering": ["tasks:predictions_score"],
            "filters": {"conjunction": "and", "items": [unlabeled]},
        }
        params = {"project": project, "fields": "all", "include": fields, "page_size": count}
        answer = _object(
            self._call("GET", "/api/tasks", params={**params, "query": json.dumps(query)})
        )
        return _objects(answer["tasks"])

    def predictions(self, task: int) -> list[Json]:
        """Return the predictions of a task, of all versions."""
        return _objects(self._call("GET", "/api/predictions/", params={"task": task}))

    def update_prediction(self, prediction: int, **fields: Any) -> Json:
        """Change a prediction's fields, as `cluster`, which an import drops, and return it."""
        return _object(self._call("PATCH", f"/api/predictions/{prediction}/", json=fields))

    def import_predictions(
        self, project: int, predictions: Iterable[Mapping[str, Any]]
    ) -> dict[int, str]:
        """Import predictions ({"task", "result", "score", "model_version"}) of one version.

        Returns {task: why} of those that Label Studio did not take, be it aloud or by dropping
        them without a word; all others are stored. One batch is in memory at a time. Raises
        LabelStudioError otherwise; then some may have been stored: delete their version first.
        """
        refused: dict[int, str] = {}
        rows = map(batches.row, predictions)
        for batch in batches.cut(
            rows, lambda row: len(row.body), most=PREDICTIONS_PER_CALL, most_bytes=BYTES_PER_CALL
        ):
            refused |= self._import_batch(project, batch, MOST_REFUSED - len(refused))
        return refused

    def _import_batch(self, project: int, batch: Sequence[Row], bearable: int) -> dict[int, str]:
        """Import one batch; of a refused one the halves, until it is known which task it was."""
        path = f"/api/projects/{project}/import/predictions"
        body = b"[" + b",".join(row.body for row in batch) + b"]"
        try:
            headers = {"Content-Type": "application/json"}
            answer = _object(self._call("POST", path, content=body, headers=headers))
        except LabelStudioError as error:
            if error.status != 400 or bearable < 1:
                raise
            if len(batch) == 1:
                return {batch[0].task: str(error)}
            half = len(batch) // 2
            refused = self._import_batch(project, batch[:half], bearable)
            return refused | self._import_batch(project, batch[half:], bearable - len(refused))
        created = int(answer.get("created", -1))
        return {} if created == len(batch) else self._dropped(project, batch, created)

    def _dropped(self, project: int, batch: Sequence[Row], created: int) -> dict[int, str]:
        """Return which predictions of a batch Label Studio did not store; it only counts them."""
        names = "id,predictions_model_versions"
        held = {
            (int(task["id"]), name)
            for task in self.tasks(project, include=names)
            for name in str(task.get("predictions_model_versions") or "").split(",")
        }
        lost = [row.task for row in batch if (row.task, row.version) not in held]
        if len(lost) != len(batch) - created:
            raise LabelStudioError(
                f"Label Studio stored {created} of {len(batch)} predictions for project {project}, "
                f"but lacks those of {len(lost)} tasks; do they fit its label config?"
            )
        return dict.fromkeys(lost, "Label Studio dropped its prediction without a word")

    def model_versions(self, project: int) -> dict[str, int]:
        """Return {name: number of predictions} of the versions that the project holds."""
        params = {"extended": "true"}
        answer = _object(
            self._call("GET", f"/api/projects/{project}/model-versions/", params=params)
        )
        return {str(row["model_version"]): int(row.get("count", 0)) for row in answer["static"]}

    def delete_model_version(self, project: int, version: str, *, count: int = 0) -> int:
        """Delete all predictions of a version and return their number.

        count: how many there are, since the wait for the answer grows with it.
        """
        path, body = f"/api/projects/{project}/model-versions/", {"model_version": version}
        timeout_s = DELETION_S + DELETION_S_EACH * count
        answer = _object(self._call("DELETE", path, json=body, timeout=timeout_s))
        return int(answer.get("deleted_predictions", 0))

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

    def network_block(self, project: int, url: str) -> str | None:
        """Return Label Studio's words when it refuses to call an address, None when it does not.

        The backend and the webhook that are asked for are malformed on purpose: neither is made.
        """
        bad_backend = {"project": project, "url": url, "auth_method": "none of them"}
        bad_webhook = {"project": project, "url": url, "headers": "none"}
        for path, body in (("/api/ml/", bad_backend), ("/api/webhooks/", bad_webhook)):
            try:
                self._call("POST", path, json=body)
            except LabelStudioError as error:
                if error.status == 403:
                    return str(error)
                if error.status != 400:
                    raise
        return None

    def list_local_storages(self, project: int) -> list[Json]:
        """Return the project's Local Files storages."""
        path = "/api/storages/localfiles/"
        return _objects(self._call("GET", path, params={"project": project}))

    def sync_local_storage(self, storage: int) -> int:
        """Make a task of every file that a storage has and that is none yet; return how many."""
        path = f"/api/storages/localfiles/{storage}/sync"
        answer = _object(self._call("POST", path, json={}))
        return int(answer.get("last_sync_count") or 0)

    def add_local_storage(
        self, project: int, path: str, *, title: str = "images", **fields: Any
    ) -> Json:
        """Let a project serve files below `path`, a true subfolder of Label Studio's document root.

        Without it `/data/local-files/?d=` answers 404; nothing is imported.
        """
        body = {"project": project, "path": path, "title": title, "use_blob_urls": True, **fields}
        return _object(self._call("POST", "/api/storages/localfiles/", json=body))

    def download(
        self, location: str, limits: Limits, *, etag: str | None = None
    ) -> Download | None:
        """Return the file at a path of Label Studio or an address of an allowed host.

        None when `etag` still names its state.
        """
        return downloads.download(self.session, location, limits, etag=etag)


def _object(answer: Any) -> Json:
    if not isinstance(answer, dict):
        raise LabelStudioError(f"Label Studio answered {repr(answer)[:80]}; expected an object")
    return answer


def _objects(answer: Any) -> list[Json]:
    if not isinstance(answer, list):
        raise LabelStudioError(f"Label Studio answered {repr(answer)[:80]}; expected a list")
    return [_object(item) for item in answer]
