"""From the 20th correction to new proposals that Label Studio shows, stage by stage.

A Label Studio and the processes of `labelclimb up` run as they do for users, on a project of 100
images of 480x320: real ones (LABELCLIMB_DATA) or generated ones. A first version is trained from
clicks and published. Then a simulated annotator corrects 20 tasks in the order that Label Studio
serves; the policy is set so that the 20th one makes a training due, without a quiet period. The
seconds are those from its submission until Label Studio shows a newer version's proposals.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import report
from rich.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the tests know how to start a Label Studio

from backend.demo import dataset, project, rounds, run  # noqa: E402
from backend.records import Job  # noqa: E402
from backend.steps import decide, projects  # noqa: E402
from backend.store import annotations, jobs, learning, proposals, tasks  # noqa: E402
from backend.wiring import Services  # noqa: E402
from tests.e2e import label_studio_server, product  # noqa: E402

TARGET_S, OVERHEAD_PERCENT = 300.0, 10.0
LOOK_EVERY_S = 0.1
WAIT_S = 1800.0
NEVER = 1_000_000  # new labels
REAL = ("cfd", "crack")  # folder and class; its photographs have 480x320 px
BEFORE_TRAINING = ("reading images", "starting")
PREDICTING, SHOWING = "predicting the open tasks", "showing them in Label Studio"
INTAKE, QUEUE, GATE = "from the correction to the queue", "from the queue to a process", "gate"


def images(folder: Path, count: int, seed: int) -> tuple[list[dataset.DemoImage], str]:
    """Return the images, and what they are."""
    data = os.environ.get("LABELCLIMB_DATA")
    if data and (Path(data) / REAL[0]).is_dir():
        found = dataset.real(Path(data) / REAL[0], None, REAL[1], count, seed)
        return found, f"{len(found)} images of {REAL[0]}"
    return dataset.generated(folder / "surfaces", count, seed), f"{count} generated images"


def first_version(services: Services, demo: project.DemoProject, seed: int) -> None:
    """Enter clicks, press "Start Training", and wait until its proposals are shown."""
    pretrained = services.settings.encoder_weights
    share, clicks = run.FEW_CLICKS if pretrained else run.MORE_CLICKS
    count = round(len(demo.images) * share)
    project.enter_clicks(services, demo, count, clicks, seed, Progress(disable=True))
    rounds.wait_for_events(services)
    before = projects.require(services, demo.id)
    services.labelstudio.start_training(services.labelstudio.list_backends(demo.id)[0]["id"])
    rounds.wait_for_training(services, demo.id, after=before)
    rounds.wait_for_publication(services, demo.id, after=before)


def correct(
    services: Services, demo: project.DemoProject, count: int, rng: np.random.Generator
) -> None:
    """Correct the tasks that Label Studio serves next."""
    shown = projects.require(services, demo.id).published or ""
    for _ in range(count):
        task = services.labelstudio.next_task(demo.id)
        if task is None:
            raise SystemExit("Label Studio serves no task any more; give more --tasks")
        rounds.annotate(services, demo, task, shown, rng)


def train_at_next_label(services: Services, project_id: int) -> None:
    """Set the policy so that one more weak label makes a training due at once."""
    since = projects.require(services, project_id).last_snapshot_at
    with services.store.reading() as tx:
        written = annotations.learned(tx, project_id)
        counts = learning.label_counts(tx, project_id)
    new = sum(n for a, n in counts.items() if since is None or written[a] > since)
    decide.change_policy(services, project_id, train_after=new + 1, quiet_s=0.0)


class Watch:
    """Adds up the seconds of each stage between the last correction and its proposals."""

    def __init__(self, services: Services, project_id: int) -> None:
        self.services, self.project = services, project_id
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.before = projects.require(services, project_id).champion
        self.known = {job.id for job in self.jobs()}
        self.predicted = 0

    def jobs(self) -> list[Job]:
        """Return the trainings of the project."""
        with self.services.store.reading() as tx:
            return jobs.list(tx, self.project)

    def until_shown(self) -> float:
        """Look until Label Studio shows a newer version; returns the seconds."""
        began = looked = time.perf_counter()
        while looked - began < WAIT_S:
            stage = self.stage()
            is_shown = stage == SHOWING and self.is_shown()
            now = time.perf_counter()
            self.seconds[stage] += now - looked
            looked = now
            if is_shown:
                return now - began
            time.sleep(LOOK_EVERY_S)
        raise SystemExit(f"waited {WAIT_S:g} s; {dict(self.seconds)}")

    def stage(self) -> str:
        """Name what is being done now."""
        job = next((job for job in self.jobs() if job.id not in self.known), None)
        if job is None:
            return INTAKE
        if job.state in ("failed", "cancelled"):
            raise SystemExit(f"the training has {job.state}: {job.error}")
        if job.state in ("queued", "waiting"):
            return QUEUE
        if job.state == "gating":
            return GATE
        if job.state == "running":
            return str(job.detail.get("stage", BEFORE_TRAINING[0]))
        champion = projects.require(self.services, self.project).champion
        if champion is None or champion == self.before:
            raise SystemExit("the gate kept the former version: there are no new proposals to show")
        return PREDICTING if self.lacking(champion) else SHOWING

    def lacking(self, champion: int) -> int:
        """Return how many open tasks have no proposals of a version yet."""
        with self.services.store.reading() as tx:
            wanted = {task.id for task in tasks.open(tx, self.project)}
            done = proposals.tasks_done(tx, self.project, champion)
        self.predicted = len(wanted)
        return len(wanted - done)

    def is_shown(self) -> bool:
        """Say whether Label Studio itself names the newer version, on every open task."""
        client = self.services.labelstudio
        name = str(client.get_project(self.project).get("model_version") or "")
        champion = projects.require(self.services, self.project).champion
        if not name.startswith("v") or decide.version_number(name) != champion:
            return False
        return client.model_versions(self.project).get(name) == self.predicted


def figures(watch: Watch, total_s: float) -> list[report.Row]:
    """Return the table; what is neither training nor prediction is overhead, the gate too."""
    outside = {INTAKE, QUEUE, GATE, SHOWING, *BEFORE_TRAINING}
    prediction_s = watch.seconds[PREDICTING]
    training_s = sum(s for stage, s in watch.seconds.items() if stage not in {*outside, PREDICTING})
    share = 100 * (total_s - training_s - prediction_s) / total_s
    total = report.row("20th correction until new proposals are shown", total_s, "s")
    overhead = report.row("overhead outside training and prediction", share, "%")
    return [
        report.judged(total, at_most=TARGET_S),
        report.row("training", training_s, "s"),
        report.row("prediction", prediction_s, "s"),
        report.judged(overhead, at_most=OVERHEAD_PERCENT),
        report.row("tasks predicted", watch.predicted, "tasks"),
        *(report.row(f"stage: {stage}", s, "s") for stage, s in watch.seconds.items()),
    ]


def measure(options: argparse.Namespace, folder: Path) -> tuple[list[report.Row], str]:
    """Run everything; returns the figures and what the images were."""
    chosen, what = images(folder, options.tasks, options.seed)
    changes = {"TRAIN_AFTER": str(NEVER)}
    weights = os.environ.get("ENCODER_WEIGHTS")
    if weights:
        changes["ENCODER_WEIGHTS"], what = weights, f"{what}, pretrained encoder"
    with (
        label_studio_server.running(folder) as server,
        product.started(server, folder, **changes) as started,
    ):
        services = started.services
        data = services.settings.data_dir
        demo = project.open_project(services, data, chosen, Progress(disable=True))
        rounds.wait_for_events(services)
        first_version(services, demo, options.seed)
        rng = np.random.default_rng(options.seed)
        correct(services, demo, options.corrections - 1, rng)
        rounds.wait_for_events(services)
        train_at_next_label(services, demo.id)
        watch = Watch(services, demo.id)
        correct(services, demo, 1, rng)
        total_s = watch.until_shown()
    return figures(watch, total_s), what


def main() -> None:
    """Print the table; with --json FILE, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--corrections", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows, what = measure(options, Path(folder))
    report.show(rows)
    if options.json:
        note = f"{what}; load of the machine before and after: {load:.0f}, {os.getloadavg()[0]:.0f}"
        report.write(options.json, "retrain", rows, note=note)


if __name__ == "__main__":
    main()
