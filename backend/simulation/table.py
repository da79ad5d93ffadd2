"""What a person sees of a simulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the ranking, a sentence per strategy, and what to be aware of."""
    title = f"{escape(result['class'])}: {result['value']}, over human seconds (simulated)"
    table = Table(
        "strategy", "mean over the time", "against random_order", "at the end", "tasks", title=title
    )
    for one in result["strategies"]:
        gain = text_of(one["gain"], signed=True) if "gain" in one else ""
        table.add_row(
            escape(one["strategy"]),
            text_of(one["mean_value"]),
            gain,
            text_of(one["last_value"]),
            f"{one['tasks']:.0f}",
        )
    console.print(table)
    for one in result["strategies"]:
        if "in_words" in one:
            console.print(f"- {escape(one['in_words'])}", soft_wrap=True)
        for note in one["notes"]:
            console.print(f"  [yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
    console.print(f"seconds: {escape(result['cost'])}", soft_wrap=True)
    for limit in result.get("limits", ()):
        console.print(f"- {escape(limit)}", soft_wrap=True)
    for reason in result["left_out"]:
        console.print(f"[yellow]left out:[/yellow] {escape(reason)}", soft_wrap=True)


def text_of(estimate: Mapping[str, float | None], *, signed: bool = False) -> str:
    """Return a mean with its 95 % interval."""
    form = "+.3f" if signed else ".3f"
    mean, low, high = (estimate[name] for name in ("mean", "low", "high"))
    if low is None or high is None:
        return f"{mean:{form}}"
    return f"{mean:{form}} ({low:{form}} to {high:{form}})"
