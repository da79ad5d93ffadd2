"""Webhook acknowledgements of a real API process while a training occupies every core.

A Redis, `serve`, `worker events` and `scheduler` run as `labelclimb up` starts them, with a store
in SQLite; beside them one network per core trains without end, at the priority of `worker train`.
Senders post events that Label Studio once sent, each over a new connection as Label Studio does,
some of them twice. Afterwards the store says what arrived and how often each event had an effect.
"""

from __future__ import annotations

import argparse
import copy
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import report

from backend.processes import priority, running
from backend.processes.supervisor import Child, Supervisor, answers, free_port
from backend.queueing.embedded_redis import embedded_server
from backend.settings import Settings
from backend.store import inbox
from backend.web_names import SECRET_HEADER
from backend.wiring import Services, build

PAYLOADS = Path(__file__).resolve().parents[1] / "tests" / "payloads"
RECORDED = (
    "annotation_created_unchanged",
    "annotation_created_painted",
    "annotation_created_region_deleted",
    "annotation_updated",
)
SECRET = "benchmark"  # noqa: S105 - of a server that lives for a minute
PROJECT = 3
TARGET_MS = 50.0
DRAIN_S = 300.0

TRAINING = """
import torch
from backend.processes import priority
priority.give_way(["train"])
torch.set_num_threads(1)
net = torch.nn.Sequential(*[torch.nn.Conv2d(c, 48, 3, padding=1) for c in (3, 48, 48, 48)])
optimiser = torch.optim.AdamW(net.parameters())
while True:
    loss = net(torch.randn(2, 3, 96, 96)).square().mean()
    optimiser.zero_grad(); loss.backward(); optimiser.step()
    print("step", flush=True)
"""


def first(argv: list[str], niceness: int) -> list[str]:
    """Return a command that runs at a niceness, also against other sessions' processes."""
    script = 'echo "$0" > /proc/self/autogroup; exec nice -n "$0" "$@"'
    return ["sh", "-c", script, str(niceness), *argv] if niceness else argv


@dataclass
class Sent:
    """What the senders saw; ids: annotations that were acknowledged at least once."""

    milliseconds: list[float] = field(default_factory=list)
    ids: set[int] = field(default_factory=set)
    refused: int = 0


def event(template: dict[str, Any], number: int) -> bytes:
    """Return a recorded event as that of another annotation, on a task of its own."""
    body = copy.deepcopy(template)
    body["annotation"] |= {"id": number, "task": number, "unique_id": str(number)}
    body["task"]["id"] = number
    return json.dumps(body).encode()


def bodies(count: int, repeated: float, seed: int) -> list[tuple[int, bytes]]:
    """Return (annotation, event) in random order, a share of them twice."""
    rng = random.Random(seed)  # noqa: S311 - an order, not a secret
    kinds = [json.loads((PAYLOADS / f"{name}.json").read_text()) for name in RECORDED]
    for body in kinds:
        body["project"]["id"] = body["annotation"]["project"] = PROJECT
    numbers = [10_000 + n for n in range(count)]
    numbers += rng.sample(numbers, round(repeated * count))
    rng.shuffle(numbers)
    return [(number, event(kinds[number % len(kinds)], number)) for number in numbers]


def post(port: int, body: bytes) -> int:
    """Post over a new connection; returns the status, 0 when there was no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {SECRET_HEADER: SECRET, "Content-Type": "application/json"}
    try:
        connection.request("POST", "/webhook", body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except OSError:
        return 0
    finally:
        connection.close()


def send(port: int, events: list[tuple[int, bytes]], senders: int, rate: float | None) -> Sent:
    """Post from several threads, `rate` events per second together, None: as fast as can be."""
    sent, lock, began = Sent(), threading.Lock(), time.perf_counter()

    def share(first: int) -> None:
        for place in range(first, len(events), senders):
            number, body = events[place]
            if rate is not None:
                time.sleep(max(0.0, began + place / rate - time.perf_counter()))
            posted = time.perf_counter()
            status = post(port, body)
            taken = 1000 * (time.perf_counter() - posted)
            with lock:
                sent.milliseconds.append(taken)
                if status == http.HTTPStatus.CREATED:
                    sent.ids.add(number)
                else:
                    sent.refused += 1

    with ThreadPoolExecutor(senders) as pool:
        list(pool.map(share, range(senders)))
    return sent


@contextmanager
def labelclimb(folder: Path, niceness: int) -> Iterator[tuple[Services, int]]:
    """Run the parts that take events in; yields a view of the store and the API's port."""
    port = free_port(0)
    environ = {
        **{key: os.environ[key] for key in ("PATH", "HOME", "PYTHONPATH") if key in os.environ},
        "DATA_DIR": str(folder / "data"),
        "PORT": str(port),
        "LABEL_STUDIO_URL": f"http://127.0.0.1:{free_port(0)}",
        "WEBHOOK_SECRET": SECRET,
        "TRAIN_AFTER": "1000000",
        "OMP_NUM_THREADS": "1",
    }
    settings = Settings.from_env(environ)
    command, environ["REDIS_URL"] = embedded_server(settings.data_dir)
    services = build(Settings.from_env(environ))
    ready = {"api": answers(f"http://127.0.0.1:{port}/health")}
    with Supervisor(folder / "logs") as supervisor:
        supervisor.start(Child("redis", first(command, niceness), environ))
        for name in ("api", "events", "scheduler"):
            argv = first([*running.labelclimb(), *running.PARTS[name]], niceness)
            supervisor.start(Child(name, argv, environ, ready.get(name, lambda: True)))
        yield services, port
    services.close()


