"""Checks of one task: its image, proposal, prediction, place in the queue and what it taught."""

from __future__ import annotations

from collections import Counter

from backend.doctor.case import Case, Check, Finding, error, ok, warning
from backend.doctor.project import FIX, SAME_PRIORITY, image_of
from backend.records import ProposedRegion
from backend.steps import decide, status
from backend.store import annotations as annotation_rows
from backend.store import learning, proposals, publishing, tasks


def task(case: Case) -> Finding:
    """The task is in Label Studio and known here."""
    number = case.task_id or 0
    with case.services.store.reading() as tx:
        known = tasks.get(tx, case.project.id, number)
    there = next((t for t in case.client.tasks(case.project.id) if t["id"] == number), None)
    if there is None:
        what = f"Label Studio has no task {number} in project {case.project.id}"
        return error(what, command=f"labelclimb doctor --project {case.project.id}")
    if known is None:
        return error(
            f"task {number} was never taken in", command=case.command(FIX), mend="reconcile"
        )
    case.task = known
    return ok(f"{number} is in Label Studio and known here")


def image(case: Case) -> Finding:
    """Its image can be fetched and decoded."""
    return image_of(case, case.task)


def proposal(case: Case) -> Finding:
    """The champion has proposed for it, or there is a reason why not."""
    project, task_id = case.project, case.task.id
    if project.champion is None:
        decision, _ = decide.training_decision(case.services, project.id)
        return ok(f"none, as nothing is trained yet: {decision.reason}")
    with case.services.store.reading() as tx:
        done = task_id in proposals.tasks_done(tx, project.id, project.champion)
        regions = proposals.of_task(tx, project.id, task_id, project.champion)
        is_open = task_id in {t.id for t in tasks.open(tx, project.id)}
    if done and regions:
        return ok(f"v{project.champion}: {', '.join(map(_described, regions))}")
    if done:
        return ok(f"v{project.champion} looked at it and proposes nothing")
    if case.task.problem is not None:
        what = f"none: {case.task.problem}"
        return error(what, command=case.command("predict"), mend="images")
    if not is_open:
        return ok(f"none of v{project.champion}: it was annotated before")
    what = f"v{project.champion} has not looked at it yet"
    return warning(what, command=case.command("predict"), mend="images")


def _described(region: ProposedRegion) -> str:
    size = f"{region.width_px} x {region.height_px} px"
    return f"{region.class_name} {region.score:.2f} ({region.region_id}, of {size})"


def prediction(case: Case) -> Finding:
    """Label Studio holds exactly the prediction of it that we gave."""
    published = case.project.published
    if published is None:
        return ok("nothing is published yet")
    with case.services.store.reading() as tx:
        priority = publishing.of(tx, case.project.id, published).get(case.task.id)
    held = case.client.predictions(case.task.id)
    ours = [row for row in held if row["model_version"] == published]
    command = case.command(FIX)
    if priority is None:
        others = ", ".join(sorted({str(row["model_version"]) for row in held})) or "none"
        return ok(f"{published} gave none; Label Studio holds {others}")
    if len(ours) != 1:
        what = f"Label Studio holds {len(ours)} predictions of {published}, we gave one"
        return error(what, command=command, mend="publish")
    score = ours[0]["score"]
    if score is None or abs(1.0 - score - priority) > SAME_PRIORITY:
        what = f"its score is {score}, ours is {1.0 - priority}"
        why = "it is served at another place than ours"
        return error(what, why=why, command=command, mend="publish")
    return ok(f"{published} with {len(ours[0]['result'])} results, priority {priority:.3f}")


def place(case: Case) -> Finding:
    """Its place in the queue."""
    waiting = [entry.task for entry in status.queue_of(case.services, case.project.id)]
    if case.task.id not in waiting:
        return ok("it is annotated and waits for nobody")
    place = waiting.index(case.task.id) + 1
    return ok(f"{place} of {len(waiting)}, by strategy {case.project.strategy}")


def corrections(case: Case) -> Finding:
    """What people did with it is known here, as Label Studio has it."""
    rows = case.client.tasks(case.project.id, include="id,annotations_ids")
    text = next((t.get("annotations_ids") for t in rows if t["id"] == case.task.id), None)
    there = {int(part) for part in str(text or "").split(",") if part.strip()}
    with case.services.store.reading() as tx:
        known = annotation_rows.of_task(tx, case.project.id, case.task.id)
    if there != {a.id for a in known}:
        what = f"Label Studio has annotations {sorted(there)}, we know {[a.id for a in known]}"
        return error(what, command=case.command(FIX), mend="reconcile")
    described = [
        f"{a.id} ({'skipped' if a.was_cancelled else f'{a.lead_time_s or 0:.0f} s'})" for a in known
    ]
    return ok(", ".join(described) or "none yet")


def learnt(case: Case) -> Finding:
    """The outcomes and weak labels that came of it."""
    with case.services.store.reading() as tx:
        outcomes = [
            f"{i.class_name} {i.outcome}"
            for i in learning.interactions(tx, case.project.id)
            if i.task == case.task.id
        ]
        labels = Counter(
            f"{label.source} {'+' if label.positive else '-'}"
            for label in learning.weak_labels(tx, case.project.id)
            if label.task == case.task.id
        )
    counted = ", ".join(f"{count} {source}" for source, count in sorted(labels.items()))
    return ok(f"outcomes: {', '.join(outcomes) or 'none'}; weak labels: {counted or 'none'}")


CHECKS = (
    Check("task", task, ("project",)),
    Check("task image", image, ("task",)),
    Check("task proposal", proposal, ("task",)),
    Check("task prediction", prediction, ("task",)),
    Check("task place", place, ("task",)),
    Check("task annotations", corrections, ("task",)),
    Check("task learnt", learnt, ("task annotations",)),
)
