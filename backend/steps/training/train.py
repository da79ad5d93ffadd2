"""Train a challenger from a snapshot of the weak labels, judge it, keep it, promote the better."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection

import models.base
from backend.errors import ImageError, JobOver, LabelclimbError, StorageError
from backend.labelstudio import config as label_config
from backend.labelstudio import rle
from backend.loop import gate, policy
from backend.records import Project, Task, VerifiedMask, Version, WeakLabel
from backend.steps import damage, queues
from backend.steps import projects as project_steps
from backend.steps.training import (
    fitting,
    judging,
    left_out,
    start,
    taught,
    together,
    weighting,
)
from backend.steps.training.progress import Watch
from backend.store import annotations as annotation_rows
from backend.store import projects, reigns, tasks, unrecorded, versions
from backend.wiring import Services
from models.base import (
    ClassSpec,
    Fitted,
    Image,
    Mask,
    Sample,
    WeakPoint,
)
from models.learning.training import PROFILES

SAVE_AGAIN_S = (5.0, 30.0, 120.0)  # after that the training is put off

Done = TypeVar("Done")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class TrainingSet:
    """The weak labels of one moment, split by a hash of the image: `held_out` is never trained on.

    snapshot: the digest that names this moment; newest_at: of the newest annotation in it.
    """

    project: Project
    snapshot: str
    newest_at: datetime | None
    samples: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    specs: tuple[ClassSpec, ...]

    @property
    def newest(self) -> dict[str, str]:
        """What the version knows of: {"newest_at": when the newest annotation was written}."""
        return {} if self.newest_at is None else {damage.NEWEST: self.newest_at.isoformat()}


def train(services: Services, project_id: int, job_id: str) -> Version | None:
    """Train, judge and store one version; returns it, or None when nothing was new.

    The version is written before the pointer moves; a crash before that leaves no trace, and a
    second run of the same job finds the snapshot already trained and does nothing. Raises JobOver
    when the job is cancelled meanwhile, and LockHeld when it has to wait for a GPU.
    """
    watch = Watch(services, job_id)
    with fitting.alone(services, watch) as place:
        training_set = load(services, project_id)
        if training_set.snapshot == training_set.project.last_snapshot:
            _nothing_new(services, watch)
            return None
        watch.begin("running", "starting")
        training_set, champion = _champion(services, training_set, watch)
        if training_set.project.champion is not None:
            services.registry.require_room(project_id, training_set.project.champion)
        challenger, begun = _fit(services, training_set, champion, place, watch)
        watch.begin("gating", "gate")
        winner, verdict = judging.judged(services, training_set, champion, challenger, watch)
    version = _keep(services, training_set, winner, verdict, begun, watch)
    queues.publish(services, project_id)
    return version


def load(services: Services, project_id: int) -> TrainingSet:
    """Read the present weak labels as samples; images are decoded when they are needed."""
    with services.store.reading() as tx:
        project = projects.get(tx, project_id)
        if project is None:
            raise LabelclimbError(f"project {project_id} was deleted before its training began")
        known = taught.training_set(tx, project_id, services.settings)
        images = {task.id: task for task in tasks.all(tx, project_id)}
        written = annotation_rows.learned(tx, project_id).values()
        weights = weighting.weights(tx, project, services.settings)
    samples = _samples(services, images, known.weak_labels, known.masks)
    keys = {str(task.id): task.image for task in images.values()}
    held_out = {s.key for s in samples if gate.is_validation(project_id, keys[s.key])}
    return TrainingSet(
        project=project,
        snapshot=policy.snapshot_digest(known.weak_labels, known.masks),
        newest_at=max(written, default=None),
        samples=tuple(weighting.weighted([s for s in samples if s.key not in held_out], weights)),
        held_out=tuple(s for s in samples if s.key in held_out),
        specs=tuple(label_config.parse(project.label_config).specs),
    )


def _samples(
    services: Services,
    images: Mapping[int, Task],
    labels: Sequence[WeakLabel],
    masks: Sequence[VerifiedMask],
) -> list[Sample]:
    points: defaultdict[int, list[WeakPoint]] = defaultdict(list)
    for label in labels:
        weight = label.weight * label.trust
        point = WeakPoint(label.class_name, label.x_px, label.y_px, label.positive, weight)
        points[label.task].append(point)
    verified: defaultdict[int, list[VerifiedMask]] = defaultdict(list)
    for mask in masks:
        verified[mask.task].append(mask)
    usable = [images[task] for task in sorted(points.keys() | verified.keys()) if task in images]
    sizes = {task.id: _size(services, task) for task in usable}
    return [
        Sample(
            str(task.id),
            _loader(services, task),
            tuple(points[task.id]),
            {m.class_name: _decoder(m) for m in verified[task.id] if _fits(m, size)},
        )
        for task in usable
        if (size := sizes[task.id]) is not None
    ]


def _size(services: Services, task: Task) -> tuple[int, int] | None:
    """Return (height, width) of a task's image; None, and the reason noted, when it cannot be had.

    Raises LabelStudioError when that is not the image's fault.
    """
    try:
        height_px, width_px, _ = services.images.load(task.image, task.id).shape
    except ImageError as error:
        log.warning("left out of the training", task=task.id, reason=str(error))
        _note_problem(services, task.project, task.id, str(error))
        return None
    return height_px, width_px


def _note_problem(services: Services, project: int, task: int, reason: str) -> None:
    with services.store.transaction() as tx:
        tasks.set_problem(tx, project, task, reason)


def _fits(mask: VerifiedMask, size: tuple[int, int]) -> bool:
    """Whoever wrote the annotation said its size; one that is not the image's cannot be used."""
    fits = (mask.height_px, mask.width_px) == size
    if not fits:
        log.warning("mask of another size left out", task=mask.task, annotation=mask.annotation)
    return fits


