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


def judged(figure: Row, *, at_least: float | None = None, at_most: float | None = None) -> Row:
    """Return the figure with its target, if one is given, and whether it is met."""
    if at_least is not None:
        return {**figure, "target": at_least, "met": figure["value"] >= at_least}
    if at_most is not None:
        return {**figure, "target": at_most, "met": figure["value"] <= at_most}
    return figure


def show(rows: list[Row]) -> None:
    """Print figures as a table."""
    for figure in rows:
        target = "" if figure["target"] is None else f"target {figure['target']:g}"
        met = {None: "", True: "met", False: "MISSED"}[figure["met"]]
        print(f"{figure['name']:<64} {figure['value']:>12.6g} {figure['unit']:<8} {target} {met}")


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
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # a copy without its history
