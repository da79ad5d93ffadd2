"""Annotations at a steady rate, trainings in the background: what stays in memory, what is lost.

The processes of `labelclimb up` run as they do for users. Webhooks as Label Studio sends them
arrive at the API: clicks on generated surfaces, first on each of some tasks, then changed again and
again. Whenever enough are new, a version is trained, judged and published; other tasks stay open
for its proposals. Label Studio is played: it gives images and takes predictions. The resident
memory of each process is sampled; its slope is that of the least squares line after a warm-up. In
the end the store must hold each annotation as it was sent last, and each of its clicks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import intake
import numpy as np
import report

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the tests play a Label Studio

from backend.demo import annotator, dataset  # noqa: E402
from backend.demo.project import CLICK_MARGIN_PX, NOTHING, label_config  # noqa: E402
from backend.processes import running  # noqa: E402
from backend.processes.supervisor import Supervisor, free_port  # noqa: E402
from backend.records import Task  # noqa: E402
from backend.settings import Settings  # noqa: E402
from backend.steps import projects  # noqa: E402
from backend.store import annotations, inbox, jobs, learning, tasks, versions  # noqa: E402
from backend.wiring import Services, build, utc_now  # noqa: E402
from tests.integration.parts import descendants  # noqa: E402
from tests.integration.test_faults import Served  # noqa: E402
from tests.steps.fake_label_studio import FakeLabelStudio  # noqa: E402

PROJECT = 1
FIRST_OPEN = 10_001  # ids of the tasks that nobody annotates
IMAGE = "/data/upload/1/{}.jpg"
IMAGES = 24  # different ones; each serves many tasks
CLICKS, NOTHING_CLICKS = 2, 3
KNOWN_RESULTS = 200  # made beforehand: sending must not compete for the cores
SAMPLE_EVERY_S = 1.0
MIB = 2**20


class Gallery(FakeLabelStudio):
    """Gives images and takes predictions; what compares all annotations finds it unreachable."""

    def __init__(self, tasks: Sequence[int], images: Sequence[bytes]) -> None:
        super().__init__(list(tasks))
        self.images = images

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.startswith("/data/upload/"):
            number = int(Path(path).stem)
            return httpx.Response(200, content=self.images[number % len(self.images)])
        if path == "/api/tasks" and "predictions_model_versions" not in str(request.url.params):
            return httpx.Response(503, json={"detail": "played: no annotations to compare"})
        return super()._answer(request)


def results(images: Sequence[dataset.DemoImage], seed: int) -> list[tuple[int, list[Any]]]:
    """Return (number of the image, `result` of an annotation with clicks on it)."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(KNOWN_RESULTS):
        truth = images[n % len(images)].truth()
        height_px, width_px = next(iter(truth.values())).shape
        clicks = annotator.first_clicks(truth, rng, CLICKS, NOTHING_CLICKS, CLICK_MARGIN_PX)
        result = annotator.keypoint_result(
            clicks, width_px=width_px, height_px=height_px, negative_label=NOTHING, rng=rng
        )
        made.append((n % len(images), result))
    return made


