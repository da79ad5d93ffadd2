"""Folders that are being written: locked by their writer, renamed when whole, else removed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from backend.errors import StorageError
from backend.registry import digests

METADATA = "metadata.json"
OWN_FILES = (digests.DIGESTS, METADATA)  # ours; pipelines must not write them
UNFINISHED = ".unfinished-"
LOCKED_WITHIN_S = 10  # a new draft may not be locked yet
FULL = (errno.ENOSPC, errno.EDQUOT)

Write = Callable[[Path], None]


@contextlib.contextmanager
def empty(parent: Path) -> Iterator[Path]:
    """Give an empty folder that is locked while we live, and gone afterwards unless renamed.

    Raises StorageError for what the disk refuses. What dead writers have left is removed.
    """
    with usable(parent):
        parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(parent)
        draft = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
        held = os.open(draft, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield draft
        finally:
            os.close(held)
            shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def complete(parent: Path, write: Write, metadata: Mapping[str, Any] | None) -> Iterator[Path]:
    """Give a folder that `write` has filled, with metadata and digests, all of it on disk.

    Raises what `write` raises, for an OSError StorageError, and ValueError when it used a name of
    ours.
    """
    with empty(parent) as draft:
        write(draft)
        _refuse_own_names(draft)
        (draft / METADATA).write_text(json.dumps(dict(metadata or {}), indent=1))
        digests.write(draft, digests.of_folder(draft))
        for path in draft.rglob("*"):
            sync(path)
        sync(draft)
        yield draft


@contextlib.contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Say in words what the disk refuses: an OSError becomes a StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            free_mb = free_bytes(folder) / 1e6
            raise StorageError(
                f"no room for a version: {free_mb:.0f} MB are free at {folder}; free some, or run "
                "`labelclimb versions --project ID --prune`, then ask for the training again"
            ) from error
        raise StorageError(
            f"{folder} cannot be used ({type(error).__name__}: {error}); "
            "check the disk and its permissions"
        ) from error


def put_away(folder: Path) -> int:
    """Remove a folder that others may look at: all of it at once; returns the bytes freed.

    It needs no room on the disk.
    """
    freed = size_bytes(folder)
    gone = folder.parent / f"{UNFINISHED}{uuid.uuid4().hex}"
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)  # what stays is removed as a leftover
    return freed


def free_bytes(folder: Path) -> int:
    """Return the room on the disk of a folder that need not be there yet."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(there).free


def size_bytes(folder: Path) -> int:
    """Return the sum of the sizes of a folder's files."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def sync(path: Path) -> None:
    """Return when a file's content, or a folder's entries, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse_own_names(draft: Path) -> None:
    taken = [name for name in OWN_FILES if (draft / name).exists()]
    if taken:
        raise ValueError(f"a version's own files are called {', '.join(taken)}; choose other names")


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
