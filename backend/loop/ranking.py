"""The order of a project's open tasks: evidence in, priorities and reasons out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

import strategies.base
from backend.loop import difficulty
from backend.loop.difficulty import Difficulty
from backend.loop.ordering import pooling, reasons
from backend.loop.ordering.spreading import spread
from backend.records import Interaction, TaskEvidence
from strategies.base import NO_OPTIONS, Options, Pool, Strategy, Trial
from strategies.geometry.groups import k_means

CLUSTERS = 8  # groups of tasks from which people who work at once are served in turn
FIELDS = {  # what a field of the pool is, to whoever chose a strategy that needs it
    "tile_probs": "predicted tasks",
    "pixel_doubt": "the doubt along the outlines, which versions tell from their next training on",
    "edit_seconds": "predicted tasks",
    "embeddings": "embeddings of one version for all tasks",
    "samples": "stochastic passes of the model over all tasks, kept from the next training on",
    "committee_probs": "proposals of two versions",
    "class_share": "finished tasks",
    "annotated": "finished tasks and orders no open ones (see `labelclimb review`)",
}


@dataclass(frozen=True)
class Ranking:
    """An order of tasks, most urgent first.

    priorities: {task: in [0, 1]}, larger = sooner. strategy: the one that made the order.
    note: why that is not the one asked for, "" when it is; why: what made a strategy that chooses
    among others choose it. edit_seconds: {task: predicted seconds}
    of the tasks with evidence; basis: what that prediction rests on; difficulty: all of it.
    reasons: {task: why it is where it is, in one sentence}. clusters: {task: its group} where the
    strategy asks that people who work at once get tasks of different kinds (then the head of the
    order is spread over them, see `ordering.spreading`), else {}.
    """

    order: tuple[int, ...]
    priorities: Mapping[int, float]
    strategy: str
    note: str
    why: str
    edit_seconds: Mapping[int, float]
    basis: str
    difficulty: Difficulty = field(default_factory=lambda: Difficulty({}, ""))
    reasons: Mapping[int, str] = field(default_factory=dict)
    clusters: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """What a project has come to know beside the open tasks' evidence.

    past: its interactions; past_evidence: of their tasks, from the versions whose proposals were
    corrected. committee: {task: evidence} of earlier versions, the newest first. finished: number
    of finished tasks. trials: what earlier strategies were worth.
    """

    past: Sequence[Interaction] = ()
    past_evidence: Sequence[TaskEvidence] = ()
    committee: Sequence[Mapping[int, TaskEvidence]] = ()
    finished: int = 0
    trials: tuple[Trial, ...] = ()


def rank(
    tasks: Sequence[int],
    evidence: Mapping[int, TaskEvidence],
    known: Known,
    *,
    strategy: str,
    seed: int,
    options: Options = NO_OPTIONS,
) -> Ranking:
    """Rank tasks; those without evidence (their image has a problem) come last.

    evidence: of one version; that of other tasks than `tasks` (finished ones) says what is covered.
    Raises ValueError for an unknown strategy, wrong options and evidence that is not finite.
    """
    chosen = strategies.base.get(strategy)
    strategies.base.complete(chosen, options)
    pool, predicted = pool_of(tasks, evidence, known)
    used, options, note = _able(strategy, pool, options)
    ranked = strategies.base.rank(strategies.base.get(used), pool, seed, options).tolist()
    acting, why = _acting(used, pool, options)
    groups = groups_of(pool, seed) if _is_diverse(acting) else {}
    order = (*spread(ranked, groups), *_last(tasks, ranked, seed))
    return Ranking(
        order=order,
        priorities=strategies.base.priorities(order),
        strategy=acting,
        note=note,
        why=why,
        edit_seconds=predicted.seconds,
        basis=predicted.basis,
        difficulty=predicted,
        reasons=reasons.of(order, evidence, predicted, strategies.base.get(acting)),
        clusters=groups,
    )


def pool_of(
    tasks: Sequence[int], evidence: Mapping[int, TaskEvidence], known: Known
) -> tuple[Pool, Difficulty]:
    """Return the pool of those tasks that have evidence, by id, and their predicted difficulty."""
    open_tasks = set(tasks)
    seen = [evidence[task] for task in sorted(open_tasks) if task in evidence]
    seen = [found for found in seen if found.tile_probs]
    predicted = difficulty.predict(seen, known.past, known.past_evidence)
    pool = pooling.of_evidence(seen, predicted.seconds)
    done = [evidence[t] for t in sorted(evidence.keys() - open_tasks)]
    finished = max(known.finished, len({one.task for one in known.past}))
    progress = finished / max(1, finished + len(open_tasks))
    pool = replace(pool, trials=known.trials, progress=progress)
    if not seen:
        return pool, predicted
    classes = pooling.classes_of(seen)
    return (
        replace(
            pool,
            **pooling.committee(seen, known.committee, classes),
            labelled_embeddings=pooling.embeddings(done, like=pool.embeddings),
            class_share=pooling.class_share(known.past, finished, classes),
        ),
        predicted,
    )


def _able(strategy: str, pool: Pool, options: Options) -> tuple[str, Options, str]:
    """Return the strategy to use with its options, and why it is not the one asked for."""
    chosen = strategies.base.get(strategy)
    absent = strategies.base.missing(chosen, pool, options)
    if not absent:
        return strategy, options, ""
    instead = (getattr(chosen, "instead", "entropy"), "entropy", "random_order")
    used = next(
        name for name in instead if not strategies.base.missing(strategies.base.get(name), pool)
    )
    wanted = ", ".join(dict.fromkeys(FIELDS[name] for name in absent if name in FIELDS))
    if used == strategy:
        return used, NO_OPTIONS, f"{strategy} without its options, which need {wanted}"
    return used, NO_OPTIONS, f"{used} instead of {strategy}, which needs {wanted}"


def _acting(strategy: str, pool: Pool, options: Options) -> tuple[str, str]:
    """Return the strategy that made the order in the end, and why when it was a choice."""
    chosen: Strategy = strategies.base.get(strategy)
    acting = getattr(chosen, "acting", None)
    if acting is None:
        return strategy, ""
    name, why = acting(pool, **strategies.base.complete(chosen, options))
    return name, f"{strategy} {why}"


def groups_of(pool: Pool, seed: int) -> dict[int, int]:
    """Return {task: its group} of at most CLUSTERS groups of alike tasks; {} without embeddings."""
    if pool.embeddings is None:
        return {}
    group, _ = k_means(pool.embeddings, CLUSTERS, np.random.default_rng((seed, 2)))
    return dict(zip(pool.ids.tolist(), group.tolist(), strict=True))


def _is_diverse(strategy: str) -> bool:
    return bool(getattr(strategies.base.get(strategy), "diverse", False))


def _last(tasks: Sequence[int], ranked: Sequence[int], seed: int) -> list[int]:
    """Return the tasks that no version could look at, in an order that stays."""
    left = np.array(sorted(set(tasks) - set(ranked)), dtype=np.int64)
    order = strategies.base.rank(strategies.base.get("random_order"), Pool(left), seed)
    return [int(task) for task in order]
