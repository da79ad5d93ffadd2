"""The parts of `labelclimb up`, each a process of its own that a test may kill and start again."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from backend.processes.running import PARTS, labelclimb
from backend.processes.supervisor import answers, free_port
from backend.queueing.embedded_redis import embedded_server
from backend.settings import Settings
from backend.web_names import SECRET_HEADER
from backend.wiring import Services, build

SECRET = "only the webhook knows"
PATIENCE_S = 120.0  # a job that dies between queue and worker counts as lost after 60 s
ALL = ("redis", "api", "events", "scheduler")


def environment(folder: Path) -> dict[str, str]:
    """Return the settings of a labelclimb that keeps all in `folder`; no Label Studio answers."""
    return {
        **{key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ},
        "DATA_DIR": str(folder / "data"),
        "PORT": str(free_port(0)),
        "LABEL_STUDIO_URL": f"http://127.0.0.1:{free_port(0)}",
        "WEBHOOK_SECRET": SECRET,
        "TRAIN_AFTER": "1000000",
        "OMP_NUM_THREADS": "1",
    }


def eventually(fact: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Look until it is true; AssertionError after the time is up."""
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        threading.Event().wait(0.05)


class Parts:
    """Redis, API, workers and scheduler; `services` are the test's own view of the store.

    changes: of their settings. launch: starts one from its arguments, environment and log file.
    """

    def __init__(
        self,
        folder: Path,
        changes: Mapping[str, str] | None = None,
        launch: Callable[[Sequence[str], Mapping[str, str], Path], Any] | None = None,
    ) -> None:
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        self.environ = {**environment(folder), **(changes or {})}
        self._launch = launch or _launched
        data = Path(self.environ["DATA_DIR"])
        self.redis_command, self.environ["REDIS_URL"] = embedded_server(data)
        self.url = f"http://127.0.0.1:{self.environ['PORT']}"
        self.services: Services = build(Settings.from_env(self.environ))
        self._processes: dict[str, Any] = {}

    def start(self, *names: str) -> None:
        """Start parts that do not run; returns when Redis and the API answer."""
        for name in names:
            if name not in self._processes:
                log = self.logs / f"{name}.log"
                if name == "redis":
                    self._processes[name] = _run(self.redis_command, self.environ, log)
                else:
                    self._processes[name] = self._launch(PARTS[name], self.environ, log)
        if "api" in names:
            eventually(answers(f"{self.url}/health"), "the API")

    def pid(self, name: str) -> int:
        """Return a part's process id."""
        return self._processes[name].pid

    def kill(self, name: str) -> None:
        """End a part as the kernel does when memory is short."""
        process = self._processes.pop(name)
        process.kill()
        assert process.wait() == -signal.SIGKILL, f"{name} had died before; see {self.logs}"

    @contextmanager
    def hanging(self, name: str) -> Iterator[None]:
        """Have a part accept calls without answering while the block runs."""
        self._processes[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._processes[name].send_signal(signal.SIGCONT)

    def assert_alive(self) -> None:
        """Every part must still be the process that was started."""
        dead = {name: p.returncode for name, p in self._processes.items() if p.poll() is not None}
        assert not dead, f"died by themselves: {dead}; see {self.logs}"

    def stop(self) -> None:
        """Kill what runs and remove the socket's folder."""
        for name in list(self._processes):
            self.kill(name)
        self.services.labelstudio.close()
        self.services.store.close()
        shutil.rmtree(Path(self.environ["REDIS_URL"].removeprefix("unix://")).parent)

    def client(self, secret: str = SECRET) -> httpx.Client:
        """Return a client that calls as Label Studio's webhooks do."""
        headers = {SECRET_HEADER: secret}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30.0, trust_env=False)


def _run(command: Sequence[str], environ: Mapping[str, str], log: Path) -> Any:
    with log.open("ab") as file:
        return subprocess.Popen(command, env=environ, stdout=file, stderr=subprocess.STDOUT)


def _launched(arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> Any:
    return _run([*labelclimb(), *arguments], environ, log)


@contextmanager
def running(folder: Path) -> Iterator[Parts]:
    """Give all parts, running, until the block ends."""
    parts = Parts(folder)
    try:
        parts.start(*ALL)
        yield parts
    finally:
        parts.stop()


def descendants(pid: int) -> dict[int, str]:
    """Return {process id: command line} of all that a process has started, directly or not."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:  # gone meanwhile
            continue
        child = int(folder.name)
        parents[child] = int(stat.rpartition(")")[2].split()[1])
        commands[child] = command.replace(b"\0", b" ").decode().strip()
    return {child: commands[child] for child in _below(pid, parents)}


def _below(pid: int, parents: Mapping[int, int]) -> list[int]:
    children = [child for child, parent in parents.items() if parent == pid]
    return children + list(itertools.chain(*(_below(child, parents) for child in children)))


def alive(pids: Mapping[int, Any]) -> list[int]:
    """Return those that still run; a zombie has ended."""
    return [pid for pid in pids if _state(pid) not in ("", "Z", "X")]


def _state(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
