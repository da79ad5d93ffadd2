"""What is due for a project now: a training, a publication, or nothing, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from backend.loop import policy, schedule
from backend.records import Project
from backend.steps import damage, queues
from backend.steps import projects as project_steps
from backend.steps.training import taught
from backend.store import annotations as annotation_rows
from backend.store import jobs, learning, projects, publishing, tasks
from backend.wiring import Services


def next_steps(services: Services, project_id: int) -> policy.Decision:
    """Enqueue what is due; doing so twice enqueues nothing twice."""
    decision, snapshot = training_decision(services, project_id)
    if decision.train:
        queues.train(services, project_id, snapshot)
    elif snapshot:
        _drop_idle_request(services, project_id, snapshot)
    if publication_due(services, project_id):
        queues.publish(services, project_id)
    else:
        end_published(services, project_id)
    return decision


def end_published(services: Services, project_id: int) -> None:
    """Note that the trainings whose versions were being published are done."""
    with services.store.reading() as tx:
        shown = jobs.publishing(tx, project_id)
    if shown:
        with services.store.transaction() as tx:
            for job in shown:
                jobs.finish(tx, job.id, "done", None, services.clock())


def _drop_idle_request(services: Services, project_id: int, snapshot: str) -> None:
    """Forget a request to train what is trained already: it must not fire at the next label."""
    with services.store.transaction() as tx:
        project = projects.get(tx, project_id)
        if project is not None and project.last_snapshot == snapshot:
            projects.update(tx, project_id, train_requested_at=None)


def training_decision(services: Services, project_id: int) -> tuple[policy.Decision, str]:
    """Say whether to train now, with the reason in words, and from which snapshot.

    The snapshot is "" while there are too few labels to ask which they are.
    """
    with services.store.reading() as tx:
        project = projects.get(tx, project_id)
        if project is None:
            return policy.Decision(False, f"project {project_id} is not connected"), ""
        written = annotation_rows.learned(tx, project_id)  # by our clock: an outage ages nothing
        counts = learning.label_counts(tx, project_id)
        lost = damage.standing(tx, project).lost
        running = jobs.running(tx, project_id, "train")
        ended = (job for job in jobs.list(tx, project_id) if job.again_at is None)
        latest = next(ended, None)  # one that is tried again has not been what a schedule wanted
    now, since = services.clock(), project.last_snapshot_at
    if since is not None and since > now:
        since = None  # our clock was ahead then: which labels are new, their digest must tell
    untrained = {a: at for a, at in written.items() if since is None or at > since}
    new_labels = sum(count for a, count in counts.items() if a in untrained)
    started = latest.created_at if latest else None
    state = policy.PolicyState(
        new_labels=new_labels,
        train_after=project.train_after,
        quiet_s=project.quiet_s,
        max_wait_s=project.max_wait_s,
        newest_annotation_at=max(written.values(), default=None),
        oldest_untrained_at=min(untrained.values(), default=None),
        train_requested_at=project.train_requested_at,
        running=bool(running),
        waiting=any(job.state == "waiting" for job in running),
        snapshot="",
        last_snapshot=project.last_snapshot,
        schedule=schedule.parse(project.schedule),
        schedule_since=max(filter(None, (project.schedule_set_at, started)), default=None),
        lost=lost,
    )
    if policy.wants_snapshot(state, now):
        state = _with_snapshot(services, project_id, state)
    return policy.decide(state, now), state.snapshot


def _with_snapshot(
    services: Services, project_id: int, state: policy.PolicyState
) -> policy.PolicyState:
    """Add which labels there are, and what came of a former training on them."""
    snapshot, trainable = _training_set(services, project_id)
    with services.store.reading() as tx:
        job = jobs.get(tx, queues.train_job_id(project_id, snapshot))
    attempt = None
    if job is not None and job.state in ("failed", "cancelled") and job.finished_at is not None:
        why = job.error or "for no known reason"
        attempt = policy.Attempt(job.state == "cancelled", why, job.finished_at, job.again_at)
    return replace(state, snapshot=snapshot, trainable=trainable, attempt=attempt)


def change_policy(services: Services, project_id: int, **changes: Any) -> Project:
    """Change when a project trains: `train_after`, `quiet_s`, `max_wait_s`, `schedule`.

    A schedule looks ahead: what it would have done before is not made up for. Raises UnknownThing,
    and InvalidPayload for a schedule that cannot be read.
    """
    text = changes.get("schedule")
    if text is not None:
        schedule.parse(text)
        changes = {**changes, "schedule_set_at": services.clock()}
    return project_steps.change(services, project_id, **changes)


def current_snapshot(services: Services, project_id: int) -> str:
    """Name the present training set."""
    return _training_set(services, project_id)[0]


def _training_set(services: Services, project_id: int) -> tuple[str, bool]:
    with services.store.reading() as tx:
        known = taught.training_set(tx, project_id, services.settings)
    snapshot = policy.snapshot_digest(known.weak_labels, known.masks)
    return snapshot, bool(policy.trainable_classes(known.weak_labels))


def publication_due(services: Services, project_id: int) -> bool:
    """Say whether Label Studio shows less, or in another order, than the store could give it."""
    with services.store.reading() as tx:
        project = projects.get(tx, project_id)
        if project is None or project.champion is None:
            return False
        open_ids = {task.id for task in tasks.open(tx, project_id)}
        if not open_ids:
            return False
        shown = project.published
        if shown is None or project.pushing or project.order_shown < project.order_wanted:
            return True
        if version_number(shown) != project.champion:
            return True
        leftovers = set(publishing.names(tx, project_id)) - {shown}
        return bool(leftovers or open_ids - publishing.of(tx, project_id, shown).keys())


def version_number(published: str) -> int:
    """Return the version's number of a published name: 7 for "v7" and for "v7.2"."""
    return int(published.removeprefix("v").partition(".")[0])


def published_name(number: int, revision: int) -> str:
    """Name a publication: "v7" for the first of a version, "v7.2" for its second order."""
    return f"v{number}" if revision == 1 else f"v{number}.{revision}"
