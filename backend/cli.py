"""The command line: one command per thing that people do with labelclimb."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from backend.errors import LabelclimbError
from backend.settings import Settings

app = typer.Typer(help="Active-learning annotation backend for Label Studio.", no_args_is_help=True)
console = Console()

ProjectOption = Annotated[int, typer.Option("--project", "-p", help="Label Studio project id")]


def main() -> None:
    """Run a command; our own errors are printed in words and end with status 2."""
    try:
        app()
    except LabelclimbError as error:
        Console(stderr=True).print(Text("error: ", "red") + Text(str(error)))
        sys.exit(2)


def _services() -> Any:
    from backend.wiring import build

    return build(Settings.from_env(os.environ))


@app.command()
def up() -> None:
    """Run API, workers, scheduler and an embedded Redis under one supervisor."""
    from backend import running

    running.up(Settings.from_env(os.environ))


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
def evaluate(
    images: Annotated[Path, typer.Option(help="folder of images")],
    masks: Annotated[Path, typer.Option(help="folder of their true masks, same file stems")],
    test_images: Annotated[
        Path | None, typer.Option(help="images to test on; otherwise --images is split")
    ] = None,
    test_masks: Annotated[Path | None, typer.Option(help="their true masks")] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="class of the masks; guessed from the folders")
    ] = None,
    pipeline: Annotated[str, typer.Option(help="how images become masks")] = "auto",
    refine: Annotated[str, typer.Option(help="how heat becomes a mask")] = "auto",
    iterations: Annotated[int | None, typer.Option(min=1, help="1 = plain CAM, 2 = climb")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="on the heat; chosen otherwise")
    ] = None,
    clicks_per_image: Annotated[int, typer.Option(min=1, help="of each sign")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="of clicks and training")] = 0,
    profile: Annotated[str | None, typer.Option(help="cpu or gpu; PROFILE otherwise")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda:N; DEVICE otherwise")] = None,
    encoder_weights: Annotated[
        str | None, typer.Option(help="a file, hub or none; ENCODER_WEIGHTS otherwise")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="train/validation/test, as 70/8/40 or 60%/7%/33%")
    ] = None,
    train: Annotated[str | None, typer.Option(help="images to click: number or share")] = None,
    validation: Annotated[
        str | None, typer.Option(help="images whose masks choose settings; 0 = clicks alone")
    ] = None,
    test: Annotated[str | None, typer.Option(help="images to test on")] = None,
    corrected: Annotated[
        str | None, typer.Option(help="train again with so many true masks, as 15,30")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="images of a folder at most")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="processor threads")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures here")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="folder for image | truth | heat map | proposal")
    ] = None,
) -> None:
    """Measure what a few clicks per image are worth, on any folder of images with masks."""
    import models.base
    from backend.evaluation import options, run

    settings = Settings.from_env(os.environ)
    weights = options.weights(encoder_weights, settings.encoder_weights)
    wanted = options.Options(
        images=images,
        masks=masks,
        test_images=test_images,
        test_masks=test_masks,
        class_name=class_name,
        pipeline=pipeline,
        refine=refine,
        iterations=iterations,
        threshold=threshold,
        clicks_per_image=clicks_per_image,
        seed=seed,
        profile=options.profile_named(profile or settings.profile, weights),
        device=models.base.resolve_device(device or settings.device),
        wanted=options.wanted_parts(split, train, validation, test),
        corrected=options.numbers(corrected),
        limit=limit,
        threads=threads,
        max_pixels=settings.max_image_pixels,
        json_file=json_file,
        pictures=pictures,
    )
    run.run(wanted, console)


@app.command()
def serve() -> None:
    """Run the HTTP API (the ML backend) alone."""
    from backend import running

    running.serve(Settings.from_env(os.environ))


@app.command()
def worker(
    queues: Annotated[list[str], typer.Argument(help="events, publish and/or train")],
    burst: Annotated[bool, typer.Option(help="stop when the queues are empty")] = False,
) -> None:
    """Run an RQ worker for one or more queues."""
    from backend import running

    running.worker(Settings.from_env(os.environ), queues, burst=burst)


@app.command()
def scheduler() -> None:
    """Run the scheduler: what is due, what was lost, what never arrived."""
    from backend import running

    running.scheduler(Settings.from_env(os.environ))


@app.command()
def connect(
    project: ProjectOption,
    backend_url: Annotated[
        str | None, typer.Option(help="address of this backend as Label Studio sees it")
    ] = None,
) -> None:
    """Connect a project: backend, webhook, order, and what it already holds. Safe to repeat."""
    from backend.steps.connect import connect as connect_project

    services = _services()
    url = (backend_url or services.settings.backend_url).rstrip("/")
    done = connect_project(services, project, url)
    for act in done.acts:
        console.print(f"- {escape(act)}")
    found = done.found
    console.print(
        f"- took in {found.tasks} tasks and {found.annotations} annotations that it already held"
    )


@app.command()
def predict(project: ProjectOption) -> None:
    """Predict and publish open tasks without proposals, unreadable images once more."""
    from backend.steps import projects, queues

    services = _services()
    projects.forget_problems(services, project)
    queues.publish(services, project)
    console.print("queued; `labelclimb status` shows when it is published")


@app.command()
def train(project: ProjectOption) -> None:
    """Ask for a training now."""
    from backend.steps import intake

    intake.request_training(_services(), project)
    console.print("asked; `labelclimb status` says what comes of it")


@app.command()
def rank(
    project: ProjectOption,
    strategy: Annotated[str | None, typer.Option(help="change the project's strategy")] = None,
    first: Annotated[int, typer.Option(help="how many tasks to show")] = 20,
) -> None:
    """Show the queue, or choose another strategy, which orders it anew."""
    from backend.steps import projects, status

    services = _services()
    if strategy is not None:
        projects.choose_strategy(services, project, strategy)
        console.print(f"strategy is now {strategy}; the new order is being published")
        return
    table = Table("task", "priority", "problem")
    for entry in status.queue_of(services, project)[:first]:
        table.add_row(str(entry.task), f"{entry.priority:.3f}", escape(entry.problem or ""))
    console.print(table)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say where every project stands and why it is not training."""
    from backend.steps import status as status_step

    rows = status_step.all_projects(_services())
    if as_json:
        print(json.dumps([asdict(row) for row in rows], default=str))
        return
    for row in rows:
        shown = row.published or "nothing yet"
        console.print(f"[bold]{row.project} {escape(row.title)}[/bold]: shows {shown}")
        console.print(f"  {row.open_tasks} of {row.tasks} tasks open, strategy {row.strategy}")
        console.print(f"  {row.weak_labels} weak labels; outcomes {dict(row.outcomes)}")
        console.print(f"  training: {escape(row.training)}")
        if row.dead_events:
            console.print(f"  [red]{row.dead_events} events could not be handled[/red]")


@app.command()
def versions(project: ProjectOption) -> None:
    """List the versions with the gate's decisions."""
    from backend.steps import status as status_step

    table = Table("version", "state", "trained", "gate")
    for version in status_step.versions_of(_services(), project):
        when = version.created_at.isoformat(timespec="seconds")
        table.add_row(
            version.name, version.state, when, escape(str(version.gate.get("reason", "")))
        )
    console.print(table)


@app.command()
def activate(
    project: ProjectOption,
    number: Annotated[int, typer.Argument(min=1, help="the version's number")],
) -> None:
    """Use another stored version: promotion by hand, or rollback."""
    from backend.steps import projects

    version = projects.activate(_services(), project, number)
    console.print(f"{version.name} is the champion; its proposals are being published")


if __name__ == "__main__":
    main()
