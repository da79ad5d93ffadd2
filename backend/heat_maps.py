"""Score maps of images that a version has seen: clicks are answered from them, without a network.

Files in a bounded folder, the last few also in memory. Nothing depends on them: what is missing or
damaged is computed anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import structlog

from backend import bounded_folder
from models.base import ClassSpec
from models.prompting.score_map import ScoreMap, Seen

RESIDENT_BYTES = 128 * 1024 * 1024  # about 60 images of 640 x 640 px with two classes
SCANS_PER_ROOM = 50  # the folder is counted each time that this part of its room was written
JPEG_QUALITY = 92  # of the smoothed picture
DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    AttributeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    cv2.error,
)

log = structlog.get_logger(__name__)


class HeatMaps:
    """What versions saw on images, by `key`; safe to share by threads and processes.

    max_bytes: room in the folder, exceeded by a fiftieth at most per process that writes.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int, resident_bytes: int = RESIDENT_BYTES
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._resident_bytes = resident_bytes
        self._lock = threading.Lock()
        self._resident: OrderedDict[str, Seen] = OrderedDict()
        self._written = 0  # since the folder was last counted

    def get(self, key: str) -> Seen | None:
        """Return what was kept, None when it is missing or damaged."""
        with self._lock:
            if key in self._resident:
                self._resident.move_to_end(key)
                return self._resident[key]
        seen = self._read(key)
        if seen is not None:
            self._hold(key, seen)
        return seen

    def keep(self, key: str, seen: Seen) -> None:
        """Keep what a version saw; a folder that cannot be written costs time, not answers."""
        try:
            size = self._write(self._file(key), seen)
        except OSError as error:
            log.warning("heat maps cannot be kept", folder=str(self._folder), reason=str(error))
            return
        with self._lock:
            self._written += size
            is_due = self._written * SCANS_PER_ROOM >= self._max_bytes
            self._written = 0 if is_due else self._written
        if is_due:
            bounded_folder.evict(self._folder, self._max_bytes, lambda at: at.st_mtime_ns)

    def _read(self, key: str) -> Seen | None:
        file = self._file(key)
        try:
            with file.open("rb") as opened:
                seen = _decode(opened)
            os.utime(file)  # the folder forgets what was not used for longest
        except FileNotFoundError:
            return None
        except DAMAGED as error:
            log.warning("a damaged heat map is dropped", file=file.name, reason=str(error))
            with suppress(OSError):
                file.unlink(missing_ok=True)
            return None
        return seen

    def _hold(self, key: str, seen: Seen) -> None:
        with self._lock:
            self._resident[key] = seen
            self._resident.move_to_end(key)
            while sum(one.nbytes for one in self._resident.values()) > self._resident_bytes:
                self._resident.popitem(last=False)

    def _write(self, file: Path, seen: Seen) -> int:
        with bounded_folder.whole(file) as new:
            _encode(new, seen)
            return new.tell()

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.npz"


def key(project: int, number: int, image: str, specs: Sequence[ClassSpec]) -> str:
    """Name what version `number` of a project sees on an image (its URI) under these settings."""
    return hashlib.sha256(
        repr((project, number, image, tuple(specs))).encode("utf-8", "surrogatepass")
    ).hexdigest()


def _encode(file: IO[bytes], seen: Seen) -> None:
    """Write names and numbers as JSON, the picture as a JPEG, the levels as they are, zipped."""
    rgb = cv2.cvtColor(seen.picture, cv2.COLOR_LAB2BGR)
    _, picture = cv2.imencode(".jpg", rgb, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    about = {name: (one.cut, one.closing_px, one.gap_px) for name, one in seen.maps.items()}
    text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    levels = [one.levels for one in seen.maps.values()]
    np.savez_compressed(file, *levels, about=text, picture=picture)


def _decode(file: IO[bytes]) -> Seen:
    """Read what `_encode` wrote; raises one of DAMAGED."""
    with np.load(file, allow_pickle=False) as held:
        about = json.loads(held["about"].tobytes())
        bgr = cv2.imdecode(held["picture"], cv2.IMREAD_COLOR)
        if bgr is None:
            raise ValueError("its picture is no JPEG")
        levels = [held[f"arr_{n}"] for n in range(len(about))]
    picture = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2LAB), dtype=np.uint8)
    if any(one.dtype != np.uint8 or one.shape != picture.shape[:2] for one in levels):
        raise ValueError("its arrays are not of one size")
    pairs = zip(about.items(), levels, strict=True)
    return Seen(picture, {name: ScoreMap(one, *numbers) for (name, numbers), one in pairs})
