"""What is due for a project now: a training, a publication, or nothing, and why."""

from __future__ import annotations

from backend.loop import policy
from backend.steps import queues, taught
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
    return decision


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
        running = jobs.running(tx, project_id, "train")
    since = project.last_snapshot_at
    untrained = {a: at for a, at in written.items() if since is None or at > since}
    new_labels = sum(count for a, count in counts.items() if a in untrained)
    snapshot, trainable = "", True
    if project.train_requested_at is not None or new_labels >= project.train_after:
        snapshot, trainable = _training_set(services, project_id)
    state = policy.PolicyState(
        new_labels=new_labels,
        train_after=project.train_after,
        quiet_s=project.quiet_s,
        max_wait_s=project.max_wait_s,
        newest_annotation_at=max(written.values(), default=None),
        oldest_untrained_at=min(untrained.values(), default=None),
        train_requested_at=project.train_requested_at,
        running=bool(running),
        snapshot=snapshot,
        last_snapshot=project.last_snapshot,
        trainable=trainable,
    )
    return policy.decide(state, services.clock()), snapshot


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
