"""The dashboard: what its pages show, what its forms change, and what they refuse."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from fastapi.testclient import TestClient

from backend.records import Job, JobState, Task, Version
from backend.steps import damage
from backend.steps import projects as project_steps
from backend.store import jobs, projects, reigns, tasks, versions
from backend.web import forms
from backend.wiring import Services
from tests.web.conftest import AUTH

HOSTILE = "<script>alert(1)</script>"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)


def page(client: TestClient, path: str = "") -> str:
    answer = client.get(f"/dashboard{path}", auth=AUTH)
    assert answer.status_code == 200, answer.text
    return answer.text


def token_of(text: str) -> str:
    found = re.search(r'name="token" value="([^"]+)"', text)
    assert found, "the page has no form"
    return found[1]


def post(client: TestClient, path: str, token: str, **fields: str) -> tuple[int, str]:
    answer = client.post(
        f"/dashboard/projects/7/{path}",
        data={"token": token, **fields},
        auth=AUTH,
        follow_redirects=False,
    )
    return answer.status_code, answer.headers.get("location", answer.text)


def test_pages_need_the_password(client: TestClient, project: int) -> None:
    for path in ("", f"/projects/{project}", f"/projects/{project}/queue", "/static/dashboard.js"):
        answer = client.get(f"/dashboard{path}")
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Basic"


def test_the_list_links_to_each_project(client: TestClient, project: int) -> None:
    assert f'href="/dashboard/projects/{project}"' in page(client)


def test_without_projects_the_list_says_how_to_connect_one(client: TestClient) -> None:
    assert "labelclimb connect" in page(client)


def test_pages_allow_no_foreign_content(client: TestClient, project: int) -> None:
    answer = client.get(f"/dashboard/projects/{project}", auth=AUTH)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "form-action 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?! src=\"/dashboard/)|style=|onclick=|https?://", answer.text)


def test_what_users_wrote_is_escaped(client: TestClient, project: int, services: Services) -> None:
    with services.store.transaction() as tx:
        projects.update(tx, project, title=HOSTILE)
        tasks.upsert(tx, [Task(id=3, project=project, image="/data/x.png")])
        tasks.set_problem(tx, project, 3, HOSTILE)
        jobs.put(tx, Job("train-7-a", project, "train", "failed", error=HOSTILE, created_at=NOW))
    for path in ("", "/projects/7", "/projects/7/queue", "/projects/7/versions"):
        text = page(client, path)
        assert HOSTILE not in text
        assert html.escape(HOSTILE) in text


def test_a_strategy_is_chosen_with_its_options(
    client: TestClient, project: int, services: Services
) -> None:
    token = token_of(page(client, "/projects/7/queue"))
    fields = {"strategy": "value_per_second", "option.gain": "margin"}
    code, location = post(client, "strategy", token, **fields)
    assert (code, location) == (303, "/dashboard/projects/7/queue?done=strategy")
    chosen = project_steps.require(services, project)
    assert (chosen.strategy, dict(chosen.strategy_options)) == (
        "value_per_second",
        {"gain": "margin"},
    )
    assert '<option value="value_per_second" selected' in page(client, "/projects/7/queue")


def test_training_settings_are_changed_within_the_limits_of_the_api(
    client: TestClient, project: int, services: Services
) -> None:
    token = token_of(page(client, "/projects/7"))
    given = {"train_after": "33", "quiet_s": "12.5", "max_wait_s": "700", "schedule": ""}
    code, location = post(client, "settings", token, **given)
    assert (code, location) == (303, "/dashboard/projects/7?done=settings")
    changed = project_steps.require(services, project)
    assert (changed.train_after, changed.quiet_s, changed.max_wait_s) == (33, 12.5, 700)
    code, text = post(client, "settings", token, **{**given, "train_after": "0"})
    assert code == 400
    assert "train_after" in text
    assert project_steps.require(services, project).train_after == 33


def test_train_now_is_kept_as_a_request(
    client: TestClient, project: int, services: Services
) -> None:
    token = token_of(page(client, "/projects/7"))
    assert post(client, "train", token) == (303, "/dashboard/projects/7?done=train")
    assert "A training was asked for." in page(client, "/projects/7?done=train")


def test_what_done_says_is_ours_alone(client: TestClient, project: int) -> None:
    assert HOSTILE not in page(client, f"/projects/7?done={HOSTILE}")


@pytest.mark.parametrize("token", ["", "1.2", "nonsense", "99999999999.aa"])
def test_a_form_of_another_site_changes_nothing(
    client: TestClient, project: int, services: Services, token: str
) -> None:
    before = project_steps.require(services, project)
    code, text = post(client, "settings", token, train_after="5")
    assert code == 400
    assert "not ours" in text
    assert project_steps.require(services, project) == before


def test_a_browser_that_names_another_site_is_refused(client: TestClient, project: int) -> None:
    token = token_of(page(client, "/projects/7"))
    answer = client.post(
        "/dashboard/projects/7/train",
        data={"token": token},
        auth=AUTH,
        headers={"Sec-Fetch-Site": "cross-site"},
    )
    assert answer.status_code == 400


def test_a_token_ends(services: Services) -> None:
    token = forms.token(services.credentials, NOW)
    assert forms.is_valid(services.credentials, token, NOW + timedelta(hours=12))
    assert not forms.is_valid(services.credentials, token, NOW + timedelta(hours=12, seconds=1))
    assert not forms.is_valid(services.credentials, token, NOW - timedelta(seconds=1))


def test_a_running_job_shows_where_it_stands(
    client: TestClient, project: int, services: Services
) -> None:
    detail = {"stage": "training", "class_name": "crack", "step": 40, "steps": 400}
    detail |= {"fraction": 0.1, "loss": 0.51234, "f_measure": 0.25, "seconds_left": 81.4}
    with services.store.transaction() as tx:
        jobs.put(tx, Job("train-7-b", project, "train", "running", detail, created_at=NOW))
    text = page(client, "/projects/7/live")
    assert "training, crack, step 40 of 400, loss 0.512, F 0.250, 81 s left" in text
    assert 'value="0.1"' in text
    assert 'value="train-7-b"' in text, "it can be cancelled"


@pytest.mark.parametrize(
    ("state", "is_put_off", "is_offered"),
    [
        ("queued", False, True),
        ("waiting", False, True),
        ("gating", False, True),
        ("publishing", False, False),
        ("failed", True, True),
        ("failed", False, False),
        ("cancelled", False, False),
    ],
)
def test_cancel_is_offered_where_it_can_be_done(
    client: TestClient,
    project: int,
    services: Services,
    state: JobState,
    is_put_off: bool,
    is_offered: bool,
) -> None:
    again_at = NOW + timedelta(minutes=5) if is_put_off else None
    job = Job("train-7-d", project, "train", state, error="disk full", again_at=again_at)
    with services.store.transaction() as tx:
        jobs.put(tx, replace(job, created_at=NOW, finished_at=NOW))
    text = page(client, "/projects/7/live")
    assert ('value="train-7-d"' in text) == is_offered
    words = " ".join(text.split())
    assert ("disk full; tried again at 2026-11-21 12:05:00 UTC" in words) == is_put_off
    code, _ = post(client, "cancel", token_of(page(client, "/projects/7")), job="train-7-d")
    assert code == (303 if is_offered else 409)


def test_the_queue_links_to_label_studio_and_says_why(
    client: TestClient, project: int, services: Services
) -> None:
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(id=n, project=project, image="/data/x.png") for n in (3, 4)])
    text = page(client, "/projects/7/queue")
    assert 'href="http://127.0.0.1:9/projects/7/data?task=3"' in text
    assert "The queue" in text


@pytest.mark.parametrize("query", ["annotators=x&minutes=5", "annotators=2&minutes=-1"])
def test_nonsense_for_the_forecast_is_explained(
    client: TestClient, project: int, query: str
) -> None:
    answer = client.get(f"/dashboard/projects/7/queue?{query}", auth=AUTH)
    assert answer.status_code == 400
    assert answer.headers["Content-Type"].startswith("text/html")


def test_an_unknown_project_is_a_page_too(client: TestClient) -> None:
    answer = client.get("/dashboard/projects/99", auth=AUTH)
    assert answer.status_code == 404
    assert "labelclimb connect --project 99" in answer.text
    assert answer.headers["Content-Type"].startswith("text/html")


def test_only_its_own_files_are_served(client: TestClient) -> None:
    assert client.get("/dashboard/static/dashboard.css", auth=AUTH).status_code == 200
    for name in ("..%2Fapp.py", "dashboard.py", "../forms.py"):
        assert client.get(f"/dashboard/static/{name}", auth=AUTH).status_code in (400, 404)


def test_a_job_is_cancelled_from_its_own_project_alone(
    client: TestClient, project: int, services: Services
) -> None:
    with services.store.transaction() as tx:
        jobs.put(tx, Job("train-7-c", project, "train", "queued", created_at=NOW))
        projects.add(tx, replace(project_steps.require(services, project), id=8))
    token = token_of(page(client, "/projects/7"))
    other = client.post(
        "/dashboard/projects/8/cancel", data={"token": token, "job": "train-7-c"}, auth=AUTH
    )
    assert other.status_code == 404
    post(client, "cancel", token, job="train-7-c")  # Redis is down: it cannot be told
    assert project_steps.job(services, "train-7-c").state == "cancelled"


def test_rollback_and_weighting_are_chosen(
    client: TestClient, project: int, services: Services
) -> None:
    token = token_of(page(client, "/projects/7"))
    code, _ = post(client, "settings", token, rollback="auto", weighting="curriculum")
    changed = project_steps.require(services, project)
    assert (code, changed.rollback, changed.weighting) == (303, "auto", "curriculum")
    text = page(client, "/projects/7")
    assert '<option value="auto" selected>' in text
    assert '<option value="curriculum" selected>' in text


def test_a_fallen_version_can_be_left_on_the_page(
    client: TestClient, project: int, services: Services
) -> None:
    made = [
        Version(project, n, "challenger", "advcam", f"s{n}", NOW, classes=("crack",))
        for n in (1, 2)
    ]
    for version in made:
        services.registry.save(project, version.number, lambda folder: (folder / "w").touch())
        with services.store.transaction() as tx:
            versions.add(tx, version)
            project_steps.promote(tx, project, version.number, at=NOW)
    with services.store.transaction() as tx:
        assert reigns.note(tx, project, 2, 12, {"state": "fallen"})
    text = page(client, "/projects/7")
    assert "Go back to v1" in text
    given = {"leave": "2"}
    assert post(client, "rollback", token_of(text), **given)[0] == 303
    assert project_steps.require(services, project).champion == 1
    code, text = post(client, "rollback", token_of(text), **given)
    assert code == 400
    assert "not in use any more" in text


def test_a_damaged_version_is_said_and_cannot_be_used(
    client: TestClient, project: int, services: Services
) -> None:
    version = Version(project, 1, "challenger", "advcam", "s1", NOW, classes=("crack",))
    services.registry.save(project, 1, lambda folder: (folder / "<w>").write_text("w") and None)
    with services.store.transaction() as tx:
        versions.add(tx, version)
        project_steps.promote(tx, project, 1, at=NOW)
    (services.registry.folder(project, 1) / "<w>").write_text("x")
    assert damage.left(services, project, 1)
    said = page(client, "/projects/7")
    assert "v1 was left as damaged, and no former version can be used" in said
    listed = page(client, "/projects/7/versions")
    assert "&lt;w&gt; was changed: SHA-256" in listed and "<button>Use</button>" not in listed
    token = token_of(said)
    assert "v1 is damaged and never used again" in post(client, "activate", token, number="1")[1]
    body = client.get("/api/projects/7", auth=AUTH).json()
    assert body["damage"].startswith("v1 was left as damaged")
