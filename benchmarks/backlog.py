"""A backlog of open tasks predicted by one `publish` worker and by several: tasks per second.

A small version is trained on generated surfaces and made the champion of a project whose tasks are
all open. Then so many workers as users start, each with one thread, take the blocks from the queue
until every task has its proposals. The numbers of workers take turns in each round. Label Studio is
played: it gives the images. Workers are started and warm before the clock runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import report
import timing
from soak import FIRST_OPEN, IMAGES, PROJECT, Gallery, prepare

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the tests play a Label Studio

import models.base  # noqa: E402
from backend.demo import dataset  # noqa: E402
from backend.demo.project import label_config  # noqa: E402
from backend.evaluation import clicks  # noqa: E402
from backend.labelstudio.images.decoding import decode  # noqa: E402
from backend.processes import running  # noqa: E402
from backend.processes.running import labelclimb  # noqa: E402
from backend.processes.supervisor import Child, Supervisor, free_port  # noqa: E402
from backend.queueing.embedded_redis import embedded_server  # noqa: E402
from backend.records import Version  # noqa: E402
from backend.settings import Settings  # noqa: E402
from backend.steps import projects, queues  # noqa: E402
from backend.store import proposals, versions  # noqa: E402
from backend.wiring import Services, build, utc_now  # noqa: E402
from models.base import ClassSpec, Fitted, Sample  # noqa: E402
from models.learning.training import PROFILES  # noqa: E402
from tests.integration.test_faults import Served  # noqa: E402

PIPELINE = "advcam"  # needs no pretrained weights
STEPS = 20  # of the training: what a prediction costs does not depend on them
CLICKS, PATCH_PX = 2, 64
MAX_PIXELS = 1_000_000
WAIT_S = 1800.0


def version(images: Sequence[dataset.DemoImage], seed: int) -> Fitted:
    """Train a version of all classes, briefly."""
    rng = np.random.default_rng(seed)
    return models.base.get(PIPELINE).fit(
        [_sample(image, rng) for image in images],
        specs=[ClassSpec(name) for name in dataset.CLASSES],
        profile=replace(PROFILES["cpu"], max_steps=STEPS),
        seed=seed,
        device="cpu",
        report=lambda _: None,
    )


def _sample(image: dataset.DemoImage, rng: np.random.Generator) -> Sample:
    points = (
        point
        for name, truth in image.truth().items()
        for point in clicks.clicks(truth, name, CLICKS, PATCH_PX, rng)
    )
    data = image.path.read_bytes()
    return Sample(image.path.stem, lambda: decode(data, max_pixels=MAX_PIXELS), tuple(points))


def crown(services: Services, fitted: Fitted) -> int:
    """Make the version the project's champion; returns its number."""
    with services.store.transaction() as tx:
        number = versions.next_number(tx, PROJECT)
    services.registry.save(PROJECT, number, fitted.save, {"device": "cpu"})
    row = Version(PROJECT, number, "challenger", PIPELINE, "brief", utc_now(), fitted.classes)
    with services.store.transaction() as tx:
        versions.add(tx, row)
        projects.promote(tx, PROJECT, number)
    return number


def wait(fact: Callable[[], bool], what: str) -> None:
    """Look until it is true, with a pause that does not count beside what is measured."""
    began = time.perf_counter()
    while not fact():
        if time.perf_counter() - began > WAIT_S:
            raise SystemExit(f"waited {WAIT_S:g} s for {what}")
        time.sleep(0.02)


def backlog_s(workers: int, count: int, fitted: Fitted, images: Sequence[bytes]) -> float:
    """Start everything anew; returns the seconds until all tasks have their proposals."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        open_tasks = range(FIRST_OPEN, FIRST_OPEN + count)
        served = Served(Gallery(open_tasks, images), free_port(0))
        command, redis_url = embedded_server(folder)
        environ = {
            **{key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ},
            "DATA_DIR": name,
            "REDIS_URL": redis_url,
            "LABEL_STUDIO_URL": f"http://127.0.0.1:{served.server.server_port}",
            "LABEL_STUDIO_API_KEY": "0" * 40,
            "OMP_NUM_THREADS": "1",
        }
        worker = [*labelclimb(), *running.PARTS["publish"]]
        with served.running(), Supervisor(folder / "logs") as supervisor:
            services = build(Settings.from_env(environ))
            supervisor.start(Child("redis", command, environ, running.redis_answers(redis_url)))
            prepare(services, label_config(dataset.CLASSES), open_tasks)
            number = crown(services, fitted)
            supervisor.start(*(Child(f"publish-{n}", worker, environ) for n in range(workers)))
            wait(lambda: services.queues.workers().get(queues.PUBLISH, 0) == workers, "workers")
            began = time.perf_counter()
            queues.publish(services, PROJECT)
            wait(lambda: done(services, number) == count, "the proposals")
            seconds = time.perf_counter() - began
            services.close()
    return seconds


def done(services: Services, number: int) -> int:
    """Count the tasks that have proposals of the version."""
    with services.store.reading() as tx:
        return len(proposals.tasks_done(tx, PROJECT, number))


def measure(options: argparse.Namespace, folder: Path) -> list[report.Row]:
    """Let each number of workers predict the backlog, in turn."""
    made = dataset.generated(folder / "surfaces", IMAGES, options.seed)
    fitted = version(made, options.seed)
    images = [image.path.read_bytes() for image in made]
    taken: dict[int, list[float]] = {number: [] for number in options.workers}
    for _ in range(options.rounds):
        for number, seconds in taken.items():
            seconds.append(backlog_s(number, options.tasks, fitted, images))
    first, *others = sorted(taken)
    rows = [
        report.row(f"{n} worker{'s' * (n > 1)}", options.tasks / statistics.median(own), "tasks/s")
        for n, own in sorted(taken.items())
    ]
    for n in others:
        rows += timing.ratio_rows(f"{n} workers against {first}", taken[first], taken[n])
    return rows


def main() -> None:
    """Print the table; with --json FILE, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--tasks", type=int, default=96)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    report.show(rows)
    if options.json:
        note = f"{options.tasks} generated surfaces, 3 classes, one thread per worker"
        report.write(options.json, "backlog", rows, note=note)


if __name__ == "__main__":
    main()
