"""The commands that connect a project, and that find out what is wrong."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.text import Text

from backend.cli.parts import ProjectOption, console, open_services


def connect(
    project: ProjectOption,
    backend_url: Annotated[
        str | None, typer.Option(help="address of this backend as Label Studio sees it")
    ] = None,
    local_files: Annotated[
        str | None, typer.Option(help="folder that Label Studio is to serve images from")
    ] = None,
) -> None:
    """Connect a project: backend, webhook, order, and what it already holds. Safe to repeat.

    Ends with 1 when Label Studio refuses a part, which is said with its cure.
    """
    from backend.steps.connect import connect as connect_project

    services = open_services()
    url = backend_url or services.settings.backend_url
    done = connect_project(services, project, url, local_files=local_files)
    for act in done.acts or ("nothing had to be repaired",):
        console.print(Text(f"- {act}"), soft_wrap=True)
    for problem in done.problems:
        console.print(Text("- problem: ", "red") + Text(problem), soft_wrap=True)
    found = done.found
    console.print(
        f"- took in {found.tasks} tasks and {found.annotations} annotations that it already held"
    )
    if done.problems:
        sys.exit(1)


def doctor(
    project: Annotated[
        int | None,
        typer.Option("--project", "-p", help="one project; all connected ones otherwise"),
    ] = None,
    task: Annotated[int | None, typer.Option("--task", "-t", help="walk one task as well")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="do what mends it, then look again")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Walk the chain from settings to served tasks; say what is wrong and what mends it.

    Ends with 0 when all is right, 1 with warnings only, 2 when something is broken.
    """
    from backend.doctor import chain, report

    findings = chain.examine(os.environ, project, task)
    done: list[str] = []
    if fix and (done := chain.fix(os.environ, findings, project)):
        findings = chain.examine(os.environ, project, task)
    if as_json:
        typer.echo(report.as_json(findings, done))
    else:
        report.show(console, findings, done)
    sys.exit(chain.exit_code(findings))