def _loader(services: Services, task: Task) -> Callable[[], Image]:
    return lambda: services.images.load(task.image, task.id)


def _decoder(mask: VerifiedMask) -> Callable[[], Mask]:
    return lambda: rle.decode_mask(rle.from_bytes(mask.rle), mask.height_px, mask.width_px)


def _champion(
    services: Services, training_set: TrainingSet, watch: Watch
) -> tuple[TrainingSet, Fitted | None]:
    """Load the champion; a damaged one is left, and the training goes on with its successor."""
    project = training_set.project
    with services.store.reading() as tx:
        version = versions.get(tx, project.id, project.champion or 0)
    if version is None:
        return training_set, None
    try:
        return training_set, services.residents.get(project.id, version.number, version.pipeline)
    except damage.DAMAGE as error:
        if not damage.left(services, project.id, version.number):
            raise
        watch.note(f"{version.name} was left as damaged: {error}")
    present = project_steps.require(services, project.id)
    return _champion(services, replace(training_set, project=present), watch)


def _fit(
    services: Services,
    training_set: TrainingSet,
    champion: Fitted | None,
    place: fitting.Place,
    watch: Watch,
) -> tuple[Fitted, dict[str, Any]]:
    """Train from the champion or afresh; returns the version and what it started from.

    Images that cannot be had any more are left out.
    """
    settings = services.settings
    profile = replace(PROFILES[settings.profile], encoder_weights=settings.encoder_weights)
    known = [*training_set.samples, *training_set.held_out]
    begun = start.choose(services, training_set.project, known, profile.encoder)
    specs, project = training_set.specs, training_set.project
    warm = project.champion if begun.warm else None

    def attempt(samples: Sequence[Sample]) -> Fitted:
        fit = partial(
            models.base.get(settings.pipeline).fit,
            samples,
            specs=specs,
            seed=settings.seed,
            report=watch,
            warm_start=champion if begun.warm else None,
        )
        task = together.Task(project.id, samples, specs, warm)
        return fitting.fit(together.shared(services, task, fit), profile, place, watch)

    fitted, used, gone = left_out.fitted(attempt, training_set.samples, watch.note)
    for key, reason in gone.items():
        _note_problem(services, project.id, int(key), reason)
    known = [*used, *training_set.held_out]
    about = start.described(begun, project, known, profile.encoder)
    return fitted, {**about, "left_out": gone} if gone else about


