"""The order of the checks, who needs whom, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from backend.doctor import machine, mending, project, server, task
from backend.doctor.case import Case, Check, Finding, error
from backend.errors import LabelclimbError
from backend.store import projects, tasks

EXIT = {"ok": 0, "skipped": 0, "warning": 1, "error": 2}

MACHINE = (
    *machine.CHECKS,
    *server.CHECKS,
    Check("credentials", machine.credentials, ("database", "token")),
    Check("events", project.events, ("credentials",)),
)
PROJECT = (*project.CHECKS, Check("model", machine.model, ("project",)))


def examine(
    environ: Mapping[str, str], project_id: int | None = None, task_id: int | None = None
) -> list[Finding]:
    """Walk the chain and return what every check saw, in its order; changes nothing."""
    case = Case(environ, task_id=task_id)
    try:
        return _examine(case, project_id)
    finally:
        case.close()


def fix(
    environ: Mapping[str, str], findings: Sequence[Finding], project_id: int | None = None
) -> list[str]:
    """Do what mends the findings and return what was done."""
    case = Case(environ)
    try:
        _examine(case, project_id, projects_too=False)
        return mending.mend(case, findings) if hasattr(case, "services") else []
    finally:
        case.close()


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0 when all is right, 1 when there are only warnings, 2 when something is broken."""
    return max((EXIT[finding.state] for finding in findings), default=0)


def _examine(case: Case, project_id: int | None, *, projects_too: bool = True) -> list[Finding]:
    failed: set[str] = set()
    findings = [_look(case, check, failed) for check in MACHINE]
    if not projects_too:
        return findings
    for number in _projects(case, project_id):
        case.project_id = number
        below = set(failed)
        findings += [_look(case, check, below) for check in _project_chain(case)]
    return findings


def _project_chain(case: Case) -> Sequence[Check]:
    if case.project_id is None:
        return PROJECT[:1]  # which says that there is none
    return (*PROJECT, *task.CHECKS) if case.task_id is not None else PROJECT


def _projects(case: Case, wanted: int | None) -> Sequence[int | None]:
    """Return the project that is asked for, or that has the task, or all that are connected."""
    if wanted is not None or not hasattr(case, "services"):
        return [wanted]
    with case.services.store.reading() as tx:
        connected = [p.id for p in projects.all(tx)]
        if case.task_id is not None:
            having = [p for p in connected if tasks.get(tx, p, case.task_id) is not None]
            connected = having or connected
    return connected or [None]


def _look(case: Case, check: Check, failed: set[str]) -> Finding:
    """Run a check unless one that it needs has failed; what it raises is its finding."""
    missing = next((name for name in check.needs if name in failed), None)
    if missing is not None:
        failed.add(check.name)
        found = Finding("skipped", f"not looked at, because of: {missing}")
    else:
        try:
            found = check.look(case)
        except LabelclimbError as wrong:
            found = error(str(wrong))
        if found.state in ("error", "skipped"):
            failed.add(check.name)
    return found.of(check.name, case.project_id)
