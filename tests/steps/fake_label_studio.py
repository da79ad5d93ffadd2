"""The few endpoints that publishing uses, with faults that a real server cannot be asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx


class FakeLabelStudio:
    """One project; `fail_on` names a call whose answer is lost, before or after it took effect.

    Whatever happens, a shown version must have a prediction for every open task: that is checked
    after each change.
    """

    def __init__(self, tasks: list[int]) -> None:
        self.tasks = tasks
        self.model_version = ""
        self.predictions: list[dict[str, Any]] = []
        self.minted = 0
        self.calls: list[str] = []
        self.fail_before: str | None = None
        self.fail_after: str | None = None
        self.unknown: set[int] = set()  # an import with one of these tasks is refused as a whole
        self.dropped: set[int] = set()  # predictions with regions for these vanish without a word

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def shown(self) -> dict[int, list[dict[str, Any]]]:
        rows = [p for p in self.predictions if p["model_version"] == self.model_version]
        return {task: [p for p in rows if p["task"] == task] for task in self.tasks}

    def order(self) -> list[int]:
        """The order in which Label Studio would serve: the lowest score first."""
        return sorted(self.tasks, key=lambda task: self.shown()[task][0]["score"])

    def _answer(self, request: httpx.Request) -> httpx.Response:
        call = f"{request.method} {request.url.path}"
        self.calls.append(call)
        if call == self.fail_before:
            self.fail_before = None
            return httpx.Response(500, json={"detail": "died before"})
        known = "PATCH /api/predictions/" if call.startswith("PATCH /api/predictions/") else call
        answer = self._routes()[known](request)
        if isinstance(answer, httpx.Response):
            return answer
        if self.model_version:
            assert all(self.shown().values()), f"an annotator faced nothing after {call}"
        if call == self.fail_after:
            self.fail_after = None
            return httpx.Response(500, json={"detail": "died after"})
        return httpx.Response(200, json=answer)

    def _routes(self) -> dict[str, Callable[[httpx.Request], Any]]:
        return {
            "GET /api/tasks": lambda _: {"tasks": self._tasks(), "total": len(self.tasks)},
            "GET /api/projects/1/": lambda _: {"id": 1, "model_version": self.model_version},
            "PATCH /api/projects/1/": self._patch,
            "POST /api/projects/1/import/predictions": self._import,
            "GET /api/projects/1/model-versions/": self._versions,
            "DELETE /api/projects/1/model-versions/": self._delete,
            "GET /api/predictions/": self._of_task,
            "PATCH /api/predictions/": self._change,
        }

    def _tasks(self) -> list[dict[str, Any]]:
        held = {(p["task"], p["model_version"]) for p in self.predictions}
        return [
            {
                "id": t,
                "data": {"image": f"/data/upload/1/{t}.jpg"},
                "predictions_model_versions": ",".join(sorted(v for task, v in held if task == t)),
            }
            for t in self.tasks
        ]

    def _patch(self, request: httpx.Request) -> Any:
        self.model_version = json.loads(request.content)["model_version"]
        return {"id": 1}

    def _import(self, request: httpx.Request) -> Any:
        rows = json.loads(request.content)
        if lost := self.unknown & {row["task"] for row in rows}:
            return httpx.Response(400, json={"detail": f"task ID {lost} not found"})
        rows = [row for row in rows if row["task"] not in self.dropped or not row["result"]]
        for n, row in enumerate(rows, start=self.minted + 1):
            self.predictions.append({**row, "id": n, "cluster": None})  # as the real one does
        self.minted += len(rows)
        return {"created": len(rows)}

    def _of_task(self, request: httpx.Request) -> Any:
        task = int(request.url.params["task"])
        return httpx.Response(200, json=[p for p in self.predictions if p["task"] == task])

    def _change(self, request: httpx.Request) -> Any:
        id = int(request.url.path.rstrip("/").rpartition("/")[2])
        (row,) = [p for p in self.predictions if p["id"] == id]
        row.update(json.loads(request.content))
        return row

    def _versions(self, _: httpx.Request) -> Any:
        held = Counter(p["model_version"] for p in self.predictions)
        return {"static": [{"model_version": name, "count": n} for name, n in held.items()]}

    def _delete(self, request: httpx.Request) -> Any:
        name = json.loads(request.content)["model_version"]
        before = len(self.predictions)
        self.predictions = [p for p in self.predictions if p["model_version"] != name]
        return {"deleted_predictions": before - len(self.predictions)}