@dataclass
class Sender:
    """Posts annotations at a rate; `latest` is what each annotation was sent as last."""

    port: int
    config: str
    known: Sequence[tuple[int, list[Any]]]
    annotated: int
    latest: dict[int, tuple[datetime, int]] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)
    refused: int = 0

    def run(self, rate: float, seconds: float) -> None:
        """Send for so long."""
        began = time.perf_counter()
        for n in itertools.count():
            due = began + n / rate
            if due - began >= seconds:
                return
            time.sleep(max(0.0, due - time.perf_counter()))
            self._send(n)

    def _send(self, n: int) -> None:
        task = 1 + n % self.annotated
        result = self._result(task, n // self.annotated)
        now = utc_now()
        posted = time.perf_counter()
        status = intake.post(self.port, self._event(task, result, now))
        self.milliseconds.append(1000 * (time.perf_counter() - posted))
        if status == httpx.codes.CREATED:
            self.latest[task] = (now, len(result))
        else:
            self.refused += 1

    def _result(self, task: int, turn: int) -> list[Any]:
        """Return another `result` for the task's image in each turn."""
        own = [result for image, result in self.known if image == task % IMAGES]
        return own[turn % len(own)]

    def _event(self, task: int, result: list[Any], now: datetime) -> bytes:
        moment = now.isoformat()
        action = "ANNOTATION_UPDATED" if task in self.latest else "ANNOTATION_CREATED"
        annotation = {
            "id": task, "task": task, "project": PROJECT, "result": result, "created_at": moment,
            "updated_at": moment, "lead_time": 12.0, "was_cancelled": False, "completed_by": 1,
        }  # fmt: skip
        body = {
            "action": action,
            "annotation": annotation,
            "project": {"id": PROJECT, "title": "soak", "label_config": self.config},
            "task": {"id": task, "data": {"image": IMAGE.format(task)}, "created_at": moment},
        }
        return json.dumps(body).encode()


class Memory:
    """Samples the resident memory of every process below this one, in a thread."""

    def __init__(self) -> None:
        self.samples: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._names: dict[int, str] = {}
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S):
            now_s = time.monotonic() - self._began
            for name, mib in self._now().items():
                self.samples[name].append((now_s, mib))

    def _now(self) -> dict[str, float]:
        found: defaultdict[str, float] = defaultdict(float)
        for pid, command in sorted(descendants(os.getpid()).items()):
            if pid not in self._names:
                self._names[pid] = self._name(command)
            if name := self._names[pid]:
                found[name] += resident_mib(pid)
        return dict(found)

    def _name(self, command: str) -> str:
        """Name a new process; what looks like the train worker and comes later, it has forked."""
        if "redis" in command:
            return "redis"
        part = next((n for n, a in running.PARTS.items() if command.endswith(" ".join(a))), "")
        return "each training" if part in self._names.values() else part


def resident_mib(pid: int) -> float:
    """Return the memory that a process holds; 0 when it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def slope_per_hour(samples: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the least squares line through (seconds, MiB), in MiB per hour."""
    seconds, mib = np.array(samples).T
    return float(3600 * np.polyfit(seconds, mib, 1)[0])


def of_memory(
    samples: Mapping[str, Sequence[tuple[float, float]]], warm_up_s: float
) -> list[report.Row]:
    """Return slope and size of each process that stays, and the peak of those that do not."""
    rows = []
    for name, own in sorted(samples.items()):
        warm = [(s, mib) for s, mib in own if s >= warm_up_s]
        peak = report.row(f"{name}: most memory", max(mib for _, mib in own), "MiB")
        if name == "each training" or len(warm) < 2:
            rows.append(peak)
        else:
            slope = report.row(f"{name}: slope", slope_per_hour(warm), "MiB/h")
            rows += [slope, report.row(f"{name}: at the end", warm[-1][1], "MiB"), peak]
    return rows


def lost(services: Services, sender: Sender) -> int:
    """Return how many annotations are not in the store as they were sent last, with each click.

    A click that says "nothing here" is a weak label of every class: places are counted.
    """
    with services.store.reading() as tx:
        kept = annotations.inventory(tx, PROJECT)
        labels = learning.weak_labels(tx, PROJECT)
    places = {(label.annotation, label.x_px, label.y_px) for label in labels}
    counts = Counter(annotation for annotation, _, _ in places)
    expected = sender.latest.items()
    return sum(kept.get(id) != moment or counts[id] != clicks for id, (moment, clicks) in expected)


def prepare(services: Services, config: str, open_tasks: Sequence[int]) -> None:
    """Make the project with the tasks that stay open."""
    projects.adopt(services, PROJECT, config, "soak")
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(PROJECT, id, IMAGE.format(id), utc_now()) for id in open_tasks])


