"""A Label Studio of tasks and annotations: people act in it, its webhooks say so, its API too."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import httpx

from backend.steps.listening import intake
from backend.store import inbox
from backend.wiring import Services
from tests.steps.conftest import CONFIG, NOW

Body = dict[str, Any]


class PlayedLabelStudio:
    """One project; each act takes a second and leaves the body of its webhook in `events`.

    Task ids are given again as the real one gives them on SQLite: the next is the highest plus 1.
    `requests` are the calls of its API; while it is `down`, nobody answers them.
    """

    def __init__(self, project: int = 1, *, now: datetime = NOW) -> None:
        self.now = now
        self.project = {"id": project, "title": "bridge", "label_config": CONFIG}
        self.project |= {"updated_at": now.isoformat(), "evaluate_predictions_automatically": False}
        self.tasks: dict[int, Body] = {}
        self.annotations: dict[int, Body] = {}
        self.events: list[Body] = []
        self.requests: list[str] = []
        self.down = False

    def import_tasks(self, count: int) -> list[int]:
        first = max(self.tasks, default=10) + 1
        moment = self._tick()
        for id in range(first, first + count):
            image = {"image": f"/data/upload/1/{id}-{moment.timestamp():.0f}.jpg"}
            times = {"created_at": moment.isoformat(), "updated_at": moment.isoformat()}
            self.tasks[id] = {"id": id, "data": image, **times}
        rows = [self.tasks[id] for id in range(first, first + count)]
        self._emit("TASKS_CREATED", tasks=rows)
        return [row["id"] for row in rows]

    def annotate(self, task: int, result: list[Body], **fields: Any) -> int:
        id, moment = 501 + len(self.annotations), self._tick().isoformat()
        self.annotations[id] = {
            "id": id, "task": task, "project": self.project["id"], "result": result,
            "created_at": moment, "updated_at": moment, "lead_time": 12.5,
            "was_cancelled": False, "completed_by": 3, "deleted": False, **fields,
        }  # fmt: skip
        self._touch(task)
        self._emit("ANNOTATION_CREATED", **self._of(id))
        return id

    def update(self, id: int, result: list[Body], **fields: Any) -> None:
        changes = {"result": result, "updated_at": self._tick().isoformat(), **fields}
        self.annotations[id] = {**self.annotations[id], **changes}
        self._touch(self.annotations[id]["task"])
        self._emit("ANNOTATION_UPDATED", **self._of(id))

    def delete_annotations(self, *ids: int) -> None:
        self._tick()
        for id in ids:
            self.annotations[id]["deleted"] = True
            self._touch(self.annotations[id]["task"])
        self._emit("ANNOTATIONS_DELETED", annotations=[{"id": id} for id in ids])

    def delete_tasks(self, *ids: int) -> None:
        self._tick()
        for id in ids:
            del self.tasks[id]
            for annotation in self.annotations.values():
                annotation["deleted"] = annotation["deleted"] or annotation["task"] == id
        self._emit("TASKS_DELETED", tasks=[{"id": id} for id in ids])

    def configure(self, **fields: Any) -> None:
        self.project |= {"updated_at": self._tick().isoformat(), **fields}
        self._emit("PROJECT_UPDATED")

    def start_training(self) -> None:
        self._tick()
        self._emit("START_TRAINING")

    def living(self) -> dict[int, Body]:
        """Return {id: annotation} of those that exist."""
        return {id: row for id, row in self.annotations.items() if not row["deleted"]}

    def fetched(self) -> list[int]:
        """Return the ids of the annotations that were asked for."""
        found = (re.fullmatch(r"GET /api/annotations/(\d+)/", call) for call in self.requests)
        return [int(match[1]) for match in found if match]

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("connection refused", request=request)
        call = f"{request.method} {request.url.path}"
        self.requests.append(call)
        if self.project["id"] is None:
            return httpx.Response(404, json={"detail": "No Project matches the given query."})
        for pattern, route in self._routes().items():
            if match := re.fullmatch(pattern, call):
                return route(request, *match.groups())
        return httpx.Response(500, json={"detail": f"{call} makes Label Studio call backends"})

    def _routes(self) -> Mapping[str, Callable[..., httpx.Response]]:
        return {
            r"GET /api/projects/1/": lambda _: _ok(
                {**self.project, "task_number": len(self.tasks)}
            ),
            r"PATCH /api/projects/1/": self._patch,
            r"GET /api/projects/1/model-versions/": lambda _: _ok({"static": []}),
            r"GET /api/tasks": self._list,
            r"GET /api/annotations/(\d+)/": self._annotation,
        }

    def _patch(self, request: httpx.Request) -> httpx.Response:
        self.configure(**json.loads(request.content))
        return _ok(self.project)

    def _list(self, request: httpx.Request) -> httpx.Response:
        assert not self.project["evaluate_predictions_automatically"], "this calls our /predict"
        params = request.url.params
        rows = [self._row(task) for task in self.tasks.values()]
        if "query" in params:
            (item,) = json.loads(params["query"])["filters"]["items"]
            assert (item["filter"], item["operator"]) == ("filter:tasks:updated_at", "greater")
            since = datetime.fromisoformat(item["value"].replace("Z", "+00:00"))
            rows = [row for row in rows if datetime.fromisoformat(row["updated_at"]) > since]
        size, page = int(params["page_size"]), int(params["page"])
        return _ok({"tasks": rows[size * (page - 1) : size * page], "total": len(rows)})

    def _row(self, task: Body) -> Body:
        ids = [str(id) for id, row in self.living().items() if row["task"] == task["id"]]
        return {**task, "annotations_ids": ",".join(ids)}

    def _annotation(self, _: httpx.Request, id: str) -> httpx.Response:
        found = self.living().get(int(id))
        return _ok(found) if found else httpx.Response(404, json={"detail": "Not found."})

    def _tick(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def _touch(self, task: int) -> None:
        moment = self.now + timedelta(milliseconds=200)  # Label Studio writes it afterwards
        self.tasks[task] = {**self.tasks[task], "updated_at": moment.isoformat()}

    def _of(self, id: int) -> Body:
        annotation = self.annotations[id]
        return {"annotation": dict(annotation), "task": dict(self.tasks[annotation["task"]])}

    def _emit(self, action: str, **fields: Any) -> None:
        self.events.append({"action": action, "project": dict(self.project), **fields})


def _ok(body: Any) -> httpx.Response:
    return httpx.Response(200, json=body)


def click(label: str, x: float = 50.0, y: float = 50.0) -> Body:
    """A keypoint on an image of 24 x 16 px, in percent."""
    value = {"x": x, "y": y, "width": 0.2, "keypointlabels": [label]}
    return {"id": f"c-{label}-{x}", "type": "keypointlabels", "from_name": "point",
            "to_name": "image", "original_width": 24, "original_height": 16,
            "image_rotation": 0, "value": value, "origin": "manual"}  # fmt: skip


def handle_all(services: Services) -> None:
    """Handle all events that wait, as the worker does."""
    with services.store.reading() as tx:
        waiting = inbox.pending_ids(tx)
    for event in waiting:
        intake.handle(services, event)
