"""Running processes: the API, workers, the scheduler, and all of them under one supervisor."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog
import uvicorn

from backend import credentials, jobs
from backend.errors import QueueError, SettingsError
from backend.processes import priority
from backend.processes.health import local_url
from backend.processes.supervisor import Child, Supervisor, answers
from backend.queueing.embedded_redis import embedded_server
from backend.queueing.queues import Queues
from backend.settings import Settings
from backend.steps import tick
from backend.steps.proposing import seeing
from backend.steps.queues import EVENTS, PUBLISH, TRAIN
from backend.web.app import create_app
from backend.wiring import build

TICK_S = 2.0

log = structlog.get_logger(__name__)


def configure_logging(level: str) -> None:
    """Log one line per event to standard error, with time and request id."""
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for chatty in ("httpx", "alembic"):
        logging.getLogger(chatty).setLevel("WARNING")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(
                key_order=["timestamp", "level", "event"], drop_missing=True
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def serve(settings: Settings) -> None:
    """Run the API; refuses a public address without chosen credentials."""
    credentials.require_for_network(settings)
    configure_logging(settings.log_level)
    services = build(settings)
    services.store.leave_checkpoints_to_others()  # an acknowledgement must not wait for one
    app = create_app(services)
    uvicorn.run(
        app, host=settings.host, port=settings.port, log_level="warning", server_header=False
    )


def worker(settings: Settings, queues: Sequence[str], *, burst: bool = False) -> None:
    """Run an RQ worker; trainings get a fresh process each, other jobs keep models resident."""
    configure_logging(settings.log_level)
    patient_threads()
    priority.give_way(queues)
    fresh_process = TRAIN in queues
    if PUBLISH in queues:
        seeing.warm_up(jobs.services())  # the first click must not wait for it
    build(settings).queues.run_worker(queues, burst=burst, fork=fresh_process)


def scheduler(settings: Settings) -> None:
    """Tick until told to stop; a failing tick is logged and the next one comes."""
    configure_logging(settings.log_level)
    services = build(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    reconciled = -settings.reconcile_every_s
    while not stop.is_set():
        try:
            tick.tick(services)  # first what is kept already, then what never arrived
            if time.monotonic() - reconciled >= settings.reconcile_every_s:
                is_first, reconciled = reconciled < 0, time.monotonic()
                tick.reconcile_all(services, full=is_first)
            tick.reconcile_wanted(services)
            services.queues.beat("scheduler")
        except Exception:
            log.exception("tick failed; the next one comes")
        stop.wait(TICK_S)


def up(settings: Settings) -> None:
    """Run everything under one supervisor until Ctrl-C or until one part dies."""
    configure_logging(settings.log_level)
    with suppress(KeyboardInterrupt), Supervisor(settings.data_dir / "logs") as supervisor:
        start_all(supervisor, settings, dict(os.environ))
        log.info("ready", address=settings.backend_url, data=str(settings.data_dir.resolve()))
        supervisor.wait()


def start_all(
    supervisor: Supervisor, settings: Settings, environ: dict[str, str]
) -> dict[str, str]:
    """Start Redis (unless one is named), API, workers and scheduler; returns their environment."""
    environ = dict(environ)
    if settings.own_redis:
        command, environ["REDIS_URL"] = embedded_server(settings.data_dir)
        refuse_second(settings.data_dir)
        supervisor.start(Child("redis", command, environ, redis_answers(environ["REDIS_URL"])))
    ready = {"api": answers(f"{local_url(settings)}/health")}
    children = [
        Child(name, [*labelclimb(), *arguments], environ, ready.get(name, lambda: True))
        for name, arguments in PARTS.items()
    ]
    supervisor.start(*children)
    return environ


def refuse_second(data: Path) -> None:
    """Raise SettingsError when another labelclimb with an embedded Redis uses this data folder."""
    _, url = embedded_server(data)
    if redis_answers(url)():
        raise SettingsError(f"another labelclimb already runs on {data}; stop it, or set DATA_DIR")


def patient_threads() -> None:
    """Let threads of OpenMP sleep, not spin, while they wait; of use before PyTorch is loaded.

    Each process may then use all cores: beside another that does, spinning threads keep from the
    core what they wait for, and both get slower by an order of magnitude.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def redis_answers(url: str) -> Callable[[], bool]:
    """Return a check whether the Redis at an address answers."""

    def check() -> bool:
        try:
            Queues(url).ping()
        except QueueError:
            return False
        return True

    return check


PARTS = {
    "api": ["serve"],
    "events": ["worker", EVENTS],
    "publish": ["worker", PUBLISH],
    "train": ["worker", TRAIN],
    "scheduler": ["scheduler"],
}


def labelclimb() -> list[str]:
    """Return the command that runs ourselves with this interpreter."""
    return [sys.executable, "-m", "backend.cli"]
