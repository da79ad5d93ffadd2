"""Show the champion's proposals in Label Studio, most urgent first, and flip in one step.

Order of acts: predict what is missing, rank, push under a new name, count, flip the project to
that name, remove the older names. An annotator never faces a task without the proposals that
existed before, and a crash between two acts is made good by the next run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import Connection

from backend.errors import LabelStudioError
from backend.labelstudio import config as label_config
from backend.labelstudio import results
from backend.labelstudio.config import LabelConfig
from backend.loop import ranking
from backend.records import Interaction, Project, ProposedRegion, Task, TaskEvidence
from backend.steps import queues
from backend.steps.decide import published_name, version_number
from backend.steps.projects import UNTRAINED, want_order
from backend.steps.propose import propose
from backend.store import learning, projects, proposals, publishing, tasks
from backend.wiring import Services

LONGEST_S = 2400.0  # a crashed worker's lock is released after that
WAIT_S = 5.0  # for another worker that is publishing: then the job is tried again
SAMPLING = "Uncertainty sampling"  # Label Studio serves the lowest score first
CHUNK = 16  # tasks predicted per job, so that an opened task need not wait for the backlog

log = structlog.get_logger(__name__)


def publish(services: Services, project_id: int, *, step: int = 0) -> None:
    """Predict one chunk and come again, or, when all open tasks are predicted, show them."""
    project, backlog = _backlog(services, project_id)
    if project is None or project.champion is None:
        return
    if backlog:
        propose(services, project, project.champion, backlog[:CHUNK])
        queues.publish(services, project_id, step=step + 1)
        return
    with services.queues.lock(f"publish-{project_id}", timeout_s=LONGEST_S, wait_s=WAIT_S):
        show(services, project_id)


def _backlog(services: Services, project_id: int) -> tuple[Project | None, list[Task]]:
    with services.store.reading() as tx:
        project = projects.get(tx, project_id)
        if project is None or project.champion is None:
            return None, []
        done = proposals.tasks_done(tx, project_id, project.champion)
        waiting = [t for t in tasks.open(tx, project_id) if t.id not in done and t.problem is None]
    return project, waiting


def show(services: Services, project_id: int) -> str | None:
    """Push what Label Studio lacks; returns the name now shown, None when nothing is trained."""
    with services.store.reading() as tx:
        interrupted = projects.get(tx, project_id)
    if interrupted is not None:
        _mend(services, interrupted)
    with services.store.reading() as tx:
        project = projects.get(tx, project_id)
        if project is None or project.champion is None:
            return None
        open_tasks = tasks.open(tx, project_id)
        if not open_tasks:
            return project.published  # Label Studio accepts no name without predictions
        evidence = proposals.evidence(tx, project_id, project.champion)
        past = learning.interactions(tx, project_id)
        seen = _evidence_of(tx, project_id, past)
        shown = _shown(project, publishing.of(tx, project_id, project.published or ""))
    ranked = ranking.rank(
        [task.id for task in open_tasks],
        evidence,
        past,
        strategy=project.strategy,
        seed=services.settings.seed,
        past_evidence=seen,
    )
    if ranked.note:
        log.warning("ranked otherwise than asked", project=project_id, reason=ranked.note)
    if shown is not None:
        missing = [task for task in open_tasks if task.id not in shown]
        _push_more(services, project, missing, ranked.priorities)
        _remove_others(services, project.id, keep=project.published or "")
        return project.published
    return _show_anew(services, project, open_tasks, ranked.priorities)


def _evidence_of(
    tx: Connection, project_id: int, past: Sequence[Interaction]
) -> list[TaskEvidence]:
    """Return what the versions whose proposals were corrected had computed of those tasks."""
    by_version = {
        number: proposals.evidence(tx, project_id, number)
        for number in sorted({i.version for i in past if i.version is not None})
    }
    wanted = sorted({(i.version, i.task) for i in past if i.version is not None})
    return [by_version[n][task] for n, task in wanted if task in by_version[n]]


def _shown(project: Project, published: Mapping[int, float]) -> Mapping[int, float] | None:
    """Return what is shown of the champion, None when a new name is due."""
    current = project.published
    if current is None or project.order_shown < project.order_wanted:
        return None
    return published if version_number(current) == project.champion else None


def _show_anew(
    services: Services,
    project: Project,
    open_tasks: Sequence[Task],
    priorities: Mapping[int, float],
) -> str:
    number = project.champion or 0
    with services.store.reading() as tx:
        revision = _next_revision(publishing.names(tx, project.id), number)
    name = published_name(number, revision)
    with services.store.transaction() as tx:
        projects.update(tx, project.id, pushing=name)
    _push(services, project, name, open_tasks, priorities)
    services.labelstudio.patch_project(project.id, model_version=name, sampling=SAMPLING)
    _note_shown(services, project, name, revision)
    _remove_others(services, project.id, keep=name, also_untrained=revision == 1)
    log.info("published", project=project.id, version=name, tasks=len(open_tasks))
    return name


def _next_revision(names: Iterable[str], number: int) -> int:
    """Return a revision of the version that no name in Label Studio has now."""
    taken = [_revision(name) for name in names if version_number(name) == number]
    return max(taken, default=0) + 1


def _revision(name: str) -> int:
    return int(name.partition(".")[2] or 1)


def _push_more(
    services: Services, project: Project, missing: Sequence[Task], priorities: Mapping[int, float]
) -> None:
    """Add new tasks to what is shown; if that breaks off, everything is shown under a new name."""
    name = project.published or ""
    with services.store.transaction() as tx:
        wanted = {task.id: priorities.get(task.id, 0.0) for task in missing}
        claimed = publishing.claim(tx, project.id, name, wanted)
    try:
        _push(services, project, name, [t for t in missing if t.id in claimed], claimed)
    except LabelStudioError:
        with services.store.transaction() as tx:
            want_order(tx, project.id)
        raise


def _note_shown(services: Services, project: Project, name: str, revision: int) -> None:
    with services.store.transaction() as tx:
        projects.update(
            tx,
            project.id,
            published=name,
            revision=revision,
            pushing=None,
            order_shown=project.order_wanted,
        )


def _mend(services: Services, project: Project) -> None:
    """Make good a crash while pushing: finish a flip that had happened, remove what had not."""
    name = project.pushing
    if name is None:
        return
    if services.labelstudio.get_project(project.id).get("model_version") == name:
        _note_shown(services, project, name, _revision(name))
        return
    if name in services.labelstudio.model_versions(project.id):
        services.labelstudio.delete_model_version(project.id, name)
    with services.store.transaction() as tx:
        publishing.forget(tx, project.id, name)
        projects.update(tx, project.id, pushing=None)


def _push(
    services: Services,
    project: Project,
    name: str,
    batch: Sequence[Task],
    priorities: Mapping[int, float],
) -> None:
    number = version_number(name)
    config = label_config.parse(project.label_config)
    with services.store.reading() as tx:
        regions = {t.id: proposals.of_task(tx, project.id, t.id, number) for t in batch}
    rows = [
        prediction(config, regions[task.id], name, priorities.get(task.id, 0.0), task=task.id)
        for task in batch
    ]
    if rows:
        services.labelstudio.import_predictions(project.id, rows)
    with services.store.transaction() as tx:
        publishing.record(tx, project.id, name, {t.id: priorities.get(t.id, 0.0) for t in batch})


def prediction(
    config: LabelConfig,
    regions: Sequence[ProposedRegion],
    name: str,
    priority: float,
    *,
    task: int | None = None,
) -> dict[str, Any]:
    """Build one prediction; its score is 1 - priority, since the lowest score is served first."""
    result = results.prediction_result(regions, config)
    row = {"result": result, "score": 1.0 - priority, "model_version": name}
    return row if task is None else {**row, "task": task}


def _remove_others(
    services: Services, project_id: int, *, keep: str, also_untrained: bool = False
) -> None:
    """Remove every other name of ours from Label Studio; the store keeps the regions for ever."""
    with services.store.reading() as tx:
        ours = set(publishing.names(tx, project_id))
    if ours <= {keep} and not also_untrained:
        return
    present = set(services.labelstudio.model_versions(project_id))
    for name in sorted(((ours | {UNTRAINED}) & present) - {keep}):
        services.labelstudio.delete_model_version(project_id, name)
    with services.store.transaction() as tx:
        for name in ours - {keep}:
            publishing.forget(tx, project_id, name)
