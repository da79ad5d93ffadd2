"""Connect a Label Studio project: backend, webhook, order, storage, and what it already holds.

Doing it again repairs what is missing and changes nothing else. What Label Studio refuses to call
(its network block) is said and does not stop the rest: proposals are pushed and events fetched
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from backend.errors import LabelStudioError
from backend.records import Project
from backend.steps import projects, queues
from backend.steps.listening import reconcile
from backend.steps.proposing.publish import SAMPLING
from backend.web_names import SECRET_HEADER
from backend.wiring import Services

BACKEND_TITLE = "labelclimb"
CONNECTED = "CO"  # Label Studio's word for a backend whose /health and /setup answer it
IMAGE_FILES = r"(?i).*\.(jpe?g|png|tiff?|bmp|webp|gif|ppm)$"
LOCAL_FILES = "/data/local-files/"
UNBLOCK = (
    "start Label Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false, then "
    "connect again"
)

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Connected:
    """What connecting did, for people to read.

    acts: what was changed, one line each, none when all was right; problems: what Label Studio
    refuses, with the cure.
    """

    project: Project
    acts: tuple[str, ...]
    problems: tuple[str, ...]
    found: reconcile.Found


def connect(
    services: Services, project_id: int, backend_url: str, *, local_files: str | None = None
) -> Connected:
    """Make a project ours; local_files: a folder that Label Studio is to serve images from.

    Raises LabelConfigError when the label config has nothing to propose for, LabelStudioError
    when Label Studio is down or refuses our key.
    """
    url = backend_url.rstrip("/")
    payload = services.labelstudio.get_project(project_id)
    project = projects.adopt(
        services, project_id, payload["label_config"], title=payload.get("title") or ""
    )
    rows = our_backends(services.labelstudio.list_backends(project_id), url)
    acts: list[str] = []
    problems: list[str] = []
    repairs: tuple[Callable[[], list[str]], ...] = (
        lambda: _backend(services, project_id, rows, url),
        lambda: _webhook(services, project_id, rows, url),
        lambda: _storage(services, project_id, local_files),
        lambda: _order(services, project),
    )
    for repair in repairs:
        try:
            acts += repair()
        except _Refused as refused:
            acts += refused.acts
            problems.append(str(refused))
    found = reconcile.reconcile(services, project_id)
    queues.publish(services, project_id)
    return Connected(project, tuple(acts), tuple(problems), found)


class _Refused(Exception):
    """Label Studio refuses a part; `acts` were done before."""

    def __init__(self, problem: str, acts: Sequence[str] = ()) -> None:
        super().__init__(problem)
        self.acts = tuple(acts)


def our_backends(present: Iterable[Json], url: str) -> list[Json]:
    """Return the ML backends that are ours, by address or title; the one to keep comes first."""
    ours = [b for b in present if _same(b["url"], url) or b["title"] == BACKEND_TITLE]
    return sorted(ours, key=lambda b: (not _same(b["url"], url), b["id"]))


def backend_faults(row: Json, url: str, user: str) -> list[str]:
    """Say what is wrong with our ML backend as Label Studio has it."""
    faults = []
    if not _same(row["url"], url):
        faults.append(f"address {row['url']}")
    if row["title"] != BACKEND_TITLE:
        faults.append(f"title {row['title']!r}")
    if not row["is_interactive"]:
        faults.append("interactive tools off")
    if (row["auth_method"], row["basic_auth_user"]) != ("BASIC_AUTH", user):
        faults.append("credentials missing")
    elif row["state"] != CONNECTED:
        faults.append(f"state {row['readable_state']!r}")
    return faults


def _backend(services: Services, project_id: int, rows: Sequence[Json], url: str) -> list[str]:
    own = services.credentials
    wanted = {
        "title": BACKEND_TITLE,
        "is_interactive": True,
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": own.user,
        "basic_auth_pass": own.password,
    }
    if not rows:
        return [_add_backend(services, project_id, url, wanted)]
    acts = []
    for double in rows[1:]:
        services.labelstudio.delete_backend(double["id"])
        acts.append(f"a double of the ML backend removed ({double['url']})")
    faults = backend_faults(rows[0], url, own.user)
    if faults:
        try:
            services.labelstudio.patch_backend(rows[0]["id"], url=url, project=project_id, **wanted)
        except LabelStudioError as error:
            raise _refused(error, url, acts) from error
        acts.append(f"ML backend repaired, it had: {', '.join(faults)}")
    return acts


def _add_backend(services: Services, project_id: int, url: str, wanted: Json) -> str:
    """Connect; with one of its two network blocks on, Label Studio says 403 and keeps the row."""
    try:
        services.labelstudio.connect_backend(project_id, url, **wanted)
    except LabelStudioError as error:
        if error.status != 403 or not our_backends(
            services.labelstudio.list_backends(project_id), url
        ):
            raise _refused(error, url) from error
        return f"ML backend {url} connected, although Label Studio said 403"
    return f"ML backend {url} connected"


def _refused(error: LabelStudioError, url: str, acts: Sequence[str] = ()) -> Exception:
    """Return the problem that Label Studio's refusal to call us is; other errors stay."""
    if error.status == 403:
        return _Refused(f"Label Studio may not call {url}; {UNBLOCK}. It says: {error}", acts)
    if error.status == 400:
        bare = " A webhook's host needs a dot: choose another name." if _is_bare(url) else ""
        return _Refused(
            f"Label Studio cannot use {url}; is `labelclimb up` running, and does Label Studio see "
            f"it at that address (--backend-url)?{bare} It says: {error}",
            acts,
        )
    return error


