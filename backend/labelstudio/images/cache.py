"""Downloaded image files on disk: whole or not at all, bounded, checked when they are read."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from backend import bounded_folder
from backend.labelstudio.images.downloads import Download

SUFFIX = ".image"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Entry:
    """A file as it was downloaded; checked_s: when its server last said that it is current."""

    download: Download
    checked_s: float


class ImageCache:
    """Files by address, in one folder that processes share; the longest unused go first.

    A cache that cannot be read or written is reported and does without: no image is worse for it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def get(self, address: str) -> Entry | None:
        """Return what is kept of an address; None for nothing, or for a file that was damaged."""
        file = self._file(address)
        try:
            stored, checked_s = file.read_bytes(), file.stat().st_mtime
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("image cache not readable", file=str(file), reason=str(error))
            return None
        download = _unpacked(stored)
        if download is None:
            log.warning("damaged file in the image cache; it is fetched anew", file=str(file))
            file.unlink(missing_ok=True)
            return None
        self._touch(file, checked_s)
        return Entry(download, checked_s)

    def put(self, address: str, download: Download) -> None:
        """Keep a file; it appears under its name when it is whole."""
        stored = _packed(download)
        if len(stored) > self._max_bytes:
            return
        try:
            with bounded_folder.whole(self._file(address)) as new:
                new.write(stored)
            bounded_folder.evict(self._folder, self._max_bytes, lambda at: at.st_atime_ns)
        except OSError as error:
            log.warning("image cache not writable", folder=str(self._folder), reason=str(error))

    def confirm(self, address: str) -> None:
        """Note that an address's server said just now that its file is current."""
        self._touch(self._file(address), time.time())

    def forget(self, address: str) -> None:
        """Drop what is kept of an address."""
        self._file(address).unlink(missing_ok=True)

    def _file(self, address: str) -> Path:
        # a lone surrogate can stand in JSON, not in UTF-8
        name = hashlib.sha256(address.encode(errors="surrogatepass")).hexdigest()
        return self._folder / f"{name}{SUFFIX}"

    def _touch(self, file: Path, checked_s: float) -> None:
        """Keep two moments with the file: last access for eviction, last check."""
        with suppress(OSError):  # evicted by others meanwhile
            os.utime(file, (time.time(), checked_s))


def _packed(download: Download) -> bytes:
    """Return a line with digest and tag, then the bytes."""
    head = {"sha256": hashlib.sha256(download.data).hexdigest(), "etag": download.etag}
    return json.dumps(head).encode() + b"\n" + download.data


def _unpacked(stored: bytes) -> Download | None:
    """Return what `_packed` made, None when not all of it is there unchanged."""
    head, _, data = stored.partition(b"\n")
    try:
        known = json.loads(head)
    except ValueError:
        return None
    if not isinstance(known, dict) or known.get("sha256") != hashlib.sha256(data).hexdigest():
        return None
    return Download(data, known.get("etag"))
