"""Kills what a dead supervisor left behind; a script of its own that imports nothing of ours.

Every supervised process carries the supervisor's mark in its environment and hands it to all that
it starts, in whatever process group or session. The script reads its standard input, whose other
end only the supervisor holds: end of file means that the supervisor is gone, however it died, even
by SIGKILL. Linux only (it reads /proc); elsewhere the supervisor's own stop is all there is.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

MARK = "LABELCLIMB_SUPERVISOR"
SCAN_S = 0.05


def marked(mark: str) -> list[int]:
    """Return the ids of all living processes whose environment carries this mark."""
    wanted = f"{MARK}={mark}".encode()
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if _has(folder, wanted)]


def sweep(mark: str, grace_s: float) -> list[int]:
    """End all marked processes: SIGTERM, after the grace SIGKILL; returns whom it had to kill."""
    _signal(marked(mark), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (alive := marked(mark)) and time.monotonic() < deadline:
        threading.Event().wait(SCAN_S)
    return kill(mark) if alive else []


def kill(mark: str) -> list[int]:
    """SIGKILL all marked processes until two scans in a row find none; returns their ids.

    Twice, because a process that is being started carries the mark only after its exec.
    """
    killed: list[int] = []
    empty_scans = 0
    while empty_scans < 2:
        alive = marked(mark)
        empty_scans = 0 if alive else empty_scans + 1
        _signal(alive, signal.SIGKILL)
        killed += [pid for pid in alive if pid not in killed]
        threading.Event().wait(SCAN_S)
    return killed


def _has(folder: Path, wanted: bytes) -> bool:
    with suppress(OSError):  # gone meanwhile, or somebody else's
        return wanted in (folder / "environ").read_bytes().split(b"\0")
    return False


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def main(mark: str, grace_s: float) -> None:
    """Wait until the supervisor is gone, then end what it started."""
    sys.stdin.buffer.read()
    sweep(mark, grace_s)
    kill(mark)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
