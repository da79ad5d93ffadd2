"""Connecting, against a real Label Studio: each fault is made there, found, and mended."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.settings import Settings
from backend.steps import connect
from backend.store import projects as project_rows
from backend.store import tasks
from backend.wiring import build
from tests.e2e import label_studio_server
from tests.e2e.label_studio_server import LabelStudioServer
from tests.labelstudio.site import TASKS, Site, pictures, served, site_at, state_of, train, whole
from tests.steps.conftest import CONFIG

pytestmark = pytest.mark.e2e

BLOCKS = ("ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED")


@pytest.fixture
def fresh(label_studio: LabelStudioServer, tmp_path: Path) -> Iterator[Site]:
    with site_at(label_studio, tmp_path) as site:
        yield site


@pytest.fixture(scope="module")
def kept(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with site_at(label_studio, tmp_path_factory.mktemp("site")) as site:
        site.connect()
        train(site, 1)
        yield site


def test_connecting_makes_all_parts_and_a_second_time_nothing(fresh: Site) -> None:
    first = fresh.connect()
    assert first.problems == ()
    assert len(first.acts) == 4  # backend, the webhook's secret, sampling, model version
    assert state_of(fresh) == whole(fresh, "")
    second = fresh.connect()
    assert (second.acts, second.problems, second.found.tasks) == ((), (), 0)
    with fresh.services.store.reading() as tx:
        assert [t.id for t in tasks.all(tx, fresh.project)] == sorted(fresh.tasks)


def backend_row(site: Site) -> dict[str, Any]:
    (row,) = site.client.list_backends(site.project)
    return dict(row)


def patch_backend(site: Site, **changes: Any) -> None:
    own = site.services.credentials
    auth = {
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": own.user,
        "basic_auth_pass": own.password,
        **changes,
    }
    site.client.patch_backend(
        backend_row(site)["id"], **{"url": site.url, "project": site.project, **auth}
    )


def double_backend(site: Site) -> None:
    own = site.services.credentials
    site.client.connect_backend(
        site.project,
        site.url,
        title="again",
        auth_method="BASIC_AUTH",
        basic_auth_user=own.user,
        basic_auth_pass=own.password,
    )


def patch_webhook(site: Site, **changes: Any) -> None:
    (row,) = site.client.list_webhooks(site.project)
    site.client.patch_webhook(row["id"], changes)


def delete_webhook(site: Site) -> None:
    (row,) = site.client.list_webhooks(site.project)
    site.client.delete_webhook(row["id"])


def double_webhook(site: Site) -> None:
    site.client.create_webhook(site.project, f"{site.url}/webhook", headers={})


FAULTS: dict[str, tuple[str, Callable[[Site], Any], str]] = {
    "backend deleted": (
        "ml backend",
        lambda s: s.client.delete_backend(backend_row(s)["id"]),
        "no ML backend of ours",
    ),
    "backend doubled": ("ml backend", double_backend, "there 2 times"),
    "interactive off": (
        "ml backend",
        lambda s: patch_backend(s, is_interactive=False),
        "interactive tools off",
    ),
    "title changed": (
        "ml backend",
        lambda s: patch_backend(s, title="something"),
        "title 'something'",
    ),
    "webhook deleted": ("webhook", delete_webhook, "no webhook of ours"),
    "webhook doubled": ("webhook", double_webhook, "there 2 times"),
    "secret lost": ("webhook", lambda s: patch_webhook(s, headers={}), "secret missing"),
    "webhook off": ("webhook", lambda s: patch_webhook(s, is_active=False), "switched off"),
    "payload off": ("webhook", lambda s: patch_webhook(s, send_payload=False), "no payload"),
    "webhook filtered": (
        "webhook",
        lambda s: patch_webhook(s, send_for_all_actions=False, actions=["TASKS_CREATED"]),
        "only some events",
    ),
    "sampling changed": (
        "sampling",
        lambda s: s.client.patch_project(s.project, sampling="Sequential sampling"),
        "Sequential sampling",
    ),
    "another version shown": (
        "model version",
        lambda s: s.client.patch_project(s.project, model_version=""),
        "model_version is ''",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_alone_and_mended(kept: Site, fault: str) -> None:
    check, plant, words = FAULTS[fault]
    healthy = kept.faults()
    plant(kept)
    found = kept.findings()
    faulty = {f.check for f in found.values() if f.state in ("warning", "error")}
    assert faulty - healthy == {check}
    assert words in found[check].what
    assert found[check].command == f"labelclimb connect --project {kept.project}"
    done = kept.fix()
    assert done, "nothing was done"
    assert kept.faults() == healthy
    with kept.services.store.reading() as tx:
        known = project_rows.get(tx, kept.project)
    assert known is not None and known.published is not None
    assert state_of(kept) == whole(kept, known.published)
    assert kept.connect().acts == ()


def test_a_backend_whose_password_changed_is_given_the_new_one(
    label_studio: LabelStudioServer, tmp_path: Path
) -> None:
    with site_at(label_studio, tmp_path) as site:
        site.connect()
        row = backend_row(site)
    changed = {**site.environ, "BASIC_AUTH_PASS": "another", "REDIS_URL": "unix:///nobody.sock"}
    services = build(Settings.from_env(changed))
    try:
        with served(services):
            made = services.labelstudio.create_project("doctor again", CONFIG)["id"]
            own = {"auth_method": "BASIC_AUTH", "basic_auth_user": row["basic_auth_user"]}
            services.labelstudio.connect_backend(
                made, site.url, title="labelclimb", is_interactive=True,
                basic_auth_pass="another", **own,
            )  # fmt: skip
            connect.connect(services, made, site.url)
        third = build(Settings.from_env({**changed, "BASIC_AUTH_PASS": "third"}))
        with served(third):
            done = connect.connect(third, made, site.url)
            assert [a for a in done.acts if "state 'Error'" in a], done.acts
            assert connect.connect(third, made, site.url).acts == ()
        third.labelstudio.delete_project(made)
        third.close()
    finally:
        services.close()


def test_foreign_predictions_stay_until_ours_are_there(fresh: Site) -> None:
    rows = [
        {"task": task, "result": [], "score": 0.5, "model_version": "theirs"}
        for task in fresh.tasks
    ]
    fresh.client.import_predictions(fresh.project, rows)
    fresh.client.patch_project(fresh.project, model_version="theirs")
    fresh.connect()
    assert state_of(fresh)["model_version"] == "theirs"
    train(fresh, 1)
    assert state_of(fresh)["model_version"] == "v1"


@pytest.fixture(scope="module")
def half_blocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    """Give a Label Studio with one of its two network blocks off, which is a trap.

    It may serve files below its data folder's "files".
    """
    folder = tmp_path_factory.mktemp("half-blocked")
    data = folder / "label-studio"
    shutil.copytree(label_studio_server.template(label_studio_server.CACHE), data)
    (data / "files").mkdir()
    changes = {
        "SSRF_PROTECTION_ENABLED": "true",
        "LOCAL_FILES_SERVING_ENABLED": "true",
        "LOCAL_FILES_DOCUMENT_ROOT": str(data / "files"),
    }
    with label_studio_server.started(data, folder / "log", **changes) as server:
        yield server


@pytest.mark.usefixtures("label_studio")  # which skips where there is none
def test_half_open_network_blocks_are_named_and_the_rest_is_done(
    half_blocked: LabelStudioServer, tmp_path: Path
) -> None:
    with site_at(half_blocked, tmp_path) as site:
        done = site.connect()
        assert "although Label Studio said 403" in done.acts[0]
        (problem,) = done.problems
        assert all(name in problem for name in BLOCKS)
        assert len(site.client.list_backends(site.project)) == 1
        assert site.client.list_webhooks(site.project) == []
        found = site.findings()
        assert found["network"].state == "error"
        assert "SSRF_PROTECTION_ENABLED=false" in found["network"].command
        assert (found["webhook"].state, found["sampling"].state) == ("skipped", "ok")
        assert site.connect().found.tasks == 0
        with site.services.store.reading() as tx:
            assert len(tasks.all(tx, site.project)) == TASKS


@pytest.mark.usefixtures("label_studio")
def test_a_folder_of_images_is_added_once_and_served(
    half_blocked: LabelStudioServer, tmp_path: Path
) -> None:
    folder = half_blocked.data_folder / "files" / "bridge"
    pictures(folder / "below", 2)
    (folder / "notes.txt").write_text("no image")
    with site_at(half_blocked, tmp_path) as site:
        first = site.connect(local_files=str(folder))
        assert [a for a in first.acts if "2 tasks made" in a], first.acts
        assert not [a for a in site.connect(local_files=str(folder)).acts if "storage" in a]
        (storage,) = site.client.list_local_storages(site.project)
        assert storage["path"] == str(folder)
        with site.services.store.reading() as tx:
            served = [t for t in tasks.all(tx, site.project) if "local-files" in t.image]
        assert [t.image.rpartition("/")[2] for t in served] == ["0.png", "1.png"]
        assert site.services.images.load(served[0].image, served[0].id).shape == (16, 24, 3)
        refused = site.connect(local_files=str(tmp_path))
        assert [p for p in refused.problems if "LOCAL_FILES_DOCUMENT_ROOT" in p]


def test_an_address_without_a_dot_is_named_as_the_reason(
    fresh: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `http://api:9090` is, which Label Studio can call where `api` is a service beside it."""
    fresh.connect()
    bare = "http://api:9090"
    row = {**backend_row(fresh), "url": bare}  # this machine knows no such host to connect it at
    monkeypatch.setattr(type(fresh.client), "list_backends", lambda *_: [row])
    (problem,) = connect.connect(fresh.services, fresh.project, bare).problems
    assert problem.startswith(f"Label Studio cannot use {bare}/webhook; ")
    assert "A webhook's host needs a dot: choose another name." in problem
