"""From a changed strategy to the next task in the new order, on a running Label Studio.

A Label Studio and the processes of `labelclimb up` run as they do for users. A project of tasks is
put into both, with proposals and evidence as a version of two classes leaves them in the store, and
is published once. Then the strategy is changed by the API again and again: the seconds are those
from the request until the project shows the new name and serves the first task of the new order,
by `next`, with proposals. After that the whole order is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import httpx
import numpy as np
import numpy.typing as npt
import report

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the tests know how to start a Label Studio

from backend.demo.project import label_config  # noqa: E402
from backend.labelstudio import config as labels  # noqa: E402
from backend.labelstudio import events, rle  # noqa: E402
from backend.records import Project, ProposedRegion, TaskEvidence, Version  # noqa: E402
from backend.settings import Settings  # noqa: E402
from backend.steps import projects  # noqa: E402
from backend.steps.proposing import order, publish  # noqa: E402
from backend.store import proposals, tasks, versions  # noqa: E402
from backend.wiring import Services, build, utc_now  # noqa: E402
from tests.e2e import label_studio_server, product  # noqa: E402

CLASSES = ("crack", "spalling")
HEIGHT_PX, WIDTH_PX = 320, 480
WINDOWS, DIMS, PASSES = 12 * 19, 256, 6
KINDS = 40  # different masks; encoding them is no part of the question
TARGET_S = 5.0
WAIT_S = 300.0
CHANGES = ("margin", "edit_time", "coreset", "bald", "hybrid", "entropy")

Seen = TypeVar("Seen")


def mask(rng: np.random.Generator, *, is_thin: bool) -> npt.NDArray[np.bool_]:
    """Paint one region as a proposal has it: a crack that wanders, or a ragged patch."""
    image = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    start = rng.uniform((40, 40), (WIDTH_PX - 40, HEIGHT_PX - 40))
    if is_thin:
        steps = np.cumsum(rng.normal((5, 0), (2, 4), (50, 2)), axis=0)
        cv2.polylines(image, [(start + steps).astype(np.int32)], False, 1, int(rng.integers(2, 6)))
    else:
        angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        radii = rng.uniform(20, 40) * (1 + 0.15 * rng.normal(size=60))
        outline = start + radii[:, None] * np.stack((np.cos(angles), np.sin(angles)), axis=1)
        cv2.fillPoly(image, [outline.astype(np.int32)], 1)
    return image.astype(bool)


def evidence(rng: np.random.Generator, project: int, task: int) -> TaskEvidence:
    """Give what a version knows of a task beside its masks."""
    probs = rng.beta(0.3, 2, (WINDOWS, len(CLASSES))).round(6)
    area, outline = rng.uniform(200, 9000), rng.uniform(100, 3000)
    stats = {"area_px": area, "outline_px": outline, "components": 2.0,
             "heat_sharpness": rng.random(), "outline_doubt": rng.random()}  # fmt: skip
    passes = rng.integers(0, 256, (PASSES, WINDOWS, len(CLASSES)), dtype=np.uint8)
    return TaskEvidence(
        project,
        task,
        1,
        CLASSES,
        tuple(map(tuple, probs.tolist())),
        tuple(rng.normal(size=DIMS).round(5).tolist()),
        dict.fromkeys(CLASSES, stats),
        PASSES,
        passes.tobytes(),
    )


def fill(services: Services, count: int, regions: int) -> int:
    """Make the project with its tasks on both sides and what a version proposed; returns its id."""
    client = services.labelstudio
    config = label_config(list(CLASSES))
    project = int(client.create_project("reorder", config)["id"])
    client.import_tasks(
        project, [{"data": {"image": f"/data/upload/{project}/{n}.png"}} for n in range(count)]
    )
    projects.adopt(services, project, config, "reorder")
    found = [
        events.task(row.payload, project=project, data_key="image")
        for row in client.inventory(project)
    ]
    rng = np.random.default_rng(0)
    kinds = [rle.to_bytes(rle.encode(mask(rng, is_thin=n % 2 == 0))) for n in range(KINDS)]

    def pick(n: int) -> bytes:
        return kinds[n % 2 + 2 * int(rng.integers(KINDS // 2))]

    with services.store.transaction() as tx:
        tasks.upsert(tx, found)
        for task in found:
            own = [
                ProposedRegion(f"v1-{task.id}-{n + 1}", project, task.id, 1, CLASSES[n % 2],
                               HEIGHT_PX, WIDTH_PX, pick(n), 0.9)
                for n in range(regions)
            ]  # fmt: skip
            tasks.set_size(tx, project, task.id, width_px=WIDTH_PX, height_px=HEIGHT_PX)
            proposals.save(tx, project, task.id, 1, own, evidence(rng, project, task.id))
        number = versions.next_number(tx, project)
        row = Version(project, number, "challenger", "auto", "made up", utc_now(), CLASSES)
        versions.add(tx, row)
        projects.promote(tx, project, number)
    return project


def until(look: Callable[[], Seen | None], what: str) -> Seen:
    """Look again and again, without a pause that would count."""
    began = time.perf_counter()
    while time.perf_counter() - began < WAIT_S:
        if (seen := look()) is not None:
            return seen
        time.sleep(0.05)
    raise SystemExit(f"waited {WAIT_S:g} s for {what}")


class Round:
    """Changes of the strategy of one project, and what Label Studio serves after each."""

    def __init__(self, services: Services, project: int) -> None:
        self.services, self.project = services, project
        settings = services.settings
        user, password = settings.basic_auth_user or "", settings.basic_auth_pass
        secret = password.get_secret_value() if password else ""
        self.api = httpx.Client(base_url=settings.backend_url, auth=(user, secret), timeout=30.0)
        self.done: set[int] = set()

    def shown(self, other_than: str) -> str | None:
        """Return the name that Label Studio shows, None while it is still this one."""
        name = str(self.services.labelstudio.get_project(self.project).get("model_version") or "")
        return name if name and name != other_than else None

    def change(self, strategy: str) -> float:
        """Change the strategy; returns the seconds until the next task is of the new order."""
        before = self.known().published or ""
        began = time.perf_counter()
        path = f"/api/projects/{self.project}"
        self.api.patch(path, json={"strategy": strategy}).raise_for_status()
        name = until(lambda: self.shown(other_than=before), f"the order of {strategy}")
        served = self.services.labelstudio.next_task(self.project)
        seconds = time.perf_counter() - began
        self.judge(strategy, name, served)
        return seconds

    def judge(self, strategy: str, name: str, served: dict[str, object] | None) -> None:
        """Exit unless the served task and all after it are in the new order, with proposals."""
        until(lambda: True if self.known().published == name else None, "the store's note")
        with self.services.store.reading() as tx:
            open_tasks = [task.id for task in tasks.open(tx, self.project)]
        wanted = order.of_open(self.services, self.known(), open_tasks).order
        due = [task for task in wanted if task not in self.done]
        found = self.services.labelstudio.serving_order(self.project, len(due))
        if served is None or [int(task["id"]) for task in found] != due or served["id"] != due[0]:
            first = [(int(task["id"]), task["predictions_score"]) for task in found[:3]]
            served_id = served and served["id"]
            raise SystemExit(
                f"{strategy}: {served_id} is served, {first} are listed, not {due[:3]}"
            )
        client = self.services.labelstudio
        (own,) = [p for p in client.predictions(due[0]) if p["model_version"] == name]
        client.create_annotation(due[0], own["result"])  # gives the task's lock back
        self.done.add(due[0])
        until(lambda: True if set(client.model_versions(self.project)) == {name} else None, "rest")

    def known(self) -> Project:
        """Return the project as the store has it."""
        return projects.require(self.services, self.project)


def parts(services: Services, project: int) -> list[report.Row]:
    """Return the seconds of our own share: ranking, and building what is sent."""
    with services.store.reading() as tx:
        open_tasks = tasks.open(tx, project)
    known = projects.require(services, project)
    began = time.perf_counter()
    ranked = order.of_open(services, known, [task.id for task in open_tasks])
    ranking_s = time.perf_counter() - began
    began = time.perf_counter()
    config = labels.parse(known.label_config)
    for task in open_tasks:
        with services.store.reading() as tx:
            regions = proposals.of_task(tx, project, task.id, 1)
        publish.prediction(config, regions, "v1.99", ranked.priorities[task.id])
    building_s = time.perf_counter() - began
    return [
        report.row("ranking by entropy, in the store's process", ranking_s, "s"),
        report.row("building the predictions", building_s, "s"),
    ]


def measure(options: argparse.Namespace, folder: Path) -> list[report.Row]:
    """Run everything; returns the figures."""
    with label_studio_server.running(folder) as server:
        environ = {
            "DATA_DIR": str(folder / "data"),
            "LABEL_STUDIO_URL": server.url,
            "LABEL_STUDIO_API_KEY": server.token,
        }
        services = build(Settings.from_env(environ))
        project = fill(services, options.tasks, options.regions)
        services.close()
        auth = {"BASIC_AUTH_USER": "bench", "BASIC_AUTH_PASS": "bench"}
        with product.started(server, folder, **auth) as started:
            round_ = Round(started.services, project)
            began = time.perf_counter()
            projects.rerank(started.services, project)
            until(lambda: round_.shown(other_than=""), "the first publication")
            first_s = time.perf_counter() - began
            until(lambda: round_.known().published, "the store's note of it")
            taken = {name: round_.change(name) for name in CHANGES}
            own = parts(started.services, project)
    worst = report.row("changed strategy until the next task, worst", max(taken.values()), "s")
    return [
        report.row("first publication", first_s, "s"),
        *(report.row(f"changed to {name}", s, "s") for name, s in taken.items()),
        report.row("median", statistics.median(taken.values()), "s"),
        report.judged(worst, at_most=TARGET_S),
        *own,
    ]


def favour(niceness: int) -> None:
    """Put this process and all below it at a niceness, now and again: each has its own group."""
    os.nice(niceness)
    Path("/proc/self/autogroup").write_text(str(niceness))
    pause = threading.Event()

    def all_below() -> None:
        while not pause.wait(0.5):
            for pid in below(os.getpid()):
                with contextlib.suppress(OSError):  # it has ended, or was told just now
                    Path(f"/proc/{pid}/autogroup").write_text(str(niceness))

    threading.Thread(target=all_below, daemon=True).start()


def below(parent: int) -> set[int]:
    """Return the processes that a process started, and those that they did."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = entry.read_text().rpartition(")")[2].split()
            parents[int(entry.parent.name)] = int(fields[1])
    found = {parent}
    while more := {pid for pid, above in parents.items() if above in found} - found:
        found |= more
    return found - {parent}


def main() -> None:
    """Print the table; with --json FILE, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--regions", type=int, default=3, help="of each task, 480 x 320 px")
    parser.add_argument("--nice", type=int, default=0, help="of all, where others compute as well")
    options = parser.parse_args()
    if options.nice:
        favour(options.nice)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    report.show(rows)
    if options.json:
        note = f"{options.tasks} tasks, {options.regions} regions each"
        if options.nice:
            note += f", niceness {options.nice}, load {os.getloadavg()[0]:.0f}"
        report.write(options.json, "reorder", rows, note=note)


if __name__ == "__main__":
    main()
