"""`labelclimb demo`: Label Studio, the whole backend and a project by one command."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from backend.demo import dataset, label_studio, rounds, table
from backend.demo.project import DemoProject, enter_clicks, open_project
from backend.errors import ChildFailed, SettingsError
from backend.processes import running
from backend.processes.supervisor import Child, Supervisor, answers, free_port
from backend.records import Job, Version
from backend.settings import Settings
from backend.steps import projects, status
from backend.wiring import Services, build

LABEL_STUDIO_VENV = Path(".venv-label-studio")
ACCOUNT_FILE = "label-studio.json"
EMAIL = "demo@example.com"
FEW_CLICKS = (1 / 6, 1)  # share of the images, clicks per class: enough for a pretrained encoder
MORE_CLICKS = (1 / 3, 4)  # and what a first version from random weights needs
MAX_TASKS_PER_ROUND = 8
POLICY = {"TRAIN_AFTER": "40", "QUIET_S": "15"}  # a demo's annotator should not wait for long
AUTO_POLICY = {"TRAIN_AFTER": "1", "QUIET_S": "10"}  # the pause after a round starts the training

Result = TypeVar("Result")


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    images: Path | None
    masks: Path | None
    class_name: str
    limit: int
    seed: int
    auto: bool
    rounds: int
    stop: bool
    json_file: Path | None
    data: Path


def demo(options: Options, console: Console) -> int:
    """Run the demo; returns the exit code: 0 only when all that was asked for really happened."""
    data = _folder(options)
    images = _images(options, data, console)
    environ = _environment(data, AUTO_POLICY if options.auto else POLICY)
    settings = Settings.from_env(environ)
    try:
        with Supervisor(data / "logs") as supervisor:
            _start(supervisor, settings, environ, data, console)
            return _direct(supervisor, settings, environ, options, images, console)
    except ChildFailed as error:
        console.print(Text("stopped: ", "red") + Text(str(error)))
        return 1
    except KeyboardInterrupt:
        console.print("stopped; the next start goes on from here")
        return 130


def _folder(options: Options) -> Path:
    """One folder per set of images; an unattended run always starts from nothing."""
    name = _name(options.images.resolve()) if options.images else "generated"
    kind = "-auto" if options.auto else ""
    data = (options.data / f"{name}-{options.limit}-{options.seed}{kind}").resolve()
    if options.auto and (data / ACCOUNT_FILE).exists():
        running.refuse_second(data)
        shutil.rmtree(data)
    data.mkdir(parents=True, exist_ok=True)
    return data


def _name(images: Path) -> str:
    return images.parent.name if images.name == "images" else images.name


def _images(options: Options, data: Path, console: Console) -> list[dataset.DemoImage]:
    with console.status("images"):
        if options.images is None:
            return dataset.generated(data / "surfaces", options.limit, options.seed)
        return dataset.real(
            options.images, options.masks, options.class_name, options.limit, options.seed
        )


def _environment(data: Path, policy: dict[str, str]) -> dict[str, str]:
    """Everything local, on free ports, with secrets of its own; ENCODER_WEIGHTS etc. pass."""
    account = _account(data)
    port = free_port(int(os.environ.get("PORT", "9090")))
    label_studio_port = free_port(8080)
    return {
        **os.environ,
        **{key: value for key, value in policy.items() if key not in os.environ},
        "DATA_DIR": str(data),
        "PORT": str(port),
        "BACKEND_URL": f"http://127.0.0.1:{port}",
        "LABEL_STUDIO_URL": f"http://127.0.0.1:{label_studio_port}",
        "LABEL_STUDIO_API_KEY": account["token"],
    }


def _account(data: Path) -> dict[str, str]:
    path = data / ACCOUNT_FILE
    if not path.exists():
        account = {"password": secrets.token_urlsafe(12), "token": secrets.token_hex(20)}
        path.touch(mode=0o600)
        path.write_text(json.dumps(account))
    account = json.loads(path.read_text())
    return {key: str(value) for key, value in account.items()}


def _start(
    supervisor: Supervisor,
    settings: Settings,
    environ: dict[str, str],
    data: Path,
    console: Console,
) -> None:
    if not (LABEL_STUDIO_VENV / "bin" / "label-studio").exists():
        raise SettingsError(
            f"no Label Studio in {LABEL_STUDIO_VENV.resolve()}; start the demo by `make demo`, "
            "which installs it"
        )
    account = _account(data)
    command, own_environ = label_studio.command(
        LABEL_STUDIO_VENV,
        data / "label-studio",
        int(settings.label_studio_url.rpartition(":")[2]),
        EMAIL,
        account["password"],
        account["token"],
    )
    url = f"{settings.label_studio_url}/health"
    with console.status("starting Label Studio (the first time takes a minute)"):
        supervisor.start(Child("label-studio", command, own_environ, answers(url), deadline_s=300))
    with console.status("starting labelclimb"):
        environ.update(running.start_all(supervisor, settings, environ))


def _direct(
    supervisor: Supervisor,
    settings: Settings,
    environ: dict[str, str],
    options: Options,
    images: list[dataset.DemoImage],
    console: Console,
) -> int:
    """Direct the demo in a thread, so that the death of any part ends it at once."""
    services = build(Settings.from_env(environ))
    future = _in_background(lambda: _play(services, options, images, console))
    supervisor.wait(until=future.done)
    code = future.result()
    if not options.stop:
        _invite(services, settings, console)
        supervisor.wait()
    return code


def _in_background(work: Callable[[], Result]) -> Future[Result]:
    """Run `work` in a daemon thread: it must not outlive a stopped supervisor."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - handed on by future.result()
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _play(
    services: Services, options: Options, images: list[dataset.DemoImage], console: Console
) -> int:
    data = services.settings.data_dir
    with _bars(console) as progress:
        project = open_project(services, data, images, progress)
        rounds.wait_for_events(services)
        if projects.require(services, project.id).champion is None:
            share, clicks = FEW_CLICKS if services.settings.encoder_weights else MORE_CLICKS
            clicked = max(4, round(len(images) * share))
            enter_clicks(services, project, clicked, clicks, options.seed, progress)
            _first_version(services, project, progress)
    if not options.auto:
        return 0
    return _rounds(services, project, options, console)


