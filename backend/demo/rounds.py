"""Rounds of the simulated annotator: it works in Label Studio's order, the loop does the rest.

All seconds in here are simulated: they come from the cost model of `backend.demo.annotator`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from backend.demo import annotator
from backend.demo.project import DemoProject
from backend.errors import LabelclimbError
from backend.labelstudio import rle
from backend.records import Job, Project, Version
from backend.steps import decide, status
from backend.store import inbox, jobs, learning, projects, proposals, versions
from backend.wiring import Services
from models.base import Mask
from models.metrics import f_measure

TOLERANCE_PX = 2
ROUND_DEADLINE_S = 1800.0
LOOK_EVERY_S = 0.5

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Quality:
    """Mean F1 over the (task, class) pairs with a defect in truth or proposal."""

    strict: float
    tolerant: float
    by_task: Mapping[int, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """One round: the version that proposed, what became of its proposals, what followed."""

    version: str
    outcomes: Mapping[str, int]
    quality: Quality
    edit_seconds: float
    scratch_seconds: float
    tasks: int
    trained: str
    gate: str
    promoted: bool
    published: str
    order_changed: bool

    @property
    def went_round(self) -> bool:
        """Say whether it trained, was gated, published and, with a new champion, re-ordered."""
        published = self.published != self.version
        return (
            bool(self.trained and self.gate)
            and published
            and (self.order_changed or not self.promoted)
        )


def play(services: Services, project: DemoProject, tasks: int, rng: np.random.Generator) -> Round:
    """Annotate `tasks` tasks in the order that Label Studio serves; wait for the loop to answer."""
    before = _project(services, project.id)
    shown = before.published or ""
    quality = measure(services, project)
    order = [entry.task for entry in status.queue_of(services, project.id)]
    done: set[int] = set()
    seconds, scratch = 0.0, 0.0
    for _ in range(tasks):
        task = services.labelstudio.next_task(project.id)
        if task is None:
            break
        spent, without = annotate(services, project, task, shown, rng)
        seconds, scratch = seconds + spent, scratch + without
        done.add(int(task["id"]))
    version = wait_for_training(services, project.id, after=before)
    after = wait_for_publication(services, project.id, after=before)
    new_order = [entry.task for entry in status.queue_of(services, project.id)]
    return Round(
        version=shown,
        outcomes=_outcomes(services, project.id, done),
        quality=quality,
        edit_seconds=round(seconds, 1),
        scratch_seconds=round(scratch, 1),
        tasks=len(done),
        trained=version.name,
        gate=str(version.gate.get("reason", "")),
        promoted=after.champion == version.number,
        published=after.published or "",
        order_changed=[task for task in order if task in new_order] != new_order,
    )


def annotate(
    services: Services,
    project: DemoProject,
    task: Mapping[str, Any],
    shown: str,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Judge the prediction on screen as a person would and submit the annotation."""
    on_screen = [p for p in task.get("predictions", []) if p.get("model_version") == shown]
    result = on_screen[0]["result"] if on_screen else []
    truth = project.images[int(task["id"])].truth()
    proposed: dict[str, list[tuple[str, Mask]]] = {}
    for region in result:
        class_name = region["value"]["brushlabels"][0]
        proposed.setdefault(class_name, []).append((region["id"], _mask(region)))
    decisions = annotator.decide(proposed, truth)
    seconds, scratch = annotator.task_seconds(decisions)
    services.labelstudio.create_annotation(
        int(task["id"]),
        annotator.brush_result(decisions, result, encode=rle.encode, rng=rng),
        lead_time=seconds,
    )
    return seconds, scratch


def _mask(region: Mapping[str, Any]) -> Mask:
    height_px, width_px = region["original_height"], region["original_width"]
    return rle.decode_mask(region["value"]["rle"], height_px, width_px)


def measure(services: Services, project: DemoProject) -> Quality:
    """Compare the shown proposals of the tasks not yet annotated with the true masks."""
    shown = _project(services, project.id)
    number = decide.version_number(shown.published or "v0")
    by_task = {}
    for entry in status.queue_of(services, project.id):
        with services.store.reading() as tx:
            regions = proposals.of_task(tx, project.id, entry.task, number)
        masks: dict[str, Mask] = {}
        for r in regions:
            mask = rle.decode_mask(r.rle, r.height_px, r.width_px)
            masks[r.class_name] = mask | masks.get(r.class_name, mask)
        scores = _scores(masks, project.images[entry.task].truth())
        if scores:
            by_task[entry.task] = tuple(np.mean(scores, axis=0).tolist())
    return quality_of(by_task)


