"""A small labelclimb beside a real Label Studio: our API in this process, Redis, one project."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image as Pillow

from backend.doctor import chain
from backend.doctor.case import Finding
from backend.processes.running import redis_answers
from backend.processes.supervisor import answers, free_port
from backend.queueing.embedded_redis import embedded_server
from backend.records import Version
from backend.settings import Settings
from backend.steps import connect, projects
from backend.steps.listening import intake
from backend.steps.proposing import backlog, propose, publish
from backend.store import inbox, versions
from backend.web.app import create_app
from backend.web_names import SECRET_HEADER
from backend.wiring import Services, build
from tests.e2e.label_studio_server import LabelStudioServer
from tests.steps.conftest import CONFIG, PlayedResidents

TASKS = 4


@dataclass(frozen=True)
class Site:
    """Our API in this process, its Redis, and a project in Label Studio that others may break."""

    services: Services
    environ: dict[str, str]
    project: int
    tasks: list[int]

    @property
    def client(self) -> Any:
        return self.services.labelstudio

    @property
    def url(self) -> str:
        return self.services.settings.backend_url

    def connect(self, **options: Any) -> connect.Connected:
        done = connect.connect(self.services, self.project, self.url, **options)
        self.handle_all()
        return done

    def handle_all(self) -> None:
        """Be the events worker."""
        with self.services.store.reading() as tx:
            waiting = inbox.pending_ids(tx)
        for event in waiting:
            intake.handle(self.services, event)

    def findings(self, task: int | None = None, **changes: str) -> dict[str, Finding]:
        self.handle_all()
        found = chain.examine({**self.environ, **changes}, self.project, task)
        return {finding.check: finding for finding in found}

    def faults(self, **changes: str) -> set[str]:
        return {
            f.check for f in self.findings(**changes).values() if f.state in ("warning", "error")
        }

    def fix(self) -> list[str]:
        self.handle_all()
        found = chain.examine(self.environ, self.project)
        return chain.fix(self.environ, found, self.project)


@contextmanager
def served(services: Services) -> Iterator[None]:
    """Run our API in a thread."""
    config = uvicorn.Config(create_app(services), port=services.settings.port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        alive = answers(f"{services.settings.backend_url}/health")
        while not alive():
            assert thread.is_alive(), "our API did not start"
        yield
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    command, url = embedded_server(folder)
    process = subprocess.Popen(command)
    try:
        alive = redis_answers(url)
        while not alive():
            assert process.poll() is None, "Redis did not start"
        yield url
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(Path(url.removeprefix("unix://")).parent)


@contextmanager
def site_at(
    server: LabelStudioServer,
    folder: Path,
    *,
    label_config: str = CONFIG,
    residents: Any = None,
    images: Sequence[Path] = (),
) -> Iterator[Site]:
    """Run our API, Redis, and make a project; by default its versions propose squares."""
    port = free_port(0)
    with redis_server(folder / "data") as redis_url:
        environ = {
            "DATA_DIR": str(folder / "data"),
            "PORT": str(port),
            "LABEL_STUDIO_URL": server.url,
            "LABEL_STUDIO_API_KEY": server.token,
            "REDIS_URL": redis_url,
        }
        real = build(Settings.from_env(environ))
        played: dict[str, Any] = {"residents": residents or PlayedResidents()}
        services = replace(real, **played)
        with served(services):
            made = services.labelstudio.create_project("doctor", label_config)["id"]
            ids = services.labelstudio.upload_images(made, images or pictures(folder, TASKS))
            yield Site(services, environ, int(made), ids)
            services.labelstudio.delete_project(int(made))
        real.close()


def pictures(folder: Path, count: int) -> list[Path]:
    files = [folder / f"{n}.png" for n in range(count)]
    for n, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(np.full((16, 24, 3), n + 3, np.uint8)).save(file)
    return files


def train(site: Site, number: int) -> None:
    """Make a champion that proposes squares, and publish."""
    with site.services.store.transaction() as tx:
        assert versions.next_number(tx, site.project) == number
        now = datetime.now(timezone.utc)
        version = Version(site.project, number, "challenger", "advcam", f"s{number}", now)
        versions.add(tx, version)
        projects.promote(tx, site.project, number)
    publish_all(site)


def publish_all(site: Site) -> None:
    """Predict what is missing here, as no worker runs, and show it."""
    project, lacking = backlog.missing(site.services, site.project)
    if project is not None and project.champion is not None:
        propose.propose(site.services, project, project.champion, lacking)
    publish.publish(site.services, site.project)


def state_of(site: Site) -> dict[str, Any]:
    """Return what connecting cares for in Label Studio."""
    payload = site.client.get_project(site.project)
    return {
        "backends": [
            (b["url"], b["title"], b["is_interactive"], b["auth_method"], b["state"])
            for b in site.client.list_backends(site.project)
        ],
        "webhooks": [
            (w["url"], w["headers"].get(SECRET_HEADER), w["is_active"], w["send_payload"],
             w["send_for_all_actions"])
            for w in site.client.list_webhooks(site.project)
        ],
        "sampling": payload["sampling"],
        "model_version": payload["model_version"] or "",
    }  # fmt: skip


def whole(site: Site, shown: str) -> dict[str, Any]:
    return {
        "backends": [(site.url, "labelclimb", True, "BASIC_AUTH", "CO")],
        "webhooks": [
            (f"{site.url}/webhook", site.services.credentials.webhook_secret, True, True, True)
        ],
        "sampling": "Uncertainty sampling",
        "model_version": shown,
    }