def _bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _first_version(services: Services, project: DemoProject, progress: Progress) -> Version:
    """Press "Start Training" in Label Studio and watch."""
    before = projects.require(services, project.id)
    rounds.wait_for_events(services)
    backend = services.labelstudio.list_backends(project.id)[0]
    services.labelstudio.start_training(backend["id"])
    bar = progress.add_task("training the first version", total=1.0)

    def watch(job: Job) -> None:
        detail = job.detail
        label = f"training {detail.get('class_name', '')} {detail.get('stage', '')}"
        progress.update(bar, completed=float(detail.get("fraction", 0.0)), description=label)

    version = rounds.wait_for_training(services, project.id, after=before, watch=watch)
    progress.update(bar, completed=1.0, description=f"trained {version.name}")
    bar = progress.add_task("publishing proposals", total=None)
    rounds.wait_for_publication(services, project.id, after=before)
    progress.update(bar, total=1.0, completed=1.0)
    return version


def _rounds(services: Services, project: DemoProject, options: Options, console: Console) -> int:
    rng = np.random.default_rng(options.seed)
    open_tasks = len(status.queue_of(services, project.id))
    per_round = min(MAX_TASKS_PER_ROUND, open_tasks // (options.rounds + 1))
    if per_round < 1:
        raise SettingsError(
            f"{open_tasks} open tasks are too few for {options.rounds} rounds and a last look; "
            f"give a larger --limit than {options.limit}"
        )
    played: list[rounds.Round] = []
    for _ in range(options.rounds):
        with console.status(f"round {len(played) + 1}: the simulated annotator works"):
            played.append(rounds.play(services, project, per_round, rng))
        if len(played) == 1:
            print(table.COLUMNS)
        print(table.line(played[-1]), flush=True)
    final = rounds.measure(services, project)
    print(table.FOOTNOTE)
    print(table.closing(played, final), flush=True)
    if options.json_file is not None:
        options.json_file.write_text(json.dumps(table.as_json(played, final, options.seed)))
        console.print(f"written: {options.json_file}")
    return 0 if all(round_.went_round for round_ in played) else 1


def _invite(services: Services, settings: Settings, console: Console) -> None:
    account = _account(settings.data_dir)
    after = f"{services.settings.train_after} new weak labels"
    pause = f"{services.settings.quiet_s:.0f} s without a new annotation"
    console.print(
        f"\n[bold]Label Studio: {settings.label_studio_url}[/bold]\n"
        f"  e-mail    {EMAIL}\n"
        f"  password  {account['password']}\n\n"
        'Open the project "labelclimb demo", press [bold]Label All Tasks[/bold], correct the '
        "proposals (brush, eraser, delete a region, click a defect) and Submit. "
        f"After {after} and {pause} a better version is trained, checked and published by itself. "
        "Ctrl-C stops everything; the next start goes on from here.\n",
        highlight=False,
    )
