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
from email import message_from_bytes
from email.message import Message
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from packaging.requirements import Requirement

from backend.demo import label_studio as demo_label_studio
from backend.processes import health, running
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
        assert service["cap_drop"] == ["ALL"], name
    assert (SERVICES["postgres"]["user"], SERVICES["redis"]["user"]) == ("postgres", "redis")
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.M)[-1] == "labelclimb"
    stages = re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.M)
    for image in set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)) - set(stages):
        assert re.fullmatch(r"python:3\.1[0-3]\.\d+-slim-\w+", image), image


def test_no_log_grows_for_ever_and_a_service_that_ends_comes_back() -> None:
    for name, service in SERVICES.items():
        assert {"max-size", "max-file"} <= set(service["logging"]["options"]), name
        assert service["restart"] == "unless-stopped", name
    for name in ("label-studio", *OURS):
        assert SERVICES[name]["init"], f"{name} would hear no signal as the first process"


def test_only_label_studio_and_the_api_can_be_reached_and_only_from_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"label-studio": ["127.0.0.1:8080:8080"], "api": ["127.0.0.1:9090:9090"]}


def test_only_pins_and_requirements_decide_whether_dependencies_are_installed_again(
    wheel: Path,
) -> None:
    """Their stage gets the pins and, from another one, what our package wants: no more, no less."""
    stages = dict(re.findall(r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM )", DOCKERFILE, re.M | re.S))
    copied = re.findall(r"^COPY (.+) \S+$", stages["dependencies"], re.M)
    assert copied == ["constraints/labelclimb.txt", "--from=requirements requirements.txt"]
    code = re.search(r'python -c "(.+?)" >', stages["requirements"], re.S)
    assert code is not None
    command = [sys.executable, "-c", code[1].replace("\\\n", "")]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    extras = [{"extra": name} for name in ("", "postgresql", "s3")]
    wanted = {
        written(one)
        for one in map(Requirement, metadata(wheel).get_all("Requires-Dist") or ())
        if one.marker is None or any(one.marker.evaluate(extra) for extra in extras)
    }
    assert {written(one) for one in map(Requirement, printed.split())} == wanted


def written(one: Requirement) -> str:
    """Return a requirement in one spelling, without its marker."""
    return f"{one.name}{sorted(one.extras)}{one.specifier}"


def metadata(wheel: Path) -> Message:
    """Return what a package says of itself."""
    with zipfile.ZipFile(wheel) as content:
        (name,) = (name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(content.read(name))


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
    ours_host = httpx.URL(ours["BACKEND_URL"]).host
    assert ours_host in OURS["api"]["networks"]["default"]["aliases"]
    assert "." in ours_host, "Label Studio refuses a webhook at a name without a dot"
    assert given["CSRF_TRUSTED_ORIGINS"] == given["LABEL_STUDIO_HOST"], "of a proxy with TLS"
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
    [("backend/cli/app.py", True), ("backend/store/migrations/env.py", True), ("setup.cfg", True),
     ("constraints/labelclimb.txt", True), (".env", False), (".venv/bin/python", False),
     ("backend/__pycache__/cli.pyc", False), ("tests/conftest.py", False),
     ("labelclimb.env", False)],
)  # fmt: skip
def test_the_engine_gets_our_sources_and_no_secret(path: str, sent: bool) -> None:
    assert sent_to_the_engine(path) == sent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our package, built of the files alone that the Dockerfile copies."""
    folder = tmp_path_factory.mktemp("image")
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)
        for source in line.split()[:-1]
    ]
    for source in copied:
        assert sent_to_the_engine(source)
        _copy(ROOT / source, folder / "context" / source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, folder / "context"], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_image_is_named_after_the_release_in_it(wheel: Path) -> None:
    release = metadata(wheel)["Version"]
    assert {service["image"] for service in OURS.values()} == {f"labelclimb:{release}"}


def test_the_image_gets_every_file_of_ours_that_is_no_test(wheel: Path) -> None:
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
