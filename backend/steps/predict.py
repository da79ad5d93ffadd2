"""Answers to /predict: stored proposals, or new ones within the deadline; one result per task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from backend.errors import InvalidPayload, QueueError
from backend.labelstudio import config as label_config
from backend.labelstudio import events, prompts
from backend.records import Project, Task
from backend.steps import queues
from backend.steps.decide import version_number
from backend.steps.projects import shown_version
from backend.steps.publish import prediction
from backend.store import proposals, publishing, tasks
from backend.wiring import Services

JsonObject = dict[str, Any]

UNRANKED = 0.5  # priority of a task that was opened before it was ranked

log = structlog.get_logger(__name__)


def answer(
    services: Services, project: Project, payloads: Sequence[JsonObject]
) -> list[JsonObject]:
    """Return one prediction per task, in the order asked; an unusable task gets an empty one.

    Label Studio stores what it gets here, so that the tasks count as published.
    """
    name = project.published
    if name is None:
        return [_empty(project) for _ in payloads]
    config = label_config.parse(project.label_config)
    parsed = [_task(project, payload, config.data_key) for payload in payloads]
    usable = [task for task in parsed if task is not None]
    with services.store.transaction() as tx:
        tasks.upsert(tx, usable)
    _complete(services, project, [task.id for task in usable])
    with services.store.transaction() as tx:
        number = version_number(name)
        found = {t.id: proposals.of_task(tx, project.id, t.id, number) for t in usable}
        priorities = publishing.of(tx, project.id, name)
        unranked = {t: UNRANKED for t, regions in found.items() if regions and t not in priorities}
        publishing.record(tx, project.id, name, unranked)
    return [
        prediction(config, found[task.id], name, priorities.get(task.id, UNRANKED))
        if task is not None
        else _empty(project)
        for task in parsed
    ]


def _task(project: Project, payload: JsonObject, data_key: str) -> Task | None:
    """Return the task, None when it names no image: such a task still gets its empty result."""
    try:
        return events.task(payload, project=project.id, data_key=data_key)
    except InvalidPayload as error:
        log.warning("no proposal", task=payload.get("id"), reason=str(error))
        return None


def _empty(project: Project) -> JsonObject:
    return {"result": [], "score": 0.0, "model_version": shown_version(project)}


def _complete(services: Services, project: Project, ids: Sequence[int]) -> None:
    """Have what is missing predicted within the deadline; late ones are published afterwards."""
    number = version_number(shown_version(project))
    with services.store.reading() as tx:
        done = proposals.tasks_done(tx, project.id, number)
    missing = [task for task in ids if task not in done]
    if not missing:
        return
    try:
        in_time = queues.propose_now(
            services, project.id, number, missing, services.settings.predict_deadline_s
        )
    except QueueError as error:
        log.warning("answering without proposals", tasks=len(missing), reason=str(error))
        return
    if not in_time:
        log.info("answering without proposals; they will be published", tasks=len(missing))


def answer_prompts(
    services: Services, project: Project, payloads: Sequence[JsonObject], context: Any
) -> list[JsonObject]:
    """Return, per task, the parts of its proposals that the prompts point at.

    An empty context really occurs (right after Submit) and gets an empty result at once.
    """
    pending = prompts.parse(context)
    if not pending or project.published is None:
        return [_empty(project) for _ in payloads]
    answered = answer(services, project, payloads)
    return [{**row, "result": prompts.select(pending, row["result"])} for row in answered]
