"""What holds of versions wherever they are kept: in a folder, or on a real S3 server."""

from __future__ import annotations

import errno
import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest

from backend import registry
from backend.errors import StorageError, UnknownThing, VersionExists
from backend.registry import OWN_FILES, Registry
from tests.registry.conftest import CACHE_BYTES, write_weights

SPAWN = multiprocessing.get_context("spawn")


def test_a_saved_version_comes_back_with_its_files_and_metadata(versions: Registry) -> None:
    saved = versions.save(7, 1, write_weights, {"pipeline": "advcam", "f": 0.5})
    assert saved == versions.folder(7, 1)
    assert (saved / "crack.safetensors").read_bytes() == bytes(range(256)) * 10
    assert (saved / "heads" / "head.json").read_text() == "{}"
    assert versions.metadata(7, 1) == {"pipeline": "advcam", "f": 0.5}
    assert versions.exists(7, 1)
    assert versions.list(7) == [1]


def test_another_machine_reads_what_was_saved(
    versions: Registry, address: str, tmp_path: Path
) -> None:
    versions.save(7, 1, write_weights, {"device": "cuda"})
    other = registry.at(address, cache=tmp_path / "other", cache_bytes=CACHE_BYTES)
    assert other.list(7) == [1]
    assert (other.folder(7, 1) / "heads" / "head.json").read_text() == "{}"
    assert other.metadata(7, 1) == {"device": "cuda"}


def test_versions_are_listed_by_number_and_project(versions: Registry) -> None:
    for number in (10, 9, 2):
        versions.save(7, number, write_weights)
    versions.save(77, 1, write_weights)
    assert versions.list(7) == [2, 9, 10]
    assert versions.list(9) == []


def test_an_existing_number_is_never_written_again(versions: Registry) -> None:
    versions.save(7, 1, write_weights)
    with pytest.raises(VersionExists, match="v1 of project 7"):
        versions.save(7, 1, lambda folder: None)
    assert (versions.folder(7, 1) / "crack.safetensors").exists()


def test_a_version_that_appears_while_another_is_written_stays(versions: Registry) -> None:
    def lose_the_race(folder: Path) -> None:
        (folder / "crack.safetensors").write_text("the loser's")
        versions.save(7, 1, write_weights)

    with pytest.raises(VersionExists, match="v1 of project 7"):
        versions.save(7, 1, lose_the_race)
    assert versions.list(7) == [1]
    assert (versions.folder(7, 1) / "crack.safetensors").read_bytes() == bytes(range(256)) * 10


def save_many(barrier: Any, address: str, cache: Path, numbers: list[int], results: Any) -> None:
    own = registry.at(address, cache=cache, cache_bytes=CACHE_BYTES)
    barrier.wait()
    for number in numbers:
        try:
            own.save(7, number, lambda folder: (folder / "who").write_text(cache.name) and None)
            results.put((number, cache.name))
        except VersionExists:
            results.put((number, None))


@pytest.mark.integration
def test_two_processes_save_at_once_and_one_number_is_won_once(
    versions: Registry, address: str, tmp_path: Path
) -> None:
    barrier, results = SPAWN.Barrier(2, timeout=120), SPAWN.Queue()
    wanted = {"a": [1, 2, 3, 10], "b": [1, 2, 3, 20]}
    writers = [
        SPAWN.Process(target=save_many, args=(barrier, address, tmp_path / name, numbers, results))
        for name, numbers in wanted.items()
    ]
    for writer in writers:
        writer.start()
    told = [results.get(timeout=120) for _ in range(8)]
    for writer in writers:
        writer.join(120)
    winners = {number: name for number, name in told if name}
    assert sorted(number for number, name in told if name) == [1, 2, 3, 10, 20]
    assert versions.list(7) == [1, 2, 3, 10, 20]
    assert {n: (versions.folder(7, n) / "who").read_text() for n in winners} == winners


def test_a_write_that_fails_leaves_nothing(versions: Registry, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write_weights(folder)
        raise ValueError("not finite")

    with pytest.raises(ValueError, match="not finite"):
        versions.save(7, 1, fail)
    assert versions.list(7) == []
    assert not versions.exists(7, 1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    versions.save(7, 1, write_weights)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_the_champion_serves_on(
    versions: Registry, tmp_path: Path, number: int
) -> None:
    def fill_up(folder: Path) -> None:
        write_weights(folder)
        raise OSError(number, "No space left on device")

    versions.save(7, 1, write_weights)
    with pytest.raises(StorageError, match=r"no room .* MB are free .*--prune"):
        versions.save(7, 2, fill_up)
    assert versions.list(7) == [1]
    assert list(tmp_path.rglob(".unfinished-*")) == []
    assert (versions.folder(7, 1) / "crack.safetensors").exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO])
def test_a_disk_that_refuses_is_said_with_its_place_and_reason(
    versions: Registry, tmp_path: Path, number: int
) -> None:
    def refused(folder: Path) -> None:
        write_weights(folder)
        raise OSError(number, "as the disk says")

    with pytest.raises(StorageError) as said:
        versions.save(7, 1, refused)
    words = (
        rf"{tmp_path}/\S+ cannot be used \(\w+: \[Errno {number}\] as the disk says\); check the "
    )
    assert re.match(words + "disk and its permissions", str(said.value))
    assert versions.list(7) == []
    versions.save(7, 1, write_weights)


def test_a_version_is_removed_whole_and_only_it(versions: Registry) -> None:
    for number in (1, 11):
        versions.save(7, number, write_weights)
    assert versions.remove(7, 1) > 2560
    assert versions.list(7) == [11]
    assert not versions.exists(7, 1)
    with pytest.raises(UnknownThing, match=r"v1 of project 7; there are \[11\], pruned ones"):
        versions.folder(7, 1)
    assert (versions.folder(7, 11) / "crack.safetensors").exists()
    assert versions.remove(7, 1) == 0


def test_a_slimmed_version_lacks_a_file_on_purpose_and_all_else_is_verified(
    versions: Registry, address: str, tmp_path: Path
) -> None:
    versions.save(7, 1, write_weights, {"f": 0.5})
    assert versions.slim(7, 1, ["head.json", "unknown.bin"]) == 2
    assert versions.slim(7, 1, ["head.json"]) == 0
    fresh = registry.at(address, cache=tmp_path / "other", cache_bytes=CACHE_BYTES)
    folder = fresh.folder(7, 1)
    assert (folder / "crack.safetensors").exists()
    assert not (folder / "heads" / "head.json").exists()
    assert fresh.metadata(7, 1) == {"f": 0.5}


def test_an_unknown_version_is_said_with_the_known_ones(versions: Registry) -> None:
    versions.save(7, 3, write_weights)
    with pytest.raises(UnknownThing, match=r"v4 of project 7; there are \[3\]"):
        versions.folder(7, 4)


@pytest.mark.parametrize("wrong", ["../../etc", "1", -1, 1.5, True, None])
def test_only_numbers_name_a_version(versions: Registry, wrong: Any) -> None:
    with pytest.raises(ValueError, match="is not the number"):
        versions.folder(wrong, 1)
    with pytest.raises(ValueError, match="is not the number"):
        versions.save(1, wrong, write_weights)


@pytest.mark.parametrize("name", OWN_FILES)
def test_a_pipeline_cannot_lose_a_file_to_the_registrys_own(versions: Registry, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        versions.save(7, 1, lambda folder: (folder / name).write_text("mine") and None)
    assert not versions.exists(7, 1)