def _is_bare(url: str) -> bool:
    """Say whether a host is a single word, as the services of a compose file are."""
    host = urlsplit(url).hostname or ""
    return host != "localhost" and not set(".:") & set(host)


def our_webhooks(present: Iterable[Json], urls: Iterable[str]) -> list[Json]:
    """Return the webhooks that are ours, by address or header; the one to keep comes first.

    One that carries our header at another address is ours from before the address changed.
    """
    own = [f"{url.rstrip('/')}/webhook" for url in urls]
    ours = [w for w in present if w["url"].rstrip("/") in own or _secret_of(w) is not None]
    return sorted(ours, key=lambda w: (w["url"].rstrip("/") != own[0], w["id"]))


def webhook_faults(webhook: Json, url: str, secret: str) -> dict[str, str]:
    """Return {field: what is wrong} of our webhook as Label Studio has it."""
    faults = {}
    if webhook["url"] != f"{url}/webhook":
        faults["url"] = f"address {webhook['url']}"
    if _secret_of(webhook) != secret:
        faults["headers"] = "secret missing or old"
    if not webhook["is_active"]:
        faults["is_active"] = "switched off"
    if not webhook["send_for_all_actions"]:
        faults["send_for_all_actions"] = "only some events"
    if not webhook["send_payload"]:
        faults["send_payload"] = "no payload"
    return faults


def _webhook(services: Services, project_id: int, rows: Sequence[Json], url: str) -> list[str]:
    """Give the webhook its secret; Label Studio makes one without when a backend is connected."""
    client, secret = services.labelstudio, services.credentials.webhook_secret
    headers = {SECRET_HEADER: secret}
    present = client.list_webhooks(project_id)
    ours = our_webhooks(present, [url, *(row["url"] for row in rows)])
    try:
        if not ours:
            client.create_webhook(project_id, f"{url}/webhook", headers=headers)
            return ["webhook created"]
        faults = webhook_faults(ours[0], url, secret)
        if faults:
            kept = {**(ours[0].get("headers") or {}), **headers}
            wanted = {
                "url": f"{url}/webhook",
                "headers": kept,
                "is_active": True,
                "send_for_all_actions": True,
                "send_payload": True,
            }
            client.patch_webhook(ours[0]["id"], {field: wanted[field] for field in faults})
    except LabelStudioError as error:
        raise _refused(error, f"{url}/webhook") from error
    acts = [f"webhook repaired, it had: {', '.join(faults.values())}"] if faults else []
    for double in ours[1:]:
        client.delete_webhook(double["id"])
        acts.append(f"a double of the webhook removed ({double['url']})")
    return acts


def _secret_of(webhook: Json) -> str | None:
    headers = webhook.get("headers") or {}
    found = (value for name, value in headers.items() if name.lower() == SECRET_HEADER.lower())
    return next(found, None)


def _storage(services: Services, project_id: int, folder: str | None) -> list[str]:
    """Have Label Studio serve a folder and make tasks of its images, unless it has both."""
    if folder is None:
        return []
    client, wanted = services.labelstudio, PurePosixPath(folder)
    present = client.list_local_storages(project_id)
    if any(wanted.is_relative_to(PurePosixPath(row["path"])) for row in present):
        return []
    try:
        row = client.add_local_storage(
            project_id, str(wanted), regex_filter=IMAGE_FILES, recursive_scan=True
        )
    except LabelStudioError as error:
        raise _Refused(
            f"the Local Files storage {folder} was refused: {error}; it must be a folder of Label "
            "Studio's machine below its LOCAL_FILES_DOCUMENT_ROOT, with "
            "LOCAL_FILES_SERVING_ENABLED=true"
        ) from error
    act = f"Local Files storage {folder} added"
    if any(LOCAL_FILES in str(task.payload.get("data")) for task in client.inventory(project_id)):
        return [f"{act}; the project has tasks of local files, so none were made of its images"]
    return [f"{act}, {client.sync_local_storage(row['id'])} tasks made of its images"]


def _order(services: Services, project: Project) -> list[str]:
    """Have Label Studio serve the lowest prediction score first, of the version that is shown.

    When it no longer holds that version, everything is published anew.
    """
    acts = []
    shown = project.published
    held = services.labelstudio.model_versions(project.id)
    if shown is not None and shown not in held:
        projects.forget_published(services, project.id)
        acts.append(f"Label Studio no longer holds {shown}: it is published anew")
        shown = None
    payload = services.labelstudio.get_project(project.id)
    wanted = {"sampling": SAMPLING, "model_version": wanted_version(payload, shown, held)}
    changes = {key: value for key, value in wanted.items() if (payload.get(key) or "") != value}
    if changes:
        services.labelstudio.patch_project(project.id, **changes)
        acts += [
            f"{key} of the project was {payload.get(key)!r}, is now {value!r}"
            for key, value in changes.items()
        ]
    return acts


def wanted_version(payload: Json, shown: str | None, held: Mapping[str, int]) -> str:
    """Return what `model_version` of a project is to be.

    Ours once there is one. Before, "": a backend's title there would have Label Studio ask us at
    every task and serve them at random. Predictions of others stay shown until ours are there.
    """
    current = payload.get("model_version") or ""
    foreign = current in held and current not in (projects.UNTRAINED, BACKEND_TITLE)
    return shown or (current if foreign else "")


def _same(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")
