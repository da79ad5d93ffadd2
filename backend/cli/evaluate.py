"""The command that measures what clicks are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.parts import console, read_settings


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

    settings = read_settings()
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
