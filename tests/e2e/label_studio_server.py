"""A real Label Studio for tests: starts in seconds from a migrated template, stops for certain."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from backend.demo.label_studio import INHERITED, command
from backend.processes.supervisor import free_port

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-label-studio"
CACHE = ROOT / ".cache"
EMAIL = "annotator@example.com"
PASSWORD = "labelclimb-e2e"
TOKEN = "e2e0" * 10
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20.0


class StartFailed(RuntimeError):
    """Label Studio ended or did not answer in time; the text holds the end of its log."""


@dataclass(frozen=True)
class LabelStudioServer:
    """A running Label Studio with one user, whose legacy token works.

    data_folder: its SQLite file and uploads; log_file: all that it printed.
    """

    url: str
    email: str
    password: str
    token: str
    data_folder: Path
    log_file: Path
    process: subprocess.Popen[bytes]

    def client(self) -> httpx.Client:
        """Return an HTTP client with the server's address and token; the caller closes it."""
        headers = {"Authorization": f"Token {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60.0, trust_env=False)

    def log_tail(self, lines: int = 30) -> str:
        """Return the last lines that the server printed."""
        return tail(self.log_file, lines)


def missing() -> str | None:
    """Return why Label Studio cannot be started here, or None when it can."""
    executable = VENV / "bin" / "label-studio"
    return None if executable.exists() else f"no {executable}; `make demo` makes it"


@contextmanager
def running(folder: Path) -> Iterator[LabelStudioServer]:
    """Start Label Studio on a free port with a fresh copy of the template in `folder`; stop it.

    Raises StartFailed. The first call on a machine makes the template, which takes a minute.
    """
    data_folder = folder / "label-studio"
    shutil.copytree(template(CACHE), data_folder)
    with started(data_folder, folder / "label-studio.log") as server:
        yield server


def template(cache: Path) -> Path:
    """Return a data folder with all migrations and the user; makes it once per version.

    A template appears under its name only when it is whole, so a killed start leaves no half one.
    """
    finished = cache / f"label-studio-{_template_key()}"
    if finished.exists():
        return finished
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-label-studio-", dir=cache) as name:
        data_folder = Path(name) / "data"
        with started(data_folder, Path(name) / "log"):
            pass
        _publish(data_folder, finished)
    return finished


@contextmanager
def started(data_folder: Path, log_file: Path, **changes: str) -> Iterator[LabelStudioServer]:
    """Run Label Studio on a data folder until the block ends; raises StartFailed with its log.

    changes: of its environment.
    """
    port = free_port(0)
    data_folder.mkdir(parents=True, exist_ok=True)
    with log_file.open("wb") as log:
        argv, environment = command(VENV, data_folder, port, EMAIL, PASSWORD, TOKEN)
        process = subprocess.Popen(
            argv,
            env={**environment, **changes},
            cwd=data_folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = LabelStudioServer(
        f"http://127.0.0.1:{port}", EMAIL, PASSWORD, TOKEN, data_folder, log_file, process
    )
    try:
        _wait_until_ready(server, START_TIMEOUT_S)
        yield server
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server's whole process group: politely, then for certain."""
    with suppress(ProcessLookupError):  # the group is gone already
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_TIMEOUT_S)


def tail(file: Path, lines: int) -> str:
    """Return the last lines of a text file; Label Studio prints each twice, here it stands once."""
    unique = [line for line, _ in itertools.groupby(file.read_text(errors="replace").splitlines())]
    return "\n".join(unique[-lines:])


def checked(answer: httpx.Response) -> Any:
    """Return an answer's JSON; AssertionError with Label Studio's own words when it is an error."""
    if answer.is_error:
        raise AssertionError(f"{answer.request.method} {answer.url}: {answer.text[:500]}")
    return answer.json()


def create_project(client: httpx.Client, title: str, label_config: str) -> int:
    """Create a project and return its id; Label Studio wants a title of 3 letters or more."""
    body = {"title": title, "label_config": label_config}
    return int(checked(client.post("/api/projects/", json=body))["id"])


def upload_image(
    client: httpx.Client, project: int, name: str, image: npt.NDArray[np.uint8]
) -> int:
    """Upload an (H, W, 3) RGB image as PNG `name` and return the id of its task."""
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, "PNG")
    answer = client.post(
        f"/api/projects/{project}/import",
        params={"return_task_ids": "true"},
        files={"file": (name, buffer.getvalue(), "image/png")},
    )
    return int(checked(answer)["task_ids"][0])


def publish_predictions(
    client: httpx.Client, project: int, predictions: Sequence[Mapping[str, Any]], version: str
) -> None:
    """Push predictions ({"task", "result", "score"}) and make `version` the one that is shown."""
    body = [{**prediction, "model_version": version} for prediction in predictions]
    created = checked(client.post(f"/api/projects/{project}/import/predictions", json=body))
    if created["created"] != len(body):
        raise AssertionError(f"{created['created']} of {len(body)} predictions were accepted")
    checked(client.patch(f"/api/projects/{project}/", json={"model_version": version}))


def annotations_of(client: httpx.Client, task: int) -> list[dict[str, Any]]:
    """Return a task's annotations as stored; skipped ones are not among them."""
    answer: list[dict[str, Any]] = checked(client.get(f"/api/tasks/{task}/annotations/"))
    return answer


def _wait_until_ready(server: LabelStudioServer, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    with server.client() as client:
        while not _ready(client):
            if server.process.poll() is not None:
                raise StartFailed(f"Label Studio ended while starting:\n{server.log_tail()}")
            if time.monotonic() > deadline:
                raise StartFailed(f"Label Studio silent for {timeout_s} s:\n{server.log_tail()}")
            pause.wait(0.2)


def _ready(client: httpx.Client) -> bool:
    try:
        healthy = client.get("/health").is_success
        return healthy and client.get("/api/projects/").is_success
    except httpx.TransportError:
        return False


def _template_key() -> str:
    code = "from importlib.metadata import version; print(version('label-studio'))"
    python = [str(VENV / "bin" / "python"), "-c", code]
    version = subprocess.run(python, check=True, capture_output=True, text=True).stdout.strip()
    started_as = command(VENV, Path("/data"), 0, EMAIL, PASSWORD, TOKEN)[1]
    own = {key: value for key, value in started_as.items() if key not in INHERITED}
    return f"{version}-{hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]}"


def _publish(data_folder: Path, finished: Path) -> None:
    try:
        data_folder.rename(finished)
    except OSError:
        if not finished.exists():  # otherwise a parallel session was faster: take that one
            raise
