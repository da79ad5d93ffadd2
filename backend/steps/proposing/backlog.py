"""Predict the open tasks that lack proposals, by as many workers as there are.

Tasks are cut into blocks by their ids, and each block is a job of its own name: any worker takes
the next one, no task is in two of them, and a block that died with its worker is enqueued again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from backend.records import Project, Task
from backend.steps import queues
from backend.steps.proposing.problems import is_blocked
from backend.steps.proposing.propose import propose
from backend.steps.training import progress
from backend.store import projects, proposals, tasks
from backend.wiring import Services

BLOCK = 16  # ids; few, so that a small backlog is shared too
AHEAD = 4  # blocks in the queue per worker; few, so that other projects have their turn
CHUNK_S = 2.0  # after which a job begins no further task: a click on a new image waits for it


def enqueue(services: Services, project_id: int) -> bool:
    """Enqueue the next blocks that are not enqueued yet; False when there is nothing to predict."""
    project, lacking = missing(services, project_id)
    if project is None or project.champion is None or not lacking:
        return False
    blocks: defaultdict[int, list[int]] = defaultdict(list)
    for task in lacking:
        blocks[task.id // BLOCK].append(task.id)
    workers = services.queues.workers().get(queues.PUBLISH, 0)
    for block in sorted(blocks)[: AHEAD * max(1, workers)]:
        queues.predict_block(services, project_id, project.champion, block, blocks[block])
    return True


def predict_block(services: Services, project_id: int, number: int, ids: Sequence[int]) -> None:
    """Predict those tasks of a block that still lack proposals, as far as the time allows.

    Nothing when another version has become the champion meanwhile.
    """
    with services.store.reading() as tx:
        project = projects.get(tx, project_id)
        known = [tasks.get(tx, project_id, id) for id in ids]
        lacking = [
            task
            for task in known
            if task is not None
            and not is_blocked(task, number)
            and not proposals.has(tx, project_id, number, task.id)
        ]
    if project is not None and project.champion == number:
        propose(services, project, number, lacking, longest_s=CHUNK_S)
    queues.publish(services, project_id)


def missing(services: Services, project_id: int) -> tuple[Project | None, list[Task]]:
    """Return a project and what is to be predicted; notes at its training how much is done."""
    with services.store.reading() as tx:
        project = projects.get(tx, project_id)
        if project is None or project.champion is None:
            return None, []
        done = proposals.tasks_done(tx, project_id, project.champion)
        waiting = [t for t in tasks.open(tx, project_id) if not is_blocked(t, project.champion)]
    lacking = [task for task in waiting if task.id not in done]
    progress.published(services, project_id, len(waiting) - len(lacking), len(waiting))
    return project, lacking
