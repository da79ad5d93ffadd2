"""Connect a Label Studio project: backend, webhook, order, and what it already holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.records import Project
from backend.steps import projects, queues, reconcile
from backend.steps.publish import SAMPLING
from backend.web_names import SECRET_HEADER
from backend.wiring import Services

BACKEND_TITLE = "labelclimb"


@dataclass(frozen=True)
class Connected:
    """What connecting did, for people to read."""

    project: Project
    acts: tuple[str, ...]
    found: reconcile.Found


def connect(services: Services, project_id: int, backend_url: str) -> Connected:
    """Make a project ours; doing it again repairs what is missing and changes nothing else.

    Raises LabelConfigError when the label config has nothing to propose for, LabelStudioError
    when Label Studio refuses or is down.
    """
    payload = services.labelstudio.get_project(project_id)
    project = projects.adopt(
        services, project_id, payload["label_config"], title=payload.get("title") or ""
    )
    acts = [
        _backend(services, project_id, backend_url),
        _webhook(services, project_id, f"{backend_url}/webhook"),
        _order(services, project),
    ]
    found = reconcile.reconcile(services, project_id)
    queues.publish(services, project_id)
    return Connected(project, tuple(act for act in acts if act), found)


def _backend(services: Services, project_id: int, url: str) -> str:
    own = services.credentials
    auth = {
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": own.user,
        "basic_auth_pass": own.password,
    }
    present = services.labelstudio.list_backends(project_id)
    ours = next((b for b in present if b["url"] == url or b["title"] == BACKEND_TITLE), None)
    if ours is None:
        services.labelstudio.connect_backend(
            project_id, url, title=BACKEND_TITLE, is_interactive=True, **auth
        )
        return f"ML backend {url} connected"
    services.labelstudio.patch_backend(ours["id"], url=url, project=project_id, **auth)
    return f"ML backend {url} was there; its address and credentials were renewed"


def _webhook(services: Services, project_id: int, url: str) -> str:
    """Give the webhook its secret; Label Studio makes one without when a backend is connected.

    One that carries our header at another address is ours from before the address changed.
    """
    headers = {SECRET_HEADER: services.credentials.webhook_secret}
    present = services.labelstudio.list_webhooks(project_id)
    ours = [w for w in present if w["url"] == url or SECRET_HEADER in (w.get("headers") or {})]
    if not ours:
        services.labelstudio.create_webhook(project_id, url, headers=headers)
        return "webhook created"
    services.labelstudio.patch_webhook(ours[0]["id"], _webhook_wants(url, headers))
    for stray in ours[1:]:
        services.labelstudio.delete_webhook(stray["id"])
    strays = f"; {len(ours) - 1} duplicates removed" if ours[1:] else ""
    return f"webhook given its secret{strays}"


def _webhook_wants(url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "url": url,
        "headers": dict(headers),
        "send_payload": True,
        "send_for_all_actions": True,
        "is_active": True,
    }


def _order(services: Services, project: Project) -> str:
    """Have Label Studio serve the lowest prediction score first, of the version that is shown.

    When it no longer holds that version, everything is published anew.
    """
    shown = project.published
    if shown is not None and shown not in services.labelstudio.model_versions(project.id):
        projects.forget_published(services, project.id)
        shown = None
    wanted = {"sampling": SAMPLING, "model_version": shown or ""}
    payload = services.labelstudio.get_project(project.id)
    if all((payload.get(key) or "") == value for key, value in wanted.items()):
        return ""
    services.labelstudio.patch_project(project.id, **wanted)
    return "tasks are served in the order of the project's strategy"
