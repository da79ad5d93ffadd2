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
from backend.steps.publish import CHUNK, prediction
from backend.store import proposals, publishing, tasks
from backend.wiring import Services

JsonObject = dict[str, Any]

UNRANKED = 0.5  # priority of a task that was opened before it was ranked

log = structlog.get_logger(__name__)


def answer(
    services: Services, project: Project, payloads: Sequence[JsonObject]
) -> list[JsonObject]:
    """Return one prediction per task, in the order asked.

    A task that cannot be predicted gets an empty prediction. One that is late gets none: an item
    without `result`, which Label Studio skips, as it is published afterwards. Label Studio stores
    what it gets here, so those tasks count as published.
    """
    answered, stored = _answers(services, project, payloads)
    if project.published is not None:
        with services.store.transaction() as tx:
            publishing.record(tx, project.id, project.published, stored)
    return answered


def _answers(
    services: Services, project: Project, payloads: Sequence[JsonObject]
) -> tuple[list[JsonObject], dict[int, float]]:
    """Return the predictions, and {task: priority} of those that were not published yet."""
    name = project.published
    if name is None:
        return [_empty(project) for _ in payloads], {}
    config = label_config.parse(project.label_config)
    parsed = [_task(project, payload, config.data_key) for payload in payloads]
    _complete(services, project, [task for task in parsed if task is not None])
    answered: list[JsonObject] = []
    unranked: dict[int, float] = {}
    with services.store.reading() as tx:
        done = proposals.tasks_done(tx, project.id, version_number(name))
        priorities = publishing.of(tx, project.id, name)
        for task in parsed:
            known = None if task is None else tasks.get(tx, project.id, task.id)
            if task is None or (known is not None and known.problem):
                answered.append(_empty(project))
            elif task.id not in done:
                answered.append({"model_version": name})
            else:
                found = proposals.of_task(tx, project.id, task.id, version_number(name))
                priority = priorities.get(task.id, UNRANKED)
                answered.append(prediction(config, found, name, priority))
                if task.id not in priorities:
                    unranked[task.id] = UNRANKED
    return answered, unranked


def _task(project: Project, payload: JsonObject, data_key: str) -> Task | None:
    """Return the task, None when it names no image: such a task still gets its empty result."""
    try:
        return events.task(payload, project=project.id, data_key=data_key)
    except InvalidPayload as error:
        log.warning("no proposal", task=payload.get("id"), reason=str(error))
        return None


def _empty(project: Project) -> JsonObject:
    """Nothing is proposed, and the task is served last."""
    return {"result": [], "score": 1.0, "model_version": shown_version(project)}


def _complete(services: Services, project: Project, wanted: Sequence[Task]) -> None:
    """Have what is missing predicted within the deadline, at most a chunk; the rest comes later."""
    number = version_number(shown_version(project))
    with services.store.reading() as tx:
        done = proposals.tasks_done(tx, project.id, number)
    missing = [task for task in wanted if task.id not in done][:CHUNK]
    if not missing:
        return
    with services.store.transaction() as tx:
        tasks.upsert(tx, missing)
    ids = [task.id for task in missing]
    try:
        in_time = queues.propose_now(
            services, project.id, number, ids, services.settings.predict_deadline_s
        )
    except QueueError as error:
        log.warning("answering without proposals", tasks=len(ids), reason=str(error))
        return
    if not in_time:
        log.info("answering without proposals; they will be published", tasks=len(ids))


def answer_prompts(
    services: Services, project: Project, payloads: Sequence[JsonObject], context: Any
) -> list[JsonObject]:
    """Return, per task, the parts of its proposals that the prompts point at.

    An empty context really occurs (right after Submit) and gets an empty result at once.
    """
    config = label_config.parse(project.label_config)
    pending = prompts.parse(context, config)
    if not pending:
        return [_empty(project) for _ in payloads]
    answered, _ = _answers(services, project, payloads)
    return [
        {**_empty(project), **row, "result": prompts.select(pending, row.get("result", []))}
        for row in answered
    ]
