"""The same versions in a folder and in a bucket of a real S3 server on this machine."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend import registry
from backend.registry import Registry
from tests.registry.s3_server import S3Server, running

CACHE_BYTES = 10_000_000


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with running() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the address of an empty prefix, and the environment that opens it."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3.bucket}/{uuid.uuid4().hex}"


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.integration)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give where versions are kept: for tests that hold for every place."""
    if request.param == "folder":
        return str(tmp_path / "models")
    return str(request.getfixturevalue("bucket"))


@pytest.fixture
def versions(address: str, tmp_path: Path) -> Registry:
    return registry.at(address, cache=tmp_path / "cache", cache_bytes=CACHE_BYTES)


def write_weights(folder: Path) -> None:
    (folder / "crack.safetensors").write_bytes(bytes(range(256)) * 10)
    (folder / "heads").mkdir()
    (folder / "heads" / "head.json").write_text("{}")
