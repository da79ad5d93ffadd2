"""Versions in folders of this machine or of a shared file system."""

from __future__ import annotations

import builtins
import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from backend.errors import CorruptVersion, StorageError
from backend.registry import digests, drafts, names


class Folders:
    """The folders root/versions/<project>/<number>/, each with the digests of its files."""

    def __init__(self, root: Path) -> None:
        self._root = Path(root) / "versions"

    def save(
        self,
        project: int,
        number: int,
        write: drafts.Write,
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        """Have `write` fill an empty folder, then make it the version."""
        final = self._path(project, number)
        with drafts.complete(final.parent, write, metadata) as draft:
            try:
                draft.rename(final)
            except OSError:
                if not final.exists():
                    raise
                if not _is_same(final, draft):
                    raise names.taken(project, number) from None
            drafts.sync(final.parent)
        return final

    def folder(self, project: int, number: int) -> Path:
        """Return a version's folder, verified."""
        folder = self._path(project, number)
        with drafts.usable(folder):
            if not folder.parent.is_dir():
                raise names.no_place(folder.parent)
            if not folder.is_dir():
                raise names.unknown(project, number, self.list(project))
            _verify(folder)
        return folder

    def require_room(self, project: int, like: int) -> None:
        """Raise StorageError if the disk has no room for a version twice as large as another."""
        folder = self._path(project, like)
        with drafts.usable(folder):
            needed, free = 2 * drafts.size_bytes(folder), drafts.free_bytes(folder)
        if free < needed:
            raise StorageError(
                f"no room for a version: it may need {needed / 1e6:.1f} MB (twice v{like}'s "
                f"size), and {free / 1e6:.1f} MB are free at {folder.parent}; free some, run "
                f"`labelclimb versions --project {project} --prune --keep 2`, or move MODEL_DIR to "
                "a larger disk"
            )

    def metadata(self, project: int, number: int) -> dict[str, Any]:
        """Return what was saved beside a version's weights, verified like them."""
        text = (self.folder(project, number) / drafts.METADATA).read_text()
        kept: dict[str, Any] = json.loads(text)
        return kept

    def exists(self, project: int, number: int) -> bool:
        """Say whether a version is there, damaged or not."""
        folder = self._path(project, number)
        with drafts.usable(folder.parent):
            return folder.is_dir()

    def list(self, project: int) -> builtins.list[int]:
        """Return the numbers of a project's versions, ascending."""
        folder = self._path(project, 0).parent
        found = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return sorted(int(name) for name in found if name.isdecimal())

    def remove(self, project: int, number: int) -> int:
        """Remove a version, all of it at once; returns the bytes freed, 0 when it is gone."""
        folder = self._path(project, number)
        return drafts.put_away(folder) if folder.is_dir() else 0

    def slim(self, project: int, number: int, unwanted: Iterable[str]) -> int:
        """Remove the files of these names from a version; returns the bytes freed."""
        folder = self._path(project, number)
        kept, gone = digests.slimmed(digests.read(folder), unwanted)
        if not gone:
            return 0
        with drafts.empty(folder.parent) as draft:
            digests.write(draft, kept)
            drafts.sync(draft / digests.DIGESTS)
            (draft / digests.DIGESTS).replace(folder / digests.DIGESTS)
        return sum(_unlinked(folder / path) for path in gone)

    def _path(self, project: int, number: int) -> Path:
        return self._root / names.part(project) / names.part(number)


def _is_same(version: Path, draft: Path) -> bool:
    """Say whether a version has the very files of a draft: then an earlier try did not fail."""
    with contextlib.suppress(CorruptVersion):
        return digests.read(version) == digests.of_folder(draft)
    return False


def _verify(folder: Path) -> None:
    """Raise CorruptVersion unless a folder holds what its digests say, slimmed meanwhile or not."""
    expected = digests.read(folder)
    try:
        digests.verify(folder, expected)
    except CorruptVersion:
        slimmed_meanwhile = digests.read(folder)
        if slimmed_meanwhile == expected:
            raise
        digests.verify(folder, slimmed_meanwhile)


def _unlinked(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # let go before
        freed = path.lstat().st_size
        path.unlink()
        return freed
    return 0
