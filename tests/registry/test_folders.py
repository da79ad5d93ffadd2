"""Versions in folders: what a dead writer leaves, and what damage is refused."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from backend.errors import CorruptVersion, StorageError, VersionExists
from backend.registry import digests, drafts
from backend.registry.drafts import UNFINISHED
from backend.registry.folders import Folders
from tests.registry.conftest import write_weights

SPAWN = multiprocessing.get_context("spawn")
OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_versions_are_found_by_their_path(folders: Folders, tmp_path: Path) -> None:
    assert folders.save(7, 1, write_weights) == tmp_path / "versions" / "7" / "1"


def test_the_digests_are_sha256_of_each_file(folders: Folders) -> None:
    folder = folders.save(7, 1, lambda draft: (draft / "empty").touch())
    assert json.loads((folder / "digests.json").read_text())["empty"] == OF_NOTHING


def die_while_writing(root: Path) -> None:
    def write(folder: Path) -> None:
        write_weights(folder)
        os._exit(9)

    Folders(root).save(7, 1, write)


@pytest.mark.integration
def test_what_a_killed_writer_left_is_ignored_and_cleaned(folders: Folders, tmp_path: Path) -> None:
    writer = SPAWN.Process(target=die_while_writing, args=(tmp_path,))
    writer.start()
    writer.join(60)
    assert writer.exitcode == 9
    project = tmp_path / "versions" / "7"
    (left,) = project.iterdir()
    assert left.name.startswith(UNFINISHED)
    os.utime(left, (0, 0))
    assert folders.list(7) == []
    assert not folders.exists(7, 1)
    folders.save(7, 1, write_weights)
    assert [path.name for path in project.iterdir()] == ["1"]


def test_a_draft_that_is_being_written_is_not_cleaned(folders: Folders) -> None:
    def write_while_another_saves(folder: Path) -> None:
        os.utime(folder, (0, 0))
        folders.save(7, 2, write_weights)
        assert folder.exists()
        write_weights(folder)

    folders.save(7, 1, write_while_another_saves)
    assert folders.list(7) == [1, 2]


def test_a_draft_that_is_not_locked_yet_is_not_cleaned(folders: Folders, tmp_path: Path) -> None:
    fresh = tmp_path / "versions" / "7" / f"{UNFINISHED}x"
    fresh.mkdir(parents=True)
    folders.save(7, 1, write_weights)
    assert fresh.exists()


def test_a_folder_that_cannot_be_looked_into_is_said(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(StorageError, match=f"{tmp_path}/versions/7 cannot be used .*Permission"):
        folders.save(7, 1, write_weights)


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
        (break_change, r"crack\.safetensors was changed: SHA-256 \w{64} was written, found \w{64}"),
        (break_link, r"crack\.safetensors was changed"),
        (lambda f: (f / "crack.safetensors").unlink(), r"crack\.safetensors is missing"),
        (lambda f: (f / "heads" / "head.json").write_text("{ }"), r"head\.json was changed"),
        (lambda f: (f / "extra.py").write_text("x"), r"extra\.py was added"),
        (lambda f: (f / "metadata.json").write_text("{}  "), r"metadata\.json was changed"),
        (lambda f: (f / "digests.json").unlink(), r"digests\.json is missing"),
        (lambda f: (f / "digests.json").write_text("{"), r"digests\.json was changed"),
        (lambda f: (f / "digests.json").write_text("[]"), r"digests\.json was changed"),
    ],
)
def test_a_damaged_version_is_refused_naming_the_file(
    folders: Folders, damage: Any, words: str
) -> None:
    damage(folders.save(7, 1, write_weights))
    with pytest.raises(CorruptVersion, match=words):
        folders.folder(7, 1)
    with pytest.raises(CorruptVersion):
        folders.metadata(7, 1)
    assert folders.exists(7, 1)


def test_a_place_without_the_projects_folder_says_nothing_of_its_versions(
    folders: Folders, tmp_path: Path
) -> None:
    """As when its disk is not mounted."""
    folders.save(7, 1, write_weights)
    (tmp_path / "versions").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"versions/7 is not there: is MODEL_DIR right, and"):
        folders.folder(7, 1)


def test_a_file_that_the_disk_refuses_says_nothing_of_the_version(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.save(7, 1, write_weights)

    def refuse(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(digests, "of_file", refuse)
    with pytest.raises(StorageError, match="Input/output error"):
        folders.folder(7, 1)


def test_a_save_that_is_repeated_after_the_disk_refused_its_last_step_succeeds(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = drafts.sync

    def refuse(path: Path) -> None:
        if path.name == "7":
            raise OSError(errno.EIO, "Input/output error")
        sync(path)

    with monkeypatch.context() as refusing, pytest.raises(StorageError):
        refusing.setattr(drafts, "sync", refuse)
        folders.save(7, 1, write_weights)
    assert folders.save(7, 1, write_weights) == folders.folder(7, 1)
    with pytest.raises(VersionExists):
        folders.save(7, 1, lambda folder: (folder / "crack.safetensors").touch())


def test_a_version_that_is_slimmed_while_it_is_verified_is_not_called_damaged(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.save(7, 1, write_weights)
    verify, slimmed = digests.verify, []

    def verify_late(folder: Path, expected: digests.Digests) -> None:
        if not slimmed:
            slimmed.append(folders.slim(7, 1, ["head.json"]))
        verify(folder, expected)

    monkeypatch.setattr(digests, "verify", verify_late)
    assert folders.folder(7, 1).is_dir()
    assert slimmed == [2]


def test_a_version_can_be_removed_where_nothing_can_be_written(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.save(7, 1, write_weights)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    monkeypatch.setattr("tempfile.mkdtemp", full)
    assert folders.remove(7, 1) > 2560
    assert folders.list(7) == []
