"""Checks of this machine: settings, folder, database, Redis, workers, our own HTTP door."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from backend.doctor.case import Case, Check, Finding, error, ok, warning
from backend.errors import CorruptVersion, LabelclimbError, QueueError, SettingsError
from backend.processes import health
from backend.processes.supervisor import answers
from backend.queueing.embedded_redis import embedded_server
from backend.queueing.locks import redacted
from backend.queueing.queues import Queues
from backend.settings import Settings
from backend.steps import damage
from backend.steps.queues import EVENTS, PUBLISH, TRAIN
from backend.store import Store, versions
from backend.wiring import build

LOW_BYTES, TOO_LOW_BYTES = 2_000_000_000, 200_000_000
TICK_LATE_S = 120.0
UP = "labelclimb up"


def settings(case: Case) -> Finding:
    """Read the settings; without a Redis of one's own name, that of `labelclimb up` is meant."""
    try:
        read = Settings.from_env(case.environ)
        if read.own_redis:
            _, redis_url = embedded_server(read.data_dir)
            read = Settings.from_env({**case.environ, "REDIS_URL": redis_url})
    except (SettingsError, QueueError) as wrong:
        name = str(wrong).partition("=")[0]
        return error(str(wrong), command=f"unset {name}" if name.isidentifier() else "")
    case.settings = read
    return ok(f"valid; Label Studio is {read.label_studio_url}, data in {read.data_dir}")


def data_folder(case: Case) -> Finding:
    """Write a file where the store, the images and the versions go."""
    folder = case.settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"labelclimb")
    except OSError as wrong:
        owner = f"chown -R {os.getuid()} {folder}"
        return error(f"{folder} cannot be written: {wrong.strerror or wrong}", command=owner)
    free = shutil.disk_usage(folder).free
    what = f"{folder} can be written; {free / 1e9:.1f} GB free"
    if free < TOO_LOW_BYTES:
        return error(what, why="events and versions cannot be kept", command=f"df -h {folder}")
    if free < LOW_BYTES:
        return warning(what, why="images and versions will not fit", command=f"df -h {folder}")
    return ok(what)


def database(case: Case) -> Finding:
    """Open the store, which brings its tables up to date, and have it checked."""
    try:
        store = Store.open(case.settings.database_url)
    except SettingsError as wrong:
        return error(str(wrong), why="nothing can be kept", command=_restore(case.settings))
    try:
        damage = store.damage()
    finally:
        store.close()
    if damage:
        return error(
            f"the database is damaged: {damage[0]}",
            why="what it holds may be lost",
            command=_restore(case.settings),
        )
    return ok("opens, its tables are up to date, nothing in it is damaged")


def _restore(settings: Settings) -> str:
    if not settings.database_url.startswith("sqlite"):
        return "psql \"$DATABASE_URL\" -c 'select 1'"
    file = settings.database_url.partition("///")[2]
    return f"cp BACKUP {file}"


def credentials(case: Case) -> Finding:
    """Wire the services; beside what was checked before, that needs our own credentials."""
    try:
        case.services = build(case.settings)
    except SettingsError as wrong:
        file = case.settings.data_dir / "credentials.json"
        return error(str(wrong), command=f"rm {file}")
    return ok("basic auth and the webhook's secret are set")


def redis(case: Case) -> Finding:
    """Ask Redis whether it lives."""
    try:
        Queues(case.settings.redis_url).ping()
    except QueueError as wrong:
        why = "events are kept, but nothing is learnt, trained or published"
        return error(str(wrong), why=why, command=UP)
    return ok(f"answers at {redacted(case.settings.redis_url)}")


def workers(case: Case) -> Finding:
    """Every queue needs a living worker."""
    alive = Queues(case.settings.redis_url).workers()
    missing = [queue for queue in (EVENTS, PUBLISH, TRAIN) if not alive.get(queue)]
    if missing:
        return error(
            f"no worker lives for {', '.join(missing)}",
            why="their jobs wait",
            command=f"labelclimb worker {' '.join(missing)}",
        )
    return ok(", ".join(f"{queue} {alive[queue]}" for queue in (EVENTS, PUBLISH, TRAIN)))


def scheduler(case: Case) -> Finding:
    """The scheduler leaves a sign at every tick."""
    age_s = Queues(case.settings.redis_url).beat_age_s("scheduler")
    why = "nothing is trained, and lost events are not fetched"
    if age_s is None:
        return error("no scheduler runs", why=why, command="labelclimb scheduler")
    if age_s > TICK_LATE_S:
        what = f"its last tick was {age_s:.0f} s ago"
        return warning(what, why=why, command="labelclimb scheduler")
    return ok(f"ticked {age_s:.0f} s ago")


