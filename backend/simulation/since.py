""" "What if we had used X since Monday": a project's real work in another order.

Every task costs the seconds that it really took and brings the correction that it really brought.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from rich.console import Console

from backend.loop import ranking
from backend.loop.ranking import Known
from backend.simulation import costs, history, results, table
from backend.simulation.costs import Cost
from backend.simulation.history import Finished, History
from backend.simulation.options import Contender
from backend.simulation.results import Run
from backend.steps import projects
from backend.steps.proposing import order
from backend.steps.training import taught
from backend.wiring import Services
from strategies import simulate
from strategies.simulate import Done, Round

AS_IT_WAS = "as it was"
SHARE_OF_TIME = 0.5  # in the whole time every order finishes all tasks

Result = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What is asked: of which project, since when, by which strategies; seeds: orders of each."""

    project: int
    since: datetime
    contenders: tuple[Contender, ...]
    seeds: int


@dataclass
class StoreWorld:
    """A project's work; a state is the version that serves, None before the first.

    A version comes when as many human seconds are spent as really were when it came. Its evidence
    of a task is in the store where the task was still open; elsewhere that of the version before
    it serves (older counts those tasks).
    """

    past: History
    contender: Contender
    seed: int
    notes: set[str] = field(default_factory=set)
    older: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._finished = {one.task: one for one in self.past.finished}

    def correct(
        self,
        state: int | None,  # noqa: ARG002 - the protocol
        task: int,
    ) -> Done[Finished]:
        """Finish a task as it was finished."""
        return Done(task, self._finished[task].seconds, self._finished[task])

    def learn(
        self,
        before: int | None,  # noqa: ARG002 - the protocol
        done: Sequence[Done[Finished]],
    ) -> int | None:
        """Return the version that serves when so many seconds are spent."""
        spent_s = sum(one.seconds for one in done)
        arrived = [number for at_s, number in arrivals(self.past) if at_s <= spent_s]
        return arrived[-1] if arrived else None

    def rank(
        self, state: int | None, waiting: Sequence[int], done: Sequence[Done[Finished]]
    ) -> Sequence[int]:
        """Order the waiting tasks with what was known of them, and of what is finished."""
        found = {task: self.past.evidence_of(state, task) for task in waiting}
        evidence = {task: one for task, one in found.items() if one is not None}
        self.older |= {task for task, one in evidence.items() if one.number != state}
        learnt = [i for one in done for i in one.label.interactions]
        ranked = ranking.rank(
            waiting,
            evidence,
            Known(
                past=[*self.past.before, *learnt],
                past_evidence=self.past.past_evidence,
                finished=self.past.was_finished + len(done),
            ),
            strategy=self.contender.strategy,
            seed=self.seed,
            options=self.contender.options,
        )
        if ranked.note:
            self.notes.add(ranked.note)
        return ranked.order

    def judge(self, state: int | None) -> float:  # noqa: ARG002 - the protocol
        """Say nothing of a version: what came is counted task by task."""
        return 0.0


def run(services: Services, wanted: Wanted, console: Console) -> Result:
    """Replay the work by each strategy, show and return the comparison; raises SettingsError."""
    past = history.read(services, wanted.project, wanted.since)
    runs, older = [], set[int]()
    for seed in range(wanted.seeds):
        runs.append(Run(AS_IT_WAS, seed, tuple(_corrections(past, past.finished))))
        for contender in wanted.contenders:
            world = StoreWorld(past, contender, seed)
            tasks = replayed(world)
            rounds = _corrections(past, [world.correct(None, task).label for task in tasks])
            runs.append(Run(contender.label, seed, tuple(rounds), tuple(sorted(world.notes))))
            older |= world.older
    result = _result(services, wanted, past, runs, len(older))
    table.show(console, result)
    return result


def replayed(world: StoreWorld) -> list[int]:
    """Return all finished tasks in the order in which the strategy would have served them."""
    start = simulate.begin(world, ())
    marks_s = [at_s for at_s, _ in arrivals(world.past)] + [math.inf]
    tasks = [one.task for one in world.past.finished]
    rounds = simulate.replay(world, start, tasks, budget_s=math.inf, marks_s=marks_s)
    return [task for one in rounds for task in one.tasks]


def arrivals(past: History) -> list[tuple[float, int]]:
    """Return (human seconds that were really spent when it came, version), oldest first."""
    first = past.version_at(past.since)
    found = [] if first is None else [(0.0, first)]
    for at, number in past.serving:
        if at > past.since:
            spent_s = sum(one.seconds for one in past.finished if one.at <= at)
            found.append((spent_s, number))
    return found


def cost_of(services: Services, project_id: int) -> Cost:
    """Return the cost model fitted on a project's real seconds; raises SettingsError if too few."""
    projects.require(services, project_id)
    with services.store.reading() as tx:
        past = taught.past(tx, project_id, services.settings)
        seen = order.evidence_of(tx, project_id, past, embeddings=False)
    return costs.of_project(past, seen)


def _corrections(past: History, ordered: Sequence[Finished]) -> list[Round]:
    """Return, task by task, the share of all changed pixels that had come by then."""
    total = sum(one.pixels for one in past.finished) or 1
    rounds = [Round((), 0.0, 0.0)]
    pixels = 0
    for one in ordered:
        pixels += one.pixels
        rounds.append(Round((one.task,), rounds[-1].spent_s + one.seconds, pixels / total))
    return rounds


def _result(
    services: Services, wanted: Wanted, past: History, runs: Sequence[Run], older: int
) -> Result:
    budget_s = SHARE_OF_TIME * past.total_s
    within = [replace(run, rounds=_until(run.rounds, budget_s)) for run in runs]
    return {
        "kind": "a project's real work in other orders",
        "class": f"project {wanted.project} since {wanted.since:%Y-%m-%d %H:%M} UTC",
        "title": f"project {wanted.project} since {wanted.since:%Y-%m-%d}; band: all seeds",
        "value": "share of all changed pixels that had come",
        "axis": "share of all corrections",
        "budget_s": budget_s,
        "total_s": past.total_s,
        "tasks": len(past.finished),
        "still_open": past.still_open,
        "untimed": past.untimed,
        "arrived_later": past.arrived,
        "ranked_by_older_evidence": older,
        "cost": "real edit seconds of the store, cleaned as in loop.edit_time",
        "seeds": wanted.seeds,
        "strategies": results.compared(within, budget_s),
        "limits": _limits(past, older),
        "left_out": [],
        "date": services.clock().isoformat(timespec="seconds"),
    }


def _until(rounds: Sequence[Round], budget_s: float) -> tuple[Round, ...]:
    """Keep what is finished within the budget."""
    return tuple(one for one in rounds if one.spent_s <= budget_s)


def _limits(past: History, older: int) -> list[str]:
    """Say what the replay cannot say."""
    others = f"{past.still_open} are still open, {past.untimed} have no known seconds"
    found = [
        f"replayed are the {len(past.finished)} tasks that were open then and have been finished "
        f"since ({others}; {past.arrived} were imported later): nobody knows what others would "
        "have taken",
        "compared is the first half of the time: in all of it every order finishes every task",
        "each task costs and brings what it really did; with another order other versions would "
        "have been trained, other proposals been corrected, and this cannot say how",
        "changed pixels say how much people had to put right, not what the model learnt from it",
    ]
    if older:
        found.append(
            f"{older} tasks were ranked by evidence of an older version than the one that served: "
            "they were finished before it came, and it has never looked at them"
        )
    return found
