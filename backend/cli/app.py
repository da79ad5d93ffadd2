"""The command line: one command per thing that people do with labelclimb."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from backend.cli import doctor as cli_doctor
from backend.cli import evaluate as cli_evaluate
from backend.cli import jobs as cli_jobs
from backend.cli import order as cli_order
from backend.cli import simulate as cli_simulate
from backend.cli import versions as cli_versions
from backend.cli.parts import ProjectOption, console, open_services, read_settings
from backend.errors import InvalidPayload, LabelclimbError

app = typer.Typer(help="Active-learning annotation backend for Label Studio.", no_args_is_help=True)


def main() -> None:
    """Run a command; our own errors are printed in words and end with status 2."""
    try:
        app()
    except LabelclimbError as error:
        Console(stderr=True).print(Text("error: ", "red") + Text(str(error)))
        sys.exit(2)


@app.command()
def up() -> None:
    """Run API, workers, scheduler and an embedded Redis under one supervisor."""
    from backend.processes import running

    running.up(read_settings())


@app.command()
def demo(
    images: Annotated[Path | None, typer.Option(help="folder of images (with --masks)")] = None,
    masks: Annotated[Path | None, typer.Option(help="folder of masks, same file stems")] = None,
    class_name: Annotated[str, typer.Option("--class", help="class of the masks")] = "crack",
    limit: Annotated[int, typer.Option(min=8, help="number of images")] = 48,
    seed: Annotated[int, typer.Option(help="seed of everything random")] = 0,
    auto: Annotated[bool, typer.Option("--auto", help="let a simulated annotator work")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="rounds of the simulated annotator")] = 3,
    stop: Annotated[bool, typer.Option("--exit", help="stop afterwards")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the rounds here")] = None,
    data: Annotated[Path, typer.Option(help="where the demo keeps its data")] = Path("demo-data"),
) -> None:
    """Show the whole loop: Label Studio, a project, proposals, corrections, retraining."""
    from backend.demo import run

    options = run.Options(
        images=images,
        masks=masks,
        class_name=class_name,
        limit=limit,
        seed=seed,
        auto=auto,
        rounds=rounds,
        stop=stop,
        json_file=json_file,
        data=data,
    )
    sys.exit(run.demo(options, console))


@app.command()
def serve() -> None:
    """Run the HTTP API (the ML backend) alone."""
    from backend.processes import running

    running.serve(read_settings())


@app.command()
def worker(
    queues: Annotated[list[str], typer.Argument(help="events, publish and/or train")],
    burst: Annotated[bool, typer.Option(help="stop when the queues are empty")] = False,
) -> None:
    """Run an RQ worker for one or more queues."""
    from backend.processes import running

    running.worker(read_settings(), queues, burst=burst)


@app.command()
def scheduler() -> None:
    """Run the scheduler: what is due, what was lost, what never arrived."""
    from backend.processes import running

    running.scheduler(read_settings())


@app.command()
def health(
    part: Annotated[str, typer.Argument(help="api, events, publish, train or scheduler")],
) -> None:
    """Say whether a part of this machine works, for health checks; ends with 1 if not."""
    from backend.processes import health as health_check

    problem = health_check.problem(read_settings(), part)
    print(problem or "healthy")
    sys.exit(1 if problem else 0)


for command in (
    cli_evaluate.evaluate,
    cli_simulate.simulate,
    cli_doctor.connect,
    cli_doctor.doctor,
    cli_order.rank,
    cli_order.strategies,
    cli_order.budget,
    cli_order.review,
    cli_jobs.jobs,
    cli_jobs.cancel,
    cli_jobs.policy,
    cli_versions.versions,
    cli_versions.activate,
    cli_versions.rollback,
):
    app.command()(command)


@app.command()
def predict(project: ProjectOption) -> None:
    """Predict and publish open tasks without proposals, unreadable images once more."""
    from backend.steps import projects, queues

    services = open_services()
    projects.forget_problems(services, project)
    queues.publish(services, project)
    console.print("queued; `labelclimb status` shows when it is published")


@app.command()
def train(project: ProjectOption) -> None:
    """Ask for a training now."""
    from backend.steps.listening import intake

    intake.request_training(open_services(), project)
    console.print("asked; `labelclimb status` says what comes of it")


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say where every project stands and why it is not training."""
    from backend.steps import status as status_step

    rows = status_step.all_projects(open_services())
    if as_json:
        print(json.dumps([asdict(row) for row in rows], default=str))
        return
    for row in rows:
        shown = row.published or "nothing yet"
        console.print(f"[bold]{row.project} {escape(row.title)}[/bold]: shows {shown}")
        console.print(f"  {row.open_tasks} of {row.tasks} tasks open, strategy {row.strategy}")
        console.print(f"  {row.weak_labels} weak labels; outcomes {dict(row.outcomes)}")
        console.print(f"  training: {escape(row.training)}")
        if row.acceptance:
            console.print(f"  {row.champion}: {escape(str(row.acceptance['sentence']))}")
        if row.damage:
            console.print(f"  [red]{escape(row.damage)}[/red]")
        if row.rollback_to:
            proposed = f"`labelclimb rollback --project {row.project}`"
            console.print(f"  [red]rollback to {row.rollback_to} is proposed: {proposed}[/red]")
        counts = f"{row.received} received, {row.recovered} recovered, {row.given_up} given up"
        console.print(f"  events: {counts}")
        if row.gone:
            console.print("  [red]Label Studio no longer has this project[/red]")
        elif row.reconcile_error:
            console.print(f"  [red]not reconciled: {escape(row.reconcile_error)}[/red]")
        if row.dead_events:
            console.print(
                f"  [red]{row.dead_events} events could not be handled; "
                "`labelclimb events` says why[/red]"
            )


