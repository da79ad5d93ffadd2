"""Versions in an object store (S3 and all that fsspec knows), with a bounded cache of folders.

    <root>/versions/<project>/<number>.json            the manifest: digests, and the key
    <root>/versions/<project>/<number>/<key>/<path>    the files

The manifest is written last, and only where there is none: a version without one does not exist,
and of two writers of the same number one is refused. Each writer has a key of its own, so the
other's files are never touched.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import fsspec

from backend.errors import LabelclimbError, SettingsError, StorageError
from backend.registry import digests, drafts, names
from backend.registry.cache import Cache

MANIFEST = ".json"
ABANDONED_AFTER = timedelta(days=1)  # files without a manifest: their writer died


@dataclass(frozen=True)
class _Manifest:
    key: str
    files: Mapping[str, str | None]

    def text(self) -> bytes:
        return json.dumps({"key": self.key, "digests": self.files}, indent=1).encode()


class Objects:
    """Versions below an fsspec address; its credentials are the store's own affair."""

    def __init__(self, address: str, *, cache: Path, cache_bytes: int) -> None:
        self._address = address
        self._cache = Cache(cache, cache_bytes)
        try:
            root = self._connect()[1].rstrip("/")
            if not root:
                raise ValueError("it names no bucket")
            self._root = f"{root}/versions"
        except (ValueError, ImportError) as error:
            raise SettingsError(
                f"MODEL_DIR={address!r} cannot be used ({error}); give a folder, or an address "
                "like s3://bucket/prefix with pip install 'labelclimb[s3]'"
            ) from error

    def save(
        self,
        project: int,
        number: int,
        write: drafts.Write,
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        """Have `write` fill a folder, upload it, and keep it in the cache."""
        with drafts.complete(self._cache.root, write, metadata) as draft:
            own = _Manifest(uuid.uuid4().hex, digests.of_folder(draft))
            if not self.exists(project, number):
                self._upload(draft, project, number, own)
            return self._cache.keep(draft, self._same(project, number, own).key)

    def folder(self, project: int, number: int) -> Path:
        """Return a verified folder, downloaded unless it is in the cache."""
        manifest = self._manifest(project, number)
        found = self._cache.get(manifest.key, manifest.files)
        return found or self._download(project, number, manifest)

    def require_room(self, project: int, like: int) -> None:
        """Return: an object store says nothing of its room."""

    def metadata(self, project: int, number: int) -> dict[str, Any]:
        """Return what was saved beside a version's weights, verified like them."""
        text = (self.folder(project, number) / drafts.METADATA).read_text()
        kept: dict[str, Any] = json.loads(text)
        return kept

    def exists(self, project: int, number: int) -> bool:
        """Say whether a version's manifest is there."""
        manifest = self._path(project, number) + MANIFEST
        with self._reached() as store:
            return bool(store.exists(manifest))

    def list(self, project: int) -> builtins.list[int]:
        """Return the numbers of a project's versions, ascending."""
        manifests = [path for path in self._entries(project) if path.endswith(MANIFEST)]
        stems = [path.removesuffix(MANIFEST).rpartition("/")[2] for path in manifests]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def remove(self, project: int, number: int) -> int:
        """Remove the manifest, then the files."""
        if not self.exists(project, number):
            return 0
        place = self._path(project, number)
        with self._reached() as store:
            store.rm_file(place + MANIFEST)
        return self._remove_below(place)

    def slim(self, project: int, number: int, unwanted: Iterable[str]) -> int:
        """Rewrite the manifest without these files, then remove them."""
        manifest = self._manifest(project, number)
        kept, gone = digests.slimmed(manifest.files, unwanted)
        if not gone:
            return 0
        place = self._path(project, number)
        with self._reached() as store:
            store.pipe_file(place + MANIFEST, _Manifest(manifest.key, kept).text())
        return sum(self._remove_below(f"{place}/{manifest.key}/{path}") for path in gone)

    def _upload(self, draft: Path, project: int, number: int, manifest: _Manifest) -> None:
        """Upload the files, then the manifest, unless there is one by then."""
        self._remove_abandoned(project)
        place = self._path(project, number)
        with contextlib.suppress(FileExistsError), self._reached() as store:
            for path in manifest.files:
                store.put_file(str(draft / path), f"{place}/{manifest.key}/{path}")
            store.pipe_file(place + MANIFEST, manifest.text(), mode="create")

    def _same(self, project: int, number: int, own: _Manifest) -> _Manifest:
        """Return the manifest that is there; raises VersionExists unless it has the very files.

        It may be that of an earlier try whose answer was lost on the way: what was uploaded since
        goes.
        """
        found = self._manifest(project, number)
        if found.key != own.key:
            self._remove_below(f"{self._path(project, number)}/{own.key}")
        if found.files != own.files:
            raise names.taken(project, number)
        return found

    def _download(self, project: int, number: int, manifest: _Manifest) -> Path:
        source = f"{self._path(project, number)}/{manifest.key}"
        with drafts.empty(self._cache.root) as draft:
            for path, expected in manifest.files.items():
                if expected is not None:
                    self._fetch(f"{source}/{path}", draft / path, expected)
            return self._cache.keep(draft, manifest.key)

    def _fetch(self, source: str, target: Path, expected: str) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError), self._reached() as store:
            store.get_file(source, str(target))
        digests.verify_file(target, expected, shown=f"{self._address}: {source}")

    def _manifest(self, project: int, number: int) -> _Manifest:
        path = self._path(project, number) + MANIFEST
        try:
            with self._reached() as store:
                text = store.cat_file(path).decode(errors="replace")
        except FileNotFoundError:
            raise self._missing(project, number) from None
        try:
            found = json.loads(text)
            return _Manifest(str(found["key"]), dict(found["digests"]))
        except (ValueError, KeyError, TypeError) as error:
            raise digests.corrupt(path, f"was changed ({error!r})") from error

    def _missing(self, project: int, number: int) -> LabelclimbError:
        """Return the error for a version without a manifest; that of a wrong address says so."""
        place = f"{self._root}/{names.part(project)}"
        with self._reached() as store:
            is_there = bool(store.exists(place))
        if is_there:
            return names.unknown(project, number, self.list(project))
        return names.no_place(f"{self._address}: {place}")

    def _entries(self, project: int) -> builtins.list[str]:
        """Return the paths of a project's manifests, and of the folders beside them."""
        place = f"{self._root}/{names.part(project)}"
        with contextlib.suppress(FileNotFoundError), self._reached() as store:
            return [str(path).rstrip("/") for path in store.ls(place, detail=False)]
        return []

    def _remove_abandoned(self, project: int) -> None:
        """Remove the files of versions whose writer died before the manifest."""
        entries = self._entries(project)
        long_ago = datetime.now(timezone.utc) - ABANDONED_AFTER
        for path in entries:
            is_unfinished = not path.endswith(MANIFEST) and path + MANIFEST not in entries
            if is_unfinished and self._newest(path) < long_ago:
                self._remove_below(path)

    def _newest(self, folder: str) -> datetime:
        """Return when the latest file below was written; now if there is none, or not any more."""
        with contextlib.suppress(FileNotFoundError), self._reached() as store:
            written: builtins.list[datetime] = [store.modified(path) for path in store.find(folder)]
            return max(written, default=datetime.now(timezone.utc))
        return datetime.now(timezone.utc)

    def _remove_below(self, place: str) -> int:
        """Remove an object, or all below a prefix; returns the bytes freed."""
        with contextlib.suppress(FileNotFoundError), self._reached() as store:
            found = store.find(place, detail=True)
            for path in found:
                store.rm_file(path)
            return sum(int(about["size"]) for about in found.values())
        return 0

    def _path(self, project: int, number: int) -> str:
        return f"{self._root}/{names.part(project)}/{names.part(number)}"

    def _connect(self) -> tuple[Any, str]:
        """Return fsspec's file system, made anew in a forked process, and the root's path in it."""
        store, root = fsspec.core.url_to_fs(self._address, use_listings_cache=False)
        return store, str(root)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[Any]:
        """Give the store; what its driver raises becomes a StorageError, but missing or taken."""
        try:
            yield self._connect()[0]
        except Exception as error:
            is_full = isinstance(error, OSError) and error.errno in drafts.FULL
            if is_full or isinstance(error, FileNotFoundError | FileExistsError):
                raise
            raise StorageError(
                f"{self._address} cannot be used ({type(error).__name__}: {error}); "
                "check MODEL_DIR, the store's credentials and the network"
            ) from error
