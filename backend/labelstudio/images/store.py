"""The one safe door to images: fetch by any URI that Label Studio knows, check, decode, cache."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Collection
from pathlib import Path
from urllib.parse import unquote, urlsplit

import structlog

from backend.errors import ImageError, LabelStudioDown, LabelStudioError
from backend.labelstudio.client import LabelStudio
from backend.labelstudio.images import hosts
from backend.labelstudio.images.cache import Entry, ImageCache
from backend.labelstudio.images.decoding import decode
from backend.labelstudio.images.downloads import Download, Limits
from models.base import Image

SERVED_PATHS = ("/data/", "/tasks/")  # nothing else of Label Studio is asked with our token
LOCAL_FILES = "/data/local-files/"
NO_STORAGE = "; does a Local Files storage of a project cover its folder?"
NOT_SERVED = "; start Label Studio with LOCAL_FILES_SERVING_ENABLED=true"
CLOUD = re.compile(r"(s3|s3s|gs|azure-blob|azure_blob|azure-spi|dbfs)://")
NOT_ALLOWED = (401, 403)
CURRENT_S = 600.0  # a kept file whose server gave it a tag is asked after again this much later
MAX_DECODINGS = 8  # of one path: no browser encodes a path more than once or twice

log = structlog.get_logger(__name__)


class ImageStore:
    """Images by URI, decoded the same way always, with a bounded cache of their files.

    allowed_hosts: hosts beside Label Studio's from which images may come, see `hosts`.
    max_pixels: checked in the header, before anything is decoded.
    """

    def __init__(
        self,
        client: LabelStudio,
        cache_dir: Path,
        *,
        max_bytes: int,
        max_pixels: int,
        allowed_hosts: Collection[str] = (),
        max_cache_bytes: int,
        resolve: hosts.Resolve = hosts.addresses,
    ) -> None:
        self._client = client
        self._cache = ImageCache(cache_dir, max_cache_bytes)
        self._limits = Limits(max_bytes, tuple(allowed_hosts), resolve)
        self._max_pixels = max_pixels

    def load(self, uri: str, task_id: int) -> Image:
        """Return the upright image, (H, W, 3) uint8 RGB; raises ImageError with the reason, and
        LabelStudioError when Label Studio is down or refuses our key: that says nothing of it.

        task_id: Label Studio resolves cloud addresses by the task that holds them.
        """
        address = f"{self._client.url}\n{uri}"
        kept = self._cache.get(address)
        if kept is not None and not _is_due(kept):
            return self._decoded(address, kept.download)
        try:
            found = self._fetch(uri, task_id, kept)
        except LabelStudioDown as error:
            if kept is None:
                raise
            log.warning("image served from the cache, unchecked", reason=str(error))
            return self._decoded(address, kept.download)
        if found is None:
            return self._decoded(address, self._confirmed(address, kept))
        image = self._decoded(address, found)
        self._cache.put(address, found)
        return image

    def _decoded(self, address: str, download: Download) -> Image:
        try:
            return decode(download.data, max_pixels=self._max_pixels)
        except ImageError:
            self._cache.forget(address)
            raise

    def _confirmed(self, address: str, kept: Entry | None) -> Download:
        if kept is None:
            raise ImageError("Label Studio says that the image is unchanged, but none is kept here")
        self._cache.confirm(address)
        return kept.download

    def _fetch(self, uri: str, task_id: int, kept: Entry | None) -> Download | None:
        """Return the file, None when the kept one is current; raises as `load`."""
        etag = None if kept is None else kept.download.etag
        try:
            location = _location(uri, task_id, self._client.url)
            return self._client.download(location, self._limits, etag=etag)
        except LabelStudioError as error:
            if isinstance(error, LabelStudioDown):
                raise
            if error.status in NOT_ALLOWED:  # nothing is wrong with the image
                hint = NOT_SERVED if error.status == 403 and LOCAL_FILES in uri else ""
                raise LabelStudioError(f"{error}{hint}", error.status) from error
            hint = NO_STORAGE if error.status == 404 and LOCAL_FILES in uri else ""
            raise ImageError(f"cannot fetch the image of task {task_id}: {error}{hint}") from error


def _is_due(kept: Entry) -> bool:
    """Say whether to ask if a kept file changed; uploads never do, and have no tag."""
    return kept.download.etag is not None and time.time() - kept.checked_s > CURRENT_S


def _location(uri: str, task_id: int, server: str) -> str:
    """Return what to ask for: a path of Label Studio, or an address elsewhere.

    Raises ImageError for what is never fetched, as paths of Label Studio's API.
    """
    if CLOUD.match(uri):
        encoded = base64.urlsafe_b64encode(uri.encode(errors="replace")).decode()
        return f"/tasks/{task_id}/presign/?fileuri={encoded}"
    path = uri
    if uri.startswith(("http://", "https://")):
        if not hosts.same_origin(uri, server):
            return uri
        path = "/" + uri.split("://", 1)[1].partition("/")[2]
    path = path.removeprefix(urlsplit(server).path)
    if path.startswith(SERVED_PATHS) and not _climbs(path):
        return path
    raise ImageError(
        f"task {task_id} has the image {uri[:100]!r}, which is not fetched; supported are uploads, "
        "local files and cloud storage of Label Studio, and http(s) addresses"
    )


def _climbs(path: str) -> bool:
    """Whether a path leaves its folder, also in its `?d=` and however often it is encoded.

    "/data/../api" would reach anything with our token, and no real address holds such a part.
    """
    for _ in range(MAX_DECODINGS):
        parts = re.split(r"[/\\?=&;#]", path)
        if {".", ".."} & set(parts) or "\0" in path:
            return True
        decoded = unquote(path)
        if decoded == path:
            return False
        path = decoded
    return True
