"""The dashboard in a real Chromium: its own policy lets its own parts work, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from backend.processes.supervisor import free_port
from backend.records import Job, Task
from backend.settings import Settings
from backend.steps import projects as project_steps
from backend.store import jobs, projects, tasks
from backend.web.app import create_app
from backend.wiring import Services, build
from tests.e2e import browser
from tests.web.conftest import CONFIG

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

USER, PASSWORD = "ann", "secret-word"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)
DETAIL = {"stage": "training", "class_name": "crack", "step": 40, "steps": 400, "fraction": 0.1}


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    environ = {
        "DATA_DIR": str(tmp_path),
        "BASIC_AUTH_USER": USER,
        "BASIC_AUTH_PASS": PASSWORD,
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": "0" * 40,
        "REDIS_URL": f"unix://{tmp_path}/nobody.sock",
    }
    built = build(Settings.from_env(environ))
    project_steps.adopt(built, 7, CONFIG, "Bridge 12")
    with built.store.transaction() as tx:
        tasks.upsert(tx, [Task(id=n, project=7, image=f"/data/{n}.png") for n in range(1, 6)])
        jobs.put(tx, Job("train-7-a", 7, "train", "running", DETAIL, created_at=NOW))
    yield built
    built.close()


@pytest.fixture
def address(services: Services) -> Iterator[str]:
    port = free_port(0)
    server = uvicorn.Server(
        uvicorn.Config(create_app(services), host="127.0.0.1", port=port, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    yield f"http://{USER}:{PASSWORD}@127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page() -> Iterator[Page]:
    with browser.chromium_page() as opened:
        yield opened


def test_a_manager_watches_a_training_and_changes_the_strategy(
    address: str, page: Page, services: Services, tmp_path: Path
) -> None:
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text))
    page.goto(f"{address}/dashboard")
    page.get_by_role("link", name="Bridge 12").click()
    expect(page.get_by_text("step 40 of 400")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('.card')).borderRadius") == "6px"

    with services.store.transaction() as tx:
        jobs.progress(tx, "train-7-a", {**DETAIL, "step": 200, "fraction": 0.5})
    by_itself = page.get_by_text("step 200 of 400")
    expect(by_itself).to_be_visible(timeout=browser.TIMEOUT_MS)

    page.screenshot(path=str(tmp_path / "overview.png"))
    page.get_by_role("link", name="Queue").click()
    page.locator("#strategy").select_option("hybrid")
    expect(page.locator("fieldset[data-strategy=hybrid]")).to_be_visible()
    page.screenshot(path=str(tmp_path / "queue.png"))
    page.get_by_role("button", name="Order the queue by it").click()
    expect(page.get_by_role("status")).to_contain_text("ordered anew")
    expect(page.locator("#strategy")).to_have_value("hybrid")
    with services.store.reading() as tx:
        project = projects.get(tx, 7)
    assert project is not None
    assert project.strategy == "hybrid"
    assert complaints == [], "the content policy stops none of our own parts"


def test_a_form_on_another_page_is_refused(address: str, page: Page, services: Services) -> None:
    page.goto(f"{address}/dashboard")  # from now on the browser sends the password by itself
    page.goto("about:blank")
    page.set_content(
        f'<form method="post" action="{address}/dashboard/projects/7/settings">'
        '<input name="train_after" value="1"><button>Win a prize</button></form>'
    )
    page.get_by_role("button").click()
    expect(page.get_by_text("not ours")).to_be_visible()
    with services.store.reading() as tx:
        project = projects.get(tx, 7)
    assert project is not None
    assert project.train_after != 1
