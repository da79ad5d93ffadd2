"""docker-compose.yml and Dockerfile as files: valid, closed, and complete.

That the services run is shown by tests/e2e/test_deployment.py.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from backend import health, running
from backend.demo import label_studio as demo_label_studio
from backend.settings import Settings
from backend.settings_parts import env_names
from tests import compose_file

ROOT = compose_file.ROOT
DOCKERFILE = (ROOT / "Dockerfile").read_text()
CHOSEN = {name: f"chosen-{name}" for name, how in compose_file.variables().items() if how == ":?"}
CONTENT = compose_file.read(CHOSEN)
SERVICES: dict[str, dict[str, Any]] = CONTENT["services"]
OURS = compose_file.ours(CONTENT)


def test_it_is_valid_by_the_compose_specification() -> None:
    schema = files("check_jsonschema.builtin_schemas") / "vendor" / "compose-spec.json"
    jsonschema.validate(CONTENT, json.loads(schema.read_text()))


def test_every_part_is_a_service_on_cpu_and_on_gpu() -> None:
    commands = {tuple(service["command"]) for service in OURS.values()}
    assert commands == {tuple(arguments) for arguments in running.PARTS.values()}
    for part in ("publish", "train"):
        cpu, gpu = OURS[part], OURS[f"{part}-gpu"]
        assert (cpu["profiles"], gpu["profiles"]) == (["cpu"], ["gpu"])
        assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
        assert gpu["environment"] == {**cpu["environment"], "PROFILE": "gpu", "DEVICE": "cuda"}
        same = set(cpu) - {"profiles", "environment"}
        assert {name: gpu[name] for name in same} == {name: cpu[name] for name in same}


def test_each_service_of_ours_is_asked_for_its_own_health() -> None:
    parts = {tuple(arguments): part for part, arguments in running.PARTS.items()}
    for service in OURS.values():
        part = parts[tuple(service["command"])]
        assert service["healthcheck"]["test"] == ["CMD", "labelclimb", "health", part]
    assert all("healthcheck" in service for service in SERVICES.values())
    assert set(health.PARTS) == set(running.PARTS)


def test_every_variable_that_we_are_given_is_a_setting() -> None:
    known = {name for field in Settings.model_fields.values() for name in env_names(field)}
    for name, service in OURS.items():
        assert set(service["environment"]) <= known, name
        Settings.from_env(service["environment"])


def test_secrets_have_no_default_and_all_choices_are_in_the_example() -> None:
    used, example = compose_file.variables(), compose_file.example()
    assert set(used) == set(example)
    secret = {name for name in used if re.search("PASS|SECRET|KEY", name)}
    assert {name for name in secret if used[name] != ":?" or example[name]} == set()
    for name in secret:
        left = {other: value for other, value in CHOSEN.items() if other != name}
        with pytest.raises(compose_file.MissingVariable, match=name):
            compose_file.read(left)
    given = [pair for s in SERVICES.values() for pair in s.get("environment", {}).items()]
    held = [value for key, value in given if re.search("(PASSWORD|_PASS|USER_TOKEN|_KEY)$", key)]
    assert len(held) > 10
    assert all(value.startswith("chosen") for value in held)


def test_images_are_pinned_and_nobody_is_root() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":\d+\.\d+\.\d+|:\d+\.\d+-", service["image"]), service["image"]
        assert "no-new-privileges:true" in service["security_opt"], name
    assert (SERVICES["postgres"]["user"], SERVICES["redis"]["user"]) == ("postgres", "redis")
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.M)[-1] == "labelclimb"
    for image in re.findall(r"^FROM (\S+)", DOCKERFILE, re.M):
        assert re.fullmatch(r"python:3\.1[0-3]\.\d+-slim-\w+", image), image


def test_only_label_studio_and_the_api_can_be_reached_and_only_from_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"label-studio": ["127.0.0.1:8080:8080"], "api": ["127.0.0.1:9090:9090"]}


def test_volumes_and_dependencies_exist_and_are_waited_for() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source.startswith(("/", "./")) or source in CONTENT["volumes"], name
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[needed]


def test_label_studio_gets_the_flags_that_were_measured_and_our_addresses() -> None:
    given = SERVICES["label-studio"]["environment"]
    measured = demo_label_studio._SWITCHES
    assert {name: given[name] for name in measured} == measured
    ours = OURS["api"]["environment"]
    assert given["LABEL_STUDIO_USER_TOKEN"] == ours["LABEL_STUDIO_API_KEY"]
    assert given["LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN"] == "true"
    assert httpx.URL(ours["LABEL_STUDIO_URL"]).host in SERVICES
    assert httpx.URL(ours["BACKEND_URL"]).host in OURS
    databases = CONTENT["configs"]["databases"]["content"]
    assert given["POSTGRE_NAME"] in databases


def sent_to_the_engine(path: str) -> bool:
    """Apply .dockerignore as the engine does: the last pattern that fits decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            parts = path.split("/")
            heads = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
            if any(_fits(head, pattern) for head in heads):
                ignored = not line.startswith("!")
    return not ignored


def _fits(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatch(path.rpartition("/")[2], pattern.removeprefix("**/"))
    return fnmatch.fnmatch(path, pattern) and path.count("/") == pattern.count("/")


@pytest.mark.parametrize(
    ("path", "sent"),
    [("backend/cli.py", True), ("backend/store/migrations/env.py", True), ("setup.cfg", True),
     ("constraints/labelclimb.txt", True), (".env", False), (".venv/bin/python", False),
     ("backend/__pycache__/cli.pyc", False), ("tests/conftest.py", False), ("s3.env", False)],
)  # fmt: skip
def test_the_engine_gets_our_sources_and_no_secret(path: str, sent: bool) -> None:
    assert sent_to_the_engine(path) == sent


def test_the_image_gets_what_the_dockerfile_copies(tmp_path: Path) -> None:
    """Build the package of these files alone: it must hold every file of ours that is no test."""
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)
        for source in line.split()[:-1]
    ]
    for source in copied:
        assert sent_to_the_engine(source)
        _copy(ROOT / source, tmp_path / "context" / source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, tmp_path / "context"], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in ("backend", "models", "strategies")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted - packed == set()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)
