"""What every place of versions can do, and the one that an address names."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from backend.registry.drafts import Write
from backend.registry.folders import Folders


class Registry(Protocol):
    """Versions by (project, number), each a folder of files that are never changed."""

    def save(
        self, project: int, number: int, write: Write, metadata: Mapping[str, Any] | None = None
    ) -> Path:
        """Have `write` fill an empty folder and keep it, complete or not at all.

        Returns the version's folder. Raises VersionExists, StorageError when the place is full,
        refuses or cannot be reached, and whatever else `write` raises.
        """
        ...

    def folder(self, project: int, number: int) -> Path:
        """Return a version's folder, verified; raises UnknownThing, or CorruptVersion.

        StorageError when the place cannot be read, or holds nothing of the project at all: that
        says nothing of the version.
        """
        ...

    def require_room(self, project: int, like: int) -> None:
        """Raise StorageError if the disk has no room for a version made from version `like`.

        It may hold all of that one's parts beside its own, so that is twice its size. An object
        store says nothing of its room.
        """
        ...

    def metadata(self, project: int, number: int) -> dict[str, Any]:
        """Return what was saved beside a version's weights, verified like them."""
        ...

    def exists(self, project: int, number: int) -> bool:
        """Say whether a version is there, damaged or not."""
        ...

    def list(self, project: int) -> builtins.list[int]:
        """Return the numbers of a project's versions, ascending."""
        ...

    def remove(self, project: int, number: int) -> int:
        """Remove a version, all of it at once; returns the bytes freed, 0 when it is gone."""
        ...

    def slim(self, project: int, number: int, unwanted: Iterable[str]) -> int:
        """Remove the files of these names from a version; returns the bytes freed."""
        ...


def at(address: Path | str, *, cache: Path, cache_bytes: int) -> Registry:
    """Return the versions at a folder, or at an object store by its fsspec address.

    cache, cache_bytes: where versions of an object store are kept to be read, and how many bytes.
    Raises SettingsError for an address that nothing here can open.
    """
    parts = urlsplit(str(address))
    if "://" not in str(address):
        return Folders(Path(address))
    if parts.scheme == "file":
        return Folders(Path(unquote(parts.path)))
    from backend.registry.objects import Objects

    return Objects(str(address), cache=cache, cache_bytes=cache_bytes)