def api(case: Case) -> Finding:
    """Our own HTTP door, as this machine sees it."""
    url = health.local_url(case.settings)
    for address in (url, case.settings.backend_url):  # it may run on another machine
        if answers(f"{address}/health")():
            return ok(f"answers at {address}")
    why = "Label Studio cannot deliver events or ask for proposals"
    return error(f"nothing answers at {url}/health", why=why, command=UP)


def failed_jobs(case: Case) -> Finding:
    """Jobs whose retries are used up."""
    failures = Queues(case.settings.redis_url).failures()
    if not failures:
        return ok("none of the last days failed for good")
    job, reason = next(iter(failures.items()))
    more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    logs = case.settings.data_dir / "logs"
    return warning(
        f"{job}{more} failed for good: {reason}",
        why="the scheduler repeats what is still due",
        command=f"tail -n 50 {logs}/{_log_of(job)}.log",
    )


def _log_of(job: str) -> str:
    kind = job.partition("-")[0]
    return {"event": "events", "train": "train"}.get(kind, "publish")


def gpu(case: Case) -> Finding:
    """Whether networks run where the settings say."""
    import torch

    device = case.settings.device
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count()))
        return ok(f"torch {torch.__version__} sees {names}; DEVICE={device}")
    reason = _no_cuda(torch.version.cuda, has_driver=Path("/proc/driver/nvidia/version").exists())
    if device.startswith("cuda"):
        why = "trainings and proposals fail"
        return error(f"DEVICE={device}, but {reason}", why=why, command="export DEVICE=auto")
    if reason == NO_DRIVER:
        return ok("there is none; networks run on the processor")
    why = "the machine has an NVIDIA driver, but networks run on the processor"
    return warning(reason, why=why, command="pip install --force-reinstall torch torchvision")


NO_DRIVER = "this machine has no NVIDIA driver"


def _no_cuda(built_for: str | None, *, has_driver: bool) -> str:
    if not has_driver:
        return NO_DRIVER
    if built_for is None:
        return "torch was built for processors only"
    return f"torch was built for CUDA {built_for}, which the driver does not serve"


def encoder_weights(case: Case) -> Finding:
    """Whether trainings start from a pretrained encoder."""
    weights = case.settings.encoder_weights
    if weights is None:
        return warning(
            "none: trainings start from random weights",
            why="first proposals are poor, and clicks are worth less",
            command="export ENCODER_WEIGHTS=hub",
        )
    if weights == "hub":
        return ok("timm downloads them")
    return _weights_file(Path(weights))


def _weights_file(file: Path) -> Finding:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            count = len(opened.keys())
    except (SafetensorError, OSError) as wrong:
        what = f"{file} is no safetensors file: {wrong}"
        return error(what, why="trainings fail", command="unset ENCODER_WEIGHTS")
    return ok(f"{file.name} with {count} tensors")


def model(case: Case) -> Finding:
    """The champion's files are what was written, and can be loaded."""
    project = case.project
    with case.services.store.reading() as tx:
        standing = damage.standing(tx, project)
    if standing.lost:
        return error(standing.sentence, command=case.command("train"))
    if project.champion is None:
        return ok("nothing is trained yet")
    with case.services.store.reading() as tx:
        version = versions.champion(tx, project.id)
        others = [v.number for v in versions.list(tx, project.id) if v.number != project.champion]
    usable = next((n for n in others if _is_whole(case, n)), None)
    command = f"labelclimb activate --project {project.id} {usable}" if usable else ""
    try:
        if version is None:
            raise CorruptVersion(f"version v{project.champion} has no record")
        case.services.residents.get(project.id, version.number, version.pipeline)
    except (LabelclimbError, RuntimeError, ValueError, OSError) as wrong:
        what = f"v{project.champion} cannot be used: {wrong}"
        return error(what, why="no proposals are made", command=command or case.command("train"))
    whole = f"v{project.champion} ({version.pipeline}) is whole and loads"
    return warning(f"{whole}, but {standing.sentence}") if standing.sentence else ok(whole)


def _is_whole(case: Case, number: int) -> bool:
    try:
        case.services.registry.folder(case.project.id, number)
    except LabelclimbError:
        return False
    return True


CHECKS = (
    Check("settings", settings),
    Check("data folder", data_folder, ("settings",)),
    Check("database", database, ("data folder",)),
    Check("redis", redis, ("settings",)),
    Check("workers", workers, ("redis",)),
    Check("scheduler", scheduler, ("redis",)),
    Check("failed jobs", failed_jobs, ("redis",)),
    Check("api", api, ("settings",)),
    Check("gpu", gpu, ("settings",)),
    Check("encoder weights", encoder_weights, ("settings",)),
)
