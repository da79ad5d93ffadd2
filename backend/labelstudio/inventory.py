"""The cheap list of a project's tasks: what is asked for, and how an entry of it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

FIELDS = (
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


def entry(payload: Mapping[str, Any]) -> TaskInventory:
    """Read a task of the list."""
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


def updated_after(moment: datetime) -> str:
    """Return the data manager's filter for tasks that were updated after a moment."""
    value = moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    item = {"filter": "filter:tasks:updated_at", "operator": "greater", "type": "Datetime"}
    return json.dumps({"filters": {"conjunction": "and", "items": [{**item, "value": value}]}})
