"""The commands about versions: the gate's decisions with their figures, and which one is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from backend.cli.parts import ProjectOption, console, open_services

FIGURES = {"s to correct": ("cost_s",), "F": ("f",), "calibration": ("calibration", "ece")}


def versions(
    project: ProjectOption,
    prune: Annotated[bool, typer.Option("--prune", help="remove files that nobody needs")] = False,
    keep: Annotated[
        int | None, typer.Option(min=1, help="newest versions left whole; KEEP_VERSIONS otherwise")
    ] = None,
) -> None:
    """List the versions with the gate's decisions, or prune their files.

    The figures are those of the validation tasks, of the champion then and of the version.
    """
    from backend.steps import status as status_step
    from backend.steps.training import prune as prune_step

    if prune:
        done = prune_step.prune(open_services(), project, keep)
        console.print(f"removed {done.removed or 'none'}, made slim {done.slimmed or 'none'}")
        console.print(f"freed {done.freed_bytes / 1e6:.1f} MB")
        return
    table = Table("version", "state", "trained", *FIGURES, "gate")
    for version in status_step.versions_of(open_services(), project):
        when = version.created_at.isoformat(timespec="seconds")
        found = [figure(version.gate, path) for path in FIGURES.values()]
        reason = escape(version.damage or str(version.gate.get("reason", "")))
        table.add_row(version.name, version.state, when, *found, reason)
    console.print(table)


def figure(gate: Mapping[str, Any], path: tuple[str, ...]) -> str:
    """Return a figure of the gate's decision before and after: "20.1 -> 18.4", "" if unknown."""
    sides = [gate.get("figures", {}).get(side) for side in ("champion", "challenger")]
    for name in path:
        sides = [side.get(name) if isinstance(side, Mapping) else None for side in sides]
    before, after = ("-" if side is None else f"{side:.3g}" for side in sides)
    return "" if sides == [None, None] else f"{before} -> {after}"


def activate(
    project: ProjectOption,
    number: Annotated[int, typer.Argument(min=1, help="the version's number")],
) -> None:
    """Use another stored version; nothing is trained or predicted anew."""
    from backend.steps import projects

    version = projects.activate(open_services(), project, number)
    console.print(f"{version.name} is the champion; its proposals are being published")


def rollback(
    project: ProjectOption,
    leave: Annotated[
        int | None, typer.Option(min=1, help="the version to leave; refused if it is another one")
    ] = None,
) -> None:
    """Go back to the champion before the present one; nothing is trained or predicted anew."""
    from backend.steps import projects

    version = projects.rollback(open_services(), project, leave=leave)
    console.print(f"back to {version.name}; its proposals are being published")
