"""A PostgreSQL server of our own for tests: Debian's programs, a fresh folder, a private socket."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from backend.processes.supervisor import free_port

INSTALLED = Path("/usr/lib/postgresql")
SERVER_USERS = ("postgres", "nobody")  # the server refuses to run as root
START_TIMEOUT_S = 60.0
OPTIONS = {  # what matters to tests: a quick start and little memory, not the data
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "50",
    "autovacuum": "off",
}


def missing() -> str | None:
    """Return why no server can be started here, or None when one can."""
    if _programs() is None:
        return "no PostgreSQL server; Debian, Ubuntu: apt install postgresql"
    if os.getuid() == 0 and _server_user() is None:
        return f"PostgreSQL does not run as root, and there is no user {' or '.join(SERVER_USERS)}"
    return None


class PostgresqlServer:
    """A server that asks for no password; `url` is the address of its database `postgres`.

    It listens on a socket of its own and at 127.0.0.1:`port`.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port(0)
        self._folder = folder
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        _own(folder)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]
        self._run("initdb", "--pgdata", str(self._data), "--locale=C", *options)

    @property
    def url(self) -> str:
        """Return the address for `DATABASE_URL`."""
        return self._url_of("postgres")

    def new_database(self, template: str = "template1") -> str:
        """Copy a database that nobody uses, by default an empty one; returns the address."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self._url_of(name)

    def execute(self, statement: str) -> None:
        """Run a statement as the server's owner, outside a transaction."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def start(self) -> None:
        """Start it and return when it answers; AssertionError with its log when it does not."""
        command = [_program("postgres"), "-D", str(self._data), "-k", str(self._folder)]
        command += ["-h", "127.0.0.1", "-p", str(self.port)]
        for name, value in OPTIONS.items():
            command += ["-c", f"{name}={value}"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=self._folder, **_as_server()
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            text = (self._folder / "log").read_text(errors="replace")
            assert self._process.poll() is None, f"PostgreSQL ended while starting:\n{text}"
            assert time.monotonic() < deadline, f"PostgreSQL is silent:\n{text}"
            threading.Event().wait(0.05)

    def stop(self) -> None:
        """End it at once, as a crash does: whoever is connected is cut off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(START_TIMEOUT_S)
            self._process = None

    def restart(self) -> None:
        """Stop it, start it; it recovers by itself."""
        self.stop()
        self.start()

    def _url_of(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self._folder}&port={self.port}"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [_program(program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self._folder,
            **_as_server(),
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"


@contextmanager
def running() -> Iterator[PostgresqlServer]:
    """Give a running server with nothing in it until the block ends.

    Its folder is outside pytest's, which the server's user may not enter, and has a short name:
    the kernel limits those of sockets.
    """
    folder = Path(tempfile.mkdtemp(prefix="labelclimb-pg-"))
    try:
        server = PostgresqlServer(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _programs() -> Path | None:
    found = sorted(INSTALLED.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    in_path = shutil.which("initdb")
    return Path(in_path).resolve().parent if in_path else None


def _program(name: str) -> str:
    programs = _programs()
    assert programs is not None, missing()
    return str(programs / name)


def _server_user() -> str | None:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((user for user in SERVER_USERS if user in known), None)


def _as_server() -> dict[str, object]:
    """Return what makes a process run as the server's user; nothing when we are not root."""
    if os.getuid() != 0:
        return {}
    user = _server_user()
    assert user is not None, missing()
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": ()}


def _own(folder: Path) -> None:
    if os.getuid() == 0:
        user = pwd.getpwnam(_server_user() or "")
        os.chown(folder, user.pw_uid, user.pw_gid)
