from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from backend.errors import CorruptVersion, UnknownThing, VersionExists
from backend.registry import OWN_FILES, UNFINISHED, Registry

SPAWN = multiprocessing.get_context("spawn")


def write_weights(folder: Path) -> None:
    (folder / "crack.safetensors").write_bytes(bytes(range(256)) * 10)
    (folder / "heads").mkdir()
    (folder / "heads" / "head.json").write_text("{}")


def write_nothing(folder: Path) -> None:
    (folder / "empty").touch()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def test_a_saved_version_comes_back_with_its_files_and_metadata(
    registry: Registry, tmp_path: Path
) -> None:
    saved = registry.save(7, 1, write_weights, {"pipeline": "advcam", "f": 0.5})
    assert saved == registry.folder(7, 1) == tmp_path / "versions" / "7" / "1"
    assert (saved / "crack.safetensors").read_bytes() == bytes(range(256)) * 10
    assert registry.metadata(7, 1) == {"pipeline": "advcam", "f": 0.5}
    assert registry.exists(7, 1)
    assert registry.list(7) == [1]


def test_versions_are_listed_by_number_and_project(registry: Registry) -> None:
    for number in (10, 9, 2):
        registry.save(7, number, write_weights)
    registry.save(8, 1, write_weights)
    assert registry.list(7) == [2, 9, 10]
    assert registry.list(9) == []


def test_an_existing_number_is_never_written_again(registry: Registry) -> None:
    registry.save(7, 1, write_weights)
    with pytest.raises(VersionExists, match="v1 of project 7"):
        registry.save(7, 1, lambda folder: None)
    assert (registry.folder(7, 1) / "crack.safetensors").exists()


def test_a_version_that_appears_while_another_is_written_stays(registry: Registry) -> None:
    def lose_the_race(folder: Path) -> None:
        registry.save(7, 1, write_weights)

    with pytest.raises(VersionExists):
        registry.save(7, 1, lose_the_race)
    assert (registry.folder(7, 1) / "crack.safetensors").exists()
    assert [path.name for path in registry.folder(7, 1).parent.iterdir()] == ["1"]


def test_a_write_that_fails_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write_weights(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        registry.save(7, 1, fail)
    assert list((tmp_path / "versions" / "7").iterdir()) == []
    assert not registry.exists(7, 1)
    registry.save(7, 1, write_weights)


def die_while_writing(root: Path) -> None:
    def write(folder: Path) -> None:
        write_weights(folder)
        os._exit(9)

    Registry(root).save(7, 1, write)


def test_what_a_killed_writer_left_is_ignored_and_cleaned(
    registry: Registry, tmp_path: Path
) -> None:
    writer = SPAWN.Process(target=die_while_writing, args=(tmp_path,))
    writer.start()
    writer.join(60)
    assert writer.exitcode == 9
    project = tmp_path / "versions" / "7"
    (left,) = project.iterdir()
    assert left.name.startswith(UNFINISHED)
    os.utime(left, (0, 0))
    assert registry.list(7) == []
    assert not registry.exists(7, 1)
    registry.save(7, 1, write_weights)
    assert [path.name for path in project.iterdir()] == ["1"]


def test_a_draft_that_is_being_written_is_not_cleaned(registry: Registry) -> None:
    def write_while_another_saves(folder: Path) -> None:
        os.utime(folder, (0, 0))
        registry.save(7, 2, write_weights)
        assert folder.exists()
        write_weights(folder)

    registry.save(7, 1, write_while_another_saves)
    assert registry.list(7) == [1, 2]


def test_a_draft_that_is_not_locked_yet_is_not_cleaned(registry: Registry, tmp_path: Path) -> None:
    fresh = tmp_path / "versions" / "7" / f"{UNFINISHED}x"
    fresh.mkdir(parents=True)
    registry.save(7, 1, write_weights)
    assert fresh.exists()


def break_change(folder: Path) -> None:
    content = bytearray((folder / "crack.safetensors").read_bytes())
    content[1000] ^= 1
    (folder / "crack.safetensors").write_bytes(content)


def break_link(folder: Path) -> None:
    (folder / "crack.safetensors").rename(folder.parent / "elsewhere")
    (folder / "crack.safetensors").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_change, r"crack\.safetensors was changed"),
        (break_link, r"crack\.safetensors was changed"),
        (lambda f: (f / "crack.safetensors").unlink(), r"crack\.safetensors is missing"),
        (lambda f: (f / "heads" / "head.json").write_text("{ }"), r"head\.json was changed"),
        (lambda f: (f / "extra.py").write_text("x"), r"extra\.py was added"),
        (lambda f: (f / "metadata.json").write_text("{}  "), r"metadata\.json was changed"),
        (lambda f: (f / "digests.json").unlink(), r"digests\.json is missing"),
        (lambda f: (f / "digests.json").write_text("{"), r"digests\.json was changed"),
    ],
)
def test_a_damaged_version_is_refused_naming_the_file(
    registry: Registry, damage: Any, words: str
) -> None:
    damage(registry.save(7, 1, write_weights))
    with pytest.raises(CorruptVersion, match=words):
        registry.folder(7, 1)
    with pytest.raises(CorruptVersion):
        registry.metadata(7, 1)
    assert registry.exists(7, 1)


def test_the_digests_are_sha256_of_each_file(registry: Registry) -> None:
    folder = registry.save(7, 1, write_nothing)
    digests = json.loads((folder / "digests.json").read_text())
    assert digests["empty"] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_an_unknown_version_is_said_with_the_known_ones(registry: Registry) -> None:
    registry.save(7, 3, write_weights)
    with pytest.raises(UnknownThing, match=r"v4 of project 7; there are \[3\]"):
        registry.folder(7, 4)


@pytest.mark.parametrize("wrong", ["../../etc", "1", -1, 1.5, True, None])
def test_only_numbers_name_a_folder(registry: Registry, wrong: Any) -> None:
    with pytest.raises(ValueError, match="is not the number"):
        registry.folder(wrong, 1)
    with pytest.raises(ValueError, match="is not the number"):
        registry.save(1, wrong, write_weights)


@pytest.mark.parametrize("name", OWN_FILES)
def test_a_pipeline_cannot_lose_a_file_to_the_registrys_own(tmp_path: Path, name: str) -> None:
    registry = Registry(tmp_path)
    with pytest.raises(ValueError, match=name):
        registry.save(7, 1, lambda folder: (folder / name).write_text("mine") and None)
    assert not registry.exists(7, 1)
