"""The doctor's checks of this machine and of the store: plant a fault, see that check name it."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from redis import Redis
from rich.console import Console
from rq import Queue, Worker
from safetensors.numpy import save_file

from backend.doctor import chain, machine, mending, project, report, server
from backend.doctor.case import Case, Finding, error, ok, warning
from backend.processes.supervisor import free_port
from backend.queueing.embedded_redis import embedded_server
from backend.queueing.queues import Queues
from backend.records import Job, Task, Version
from backend.settings import Settings
from backend.steps import damage, projects
from backend.store import Store, inbox, jobs, tasks, versions
from backend.wiring import build
from tests.migrated import new_store
from tests.steps.conftest import CONFIG

NOW = datetime.now(timezone.utc)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Settings of a machine on which nothing runs."""
    return {
        "DATA_DIR": str(tmp_path / "data"),
        "PORT": str(free_port(0)),
        "LABEL_STUDIO_URL": f"http://127.0.0.1:{free_port(0)}",
        "LABEL_STUDIO_API_KEY": "0" * 40,
        "REDIS_URL": f"unix://{tmp_path}/nobody.sock",
    }


@pytest.fixture
def case(environ: dict[str, str]) -> Iterator[Case]:
    made = Case(environ, project_id=7)
    made.settings = Settings.from_env(environ)
    made.settings.data_dir.mkdir()
    yield made
    made.close()


@pytest.fixture
def wired(case: Case) -> Case:
    """A connected project with a task, as checks of the project find it."""
    new_store(case.settings.data_dir)
    case.services = replace(build(case.settings), clock=lambda: NOW)
    case.client = case.services.labelstudio
    case.project = projects.adopt(case.services, 7, CONFIG, title="bridge")
    case.payload = {"id": 7, "label_config": CONFIG}
    with case.services.store.transaction() as tx:
        tasks.upsert(tx, [Task(7, 11, "/data/upload/7/11.jpg", NOW)])
    return case


@pytest.fixture
def redis(case: Case) -> Iterator[Redis]:
    """A real Redis, named in the case's settings."""
    command, url = embedded_server(case.settings.data_dir)
    with subprocess.Popen([*command, "--loglevel", "warning"]) as process:
        while process.poll() is None and machine.redis(on_redis(case, url)).state != "ok":
            pass
        with Redis.from_url(url) as connection:
            yield connection
        process.terminate()
    shutil.rmtree(Path(url.removeprefix("unix://")).parent)


def on_redis(case: Case, url: str) -> Case:
    case.settings = Settings.from_env({**case.environ, "REDIS_URL": url})
    return case


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def test_nothing_running_is_one_error_each_and_the_rest_is_skipped(
    environ: dict[str, str],
) -> None:
    found = by_check(chain.examine(environ, 7))
    wrong = {name for name, finding in found.items() if finding.state == "error"}
    assert wrong == {"redis", "api", "label studio"}
    assert found["workers"].what == "not looked at, because of: redis"
    assert found["project"].what == "not looked at, because of: key"
    assert all(f.state == "skipped" for f in found.values() if f.project == 7)
    assert all(found[name].command for name in wrong)
    assert "LABEL_STUDIO_URL" in found["label studio"].what
    assert chain.exit_code(found.values()) == 2


def test_wrong_settings_stop_everything_with_the_setting_to_unset(
    environ: dict[str, str],
) -> None:
    found = by_check(chain.examine({**environ, "PORT": "none"}))
    assert found["settings"].state == "error"
    assert "PORT='none' cannot be used" in found["settings"].what
    assert found["settings"].command == "unset PORT"
    assert {f.state for name, f in found.items() if name != "settings"} == {"skipped"}


def test_a_folder_that_is_a_file(case: Case, tmp_path: Path) -> None:
    assert machine.data_folder(case).state == "ok"
    (tmp_path / "file").touch()
    case.settings = Settings(data_dir=tmp_path / "file")
    assert "cannot be written" in machine.data_folder(case).what


