"""What the replays say: curves with intervals, a ranking, and human time against random order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from backend.evaluation import machine
from backend.evaluation.run import SPLIT_BY
from backend.simulation.options import CONTROL, Options
from backend.simulation.scenes import Tasks
from backend.simulation.world import Setting
from strategies import simulate
from strategies.simulate import Curve, Estimate, Round

GRID = 41  # points of the mean curve

Result = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One strategy on one seed; notes: what it had to be served by, and why."""

    label: str
    seed: int
    rounds: tuple[Round, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Axis:
    """The time in which curves are compared: from the end of the first tasks to the budget."""

    start_s: float
    budget_s: float

    @property
    def grid(self) -> Any:
        """Return (GRID,) moments."""
        return np.linspace(self.start_s, self.budget_s, GRID)


def of_runs(options: Options, setting: Setting, tasks: Tasks, runs: Sequence[Run]) -> Result:
    """Return the JSON of a simulation on a folder."""
    weights = options.profile.encoder_weights
    return {
        "kind": "simulation on a labelled folder",
        "class": setting.spec.name,
        "images": {
            "pool": len(tasks.pool),
            "validation": len(tasks.validation),
            "test": len(tasks.test),
        },
        "split_by": SPLIT_BY,
        "longest_side_px": options.longest_side_px,
        "pipeline": options.pipeline,
        "refine": options.refine or "auto",
        "profile": options.profile.name,
        "encoder_weights": Path(weights).name if weights else "none",
        "value": "F1 of all test images together, 2 px tolerance",
        "axis": "F1, 2 px tolerance",
        "title": f"{setting.spec.name}: {options.pipeline}, {options.seeds} seeds; band: all seeds",
        "budget_s": options.budget_s,
        "cost": setting.cost.basis,
        "first_tasks": options.first,
        "rounds": options.rounds,
        "seeds": options.seeds,
        "strategies": compared(runs, options.budget_s),
        "left_out": list(tasks.left_out),
        "hardware": machine.hardware(options.device),
        "versions": machine.versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def compared(runs: Sequence[Run], budget_s: float) -> list[Result]:
    """Return one entry per strategy, the largest mean value over the time first.

    Every figure is of pairs: a strategy and the control on the same seed, with the same start.
    """
    by_label: dict[str, dict[int, Run]] = {}
    for run in runs:
        by_label.setdefault(run.label, {})[run.seed] = run
    control = by_label[CONTROL]
    found = [_entry(label, own, control, budget_s) for label, own in by_label.items()]
    return sorted(found, key=lambda one: -one["mean_value"]["mean"])


def _entry(
    label: str, own: Mapping[int, Run], control: Mapping[int, Run], budget_s: float
) -> Result:
    curves = {seed: simulate.curve(run.rounds) for seed, run in own.items()}
    rivals = {seed: simulate.curve(control[seed].rounds) for seed in own}
    axes = {seed: Axis(run.rounds[0].spent_s, budget_s) for seed, run in own.items()}
    values = [_area(curves[seed], axes[seed]) for seed in own]
    gains = [_area(curves[seed], axes[seed]) - _area(rivals[seed], axes[seed]) for seed in own]
    saved = [simulate.saved_s(curves[seed], rivals[seed], budget_s) for seed in own]
    entry: Result = {
        "strategy": label,
        "mean_value": asdict(simulate.estimate(values)),
        "last_value": asdict(simulate.estimate([float(c.values[-1]) for c in curves.values()])),
        "tasks": float(np.mean([sum(len(r.tasks) for r in run.rounds) for run in own.values()])),
        "curve": _mean_curve(list(curves.values()), list(axes.values())),
        "runs": [_run(run) for run in own.values()],
        "notes": sorted({note for run in own.values() for note in run.notes}),
    }
    if label != CONTROL:
        gain = simulate.estimate(gains)
        reached = sum(has for _, has in saved)
        seconds = _saved([s for s, _ in saved], is_bound=reached < len(saved))
        entry |= {
            "gain": asdict(gain),
            "saved_s": asdict(seconds),
            "reached": reached,
            "verdict": verdict(gain),
            "in_words": in_words(label, gain, seconds, reached, len(saved), budget_s),
        }
    return entry


def verdict(gain: Estimate) -> str:
    """Say what the interval of the gain allows to say."""
    if gain.low is None or gain.high is None:
        return "one seed shows nothing"
    if gain.low > 0:
        return "better than random_order"
    return "worse than random_order" if gain.high < 0 else "no difference shown"


def in_words(
    label: str, gain: Estimate, saved: Estimate, reached: int, seeds: int, budget_s: float
) -> str:
    """Say what the strategy is worth in human time, with its interval, in one sentence."""
    is_saved, is_bound = saved.mean >= 0, reached < seeds
    word = "saves" if is_saved else "costs"
    bound = ("at most " if is_saved else "at least ") if is_bound else ""
    about = f"{label}: {verdict(gain)}; {word} {bound}{_minutes(abs(saved.mean))}"
    if saved.low is not None and saved.high is not None:
        low, high = (saved.low, saved.high) if is_saved else (-saved.high, -saved.low)
        about += f" ({_minutes(low)} to {_minutes(high)})"
    about += f" on the way to what random order has after {_minutes(budget_s)}"
    if is_bound:
        about += f"; on {seeds - reached} of {seeds} seeds it does not get there in that time"
    return about


def _saved(seconds: Sequence[float], *, is_bound: bool) -> Estimate:
    """Return the mean saving; without an interval where seeds that never got there bound it."""
    found = simulate.estimate(seconds)
    return Estimate(found.mean, None, None) if is_bound else found


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def _area(found: Curve, axis: Axis) -> float:
    return simulate.mean_value(found, axis.start_s, axis.budget_s)


def _mean_curve(curves: Sequence[Curve], axes: Sequence[Axis]) -> Result:
    """Return mean, spread and interval on a common axis, from the latest start on."""
    axis = Axis(max(one.start_s for one in axes), axes[0].budget_s)
    values = np.stack([simulate.at(one, axis.grid) for one in curves])  # (seeds, GRID)
    points = [simulate.estimate(column.tolist()) for column in values.T]
    return {
        "seconds": axis.grid.tolist(),
        "mean": [point.mean for point in points],
        "low": [point.low for point in points],
        "high": [point.high for point in points],
        "least": values.min(axis=0).tolist(),
        "most": values.max(axis=0).tolist(),
    }


def _run(run: Run) -> Result:
    return {
        "seed": run.seed,
        "seconds": [one.spent_s for one in run.rounds],
        "values": [one.value for one in run.rounds],
        "tasks": [list(one.tasks) for one in run.rounds],
    }
