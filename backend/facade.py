"""What the ML backend protocol does, without HTTP: `web.protocol` and `sdk_adapter` share it.

Lenient in what it takes, as HumanSignal's own server is: one task instead of a list, a project by
number or as "<id>.<created>" or not named at all, an empty label config, a context of null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.errors import InvalidPayload
from backend.records import Project
from backend.steps import projects
from backend.steps.proposing import predict as predict_step
from backend.store import projects as project_rows
from backend.wiring import Services

JsonObject = dict[str, Any]

MODEL_CLASS = "labelclimb"
MAX_ID = 2**63 - 1  # what both databases can keep


def health() -> JsonObject:
    """Answer from memory: Label Studio waits one second for this, often."""
    return {"status": "UP", "model_class": MODEL_CLASS}


def setup(services: Services, project: Any, schema: str | None) -> JsonObject:
    """Take a project in, or its changed label config, and name the version now shown.

    Without a label config nothing is taken in. Raises LabelConfigError with a config that works.
    """
    number = project_id(project)
    if schema and schema.strip():
        known: Project | None = projects.adopt(services, number, schema)
    else:
        known = _known(services, number)
    return {"model_version": projects.shown_version(known) if known else projects.UNTRAINED}


def predict(
    services: Services,
    payloads: Any,
    *,
    project: Any = None,
    label_config: str | None = None,
    context: Any = None,
) -> list[JsonObject]:
    """Return exactly one result per task, whatever happens to single tasks.

    context: the pending prompts of a person who clicked. Raises InvalidPayload, and UnknownThing
    for a project that is neither connected nor sent with a label config.
    """
    tasks = _tasks(payloads)
    if not tasks:
        return []
    known = _require(services, _project_of(services, project, tasks), label_config)
    if context:
        return predict_step.answer_prompts(services, known, tasks, context)
    return predict_step.answer(services, known, tasks)


def project_id(value: Any) -> int:
    """Return the id of 7, "7" or "7.<created>"; raises InvalidPayload."""
    text = str(value.get("id") if isinstance(value, Mapping) else value).partition(".")[0]
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()):
        raise InvalidPayload(f"project is {repr(value)[:80]}; expected '<id>' or '<id>.<created>'")
    if len(text) > len(str(MAX_ID)) or int(text) > MAX_ID:
        raise InvalidPayload(f"project is {text[:40]}; there are none above {MAX_ID}")
    return int(text)


def _tasks(payloads: Any) -> Sequence[JsonObject]:
    found = [payloads] if isinstance(payloads, Mapping) else payloads
    if not isinstance(found, list) or not all(isinstance(task, Mapping) for task in found):
        raise InvalidPayload(f"tasks is {repr(payloads)[:80]}; expected a list of tasks")
    return found


def _project_of(services: Services, project: Any, tasks: Sequence[JsonObject]) -> int:
    """Return the project that is named, else that of the tasks, else the only one there is."""
    if project not in (None, ""):
        return project_id(project)
    named = {repr(task.get("project")): task.get("project") for task in tasks}
    if len(named) == 1 and (only := next(iter(named.values()))) is not None:
        return project_id(only)
    with services.store.reading() as tx:
        connected = [known.id for known in project_rows.all(tx)]
    if len(connected) == 1 and set(named) == {"None"}:
        return connected[0]
    raise InvalidPayload("the body names no project; send `project` or `project` in each task")


def _require(services: Services, number: int, label_config: str | None) -> Project:
    known = _known(services, number)
    if known is None and label_config and label_config.strip():
        return projects.adopt(services, number, label_config)
    return known or projects.require(services, number)


def _known(services: Services, number: int) -> Project | None:
    with services.store.reading() as tx:
        return project_rows.get(tx, number)
