"""The command that replays annotation: which strategy is worth how much human time."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.parts import console, open_services, read_settings
from backend.errors import SettingsError

BUDGET_S = 600.0


def simulate(
    strategies: Annotated[str, typer.Option(help="as entropy,edit_time:order=easy_first")],
    images: Annotated[Path | None, typer.Option(help="folder of images")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="folder of their true masks, same file stems")
    ] = None,
    project: Annotated[
        int | None,
        typer.Option("--project", "-p", help="take edit seconds, or with --since work, from here"),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(help="replay the project's real work since then (UTC)")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="replays of each strategy")] = 5,
    budget_seconds: Annotated[
        float, typer.Option(min=1, help="human seconds, those of the first tasks included")
    ] = BUDGET_S,
    rounds: Annotated[int, typer.Option(min=1, help="trainings after the first")] = 6,
    first: Annotated[int, typer.Option(min=1, help="tasks drawn by hand before a model")] = 4,
    class_name: Annotated[
        str | None, typer.Option("--class", help="class of the masks; guessed from the folders")
    ] = None,
    pipeline: Annotated[str, typer.Option(help="how images become masks")] = "pixel_head",
    refine: Annotated[str, typer.Option(help="how heat becomes a mask")] = "auto",
    longest_side: Annotated[
        int, typer.Option(min=0, help="shrink images to so many px; 0 = as they are")
    ] = 320,
    profile: Annotated[str | None, typer.Option(help="cpu or gpu; PROFILE otherwise")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda:N; DEVICE otherwise")] = None,
    encoder_weights: Annotated[
        str | None, typer.Option(help="a file, hub or none; ENCODER_WEIGHTS otherwise")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="to annotate/validation/test, as 120/12/48 or 60%/7%/33%")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="images of the folder at most")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="processor threads")] = None,
    cache_mib: Annotated[int, typer.Option(min=0, help="memory for features of images")] = 2048,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the curves here")] = None,
    png: Annotated[Path | None, typer.Option(help="draw the curves here")] = None,
) -> None:
    """Replay annotation by several strategies, always beside random order, in human seconds.

    On images with true masks (--images, --masks); or on what people really did in a project since
    a moment (--project, --since).
    """
    import models.base
    from backend.evaluation.options import profile_named, wanted_parts, weights
    from backend.simulation import history, options, run
    from backend.simulation import since as past

    chosen = options.contenders(strategies)
    if since is not None:
        if project is None or images is not None or masks is not None:
            raise SettingsError("--since replays a project's work: give --project, and no folders")
        options.require_files(json_file, png)
        services = open_services()
        wanted = past.Wanted(project, history.aware(since), chosen, seeds)
        found = past.run(services, wanted, console)
        run.write(found, json_file, png, console)
        return
    if images is None or masks is None:
        raise SettingsError(
            "nothing to replay: give --images and --masks, or --project and --since"
        )
    settings = read_settings()
    cost = None if project is None else past.cost_of(open_services(), project)
    run.run(
        options.Options(
            images=images,
            masks=masks,
            contenders=chosen,
            profile=profile_named(
                profile or settings.profile, weights(encoder_weights, settings.encoder_weights)
            ),
            budget_s=budget_seconds,
            class_name=class_name,
            pipeline=pipeline,
            refine=None if refine == "auto" else refine,
            seeds=seeds,
            rounds=rounds,
            first=first,
            longest_side_px=longest_side or None,
            wanted=wanted_parts(split, None, None, None),
            limit=limit,
            device=models.base.resolve_device(device or settings.device),
            threads=threads,
            max_pixels=settings.max_image_pixels,
            cache_mib=cache_mib,
            json_file=json_file,
            png_file=png,
        ),
        console,
        cost,
    )
