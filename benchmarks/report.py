"""The form of every benchmark's figures: rows with a unit, and what is needed to repeat them."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def row(name: str, value: float, unit: str) -> Row:
    """Return one figure without a target."""
    return {"name": name, "value": value, "unit": unit, "target": None, "met": None}


def write(path: Path, benchmark: str, rows: list[Row], *, note: str = "") -> None:
    """Write the rows with command, commit, date and hardware; `note` is added to the hardware."""
    report = {
        "benchmark": benchmark,
        "command": shlex.join(["python", *sys.argv]),
        "commit": _commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": ", ".join(filter(None, (_hardware(), note))),
        "rows": rows,
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _hardware() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
