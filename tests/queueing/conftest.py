"""A Redis of its own for each test, and workers that end with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend.queueing.queues import Queues
from tests.queueing.making import WORKER, Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()
    Path(server.url.removeprefix("unix://")).parent.rmdir()


@pytest.fixture
def queues(server: Server) -> Queues:
    return Queues(server.url)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def start_worker(server: Server, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*names: str, fork: bool = False) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, server.url, "fork" if fork else "stay", *names]
        environ = {**os.environ, "QUEUE_TEST_FAILURES": str(tmp_path / "failures")}
        worker = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()
        worker.communicate()
