"""A project's real work since a moment, as the store tells it."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from sqlalchemy import Connection

from backend.errors import SettingsError
from backend.loop.edit_time import seconds_by_annotation, usable_s
from backend.records import Interaction, TaskEvidence
from backend.steps import projects
from backend.steps.proposing import order
from backend.steps.training import taught
from backend.store import annotations as annotation_rows
from backend.store import learning, proposals, reigns, tasks, versions
from backend.wiring import Services


@dataclass(frozen=True)
class Finished:
    """A task that was open at the moment and has been finished since.

    seconds: of all its annotations, real and cleaned; pixels: added and removed by people.
    """

    task: int
    at: datetime
    seconds: float
    pixels: int
    interactions: tuple[Interaction, ...]


@dataclass(frozen=True)
class History:
    """What a replay needs to know.

    finished: in the order of their time. before: interactions from before the moment. serving:
    (since when, version), oldest first. evidence: {version: {task: evidence}}, of the finished
    tasks. past_evidence: of the versions whose proposals were corrected. still_open: tasks that
    were open then and still are; untimed: finished since, but nobody knows in what time; arrived:
    finished since, but imported later. was_finished: number of tasks that were finished already.
    """

    since: datetime
    finished: tuple[Finished, ...]
    before: tuple[Interaction, ...]
    serving: tuple[tuple[datetime, int], ...]
    evidence: Mapping[int, Mapping[int, TaskEvidence]]
    past_evidence: tuple[TaskEvidence, ...]
    still_open: int
    untimed: int
    arrived: int
    was_finished: int

    @property
    def total_s(self) -> float:
        """Return the real seconds of all finished tasks."""
        return sum(one.seconds for one in self.finished)

    def version_at(self, moment: datetime) -> int | None:
        """Return the version that served at a moment, None before the first."""
        place = bisect_right([at for at, _ in self.serving], moment)
        return self.serving[place - 1][1] if place else None

    def evidence_of(self, version: int | None, task: int) -> TaskEvidence | None:
        """Return the newest evidence of a task that this version or an earlier one has made."""
        numbers = [n for n in self.evidence if version is not None and n <= version]
        for number in sorted(numbers, reverse=True):
            if task in self.evidence[number]:
                return self.evidence[number][task]
        return None


def aware(moment: datetime) -> datetime:
    """Return a moment in UTC; one without a time zone is meant so."""
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment


def read(services: Services, project_id: int, since: datetime) -> History:
    """Read what people did since a moment; raises UnknownThing, and SettingsError for nothing."""
    projects.require(services, project_id)
    with services.store.reading() as tx:
        known = {task.id: task.created_at for task in tasks.all(tx, project_id)}
        done = _annotations(services, tx, project_id)
        past = taught.past(tx, project_id, services.settings)
        serving = _serving(tx, project_id)
        written = {task: min(one.at for one in own) for task, own in done.items()}
        early = {task for task, at in written.items() if at < since}
        there = {t for t, made in known.items() if made is None or aware(made) <= since} - early
        timed = [_joined(task, done[task]) for task in sorted(there & done.keys())]
        finished = [one for one in timed if one.seconds > 0]
        if not finished:
            raise SettingsError(
                f"nothing that was open at {since:%Y-%m-%d %H:%M} has been finished with a known "
                "time since then; give an earlier --since"
            )
        ids = [one.task for one in finished]
        numbers = sorted({number for _, number in serving})
        return History(
            since=since,
            finished=tuple(sorted(finished, key=lambda one: (one.at, one.task))),
            before=tuple(one for one in past if one.created_at < since),
            serving=tuple(serving),
            evidence={n: proposals.evidence(tx, project_id, n, only=ids) for n in numbers},
            past_evidence=tuple(order.evidence_of(tx, project_id, past, embeddings=True)),
            still_open=len(there - done.keys()),
            untimed=len(timed) - len(finished),
            arrived=len(done.keys() & known.keys() - there - early),
            was_finished=len(early),
        )


def _annotations(
    services: Services, tx: Connection, project_id: int
) -> Mapping[int, Sequence[Finished]]:
    """Return each annotation as a finished task of its own, by task.

    Where nothing was proposed and nothing drawn there is no interaction, but people spent time.
    """
    by_annotation: defaultdict[int, list[Interaction]] = defaultdict(list)
    for one in taught.past(tx, project_id, services.settings):
        by_annotation[one.annotation].append(one)
    seconds = seconds_by_annotation(i for own in by_annotation.values() for i in own)
    owners = annotation_rows.owners(tx, project_id)
    found: defaultdict[int, list[Finished]] = defaultdict(list)
    for work in learning.works(tx, project_id):
        own = by_annotation[work.annotation]
        looked_s = None if own or work.bulk else usable_s(work.seconds)
        spent = seconds.get(work.annotation, looked_s or 0.0)
        pixels = sum(one.pixels_added + one.pixels_removed for one in own)
        task = owners[work.annotation]
        found[task].append(Finished(task, work.written_at, spent, pixels, tuple(own)))
    return found


def _joined(task: int, own: Sequence[Finished]) -> Finished:
    """Return the annotations of a task as one: finished when the first one was."""
    return Finished(
        task,
        min(one.at for one in own),
        sum(one.seconds for one in own),
        sum(one.pixels for one in own),
        tuple(i for one in own for i in one.interactions),
    )


def _serving(tx: Connection, project_id: int) -> list[tuple[datetime, int]]:
    """Return since when which version served; without a record of that, since it was trained."""
    known = [(reign.at, reign.number) for reign in reigns.list(tx, project_id)]
    if known:
        return known
    trained = sorted(versions.list(tx, project_id), key=lambda version: version.number)
    return [(v.created_at, v.number) for v in trained if v.state in ("champion", "retired")]
