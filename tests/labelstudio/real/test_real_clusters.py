"""Clusters on a real Label Studio: two people at once, and one after another, get unlike tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backend.labelstudio.client import LabelStudio
from backend.loop.ranking import Known, Ranking, rank
from backend.settings import Settings
from backend.steps.proposing import clusters
from backend.wiring import Services, build
from tests.e2e.label_studio_server import LabelStudioServer, checked
from tests.labelstudio import payloads
from tests.loop.making import evidence

pytestmark = pytest.mark.e2e

NAME = "v1"
KINDS = 3  # of surface; the first is the most uncertain throughout
EACH = 4


@pytest.fixture
def services(label_studio: LabelStudioServer, tmp_path: Path) -> Iterator[Services]:
    environ = {
        "DATA_DIR": str(tmp_path),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
    }
    made = build(Settings.from_env(environ))
    yield made
    made.close()


@pytest.fixture
def project(services: Services) -> Iterator[int]:
    created = services.labelstudio.create_project("labelclimb clusters", payloads.CONFIG)
    yield int(created["id"])
    services.labelstudio.delete_project(int(created["id"]))


@pytest.fixture(scope="module")
def second(label_studio: LabelStudioServer) -> Iterator[LabelStudio]:
    """Give the client of another annotator, who joins by the invitation link."""
    with label_studio.client() as http:
        link = str(checked(http.get("/api/invite"))["invite_url"])
    with httpx.Client(base_url=label_studio.url, timeout=60, follow_redirects=True) as person:
        person.get(link)
        body = {
            "email": "second@example.com",
            "password": "labelclimb-e2e",
            "csrfmiddlewaretoken": person.cookies["csrftoken"],
        }
        person.post(link, data=body, headers={"Referer": label_studio.url}).raise_for_status()
        token = str(checked(person.get("/api/current-user/token"))["token"])
    client = LabelStudio(label_studio.url, token)
    yield client
    client.close()


def ranked(tasks: list[int], strategy: str) -> Ranking:
    """Rank tasks of KINDS kinds of surface, EACH in a row, the first kinds the most doubtful."""
    seen = {
        task: evidence(
            task,
            tile_probs=((0.5 - 0.03 * n,),),
            embedding=tuple(float(n // EACH == kind) for kind in range(KINDS)),
        )
        for n, task in enumerate(tasks)
    }
    options = {"entropy": 1.0} if strategy == "hybrid" else {}
    return rank(tasks, seen, Known(), strategy=strategy, seed=0, options=options)


def shown(services: Services, project: int, strategy: str) -> tuple[list[int], Ranking]:
    """Import tasks and show their predictions in the order of a strategy."""
    client = services.labelstudio
    rows = [{"data": {"image": f"/data/upload/{n}.png"}} for n in range(KINDS * EACH)]
    tasks = client.import_tasks(project, rows)
    found = ranked(tasks, strategy)
    pushed = [
        {"task": t, "result": [], "score": 1 - p, "model_version": NAME}
        for t, p in found.priorities.items()
    ]
    assert client.import_predictions(project, pushed) == {}
    client.patch_project(project, model_version=NAME, sampling="Uncertainty sampling")
    return tasks, found


def test_two_annotators_at_once_get_tasks_of_different_clusters(
    services: Services, project: int, second: LabelStudio
) -> None:
    tasks, found = shown(services, project, "hybrid")
    sent = clusters.send(services, project, NAME, found.order, found.clusters, lambda: None)
    assert sent == len(tasks) and len(set(found.clusters.values())) >= KINDS
    people, served = (services.labelstudio, second), []
    for _ in range(EACH):
        held = [int((person.next_task(project) or {})["id"]) for person in people]
        assert found.clusters[held[0]] != found.clusters[held[1]], "both at once"
        for person, task in zip(people, held, strict=True):
            person.create_annotation(task, [], lead_time=1.0)
        served.append(held)
    for own in zip(*served, strict=True):
        kinds = [found.clusters[task] for task in own]
        assert len(set(kinds[:KINDS])) == KINDS, f"one after another: {kinds}"


def test_without_clusters_both_get_the_same_kind(
    services: Services, project: int, second: LabelStudio
) -> None:
    """What the strategies that order by doubt alone give, and why the other test can fail."""
    tasks, found = shown(services, project, "entropy")
    held = [
        int((person.next_task(project) or {})["id"]) for person in (services.labelstudio, second)
    ]
    assert held == tasks[:2] and found.clusters == {}


def test_each_person_gets_the_cluster_done_least_and_the_rest_counts_as_one(
    services: Services, project: int
) -> None:
    """Whatever the scores say; tasks without a cluster, beyond the first ones, are a group too."""
    client = services.labelstudio
    tasks = client.import_tasks(project, [{"data": {"image": f"/{n}.png"}} for n in range(7)])
    rows = [
        {"task": task, "result": [], "score": n / 10, "model_version": NAME}
        for n, task in enumerate(tasks)
    ]
    assert client.import_predictions(project, rows) == {}
    client.patch_project(project, model_version=NAME, sampling="Uncertainty sampling")
    kinds = dict(zip(tasks, (0, 0, 0, 1, 1, 2), strict=False))
    assert clusters.send(services, project, NAME, tasks, kinds, lambda: None) == 6
    served = []
    while task := client.next_task(project):
        client.create_annotation(int(task["id"]), [], lead_time=1.0)
        served.append(tasks.index(int(task["id"])))
    assert served == [0, 3, 5, 6, 1, 4, 2]


def test_an_import_drops_the_cluster_and_a_change_keeps_it(
    services: Services, project: int
) -> None:
    client = services.labelstudio
    (task,) = client.import_tasks(project, [{"data": {"image": "/data/upload/1.png"}}])
    row = {"task": task, "result": [], "score": 0.5, "model_version": NAME, "cluster": 3}
    assert client.import_predictions(project, [row]) == {}
    (stored,) = client.predictions(task)
    assert stored["cluster"] is None
    assert clusters.send(services, project, NAME, [task], {task: 3}, lambda: None) == 1
    (stored,) = client.predictions(task)
    assert (stored["cluster"], stored["score"], stored["model_version"]) == (3, 0.5, NAME)
    assert clusters.send(services, project, "v9", [task], {task: 4}, lambda: None) == 0
