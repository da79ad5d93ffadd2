"""The order of a project's queue from what the store knows: who is next, why, at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from sqlalchemy import Connection

import strategies.base
from backend.errors import InvalidPayload
from backend.loop import budget, difficulty, ranking
from backend.loop.budget import Plan, Work
from backend.loop.ordering import pooling, reviewing, trials
from backend.loop.ordering.reviewing import Suspect
from backend.loop.ranking import Known, Ranking
from backend.records import Interaction, Project, StrategyChoice, TaskEvidence
from backend.steps import projects
from backend.steps.training import taught
from backend.store import choices, proposals, tasks, versions
from backend.wiring import Services
from strategies.base import Options, Strategy
from strategies.value_per_second import GAINS

MOST_PAST = 2000  # newest corrected proposals, from which edit seconds are learned
MOST_ANNOTATORS, MOST_MINUTES = 1000, 60_000.0


def of_open(services: Services, project: Project, open_tasks: Sequence[int]) -> Ranking:
    """Rank the open tasks by the project's strategy, or by what stands in for it."""
    chosen = strategies.base.get(project.strategy)
    evidence, known = _gathered(services, project, open_tasks, chosen, project.strategy_options)
    return ranking.rank(
        open_tasks,
        evidence,
        known,
        strategy=project.strategy,
        seed=services.settings.seed,
        options=project.strategy_options,
    )


def note(services: Services, project: Project, ranked: Ranking) -> None:
    """Keep which strategy orders the queue from now on, when that has changed."""
    reason = ranked.note or ranked.why
    made = StrategyChoice(
        project.id, services.clock(), project.strategy, ranked.strategy, reason=reason
    )
    with services.store.transaction() as tx:
        choices.note(tx, made)


def history(services: Services, project_id: int) -> list[StrategyChoice]:
    """Return which strategy ordered the queue since when, the newest last; raises UnknownThing."""
    projects.require(services, project_id)
    with services.store.reading() as tx:
        found: list[StrategyChoice] = choices.list(tx, project_id)
    return found


def plan(services: Services, project_id: int, *, annotators: int, minutes: float) -> Plan:
    """Return the batch that teaches the most within so much human time, and its forecast.

    Gain is the utility of the project's strategy where that measures what is learnt, of `entropy`
    otherwise. Raises UnknownThing for the project and InvalidPayload for what nobody can work.
    """
    _require_work(annotators, minutes)
    project = projects.require(services, project_id)
    measure = project.strategy if project.strategy in GAINS else "entropy"
    options = project.strategy_options if measure == project.strategy else {}
    strategy = strategies.base.get(measure)
    with services.store.reading() as tx:
        open_tasks = [task.id for task in tasks.open(tx, project_id)]
    evidence, known = _gathered(services, project, open_tasks, strategy, options)
    pool, predicted = ranking.pool_of(open_tasks, evidence, known)
    if strategies.base.missing(strategy, pool, options):
        strategy, options = strategies.base.get("entropy"), {}
    gains = {}
    if len(pool):
        rng = np.random.default_rng(services.settings.seed)
        found = strategies.base.utilities(strategy, pool, rng, options)
        gains = dict(zip(pool.ids.tolist(), found.tolist(), strict=True))
    return budget.plan(
        gains,
        predicted.seconds,
        Work(annotators, minutes),
        groups=ranking.groups_of(pool, services.settings.seed),
        intervals=predicted.intervals,
        basis=predicted.basis,
        worth=trials.in_words(known.trials, annotators * minutes),
    )


def review(services: Services, project_id: int) -> list[Suspect]:
    """Return the finished tasks that deserve a second look, the worst first."""
    projects.require(services, project_id)
    with services.store.reading() as tx:
        past = taught.past(tx, project_id, services.settings)
        seen = evidence_of(tx, project_id, past, embeddings=False)
    return reviewing.suspects(past, seen, seed=services.settings.seed)


def _gathered(
    services: Services,
    project: Project,
    open_tasks: Sequence[int],
    strategy: Strategy,
    options: Options,
) -> tuple[Mapping[int, TaskEvidence], Known]:
    """Read what the strategy may need: evidence of the version in use, and what else is known.

    Embeddings, which are most of the bytes, only where the strategy, its groups of alike tasks or
    learned seconds use them, and stochastic passes only where the strategy does.
    """
    wished = strategies.base.wishes(strategy, options)
    number = project.champion or 0
    with services.store.reading() as tx:
        past = taught.past(tx, project.id, services.settings)
        is_wished = "embeddings" in wished
        is_diverse = bool(getattr(strategy, "diverse", False))  # alike tasks are told by embedding
        learned = len({one.annotation for one in past}) >= difficulty.NEEDED
        embeddings = is_wished or is_diverse or learned
        evidence = proposals.evidence(
            tx,
            project.id,
            number,
            only=None if is_wished else open_tasks,
            embeddings=embeddings,
            samples="samples" in wished,
        )
        known = Known(
            past=past,
            past_evidence=evidence_of(tx, project.id, past, embeddings=embeddings),
            finished=len(tasks.all(tx, project.id)) - len(open_tasks),
            trials=trials.of_project(
                versions.list(tx, project.id), past, choices.list(tx, project.id)
            ),
        )
        if "committee_probs" in wished:
            earlier = _earlier(tx, project.id, number, open_tasks)
            known = replace(known, committee=earlier)
    return evidence, known


def _earlier(
    tx: Connection, project_id: int, number: int, open_tasks: Sequence[int]
) -> list[Mapping[int, TaskEvidence]]:
    """Return the open tasks' evidence of the versions before this one, the newest first."""
    found: list[Mapping[int, TaskEvidence]] = []
    for earlier in range(number - 1, 0, -1):
        seen = proposals.evidence(
            tx, project_id, earlier, only=open_tasks, embeddings=False, samples=False
        )
        if seen:
            found.append(seen)
        if len(found) == pooling.MEMBERS - 1:
            break
    return found


def evidence_of(
    tx: Connection, project_id: int, past: Sequence[Interaction], *, embeddings: bool
) -> list[TaskEvidence]:
    """Return what the versions whose proposals were corrected had computed of those tasks."""
    newest = dict.fromkeys((i.version, i.task) for i in reversed(past) if i.version is not None)
    wanted: dict[int, list[int]] = {}
    for version, task in sorted(list(newest)[:MOST_PAST]):
        wanted.setdefault(version, []).append(task)
    return [
        found
        for version, ids in wanted.items()
        for found in proposals.evidence(
            tx, project_id, version, only=ids, embeddings=embeddings, samples=False
        ).values()
    ]


def _require_work(annotators: int, minutes: float) -> None:
    if not 1 <= annotators <= MOST_ANNOTATORS:
        raise InvalidPayload(f"annotators is {annotators}; give 1 to {MOST_ANNOTATORS}")
    if not 0 < minutes <= MOST_MINUTES:
        raise InvalidPayload(f"minutes is {minutes}; give more than 0, {MOST_MINUTES:g} at most")
