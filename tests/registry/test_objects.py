"""Versions in an object store: never half there, verified on arrival, a bounded cache."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import fsspec
import pytest

from backend import registry
from backend.errors import CorruptVersion, SettingsError, StorageError, VersionExists
from backend.registry import Registry, digests, objects
from backend.registry.cache import IN_USE_S
from tests.registry.conftest import CACHE_BYTES, write_weights

pytestmark = pytest.mark.integration

Make = Callable[..., Registry]


@pytest.fixture
def make(bucket: str, tmp_path: Path) -> Make:
    """Open the bucket as another machine does, each name with a cache of its own."""

    def make(machine: str = "one", cache_bytes: int = CACHE_BYTES) -> Registry:
        return registry.at(bucket, cache=tmp_path / machine, cache_bytes=cache_bytes)

    return make


def store(bucket: str) -> tuple[Any, str]:
    """Return the very object that the registry uses in this thread, and the path below it."""
    return fsspec.core.url_to_fs(bucket, use_listings_cache=False)


def object_named(bucket: str, name: str) -> tuple[Any, str]:
    files, root = store(bucket)
    (found,) = [path for path in files.find(root) if path.endswith(name)]
    return files, found


def test_a_version_is_not_visible_before_all_of_it_is_there(
    make: Make, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each file that is uploaded another machine looks: there is no version yet."""
    files, _ = store(bucket)
    seen: list[list[int]] = []
    put_file = files.put_file

    def put(source: str, target: str) -> None:
        put_file(source, target)
        seen.append(make("two").list(7))

    monkeypatch.setattr(files, "put_file", put)
    make().save(7, 1, write_weights)
    assert seen == [[], [], []]
    assert make("two").list(7) == [1]


def die(*_: Any, **__: Any) -> None:
    raise OSError("connection reset")


def test_what_a_dead_writer_left_is_ignored_and_removed_when_it_is_old(
    make: Make, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, root = store(bucket)
    with monkeypatch.context() as dying:
        dying.setattr(files, "pipe_file", die)
        with pytest.raises(StorageError, match=r"connection reset.*MODEL_DIR"):
            make().save(7, 1, write_weights)
    left = files.find(root)
    assert len(left) == 3
    assert (make().list(7), make().exists(7, 1)) == ([], False)
    make().save(7, 2, write_weights)
    assert set(left) < set(files.find(root)), "its writer may be alive"
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1, minutes=1)

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return tomorrow

    monkeypatch.setattr(objects, "datetime", Tomorrow)
    make().save(7, 3, write_weights)
    assert not set(left) & set(files.find(root))
    assert make("two").list(7) == [2, 3]
    assert (make("two").folder(7, 2) / "crack.safetensors").exists()


def test_an_empty_folder_that_a_removed_version_left_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In stores whose folders are real, as a server's disk that is reached over SSH."""
    monkeypatch.setitem(fsspec.config.conf, "local", {"auto_mkdir": True})
    made = registry.at(f"local://{tmp_path}/m", cache=tmp_path / "c", cache_bytes=CACHE_BYTES)
    made.save(7, 1, write_weights)
    assert made.remove(7, 1) > 2560
    assert (tmp_path / "m" / "versions" / "7" / "1").is_dir(), "which the store lists"
    made.save(7, 2, write_weights)
    assert made.list(7) == [2]


def test_two_machines_may_remove_what_a_dead_writer_left_at_once(
    make: Make, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, _ = store(bucket)
    with monkeypatch.context() as dying:
        dying.setattr(files, "pipe_file", die)
        with pytest.raises(StorageError):
            make().save(7, 1, write_weights)
    modified = files.modified

    def removed_by_the_other(path: str) -> Any:
        files.rm_file(path)
        return modified(path)

    monkeypatch.setattr(files, "modified", removed_by_the_other)
    make().save(7, 2, write_weights)
    assert make().list(7) == [2]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"other", r"crack\.safetensors was changed: SHA-256 \w{64} was written, found \w{64}"),
     (None, r"crack\.safetensors is missing")],
)  # fmt: skip
def test_a_damaged_object_is_refused_and_the_others_serve_on(
    make: Make, bucket: str, content: bytes | None, words: str, tmp_path: Path
) -> None:
    make().save(7, 2, write_weights)
    files, path = object_named(bucket, "crack.safetensors")
    files.rm_file(path) if content is None else files.pipe_file(path, content)
    make().save(7, 1, write_weights)
    with pytest.raises(CorruptVersion, match=words):
        make("two").folder(7, 2)
    assert (make("two").folder(7, 1) / "crack.safetensors").exists()
    assert len([*(tmp_path / "two").iterdir()]) == 1, "nothing damaged stays in the cache"


def test_a_damaged_manifest_is_refused(make: Make, bucket: str) -> None:
    make().save(7, 1, write_weights)
    files, path = object_named(bucket, "/versions/7/1.json")
    files.pipe_file(path, b'{"key": ')
    with pytest.raises(CorruptVersion, match=r"7/1\.json was changed"):
        make().folder(7, 1)


