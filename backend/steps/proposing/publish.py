"""Show the champion's proposals in Label Studio, most urgent first, and flip in one step.

Order of acts: predict what is missing (`backlog`), rank, push under a new name, count, flip the
project to that name, remove the older names. An annotator never faces a task without the proposals
that existed before, and a crash between two acts is made good by the next run.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import structlog

from backend.errors import InvalidPayload, LabelStudioError
from backend.labelstudio import config as label_config
from backend.labelstudio import image_choices, results
from backend.labelstudio.config import LabelConfig
from backend.loop.ranking import Ranking
from backend.records import Project, ProposedRegion, Task
from backend.steps.decide import (
    end_published,
    publication_due,
    published_name,
    version_number,
)
from backend.steps.projects import UNTRAINED, want_order
from backend.steps.proposing import backlog, clusters, order
from backend.steps.proposing.problems import of_version
from backend.store import projects, proposals, publishing, tasks
from backend.wiring import Services

WAIT_S = 5.0  # for another worker that is publishing: then the job is tried again
SAMPLING = "Uncertainty sampling"  # Label Studio serves the lowest score first
READ_AT_ONCE = 50  # tasks whose regions are in memory together

log = structlog.get_logger(__name__)


def publish(services: Services, project_id: int) -> None:
    """Have what is missing predicted, or, when all open tasks are predicted, show them."""
    if backlog.enqueue(services, project_id):
        return
    with services.queues.lock(f"publish-{project_id}", wait_s=WAIT_S) as lease:
        show(services, project_id, lease.check)
    if not publication_due(services, project_id):
        end_published(services, project_id)


def show(services: Services, project_id: int, check: Callable[[], None]) -> str | None:
    """Push what Label Studio lacks; returns the name now shown, None when nothing is trained.

    check: raises before something is pushed if another process may be pushing by now.
    """
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
        shown = _shown(project, publishing.of(tx, project_id, project.published or ""))
    missing = [task for task in open_tasks if shown is None or task.id not in shown]
    ranked = order.of_open(services, project, [t.id for t in open_tasks]) if missing else None
    if ranked is not None and ranked.note:
        log.warning("ranked otherwise than asked", project=project_id, reason=ranked.note)
    if shown is None and ranked is not None:
        order.note(services, project, ranked)
        return _show_anew(services, project, open_tasks, ranked, check)
    if ranked is not None:
        _push_more(services, project, missing, ranked.priorities, check)
    check()
    _remove_others(services, project.id, keep=project.published or "")
    return project.published


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
    ranked: Ranking,
    check: Callable[[], None],
) -> str:
    number = project.champion or 0
    with services.store.reading() as tx:
        revision = _next_revision(publishing.names(tx, project.id), number)
    name = published_name(number, revision)
    with services.store.transaction() as tx:
        projects.update(tx, project.id, pushing=name)
    refused = _push(services, project, name, open_tasks, ranked.priorities, check)
    if len(refused) == len(open_tasks):
        raise LabelStudioError(
            f"Label Studio took none of {len(refused)} predictions for project {project.id}: "
            f"{next(iter(refused.values()))}"
        )
    check()
    services.labelstudio.patch_project(project.id, model_version=name, sampling=SAMPLING)
    _note_shown(services, project, name)
    clusters.send(services, project.id, name, ranked.order, ranked.clusters, check)
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
    services: Services,
    project: Project,
    missing: Sequence[Task],
    priorities: Mapping[int, float],
    check: Callable[[], None],
) -> None:
    """Add new tasks to what is shown; if that breaks off, everything is shown under a new name.

    However it breaks off: the new order is wanted from the claims on, and is taken for shown once
    they are kept, unless somebody else has asked for one as well.
    """
    name = project.published or ""
    with services.store.transaction() as tx:
        wanted = {task.id: priorities.get(task.id, 0.0) for task in missing}
        claimed = publishing.claim(tx, project.id, name, wanted)
        asked = want_order(tx, project.id).order_wanted
    _push(services, project, name, [t for t in missing if t.id in claimed], claimed, check)
    if asked == project.order_wanted + 1:
        with services.store.transaction() as tx:
            projects.update(tx, project.id, order_shown=asked)


def _note_shown(services: Services, project: Project, name: str) -> None:
    with services.store.transaction() as tx:
        projects.update(
            tx,
            project.id,
            published=name,
            pushing=None,
            order_shown=project.order_wanted,
        )


def _mend(services: Services, project: Project) -> None:
    """Make good a crash while pushing: finish a flip that had happened, remove what had not."""
    name = project.pushing
    if name is None:
        return
    if services.labelstudio.get_project(project.id).get("model_version") == name:
        _note_shown(services, project, name)
        return
    present = services.labelstudio.model_versions(project.id)
    if name in present:
        services.labelstudio.delete_model_version(project.id, name, count=present[name])
    with services.store.transaction() as tx:
        publishing.forget(tx, project.id, name)
        projects.update(tx, project.id, pushing=None)


def _push(
    services: Services,
    project: Project,
    name: str,
    batch: Sequence[Task],
    priorities: Mapping[int, float],
    check: Callable[[], None],
) -> dict[int, str]:
    """Push one prediction per task; return {task: why} of those that Label Studio has none of.

    A proposal that would break its editor, or that it does not take, is left out: its task gets an
    empty prediction, is served last, and keeps the problem for people to read. It counts as
    published: trying it again would not help before something changes.
    """
    unfit: dict[int, str] = {}
    rows = _rows(services, project, name, batch, priorities, unfit, check)
    refused = services.labelstudio.import_predictions(project.id, rows)
    problems = {**unfit, **refused}
    if refused:
        config = label_config.parse(project.label_config)
        empty = [{**_checked(config, [], name, 0.0), "task": task} for task in refused]
        refused = services.labelstudio.import_predictions(project.id, empty)
    pushed = {t.id: 0.0 if t.id in problems else priorities.get(t.id, 0.0) for t in batch}
    with services.store.transaction() as tx:
        publishing.record(tx, project.id, name, pushed)
        for task, why in problems.items():
            tasks.set_problem(tx, project.id, task, of_version(version_number(name), why))
    for task, why in problems.items():
        log.warning("no prediction", project=project.id, task=task, reason=why)
    return refused


def _rows(
    services: Services,
    project: Project,
    name: str,
    batch: Sequence[Task],
    priorities: Mapping[int, float],
    unfit: dict[int, str],
    check: Callable[[], None],
) -> Iterator[dict[str, Any]]:
    """Yield the predictions, some tasks' regions in memory at a time; notes what is unfit."""
    config = label_config.parse(project.label_config)
    number = version_number(name)
    for start in range(0, len(batch), READ_AT_ONCE):
        check()
        some = batch[start : start + READ_AT_ONCE]
        with services.store.reading() as tx:
            regions = proposals.of_tasks(tx, project.id, [t.id for t in some], number)
        for task in some:
            size = (task.height_px, task.width_px)
            natural = (size[0], size[1]) if size[0] and size[1] else None
            priority = priorities.get(task.id, 0.0)
            try:
                row = _checked(config, regions[task.id], name, priority, natural)
            except InvalidPayload as error:
                unfit[task.id] = f"its proposal would break the editor: {error}"
                row = _checked(config, [], name, 0.0)
            yield {**row, "task": task.id}


