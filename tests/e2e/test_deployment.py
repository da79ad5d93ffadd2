"""What docker-compose.yml starts walks the loop: PostgreSQL, Redis, S3 and Label Studio are real.

The tests of this file build on each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from backend.demo import annotator, project, surfaces
from backend.processes.supervisor import Supervisor
from backend.steps import connect, decide, projects
from backend.store import inbox, learning
from backend.wiring import Services
from models.base import Mask
from tests.e2e.deployment import PARTS, Deployment
from tests.e2e.label_studio_server import LabelStudioServer
from tests.e2e.product import eventually, predictions_of
from tests.postgresql_server import PostgresqlServer
from tests.registry.s3_server import S3Server, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CLASSES = ("crack",)
TASKS, CLICKED = 10, 6
SIZE = {"width_px": 240, "height_px": 160}
TRAINING_S = 400.0


@dataclass
class Site:
    """The running services and one project with images."""

    deployment: Deployment
    services: Services
    project: int
    truth: dict[int, dict[str, Mask]]

    def clicks(self) -> int:
        with self.services.store.reading() as tx:
            return [w.source for w in learning.weak_labels(tx, self.project)].count("click")

    def shown(self) -> str | None:
        """The name that Label Studio shows, once nothing is left to publish."""
        if decide.publication_due(self.services, self.project):
            return None
        return projects.require(self.services, self.project).published


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def site(
    label_studio: LabelStudioServer,
    postgresql: PostgresqlServer,
    s3: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("deployment")
    postgresql.execute("CREATE ROLE labelclimb SUPERUSER LOGIN")
    deployment = Deployment(folder, label_studio, postgresql, s3)
    images = surfaces.write_dataset(folder / "surfaces", TASKS, 5, classes=CLASSES, **SIZE)
    with Supervisor(folder / "logs") as supervisor:
        supervisor.start(deployment.redis())
        complaints = {name: deployment.complaint(name) for name in PARTS}
        assert None not in complaints.values(), f"nothing runs, but is called healthy: {complaints}"
        supervisor.start(*(deployment.part(name) for name in PARTS))
        services = deployment.services()
        client = services.labelstudio
        made = client.create_project("the deployment", project.label_config(CLASSES))
        ids = client.upload_images(made["id"], images)
        masks = [folder / "surfaces" / "masks" / "crack" / f"{path.stem}.png" for path in images]
        truth = {task: {"crack": mask(path)} for task, path in zip(ids, masks, strict=True)}
        yield Site(deployment, services, int(made["id"]), truth)
        services.close()


def mask(path: Path) -> Mask:
    with PillowImage.open(path) as image:
        return np.asarray(image.convert("L")) > 127


def click(site: Site, task: int) -> int:
    """Enter clicks of both signs as an annotator; returns the number of weak labels they make."""
    rng = np.random.default_rng(task)
    clicks = annotator.first_clicks(site.truth[task], rng, 5, 5, 12)
    result = annotator.keypoint_result(clicks, negative_label=project.NOTHING, rng=rng, **SIZE)
    site.services.labelstudio.create_annotation(task, result, lead_time=10.0)
    return len(clicks)


def test_all_parts_are_healthy_by_their_own_checks(site: Site) -> None:
    assert {name: site.deployment.complaint(name) for name in PARTS} == dict.fromkeys(PARTS)


def test_label_studio_takes_the_address_in_the_file_for_a_webhook(site: Site) -> None:
    client = site.services.labelstudio
    project_id = int(client.create_project("a webhook", project.label_config(CLASSES))["id"])
    client.create_webhook(project_id, f"{site.deployment.backend_url}/webhook", headers={})
    assert len(client.list_webhooks(project_id)) == 1


def test_clicks_become_a_version_in_the_bucket_and_proposals_in_label_studio(site: Site) -> None:
    services = site.services
    found = connect.connect(services, site.project, services.settings.backend_url).found
    assert found.tasks == TASKS
    tasks = sorted(site.truth)
    placed = sum(click(site, task) for task in tasks[:CLICKED])
    eventually(lambda: site.clicks() == placed or None, f"{placed} clicks")
    assert eventually(site.shown, "a first version", TRAINING_S) == "v1"
    for task in tasks[CLICKED:]:
        assert [p["model_version"] for p in predictions_of(services, task)] == ["v1"]
    assert services.registry.list(site.project) == [1]
    assert (services.registry.folder(site.project, 1) / "auto.json").exists()
    assert services.registry.metadata(site.project, 1) == {"device": "cpu"}
    assert not (services.settings.data_dir / "models").exists(), "it is in the bucket alone"


def test_a_restart_of_the_database_loses_nothing_and_nobody_has_to_be_restarted(
    site: Site, postgresql: PostgresqlServer
) -> None:
    before = site.clicks()
    postgresql.restart()
    placed = click(site, sorted(site.truth)[-1])
    eventually(lambda: site.clicks() == before + placed or None, "the clicks after the restart")
    with site.services.store.reading() as tx:
        assert inbox.dead(tx) == []
    assert {name: site.deployment.complaint(name) for name in PARTS} == dict.fromkeys(PARTS)
