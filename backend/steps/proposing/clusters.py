"""Tell Label Studio which of the most urgent tasks are alike, so that nobody gets many alike.

Its uncertainty sampling prefers, for each person, tasks of the clusters of which that person has
done the fewest, and the lowest score among them. Importing predictions drops their `cluster`;
changing a stored prediction keeps it. That costs two requests each, so it is done after the order
is shown, for the most urgent tasks alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import structlog

from backend.errors import LabelStudioError
from backend.loop.ordering.spreading import FIRST
from backend.store import projects
from backend.wiring import Services

log = structlog.get_logger(__name__)


def send(
    services: Services,
    project_id: int,
    name: str,
    order: Sequence[int],
    clusters: Mapping[int, int],
    check: Callable[[], None],
) -> int:
    """Send the clusters of the first tasks of an order that is shown as `name`; returns how many.

    One that Label Studio does not keep is logged and left: the order alone is right as well. Nor is
    a newer order kept waiting. check: raises if another process may be publishing by now.
    """
    wanted = [task for task in order[:FIRST] if task in clusters]
    kept = 0
    for task in wanted:
        check()
        if _is_overtaken(services, project_id):
            return kept
        try:
            kept += _sent(services, task, name, clusters[task])
        except LabelStudioError as error:
            log.warning("no cluster sent", project=project_id, task=task, reason=str(error))
            break
    if kept < len(wanted):
        log.warning("clusters are missing", project=project_id, kept=kept, wanted=len(wanted))
    return kept


def _is_overtaken(services: Services, project_id: int) -> bool:
    with services.store.reading() as tx:
        project = projects.get(tx, project_id)
    return project is not None and project.order_shown < project.order_wanted


def _sent(services: Services, task: int, name: str, cluster: int) -> bool:
    """Say whether the task's prediction is there and has its cluster now."""
    for found in services.labelstudio.predictions(task):
        if found.get("model_version") == name:
            answer = services.labelstudio.update_prediction(int(found["id"]), cluster=cluster)
            return answer.get("cluster") == cluster
    return False
