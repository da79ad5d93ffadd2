"""How findings are printed: for people, in colour on a terminal, and as JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from backend.doctor.case import Finding
from backend.doctor.chain import exit_code

STYLES = {"ok": "green", "warning": "yellow", "error": "bold red", "skipped": "dim"}
COLUMN = 18


def show(console: Console, findings: Sequence[Finding], done: Sequence[str]) -> None:
    """Print one line per finding, with why and the command that mends it below."""
    for act in done:
        console.print(Text("done     ", "cyan") + Text(act), soft_wrap=True)
    project: int | None = None
    for finding in findings:
        if finding.project != project:
            project = finding.project
            console.print(Text(f"project {project}", "bold"))
        _show(console, finding)
    console.print(_verdict(findings))


def _show(console: Console, finding: Finding) -> None:
    head = Text(f"{finding.state:<9}", STYLES[finding.state])
    first, *more = finding.what.splitlines()
    console.print(head + Text(f"{finding.check:<{COLUMN}}{first}"), soft_wrap=True)
    below = " " * (9 + COLUMN)
    for line in [*more, finding.why]:
        if line:
            console.print(Text(below + line, "dim"), soft_wrap=True)
    if finding.command:
        console.print(Text(f"{below}$ {finding.command}", "bold"), soft_wrap=True)


def _verdict(findings: Sequence[Finding]) -> Text:
    counts = {state: sum(f.state == state for f in findings) for state in STYLES}
    said = [f"{counts[state]} {state}" for state in ("error", "warning", "skipped", "ok")]
    return Text(", ".join(part for part in said if not part.startswith("0 ")))


def as_json(findings: Sequence[Finding], done: Sequence[str]) -> str:
    """Return {"exit", "done", "findings"} as JSON."""
    rows = [asdict(finding) for finding in findings]
    return json.dumps({"exit": exit_code(findings), "done": list(done), "findings": rows})
