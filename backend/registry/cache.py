"""Folders of versions that live in an object store, kept on this machine to be read."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

from backend.errors import CorruptVersion
from backend.registry import digests, drafts

IN_USE_S = 60.0  # whoever was given a folder reads it within that time


class Cache:
    """Folders by key, the longest unused of which go when there are more bytes than allowed."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root = root
        self._limit_bytes = limit_bytes

    def get(self, key: str, expected: Mapping[str, str | None]) -> Path | None:
        """Return a whole folder, noting that it was used; one that is not, or unreadable, goes."""
        folder = self.root / key
        if not folder.is_dir():
            return None
        try:
            digests.verify(folder, expected)
            os.utime(folder)
        except (CorruptVersion, OSError):  # what the object store holds is the truth
            drafts.put_away(folder)
            return None
        return folder

    def keep(self, draft: Path, key: str) -> Path:
        """Rename a finished folder; one that another process made meanwhile is as good."""
        folder = self.root / key
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
        os.utime(folder)
        self._shrink()
        return folder

    def _shrink(self) -> None:
        kept = 0
        for used_at, folder in sorted(self._folders(), reverse=True):
            with contextlib.suppress(FileNotFoundError):  # another process shrinks as well
                kept += drafts.size_bytes(folder)
                if kept > self._limit_bytes and time.time() - used_at > IN_USE_S:
                    kept -= drafts.put_away(folder)

    def _folders(self) -> list[tuple[float, Path]]:
        found = []
        for folder in self.root.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if not folder.name.startswith(drafts.UNFINISHED):
                    found.append((folder.stat().st_mtime, folder))
        return found