@contextmanager
def training(log: Path, niceness: int) -> Iterator[None]:
    """Train a network without end in another process; returns once it has made a step."""
    with log.open("wb") as output:
        command = first([sys.executable, "-c", TRAINING], niceness)
        process = subprocess.Popen(command, stdout=output, start_new_session=True)
        try:
            while not log.stat().st_size:
                assert process.poll() is None, f"the training ended with {process.returncode}"
                time.sleep(0.1)
            yield
            assert process.poll() is None, f"the training ended with {process.returncode}"
        finally:
            process.kill()
            process.wait()


def count_effects(services: Services) -> None:
    """Have SQLite note every annotation that is ever written, also the replaced ones."""
    with services.store.transaction() as tx:
        tx.exec_driver_sql("CREATE TABLE applied (annotation INTEGER)")
        note = "ON annotations BEGIN INSERT INTO applied VALUES (NEW.id); END"
        tx.exec_driver_sql(f"CREATE TRIGGER written AFTER INSERT {note}")
        tx.exec_driver_sql(f"CREATE TRIGGER rewritten AFTER UPDATE {note}")


def drain(services: Services) -> float:
    """Wait until no event waits; returns the seconds."""
    began = time.perf_counter()
    while True:
        with services.store.reading() as tx:
            if not inbox.pending_ids(tx, limit=1):
                return time.perf_counter() - began
        assert time.perf_counter() - began < DRAIN_S, "events are still not handled"
        time.sleep(0.2)


def audit(services: Services, sent: Sent) -> tuple[int, int]:
    """Return (acknowledged events without effect, effects beyond the first one of each)."""
    with services.store.reading() as tx:
        rows = tx.exec_driver_sql("SELECT annotation, count(*) FROM applied GROUP BY annotation")
        effects = {row[0]: row[1] for row in rows}
    again = sum(count - 1 for number, count in effects.items() if number in sent.ids)
    return len(sent.ids - effects.keys()), again


def percentiles(milliseconds: list[float]) -> tuple[float, float]:
    """Return the 50th and the 99th."""
    hundredths = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return hundredths[49], hundredths[98]


def disk(folder: Path, count: int = 200) -> list[float]:
    """Return the milliseconds of flushing 4 KiB to the disk: each acknowledgement waits for one."""
    taken = []
    with (folder / "flushed").open("wb") as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            taken.append(1000 * (time.perf_counter() - began))
    return taken


def measure(options: argparse.Namespace, folder: Path) -> list[report.Row]:
    """Post the events beside a training, wait until they are handled, and audit the store."""
    with ExitStack() as stack:
        services, port = stack.enter_context(labelclimb(folder, options.nice))
        count_effects(services)
        send(port, bodies(20, 0.0, seed=1), senders=2, rate=10)  # each code path once
        for number in range(options.trainings):
            stack.enter_context(training(folder / f"training-{number}.log", options.nice))
        events = bodies(options.events, options.repeated, options.seed)
        sent = send(port, events, options.senders, options.rate)
        flushed = percentiles(disk(folder))
        drained_s = drain(services)
        lost, again = audit(services, sent)
    p50, p99 = percentiles(sent.milliseconds)
    target_ms = None if options.rate is None else TARGET_MS
    rows = [
        report.row("acknowledgement p50", p50, "ms"),
        report.judged(report.row("acknowledgement p99", p99, "ms"), at_most=target_ms),
        report.row("acknowledgement worst", max(sent.milliseconds), "ms"),
        report.row("the disk alone, p50", flushed[0], "ms"),
        report.row("the disk alone, p99", flushed[1], "ms"),
        report.row("events posted", len(sent.milliseconds), "events"),
        report.judged(report.row("events not acknowledged", sent.refused, "events"), at_most=0),
        report.judged(report.row("events lost", lost, "events"), at_most=0),
        report.judged(report.row("duplicates applied", again, "events"), at_most=0),
        report.row("until all were handled", drained_s, "s"),
    ]
    name = "burst" if options.rate is None else f"{options.rate:g} events/s"
    return [{**row, "name": f"{name}, {options.senders} senders: {row['name']}"} for row in rows]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--repeated", type=float, default=0.05, help="share that is sent twice")
    parser.add_argument("--senders", type=int, default=16)
    parser.add_argument("--rate", type=float, default=30.0, help="events per second")
    parser.add_argument("--trainings", type=int, default=os.cpu_count(), help="at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nice", type=int, default=0, help="of all, where others compute as well")
    parser.add_argument("--no-burst", action="store_true", help="leave out the run without pauses")
    return parser.parse_args(arguments)


def main() -> None:
    """Print the table; with --json FILE, write the report."""
    options = parse()
    if options.nice:
        os.nice(options.nice)
        priority.AUTOGROUP.write_text(str(options.nice))
    rows = []
    for rate in (options.rate,) if options.no_burst else (options.rate, None):
        with tempfile.TemporaryDirectory() as folder:
            run = argparse.Namespace(**{**vars(options), "rate": rate})
            rows += measure(run, Path(folder))
    report.show(rows)
    if options.json:
        note = f"niceness {options.nice}, load {os.getloadavg()[0]:.0f}" if options.nice else ""
        report.write(options.json, "intake", rows, note=note)


if __name__ == "__main__":
    main()
