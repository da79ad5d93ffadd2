"""What `--fix` does: the safe acts, each of which a command of ours does as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from backend.doctor.case import Case, Finding, Mend
from backend.errors import LabelclimbError
from backend.records import InboxEvent
from backend.steps import connect, projects, queues
from backend.steps.listening import intake, reconcile
from backend.steps.proposing import publish
from backend.store import inbox, proposals, publishing, tasks
from backend.wiring import Services

LONGEST_S = 300.0  # an event that waits longer has no worker
MANY = 10_000


def mend(case: Case, findings: Iterable[Finding]) -> list[str]:
    """Do what the findings ask for, each act once per project; return what was done, line by line.

    An act that fails is said, and does not stop the others.
    """
    wanted = {(f.mend, f.project) for f in findings if f.mend is not None}
    lines: list[str] = []
    for name, act in ACTS.items():
        for project in sorted((p for kind, p in wanted if kind == name), key=lambda p: p or 0):
            try:
                lines += act(case, project or 0)
            except LabelclimbError as error:
                lines.append(f"{name} of project {project} failed: {error}")
    return lines


def _connect(case: Case, project: int) -> list[str]:
    rows = case.client.list_backends(project)
    ours = connect.our_backends(rows, case.settings.backend_url)
    url = str(ours[0]["url"]) if ours else case.settings.backend_url
    done = connect.connect(case.services, project, url)
    return [f"project {project}: {line}" for line in (*done.acts, *done.problems)] + _handle_all(
        case.services
    )


def _reconcile(case: Case, project: int) -> list[str]:
    found = reconcile.reconcile(case.services, project, full=True)
    line = (
        f"project {project}: fetched {found.tasks} tasks, {found.annotations} annotations and "
        f"{found.deletions} deletions"
    )
    return [line, *_handle_all(case.services)]


def _events(case: Case, _project: int) -> list[str]:
    for event in dead_events(case.services):
        intake.retry(case.services, event.id)
    return _handle_all(case.services)


def _handle_all(services: Services) -> list[str]:
    """Handle what waits here and now: whether a worker lives is another question."""
    waiting = waiting_events(services)
    for event in waiting:
        intake.handle(services, event.id)
    left = len(waiting_events(services)) + len(dead_events(services))
    return [f"{len(waiting)} events handled, {left} left"] if waiting else []


def _images(case: Case, project: int) -> list[str]:
    projects.forget_problems(case.services, project)
    queues.publish(case.services, project)
    return [f"project {project}: asked for its open tasks to be predicted"]


def _publish(case: Case, project: int) -> list[str]:
    """Publish under a new name: now, or by a worker where something must be predicted first."""
    with case.services.store.transaction() as tx:
        known = projects.want_order(tx, project)
        done = proposals.tasks_done(tx, project, known.champion or 0)
        backlog = [t for t in tasks.open(tx, project) if t.id not in done and t.problem is None]
    if backlog:
        queues.publish(case.services, project)
        return [f"project {project}: asked for it to be published anew"]
    publish.publish(case.services, project)
    with case.services.store.reading() as tx:
        names = publishing.names(tx, project)
    return [f"project {project}: published anew as {', '.join(names)}"]


def dead_events(services: Services) -> list[InboxEvent]:
    """Return the events that were given up."""
    with services.store.reading() as tx:
        return inbox.dead(tx, limit=MANY)


def waiting_events(services: Services) -> list[InboxEvent]:
    """Return the events that wait, in order of arrival."""
    with services.store.reading() as tx:
        return inbox.pending(tx, limit=MANY)


ACTS: dict[Mend, Callable[[Case, int], list[str]]] = {
    "connect": _connect,
    "reconcile": _reconcile,
    "events": _events,
    "images": _images,
    "publish": _publish,
}
