"""Trained versions on disk: written under a temporary name, renamed, never changed afterwards."""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from backend.errors import CorruptVersion, UnknownThing, VersionExists

DIGESTS = "digests.json"
METADATA = "metadata.json"
OWN_FILES = (DIGESTS, METADATA)  # ours; pipelines must not write them
UNFINISHED = ".unfinished-"
LOCKED_WITHIN_S = 10  # a new draft may not be locked yet


class Registry:
    """The folders root/versions/<project>/<number>/, each with the digests of its files."""

    def __init__(self, root: Path) -> None:
        self._root = Path(root) / "versions"

    def save(
        self,
        project: int,
        number: int,
        write: Callable[[Path], None],
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        """Have `write` fill an empty folder, then make it the version, complete or not at all.

        Raises VersionExists, and whatever `write` raises. Returns the version's folder.
        """
        final = self._path(project, number)
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(final.parent)
        if final.exists():
            raise _taken(project, number)
        with _draft(final.parent) as draft:
            write(draft)
            _refuse_own_names(draft)
            (draft / METADATA).write_text(json.dumps(dict(metadata or {}), indent=1))
            (draft / DIGESTS).write_text(json.dumps(_digests(draft), indent=1))
            _sync_tree(draft)
            try:
                draft.rename(final)
            except OSError as error:
                if final.exists():
                    raise _taken(project, number) from error
                raise
            _sync(final.parent)
        return final

    def folder(self, project: int, number: int) -> Path:
        """Return a version's folder, verified; raises UnknownThing, or CorruptVersion."""
        folder = self._path(project, number)
        if not folder.is_dir():
            raise UnknownThing(
                f"no files of version v{number} of project {project}; "
                f"there are {self.list(project) or 'none'}"
            )
        _verify(folder)
        return folder

    def metadata(self, project: int, number: int) -> dict[str, Any]:
        """Return what was saved beside a version's weights, verified like them."""
        kept: dict[str, Any] = json.loads((self.folder(project, number) / METADATA).read_text())
        return kept

    def exists(self, project: int, number: int) -> bool:
        """Say whether a version is there, damaged or not."""
        return self._path(project, number).is_dir()

    def list(self, project: int) -> builtins.list[int]:
        """Return the numbers of a project's versions, ascending."""
        folder = self._path(project, 0).parent
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return sorted(int(name) for name in names if name.isdecimal())

    def _path(self, project: int, number: int) -> Path:
        """Return the folder of a version; numbers only, so that no path leaves the root."""
        for value in (project, number):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{value!r} is not the number of a project or version")
        return self._root / str(project) / str(number)


def _refuse_own_names(draft: Path) -> None:
    taken = [name for name in OWN_FILES if (draft / name).exists()]
    if taken:
        raise ValueError(f"a version's own files are called {', '.join(taken)}; choose other names")


def _taken(project: int, number: int) -> VersionExists:
    return VersionExists(
        f"version v{number} of project {project} exists and is never changed; take the next number"
    )


@contextlib.contextmanager
def _draft(parent: Path) -> Iterator[Path]:
    """Give an empty folder that is locked while we live, and gone afterwards unless renamed."""
    draft = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
    held = os.open(draft, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield draft
    finally:
        os.close(held)
        shutil.rmtree(draft, ignore_errors=True)


def _remove_leftovers(parent: Path) -> None:
    """Remove drafts whose writer is dead: nobody holds their lock any more, or not just yet."""
    for draft in parent.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            if time.time() - draft.stat().st_mtime < LOCKED_WITHIN_S:
                continue
            held = os.open(draft, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(draft)
            finally:
                os.close(held)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if not p.is_dir() and p != folder / DIGESTS)


def _digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): _digest(path) for path in _files(folder)}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _verify(folder: Path) -> None:
    """Compare all files with their digests; raises CorruptVersion naming the first wrong one."""
    expected = _expected(folder / DIGESTS)
    present = {str(path.relative_to(folder)) for path in _files(folder)}
    for name in sorted(expected.keys() | present):
        if name not in expected:
            raise _corrupt(folder / name, "was added")
        if name not in present:
            raise _corrupt(folder / name, "is missing")
        if (folder / name).is_symlink() or _digest(folder / name) != expected[name]:
            raise _corrupt(folder / name, "was changed")


def _expected(path: Path) -> dict[str, str]:
    try:
        digests: dict[str, str] = json.loads(path.read_text())
    except FileNotFoundError:
        raise _corrupt(path, "is missing") from None
    except ValueError:
        raise _corrupt(path, "was changed") from None
    return digests


def _corrupt(path: Path, what: str) -> CorruptVersion:
    return CorruptVersion(
        f"{path} {what} since the version was written; restore it from a backup, "
        "or activate another version"
    )


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