def test_a_damaged_copy_in_the_cache_is_fetched_again(make: Make) -> None:
    folder = make().save(7, 1, write_weights)
    (folder / "crack.safetensors").write_bytes(b"half")
    again = make().folder(7, 1)
    assert (again / "crack.safetensors").read_bytes() == bytes(range(256)) * 10


def test_a_copy_that_the_disk_cannot_read_any_more_is_fetched_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make().save(7, 1, write_weights)
    of_file, refused = digests.of_file, []

    def refuse_once(path: Path) -> str:
        if not refused:
            refused.append(path)
            raise OSError(errno.EIO, "Input/output error")
        return of_file(path)

    monkeypatch.setattr(digests, "of_file", refuse_once)
    again = make().folder(7, 1)
    assert refused and (again / "crack.safetensors").read_bytes() == bytes(range(256)) * 10


def test_an_address_without_anything_of_the_project_says_nothing_of_its_versions(
    make: Make, bucket: str, tmp_path: Path
) -> None:
    make().save(7, 1, write_weights)
    for wrong in (f"{bucket}-other", "s3://no-such-bucket/x"):
        elsewhere = registry.at(wrong, cache=tmp_path / "two", cache_bytes=CACHE_BYTES)
        with pytest.raises(StorageError, match=rf"{wrong}.* is not there: is MODEL_DIR right"):
            elsewhere.folder(7, 1)


def lose_answer(files: Any, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    """Have manifests uploaded, but the answer lost; again: the client tries by itself."""
    pipe_file = files.pipe_file

    def pipe(path: str, value: bytes, **given: Any) -> None:
        pipe_file(path, value, **given)
        monkeypatch.undo()
        if not again:
            raise OSError("connection reset")
        pipe_file(path, value, **given)
        raise AssertionError("the store has overwritten it")

    monkeypatch.setattr(files, "pipe_file", pipe)


def test_an_upload_that_the_client_repeats_is_our_own(
    make: Make, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make()
    with monkeypatch.context() as lossy:
        lose_answer(store(bucket)[0], lossy, again=True)
        saved = made.save(7, 1, write_weights)
    assert (saved / "crack.safetensors").exists()
    assert (make("two").folder(7, 1) / "crack.safetensors").exists()


def test_a_save_that_is_repeated_after_a_lost_answer_succeeds_and_leaves_one_copy(
    make: Make, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make()
    with monkeypatch.context() as lossy:
        lose_answer(store(bucket)[0], lossy, again=False)
        with pytest.raises(StorageError, match="connection reset"):
            made.save(7, 1, write_weights)
    assert made.save(7, 1, write_weights) == made.folder(7, 1)
    files, root = store(bucket)
    assert len(files.find(root)) == 4, "three files and their manifest"
    with pytest.raises(VersionExists, match="v1 of project 7"):
        made.save(7, 1, lambda folder: (folder / "crack.safetensors").touch())
    assert len(files.find(root)) == 4


def test_a_version_is_fetched_once(
    make: Make, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make().save(7, 1, write_weights)
    make("two").folder(7, 1)
    files, _ = store(bucket)
    monkeypatch.setattr(files, "get_file", die)
    assert (make("two").folder(7, 1) / "crack.safetensors").exists()
    assert (make("one").folder(7, 1) / "crack.safetensors").exists(), "it was kept by its writer"


def test_the_cache_keeps_what_was_used_last_and_what_is_in_use(make: Make, tmp_path: Path) -> None:
    sizes = {n: make().save(7, n, write_weights) for n in (1, 2, 3)}
    room = 2 * sum(path.stat().st_size for path in sizes[1].rglob("*") if path.is_file()) + 10
    two = make("two", room)
    kept = [two.folder(7, 1), two.folder(7, 2)]
    long_ago = kept[0].stat().st_mtime - IN_USE_S - 1
    os.utime(kept[0], (long_ago, long_ago))
    os.utime(kept[1], (long_ago - 5, long_ago - 5))
    two.folder(7, 1)
    two.folder(7, 3)
    assert [kept[0].exists(), kept[1].exists()] == [True, False]
    two.folder(7, 2)
    assert len([*(tmp_path / "two").iterdir()]) == 3, "what was just given out is being read"


def test_a_store_that_cannot_be_reached_says_so(
    make: Make, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make()
    monkeypatch.setattr(store(bucket)[0], "exists", die)
    with pytest.raises(StorageError, match=f"{bucket} cannot be used .*connection reset"):
        made.save(7, 1, write_weights)


@pytest.mark.parametrize(
    ("address", "words"), [("nonsense://bucket/x", "Protocol not known"), ("s3://", "MODEL_DIR")]
)
def test_an_address_that_nothing_opens_says_so(address: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=words):
        registry.at(address, cache=tmp_path, cache_bytes=1)


def test_an_address_of_a_file_is_its_folder(tmp_path: Path) -> None:
    made = registry.at(f"file://{tmp_path}/a%20b", cache=tmp_path / "cache", cache_bytes=1)
    assert made.save(7, 1, write_weights) == tmp_path / "a b" / "versions" / "7" / "1"