def _keep(
    services: Services,
    training_set: TrainingSet,
    challenger: Fitted,
    verdict: gate.Verdict,
    begun: Mapping[str, Any],
    watch: Watch,
) -> Version | None:
    """Write the files, then the record and the pointer in one transaction.

    A version whose job was cancelled meanwhile, or that came second, is not kept.
    """
    project_id = training_set.project.id
    number = _patiently(partial(project_steps.free_number, services, project_id), watch)
    about = {"device": models.base.resolve_device(services.settings.device)}
    _patiently(partial(services.registry.save, project_id, number, challenger.save, about), watch)
    version = Version(
        project=project_id,
        number=number,
        state="challenger",
        pipeline=services.settings.pipeline,
        snapshot=training_set.snapshot,
        created_at=services.clock(),
        classes=tuple(challenger.classes),
        metrics={**challenger.metrics, start.START: {**begun, **training_set.newest}},
        gate=dict(verdict.as_json()),
    )
    try:
        with services.store.transaction() as tx:
            watch.check(tx)
            is_second = _is_second(tx, training_set)
            if not is_second:
                version = _record(tx, training_set, version, promote=verdict.promote)
            watch.publishing(tx)
    except JobOver:
        services.registry.remove(project_id, number)
        raise
    if is_second:
        services.registry.remove(project_id, number)
        return None
    return version


def _is_second(tx: Connection, training_set: TrainingSet) -> bool:
    """Say whether the snapshot has its version: a training may outlive its dead worker."""
    present = projects.get(tx, training_set.project.id)
    return present is not None and present.last_snapshot == training_set.snapshot


def _nothing_new(services: Services, watch: Watch) -> None:
    """Leave the job as whoever made the snapshot's version did: it may still be published."""
    with services.store.transaction() as tx:
        watch.publishing(tx)


def _patiently(act: Callable[[], Done], watch: Watch) -> Done:
    """Do it; what took hours to train waits a while for room, or for a way to the versions."""
    for pause_s in SAVE_AGAIN_S:
        try:
            return act()
        except StorageError as error:
            watch.note(f"the version cannot be stored, tried again in {pause_s:g} s: {error}")
            threading.Event().wait(pause_s)
    return act()


def _was_replaced(tx: Connection, judged: Project, present: Project) -> bool:
    """Say whether somebody chose the present champion, which only damage would not explain."""
    number = present.champion
    for reign in reversed(reigns.list(tx, judged.id)):
        if number == judged.champion or reign.how != "fell back":
            break
        number = reign.former
    return number not in (None, judged.champion)


def _record(
    tx: Connection, training_set: TrainingSet, version: Version, *, promote: bool
) -> Version:
    """Keep the version's record, move the pointer, and note what was trained on.

    A training that was asked for after this one had read its labels is still owed, and a champion
    that somebody chose meanwhile is not replaced: the gate has not judged against it. One that
    stands in for the one it has judged against, which was left as damaged, is.
    """
    project = training_set.project
    present = projects.get(tx, project.id)
    if promote and present is not None and _was_replaced(tx, project, present):
        reason = "another version was activated during the training"
        promote, version = False, replace(version, gate={**version.gate, "reason": reason})
    if not promote and present is not None and present.champion is None:
        reason = "no champion is left: the one that it was judged against is damaged"
        promote, version = True, replace(version, gate={**version.gate, "reason": reason})
    unrecorded.end(tx, project.id, version.number)
    versions.add(tx, version)
    if promote:
        project_steps.promote(tx, project.id, version.number)
    else:
        versions.set_state(tx, project.id, version.number, "rejected")
    now = project_steps.want_order(tx, project.id)
    is_answered = now.train_requested_at == project.train_requested_at
    projects.update(
        tx,
        project.id,
        last_snapshot=training_set.snapshot,
        last_snapshot_at=training_set.newest_at,
        train_requested_at=None if is_answered else now.train_requested_at,
    )
    return replace(version, state="champion" if promote else "rejected")