def quality_of(by_task: Mapping[int, tuple[float, ...]]) -> Quality:
    """Average (strict, tolerant) over tasks; NaN when there is none."""
    if not by_task:
        return Quality(float("nan"), float("nan"))
    strict, tolerant = np.mean(list(by_task.values()), axis=0).tolist()
    return Quality(strict, tolerant, by_task)


def _scores(masks: Mapping[str, Mask], truth: Mapping[str, Mask]) -> list[tuple[float, float]]:
    scores = []
    for name, true in truth.items():
        proposed = masks.get(name, np.zeros_like(true))
        if true.any() or proposed.any():
            scores.append(
                (f_measure(proposed, true), f_measure(proposed, true, tolerance_px=TOLERANCE_PX))
            )
    return scores


def _outcomes(services: Services, project_id: int, done: set[int]) -> dict[str, int]:
    with services.store.reading() as tx:
        found = [i for i in learning.interactions(tx, project_id) if i.task in done]
    return dict(Counter[str](interaction.outcome for interaction in found))


def _project(services: Services, project_id: int) -> Project:
    with services.store.reading() as tx:
        project = projects.get(tx, project_id)
    if project is None:
        raise LabelclimbError(f"the demo's project {project_id} is no longer in the store")
    return project


def wait_for_training(
    services: Services,
    project_id: int,
    *,
    after: Project,
    watch: Callable[[Job], None] = lambda _: None,
) -> Version:
    """Wait until all events are handled and a version is trained from what they taught."""

    def trained() -> Version | None:
        with services.store.reading() as tx:
            waiting = inbox.pending(tx, limit=1)
            project = projects.get(tx, project_id)
            for job in jobs.running(tx, project_id, "train"):
                watch(job)
            found = versions.list(tx, project_id)
            latest = jobs.list(tx, project_id, 1)
        _stop_on_failure(latest, after)
        if waiting or project is None or project.last_snapshot == after.last_snapshot:
            return None
        snapshot = decide.current_snapshot(services, project_id)
        if snapshot != project.last_snapshot:
            return None
        return next((v for v in found if v.snapshot == snapshot), None)

    return wait_until(trained, f"a training; {_why(services, project_id)}")


def wait_for_events(services: Services) -> None:
    """Wait until every kept event is handled."""

    def empty() -> bool | None:
        with services.store.reading() as tx:
            return None if inbox.pending(tx, limit=1) else True

    wait_until(empty, "the events worker")


def _stop_on_failure(latest: list[Job], after: Project) -> None:
    """End the wait when the newest training failed: nothing will come."""
    for job in latest:
        is_new = after.last_snapshot_at is None or (
            job.created_at is not None and job.created_at > after.last_snapshot_at
        )
        if job.state == "failed" and is_new:
            raise LabelclimbError(f"training failed: {job.error}")


def wait_for_publication(services: Services, project_id: int, *, after: Project) -> Project:
    """Wait until Label Studio shows a new name, in the order that was asked for."""

    def published() -> Project | None:
        project = _project(services, project_id)
        complete = project.order_shown == project.order_wanted and project.pushing is None
        fresh = project.published is not None and project.published != after.published
        due = decide.publication_due(services, project_id)
        return project if complete and fresh and not due else None

    return wait_until(published, "the publication of the proposals")


def _why(services: Services, project_id: int) -> str:
    decision, _ = decide.training_decision(services, project_id)
    return decision.reason


def wait_until(look: Callable[[], Seen | None], what: str) -> Seen:
    """Look until something is seen; raises LabelclimbError after the deadline."""
    pause = threading.Event()
    deadline = time.monotonic() + ROUND_DEADLINE_S
    while time.monotonic() < deadline:
        if (seen := look()) is not None:
            return seen
        pause.wait(LOOK_EVERY_S)
    raise LabelclimbError(
        f"waited {ROUND_DEADLINE_S:.0f} s for {what}; the logs folder of the demo says more"
    )
