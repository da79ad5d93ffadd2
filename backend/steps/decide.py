"""What is due for a project now: a training, a publication, or nothing, and why."""

from __future__ import annotations

from backend.loop import policy
from backend.steps import queues
from backend.store import annotations as annotation_rows
from backend.store import jobs, learning, projects, publishing, tasks
from backend.wiring import Services


def next_steps(services: Services, project_id: int) -> policy.Decision:
    """Enqueue what is due; doing so twice enqueues nothing twice."""
    decision, snapshot = training_decision(services, project_id)
    if decision.train:
        queues.train(services, project_id, snapshot)
    if publication_due(services, project_id):
        queues.publish(services, project_id)
    return decision


def training_decision(services: Services, project_id: int) -> tuple[policy.Decision, str]:
    """Say whether to train now, with the reason in words, and from which snapshot."""
    with services.store.reading() as tx:
        project = projects.get(tx, project_id)
        if project is None:
            return policy.Decision(False, f"project {project_id} is not connected"), ""
        written = annotation_rows.inventory(tx, project_id)
        labels = learning.weak_labels(tx, project_id)
        masks = learning.masks(tx, project_id)
        running = jobs.running(tx, project_id, "train")
    since = project.last_snapshot_at
    untrained = {a: at for a, at in written.items() if since is None or at > since}
    snapshot = policy.snapshot_digest(labels, masks)
    state = policy.PolicyState(
        new_labels=sum(label.annotation in untrained for label in labels),
        train_after=project.train_after,
        quiet_s=project.quiet_s,
        max_wait_s=project.max_wait_s,
        newest_annotation_at=max(written.values(), default=None),
        oldest_untrained_at=min(untrained.values(), default=None),
        train_requested_at=project.train_requested_at,
        running=bool(running),
        snapshot=snapshot,
        last_snapshot=project.last_snapshot,
        trainable=bool(policy.trainable_classes(labels)),
    )
    return policy.decide(state, services.clock()), snapshot


def publication_due(services: Services, project_id: int) -> bool:
    """Say whether Label Studio shows less, or in another order, than the store could give it."""
    with services.store.reading() as tx:
        project = projects.get(tx, project_id)
        if project is None or project.champion is None:
            return False
        if project.published is None or project.order_shown < project.order_wanted:
            return True
        if version_number(project.published) != project.champion:
            return True
        if set(publishing.names(tx, project_id)) - {project.published} or project.pushing:
            return True
        open_ids = {task.id for task in tasks.open(tx, project_id)}
        return bool(open_ids - publishing.of(tx, project_id, project.published).keys())


def version_number(published: str) -> int:
    """Return the version's number of a published name: 7 for "v7" and for "v7.2"."""
    return int(published.removeprefix("v").partition(".")[0])


def published_name(number: int, revision: int) -> str:
    """Name a publication: "v7" for the first of a version, "v7.2" for its second order."""
    return f"v{number}" if revision == 1 else f"v{number}.{revision}"
