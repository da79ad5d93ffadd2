"""The one safe door to images: fetch by any URI that Label Studio knows, check, decode, cache."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import struct
import tempfile
import warnings
import zlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from backend.errors import ImageError, LabelStudioDown, LabelStudioError
from backend.labelstudio.client import LabelStudio
from backend.labelstudio.session import same_origin
from models.base import Image

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM")  # no others: some start programs
SERVED_PATHS = ("/data/", "/tasks/")  # nothing else of Label Studio is asked with our token
LOCAL_FILES = "/data/local-files/"
NO_STORAGE = "; does a Local Files storage of a project cover its folder?"
CLOUD = re.compile(r"(s3|s3s|gs|azure-blob|azure_blob|azure-spi|dbfs)://")
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ZeroDivisionError,
    OverflowError,
    struct.error,
    zlib.error,
    Pillow.DecompressionBombError,
)


NOT_ALLOWED = (401, 403)


class ImageStore:
    """Images by URI, decoded the same way always, with a bounded cache of their files.

    allowed_hosts: hosts beside Label Studio's from which images may come.
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
    ) -> None:
        self._client = client
        self._cache_dir = cache_dir
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._allowed_hosts = tuple(allowed_hosts)
        self._max_cache_bytes = max_cache_bytes

    def load(self, uri: str, task_id: int) -> Image:
        """Return the upright image, (H, W, 3) uint8 RGB; raises ImageError with the reason, and
        LabelStudioError when Label Studio is down or refuses our key: that says nothing of it.

        task_id: Label Studio resolves cloud addresses by the task that holds them.
        """
        cached = self._cached(uri)
        data = cached if cached is not None else self._fetch(uri, task_id)
        try:
            image = decode(data, max_pixels=self._max_pixels)
        except ImageError:
            self._file(uri).unlink(missing_ok=True)
            raise
        if cached is None:
            self._keep(uri, data)
        return image

    def _fetch(self, uri: str, task_id: int) -> bytes:
        try:
            location = _location(uri, task_id, self._client.url)
            return self._client.download(
                location, max_bytes=self._max_bytes, allowed_hosts=self._allowed_hosts
            )
        except LabelStudioError as error:
            if isinstance(error, LabelStudioDown) or error.status in NOT_ALLOWED:
                raise  # nothing is wrong with the image
            hint = NO_STORAGE if error.status == 404 and LOCAL_FILES in uri else ""
            raise ImageError(f"cannot fetch the image of task {task_id}: {error}{hint}") from error

    def _file(self, uri: str) -> Path:
        name = hashlib.sha256(f"{self._client.url}\n{uri}".encode()).hexdigest()
        return self._cache_dir / f"{name}.image"

    def _cached(self, uri: str) -> bytes | None:
        file = self._file(uri)
        try:
            data = file.read_bytes()
            os.utime(file)  # the cache forgets what was not used for longest
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ImageError(f"the image cache cannot be read: {error}") from error
        return data

    def _keep(self, uri: str, data: bytes) -> None:
        if len(data) > self._max_cache_bytes:
            return
        try:
            self._cache_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._cache_dir, delete=False) as new:
                new.write(data)
            with suppress(FileNotFoundError):  # evicted already by others: the cache is full
                Path(new.name).replace(self._file(uri))
            self._evict()
        except OSError as error:
            raise ImageError(f"the image cache cannot be written: {error}") from error

    def _evict(self) -> None:
        """Remove the longest unused files until the cache is within its limit.

        Other processes do the same at the same time: a file that is gone was their pick.
        """
        found = []
        for file in self._cache_dir.iterdir():
            try:
                status = file.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime_ns, status.st_size, file))
        total = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if total <= self._max_cache_bytes:
                return
            file.unlink(missing_ok=True)
            total -= size


def decode(data: bytes, *, max_pixels: int) -> Image:
    """Return an image file's pixels, upright, (H, W, 3) uint8 RGB; raises ImageError.

    16-bit grey is divided by 257, transparency is laid on white, of several frames the first
    counts. The pixel limit is checked before decoding.
    """
    try:
        with warnings.catch_warnings():
            # our own limit is checked below; Pillow's warning would come first
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
            Pillow.init()
            opened = Pillow.open(io.BytesIO(data), formats=FORMATS)
        with opened:
            _check_size(opened, max_pixels)
            return _to_rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        raise ImageError(
            f"cannot decode image: the {len(data)} bytes are none of {', '.join(FORMATS)}"
        ) from error
    except DAMAGED as error:
        raise ImageError(f"cannot decode image: {type(error).__name__}: {error}") from error


def _check_size(image: Pillow.Image, max_pixels: int) -> None:
    width_px, height_px = image.size
    if width_px < 1 or height_px < 1 or width_px * height_px > max_pixels:
        raise ImageError(
            f"the image has {width_px} x {height_px} px; from 1 to {max_pixels} px are decoded "
            "(MAX_IMAGE_PIXELS)"
        )


def _to_rgb(image: Pillow.Image) -> Image:
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        return np.repeat(np.round(grey / 257).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ImageError("the image has floating-point pixels; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Pillow.new("RGBA", image.size, "white")
        image = Pillow.alpha_composite(white, image)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _location(uri: str, task_id: int, server: str) -> str:
    """Return what to ask for: a path of Label Studio, or an address elsewhere.

    Raises ImageError for what is never fetched, as paths of Label Studio's API.
    """
    if CLOUD.match(uri):
        encoded = base64.urlsafe_b64encode(uri.encode()).decode()
        return f"/tasks/{task_id}/presign/?fileuri={encoded}"
    path = uri
    if uri.startswith(("http://", "https://")):
        if not same_origin(uri, server):
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
    """Whether a path leaves its folder: "/data/../api" would reach anything with our token."""
    parts = urlsplit(unquote(unquote(path))).path.replace("\\", "/").split("/")
    return ".." in parts or "." in parts
