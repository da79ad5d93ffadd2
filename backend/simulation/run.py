"""The simulation from a labelled folder to curves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import strategies.base
from backend.errors import ImageError, SettingsError
from backend.evaluation import folders, screen
from backend.evaluation.folders import Pair
from backend.evaluation.run import limit_threads
from backend.evaluation.splits import Split, split
from backend.simulation import chart, costs, features, results, table
from backend.simulation.costs import Cost
from backend.simulation.labels import Taught
from backend.simulation.options import CONTROL, Contender, Options
from backend.simulation.results import Run
from backend.simulation.scenes import Scenes, Tasks, numbered
from backend.simulation.world import FolderWorld, Setting, Version, held_out
from models.base import ClassSpec
from strategies import simulate
from strategies.base import Pool

Result = dict[str, Any]


def run(options: Options, console: Console, cost: Cost | None = None) -> Result:
    """Replay all strategies on all seeds, show the ranking, write JSON and PNG; returns the JSON.

    cost: None = the stated one. Raises SettingsError for folders and budgets that cannot be used,
    LabelclimbError when a training fails.
    """
    limit_threads(options.threads)
    cost = cost or costs.stated()
    parts = _split(options)
    scenes = Scenes(
        numbered([*parts.train, *parts.validation, *parts.test], 1), options.longest_side_px
    )
    tasks = _readable(scenes, parts)
    name = options.class_name or folders.class_of(options.images, options.masks)
    setting = Setting(
        scenes=scenes,
        pipeline=features.pipeline(options.pipeline, options.cache_mib),
        spec=ClassSpec(name, options.refine),
        profile=options.profile,
        device=options.device,
        cost=cost,
        held_out=held_out(scenes, tasks.validation, name, lambda mask: cost.seconds(None, mask)),
        test=tasks.test,
        seed=0,
    )
    with screen.bars(console) as bars:
        pairs = [(seed, one) for seed in range(options.seeds) for one in options.contenders]
        runs = _replays(options, setting, tasks, bars.over(pairs, "replaying"))
    result = results.of_runs(options, setting, tasks, runs)
    table.show(console, result)
    write(result, options.json_file, options.png_file, console)
    return result


def write(result: Result, json_file: Path | None, png_file: Path | None, console: Console) -> None:
    """Write what was asked for."""
    if json_file is not None:
        text = json.dumps(result, indent=1, allow_nan=False) + "\n"
        json_file.write_text(text, encoding="utf-8")
    if png_file is not None:
        chart.draw(result, png_file)
    for file in filter(None, (json_file, png_file)):
        console.print(f"written: {file}", markup=False)


def first_tasks(scenes: Scenes, pool: Sequence[int], count: int, seed: int) -> list[int]:
    """Draw the tasks that begin: `count` by lot, and more until one shows the class.

    Raises SettingsError when none of the pool does.
    """
    control = strategies.base.get(CONTROL)
    order = strategies.base.rank(control, Pool(np.array(pool, dtype=np.int64)), seed).tolist()
    for size in range(min(count, len(order)), len(order) + 1):
        if any(scenes.truth(task).any() for task in order[:size]):
            return [int(task) for task in order[:size]]
    raise SettingsError(
        f"no mask of the {len(order)} images to annotate shows a defect; are they black, or of "
        "another class?"
    )


def _replays(
    options: Options,
    setting: Setting,
    tasks: Tasks,
    pairs: Iterable[tuple[int, Contender]],
) -> list[Run]:
    """Replay each strategy on each seed; all strategies of a seed start from the same version."""
    starts: dict[int, simulate.Start[Version, Taught]] = {}
    runs = []
    for seed, contender in pairs:
        world = FolderWorld(replace(setting, seed=seed), contender)
        if seed not in starts:
            starts = {
                seed: simulate.begin(
                    world, first_tasks(setting.scenes, tasks.pool, options.first, seed)
                )
            }
        start = starts[seed]
        rounds = simulate.replay(
            world,
            start,
            tasks.pool,
            budget_s=options.budget_s,
            marks_s=_marks(start.spent_s, options),
        )
        runs.append(Run(contender.label, seed, tuple(rounds), tuple(sorted(world.notes))))
    return runs


def _marks(start_s: float, options: Options) -> list[float]:
    try:
        return simulate.marks(start_s, options.budget_s, options.rounds)
    except ValueError as error:
        raise SettingsError(f"--budget-seconds: {error}") from error


def _split(options: Options) -> Split:
    pairs = folders.read_folder(options.images, options.masks, max_pixels=options.max_pixels)
    return split(pairs[: options.limit], None, options.wanted)


def _readable(scenes: Scenes, parts: Split) -> Tasks:
    """Number the tasks whose files can be read; raises SettingsError when a part has none."""
    left_out: list[str] = []

    def readable(pairs: Sequence[Pair], first: int) -> tuple[int, ...]:
        found = []
        for task in numbered(pairs, first):
            try:
                scenes.get(task)
            except ImageError as error:
                left_out.append(str(error))
            else:
                found.append(task)
        return tuple(found)

    after_pool = 1 + len(parts.train)
    pool = readable(parts.train, 1)
    validation = readable(parts.validation, after_pool)
    test = readable(parts.test, after_pool + len(parts.validation))
    if not pool or not test:
        why = "; ".join(left_out[:3])
        raise SettingsError(f"no image is left to annotate or to test on: {why}")
    return Tasks(pool, validation, test, tuple(left_out))
