"""Checks of one project: what Label Studio has of it against what we believe."""

from __future__ import annotations

import tempfile
from pathlib import Path

from backend.doctor.case import Case, Check, Finding, error, ok, warning
from backend.doctor.mending import LONGEST_S, dead_events, waiting_events
from backend.errors import ImageError, LabelConfigError, LabelStudioError
from backend.labelstudio import config as label_config
from backend.labelstudio.images.store import ImageStore
from backend.records import Job, Task
from backend.steps import connect, decide, status
from backend.steps.proposing.publish import SAMPLING
from backend.store import annotations as annotation_rows
from backend.store import jobs, projects, publishing, tasks
from models.base import Image

FIX = "doctor --fix"
SAME_PRIORITY = 1e-6
ORDERED = 20  # the head of the queue that is compared


def project(case: Case) -> Finding:
    """The project is in Label Studio and connected here."""
    number = case.project_id
    if number is None:
        return warning("no project is connected", command="labelclimb connect --project ID")
    try:
        case.payload = case.client.get_project(number)
    except LabelStudioError as wrong:
        if wrong.status != 404:
            raise
        return error(
            f"Label Studio has no project {number} that this key may see",
            command="labelclimb status",
        )
    with case.services.store.reading() as tx:
        known = projects.get(tx, number)
    if known is None:
        what = f"project {number} is not connected"
        return error(what, command=case.command("connect"), mend="connect")
    case.project = known
    return ok(f"{number} {known.title!r} is connected")


def config(case: Case) -> Finding:
    """Its label config can be served, and is the one that we know."""
    page = f"{case.client.url}/projects/{case.payload['id']}/settings/labeling"
    try:
        case.config = label_config.parse(case.payload["label_config"])
    except LabelConfigError as wrong:
        return error(str(wrong), why="nothing can be proposed", command=f"open {page}")
    if case.payload["label_config"] != case.project.label_config:
        return warning(
            "it has changed since we heard of it",
            why="proposals are made for the former one",
            command=case.command("connect"),
            mend="connect",
        )
    surprises = label_config.explain(case.payload["label_config"]).warnings
    if surprises:
        return warning("; ".join(surprises), command=f"open {page}")
    return ok(f"serves {', '.join(case.config.classes)}")


def network(case: Case) -> Finding:
    """Label Studio's network blocks let it call us, where connecting has said that we are."""
    own = case.settings.backend_url
    rows = connect.our_backends(case.client.list_backends(case.payload["id"]), own)
    case.url = str(rows[0]["url"]).rstrip("/") if rows else own
    blocked = case.client.network_block(case.payload["id"], case.url)
    if blocked is None:
        return ok(f"Label Studio may call {case.url}")
    return error(
        blocked,
        why="no events arrive (they are fetched instead), no interactive tools, no Start Training",
        command="ML_BLOCK_LOCAL_IP=false SSRF_PROTECTION_ENABLED=false label-studio start",
    )


def backend(case: Case) -> Finding:
    """Our ML backend is there once, with our credentials, and Label Studio reaches it."""
    url = case.url
    rows = connect.our_backends(case.client.list_backends(case.payload["id"]), url)
    command = case.command("connect")
    if not rows:
        what = "Label Studio has no ML backend of ours in this project"
        why = "no interactive tools, no Start Training"
        return error(what, why=why, command=command, mend="connect")
    faults = connect.backend_faults(rows[0], url, case.services.credentials.user)
    if faults:
        said = rows[0].get("error_message")
        what = f"the ML backend has: {', '.join(faults)}" + (f" ({said})" if said else "")
        return error(what, command=command, mend="connect")
    if len(rows) > 1:
        what = f"the ML backend is there {len(rows)} times"
        return warning(what, why="everything is asked twice", command=command, mend="connect")
    return ok(f"{rows[0]['readable_state']} at {rows[0]['url']}")


