"""The commands about which task is next: strategies, ranking, budgets, reviews."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from backend.cli.parts import ProjectOption, console, open_services
from backend.errors import InvalidPayload


def rank(
    project: ProjectOption,
    strategy: Annotated[str | None, typer.Option(help="change the project's strategy")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="of the strategy, as NAME=VALUE; repeatable")
    ] = None,
    first: Annotated[int, typer.Option(help="how many tasks to show")] = 20,
    history: Annotated[bool, typer.Option("--history", help="who ordered it so far, why")] = False,
    weighting: Annotated[
        str | None, typer.Option(help="of finished tasks in trainings: off, hard_first, curriculum")
    ] = None,
) -> None:
    """Show the queue with its reasons, or choose another strategy, which orders it anew."""
    from backend.steps import projects, status
    from backend.steps.proposing import order

    services = open_services()
    if weighting is not None:
        projects.choose_weighting(services, project, weighting)
        console.print(f"the next training weights samples by edit time: {weighting}")
        if strategy is None and not option:
            return
    if strategy is not None or option:
        chosen = projects.choose_strategy(services, project, strategy, _options(option or []))
        console.print(f"strategy is now {chosen.strategy}; the new order is being published")
        return
    if history:
        table = Table("since", "asked for", "in use", "why")
        for one in order.history(services, project):
            since = one.at.isoformat(timespec="seconds")
            table.add_row(since, one.strategy, one.acting, escape(one.reason))
        console.print(table)
        return
    table = Table("task", "priority", "why")
    for entry in status.queue_of(services, project)[:first]:
        table.add_row(
            str(entry.task), f"{entry.priority:.3f}", escape(entry.problem or entry.reason)
        )
    console.print(table)


def _options(given: list[str]) -> dict[str, float | str]:
    """Parse NAME=VALUE; values that are numbers become numbers. Raises InvalidPayload."""
    found: dict[str, float | str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise InvalidPayload(f"option {text!r} is not NAME=VALUE, as entropy=0.5")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = value
    return found


def strategies() -> None:
    """List the strategies with their options."""
    import strategies.base as known

    table = Table("strategy", "what comes first", "options")
    for name in known.names():
        strategy = known.get(name)
        shown = known.options_of(strategy)
        lines = [f"{o.name} = {o.default} ({o.wanted}): {o.help}" for o in shown]
        if name == "hybrid":
            lines = ["NAME = weight, one for each strategy to be mixed (0 to 100)"]
        table.add_row(name, escape(strategy.summary), escape("\n".join(lines)))
    console.print(table)


def budget(
    project: ProjectOption,
    annotators: Annotated[int, typer.Option(help="people who work")] = 1,
    minutes: Annotated[float, typer.Option(help="that each of them has")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Choose the tasks that teach the most within so much human time, with a forecast."""
    from backend.steps.proposing import order

    found = order.plan(open_services(), project, annotators=annotators, minutes=minutes)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    console.print(escape(found.forecast))
    console.print(escape("tasks: " + (" ".join(map(str, found.tasks)) or "none")))


def review(
    project: ProjectOption,
    first: Annotated[int, typer.Option(min=1, help="how many tasks to show")] = 20,
) -> None:
    """Show finished tasks whose annotation the model contradicts, the worst first."""
    from backend.steps.proposing import order

    table = Table("task", "suspicion", "why")
    for one in order.review(open_services(), project)[:first]:
        table.add_row(str(one.task), f"{one.suspicion:+.2f}", escape(one.reason))
    console.print(table)