def environment(folder: Path, options: argparse.Namespace, label_studio: str) -> dict[str, str]:
    """Return the settings of a labelclimb that trains often."""
    port = free_port(0)
    inherited = ("PATH", "HOME", "ENCODER_WEIGHTS")
    return {
        **{key: os.environ[key] for key in inherited if key in os.environ},
        "DATA_DIR": str(folder / "data"),
        "PORT": str(port),
        "BACKEND_URL": f"http://127.0.0.1:{port}",
        "LABEL_STUDIO_URL": label_studio,
        "LABEL_STUDIO_API_KEY": "0" * 40,
        "WEBHOOK_SECRET": intake.SECRET,
        "PIPELINE": options.pipeline,
        "TRAIN_AFTER": str(options.train_after),
        "MAX_WAIT_S": "10",  # annotators never pause here
    }


def measure(options: argparse.Namespace, folder: Path) -> list[report.Row]:
    """Send, train, sample; returns the figures."""
    images = dataset.generated(folder / "surfaces", IMAGES, options.seed)
    config = label_config(dataset.CLASSES)
    open_tasks = range(FIRST_OPEN, FIRST_OPEN + options.open_tasks)
    gallery = Gallery(open_tasks, [image.path.read_bytes() for image in images])
    served = Served(gallery, free_port(0))
    known = results(images, options.seed)
    environ = environment(folder, options, f"http://127.0.0.1:{served.server.server_port}")
    with served.running(), Supervisor(folder / "logs") as supervisor:
        environ = running.start_all(supervisor, Settings.from_env(environ), environ)
        services = build(Settings.from_env(environ))
        prepare(services, config, open_tasks)
        sender = Sender(int(environ["PORT"]), config, known, options.annotated)
        with Memory() as memory:
            sender.run(options.rate, 60 * options.minutes)
        drained_s = intake.drain(services)
        rows = of_work(services, sender, drained_s)
        services.close()
    return rows + of_memory(memory.samples, options.warm_up_s)


def of_work(services: Services, sender: Sender, drained_s: float) -> list[report.Row]:
    """Return what was sent, kept, trained and published."""
    sent = len(sender.milliseconds)
    with services.store.reading() as tx:
        received = inbox.received(tx, PROJECT, "webhook")
        dead = len(inbox.dead(tx))
        trainings = [job for job in jobs.list(tx, PROJECT, 10_000) if job.kind == "train"]
        made = len(versions.list(tx, PROJECT))
    failed = [job for job in trainings if job.state == "failed"]
    for job in failed:
        print(f"failed: {job.id}: {job.error}")
    shown = projects.require(services, PROJECT).published or "v0"
    p50, p99 = intake.percentiles(sender.milliseconds)
    return [
        report.row("events sent", sent, "events"),
        report.row("acknowledgement p50", p50, "ms"),
        report.row("acknowledgement p99", p99, "ms"),
        report.judged(report.row("not acknowledged", sender.refused, "events"), at_most=0),
        report.judged(report.row("sent, not received", sent - received, "events"), at_most=0),
        report.judged(report.row("given up", dead, "events"), at_most=0),
        report.judged(
            report.row("annotations not as sent last", lost(services, sender), "annotations"),
            at_most=0,
        ),
        report.row("until the rest was handled", drained_s, "s"),
        report.row("versions trained", made, "versions"),
        report.judged(report.row("trainings failed", len(failed), "trainings"), at_most=0),
        report.row("last version published", float(shown.removeprefix("v").split(".")[0]), ""),
    ]


def main() -> None:
    """Print the table; with --json FILE, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=2.0, help="annotations per second")
    parser.add_argument("--annotated", type=int, default=200, help="tasks, again and again")
    parser.add_argument("--open-tasks", type=int, default=40)
    parser.add_argument("--train-after", type=int, default=100, help="new weak labels")
    parser.add_argument("--pipeline", default="auto")
    parser.add_argument("--warm-up-s", type=float, default=60.0, help="left out of the slope")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    report.show(rows)
    if options.json:
        began = f"{options.minutes:g} min, pipeline {options.pipeline}"
        note = f"{began}, load {os.getloadavg()[0]:.0f} at the end, as others compute as well"
        report.write(options.json, "soak", rows, note=note)


if __name__ == "__main__":
    main()
