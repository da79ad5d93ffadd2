"""The whole product beside a real Label Studio: real processes, real Redis, real SQLite."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from backend.processes import running
from backend.processes.supervisor import Supervisor, free_port
from backend.settings import Settings
from backend.wiring import Services, build
from tests.e2e.label_studio_server import LabelStudioServer

Seen = TypeVar("Seen")
SETTINGS = {"TRAIN_AFTER": "10", "QUIET_S": "3", "PREDICT_DEADLINE_S": "60", "PROFILE": "cpu"}


@dataclass(frozen=True)
class Product:
    """A running labelclimb: `services` are the test's own view of its store and Label Studio."""

    services: Services
    supervisor: Supervisor
    environ: dict[str, str]
    logs: Path

    def log_of(self, part: str) -> str:
        """Return what one of the processes has logged."""
        return (self.logs / f"{part}.log").read_text()


@contextmanager
def started(server: LabelStudioServer, folder: Path, **changes: str) -> Iterator[Product]:
    """Run labelclimb against a Label Studio until the block ends."""
    port = free_port(0)
    environ = {
        **{key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ},
        **SETTINGS,
        "DATA_DIR": str(folder / "data"),
        "PORT": str(port),
        "BACKEND_URL": f"http://127.0.0.1:{port}",
        "LABEL_STUDIO_URL": server.url,
        "LABEL_STUDIO_API_KEY": server.token,
        **changes,
    }
    settings = Settings.from_env(environ)
    logs = folder / "logs"
    with Supervisor(logs) as supervisor:
        environ = running.start_all(supervisor, settings, environ)
        services = build(Settings.from_env(environ))
        try:
            yield Product(services, supervisor, environ, logs)
        finally:
            services.close()


def eventually(look: Callable[[], Seen | None], what: str, timeout_s: float = 120.0) -> Seen:
    """Look until something is seen; AssertionError after the time is up."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (seen := look()) is not None:
            return seen
        pause.wait(0.2)
    raise AssertionError(f"waited {timeout_s:.0f} s for {what}")


def predictions_of(services: Services, task: int) -> list[dict[str, Any]]:
    """Return what Label Studio holds for a task."""
    path = "/api/predictions/"
    found: list[dict[str, Any]] = services.labelstudio.session.call(
        "GET", path, params={"task": task}
    )
    return found