@pytest.mark.parametrize(("free", "state"), [(10**8, "error"), (10**9, "warning"), (10**10, "ok")])
def test_too_little_room(
    case: Case, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    usage = shutil.disk_usage(case.settings.data_dir)._replace(free=free)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    assert machine.data_folder(case).state == state


def database_file(case: Case) -> Path:
    return Path(case.settings.database_url.partition("///")[2])


def test_a_database_that_is_none_or_has_lost_a_column_or_a_page(case: Case) -> None:
    assert machine.database(case).state == "ok"
    with sqlite3.connect(database_file(case)) as opened:
        opened.execute("ALTER TABLE tasks DROP COLUMN problem")
    opened.close()
    lost = machine.database(case)
    assert (lost.state, "tasks.problem is missing" in lost.what) == ("error", True)
    database_file(case).write_bytes(b"no database at all" * 100)
    found = machine.database(case)
    assert (found.state, "cannot be opened" in found.what) == ("error", True)
    assert str(database_file(case)) in found.command


def test_a_damaged_page_of_the_database_is_found(case: Case) -> None:
    store = Store.open(case.settings.database_url)
    with store.transaction() as tx:
        tx.exec_driver_sql("CREATE TABLE filler AS SELECT randomblob(900) AS x, 1 AS n")
        for _ in range(8):
            tx.exec_driver_sql("INSERT INTO filler SELECT randomblob(900), n + 1 FROM filler")
    store.close()
    with sqlite3.connect(database_file(case)) as opened:
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    opened.close()
    data = bytearray(database_file(case).read_bytes())
    page = len(data) - 2 * 4096  # of the filler, which nothing else reads
    data[page : page + 4096] = b"\xff" * 4096
    database_file(case).write_bytes(data)
    assert "the database is damaged" in machine.database(case).what


def test_credentials_that_cannot_be_read(case: Case) -> None:
    assert machine.credentials(case).state == "ok"
    file = case.settings.data_dir / "credentials.json"
    file.write_text("{")
    found = machine.credentials(case)
    assert (found.state, found.command) == ("error", f"rm {file}")


def test_workers_of_every_queue_and_the_scheduler(case: Case, redis: Redis) -> None:
    assert machine.redis(case).state == "ok"
    assert machine.workers(case).command == "labelclimb worker events publish train"
    for names in (["events"], ["publish"]):
        queues = [Queue(name, connection=redis) for name in names]
        Worker(queues, connection=redis).register_birth()
    assert machine.workers(case).command == "labelclimb worker train"
    Worker([Queue("train", connection=redis)], connection=redis).register_birth()
    assert machine.workers(case).what == "events 1, publish 1, train 1"
    assert machine.scheduler(case).what == "no scheduler runs"
    Queues(case.settings.redis_url).beat("scheduler")
    assert machine.scheduler(case).state == "ok"
    stale = (NOW - timedelta(minutes=5)).timestamp()
    redis.set("labelclimb:beat:scheduler", repr(stale))
    late = machine.scheduler(case)
    assert (late.state, late.command) == ("warning", "labelclimb scheduler")
    assert machine.failed_jobs(case).state == "ok"


def test_the_embedded_redis_of_up_is_meant_when_none_is_named(environ: dict[str, str]) -> None:
    del environ["REDIS_URL"]
    case = Case(environ)
    assert machine.settings(case).state == "ok"
    assert case.settings.redis_url.startswith("unix://")


@pytest.mark.parametrize(
    ("built_for", "has_driver", "words"),
    [
        ("12.4", False, "no NVIDIA driver"),
        (None, True, "built for processors"),
        ("12.4", True, "CUDA 12.4, which the driver does not serve"),
    ],
)
def test_why_there_is_no_gpu(built_for: str | None, has_driver: bool, words: str) -> None:
    assert words in machine._no_cuda(built_for, has_driver=has_driver)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_asked_for_and_missing(case: Case) -> None:
    assert machine.gpu(case).state != "error"
    case.settings = Settings(device="cuda:0")
    found = machine.gpu(case)
    assert (found.state, found.command) == ("error", "export DEVICE=auto")


def test_encoder_weights(case: Case, tmp_path: Path) -> None:
    assert machine.encoder_weights(case).command == "export ENCODER_WEIGHTS=hub"
    file = tmp_path / "w.safetensors"
    save_file({"conv1.weight": np.zeros(3, np.float32)}, file)
    case.settings = Settings(encoder_weights=str(file))
    assert machine.encoder_weights(case).what == "w.safetensors with 1 tensors"
    file.write_bytes(b"<html>not found</html>")
    assert machine.encoder_weights(case).command == "unset ENCODER_WEIGHTS"


def test_keys_that_cannot_work(case: Case) -> None:
    case.settings = Settings(label_studio_url="http://ls")
    assert "is not set" in server.token(case).what
    header, claims = "eyJhbGciOiJIUzI1NiJ9", "eyJ0b2tlbl90eXBlIjoiYWNjZXNzIn0"  # an access token
    case.settings = Settings(
        label_studio_url="http://ls", label_studio_api_key=f"{header}.{claims}.x"
    )
    found = server.token(case)
    assert "access token" in found.what
    assert "http://ls/user/account" in found.command


def test_no_project_is_a_warning_with_the_command(environ: dict[str, str]) -> None:
    case = Case(environ)
    found = project.project(case)
    assert (found.state, found.command) == ("warning", "labelclimb connect --project ID")


def put_event(case: Case, body: dict[str, Any], age: timedelta) -> int:
    with case.services.store.transaction() as tx:
        return inbox.put(tx, body["action"], body, "webhook", NOW - age)


def task_created(number: int) -> dict[str, Any]:
    row = {"id": number, "data": {"image": f"/data/upload/7/{number}.jpg"}}
    about = {"id": 7, "title": "bridge", "label_config": CONFIG}
    return {"action": "TASKS_CREATED", "project": about, "tasks": [row]}


def test_an_event_that_was_given_up_is_tried_again(wired: Case) -> None:
    assert project.events(wired).state == "ok"
    event = put_event(wired, task_created(12), timedelta())
    with wired.services.store.transaction() as tx:
        for _ in range(inbox.MAX_ATTEMPTS):
            inbox.begin(tx, event)
            inbox.failed(tx, event, "the disk was full")
    found = project.events(wired)
    assert "TASKS_CREATED: the disk was full" in found.what
    assert (found.state, found.command) == ("error", "labelclimb events --retry all")
    assert mending.mend(wired, [found]) == ["1 events handled, 0 left"]
    assert project.events(wired).state == "ok"
    with wired.services.store.reading() as tx:
        assert tasks.get(tx, 7, 12) is not None


def test_events_that_nobody_handles(wired: Case) -> None:
    put_event(wired, task_created(12), timedelta(seconds=10))
    assert project.events(wired).what == "1 wait, none was given up"
    put_event(wired, task_created(13), timedelta(hours=1))
    found = project.events(wired)
    assert (found.state, found.command) == ("error", "labelclimb worker events")


def test_a_failed_training_is_told_with_its_reason(wired: Case) -> None:
    assert project.trainings(wired).state == "ok"
    with wired.services.store.transaction() as tx:
        jobs.put(tx, Job("train-7-x", 7, "train", "failed", error="out of memory", created_at=NOW))
    found = project.trainings(wired)
    assert "out of memory" in found.what
    assert found.command == "labelclimb train --project 7"


def test_a_champion_whose_files_were_changed(wired: Case) -> None:
    for number in (1, 2):
        wired.services.registry.save(7, number, lambda new: (new / "w").write_text("w") and None)
        with wired.services.store.transaction() as tx:
            versions.next_number(tx, 7)
            versions.add(tx, Version(7, number, "challenger", "advcam", f"s{number}", NOW))
            projects.promote(tx, 7, number)
    folder = wired.services.registry.folder(7, 2)
    (folder / "w").write_text("other")
    wired.project = projects.require(wired.services, 7)
    found = machine.model(wired)
    assert "/w was changed" in found.what
    assert found.command == "labelclimb activate --project 7 1"


def test_what_became_of_a_damaged_champion(wired: Case) -> None:
    residents: Any = wired.services.residents
    residents.get = lambda project, number, pipeline: wired.services.registry.folder(7, number)
    for number in (1, 2):
        wired.services.registry.save(7, number, lambda new: (new / "w").write_text("w") and None)
        with wired.services.store.transaction() as tx:
            versions.next_number(tx, 7)
            versions.add(tx, Version(7, number, "challenger", "advcam", f"s{number}", NOW))
            projects.promote(tx, 7, number)
    (wired.services.registry.folder(7, 2) / "w").write_text("other")
    assert damage.left(wired.services, 7, 2)
    wired.project = projects.require(wired.services, 7)
    found = machine.model(wired)
    assert found.state == "warning" and "v1 (advcam) is whole" in found.what
    assert "but v2 was left as damaged" in found.what
    (wired.services.registry.folder(7, 1) / "w").unlink()
    assert damage.left(wired.services, 7, 1)
    wired.project = projects.require(wired.services, 7)
    found = machine.model(wired)
    assert found.state == "error" and found.command == "labelclimb train --project 7"
    assert found.what.startswith("v1 was left as damaged, and no former version can be used")


def test_warnings_and_errors_have_their_exit_codes() -> None:
    assert chain.exit_code([ok("a")]) == 0
    assert chain.exit_code([ok("a"), warning("b"), Finding("skipped", "c")]) == 1
    assert chain.exit_code([warning("b"), error("d")]) == 2


def test_the_report_is_plain_where_there_is_no_terminal_and_whole_as_json() -> None:
    long = "it [bold]is[/bold] " + "very " * 40 + "wrong"
    bad = error(long, why="so it is", command="mend it", mend="connect").of("thing", 7)
    findings = [ok("fine").of("settings", None), bad]
    written = io.StringIO()
    report.show(Console(file=written), findings, ["mended that"])
    lines = written.getvalue().splitlines()
    assert lines[0] == "done     mended that"
    assert lines[1].split() == ["ok", "settings", "fine"]
    assert lines[2] == "project 7"
    assert lines[3] == f"error    {'thing':<18}{long}"
    assert [line.strip() for line in lines[4:]] == ["so it is", "$ mend it", "1 error, 1 ok"]
    told = json.loads(report.as_json(findings, ["mended that"]))
    assert (told["exit"], told["done"]) == (2, ["mended that"])
    assert told["findings"][1] == {
        "state": "error",
        "what": long,
        "why": "so it is",
        "command": "mend it",
        "mend": "connect",
        "check": "thing",
        "project": 7,
    }


def test_every_check_needs_only_what_is_looked_at_before() -> None:
    seen: set[str] = set()
    for check in (*chain.MACHINE, *chain.PROJECT, *chain.task.CHECKS):
        assert set(check.needs) <= seen, check.name
        assert check.name not in seen, check.name
        seen.add(check.name)


def test_an_act_that_fails_is_told_and_stops_no_other(wired: Case) -> None:
    connecting = replace(error("x", mend="connect"), project=7)
    event = put_event(wired, task_created(14), timedelta())
    waiting = error("y", mend="events")
    lines = mending.mend(wired, [connecting, waiting, waiting])
    assert "connect of project 7 failed: Label Studio at" in lines[0]
    assert lines[1:] == ["1 events handled, 0 left"]
    with wired.services.store.reading() as tx:
        assert inbox.state(tx, event) == inbox.DONE
