"""The commands for trainings: watch them, stop one, say when they come."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from backend.cli.parts import ProjectOption, console, open_services

if TYPE_CHECKING:
    from backend.records import Job
    from backend.wiring import Services

LOOK_EVERY_S = 1.0
BAR_WIDTH = 24
COLOURS = {"done": "green", "failed": "red", "cancelled": "yellow"}
STATES = {"waiting": "waiting for GPU"}


def jobs(
    project: Annotated[int | None, typer.Option("--project", "-p", help="of one project")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="until Ctrl-C")] = False,
    first: Annotated[int, typer.Option(min=1, max=1000, help="how many to show")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show the latest trainings: state, stage, loss, F-measure, time left, and why one failed."""
    services = open_services()
    if as_json:
        typer.echo(json.dumps([asdict(j) for j in _latest(services, project, first)], default=str))
        return
    if not watch:
        console.print(table(_latest(services, project, first)))
        return
    pause = threading.Event()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(table(_latest(services, project, first)), refresh=True)
            pause.wait(LOOK_EVERY_S)


def cancel(
    job: Annotated[str, typer.Argument(help="a job's id; `labelclimb jobs` lists them")],
) -> None:
    """Stop a training that waits, works or was put off; its memory is free at once."""
    from backend.steps.training import training_job

    training_job.cancel(open_services(), job)
    console.print(f"{escape(job)} is cancelled; `labelclimb train` begins it again")


def policy(
    project: ProjectOption,
    train_after: Annotated[
        int | None, typer.Option(min=1, max=2**31, help="new weak labels that start a training")
    ] = None,
    quiet: Annotated[
        float | None, typer.Option(min=0, max=31_536_000, help="pause waited for, seconds")
    ] = None,
    max_wait: Annotated[
        float | None, typer.Option(min=0, max=31_536_000, help="longest wait for it, seconds")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="'02:00', 'mon-fri 02:00 13:30 Europe/Prague'; '' = none")
    ] = None,
) -> None:
    """Show or change when a project trains; the next decision follows it."""
    from backend.steps import decide

    services = open_services()
    given = {"train_after": train_after, "quiet_s": quiet, "max_wait_s": max_wait}
    changes = {name: value for name, value in given.items() if value is not None}
    if schedule is not None:
        decide.change_policy(services, project, **changes, schedule=schedule)
    elif changes:
        decide.change_policy(services, project, **changes)
    from backend.steps import status

    now = status.of_project(services, project)
    console.print(
        f"after {now.train_after} new labels, when nobody annotates for {now.quiet_s:g} s "
        f"or the oldest waited {now.max_wait_s:g} s"
    )
    console.print(f"schedule: {escape(now.schedule) or 'none'}")
    console.print(f"now: {escape(now.training)}")


def _latest(services: Services, project: int | None, first: int) -> list[Job]:
    from backend.steps import status

    if project is None:
        return status.latest_jobs(services, first)
    return status.jobs_of(services, project, first)


def table(rows: list[Job]) -> RenderableType:
    """Draw jobs, a bar for each that is under way."""
    drawn = Table("job", "state", "stage", "done", "loss", "F", "time left", box=None)
    for job in rows:
        drawn.add_row(*row(job))
    said = [line for job in rows for line in sentences(job)]
    return Group(drawn, *said) if rows else Text("no jobs yet")


def row(job: Job) -> list[RenderableType]:
    """Return a job's cells."""
    state = Text(STATES.get(job.state, job.state), COLOURS.get(job.state, "cyan"))
    if job.state in COLOURS:
        when = job.finished_at.isoformat(sep=" ", timespec="seconds") if job.finished_at else ""
        return [Text(job.id), state, Text(when), "", "", "", ""]
    detail = job.detail
    names = (detail.get("stage"), detail.get("class_name"))
    step = f"{detail['step']}/{detail['steps']}" if detail.get("steps") else None
    return [
        Text(job.id),
        state,
        Text(" ".join(filter(None, (*names, step)))),
        ProgressBar(total=1.0, completed=float(detail.get("fraction", 0.0)), width=BAR_WIDTH),
        _figure(detail.get("loss")),
        _figure(detail.get("f_measure")),
        clock(detail.get("seconds_left")),
    ]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def clock(seconds: float | None) -> str:
    """Write a time left: 0:07, 12:30, 1:02:30; "" when nobody knows it."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def sentences(job: Job) -> list[Text]:
    """Say why a job failed, what it waits for, and what went otherwise than usual."""
    again = f"; tried again at {job.again_at:%H:%M:%S %Z}" if job.again_at else ""
    why = [f"{job.id}: {job.error}{again}"] if job.error else []
    if job.state == "waiting":
        gpus = " or ".join(" and ".join(wanted) for wanted in job.detail.get("gpus", ()))
        why.append(
            f"{job.id}: another training uses {gpus}; this one begins by itself after it. Sooner: "
            "`labelclimb cancel` the other, or a train worker with another GPU or DEVICE=cpu"
        )
    notes = [f"{job.id}: {note}" for note in job.detail.get("notes", ())]
    return [Text(line) for line in [*why, *notes]]