def webhook(case: Case) -> Finding:
    """Our webhook is there once, active, unfiltered, with payload and secret."""
    url = case.url
    present = case.client.list_webhooks(case.payload["id"])
    ours = connect.our_webhooks(present, [url])
    command = case.command("connect")
    late = f"corrections are learnt from up to {case.settings.reconcile_every_s:g} s late"
    if not ours:
        return error("there is no webhook of ours", why=late, command=command, mend="connect")
    faults = connect.webhook_faults(ours[0], url, case.services.credentials.webhook_secret)
    if faults:
        what = f"the webhook has: {', '.join(faults.values())}"
        return error(what, why=late, command=command, mend="connect")
    if len(ours) > 1:
        what = f"the webhook is there {len(ours)} times"
        return warning(what, why="every event comes twice", command=command, mend="connect")
    return ok("active, all events, with payload and secret")


def sampling(case: Case) -> Finding:
    """Tasks are served by score."""
    found = case.payload.get("sampling")
    if found == SAMPLING:
        return ok(f"{found}: the lowest score, that is the highest priority, comes first")
    return error(
        f"the project's sampling is {found!r}",
        why="tasks are served in another order than the strategy's",
        command=case.command("connect"),
        mend="connect",
    )


def model_version(case: Case) -> Finding:
    """Label Studio shows the version that we published."""
    held = case.client.model_versions(case.payload["id"])
    shown, published = case.payload.get("model_version") or "", case.project.published
    command = case.command("connect")
    if published is not None and published not in held:
        return error(
            f"Label Studio no longer holds the predictions of {published}",
            why="annotators see no proposals",
            command=command,
            mend="connect",
        )
    wanted = connect.wanted_version(case.payload, published, held)
    if shown != wanted:
        return error(
            f"the project's model_version is {shown!r}, not {wanted!r}",
            why="annotators see other proposals than ours, or none, and tasks at random",
            command=command,
            mend="connect",
        )
    if published is None:
        _, reason = _training(case)
        return ok(f"nothing of ours is published yet; training: {reason}")
    return ok(f"{published} is shown")


def _training(case: Case) -> tuple[bool, str]:
    decision, _ = decide.training_decision(case.services, case.payload["id"])
    return decision.train, decision.reason


def predictions(case: Case) -> Finding:
    """Label Studio holds as many predictions of the shown version as we gave it."""
    published = case.project.published
    if published is None:
        return ok("none are published yet")
    number = case.payload["id"]
    held = case.client.model_versions(number).get(published, 0)
    with case.services.store.reading() as tx:
        given = publishing.of(tx, number, published)
        bare = [t for t in tasks.open(tx, number) if t.id not in given and t.problem is None]
    if held != len(given):
        return error(
            f"Label Studio holds {held} predictions of {published}, we gave it {len(given)}",
            why="some tasks have no proposal" if held < len(given) else "some are shown twice",
            command=f"{case.command(FIX)}",
            mend="publish",
        )
    if bare:
        what = f"{len(bare)} open tasks have no prediction of {published} yet"
        return warning(what, command=case.command("predict"), mend="images")
    return ok(f"{held} of {published}, as many as we gave")


def order(case: Case) -> Finding:
    """The tasks that Label Studio would serve first are ours, in our order."""
    ours = {entry.task: entry.priority for entry in status.queue_of(case.services, case.project.id)}
    if case.project.published is None or not ours:
        return ok("there is nothing to order yet")
    served = [int(row["id"]) for row in case.client.serving_order(case.project.id, ORDERED)]
    wanted = sorted(ours.values(), reverse=True)
    for place, (task, priority) in enumerate(zip(served, wanted, strict=False), 1):
        if abs(ours.get(task, -1.0) - priority) > SAME_PRIORITY:
            first = next(iter(ours)) if place == 1 else f"one of priority {priority:.3f}"
            return error(
                f"at place {place} Label Studio serves task {task}, ours is {first}",
                why="people are given other tasks than the strategy chose",
                command=case.command(FIX),
                mend="publish",
            )
    return ok(f"the next task is {served[0]}, as ours" if served else "no task is left")


def in_step(case: Case) -> Finding:
    """We know as many tasks and annotations as Label Studio has, once no event waits."""
    waiting = waiting_events(case.services)
    if waiting:
        return Finding("skipped", f"not comparable while {len(waiting)} events wait")
    number, payload = case.project.id, case.payload
    with case.services.store.reading() as tx:
        known = (len(tasks.all(tx, number)), len(annotation_rows.live(tx, number)))
    skipped = payload.get("skipped_annotations_number") or 0
    there = (
        int(payload.get("task_number") or 0),
        int(payload.get("total_annotations_number") or 0) + int(skipped),
    )
    if known == there:
        return ok(f"{there[0]} tasks and {there[1]} annotations on both sides")
    return error(
        f"Label Studio has {there[0]} tasks and {there[1]} annotations, we know {known[0]} and "
        f"{known[1]}",
        why="what is missing here is not learnt before the next comparison",
        command=case.command("reconcile"),
        mend="reconcile",
    )


