"""The doctor, against a real Label Studio: what people and accidents do to a project there."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.label_studio_server import LabelStudioServer
from tests.labelstudio.site import TASKS, Site, publish_all, site_at, state_of, train

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def kept(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with site_at(label_studio, tmp_path_factory.mktemp("site")) as site:
        site.connect()
        train(site, 1)
        yield site


def patch_webhook(site: Site, *, is_active: bool) -> None:
    (row,) = site.client.list_webhooks(site.project)
    site.client.patch_webhook(row["id"], {"is_active": is_active})


def test_predictions_that_vanish_are_found_and_published_anew(kept: Site) -> None:
    healthy = kept.faults()
    (shown,) = kept.client.model_versions(kept.project)
    kept.client.delete_model_version(kept.project, shown)
    assert kept.faults() - healthy == {"model version"}
    kept.fix()
    publish_all(kept)
    assert kept.faults() == healthy
    (again,) = kept.client.model_versions(kept.project)
    assert kept.client.model_versions(kept.project)[again] == TASKS


def test_a_prediction_too_few_and_a_wrong_order_are_published_anew(kept: Site) -> None:
    healthy = kept.faults()
    first = kept.client.predictions(kept.tasks[0])
    kept.client.session.call("DELETE", f"/api/predictions/{first[0]['id']}/")
    assert kept.faults() - healthy == {"predictions"}
    walked = kept.findings(task=kept.tasks[0])
    assert "holds 0 predictions" in walked["task prediction"].what
    kept.fix()
    assert kept.faults() == healthy
    last = kept.client.serving_order(kept.project, TASKS)[-1]["id"]
    (row,) = kept.client.predictions(last)
    kept.client.session.call("PATCH", f"/api/predictions/{row['id']}/", json={"score": 0.0})
    found = kept.findings()
    assert {c for c, f in found.items() if f.state == "error"} - healthy == {"order"}
    assert f"serves task {last}" in found["order"].what
    kept.fix()
    assert kept.faults() == healthy


def test_looking_locks_no_task_and_changes_nothing(kept: Site) -> None:
    before = (state_of(kept), kept.client.model_versions(kept.project))
    first = kept.client.serving_order(kept.project, 1)[0]["id"]
    kept.findings(task=first)
    assert (state_of(kept), kept.client.model_versions(kept.project)) == before
    own = kept.client.tasks(kept.project, include="id,locked_by")
    assert not [t["id"] for t in own if t.get("locked_by")]


def test_one_task_is_walked_from_its_image_to_what_it_taught(kept: Site) -> None:
    task = kept.tasks[1]
    shown = kept.client.predictions(task)[0]["result"]
    drawn = [{**item, "origin": "prediction"} for item in shown]
    made = kept.client.create_annotation(task, drawn, lead_time=7.0)
    kept.handle_all()
    walked = kept.findings(task=task)
    assert "24 x 16 px" in walked["task image"].what
    assert "v1: crack 0." in walked["task proposal"].what
    assert walked["task place"].what == "it is annotated and waits for nobody"
    assert f"{made['id']} (7 s)" in walked["task annotations"].what
    assert "crack accepted" in walked["task learnt"].what
    kept.client.delete_annotation(made["id"])
    kept.handle_all()
    publish_all(kept)


def test_events_that_never_came_are_fetched(kept: Site) -> None:
    healthy = kept.faults()
    patch_webhook(kept, is_active=False)
    made = kept.client.create_annotation(kept.tasks[2], [], lead_time=1.0)
    patch_webhook(kept, is_active=True)
    assert kept.faults() - healthy == {"in step"}
    assert any("1 annotations" in line for line in kept.fix())
    assert kept.faults() == healthy
    kept.client.delete_annotation(made["id"])
    kept.handle_all()


def test_an_image_that_is_gone_is_found(label_studio: LabelStudioServer, kept: Site) -> None:
    healthy = kept.faults()
    next_task = kept.client.serving_order(kept.project, 1)[0]["id"]
    payload = next(t for t in kept.client.tasks(kept.project) if t["id"] == next_task)
    upload = payload["data"]["image"].removeprefix("/data/")
    (file,) = label_studio.data_folder.rglob(upload)
    hidden = file.rename(file.with_suffix(".hidden"))
    try:
        found = kept.findings()
        assert {c for c, f in found.items() if f.state == "error"} - healthy == {"image"}
        assert f"the image of task {next_task} cannot be had" in found["image"].what
    finally:
        hidden.rename(file)
    assert kept.faults() == healthy


def test_keys_that_label_studio_does_not_take(label_studio: LabelStudioServer, kept: Site) -> None:
    healthy = kept.faults()
    wrong = kept.findings(LABEL_STUDIO_API_KEY="f" * 40)
    assert wrong["key"].state == "error"
    assert {f.state for c, f in wrong.items() if c in ("project", "webhook", "order")} == {
        "skipped"
    }
    with label_studio.client() as http:
        personal = new_personal_token(http)
        off = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": False}
        http.post("/api/jwt/settings", json=off).raise_for_status()
        try:
            refused = kept.findings()["key"]
            assert "legacy token, and the organization has switched those off" in refused.what
            assert refused.command.startswith("export LABEL_STUDIO_API_KEY=")
            assert kept.faults(LABEL_STUDIO_API_KEY=personal) == healthy
        finally:
            session = httpx.Client(base_url=label_studio.url, trust_env=False)
            access = session.post("/api/token/refresh/", json={"refresh": personal}).json()
            on = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
            bearer = {"Authorization": f"Bearer {access['access']}"}
            session.post("/api/jwt/settings", json=on, headers=bearer).raise_for_status()
            session.close()


def new_personal_token(http: httpx.Client) -> str:
    wanted = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
    http.post("/api/jwt/settings", json=wanted).raise_for_status()
    for token in http.get("/api/token/").json():  # one per user, shown once
        http.post("/api/token/blacklist/", json={"refresh": token["token"]})
    return str(http.post("/api/token/", json={}).raise_for_status().json()["token"])