@app.command()
def reconcile(project: ProjectOption) -> None:
    """Compare a project with Label Studio now, all of it, and take in what never arrived."""
    from backend.steps import projects
    from backend.steps.listening.reconcile import reconcile as reconcile_project

    services = open_services()
    projects.require(services, project)
    found = reconcile_project(services, project, full=True)
    console.print(
        f"took in {found.tasks} tasks, {found.annotations} annotations and {found.deletions} "
        "deletions"
    )


@app.command()
def events(
    retry: Annotated[
        str | None, typer.Option(help="have a dead event tried again: its number, or all")
    ] = None,
) -> None:
    """List the events that could not be handled, with the reason; or have them tried again."""
    from backend.steps import status as status_step
    from backend.steps.listening import intake

    services = open_services()
    dead = status_step.events_of(services, "dead", limit=10_000)
    if retry is None:
        table = Table("event", "action", "project", "received", "why it failed")
        for event in dead:
            about = (str(event.id), event.action, str(event.project or ""))
            when = event.received_at.isoformat(timespec="seconds")
            table.add_row(*about, when, escape(event.error or ""))
        console.print(table)
        return
    chosen = [event.id for event in dead] if retry == "all" else [_event_number(retry)]
    for number in chosen:
        intake.retry(services, number)
    console.print(f"{len(chosen)} events are tried again")


def _event_number(text: str) -> int:
    if not text.isdecimal():
        raise InvalidPayload(f"--retry {text}: expected an event's number or 'all'")
    return int(text)


@app.command()
def agreement(
    project: ProjectOption,
    first: Annotated[int, typer.Option(min=1, help="how many pairs to show")] = 20,
) -> None:
    """Show how alike the masks of several annotators are, the least alike first."""
    from backend.steps.training import taught

    table = Table("task", "class", "annotations", "IoU")
    for pair in taught.agreements(open_services(), project)[:first]:
        by = " ".join(map(str, pair.annotations))
        table.add_row(str(pair.task), escape(pair.class_name), by, f"{pair.iou:.2f}")
    console.print(table)