def image(case: Case) -> Finding:
    """The image of the next task can be fetched and decoded, now and not from our cache."""
    waiting = status.queue_of(case.services, case.project.id)
    if not waiting:
        return ok("no task is open")
    with case.services.store.reading() as tx:
        task = tasks.get(tx, case.project.id, waiting[0].task)
    return image_of(case, task) if task is not None else ok("no task is open")


def image_of(case: Case, task: Task) -> Finding:
    """Fetch and decode a task's image."""
    try:
        pixels = fresh_image(case, task)
    except (ImageError, LabelStudioError) as wrong:
        return error(
            f"the image of task {task.id} cannot be had: {wrong}",
            why="nothing is proposed for it, and people see an empty canvas",
            command=_image_command(case, task, str(wrong)),
        )
    if task.problem is not None:
        return error(
            f"task {task.id} is left out since its image could not be had ({task.problem}); now "
            "it can",
            command=case.command("predict"),
            mend="images",
        )
    height_px, width_px = pixels.shape[:2]
    return ok(f"task {task.id}: {width_px} x {height_px} px, {task.image}")


def fresh_image(case: Case, task: Task) -> Image:
    """Return a task's image as Label Studio gives it now; raises as `ImageStore.load`."""
    own = case.settings
    with tempfile.TemporaryDirectory() as folder:
        store = ImageStore(
            case.client,
            Path(folder),
            max_bytes=own.max_image_bytes,
            max_pixels=own.max_image_pixels,
            allowed_hosts=own.allowed_image_hosts,
            max_cache_bytes=0,
        )
        return store.load(task.image, task.id)


def _image_command(case: Case, task: Task, wrong: str) -> str:
    if connect.LOCAL_FILES in task.image and "404" in wrong:
        return f"{case.command('connect')} --local-files DIR"
    if "ALLOWED_IMAGE_HOSTS" in wrong:
        return "export ALLOWED_IMAGE_HOSTS=HOST"
    return f"open {case.client.url}/projects/{case.project.id}/data?task={task.id}"


def events(case: Case) -> Finding:
    """No event was given up, and none waits for long."""
    dead = dead_events(case.services)
    if dead:
        return error(
            f"{len(dead)} events were given up; the last: {dead[-1].action}: {dead[-1].error}",
            why="what they say is not learnt",
            command="labelclimb events --retry all",
            mend="events",
        )
    waiting = waiting_events(case.services)
    age_s = max((case.services.clock() - e.received_at).total_seconds() for e in waiting) if (
        waiting
    ) else 0.0  # fmt: skip
    if age_s > LONGEST_S:
        return error(
            f"{len(waiting)} events wait, the oldest for {age_s:.0f} s",
            why="corrections are not learnt",
            command="labelclimb worker events",
            mend="events",
        )
    return ok(f"{len(waiting)} wait, none was given up")


def trainings(case: Case) -> Finding:
    """The last training did not fail."""
    with case.services.store.reading() as tx:
        latest: Job | None = next(iter(jobs.list(tx, case.project.id, 1)), None)
    if latest is not None and latest.state == "failed":
        return error(
            f"the last training failed: {latest.error}",
            why="corrections change nothing until one succeeds",
            command=case.command("train"),
        )
    _, reason = _training(case)
    return ok(reason)


CHECKS = (
    Check("project", project, ("key", "credentials")),
    Check("label config", config, ("project",)),
    Check("network", network, ("project",)),
    Check("ml backend", backend, ("network", "api")),
    Check("webhook", webhook, ("network",)),
    Check("sampling", sampling, ("project",)),
    Check("model version", model_version, ("project",)),
    Check("predictions", predictions, ("model version",)),
    Check("in step", in_step, ("project",)),
    Check("order", order, ("sampling", "predictions", "in step")),
    Check("image", image, ("project",)),
    Check("trainings", trainings, ("project",)),
)
