"""Starts child processes, waits until they are ready, and stops all when one dies.

    with Supervisor(log_dir) as supervisor:
        supervisor.start(Child("redis", argv, env))
        supervisor.wait()

Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread, and the death of a child
raises ChildFailed there, whatever it is doing; leaving the `with` block stops every child. Should
the supervisor itself be killed, `backend.processes.watchdog` ends what it started. For the main
thread only.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from backend.errors import ChildFailed
from backend.processes import watchdog

POLL_S = 0.1
LAST_LINES = 20
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Child:
    """A process to run; its output goes to `<log folder>/<name>.log`.

    env: its whole environment; ready: asked until it says True, for at most `deadline_s`.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    ready: Callable[[], bool] = field(default=lambda: True)
    deadline_s: float = 60.0


@dataclass
class _Running:
    child: Child
    process: subprocess.Popen[bytes]
    log: Path
    ended: threading.Event = field(default_factory=threading.Event)


class Supervisor:
    """Context manager over child processes; grace_s: from SIGTERM to SIGKILL, all together."""

    def __init__(self, log_dir: Path, *, grace_s: float = 10.0) -> None:
        self._log_dir = log_dir
        self._grace_s = grace_s
        self._mark = uuid.uuid4().hex
        self._running: list[_Running] = []
        self._dead: _Running | None = None
        self._lock = threading.Lock()
        self._stopping = False
        self._deaf = False
        self._missed_signal = False
        self._former_handlers: dict[int, Any] = {}
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Supervisor:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._watchdog = _start_watchdog(self._mark, self._grace_s)
        for number in STOP_SIGNALS:
            self._former_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        # A child's death is the cause of whatever else failed because of it.
        if self._dead and error and not isinstance(error, ChildFailed | KeyboardInterrupt):
            raise self._failure(self._dead) from error

    def start(self, *children: Child) -> None:
        """Start these together and wait until all are ready; raises ChildFailed."""
        started = [self._launch(child) for child in children]
        for running in started:
            self._wait_ready(running)

    def wait(self, until: Callable[[], bool] | None = None) -> None:
        """Block until a stop signal; raises ChildFailed when a child dies.

        With `until`, block until it says True: then a stop signal raises KeyboardInterrupt, because
        what was waited for has not happened.
        """
        if until is not None:
            self._wait_for(until)
        else:
            with suppress(KeyboardInterrupt):
                self._wait_for(lambda: False)

    def stop(self) -> None:
        """Stop all children, the last started first; safe to repeat."""
        self._deaf = True  # a second Ctrl-C must not leave children behind
        with self._lock:
            self._stopping = True
        deadline = time.monotonic() + self._grace_s
        for running in reversed(self._running):
            _signal_group(running, signal.SIGTERM)
            running.ended.wait(max(0.5, deadline - time.monotonic()))
        self._kill_rest()
        self._let_go()

    def _launch(self, child: Child) -> _Running:
        log = _fresh_log(self._log_dir, child.name)
        with self._uninterrupted(), log.open("ab") as output:
            process = subprocess.Popen(
                list(child.argv),
                env={**child.env, watchdog.MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor alone
            )
            running = _Running(child, process, log)
            self._running.append(running)
            threading.Thread(target=self._watch, args=(running,), daemon=True).start()
        return running

    def _wait_ready(self, running: _Running) -> None:
        child = running.child
        deadline = time.monotonic() + child.deadline_s
        while not child.ready():
            if time.monotonic() > deadline:
                raise ChildFailed(
                    f"{child.name} was not ready within {child.deadline_s:g} s; see {running.log}"
                    f"{_last_lines(running.log)}"
                )
            threading.Event().wait(POLL_S)

    def _watch(self, running: _Running) -> None:
        running.process.wait()
        with self._lock:
            if not self._stopping:
                self._dead = self._dead or running
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        running.ended.set()

    def _on_signal(self, *_: object) -> None:
        if self._deaf:
            self._missed_signal = True
        elif self._dead:
            raise self._failure(self._dead)
        else:
            raise KeyboardInterrupt

    @contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        self._deaf = True
        try:
            yield
        finally:
            self._deaf = self._stopping
        if self._missed_signal:
            self._missed_signal = False
            self._on_signal()

    def _failure(self, running: _Running) -> ChildFailed:
        code = running.process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        name = running.child.name
        return ChildFailed(f"{name} {how}; see {running.log}{_last_lines(running.log)}")

    def _wait_for(self, fact: Callable[[], bool]) -> None:
        while not fact():
            threading.Event().wait(POLL_S)

    def _kill_rest(self) -> None:
        for running in self._running:
            _signal_group(running, signal.SIGKILL)
        for running in self._running:
            running.ended.wait()
        self._running.clear()

    def _let_go(self) -> None:
        if self._watchdog and self._watchdog.stdin:
            self._watchdog.stdin.close()  # now it ends strays: what children started apart
            self._watchdog.wait()
            self._watchdog = None
        for number, former in self._former_handlers.items():
            signal.signal(number, former)
        self._former_handlers.clear()


def free_port(preferred: int) -> int:
    """Return `preferred` if a server can listen on it at 127.0.0.1, else a free port."""
    for port in (preferred, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            chosen: int = probe.getsockname()[1]
            return chosen
    raise OSError("no free port at 127.0.0.1; stop some servers")


def answers(url: str) -> Callable[[], bool]:
    """Return a readiness check: does a GET of this address answer with status 200?"""

    def check() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(url, timeout=2.0, trust_env=False).status_code == httpx.codes.OK
        return False

    return check


def _start_watchdog(mark: str, grace_s: float) -> subprocess.Popen[bytes]:
    # Its empty environment keeps it out of the reach of a supervisor above this one.
    argv = [sys.executable, "-I", "-S", str(watchdog.__file__), mark, f"{grace_s}"]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, env={}, start_new_session=True)


def _signal_group(running: _Running, number: signal.Signals) -> None:
    if not running.ended.is_set():
        with suppress(ProcessLookupError):  # ended between the question and the signal
            os.killpg(running.process.pid, number)


def _fresh_log(folder: Path, name: str) -> Path:
    log = folder / f"{name}.log"
    if log.exists():
        log.replace(folder / f"{name}.log.1")
    return log


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    return "".join(f"\n  {line}" for line in lines)
