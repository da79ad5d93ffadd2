"""Seconds of one thing and of several in turn, so that a ratio sees one machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import report
import torch

Act = Callable[[], Any]


def seconds(act: Act) -> float:
    """Return the wall seconds of one call, the work of a GPU included."""
    _finish()
    began = time.perf_counter()
    act()
    _finish()
    return time.perf_counter() - began


def in_turn(
    acts: Mapping[str, Act], repeats: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Return the seconds of each act, `repeats` times, one after the other in each round."""
    for act in acts.values() if warm_up else ():
        act()
    rounds = [{name: seconds(act) for name, act in acts.items()} for _ in range(repeats)]
    return {name: [taken[name] for taken in rounds] for name in acts}


def ratio_rows(
    name: str, slow: list[float], fast: list[float], *, at_least: float | None = None
) -> list[report.Row]:
    """Return the median of the rounds' ratios, against a target, and the two extremes."""
    ratios = sorted(s / f for s, f in zip(slow, fast, strict=True))
    return [
        report.judged(report.row(name, statistics.median(ratios), "x"), at_least=at_least),
        report.row(f"{name}, lowest", ratios[0], "x"),
        report.row(f"{name}, highest", ratios[-1], "x"),
    ]


def seconds_row(name: str, taken: list[float]) -> report.Row:
    """Return the median of some seconds."""
    return report.row(name, statistics.median(taken), "s")


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
