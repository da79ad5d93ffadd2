"""What a check is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from backend.labelstudio.client import LabelStudio
from backend.labelstudio.config import LabelConfig
from backend.records import Project, Task
from backend.settings import Settings
from backend.wiring import Services

State = Literal["ok", "warning", "error", "skipped"]
Mend = Literal["connect", "reconcile", "events", "images", "publish"]


@dataclass(frozen=True)
class Finding:
    """What one check saw.

    what: one sentence; why: what follows from it; command: the one that mends it; mend: what
    `--fix` does about it, None when only a person can.
    """

    state: State
    what: str
    why: str = ""
    command: str = ""
    mend: Mend | None = None
    check: str = ""
    project: int | None = None

    def of(self, check: str, project: int | None) -> Finding:
        """Return it with the name of its check and its project."""
        return replace(self, check=check, project=project)


def ok(what: str) -> Finding:
    """Return a finding that all is right."""
    return Finding("ok", what)


def warning(what: str, *, why: str = "", command: str = "", mend: Mend | None = None) -> Finding:
    """Return a finding of something that works, but worse than it could."""
    return Finding("warning", what, why, command, mend)


def error(what: str, *, why: str = "", command: str = "", mend: Mend | None = None) -> Finding:
    """Return a finding of something that keeps proposals or corrections from their place."""
    return Finding("error", what, why, command, mend)


@dataclass(repr=False)
class Case:
    """What is examined, and what earlier checks have found out for later ones.

    The fields from `settings` on are set by the checks that later ones name in their `needs`.
    """

    environ: Mapping[str, str]
    project_id: int | None = None
    task_id: int | None = None
    settings: Settings = field(init=False)
    client: LabelStudio = field(init=False)
    services: Services = field(init=False)
    project: Project = field(init=False)
    payload: Mapping[str, Any] = field(init=False)
    config: LabelConfig = field(init=False)
    url: str = field(init=False)
    task: Task = field(init=False)

    def close(self) -> None:
        """Close what the checks have opened."""
        for opened in ("services", "client"):
            if hasattr(self, opened):
                getattr(self, opened).close()

    def command(self, name: str) -> str:
        """Return a command of ours for the project that is looked at."""
        return f"labelclimb {name} --project {self.payload['id']}"


@dataclass(frozen=True)
class Check:
    """One small look at one thing; needs: the checks without which it has nothing to look at."""

    name: str
    look: Callable[[Case], Finding]
    needs: tuple[str, ...] = ()
