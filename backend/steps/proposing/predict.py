"""Answers to /predict: stored proposals, or new ones within the deadline; one result per task."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import Connection

from backend.errors import InvalidPayload, QueueError
from backend.labelstudio import config as label_config
from backend.labelstudio import events, prompts
from backend.records import Project, Task
from backend.steps import queues
from backend.steps.decide import version_number
from backend.steps.projects import shown_version
from backend.steps.proposing import prompt, seeing
from backend.steps.proposing.problems import is_hopeless
from backend.steps.proposing.publish import prediction
from backend.store import proposals, publishing, tasks, versions
from backend.wiring import Services

JsonObject = dict[str, Any]

AT_ONCE = 16  # tasks that one call may have predicted while it waits
UNRANKED = 0.5  # priority of a task that was opened before it was ranked

log = structlog.get_logger(__name__)


def answer(
    services: Services, project: Project, payloads: Sequence[JsonObject]
) -> list[JsonObject]:
    """Return one prediction per task, in the order asked.

    A task that cannot be predicted gets an empty prediction. One that is late gets none: an item
    without `result`, which Label Studio skips, as it is published afterwards. Label Studio stores
    what it gets here, so those tasks count as published. If the process is killed meanwhile, they
    have to wait for the next version or order, which publishes every open task anew.
    """
    name = project.published
    if name is None:
        return [_empty(project) for _ in payloads]
    config = label_config.parse(project.label_config)
    parsed = [_task(project, payload, config.data_key) for payload in payloads]
    wanted = {task.id: UNRANKED for task in parsed if task is not None}
    with services.store.transaction() as tx:
        claimed = publishing.claim(tx, project.id, name, wanted)
    try:
        answered = _answers(services, project, name, parsed)
    except BaseException:
        _release(services, project, name, list(claimed))
        raise
    late = [
        task.id
        for task, row in zip(parsed, answered, strict=True)
        if task is not None and task.id in claimed and "result" not in row
    ]
    _release(services, project, name, late)
    return answered


def _release(services: Services, project: Project, name: str, unanswered: Sequence[int]) -> None:
    """Leave tasks to be published, as Label Studio gets no answer for them."""
    if unanswered:
        with services.store.transaction() as tx:
            publishing.release(tx, project.id, name, unanswered)


def _answers(
    services: Services, project: Project, name: str, parsed: Sequence[Task | None]
) -> list[JsonObject]:
    """Return what `name` proposes for each task, None standing for one without an image."""
    _complete(services, project, [task for task in parsed if task is not None])
    with services.store.reading() as tx:
        done = proposals.tasks_done(tx, project.id, version_number(name))
        priorities = publishing.of(tx, project.id, name)
        return [
            _answer_one(tx, project, name, task, priorities, done=task is None or task.id in done)
            for task in parsed
        ]


def _answer_one(
    tx: Connection,
    project: Project,
    name: str,
    task: Task | None,
    priorities: Mapping[int, float],
    *,
    done: bool,
) -> JsonObject:
    known = None if task is None else tasks.get(tx, project.id, task.id)
    if task is None or (known is not None and known.problem):
        return _empty(project)
    if not done:
        return {"model_version": name}
    config = label_config.parse(project.label_config)
    found = proposals.of_task(tx, project.id, task.id, version_number(name))
    return prediction(config, found, name, priorities.get(task.id, UNRANKED))


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
    """Have what is missing predicted within the deadline, at most AT_ONCE; the rest comes later.

    Nobody waits for what this version cannot predict, nor for a version that was left as damaged.
    """
    number = version_number(shown_version(project))
    with services.store.reading() as tx:
        done = proposals.tasks_done(tx, project.id, number)
        version = versions.get(tx, project.id, number)
    missing = [task for task in wanted if task.id not in done]
    if not missing:
        return
    with services.store.transaction() as tx:
        tasks.upsert(tx, missing)
        known = [tasks.get(tx, project.id, task.id) for task in missing]
    able = [task.id for task in known if task is not None and not is_hopeless(task, number)]
    ids = able[:AT_ONCE]
    if version is not None and version.damage:
        log.warning("answering without proposals", tasks=len(ids), reason=version.damage)
        return
    if not ids:
        return
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
    """Return, per task, the regions that a person's prompts choose; exactly one result each.

    An empty context really occurs (right after Submit): it, and a project without a version, get
    an empty result at once.
    """
    config = label_config.parse(project.label_config)
    asked = prompts.parse(context, config)
    number = seeing.serving(project)
    if not prompts.classes_of(asked) or number is None:
        return [_empty(project) for _ in payloads]
    deadline_s = time.monotonic() + services.settings.predict_deadline_s
    return [
        _answer_prompts(
            services,
            project,
            number,
            _task(project, payload, config.data_key),
            prompt.Question(asked, prompts.iterations(context, payload, config)),
            deadline_s,
        )
        for payload in payloads
    ]


def _answer_prompts(
    services: Services,
    project: Project,
    number: int,
    task: Task | None,
    question: prompt.Question,
    deadline_s: float,
) -> JsonObject:
    if task is None or time.monotonic() > deadline_s:
        return _empty(project)
    found = prompt.answer(services, project, number, task, question, deadline_s)
    if not found:
        return _empty(project)
    return {**_empty(project), "result": found, "score": max(one["score"] for one in found)}