def prediction(
    config: LabelConfig, regions: Sequence[ProposedRegion], name: str, priority: float
) -> dict[str, Any]:
    """Build one prediction; its score is 1 - priority, since the lowest score is served first.

    One that would break Label Studio's editor is left out: the prediction is empty then.
    """
    try:
        return _checked(config, regions, name, priority)
    except InvalidPayload as error:
        log.warning("proposal left out", version=name, reason=str(error))
        return _checked(config, [], name, 0.0)


def _checked(
    config: LabelConfig,
    regions: Sequence[ProposedRegion],
    name: str,
    priority: float,
    size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Build one prediction; raises InvalidPayload. size: (height, width) of the image if known."""
    result = results.prediction_result(regions, config, size=size)
    known = [region for region in regions if region.class_name in config.classes]
    chosen = image_choices.predicted(known, config, f"{name}-{secrets.token_hex(6)}")
    results.validate(chosen, config)
    return {"result": result + chosen, "score": 1.0 - priority, "model_version": name}


def _remove_others(
    services: Services, project_id: int, *, keep: str, also_untrained: bool = False
) -> None:
    """Remove every other name of ours from Label Studio; the store keeps the regions for ever."""
    with services.store.reading() as tx:
        ours = set(publishing.names(tx, project_id))
    if ours <= {keep} and not also_untrained:
        return
    present = services.labelstudio.model_versions(project_id)
    for name in sorted(((ours | {UNTRAINED}) & present.keys()) - {keep}):
        services.labelstudio.delete_model_version(project_id, name, count=present[name])
    with services.store.transaction() as tx:
        for name in ours - {keep}:
            publishing.forget(tx, project_id, name)
