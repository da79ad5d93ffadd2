"""Where projects stand: read-only answers for the command line, the API and the demo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from backend.errors import InvalidPayload
from backend.loop.ranking import Ranking
from backend.records import InboxEvent, Job, RollbackChoice, Task, Version, Weighting
from backend.steps import damage, decide, projects
from backend.steps.proposing import order
from backend.steps.training import watch
from backend.store import annotations as annotation_rows
from backend.store import inbox, jobs, learning, publishing, reconciling, reigns, tasks, versions
from backend.store import projects as project_rows
from backend.wiring import Services


@dataclass(frozen=True)
class Status:
    """One project at one moment.

    training: why it trains, or why not; running: trainings under way, and versions being published;
    train_after to schedule: when it trains, see `loop.policy`. outcomes: counts by what annotators
    did; waiting_events, dead_events: of all projects, not handled yet and given up after several
    attempts. received:
    webhooks of this project that ever came; recovered: tasks, annotations and deletions whose
    webhooks never did; given_up: dead events of this project. gone: Label Studio no longer has it.
    rollback: what follows from a fall of the champion's acceptance; acceptance: the findings of its
    watch (`loop.watch`), {} before; rollback_to: the version that it is proposed to go back to.
    damage: what became of a damaged champion (`steps.damage`), "" otherwise.
    """

    project: int
    title: str
    strategy: str
    strategy_options: Mapping[str, float | str]
    weighting: Weighting
    champion: str | None
    published: str | None
    tasks: int
    open_tasks: int
    annotations: int
    weak_labels: int
    outcomes: Mapping[str, int]
    waiting_events: int
    dead_events: int
    received: int
    recovered: int
    given_up: int
    reconciled_at: datetime | None
    reconcile_error: str | None
    gone: bool
    running: tuple[Job, ...]
    training: str
    train_after: int
    quiet_s: float
    max_wait_s: float
    schedule: str
    rollback: RollbackChoice
    acceptance: Mapping[str, Any]
    rollback_to: str | None
    damage: str


@dataclass(frozen=True)
class QueueEntry:
    """An open task: its published priority in [0, 1], why it is there, its predicted seconds."""

    task: int
    priority: float
    problem: str | None
    reason: str = ""
    edit_seconds: float | None = None
    edit_seconds_from: float | None = None
    edit_seconds_to: float | None = None


def of_project(services: Services, project_id: int) -> Status:
    """Return a project's status; raises UnknownThing."""
    project = projects.require(services, project_id)
    decision, _ = decide.training_decision(services, project_id)
    with services.store.reading() as tx:
        reconciled, reign = reconciling.get(tx, project_id), reigns.newest(tx, project_id)
        outcomes = Counter[str](i.outcome for i in learning.interactions(tx, project_id))
        return Status(
            project=project_id,
            title=project.title,
            strategy=project.strategy,
            strategy_options=project.strategy_options,
            weighting=project.weighting,
            champion=f"v{project.champion}" if project.champion else None,
            published=project.published,
            tasks=len(tasks.all(tx, project_id)),
            open_tasks=len(tasks.open(tx, project_id)),
            annotations=len(annotation_rows.live(tx, project_id)),
            weak_labels=len(learning.weak_labels(tx, project_id)),
            outcomes=dict(outcomes),
            waiting_events=_events(tx, inbox.PENDING),
            dead_events=_events(tx, inbox.DEAD),
            received=inbox.received(tx, project_id, "webhook"),
            recovered=reconciled.recovered,
            given_up=_events(tx, inbox.DEAD, project_id),
            reconciled_at=reconciled.done_at,
            reconcile_error=reconciled.error,
            gone=reconciled.gone_at is not None,
            running=(*jobs.publishing(tx, project_id), *jobs.running(tx, project_id, "train")),
            training=decision.reason,
            train_after=project.train_after,
            quiet_s=project.quiet_s,
            max_wait_s=project.max_wait_s,
            schedule=project.schedule,
            rollback=project.rollback,
            acceptance=reign.watch if reign else {},
            rollback_to=watch.proposed(tx, project, reign),
            damage=damage.standing(tx, project).sentence,
        )


def _events(tx: Connection, state: str, project: int | None = None) -> int:
    return sum(count for (found, _), count in inbox.counts(tx, project).items() if found == state)


def events_of(services: Services, state: str, limit: int = 100) -> list[InboxEvent]:
    """Return events that wait or are dead, oldest first, without their payloads."""
    listed = {inbox.PENDING: inbox.pending, inbox.DEAD: inbox.dead}
    if state not in listed:
        raise InvalidPayload(f"state is {state!r}; expected one of {', '.join(listed)}")
    with services.store.reading() as tx:
        return [replace(event, payload={}) for event in listed[state](tx, limit)]


def all_projects(services: Services) -> list[Status]:
    """Return the status of every project."""
    with services.store.reading() as tx:
        known = [project.id for project in project_rows.all(tx)]
    return [of_project(services, project_id) for project_id in known]


def versions_of(services: Services, project_id: int) -> list[Version]:
    """Return a project's versions, newest first; raises UnknownThing."""
    projects.require(services, project_id)
    with services.store.reading() as tx:
        found: list[Version] = versions.list(tx, project_id)
    return sorted(found, key=lambda version: version.number, reverse=True)


def jobs_of(services: Services, project_id: int, limit: int = 50) -> list[Job]:
    """Return a project's latest jobs, newest first; raises UnknownThing."""
    projects.require(services, project_id)
    with services.store.reading() as tx:
        found: list[Job] = jobs.list(tx, project_id, limit)
    return found


def latest_jobs(services: Services, limit: int = 50) -> list[Job]:
    """Return the latest jobs of all projects, newest first."""
    with services.store.reading() as tx:
        return jobs.latest(tx, limit)


def queue_of(services: Services, project_id: int) -> list[QueueEntry]:
    """Return the open tasks, most urgent first, as they are published."""
    project = projects.require(services, project_id)
    with services.store.reading() as tx:
        priorities = publishing.of(tx, project_id, project.published or "")
        waiting = tasks.open(tx, project_id)
    ranked = order.of_open(services, project, [t.id for t in waiting])
    entries = [_entry(t, priorities.get(t.id, 0.0), ranked) for t in waiting]
    return sorted(entries, key=lambda entry: (-entry.priority, entry.task))


def _entry(task: Task, priority: float, ranked: Ranking) -> QueueEntry:
    low, high = ranked.difficulty.intervals.get(task.id, (None, None))
    return QueueEntry(
        task=task.id,
        priority=priority,
        problem=task.problem,
        reason=ranked.reasons[task.id],
        edit_seconds=ranked.edit_seconds.get(task.id),
        edit_seconds_from=low,
        edit_seconds_to=high,
    )
